//! Random histories, played on the driver and on [`Memory`]: every answer is compared, and at the end everything
//! that is stored.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use proptest::{
    collection::vec,
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};

use super::bench::Bench;
use crate::{
    backend::{
        self, AheadPage, AheadQuery, AuditEntry, Backend, BackendFuture, Batch, Becomes, Claim,
        Count, ListQuery, Minute, Note, Prune, Record, RecordChange, RecordQuery, Reserve, Said,
        Stepped, Turn,
    },
    change::{Change, HeldBy, Outcome},
    clock::Timestamp,
    failure::{Failure, FailureKind, FailureReport},
    id::{Epoch, InstanceId, TaskId},
    memory::Memory,
    retry::RetryPolicy,
    status::{Refused, TaskStatus},
    task::{IdempotencyKey, Life, LogLevel, LogLine, Progress, Task},
};

/// How many histories are played if `PROPTEST_CASES` does not say it.
const CASES: u32 = 64;
/// How many shorter histories are tried to explain one that differs.
const SHRINKS_MAX: u32 = 1_000;

const HOUR: Duration = Duration::from_secs(3_600);
const NAMES: [&str; 3] = ["f", "g", "ß"];

/// One thing that happens. Which tasks it is about is said by [`Pick`]s, so that a history stays one when steps are
/// left out.
#[derive(Clone, Debug)]
enum Step {
    Write {
        tasks: Vec<New>,
        moves: Vec<(Pick, Move)>,
        says: Vec<(Pick, Say)>,
        audit: bool,
        twice: bool,
    },
    Claim {
        by: usize,
        names: Vec<usize>,
        limit: usize,
        set_back_ms: u64,
        /// Room for so many, the first of which stands where one stands that was seen.
        reserve: Option<(prop::sample::Index, usize)>,
    },
    Take(Take),
    Wait(Duration),
    Prune {
        keep: Duration,
        keep_failed: Duration,
        keep_series: Duration,
        limit: usize,
    },
}

/// A step of the contract, on one of a few records.
#[derive(Clone, Debug)]
struct Take {
    record: usize,
    /// It expects another version than the record has.
    is_late: bool,
    becomes: Option<Option<u8>>,
    tasks: Vec<New>,
    moves: Vec<(Pick, Move)>,
    twice: bool,
}

/// A task as it was seen at some time, counted from the last one that was seen.
type Pick = usize;

#[derive(Clone, Debug)]
struct New {
    name: usize,
    priority: i32,
    ahead: Duration,
    owner: Option<usize>,
    key: Option<(usize, Duration)>,
    tag: Option<(usize, usize)>,
    request: Option<usize>,
    requeue: bool,
    /// Not new at all, but written again.
    again: Option<Pick>,
}

/// What is done with a task, if its status as it was seen allows it.
#[derive(Clone, Debug)]
enum Move {
    Start {
        by: usize,
    },
    Cancel,
    Release,
    /// Only if this one holds it, or nobody.
    ReleaseOf(Option<usize>),
    Hold(Duration),
    End(End),
    /// An end over what was before its start, which the store has lost.
    Whole(End),
}

#[derive(Clone, Copy, Debug)]
enum End {
    Done,
    Fail,
    RetryLater,
    GiveUp,
    Panic,
    TimeOut,
    Cancel,
    Interrupt,
}

#[derive(Clone, Debug)]
enum Say {
    Line(u32),
    Progress(u8),
}

pub(super) async fn random_histories_have_the_same_answers_as_memory(bench: &Bench<'_>) {
    let cases = match env::var("PROPTEST_CASES") {
        Ok(cases) => cases.parse().expect("PROPTEST_CASES is a number"),
        Err(_unset) => CASES,
    };
    let mut runner = TestRunner::new(Config::with_cases(cases));
    let histories = vec(step(), 1..40);
    for _ in 0..cases {
        let mut history = histories
            .new_tree(&mut runner)
            .expect("nothing is filtered");
        if let Err(differs) = play(bench, &history.current()).await {
            let (steps, differs) = shrink(bench, &mut history, differs).await;
            panic!("{differs}\nafter these steps: {steps:#?}");
        }
    }
}

