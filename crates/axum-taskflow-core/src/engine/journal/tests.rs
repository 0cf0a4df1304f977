//! Batches that fail, panic or are heard of late; and what waits meanwhile.

use std::{collections::HashSet, fmt, future::poll_fn, pin::Pin, sync::Mutex};

use tracing::Level;

use super::{
    queue::tests::{add, end},
    *,
};
use crate::{
    backend::{
        AheadPage, AheadQuery, Claim, Claimed, Count, Enqueued, Instance, ListQuery, Minute, Page,
        Peer, Prune, Pruned, Record, RecordQuery, Standing, Step, Stepped,
    },
    change::Outcome,
    clock::Timestamp,
    id::{Epoch, IdSource, InstanceId},
    memory::Memory,
    retry::RetryPolicy,
    task::{Executor, LogLevel, LogLine, Progress, Task},
};

const NOW: Timestamp = Timestamp::from_unix_ms(1_000_000);

/// One with a place for one new task, whose lanes wait for nothing.
fn journal_on(store: Arc<dyn Backend>, clock: Clock) -> Journal {
    let ready = Ready::new(64, 64, 3);
    assert!(ready.stop().is_empty());
    Journal::new(store, clock, 1, Arc::default(), Arc::new(ready))
}

#[tokio::test]
async fn what_an_attempt_said_goes_with_its_end_if_the_task_begins_anew() {
    let (ids, clock) = (IdSource::default(), Clock::manual(NOW));
    let journal = journal_on(Arc::new(Memory::default()), clock);
    let mut task = Task::new(ids.task(NOW), "f", "[]");
    task.life = Change::started(&task, ids.instance(NOW), NOW).unwrap().life;
    let policy = RetryPolicy {
        retries: 1,
        ..RetryPolicy::default()
    };
    let failed = Outcome::TimedOut(Duration::from_secs(1));
    let end_of_task = Change::finished(&task, failed, &policy, 0.0, NOW).unwrap();
    let line = LogLine {
        seq: 0,
        attempt: 1,
        at: NOW,
        level: LogLevel::Info,
        message: "half done".to_owned(),
    };
    let progress = Progress {
        fraction: 0.5,
        message: String::new(),
    };
    for id in [task.id, ids.task(NOW)] {
        for what in [Said::Log(line.clone()), Said::Progress(progress.clone())] {
            let epoch = task.life.epoch;
            journal.note(Note { id, epoch, what });
        }
    }
    journal.change(end_of_task, Box::new(|_, _| ()));
    for _ in 0..BATCH_MAX {
        let Entry { change, then } = end(&ids, 2);
        journal.change(change, then);
    }

    let take = || {
        let flight = taken(&journal);
        let notes = flight.batch.notes.iter();
        notes.map(|note| note.id == task.id).collect::<Vec<_>>()
    };
    assert_eq!(take(), [true, true]);
    assert_eq!(take(), [false, false]);
}

#[tokio::test]
async fn whether_an_attempt_was_silent_is_asked_when_nothing_of_it_can_come_before_its_end() {
    let (ids, clock) = (IdSource::default(), Clock::manual(NOW));
    let journal = journal_on(Arc::new(Memory::default()), clock);
    let Entry { change, then } = end(&ids, 2);

    journal.end(change, then, || journal.intake.queue.try_lock().is_err());

    let waits = &journal.queue().changes[0];
    assert!(waits.change.is_silent, "a line could be queued meanwhile");
}

#[tokio::test]
async fn what_is_left_of_an_earlier_attempt_does_not_talk_over_the_one_that_runs() {
    let (ids, clock) = (IdSource::default(), Clock::manual(NOW));
    let journal = journal_on(Arc::new(Memory::default()), clock);
    let id = ids.task(NOW);
    let (first, second) = (Epoch::ZERO.next(), Epoch::ZERO.next().next());
    for (epoch, fraction) in [(first, 0.5), (second, 0.1), (first, 0.6)] {
        let progress = Progress {
            fraction,
            message: String::new(),
        };
        let what = Said::Progress(progress);
        journal.note(Note { id, epoch, what });
    }

    let notes = journal.queue().take_notes(&HashSet::new());

    let epochs: Vec<Epoch> = notes.iter().map(|note| note.epoch).collect();
    assert_eq!(epochs, [second]);
}

#[tokio::test]
async fn of_log_lines_that_wait_a_bounded_number_is_kept_and_the_others_are_counted() {
    let (ids, clock) = (IdSource::default(), Clock::manual(NOW));
    let journal = journal_on(Arc::new(Memory::default()), clock);
    let (id, epoch) = (ids.task(NOW), Epoch::ZERO.next());

    for _ in 0..NOTES_MAX + 5 {
        let what = line(0);
        journal.note(Note { id, epoch, what });
    }

    let queue = journal.queue();
    assert_eq!((queue.notes.len(), queue.notes_dropped), (NOTES_MAX, 5));
}

