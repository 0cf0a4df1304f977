//! A Redis cluster of small nodes.

use std::{collections::BTreeMap, ops::RangeInclusive, thread, time::Duration};

use crate::{
    HOST, RedisServer, ServerBuilder,
    replica::{is_in_step, replication},
    server::version,
    wait::until,
};

/// How long nodes may take to agree, after the start or a failover.
const DEADLINE: Duration = Duration::from_secs(30);

/// After this a silent node counts as dead, and its replica stands for election.
const NODE_TIMEOUT_MS: &str = "1500";

/// How many slots there are for keys: a number of Redis'.
const N_SLOTS: u16 = 16_384;

/// A cluster in which each master has one replica. All nodes are killed when this is dropped.
pub struct RedisCluster {
    /// The first half began as masters, the second half as their replicas.
    nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts so many nodes, half of them masters, and waits until the cluster is whole.
    ///
    /// # Panics
    ///
    /// If the number is odd or less than six, since fewer than three masters cannot outvote a dead one. If the nodes
    /// do not find together within thirty seconds.
    pub fn start(n_nodes: usize) -> Self {
        Self::start_with(n_nodes, RedisServer::builder())
    }

    /// As [`start`](Self::start), with settings for each node. Passwords and TLS are not among them: nodes would also
    /// need them for each other.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub fn start_with(n_nodes: usize, node: ServerBuilder) -> Self {
        assert!(
            n_nodes >= 6 && n_nodes.is_multiple_of(2),
            "{n_nodes} nodes make no cluster of at least three masters with a replica each"
        );
        let cluster = Self {
            nodes: start_nodes(n_nodes, node),
        };
        cluster.give_slots();
        cluster.introduce();
        cluster.appoint_replicas();
        cluster.wait_ok();
        cluster
    }

    /// The URLs of all nodes, also of those that are dead.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(RedisServer::url).collect()
    }

    /// All nodes, whatever they are now.
    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// The node that takes writes to a key, as far as a running master knows.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn master_of(&self, key: &str) -> &RedisServer {
        let slot = self.running().find_map(|node| {
            let slot = node.try_command(&["CLUSTER", "KEYSLOT", key]).ok()?;
            slot.parse::<u16>().ok()
        });
        let slot = slot.expect("a node of the cluster answers");
        self.running()
            .find(|node| {
                let view = view(node).unwrap_or_default();
                let own = view.iter().find(|seen| seen.port == node.port());
                own.is_some_and(|own| own.slots.iter().any(|slots| slots.contains(&slot)))
            })
            .unwrap_or_else(|| panic!("no running node has slot {slot} of key {key:?}"))
    }

    /// Kills the node that takes writes to a key, and returns it, so that it can be restarted.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn kill_master_of(&self, key: &str) -> &RedisServer {
        let master = self.master_of(key);
        master.kill();
        master
    }

    /// Waits until the running nodes serve all keys and agree who serves which, and until all running replicas are in
    /// step with their masters. After a kill: until the failover is done.
    ///
    /// # Panics
    ///
    /// If it takes more than thirty seconds.
    pub fn wait_ok(&self) {
        until(DEADLINE, || self.check())
            .unwrap_or_else(|missing| panic!("the cluster is not whole: {missing}"));
    }

    /// What is missing for the cluster to be whole.
    fn check(&self) -> Result<(), String> {
        let running: Vec<u16> = self.running().map(RedisServer::port).collect();
        let mut agreed = None;
        for node in self.running() {
            let port = node.port();
            let info = node.ask(&["CLUSTER", "INFO"])?;
            if !info.contains("cluster_state:ok") {
                return Err(format!("the cluster is not ok for node {port}"));
            }
            let shape = shape(view(node)?, &running);
            let shape = shape.map_err(|missing| format!("{missing} for node {port}"))?;
            if *agreed.get_or_insert_with(|| shape.clone()) != shape {
                return Err(format!("node {port} disagrees about who does what"));
            }
        }
        if agreed.is_none() {
            return Err("no node runs".to_owned());
        }
        self.running().try_for_each(|node| self.follows(node))
    }

    /// What is missing for a node, if it is a replica, to have all that its master has.
    fn follows(&self, node: &RedisServer) -> Result<(), String> {
        let Some(port) = replication(node)?.remove("master_port") else {
            return Ok(()); // a master
        };
        let mut nodes = self.running();
        match nodes.find(|master| master.port().to_string() == port) {
            Some(master) => is_in_step(node, master),
            None => Err(format!("node {} follows a dead one", node.port())),
        }
    }

    fn running(&self) -> impl Iterator<Item = &RedisServer> {
        self.nodes.iter().filter(|node| node.is_running())
    }

    fn masters(&self) -> &[RedisServer] {
        &self.nodes[..self.nodes.len() / 2]
    }

    fn give_slots(&self) {
        let n_masters = self.masters().len();
        let bound = |n: usize| {
            let slot = usize::from(N_SLOTS) * n / n_masters;
            u16::try_from(slot).expect("there are no more slots than that")
        };
        for (n, master) in self.masters().iter().enumerate() {
            // Two masters of one epoch would first have to find out which of them is to take another.
            master.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]);
            master.give_slots(bound(n)..=bound(n + 1) - 1);
        }
    }

    /// Tells each node of every other one, which is faster than to let them hear of each other.
    fn introduce(&self) {
        for (n, node) in self.nodes.iter().enumerate() {
            for other in &self.nodes[n + 1..] {
                let port = other.port().to_string();
                let bus_port = other.bus_port().to_string();
                node.command(&["CLUSTER", "MEET", HOST, &port, &bus_port]);
            }
        }
    }

    fn appoint_replicas(&self) {
        let (masters, replicas) = self.nodes.split_at(self.masters().len());
        for (master, replica) in masters.iter().zip(replicas) {
            let id = master.command(&["CLUSTER", "MYID"]);
            // Refused until the two have met.
            until(DEADLINE, || replica.ask(&["CLUSTER", "REPLICATE", &id]))
                .unwrap_or_else(|missing| panic!("cannot appoint a replica: {missing}"));
        }
    }
}

