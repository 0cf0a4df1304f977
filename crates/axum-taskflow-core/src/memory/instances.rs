//! Who uses the store. In memory nobody dies apart from it: an instance leaves, or is superseded.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    backend::{Instance, Peer, Standing},
    clock::Timestamp,
    id::InstanceId,
};

#[derive(Debug, Default)]
pub(super) struct Instances {
    /// With the last beat.
    present: BTreeMap<InstanceId, (Instance, Timestamp)>,
    /// Those that were superseded or have left. Ids are never used again, so this grows with the boots of one
    /// process only.
    gone: BTreeSet<InstanceId>,
}

impl Instances {
    pub(super) fn join(&mut self, instance: Instance) {
        let beat_at = instance.started_at;
        self.present.insert(instance.id, (instance, beat_at));
    }

    pub(super) fn beat(&mut self, id: InstanceId, now: Timestamp) -> Standing {
        match self.present.get_mut(&id) {
            Some((_, beat_at)) if !self.gone.contains(&id) => {
                *beat_at = now;
                Standing::Alive
            }
            _ => Standing::Superseded,
        }
    }

    pub(super) fn all(&self) -> Vec<Peer> {
        let present = self.present.values();
        present
            .map(|(instance, beat_at)| {
                let alive = !self.gone.contains(&instance.id);
                Peer::new(instance.clone(), *beat_at, alive)
            })
            .collect()
    }

    pub(super) fn supersede(&mut self, id: InstanceId, seen_beat_at: Timestamp) {
        let is_silent = |(_, beat_at): &(Instance, Timestamp)| *beat_at == seen_beat_at;
        if self.present.get(&id).is_some_and(is_silent) {
            self.gone.insert(id);
        }
    }

    pub(super) fn leave(&mut self, id: InstanceId) {
        if self.present.remove(&id).is_some() {
            self.gone.insert(id);
        }
    }

    /// True if it was superseded or has left.
    pub(super) fn is_gone(&self, id: InstanceId) -> bool {
        self.gone.contains(&id)
    }

    /// Those whose tasks are orphaned.
    pub(super) fn gone(&self) -> impl Iterator<Item = &InstanceId> {
        self.gone.iter()
    }

    pub(super) fn n_alive(&self) -> usize {
        let alive = |id: &&InstanceId| !self.gone.contains(*id);
        self.present.keys().filter(alive).count()
    }
}