fn line(seq: u32) -> Said {
    Said::Log(LogLine {
        seq,
        attempt: 1,
        at: NOW,
        level: LogLevel::Info,
        message: String::new(),
    })
}

/// The next batch.
fn taken(journal: &Journal) -> Flight {
    let queue = journal.queue();
    journal.intake.take_from(queue, BATCH_MAX, Writer::Journal)
}

/// The store has not taken it.
fn failed(journal: &Journal, flight: Flight) {
    let failure = BackendError::unavailable("on demand");
    journal.give_back(flight, failure, Duration::ZERO);
}

#[tokio::test]
async fn what_a_failed_batch_gives_back_is_written_before_what_was_queued_since() {
    let (ids, clock) = (IdSource::default(), Clock::manual(NOW));
    let journal = journal_on(Arc::new(Memory::default()), clock);
    let (id, epoch) = (ids.task(NOW), Epoch::ZERO.next());
    let change = || {
        let Entry { change, then } = end(&ids, 2);
        let id = change.id;
        journal.change(change, then);
        id
    };
    let say = |what| journal.note(Note { id, epoch, what });
    let progress = |fraction| {
        Said::Progress(Progress {
            fraction,
            message: String::new(),
        })
    };
    let mut changes = vec![change(), change(), change()];
    say(line(0));
    say(line(1));
    say(progress(0.1));

    let flight = taken(&journal);
    changes.push(change());
    say(line(2));
    say(progress(0.2));
    failed(&journal, flight);

    assert_eq!(journal.changes_waiting(), 4);
    let Flight { batch, .. } = taken(&journal);
    let order: Vec<TaskId> = batch.changes.iter().map(|change| change.id).collect();
    assert_eq!(order, changes);
    let said: Vec<Said> = batch.notes.iter().map(|note| note.what.clone()).collect();
    assert_eq!(said, [line(0), line(1), line(2), progress(0.2)]);
}

#[tokio::test]
async fn while_the_store_fails_a_batch_takes_all_new_tasks_so_that_they_are_told() {
    let (ids, clock) = (IdSource::default(), Clock::manual(NOW));
    let ready = Arc::new(Ready::new(64, 64, 3));
    ready.begin_claim(Executor::Async);
    let store = Arc::new(Memory::default());
    let journal = Journal::new(store, clock, 1, Arc::default(), ready);
    let add_20 = || {
        let adds = (0..20).map(|_| add(&ids, 2));
        journal.queue().adds.extend(adds);
    };

    add_20();
    let few = taken(&journal);
    assert_eq!(few.adds.len(), 8, "its lane starves");
    failed(&journal, few);
    let all = taken(&journal);
    assert_eq!(all.adds.len(), 12);
    let written = Written {
        tasks: vec![Enqueued::Created; 12],
        changes: Vec::new(),
    };
    journal.answer(all, &written, &|_| ());
    add_20();
    assert_eq!(taken(&journal).adds.len(), 8, "it does not fail any more");
}

#[tokio::test]
async fn of_log_lines_that_come_back_too_the_oldest_are_kept_and_no_more_than_may_wait() {
    let (ids, clock) = (IdSource::default(), Clock::manual(NOW));
    let journal = journal_on(Arc::new(Memory::default()), clock);
    let (id, epoch) = (ids.task(NOW), Epoch::ZERO.next());
    let say = |seq| {
        let what = line(seq);
        journal.note(Note { id, epoch, what });
    };
    (0..5).for_each(say);

    let flight = taken(&journal);
    (5..).take(NOTES_MAX).for_each(say);
    failed(&journal, flight);

    let queue = journal.queue();
    assert_eq!((queue.notes.len(), queue.notes_dropped), (NOTES_MAX, 5));
    let kept = queue.notes.iter().map(|note| note.what.clone());
    assert!(kept.eq((0..).map(line).take(NOTES_MAX)));
}

#[tokio::test]
async fn a_place_of_a_batch_that_failed_is_free_again() {
    let (ids, clock) = (IdSource::default(), Clock::manual(NOW));
    let journal = journal_on(Arc::new(Memory::default()), clock);
    journal.place(1, Duration::ZERO).await.unwrap();
    let Add {
        tasks,
        then,
        caller,
    } = add(&ids, 40);
    assert!(journal.add(tasks, then, caller).is_ok());
    assert!(journal.place(1, Duration::ZERO).await.is_err());

    let flight = taken(&journal);
    failed(&journal, flight);

    journal.place(1, Duration::ZERO).await.unwrap();
    assert!(journal.place(1, Duration::ZERO).await.is_err(), "only that");
}