/// Looks for a shorter history that differs too. By hand, because proptest's own runner knows no futures.
async fn shrink(
    bench: &Bench<'_>,
    history: &mut impl ValueTree<Value = Vec<Step>>,
    differs: String,
) -> (Vec<Step>, String) {
    let mut shortest = (history.current(), differs);
    let mut differed = true;
    for _ in 0..SHRINKS_MAX {
        let goes_on = match differed {
            true => history.simplify(),
            false => history.complicate(),
        };
        if !goes_on {
            break;
        }
        let steps = history.current();
        differed = match play(bench, &steps).await {
            Ok(()) => false,
            Err(differs) => {
                shortest = (steps, differs);
                true
            }
        };
    }
    shortest
}

async fn play(bench: &Bench<'_>, steps: &[Step]) -> Result<(), String> {
    let driver = bench.another().await;
    let mut history = History {
        both: Both {
            model: Memory::with_history(usize::MAX),
            driver: driver.backend.clone(),
        },
        owners: [driver.me, driver.peer().await, driver.peer().await],
        bench: driver,
        seen: Vec::new(),
        ids: BTreeSet::new(),
        versions: BTreeMap::new(),
    };
    let mut played = Ok(());
    for step in steps {
        played = history.step(step).await;
        if played.is_err() {
            break;
        }
    }
    if played.is_ok() {
        played = history.compare_all().await;
    }
    history.bench.close().await;
    played
}

/// The model and the driver.
struct Both {
    model: Memory,
    driver: Arc<dyn Backend>,
}

impl Both {
    /// Asks both the same, and gives the answer if it is the same; `seen` makes of an answer what is compared.
    async fn ask<T, S: PartialEq + Debug>(
        &self,
        question: impl Fn(&dyn Backend) -> BackendFuture<'_, T>,
        seen: impl Fn(T) -> S,
        what: impl Debug,
    ) -> Result<S, String> {
        let of_model = question(&self.model).await;
        let of_driver = question(&*self.driver).await;
        let of_model = seen(of_model.map_err(|error| format!("{what:?}: memory: {error}"))?);
        let of_driver = seen(of_driver.map_err(|error| format!("{what:?}: {error}"))?);
        same(of_model, &of_driver, &what)
    }
}

fn same<T: PartialEq + Debug>(of_model: T, of_driver: &T, what: &impl Debug) -> Result<T, String> {
    match of_model == *of_driver {
        true => Ok(of_model),
        false => Err(format!(
            "{what:?}: the answers differ\nmemory: {of_model:#?}\ndriver: {of_driver:#?}"
        )),
    }
}

struct History<'a> {
    both: Both,
    bench: Bench<'a>,
    owners: [InstanceId; 3],
    /// Every task as somebody has seen it, stored so or not: what superseded attempts go by, too.
    seen: Vec<Task>,
    /// Every id there ever was.
    ids: BTreeSet<TaskId>,
    /// Of each record, in the model and in the driver: they need not be the same.
    versions: BTreeMap<usize, [u64; 2]>,
}

