//! Which tasks there are of each function, status, tag and tracking id: what lists and counts are read from.

use std::{
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, btree_set},
    iter,
    ops::Bound,
    sync::Arc,
};

use crate::{
    backend::{Count, ListQuery},
    id::TaskId,
    status::TaskStatus,
};

/// A range of ids.
pub(super) type Ids = (Bound<TaskId>, Bound<TaskId>);

#[derive(Debug, Default)]
pub(super) struct Index {
    /// A tree: of so few names one is compared sooner than hashed.
    functions: BTreeMap<Arc<str>, [BTreeSet<TaskId>; TaskStatus::ALL.len()]>,
    /// By the tag's key, then by its value.
    tags: HashMap<Box<str>, HashMap<Box<str>, BTreeSet<TaskId>>>,
    /// By the tag's key alone, since a key can have as many values as there are tasks.
    tag_keys: HashMap<Box<str>, BTreeSet<TaskId>>,
    /// By the tracking id, for those that have one.
    tracked: HashMap<Arc<str>, BTreeSet<TaskId>>,
}

impl Index {
    /// The name as it is shared by all tasks of the function.
    pub(super) fn name(&self, name: &Arc<str>) -> Arc<str> {
        match self.functions.get_key_value(name) {
            Some((name, _)) => name.clone(),
            None => name.clone(),
        }
    }

    pub(super) fn insert(&mut self, name: &Arc<str>, status: TaskStatus, id: TaskId) {
        let by_status = match self.functions.get_mut(name) {
            Some(by_status) => by_status,
            None => self.functions.entry(name.clone()).or_default(),
        };
        by_status[place(status)].insert(id);
    }

    pub(super) fn remove(&mut self, name: &str, status: TaskStatus, id: TaskId) {
        let Some(by_status) = self.functions.get_mut(name) else {
            return;
        };
        by_status[place(status)].remove(&id);
        if by_status.iter().all(BTreeSet::is_empty) {
            self.functions.remove(name);
        }
    }

    /// As removed and inserted again.
    pub(super) fn move_to(
        &mut self,
        name: &Arc<str>,
        from: TaskStatus,
        to: TaskStatus,
        id: TaskId,
    ) {
        if from == to {
            return;
        }
        let by_status = self.functions.get_mut(name).expect("it is in `from`");
        by_status[place(from)].remove(&id);
        by_status[place(to)].insert(id);
    }

    pub(super) fn insert_tag(&mut self, key: &str, value: &str, id: TaskId) {
        let values = self.tags.entry(key.into()).or_default();
        values.entry(value.into()).or_default().insert(id);
        self.tag_keys.entry(key.into()).or_default().insert(id);
    }

    pub(super) fn remove_tag(&mut self, key: &str, value: &str, id: TaskId) {
        if let Some(values) = self.tags.get_mut(key)
            && let Some(ids) = values.get_mut(value)
        {
            ids.remove(&id);
            if ids.is_empty() {
                values.remove(value);
            }
            if values.is_empty() {
                self.tags.remove(key);
            }
        }
        if let Some(ids) = self.tag_keys.get_mut(key) {
            ids.remove(&id);
            if ids.is_empty() {
                self.tag_keys.remove(key);
            }
        }
    }

    pub(super) fn insert_tracked(&mut self, tracking_id: &Arc<str>, id: TaskId) {
        let ids = self.tracked.entry(tracking_id.clone()).or_default();
        ids.insert(id);
    }

    pub(super) fn remove_tracked(&mut self, tracking_id: &str, id: TaskId) {
        if let Some(ids) = self.tracked.get_mut(tracking_id) {
            ids.remove(&id);
            if ids.is_empty() {
                self.tracked.remove(tracking_id);
            }
        }
    }

    pub(super) fn counts(&self) -> Vec<Count> {
        self.functions
            .iter()
            .flat_map(|(name, by_status)| {
                iter::zip(TaskStatus::ALL, by_status)
                    .filter(|(_, ids)| !ids.is_empty())
                    .map(|(status, ids)| Count {
                        name: name.clone(),
                        status,
                        n: ids.len() as u64,
                    })
            })
            .collect()
    }

    /// The tasks in `range`, newest first, that one index gives for the query, or nothing if none of them fits.
    /// The caller still compares them with the whole query.
    pub(super) fn newest(&self, query: &ListQuery, range: Ids) -> Option<Newest<'_>> {
        let sets: Vec<Option<&BTreeSet<TaskId>>> = match query {
            // First: of one request there are few.
            ListQuery {
                tracking_id: Some(tracking_id),
                ..
            } => vec![self.tracked.get(&**tracking_id)],
            ListQuery {
                tag: Some((key, Some(value))),
                ..
            } => vec![self.tags.get(&**key).and_then(|tags| tags.get(&**value))],
            ListQuery {
                tag: Some((key, None)),
                ..
            } => vec![self.tag_keys.get(&**key)],
            ListQuery {
                name: Some(name),
                status: Some(status),
                ..
            } => {
                let by_status = self.functions.get(&**name);
                vec![by_status.map(|by_status| &by_status[place(*status)])]
            }
            ListQuery {
                name: Some(name), ..
            } => {
                let by_status = self.functions.get(&**name);
                by_status.into_iter().flatten().map(Some).collect()
            }
            ListQuery {
                status: Some(status),
                ..
            } => {
                let functions = self.functions.values();
                functions
                    .map(|by_status| Some(&by_status[place(*status)]))
                    .collect()
            }
            _ => return None,
        };
        Some(Newest::of(sets.into_iter().flatten(), range))
    }
}

/// Sets of ids, merged, newest first.
pub(super) struct Newest<'a> {
    sets: Vec<btree_set::Range<'a, TaskId>>,
    /// The newest id that is left in each set, with the set's place above.
    heads: BinaryHeap<(TaskId, usize)>,
}

impl<'a> Newest<'a> {
    fn of(sets: impl Iterator<Item = &'a BTreeSet<TaskId>>, range: Ids) -> Self {
        let mut sets: Vec<_> = sets.map(|set| set.range(range)).collect();
        let heads = sets
            .iter_mut()
            .enumerate()
            .filter_map(|(place, set)| Some((*set.next_back()?, place)))
            .collect();
        Self { sets, heads }
    }
}

impl Iterator for Newest<'_> {
    type Item = TaskId;

    fn next(&mut self) -> Option<TaskId> {
        let (id, place) = self.heads.pop()?;
        if let Some(next) = self.sets[place].next_back() {
            self.heads.push((*next, place));
        }
        Some(id)
    }
}

fn place(status: TaskStatus) -> usize {
    status as usize
}
