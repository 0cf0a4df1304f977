//! Whether a replica has all that its master has.

use std::collections::BTreeMap;

use crate::RedisServer;

/// What is missing for a replica of this master to have all that the master had when it was asked.
pub(crate) fn is_in_step(replica: &RedisServer, master: &RedisServer) -> Result<(), String> {
    let offset = number(&replication(master)?, "master_repl_offset");
    let replication = replication(replica)?;
    let is_linked = replication.get("master_port") == Some(&master.port().to_string())
        && replication
            .get("master_link_status")
            .is_some_and(|it| it == "up");
    if is_linked && number(&replication, "slave_repl_offset") >= offset {
        return Ok(());
    }
    let (replica, master) = (replica.port(), master.port());
    Err(format!("{replica} does not have all that {master} has"))
}

/// The section of a server's INFO that tells whom it follows and who follows it.
pub(crate) fn replication(server: &RedisServer) -> Result<BTreeMap<String, String>, String> {
    let text = server.ask(&["INFO", "replication"])?;
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    Ok(pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}

fn number(replication: &BTreeMap<String, String>, name: &str) -> Option<u64> {
    replication.get(name)?.parse().ok()
}