#[tokio::test]
async fn a_panic_in_what_follows_from_a_batch_keeps_nobody_else_waiting() {
    let (ids, clock) = (IdSource::default(), Clock::manual(NOW));
    let journal = journal_on(Arc::new(Memory::default()), clock);
    let add = async |then: ThenAdded| {
        journal.place(1, Duration::ZERO).await.unwrap();
        let (caller, answer) = oneshot::channel();
        let Add { tasks, .. } = add(&ids, 40);
        assert!(journal.add(tasks, then, caller).is_ok());
        (panics::catch(|| journal.begin(|_| ())), answer)
    };

    let (begun, mut answer) = add(Box::new(|_| panic!("on demand"))).await;
    assert!(begun.is_ok());
    assert_eq!(
        answer.try_recv().unwrap().unwrap().as_slice(),
        [Enqueued::Created],
        "it is stored"
    );
    let (begun, mut answer) = add(Box::new(|written| Ok(written.unwrap().into()))).await;
    assert!(begun.is_ok());
    let answered = answer.try_recv().unwrap().unwrap();
    assert_eq!(answered.as_slice(), [Enqueued::Created]);

    let heard = Arc::new(AtomicUsize::new(0));
    let change = |panics: bool| {
        let (Entry { change, .. }, heard) = (end(&ids, 2), heard.clone());
        let then = Box::new(move |_: &Change, _| {
            assert!(!panics, "on demand");
            heard.fetch_add(1, Ordering::SeqCst);
        });
        journal.change(change, then);
    };
    change(true);
    change(false);
    let stored = AtomicUsize::new(0);
    let running = journal.run(|_| {
        stored.fetch_add(1, Ordering::SeqCst);
        panic!("on demand");
    });
    let flushed = async {
        journal.flushed().await;
        change(false);
        journal.flushed().await;
    };
    tokio::select! {
        () = running => {}
        () = flushed => {}
    }
    assert_eq!(heard.load(Ordering::SeqCst), 2);
    assert_eq!(stored.load(Ordering::SeqCst), 2);
    assert!(journal.is_idle());
}

#[tokio::test]
async fn what_a_caller_takes_back_is_not_written_and_makes_room() {
    let (ids, clock) = (IdSource::default(), Clock::manual(NOW));
    let store = Arc::new(Memory::default());
    let journal = journal_on(store.clone(), clock);
    let promised = Arc::new(());
    let add_one = async || {
        journal.place(1, Duration::ZERO).await.unwrap();
        let (Add { tasks, .. }, promised) = (add(&ids, 40), promised.clone());
        let id = tasks[0].id;
        let then: ThenAdded = Box::new(move |_| {
            drop(promised);
            Ok(Answers::new())
        });
        assert!(journal.add(tasks, then, oneshot::channel().0).is_ok());
        id
    };

    let given_up = add_one().await;
    assert!(journal.take_back(given_up));
    assert_eq!(Arc::strong_count(&promised), 1, "the promise is broken");
    let written = add_one().await;
    journal.begin(|_| ());

    assert!(!journal.take_back(written), "too late");
    assert_eq!(store.get(given_up).await.unwrap(), None);
    assert!(store.get(written).await.unwrap().is_some());
}

#[tokio::test]
async fn when_the_journal_ends_whoever_was_answered_by_the_store_hears_it() {
    let (ids, clock) = (IdSource::default(), Clock::manual(NOW));
    let mut journal = journal_on(Arc::new(Memory::default()), clock);
    journal.writes_at_once = 2;
    Arc::get_mut(&mut journal.intake).unwrap().several = true;
    let heard = Arc::new(AtomicUsize::new(0));
    for n_polls in 1..8 {
        let mut running = Box::pin(journal.run(|_| ()));
        heard.store(0, Ordering::SeqCst);

        for _ in 0..n_polls {
            let (Entry { change, .. }, heard) = (end(&ids, 2), heard.clone());
            let then = Box::new(move |_: &Change, _| {
                heard.fetch_add(1, Ordering::SeqCst);
            });
            journal.change(change, then);
            poll_fn(|cx| Poll::Ready(running.as_mut().poll(cx).is_pending())).await;
        }
        drop(running);

        let n_taken = n_polls - journal.changes_waiting();
        assert_eq!(heard.load(Ordering::SeqCst), n_taken, "{n_polls} polls");
        journal.queue().changes.clear();
    }
}

/// A store that answers when it is looked at for the second time, and calls who asked as soon as it is asked.
#[derive(Default)]
struct Hasty {
    memory: Memory,
    /// What happens as soon as it has called.
    then: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// It has no room for new tasks.
    is_full: bool,
}

impl fmt::Debug for Hasty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasty")
    }
}

macro_rules! never_asked {
    ($($verb:ident($($of:ty),*) -> $what:ty;)*) => {
        $(fn $verb(&self, $(_: $of),*) -> BackendFuture<'_, $what> {
            unreachable!("a journal writes")
        })*
    };
}

