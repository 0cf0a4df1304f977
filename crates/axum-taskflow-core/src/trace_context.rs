//! The place of a request in a trace, as it is passed on between services: W3C Trace Context.

use std::sync::Arc;

/// Longest list of vendors' values that is kept; what is longer is left out.
const STATE_BYTES_MAX: usize = 512;

/// A `traceparent` ([W3C Trace Context](https://www.w3.org/TR/trace-context/#traceparent-header)), and the
/// `tracestate` that came with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext<'a> {
    /// 32 hex digits.
    pub(crate) trace_id: &'a str,
    /// 16 hex digits.
    pub(crate) span_id: &'a str,
    pub(crate) flags: u8,
    /// Empty if there is none.
    pub(crate) state: &'a str,
}

impl<'a> TraceContext<'a> {
    /// Nothing if `parent` is not as it should be. A `state` that is not is left out: the trace is known without it.
    pub(crate) fn parse(parent: &'a str, state: &'a str) -> Option<Self> {
        let mut parts = parent.splitn(5, '-');
        let version = hex(parts.next()?, 2)?;
        let trace_id = hex(parts.next()?, 32)?;
        let span_id = hex(parts.next()?, 16)?;
        let flags = u8::from_str_radix(hex(parts.next()?, 2)?, 16).ok()?;
        let has_more = parts.next().is_some();
        let is_zero = |digits: &str| digits.bytes().all(|digit| digit == b'0');
        if is_zero(trace_id) || is_zero(span_id) {
            return None;
        }
        let flags = match version {
            "ff" => return None,
            "00" if has_more => return None,
            "00" => flags,
            _ => flags & 1, // a later version may mean something else by the other bits, and may say more
        };
        let is_sound =
            state.len() <= STATE_BYTES_MAX && state.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        Some(Self {
            trace_id,
            span_id,
            flags,
            state: if is_sound { state.trim() } else { "" },
        })
    }

    /// From the form in which it is stored.
    #[cfg(feature = "otel")]
    pub(crate) fn stored(text: &'a str) -> Option<Self> {
        let (parent, state) = text.split_once(' ').unwrap_or((text, ""));
        Self::parse(parent, state)
    }

    /// As it is stored: the `traceparent` of version 00, and behind a blank the `tracestate`, if there is one.
    pub(crate) fn to_store(self) -> Arc<str> {
        let Self {
            trace_id,
            span_id,
            flags,
            state,
        } = self;
        let parent = format!("00-{trace_id}-{span_id}-{flags:02x}");
        match state {
            "" => parent.into(),
            state => format!("{parent} {state}").into(),
        }
    }
}

/// So many hex digits, in lower case as the standard demands.
fn hex(text: &str, n: usize) -> Option<&str> {
    let is_hex = text
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (text.len() == n && is_hex).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_trace_context_is_kept_as_it_came() {
        let context = TraceContext::parse(PARENT, " a=1,b=2 ").unwrap();

        assert_eq!(context.trace_id, "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.span_id, "b7ad6b7169203331");
        assert_eq!(context.flags, 1);
        assert_eq!(*context.to_store(), *format!("{PARENT} a=1,b=2"));
        let alone = TraceContext::parse(PARENT, "").unwrap();
        assert_eq!(*alone.to_store(), *PARENT);
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff-what-else";

        let context = TraceContext::parse(later, "").unwrap();

        assert_eq!(*context.to_store(), *PARENT);
    }

    #[test]
    fn what_is_no_trace_context_is_refused() {
        let zero_trace = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        let zero_span = "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01";
        let upper = PARENT.to_uppercase();
        let more = format!("{PARENT}-00");
        let short = &PARENT[..54];
        for wrong in [
            "",
            "-",
            "----",
            "00",
            zero_trace,
            zero_span,
            &upper,
            &more,
            short,
            &PARENT.replacen("00", "ff", 1),
            &PARENT.replace('-', "_"),
            &format!(" {PARENT}"),
            &format!("{PARENT} "),
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-+1",
            "00-0af7651916cd43dd8448eb211c80319ä-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::parse(wrong, ""), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_state_that_is_too_long_or_not_printable_is_left_out() {
        for state in ["x".repeat(513), "a=1\n".to_owned(), "a=ä".to_owned()] {
            let context = TraceContext::parse(PARENT, &state).unwrap();

            assert_eq!(*context.to_store(), *PARENT);
        }
    }
}