fn start_nodes(n_nodes: usize, node: ServerBuilder) -> Vec<RedisServer> {
    let node = node
        .node()
        .setting("cluster-node-timeout", NODE_TIMEOUT_MS)
        // A replica may stand for election however long it was alone: on a busy machine that may be long.
        .setting("cluster-replica-validity-factor", "0");
    let node = match version() {
        // It knows only how many replicas a master must have before one goes to another.
        (..7, _) => node.setting("cluster-migration-barrier", "9"),
        _ => node.setting("cluster-allow-replica-migration", "no"),
    };
    thread::scope(|scope| {
        let starting: Vec<_> = (0..n_nodes)
            .map(|_| scope.spawn(|| node.clone().start()))
            .collect();
        starting
            .into_iter()
            .map(|node| {
                node.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}

/// A node, as another one sees it.
struct Seen {
    id: String,
    port: u16,
    flags: String,
    /// The id of its master, or "-".
    master: String,
    is_connected: bool,
    slots: Vec<RangeInclusive<u16>>,
}

/// What a node says of all nodes.
fn view(node: &RedisServer) -> Result<Vec<Seen>, String> {
    let text = node.ask(&["CLUSTER", "NODES"])?;
    text.lines()
        .map(|line| parse(line).ok_or_else(|| format!("not a line of CLUSTER NODES: {line}")))
        .collect()
}

/// `id ip:port@bus-port flags master ping-sent pong-received epoch link-state slots…`
fn parse(line: &str) -> Option<Seen> {
    let words: Vec<&str> = line.split(' ').collect();
    let [id, address, flags, master, _, _, _, link, slots @ ..] = words.as_slice() else {
        return None;
    };
    let (_, ports) = address.split_once(':')?;
    let (port, _) = ports.split_once('@')?;
    Some(Seen {
        id: (*id).to_owned(),
        port: port.parse().ok()?,
        flags: (*flags).to_owned(),
        master: (*master).to_owned(),
        is_connected: *link == "connected",
        slots: slots.iter().filter_map(|slots| range(slots)).collect(),
    })
}

/// `5461-10922` or `7`. A slot on its way to another node, `[93->-id]`, also stands among the ranges.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

/// Of each running node its master's id and its own slots.
type Shape = BTreeMap<u16, (String, Vec<RangeInclusive<u16>>)>;

/// The shape in a node's view. An error if a running node is not seen as well, or if a slot is not with one.
fn shape(view: Vec<Seen>, running: &[u16]) -> Result<Shape, String> {
    let mut shape = BTreeMap::new();
    let mut n_slots = 0;
    for seen in view.into_iter().filter(|seen| running.contains(&seen.port)) {
        let Seen {
            id, port, flags, ..
        } = &seen;
        let is_well = |flag| ["myself", "master", "slave"].contains(&flag);
        if !seen.is_connected || !flags.split(',').all(is_well) {
            return Err(format!("node {id} on port {port} is {flags}"));
        }
        n_slots += seen.slots.iter().map(ExactSizeIterator::len).sum::<usize>();
        shape.insert(seen.port, (seen.master, seen.slots));
    }
    if shape.len() < running.len() {
        return Err(format!("{} nodes are known", shape.len()));
    }
    if n_slots < usize::from(N_SLOTS) {
        return Err(format!("{n_slots} slots are with running nodes"));
    }
    Ok(shape)
}