/// The other verbs.
macro_rules! nothing_else {
    () => {
        never_asked! {
            join(Instance) -> ();
            beat(InstanceId, Timestamp) -> Standing;
            instances() -> Vec<Peer>;
            supersede(InstanceId, Timestamp) -> ();
            leave(InstanceId) -> ();
            step(Arc<Step>) -> Stepped;
            records(RecordQuery) -> Vec<Record>;
            claim(Claim) -> Claimed;
            orphans(usize) -> Vec<Task>;
            held(InstanceId) -> Vec<TaskId>;
            get(TaskId) -> Option<Task>;
            list(ListQuery) -> Page;
            ahead(AheadQuery) -> AheadPage;
            logs(TaskId, usize, usize) -> Vec<LogLine>;
            counts() -> Vec<Count>;
            series(Timestamp) -> Vec<Minute>;
            audit(Option<TaskId>, usize) -> Vec<AuditEntry>;
            prune(Prune) -> Pruned;
            close() -> ();
        }
    };
}

impl Backend for Hasty {
    fn describe(&self) -> String {
        "a store for tests".to_owned()
    }

    fn write(&self, batch: Arc<Batch>) -> BackendFuture<'_, Written> {
        Box::pin(async move {
            let mut is_asked = false;
            poll_fn(|cx| {
                if std::mem::replace(&mut is_asked, true) {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                let then = self.then.lock().unwrap().take();
                if let Some(then) = then {
                    then();
                }
                Poll::Pending
            })
            .await;
            if self.is_full && !batch.tasks.is_empty() {
                return Err(BackendError::full("on demand"));
            }
            self.memory.write(batch).await
        })
    }

    nothing_else!();
}

/// Adds a task; its answer comes by the channel.
fn add_one(journal: &Journal, ids: &IdSource) -> oneshot::Receiver<Result<Answers, Error>> {
    let answer = queue_one(journal, ids);
    journal.begin(|_| ());
    answer
}

fn queue_one(journal: &Journal, ids: &IdSource) -> oneshot::Receiver<Result<Answers, Error>> {
    let (caller, answer) = oneshot::channel();
    let Add { tasks, .. } = add(ids, 40);
    let then: ThenAdded = Box::new(|written| match written {
        Ok(written) => Ok(written.into()),
        Err(failure) => Err(unavailable(failure)),
    });
    assert!(journal.add(tasks, then, caller).is_ok());
    answer
}

#[tokio::test]
async fn a_store_that_answers_before_the_journal_can_see_what_it_was_asked_is_heard() {
    let (ids, clock) = (IdSource::default(), Clock::manual(NOW));
    let store = Arc::new(Hasty::default());
    let journal = Arc::new(journal_on(store.clone(), clock));
    let running = {
        let journal = journal.clone();
        let running = async move { journal.run(|_| ()).await };
        Arc::new(Mutex::new(Box::pin(running)))
    };
    let look = {
        let running = running.clone();
        move |cx: &mut Context<'_>| {
            assert!(running.lock().unwrap().as_mut().poll(cx).is_pending());
        }
    };
    let (woken, mut wakes) = tokio::sync::mpsc::unbounded_channel();
    let waker: Waker = Arc::new(Woken(woken)).into();
    look(&mut Context::from_waker(&waker)); // and rests
    *store.then.lock().unwrap() = Some(Box::new({
        let (look, waker) = (look.clone(), waker.clone());
        move || look(&mut Context::from_waker(&waker))
    }));

    let mut answer = add_one(&journal, &ids);

    while wakes.try_recv().is_ok() {
        look(&mut Context::from_waker(&waker));
    }
    let answer = answer.try_recv().expect("the journal was woken");
    assert_eq!(answer.unwrap().as_slice(), [Enqueued::Created]);
}

#[tokio::test(start_paused = true)]
async fn a_full_store_is_told_what_has_ended_however_many_add_all_the_time() {
    let (ids, clock) = (IdSource::default(), Clock::manual(NOW));
    let store = Hasty {
        is_full: true,
        ..Hasty::default()
    };
    let journal = journal_on(Arc::new(store), clock);
    let heard = Arc::new(AtomicUsize::new(0));
    let end_one = || {
        let heard = heard.clone();
        let then = Box::new(move |_: &Change, _| {
            heard.fetch_add(1, Ordering::SeqCst);
        });
        journal.change(end(&ids, 2).change, then);
    };
    let works = async {
        let mut answer = queue_one(&journal, &ids);
        for n in 1..=20 {
            end_one();
            while heard.load(Ordering::SeqCst) < n {
                tokio::select! {
                    refused = &mut answer => {
                        assert!(refused.unwrap().is_err());
                        answer = queue_one(&journal, &ids);
                    }
                    () = tokio::time::sleep(Duration::from_millis(1)) => {}
                }
            }
        }
    };

    let both = async {
        tokio::select! {
            () = journal.run(|_| ()) => {}
            () = works => {}
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(100), both).await;

    assert!(in_time.is_ok(), "{heard:?}");
}

/// Counts how often it was woken.
struct Woken(tokio::sync::mpsc::UnboundedSender<()>);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        let _ = self.0.send(()); // the test may be over
    }
}

