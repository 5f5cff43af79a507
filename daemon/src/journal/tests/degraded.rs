//! A disk that hangs: what was refused is not there, what was kept is there once, in order.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::{Place, now, numbers, record, well};
use crate::journal::{AppendError, Hook, Journal, KeptIn, Options, Stage, open};

const DEADLINE: Duration = Duration::from_millis(400);

/// Stalls writes at one stage while it is shut.
#[derive(Clone)]
struct Gate {
    shut: Arc<(Mutex<bool>, Condvar)>,
}

impl Gate {
    fn new(at: Stage) -> (Self, Hook) {
        let gate = Self { shut: Arc::default() };
        let shut = gate.shut.clone();
        let hook = Hook(Arc::new(move |stage| {
            if stage == at {
                drop(shut.1.wait_while(shut.0.lock().unwrap(), |shut| *shut).unwrap());
            }
        }));
        (gate, hook)
    }

    fn set(&self, shut: bool) {
        *self.shut.0.lock().unwrap() = shut;
        self.shut.1.notify_all();
    }
}

fn open_with(place: &Place, hook: Hook) -> Journal {
    open(Options { deadline: DEADLINE, hook: Some(hook), ..place.options() }, &now()).unwrap().journal
}

/// Payload numbers of everything, as the next start sees it.
fn reopened(place: &Place, journal: Journal) -> Vec<u64> {
    journal.close();
    let opened = place.open();
    assert_eq!(opened.problems, Vec::<String>::new());
    assert!(opened.tail.is_sorted_by(|a, b| a.seq < b.seq));
    opened.journal.close();
    numbers(&opened.tail)
}

#[tokio::test]
async fn a_shutdown_goes_on_while_the_disk_hangs() {
    for stage in [Stage::Begun, Stage::Filled, Stage::Committed] {
        let place = Place::fast();
        let (gate, hook) = Gate::new(stage);
        let journal = open_with(&place, hook);
        journal.append(vec![record("a", Some("shutdown-1"), 1)], &now()).await.unwrap();

        gate.set(true);
        let refused = journal.append(vec![record("a", Some("shutdown-1"), 2)], &now()).await;
        assert!(matches!(refused, Err(AppendError::Timeout(DEADLINE))));
        assert!(journal.health().borrow().trouble.is_some());
        // The same again, kept.
        assert_eq!(journal.keep(vec![record("a", Some("shutdown-1"), 3)], &now()).await.place, KeptIn::Spill);
        // As long as the disk hangs, nobody waits for it again.
        let began = Instant::now();
        assert!(journal.append(vec![record("b", Some("burn-1"), 4)], &now()).await.is_err());
        assert!(began.elapsed() < DEADLINE / 2);
        assert_eq!(journal.keep(vec![record("a", Some("shutdown-1"), 5)], &now()).await.place, KeptIn::Spill);
        assert_eq!(journal.keep(vec![record("a", Some("startup-1"), 7)], &now()).await.place, KeptIn::Spill);
        assert_eq!(journal.health().borrow().backlog, 3);
        // Readers see what is kept and not what is refused.
        let reader = journal.reader();
        assert_eq!(numbers(&reader.of_run(&"shutdown-1".into(), 0, 10).unwrap()).iter().filter(|n| **n != 2).count(), 3);
        assert_eq!(numbers(&reader.runs(None, 2).unwrap()), [7, 1]);

        gate.set(false);
        well(&journal).await;
        assert_eq!(numbers(&reader.facts(0, 10).unwrap()), [1, 3, 5, 7], "{stage:?}");
        journal.append(vec![record("a", Some("shutdown-1"), 6)], &now()).await.unwrap();
        assert_eq!(reopened(&place, journal), [1, 3, 5, 7, 6], "{stage:?}");
        assert!(!place.spill().exists());
    }
}

/// Writes that take about as long as the deadline: whoever wins, caller and file agree.
#[tokio::test]
async fn caller_and_file_agree_whoever_wins() {
    let place = Place::fast();
    let turn = AtomicU64::new(0);
    let deadline = Duration::from_millis(10);
    let hook = Hook(Arc::new(move |stage| {
        if stage != Stage::Begun {
            let turn = turn.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_micros(turn * 7919 % 8000));
        }
    }));
    let journal = open(Options { deadline, hook: Some(hook), ..place.options() }, &now()).unwrap().journal;
    let (mut expected, mut refused) = (Vec::new(), 0);
    for n in 1..=150 {
        match journal.append(vec![record("a", None, 2 * n), record("a", None, 2 * n + 1)], &now()).await {
            Ok(_) => expected.extend([2 * n, 2 * n + 1]),
            Err(_) if n % 3 == 0 => {
                refused += 1;
                journal.keep(vec![record("a", None, 2 * n), record("a", None, 2 * n + 1)], &now()).await;
                expected.extend([2 * n, 2 * n + 1]);
            }
            Err(_) => {
                refused += 1;
                tokio::time::sleep(deadline).await;
            }
        }
    }
    println!("{refused} of 150 appends were refused");
    assert!(refused > 0 && refused < 150);
    assert_eq!(reopened(&place, journal), expected);
}

#[tokio::test]
async fn a_queue_that_is_full_is_said() {
    let place = Place::fast();
    let (gate, hook) = Gate::new(Stage::Begun);
    let journal = open(Options { queue: 1, deadline: DEADLINE, hook: Some(hook), ..place.options() }, &now()).unwrap().journal;
    gate.set(true);
    let appends = (1..=4).map(|n| {
        let journal = journal.clone();
        async move { journal.append(vec![record("a", None, n)], &now()).await }
    });
    let answers = futures::future::join_all(appends).await;
    assert!(answers.iter().any(|answer| matches!(answer, Err(AppendError::Busy))), "{answers:?}");
    assert!(answers.iter().all(Result::is_err));
    gate.set(false);
    well(&journal).await;
    // What was withdrawn while it waited is still in the queue for a moment.
    while let Err(error) = journal.append(vec![record("a", None, 5)], &now()).await {
        assert!(matches!(error, AppendError::Busy), "{error}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(reopened(&place, journal), [5]);
}

#[tokio::test]
async fn without_a_spill_file_facts_are_kept_in_memory() {
    let place = Place::fast();
    let (gate, hook) = Gate::new(Stage::Begun);
    let journal = open_with(&place, hook);
    std::fs::remove_dir(place.spill().parent().unwrap()).unwrap();
    gate.set(true);
    assert!(journal.append(vec![record("a", None, 1)], &now()).await.is_err());
    let kept = journal.keep(vec![record("a", None, 1)], &now()).await;
    assert!(matches!(&kept.place, KeptIn::Memory(why) if why.contains("spill.jsonl")), "{kept:?}");
    gate.set(false);
    well(&journal).await;
    journal.close();
    std::fs::create_dir(place.spill().parent().unwrap()).unwrap();
    let opened = place.open();
    assert_eq!(numbers(&opened.tail), [1]);
    opened.journal.close();
}
