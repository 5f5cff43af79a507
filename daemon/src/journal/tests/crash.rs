//! kill -9 of a real process that writes: what it was told to be durable is in the file.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Place, now, numbers, record};
use crate::journal::failpoint::{VARIABLE, from_env};
use crate::journal::{Hook, Options, Stage, open};

const PLACE: &str = "METIS_TEST_JOURNAL";
const STALL: &str = "METIS_TEST_STALL";
const ROUNDS: u64 = 400;

/// What the other tests start as a process of its own; by itself, without their variable, it does nothing.
#[tokio::test]
async fn writer_process() {
    let Some(place) = std::env::var_os(PLACE).map(std::path::PathBuf::from) else { return };
    let options = Options { deadline: Duration::from_secs(10), ..Options::new(place.join("state"), place.join("run/spill.jsonl")) };
    match std::env::var(STALL).ok().and_then(|at| at.parse().ok()) {
        Some(at) => stalled_writer(options, at).await,
        None => healthy_writer(Options { hook: from_env(), ..options }).await,
    }
}

/// Writes once, then the disk hangs for good at this stage: one append is refused, its records are kept.
async fn stalled_writer(options: Options, at: usize) {
    let stage = [Stage::Begun, Stage::Filled, Stage::Committed][at];
    let hang = Arc::new(AtomicBool::new(false));
    let stall = hang.clone();
    let hook = Hook(Arc::new(move |now| {
        while now == stage && stall.load(Ordering::Relaxed) {
            std::thread::park();
        }
    }));
    let options = Options { deadline: Duration::from_millis(300), hook: Some(hook), ..options };
    let journal = open(options, &now()).unwrap().journal;
    while journal.append(vec![record("a", None, 1)], &now()).await.is_err() {}
    hang.store(true, Ordering::Relaxed);
    assert!(journal.append(vec![record("a", None, 2), record("a", None, 3)], &now()).await.is_err());
    let kept = journal.keep(vec![record("a", None, 4), record("a", None, 5)], &now()).await;
    assert_eq!(kept.place, crate::journal::KeptIn::Spill);
    println!("\nacknowledged 5");
    tokio::time::sleep(Duration::from_secs(60)).await;
}

async fn healthy_writer(options: Options) {
    let journal = open(options, &now()).unwrap().journal;
    for n in 0..ROUNDS {
        journal.append(vec![record("a", None, 2 * n + 1), record("a", Some("burn-1"), 2 * n + 2)], &now()).await.unwrap();
        println!("\nacknowledged {}", 2 * n + 2);
        if n % 5 == 4 {
            journal.checkpoint(2 * n + 2, "{}".into(), &now()).await.unwrap();
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "this test starts itself")]
fn start(place: &Place, variable: Option<(&str, u64)>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "journal::tests::crash::writer_process", "--nocapture", "--test-threads=1"]);
    command.env(PLACE, place.dir().parent().unwrap()).stdout(Stdio::piped()).stderr(Stdio::null());
    if let Some((name, value)) = variable {
        command.env(name, value.to_string());
    }
    command.spawn().unwrap()
}

/// The last number that was acknowledged before the process ended or `enough` is reached.
fn listen(child: &mut Child, enough: u64) -> u64 {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let acknowledged = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
    acknowledged.inspect(|n| assert!(*n <= 2 * ROUNDS)).take_while(|n| *n < enough).last().unwrap_or(0)
}

/// Everything that was acknowledged is there, what is there has no gap, and no half transaction.
fn check(place: &Place, acknowledged: u64) {
    let opened = place.open();
    assert_eq!(opened.problems, Vec::<String>::new());
    let after = opened.checkpoint.map_or(0, |(seq, _)| seq);
    let last = opened.journal.last_seq();
    assert!(last >= acknowledged && last.is_multiple_of(2), "{last} of {acknowledged}");
    assert_eq!(numbers(&opened.tail), (after + 1..=last).collect::<Vec<_>>());
    assert_eq!(numbers(&opened.journal.reader().facts(0, 10_000).unwrap()), (1..=last).collect::<Vec<_>>());
    opened.journal.close();
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill() {
    for enough in [2, 20, 101] {
        let place = Place::new();
        let mut child = start(&place, None);
        let acknowledged = listen(&mut child, enough);
        child.kill().unwrap();
        child.wait().unwrap();
        check(&place, acknowledged);
    }
}

#[tokio::test]
async fn a_kill_at_every_stage_of_a_write_loses_nothing() {
    use std::os::unix::process::ExitStatusExt as _;
    for at in 1..=24 {
        let place = Place::new();
        let mut child = start(&place, Some((VARIABLE, at)));
        let acknowledged = listen(&mut child, u64::MAX);
        assert_eq!(child.wait().unwrap().signal(), Some(9), "stage {at} was reached");
        // Three stages a write; the sixth write is the first checkpoint.
        let writes = (at - 1) / 3;
        assert_eq!(acknowledged, 2 * if writes > 5 { writes - 1 } else { writes }, "the writes before were acknowledged");
        check(&place, acknowledged);
    }
}

/// The late commit of a refused append is in the file when the daemon is killed; what was kept is in the spill file.
#[tokio::test]
async fn a_kill_while_the_disk_hangs_keeps_what_was_kept_and_nothing_that_was_refused() {
    for stage in 0..3 {
        let place = Place::new();
        let mut child = start(&place, Some((STALL, stage)));
        listen(&mut child, 5);
        child.kill().unwrap();
        child.wait().unwrap();
        for _ in 0..2 {
            let opened = place.open();
            assert_eq!((numbers(&opened.tail), opened.problems), (vec![1, 4, 5], vec![]), "stage {stage}");
            opened.journal.close();
        }
    }
}