#[tokio::test]
async fn what_a_caller_has_begun_when_the_journal_ends_is_told_and_kept_for_the_next_one() {
    let (ids, clock) = (IdSource::default(), Clock::manual(NOW));
    let store = Arc::new(Hasty::default());
    let journal = journal_on(store, clock);
    let mut running = Box::pin(journal.run(|_| ()));
    poll_fn(|cx| Poll::Ready(running.as_mut().poll(cx).is_pending())).await;
    let heard = Arc::new(AtomicUsize::new(0));
    let then = {
        let heard = heard.clone();
        Box::new(move |_: &Change, _| {
            heard.fetch_add(1, Ordering::SeqCst);
        })
    };
    journal.change(end(&ids, 2).change, then);
    let mut answer = add_one(&journal, &ids);

    drop(running);

    let failure = answer.try_recv().expect("he is told").unwrap_err();
    assert!(failure.to_string().contains("ended before"), "{failure}");
    assert_eq!(journal.changes_waiting(), 1);
    let mut answer = add_one(&journal, &ids);
    let written = async {
        tokio::select! {
            () = journal.run(|_| ()) => None,
            answer = &mut answer => answer.ok(),
        }
    };
    let written = tokio::time::timeout(Duration::from_secs(20), written).await;
    assert!(written.expect("it goes on").is_some_and(|it| it.is_ok()));
    assert_eq!(heard.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_journal_that_nobody_writes_any_more_keeps_nothing_that_waits_or_comes() {
    let (ids, clock) = (IdSource::default(), Clock::manual(NOW));
    let journal = journal_on(Arc::new(Memory::default()), clock);
    let engine = Arc::new(());
    let change = || {
        let kept = engine.clone();
        journal.change(
            end(&ids, 2).change,
            Box::new(move |_: &Change, _| drop(kept)),
        );
    };
    let says = || {
        let progress = Progress {
            fraction: 0.5,
            message: String::new(),
        };
        for what in [Said::Progress(progress), line(0)] {
            let (id, epoch) = (ids.task(NOW), Epoch::ZERO.next());
            journal.note(Note { id, epoch, what });
        }
    };
    change();
    says();
    assert_eq!(Arc::strong_count(&engine), 2);
    let hour = Duration::from_secs(3_600);
    journal.place(1, hour).await.unwrap();
    let mut added = queue_one(&journal, &ids);
    let mut place = Box::pin(journal.place(1, hour));
    assert!(poll_fn(|cx| Poll::Ready(place.as_mut().poll(cx).is_pending())).await);

    journal.forsake();

    assert_eq!(Arc::strong_count(&engine), 1, "what waited");
    assert!(added.try_recv().is_err(), "its caller is let go");
    let placed = tokio::time::timeout(Duration::from_secs(20), place).await;
    placed
        .expect("who waits for a place is refused next")
        .unwrap();
    assert!(journal.is_closed());
    assert!(journal.queue().is_empty());
    change();
    says();
    assert_eq!(Arc::strong_count(&engine), 1, "what came");
    assert_eq!(journal.changes_waiting(), 0);
    assert!(journal.queue().is_empty());
}

#[tokio::test]
async fn what_a_caller_was_just_beginning_when_the_journal_was_forsaken_is_told_and_let_go() {
    let (ids, clock) = (IdSource::default(), Clock::manual(NOW));
    let journal = journal_on(Arc::new(Memory::default()), clock);
    let engine = Arc::new(());
    let then = {
        let kept = engine.clone();
        Box::new(move |_: &Change, _| drop(kept))
    };
    journal.change(end(&ids, 2).change, then);
    let mut answer = queue_one(&journal, &ids);
    let flight = taken(&journal);

    journal.forsake();
    let begun: Begun = (flight, Box::pin(std::future::pending()));
    journal.has_begun(journal.queue(), begun);

    let failure = answer.try_recv().expect("he is told").unwrap_err();
    assert!(failure.to_string().contains("ended before"), "{failure}");
    assert_eq!(Arc::strong_count(&engine), 1);
}

/// A store that is asked for batches that it takes later, and takes and answers them when the test says so.
#[derive(Default)]
struct Patient {
    memory: Memory,
    asked: Mutex<VecDeque<Asked>>,
}

struct Asked {
    next: NextBatch,
    answer: oneshot::Sender<Result<Written, BackendError>>,
}

impl fmt::Debug for Patient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Patient")
    }
}

impl Patient {
    fn n_asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// It begins with what it was asked first: what it takes, and where the answer is to go.
    fn begin(
        &self,
    ) -> (
        Option<Arc<Batch>>,
        oneshot::Sender<Result<Written, BackendError>>,
    ) {
        let Asked { next, answer } = self.asked.lock().unwrap().pop_front().expect("it is asked");
        (next(), answer)
    }

    /// And writes that.
    async fn work_off(&self) -> Arc<Batch> {
        let (batch, answer) = self.begin();
        let batch = batch.expect("something waits");
        let written = self.memory.write(batch.clone()).await;
        assert!(answer.send(written).is_ok());
        batch
    }
}

impl Backend for Patient {
    fn describe(&self) -> String {
        "a store for tests".to_owned()
    }

