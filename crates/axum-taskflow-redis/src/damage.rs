//! What is damaged in the store is passed over, and said once.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

/// Entries of which it was said that they cannot be read // more: nothing is said of them
const TOLD_MAX: usize = 1_000;

#[derive(Default)]
pub(crate) struct Damage {
    /// Keys, without the prefix, and what of them. A std mutex: held for one look.
    told: Mutex<BTreeSet<(String, String)>>,
}

impl Damage {
    /// An entry of a key, which stands without the prefix, cannot be read; and what comes of that.
    pub(crate) fn tell(&self, key: &str, entry: &str, so: &str) {
        let entry: String = entry.chars().take(80).collect();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = told.len() < TOLD_MAX && told.insert((key.to_owned(), entry.clone()));
        drop(told); // who is told may take his time
        if is_new {
            tracing::error!(key, entry, "damage in Redis: an entry cannot be read; {so}");
        }
    }
}
