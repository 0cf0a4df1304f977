//! Batches that fail, panic or are heard of late; and what waits meanwhile.

use std::{fmt, future::poll_fn};

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
        let nothing = HashSet::new();
        let flight = journal.take_from(journal.queue(), BATCH_MAX, Writer::Journal, &nothing);
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

    journal.end(change, then, || journal.queue.try_lock().is_err());

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
    let nothing = HashSet::new();
    journal.take_from(journal.queue(), BATCH_MAX, Writer::Journal, &nothing)
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
    let nothing = HashSet::new();
    let flight = journal.take_from(journal.queue(), BATCH_MAX, Writer::Caller, &nothing);

    journal.forsake();
    let begun: Begun = (flight, Box::pin(std::future::pending()));
    journal.has_begun(journal.queue(), begun);

    let failure = answer.try_recv().expect("he is told").unwrap_err();
    assert!(failure.to_string().contains("ended before"), "{failure}");
    assert_eq!(Arc::strong_count(&engine), 1);
}