    fn write(&self, batch: Arc<Batch>) -> BackendFuture<'_, Written> {
        self.pull(Box::new(|| Some(batch)))
    }

    fn pulls(&self) -> bool {
        true
    }

    fn pull(&self, next: NextBatch) -> BackendFuture<'_, Written> {
        let (answer, answered) = oneshot::channel();
        self.asked.lock().unwrap().push_back(Asked { next, answer });
        Box::pin(async {
            let gone = |_| BackendError::unavailable("it cannot begin");
            answered.await.map_err(gone)?
        })
    }

    nothing_else!();
}

/// A journal on such a store, and a run of it that goes on when it is looked at.
struct Bench {
    ids: IdSource,
    store: Arc<Patient>,
    journal: Arc<Journal>,
    running: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Bench {
    async fn new() -> Self {
        let store = Arc::new(Patient::default());
        let journal = Arc::new(journal_on(store.clone(), Clock::manual(NOW)));
        let mut bench = Self {
            ids: IdSource::default(),
            store,
            journal,
            running: None,
        };
        bench.look().await;
        bench
    }

    /// Lets the journal do what it can.
    async fn look(&mut self) {
        let journal = self.journal.clone();
        let running = self
            .running
            .get_or_insert_with(|| Box::pin(async move { journal.run(|_| ()).await }));
        poll_fn(|cx| Poll::Ready(running.as_mut().poll(cx).is_pending())).await;
    }

    fn add(&self) -> oneshot::Receiver<Result<Answers, Error>> {
        add_one(&self.journal, &self.ids)
    }

    fn end(&self) -> (Change, Arc<AtomicUsize>) {
        let heard = Arc::new(AtomicUsize::new(0));
        let Entry { change, .. } = end(&self.ids, 2);
        self.change(change.clone(), &heard);
        (change, heard)
    }

    fn change(&self, change: Change, heard: &Arc<AtomicUsize>) {
        let heard = heard.clone();
        let then = move |_: &Change, _| {
            heard.fetch_add(1, Ordering::SeqCst);
        };
        self.journal.change(change, Box::new(then));
    }
}

#[tokio::test]
async fn a_store_that_takes_batches_later_gets_what_waits_by_then_and_is_asked_for_it_once() {
    let mut bench = Bench::new().await;
    let mut first = bench.add();
    bench.look().await;
    assert_eq!(bench.store.n_asked(), 1, "nothing else waits");

    let mut second = bench.add();
    bench.look().await;
    let mut third = bench.add();
    bench.look().await;
    assert_eq!(bench.store.n_asked(), 2);
    assert_eq!(bench.store.work_off().await.tasks.len(), 1);
    let mut fourth = bench.add();
    assert_eq!(bench.store.work_off().await.tasks.len(), 3);
    bench.look().await;

    for answer in [&mut first, &mut second, &mut third, &mut fourth] {
        let answer = answer.try_recv().expect("it is stored").unwrap();
        assert_eq!(answer.as_slice(), [Enqueued::Created]);
    }
    assert!(bench.journal.is_idle());
}

#[tokio::test]
async fn while_a_batch_is_written_that_was_taken_late_the_next_is_asked_for() {
    let mut bench = Bench::new().await;
    let _answers = [bench.add(), bench.add()];
    bench.look().await;
    bench.store.work_off().await;
    let (taken, answer) = bench.store.begin();
    assert_eq!(taken.expect("one waits").tasks.len(), 1);
    bench.look().await;
    assert_eq!(bench.store.n_asked(), 0, "nothing waits");

    let _answer = bench.add();
    bench.look().await;

    assert_eq!(bench.store.n_asked(), 1);
    drop(answer);
}

#[tokio::test]
async fn a_batch_that_is_taken_late_has_nothing_of_tasks_of_which_the_journal_has_not_heard() {
    let mut bench = Bench::new().await;
    let (change, first) = bench.end();
    bench.look().await;
    let (_, other) = bench.end();
    let again = Arc::default();
    bench.change(change.clone(), &again);
    bench.look().await;

    let one = bench.store.work_off().await;
    let two = bench.store.work_off().await;
    bench.look().await;

    let ids = |batch: &Batch| batch.changes.iter().map(|it| it.id).collect::<Vec<_>>();
    assert_eq!(ids(&one), [change.id]);
    assert!(!ids(&two).contains(&change.id), "{:?}", ids(&two));
    let three = bench.store.work_off().await;
    assert_eq!(ids(&three), [change.id]);
    bench.look().await;
    for heard in [first, other, again] {
        assert_eq!(heard.load(Ordering::SeqCst), 1);
    }
    assert!(bench.journal.is_idle());
}

/// Calls this for each log line.
struct OnLine(Box<dyn Fn(Level) + Send + Sync>);

impl tracing::Subscriber for OnLine {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        self.0(*event.metadata().level());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn what_follows_from_a_batch_that_failed_is_not_taken_before_that_waits_again() {
    let mut bench = Bench::new().await;
    let (change, first) = bench.end();
    bench.look().await;
    let (other, _) = bench.end();
    bench.change(change.clone(), &Arc::default());
    bench.look().await;
    let (_, failed) = bench.store.begin();
    assert!(
        failed
            .send(Err(BackendError::unavailable("on demand")))
            .is_ok()
    );
    let begun = Arc::new(Mutex::new(None));
    let on_line = {
        let (store, begun) = (bench.store.clone(), begun.clone());
        move |_| *begun.lock().unwrap() = Some(store.begin())
    };

