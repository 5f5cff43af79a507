//! kill -9 of a real process that writes: what it was told to be durable is in the file.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use super::{Place, now, numbers, record};
use crate::journal::failpoint::{VARIABLE, from_env};
use crate::journal::{Options, open};

const PLACE: &str = "METIS_TEST_JOURNAL";
const ROUNDS: u64 = 400;

/// Not a test of its own: what the other tests start as a process of its own.
#[tokio::test]
async fn writer_process() {
    let Some(place) = std::env::var_os(PLACE).map(std::path::PathBuf::from) else { return };
    let options = Options { hook: from_env(), ..Options::new(place.join("state"), place.join("run/spill.jsonl")) };
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
fn start(place: &Place, kill_at: Option<u64>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "journal::tests::crash::writer_process", "--nocapture", "--test-threads=1"]);
    command.env(PLACE, place.dir().parent().unwrap()).stdout(Stdio::piped()).stderr(Stdio::null());
    if let Some(at) = kill_at {
        command.env(VARIABLE, at.to_string());
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
        let mut child = start(&place, Some(at));
        let acknowledged = listen(&mut child, u64::MAX);
        assert_eq!(child.wait().unwrap().signal(), Some(9), "stage {at} was reached");
        // Three stages a write; the sixth write is the first checkpoint.
        let writes = (at - 1) / 3;
        assert_eq!(acknowledged, 2 * if writes > 5 { writes - 1 } else { writes }, "the writes before were acknowledged");
        check(&place, acknowledged);
    }
}
