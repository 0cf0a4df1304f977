//! What a script is told of a batch or a step.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use axum_taskflow_core::{BackendError, Change, Life, Task};
use redis::Value;
use tokio::time::Instant;

use crate::{
    link::{Link, Script},
    record,
};

/// A list with up to 2^32 - 1 words, whose number follows.
const LIST: u8 = 0xdd;
const LIST_HEAD: usize = 5;
/// More words than these stand in a list: Lua's stack takes 8,000 values. Without one they cost the server less.
const LOOSE_MAX: usize = 4_000;

/// What each new task beyond these adds to the deadline: all of a bulk are there or none, so they come as one call. It
/// takes a third to two thirds of this; the rest is for the link, and for a server that is slower.
const BULK: usize = 1_000;
const TIME_PER_TASK: Duration = Duration::from_micros(100);

/// At most so many bytes in one argument: a server refuses larger ones than its `proto-max-bulk-len`, which is 1 MiB at
/// least, and ends the connection with that.
pub(crate) const PART_BYTES: usize = 512 * 1024;

/// The longest time that a bulk of the engine's may take beside any other call's.
pub(crate) const BULK_TIME_MAX: Duration = Duration::from_secs(10);

/// What a script is told: words in MessagePack
/// ([specification](https://github.com/msgpack/msgpack/blob/master/spec.md)). `lua/words.lua` says of what.
pub(crate) struct Words<'a> {
    /// What all keys begin with.
    pub(crate) prefix: &'a str,
    /// Behind the room for the head of a list.
    packed: Vec<u8>,
    n_words: usize,
    /// For one word at a time.
    scratch: String,
}

impl<'a> Words<'a> {
    pub(crate) fn new(link: &'a Link) -> Self {
        Self {
            prefix: link.prefix(),
            packed: vec![LIST; LIST_HEAD],
            n_words: 0,
            scratch: String::new(),
        }
    }

    /// So many words follow that belong together, or blocks or moves.
    pub(crate) fn count(&mut self, n: usize) -> &mut Self {
        self.number(n as u64)
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.n_words += 1;
        rmp::encode::write_str(&mut self.packed, text).expect("a Vec takes everything");
        self
    }

    pub(crate) fn texts<const N: usize>(&mut self, texts: [String; N]) -> &mut Self {
        for text in &texts {
            self.text(text);
        }
        self
    }

    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        self.n_words += 1;
        rmp::encode::write_uint(&mut self.packed, number).expect("a Vec takes everything");
        self
    }

    pub(crate) fn arg(&mut self, word: impl fmt::Display) -> &mut Self {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let _ = write!(scratch, "{word}"); // a String takes everything
        self.text(&scratch);
        self.scratch = scratch;
        self
    }

    /// The key of this kind of a task, or of an idempotency key.
    pub(crate) fn key(&mut self, kind: char, of: impl fmt::Display) -> &mut Self {
        let prefix = self.prefix;
        self.arg(format_args!("{prefix}:{kind}:{of}"))
    }

    pub(crate) fn life(&mut self, life: &Life) -> Result<&mut Self, BackendError> {
        self.written(|to| record::life(life, to))
    }

    pub(crate) fn life_after(&mut self, change: &Change) -> Result<&mut Self, BackendError> {
        self.written(|to| record::life_after(change, to))
    }

    pub(crate) fn body(&mut self, task: &Task) -> Result<&mut Self, BackendError> {
        self.written(|to| record::body(task, to))
    }

    fn written(
        &mut self,
        write: impl FnOnce(&mut String) -> Result<(), BackendError>,
    ) -> Result<&mut Self, BackendError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        write(&mut scratch)?;
        self.text(&scratch);
        self.scratch = scratch;
        Ok(self)
    }

    pub(crate) async fn send(
        mut self,
        link: &Link,
        script: &'static Script,
        n_tasks: usize,
        goes_on_since: Option<Instant>,
    ) -> Result<Value, BackendError> {
        let words = match self.n_words > LOOSE_MAX {
            true => {
                let n = u32::try_from(self.n_words).expect("that many words fit into no memory");
                self.packed[1..LIST_HEAD].copy_from_slice(&n.to_be_bytes());
                &self.packed[..]
            }
            false => &self.packed[LIST_HEAD..],
        };
        let mut call = link.call_in_time(script);
        if let Some(made) = goes_on_since {
            call.made_at(made);
        }
        let more = u32::try_from(n_tasks.saturating_sub(BULK)).unwrap_or(u32::MAX);
        call.with_more_time(TIME_PER_TASK.saturating_mul(more).min(BULK_TIME_MAX));
        if n_tasks == 0 {
            call.though_full();
        }
        let mut parts = words.chunks(PART_BYTES);
        call.replicated().arg(parts.next().unwrap_or_default());
        call.arg(u8::from(link.is_cluster()));
        for part in parts {
            call.arg(part);
        }
        link.send(&call).await
    }
}
