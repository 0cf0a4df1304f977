//! The instances that use the store, and how each is doing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::response::Response;
use axum_taskflow_core::{InstanceId, Peer, TaskManager, Timestamp};
use serde::Serialize;

use crate::{
    guard::Call,
    problem::{Problem, json},
    text,
    view::At,
};

/// Instances beat once a second; one that is silent for longer than this does not respond.
const SILENT_MAX: Duration = Duration::from_secs(5);
/// Instances on a page; of more, those that are not well and the oldest.
const ROWS_MAX: usize = 50;

/// How an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doing {
    /// It has not shown itself for a while: stopped, stuck, or cut off from the store. Clocks of two machines are
    /// compared here, so this is for people only.
    Unresponsive,
    /// It died or was superseded, and tasks still belong to it.
    Dead,
    Alive,
}

impl Doing {
    fn of(peer: &Peer, now: Timestamp) -> Self {
        match peer.alive {
            false => Self::Dead,
            true if now.since(peer.beat_at) > SILENT_MAX => Self::Unresponsive,
            true => Self::Alive,
        }
    }

    /// The word, which is also the icon and the colour.
    fn word(self) -> &'static str {
        match self {
            Self::Unresponsive => "unresponsive",
            Self::Dead => "dead",
            Self::Alive => "alive",
        }
    }
}

#[derive(Serialize)]
struct InstanceJson<'a> {
    id: InstanceId,
    host: &'a str,
    pid: u32,
    version: &'a str,
    role: &'static str,
    functions: &'a [Arc<str>],
    started_at: Timestamp,
    beat_at: Timestamp,
    state: &'static str,
    is_here: bool,
}

/// `GET /instances`: oldest first.
pub(crate) async fn list(call: Call) -> Result<Response, Problem> {
    let manager = &call.shared.manager;
    let peers = manager.instances().await?;
    let me = manager.instance().id;
    let list = peers.iter().map(|peer| InstanceJson {
        id: peer.instance.id,
        host: &peer.instance.host,
        pid: peer.instance.pid,
        version: &peer.instance.version,
        role: peer.instance.role.as_str(),
        functions: &peer.instance.functions,
        started_at: peer.instance.started_at,
        beat_at: peer.beat_at,
        state: Doing::of(peer, call.visit.now).word(),
        is_here: peer.instance.id == me,
    });
    Ok(json(&list.collect::<Vec<_>>()))
}