impl History<'_> {
    async fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Wait(by) => self.bench.advance(*by),
            Step::Take(take) => self.take(take).await?,
            Step::Write {
                tasks,
                moves,
                says,
                audit,
                twice,
            } => {
                let batch = Arc::new(self.batch(tasks, moves, says, *audit));
                for _ in 0..1 + usize::from(*twice) {
                    self.write(batch.clone()).await?;
                }
            }
            Step::Claim {
                by,
                names,
                limit,
                set_back_ms,
                reserve,
            } => {
                let set_back = Duration::from_millis(*set_back_ms);
                let claim = Claim {
                    owner: self.owners[*by],
                    names: names.iter().map(|name| NAMES[*name].into()).collect(),
                    except: Arc::default(),
                    limit: *limit,
                    now: self.bench.now().saturating_sub(set_back),
                    reserve: reserve
                        .filter(|_| !self.seen.is_empty())
                        .map(|(from, n)| Reserve {
                            from: Turn::of(from.get(&self.seen)),
                            n,
                        }),
                };
                let ask = self.both.ask(|it| it.claim(claim.clone()), as_it_is, step);
                self.seen.extend(ask.await?.tasks);
            }
            Step::Prune {
                keep,
                keep_failed,
                keep_series,
                limit,
            } => {
                let now = self.bench.now();
                let prune = Prune {
                    finished_before: now.saturating_sub(*keep),
                    failed_before: now.saturating_sub(*keep_failed),
                    series_before: now.saturating_sub(*keep_series),
                    from: None,
                    limit: *limit,
                };
                let of_model = round(&self.both.model, prune).await?;
                let of_driver = round(&*self.both.driver, prune).await?;
                same(of_model, &of_driver, step)?;
            }
        }
        let counts = |mut counts: Vec<Count>| {
            counts.sort_by_key(|count| (count.name.clone(), count.status));
            counts
        };
        self.both
            .ask(|it| it.counts(), counts, ("counts after", step))
            .await?;
        let mut all_ahead = AheadQuery::until(Timestamp::MAX);
        (all_ahead.after, all_ahead.limit) = (self.bench.now(), 10_000);
        // Of one moment in any order.
        let by_place = |mut page: AheadPage| {
            page.tasks.sort_by_key(|task| (task.life.run_at, task.id));
            page
        };
        let ask = self.both.ask(
            |it| it.ahead(all_ahead.clone()),
            by_place,
            ("ahead after", step),
        );
        ask.await?;
        Ok(())
    }

    async fn take(&mut self, take: &Take) -> Result<(), String> {
        let batch = self.batch(&take.tasks, &take.moves, &[], false);
        let mut step = backend::Step::at(batch.now);
        step.tasks = batch.tasks;
        for change in batch.changes {
            if step.changes.iter().all(|other| other.id != change.id) {
                step.changes.push(change);
            }
        }
        let ids = step.tasks.iter().map(|task| task.id);
        let ids: Vec<TaskId> = ids
            .chain(step.changes.iter().map(|change| change.id))
            .collect();
        let versions = self.versions.entry(take.record).or_default();
        let steps = versions.map(|version| {
            let mut step = step.clone();
            step.records.push(RecordChange {
                key: format!("record {}", take.record),
                expects: version + u64::from(take.is_late) * 1_000_000,
                becomes: match take.becomes {
                    None => Becomes::Same,
                    Some(None) => Becomes::Gone,
                    Some(Some(value)) => Becomes::Value(value.to_string().into()),
                },
            });
            Arc::new(step)
        });
        for _ in 0..1 + usize::from(take.twice) {
            let of_model = self.both.model.step(steps[0].clone()).await;
            let of_driver = self.both.driver.step(steps[1].clone()).await;
            let mut found = [0, 0];
            let mut seen = [None, None];
            for (n, stepped) in [of_model, of_driver].into_iter().enumerate() {
                match stepped.map_err(|error| format!("{take:?}: {error}"))? {
                    Stepped::Stale => {}
                    Stepped::Done { versions, tasks } => {
                        found[n] = versions[0];
                        seen[n] = Some((versions.len(), versions[0] == 0, tasks));
                    }
                }
            }
            let [of_model, of_driver] = seen;
            let is_stale = same(of_model, &of_driver, take)?.is_none();
            if !is_stale {
                self.versions.insert(take.record, found);
            }
        }
        for id in ids {
            let ask = self
                .both
                .ask(|it| it.get(id), as_it_is, ("get after", take));
            ask.await?;
        }
        let query = RecordQuery {
            prefix: "record".to_owned(),
            after: None,
            limit: 100,
        };
        let said = |records: Vec<Record>| {
            let records = records.into_iter();
            records
                .map(|record| (record.key, record.value))
                .collect::<Vec<_>>()
        };
        let ask = self.both.ask(|it| it.records(query.clone()), said, take);
        ask.await.map(drop)
    }

    async fn write(&self, batch: Arc<Batch>) -> Result<(), String> {
        let ask = self
            .both
            .ask(|it| it.write(batch.clone()), as_it_is, &batch);
        ask.await?;
        let tasks = batch.tasks.iter().map(|task| task.id);
        let changed = batch.changes.iter().map(|change| change.id);
        let noted = batch.notes.iter().map(|note| note.id);
        for id in tasks.chain(changed).chain(noted) {
            let ask = self
                .both
                .ask(|it| it.get(id), as_it_is, ("get after", &batch));
            ask.await?;
        }
        Ok(())
    }

    /// The batch that the step means, now that it is known which tasks there are.
    fn batch(
        &mut self,
        new: &[New],
        moves: &[(Pick, Move)],
        says: &[(Pick, Say)],
        audit: bool,
    ) -> Batch {
        let mut batch = self.bench.batch();
        for new in new {
            let task = self.task(new);
            self.ids.insert(task.id);
            batch.tasks.push(Arc::new(task.clone()));
            self.seen.push(task);
        }
        for (pick, action) in moves {
            let Some(mut task) = self.pick(*pick) else {
                continue;
            };
            if let Some(change) = self.change(&task, action) {
                task.life = change.life.clone();
                // Whoever made the change goes on from it, whether or not it applied.
                self.seen.push(task);
                batch.changes.push(change);
            }
        }
        for (pick, say) in says {
            let begun = self.pick(*pick).filter(|it| it.life.epoch > Epoch::ZERO);
            let Some(task) = begun else {
                continue; // no attempt has begun that could say something
            };
            let what = match say {
                Say::Line(seq) => Said::Log(LogLine {
                    seq: *seq,
                    attempt: task.life.attempt,
                    at: self.bench.now(),
                    level: LogLevel::Info,
                    message: format!("line {seq} of {}", task.id),
                }),
                Say::Progress(eighths) => Said::Progress(Progress {
                    fraction: f64::from(*eighths) / 8.0,
                    message: eighths.to_string(),
                }),
            };
            batch.notes.push(Note {
                id: task.id,
                epoch: task.life.epoch,
                what,
            });
        }
        if audit {
            batch.audit.push(AuditEntry {
                id: self.bench.id(),
                at: self.bench.now(),
                actor: "model".to_owned(),
                action: "retry".to_owned(),
                task: self.pick(0).map(|task| task.id),
                detail: serde_json::Value::Null,
            });
        }
        batch
    }

    fn task(&self, new: &New) -> Task {
        if let Some(task) = new.again.and_then(|pick| self.pick(pick)) {
            return Task {
                life: Life::new(task.created_at()),
                progress: None,
                ..task
            };
        }
        let mut task = self.bench.task(NAMES[new.name]);
        task.priority = new.priority;
        task.requeue_on_interrupt = new.requeue;
        task.life.run_at = self.bench.after(new.ahead);
        task.life.owner = new.owner.map(|owner| self.owners[owner]);
        task.idempotency_key = new.key.map(|(key, ttl)| IdempotencyKey {
            key: format!("key {key}"),
            ttl,
        });
        if let Some((key, value)) = new.tag {
            task.tags.insert(key.to_string(), value.to_string());
        }
        task.tracking_id = new.request.map(|n| format!("r{n}").into());
        task
    }

    fn pick(&self, pick: Pick) -> Option<Task> {
        let back = pick % self.seen.len().max(1);
        self.seen.iter().rev().nth(back).cloned()
    }

    /// The change that an instance would make that has seen the task so.
    fn change(&self, task: &Task, action: &Move) -> Option<Change> {
        let now = self.bench.now();
        let change = match action {
            Move::Start { by } => Change::started(task, self.owners[*by], now),
            Move::Cancel => Change::cancelled(task, now),
            Move::Release => Change::released(task),
            Move::ReleaseOf(holder) => Change::released(task).map(|mut change| {
                change.held_by = HeldBy::now(holder.map(|holder| self.owners[holder]));
                change
            }),
            Move::Hold(wait) => Change::held(task, "cannot be read", self.bench.after(*wait)),
            Move::End(end) => self.end(task, *end),
            Move::Whole(end) => Change::started(task, self.owners[0], now).and_then(|start| {
                let running = Task {
                    life: start.life,
                    ..task.clone()
                };
                let end = self.end(&running, *end)?;
                Ok(Change {
                    expects: start.expects,
                    ..end
                })
            }),
        };
        change.ok() // refused: the task has another status by now, and nobody would try
    }

    fn end(&self, task: &Task, end: End) -> Result<Change, Refused> {
        let policy = RetryPolicy {
            retries: u32::from(matches!(end, End::RetryLater)) * 2,
            delay: Duration::from_secs(1),
            backoff: 2.0,
            jitter: 0.0,
            ..RetryPolicy::default()
        };
        let report = FailureReport::new(FailureKind::Panic, "boom");
        let outcome = match end {
            End::Done => Outcome::Done(Some("[1]".into())),
            End::Fail | End::RetryLater => Outcome::Failed(Failure::retry("no")),
            End::GiveUp => Outcome::Failed(Failure::give_up("never")),
            End::Panic => Outcome::Panicked(report),
            End::TimeOut => Outcome::TimedOut(Duration::from_secs(1)),
            End::Cancel => Outcome::Cancelled,
            End::Interrupt => Outcome::Interrupted("it went down"),
        };
        Change::finished(task, outcome, &policy, 0.0, self.bench.now())
    }

    /// Everything that can be read.
    async fn compare_all(&self) -> Result<(), String> {
        for id in self.ids.iter().copied() {
            self.both.ask(|it| it.get(id), as_it_is, "get").await?;
            for (skip, limit) in [(0, usize::MAX), (1, 2)] {
                let ask = self
                    .both
                    .ask(|it| it.logs(id, skip, limit), as_it_is, "logs");
                ask.await?;
            }
        }
        let series = |mut minutes: Vec<Minute>| {
            minutes.sort_by_key(|minute| (minute.at, minute.name.clone(), minute.status));
            minutes
        };
        for since in [Timestamp::default(), self.bench.now().saturating_sub(HOUR)] {
            self.both
                .ask(|it| it.series(since), series, "series")
                .await?;
        }
        let newest = self
            .both
            .ask(|it| it.audit(None, 3), as_it_is, "audit")
            .await?;
        let before = newest.last().map(|entry| entry.id);
        self.both
            .ask(|it| it.audit(before, 100), as_it_is, "audit")
            .await?;
        self.compare_lists().await
    }

    async fn compare_lists(&self) -> Result<(), String> {
        let (after, before) = (self.ids.iter().nth(2), self.ids.iter().nth_back(2));
        let statuses = TaskStatus::ALL.into_iter().map(Some).chain([None]);
        let names = NAMES.into_iter().map(Some).chain([None]);
        let tags = [None, Some(("0", None)), Some(("0", Some("1")))];
        let tags = tags
            .into_iter()
            .flat_map(|tag| [None, Some("r0")].map(|request| (tag, request)));
        let mut limits = [100, 3, 1, 7].into_iter().cycle();
        for status in statuses {
            for name in names.clone() {
                for (tag, request) in tags.clone() {
                    let within = limits.next() == Some(7);
                    let query = ListQuery {
                        status,
                        name: name.map(str::to_owned),
                        tag: tag.map(|(key, value)| (key.to_owned(), value.map(str::to_owned))),
                        tracking_id: request.map(str::to_owned),
                        before: before.copied().filter(|_| within),
                        after: after.copied().filter(|_| within),
                        limit: limits.next().expect("it goes round"),
                        payload_max: 2,
                    };
                    let of_model = walk(&self.both.model, query.clone()).await?;
                    let of_driver = walk(&*self.both.driver, query.clone()).await?;
                    same(of_model, &of_driver, &query)?;
                }
            }
        }
        Ok(())
    }
}