    {
        let _guard = tracing::subscriber::set_default(OnLine(Box::new(on_line)));
        bench.look().await;
    }

    let (taken, _answer) = begun.lock().unwrap().take().expect("it is said");
    let ids: Vec<TaskId> = taken.unwrap().changes.iter().map(|it| it.id).collect();
    assert_eq!(ids, [other.id]);
    assert_eq!(first.load(Ordering::SeqCst), 0);
    assert_eq!(bench.journal.changes_waiting(), 2);
}

#[tokio::test]
async fn the_store_is_not_asked_for_what_can_only_follow_from_a_batch_on_its_way() {
    let mut bench = Bench::new().await;
    let (change, _) = bench.end();
    bench.look().await;
    let again = Arc::default();
    bench.change(change, &again);
    bench.look().await;
    assert_eq!(bench.store.n_asked(), 1, "it would find nothing to take");

    bench.end();
    bench.look().await;
    assert_eq!(bench.store.n_asked(), 2);
    bench.store.work_off().await;
    bench.look().await;
    bench.store.work_off().await;
    bench.look().await;

    assert_eq!(again.load(Ordering::SeqCst), 1);
    assert!(bench.journal.is_idle());
}

#[tokio::test]
async fn if_nothing_is_left_when_the_store_comes_to_it_the_journal_rests_and_begins_anew() {
    let mut bench = Bench::new().await;
    let _first = bench.add();
    let given_up = {
        let Add {
            tasks,
            then,
            caller,
        } = add(&bench.ids, 40);
        let id = tasks[0].id;
        assert!(bench.journal.add(tasks, then, caller).is_ok());
        bench.journal.begin(|_| ());
        id
    };
    bench.look().await;
    assert_eq!(bench.store.n_asked(), 2);
    assert!(bench.journal.take_back(given_up));

    bench.store.work_off().await;
    let (nothing, answer) = bench.store.begin();
    assert!(nothing.is_none());
    assert!(answer.send(Ok(Written::default())).is_ok());
    bench.look().await;

    assert!(bench.journal.is_idle());
    let mut later = bench.add();
    bench.look().await;
    bench.store.work_off().await;
    bench.look().await;
    assert!(later.try_recv().expect("it is stored").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_the_store_could_not_begin_with_is_asked_for_again_and_loses_nothing() {
    let mut bench = Bench::new().await;
    let _first = bench.add();
    let (_, heard) = bench.end();
    let mut added = bench.add();
    bench.look().await;
    bench.store.work_off().await;

    let _dropped = bench.store.asked.lock().unwrap().pop_front();
    drop(_dropped);
    bench.look().await;
    assert_eq!(bench.journal.changes_waiting(), 1);
    assert!(added.try_recv().is_err(), "it waits");
    tokio::time::sleep(RETRY_MAX).await;
    bench.look().await;
    bench.store.work_off().await;
    bench.look().await;

    assert_eq!(heard.load(Ordering::SeqCst), 1);
    assert!(added.try_recv().expect("it is stored").is_ok());
    assert!(bench.journal.is_idle());
    let _answers = [bench.add(), bench.add()];
    bench.look().await;
    assert_eq!(bench.store.n_asked(), 2, "and ahead, as before");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_says_it_has_written_what_it_never_took_has_failed() {
    let mut bench = Bench::new().await;
    let _first = bench.add();
    bench.look().await;
    let (_, heard) = bench.end();
    bench.look().await;
    let Asked { next, answer } = bench.store.asked.lock().unwrap().pop_back().unwrap();
    drop(next);
    assert!(answer.send(Ok(Written::default())).is_ok());

    bench.look().await;
    bench.store.work_off().await;
    bench.look().await;
    assert_eq!(bench.store.n_asked(), 0, "it is not asked again at once");
    tokio::time::sleep(RETRY_MAX).await;
    bench.look().await;
    bench.store.work_off().await;
    bench.look().await;

    assert_eq!(heard.load(Ordering::SeqCst), 1);
    assert!(bench.journal.is_idle());
}

#[tokio::test]
async fn what_the_store_has_taken_late_when_the_journal_ends_is_told_and_kept() {
    let mut bench = Bench::new().await;
    let _first = bench.add();
    let (change, heard) = bench.end();
    let mut added = bench.add();
    bench.look().await;
    bench.store.work_off().await;
    let (taken, answer) = bench.store.begin();
    assert_eq!(taken.expect("they wait").changes.len(), 1);

    bench.running = None;

    let failure = added.try_recv().expect("he is told").unwrap_err();
    assert!(failure.to_string().contains("ended before"), "{failure}");
    assert_eq!(bench.journal.changes_waiting(), 1);
    assert!(answer.send(Ok(Written::default())).is_err());
    bench.look().await;
    assert_eq!(bench.store.work_off().await.changes[0].id, change.id);
    bench.look().await;
    assert_eq!(heard.load(Ordering::SeqCst), 1);
    assert!(bench.journal.is_idle());
}

/// How what is said is meant when the journal ends.
fn said_at_the_end(bench: &mut Bench) -> Vec<Level> {
    let said = Arc::<Mutex<Vec<Level>>>::default();
    let on_line = {
        let said = said.clone();
        move |level| said.lock().unwrap().push(level)
    };
    let _guard = tracing::subscriber::set_default(OnLine(Box::new(on_line)));
    bench.running = None;
    std::mem::take(&mut *said.lock().unwrap())
}

#[tokio::test]
async fn that_the_journal_ends_before_the_store_has_answered_is_no_error_of_the_store() {
    let mut on_its_way = Bench::new().await;
    let _added = on_its_way.add();
    on_its_way.look().await;
    let mut only_asked = Bench::new().await;
    let _added = only_asked.add();
    only_asked.end();
    only_asked.look().await;
    only_asked.store.work_off().await;
    only_asked.look().await;
    assert_eq!(only_asked.store.n_asked(), 1);

    assert_eq!(said_at_the_end(&mut on_its_way), [Level::WARN]);
    let nothing = said_at_the_end(&mut only_asked);
    assert!(nothing.is_empty(), "{nothing:?}");
}

#[tokio::test]
async fn a_store_takes_nothing_for_a_journal_that_has_ended_or_is_forsaken() {
    let mut bench = Bench::new().await;
    let _first = bench.add();
    let (_, heard) = bench.end();
    bench.look().await;
    bench.store.work_off().await;

    bench.running = None;

    let (nothing, _answer) = bench.store.begin();
    assert!(nothing.is_none(), "nobody would hear of it");
    assert_eq!(bench.journal.changes_waiting(), 1);
    bench.journal.forsake();
    assert_eq!(Arc::strong_count(&heard), 1);
    let late = end(&bench.ids, 2);
    bench.journal.queue().changes.push_back(late); // what comes back
    assert!(Late::default().take(&bench.journal.intake).is_none());
}

#[tokio::test]
async fn of_many_who_add_half_are_written_while_the_others_are_told() {
    let mut bench = Bench::new().await;
    let add = |n: usize| {
        let adds = (0..n).map(|_| add(&bench.ids, 40));
        bench.journal.queue().adds.extend(adds);
    };
    add(64);

    let first = taken(&bench.journal);
    assert_eq!(first.adds.len(), 32);
    let second = taken(&bench.journal);
    assert_eq!(second.adds.len(), 32, "the first are under way");
    failed(&bench.journal, first);
    failed(&bench.journal, second);
    add(20);
    assert_eq!(taken(&bench.journal).adds.len(), 16, "so few go together");
    assert_eq!(taken(&bench.journal).adds.len(), 4);
    bench.look().await;
}

#[tokio::test]
async fn a_second_batch_goes_once_half_as_much_waits_as_is_in_the_last() {
    let (ids, clock) = (IdSource::default(), Clock::manual(NOW));
    let mut journal = journal_on(Arc::new(Memory::default()), clock);
    journal.writes_at_once = 2;
    Arc::get_mut(&mut journal.intake).unwrap().several = true;
    let add = |n: usize| {
        let adds = (0..n).map(|_| add(&ids, 40));
        journal.queue().adds.extend(adds);
    };
    let end = |n: usize| {
        for Entry { change, then } in (0..n).map(|_| end(&ids, 2)) {
            journal.change(change, then);
        }
    };
    let mut going = VecDeque::new();
    let sizes = |next: &Going| next.flight().map(|it| (it.adds.len(), it.thens.len()));
    let mut next = |lands: bool| {
        if lands {
            let landed: Going = going.pop_front().unwrap();
            let (flight, _) = landed.unload(&journal.intake);
            journal.intake.has_landed(&flight.batch);
        }
        let next = journal.next(BATCH_MAX, &going)?;
        let sizes = sizes(&next);
        going.push_back(next);
        sizes
    };

    add(64);
    assert_eq!(next(false), Some((32, 0)));
    assert_eq!(next(false), Some((32, 0)), "the other half");
    add(10);
    end(5);
    assert_eq!(next(true), None);
    let to_come = {
        let queue = journal.queue();
        queue.wakes_at - queue.len()
    };
    assert_eq!(to_come, 1);
    end(1);
    assert_eq!(next(false), Some((10, 6)));

    assert_eq!(next(true), None, "nothing waits");
    add(1);
    end(30);
    assert_eq!(next(true), Some((1, 30)), "beside none");
    end(14);
    assert_eq!(next(false), None);
    end(1);
    assert_eq!(next(false), Some((0, 15)));
}