/// The part of a page that shows them.
#[derive(Debug)]
pub(crate) struct Instances {
    pub(crate) n: usize,
    pub(crate) left_out: usize,
    /// How many are doing how.
    pub(crate) summary: String,
    /// How those are doing that are worst, unless all are well.
    pub(crate) worst: Option<&'static str>,
    /// How many are not well, for the head of the page.
    pub(crate) unwell: String,
    pub(crate) rows: Vec<InstanceRow>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct InstanceRow {
    pub(crate) id: InstanceId,
    pub(crate) state: &'static str,
    pub(crate) is_alive: bool,
    pub(crate) is_here: bool,
    pub(crate) host: String,
    pub(crate) pid: u32,
    pub(crate) about: String,
    pub(crate) started: At,
    /// Shown only of those that are not well: it changes all the time.
    pub(crate) beat: At,
}

impl Instances {
    pub(crate) fn of(peers: &[Peer], manager: &TaskManager, now: Timestamp) -> Self {
        let me = manager.instance().id;
        let rows = shown(peers, now).map(|(doing, peer)| InstanceRow {
            id: peer.instance.id,
            state: doing.word(),
            is_alive: doing == Doing::Alive,
            is_here: peer.instance.id == me,
            host: text::clean(&peer.instance.host),
            pid: peer.instance.pid,
            about: about(peer),
            started: At::of(peer.instance.started_at, now),
            beat: At::of(peer.beat_at, now),
        });
        Self {
            n: peers.len(),
            left_out: peers.len().saturating_sub(ROWS_MAX),
            summary: summary(peers, now),
            worst: [Doing::Dead, Doing::Unresponsive]
                .into_iter()
                .find(|doing| n_of(peers, *doing, now) > 0)
                .map(Doing::word),
            unwell: unwell(peers, now),
            rows: rows.collect(),
        }
    }
}

/// Those that have room, with the ones that need a look first.
fn shown(peers: &[Peer], now: Timestamp) -> impl Iterator<Item = (Doing, &Peer)> {
    let mut all: Vec<(Doing, &Peer)> = peers
        .iter()
        .map(|peer| (Doing::of(peer, now), peer))
        .collect();
    all.sort_by_key(|(doing, _)| *doing); // keeps the oldest first
    all.into_iter().take(ROWS_MAX)
}

fn n_of(peers: &[Peer], doing: Doing, now: Timestamp) -> usize {
    let those = peers.iter().filter(|peer| Doing::of(peer, now) == doing);
    those.count()
}

fn summary(peers: &[Peer], now: Timestamp) -> String {
    let parts = [Doing::Alive, Doing::Unresponsive, Doing::Dead]
        .map(|doing| (n_of(peers, doing, now), doing.word()));
    let parts = parts.iter().filter(|(n, _)| *n > 0);
    let parts: Vec<String> = parts.map(|(n, word)| format!("{n} {word}")).collect();
    parts.join(", ")
}

fn unwell(peers: &[Peer], now: Timestamp) -> String {
    let parts = [Doing::Dead, Doing::Unresponsive].map(|doing| (n_of(peers, doing, now), doing));
    let parts = parts.iter().filter(|(n, _)| *n > 0);
    let parts: Vec<String> = parts
        .map(|(n, doing)| match n {
            1 => format!("1 instance {}", doing.word()),
            n => format!("{n} instances {}", doing.word()),
        })
        .collect();
    parts.join(", ")
}

/// The process that runs a task, or ran it last.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) id: InstanceId,
    /// Nothing if the store knows it no more.
    pub(crate) place: String,
    /// How it is doing, unless it is well.
    pub(crate) unwell: Option<&'static str>,
}

impl Runner {
    pub(crate) fn of(
        id: InstanceId,
        peers: &[Peer],
        manager: &TaskManager,
        now: Timestamp,
    ) -> Self {
        let place = |host: &str, pid: u32| match host {
            "" => format!("unnamed host, process {pid}"),
            host => format!("{}, process {pid}", text::clean(host)),
        };
        let me = manager.instance();
        if me.id == id {
            let place = format!("{} (this one)", place(&me.host, me.pid));
            let unwell = None;
            return Self { id, place, unwell };
        }
        match peers.iter().find(|peer| peer.instance.id == id) {
            Some(peer) => Self {
                id,
                place: place(&peer.instance.host, peer.instance.pid),
                unwell: Some(Doing::of(peer, now))
                    .filter(|doing| *doing != Doing::Alive)
                    .map(Doing::word),
            },
            None => Self {
                id,
                place: String::new(),
                unwell: None,
            },
        }
    }
}

/// What it does, in which version.
fn about(peer: &Peer) -> String {
    let instance = &peer.instance;
    let mut parts = vec![match instance.role.as_str() {
        "web" => "adds tasks".to_owned(),
        "worker" => "runs tasks".to_owned(),
        _ => "adds and runs tasks".to_owned(),
    }];
    if instance.role.runs_tasks() {
        parts.push(match instance.functions.len() {
            1 => "1 function".to_owned(),
            n => format!("{n} functions"),
        });
    }
    if !instance.version.is_empty() {
        parts.push(format!("version {}", text::clean(&instance.version)));
    }
    parts.join(" · ")
}

/// What a live page is told of them: it asks for the section again when it shows something else.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct Told {
    n: usize,
    /// The state of those that have room.
    s: BTreeMap<String, &'static str>,
}

impl Told {
    pub(crate) fn of(peers: &[Peer], now: Timestamp) -> Self {
        let states = shown(peers, now);
        Self {
            n: peers.len(),
            s: states
                .map(|(doing, peer)| (peer.instance.id.to_string(), doing.word()))
                .collect(),
        }
    }
}