fn as_it_is<T>(answer: T) -> T {
    answer
}

/// A whole round of deletion; how many tasks went.
async fn round(backend: &dyn Backend, mut prune: Prune) -> Result<usize, String> {
    let mut deleted = 0;
    loop {
        let pruned = backend.prune(prune).await;
        let pruned = pruned.map_err(|error| format!("prune: {error}"))?;
        deleted += pruned.deleted;
        if pruned.next.is_none() {
            return Ok(deleted);
        }
        if pruned.next == prune.from || pruned.deleted > prune.limit {
            return Err(format!("{pruned:?} is no answer to {prune:?}"));
        }
        prune.from = pruned.next;
    }
}

/// All pages, since a page may be short.
async fn walk(backend: &dyn Backend, mut query: ListQuery) -> Result<Vec<Task>, String> {
    let mut tasks = Vec::new();
    loop {
        let page = backend.list(query.clone()).await;
        let page = page.map_err(|error| format!("list: {error}"))?;
        if page.tasks.len() > query.limit || (page.next.is_some() && page.next == query.before) {
            return Err(format!("{page:?} is no answer to {query:?}"));
        }
        tasks.extend(page.tasks);
        match page.next {
            Some(next) => query.before = Some(next),
            None => return Ok(tasks),
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let write = (
        vec(new(), 0..4),
        vec((pick(), action()), 0..5),
        vec((pick(), say()), 0..3),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.1),
    );
    let write = write.prop_map(|(tasks, moves, says, audit, twice)| Step::Write {
        tasks,
        moves,
        says,
        audit,
        twice,
    });
    let set_back_ms = prop_oneof![4 => Just(0), 1 => 0..3_000_u64];
    let names = vec(0..NAMES.len(), 0..4);
    let reserve = prop::option::of((any::<prop::sample::Index>(), 0..6_usize));
    let claim = (0..3_usize, names, 0..5_usize, set_back_ms, reserve);
    let claim = claim.prop_map(|(by, names, limit, set_back_ms, reserve)| Step::Claim {
        by,
        names,
        limit,
        set_back_ms,
        reserve,
    });
    let prune = (time(), time(), time(), 1..5_usize);
    let prune = prune.prop_map(|(keep, keep_failed, keep_series, limit)| Step::Prune {
        keep,
        keep_failed,
        keep_series,
        limit,
    });
    let becomes = prop_oneof![
        Just(None),
        Just(Some(None)),
        (0..3_u8).prop_map(|value| Some(Some(value))),
    ];
    let take = (
        0..2_usize,
        prop::bool::weighted(0.2),
        becomes,
        vec(new(), 0..3),
        vec((pick(), action()), 0..3),
        prop::bool::weighted(0.2),
    );
    let take = take.prop_map(|(record, is_late, becomes, tasks, moves, twice)| {
        Step::Take(Take {
            record,
            is_late,
            becomes,
            tasks,
            moves,
            twice,
        })
    });
    prop_oneof![
        8 => write,
        3 => take,
        3 => claim,
        3 => time().prop_map(Step::Wait),
        2 => prune,
    ]
}

fn new() -> impl Strategy<Value = New> {
    let ahead = prop_oneof![3 => Just(Duration::ZERO), 1 => time()];
    let owner = prop::option::of(0..3_usize);
    let key = prop::option::of((0..3_usize, time()));
    let tag = prop::option::of((0..2_usize, 0..2_usize));
    let request = prop::option::of(0..2_usize);
    let again = prop::option::weighted(0.1, pick());
    let rest = (0..NAMES.len(), -1..2, any::<bool>());
    (rest, ahead, owner, key, (tag, request), again).prop_map(
        |((name, priority, requeue), ahead, owner, key, (tag, request), again)| New {
            name,
            priority,
            ahead,
            owner,
            key,
            tag,
            request,
            requeue,
            again,
        },
    )
}

/// Mostly what was seen last.
fn pick() -> impl Strategy<Value = Pick> {
    prop_oneof![4 => 0..6_usize, 1 => 0..60_usize]
}

fn action() -> impl Strategy<Value = Move> {
    prop_oneof![
        4 => (0..3_usize).prop_map(|by| Move::Start { by }),
        4 => end().prop_map(Move::End),
        1 => end().prop_map(Move::Whole),
        1 => Just(Move::Cancel),
        1 => Just(Move::Release),
        1 => prop::option::of(0..3_usize).prop_map(Move::ReleaseOf),
        1 => time().prop_map(Move::Hold),
    ]
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        3 => Just(End::Done),
        3 => Just(End::RetryLater),
        1 => Just(End::Fail),
        1 => Just(End::GiveUp),
        1 => Just(End::Panic),
        1 => Just(End::TimeOut),
        1 => Just(End::Cancel),
        2 => Just(End::Interrupt),
    ]
}

fn say() -> impl Strategy<Value = Say> {
    prop_oneof![
        (0..4_u32).prop_map(Say::Line),
        (0..9_u8).prop_map(Say::Progress),
    ]
}

/// Times that meet each other, so that the ends of things are met too.
fn time() -> impl Strategy<Value = Duration> {
    let ms: &'static [u64] = &[0, 1, 999, 1_000, 2_000, 60_000, 3_600_000];
    prop::sample::select(ms).prop_map(Duration::from_millis)
}
