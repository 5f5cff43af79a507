//! kill -9 at every journal write of a burn.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use metis_tests::daemon::{Answer, Daemon};
use metis_tests::loopdev::Loop;
use metis_tests::require;

use super::lab::{self, Card, NODE, Row};

/// A scenario that needs more kills than this never ends.
const MOST: u32 = 400;

/// The first life of every daemon: a complete burn that stays in the history.
fn history() -> Daemon {
    let mut daemon = lab::site("");
    daemon.start().unwrap();
    let card = daemon.path("first.img");
    lab::old_card(&card);
    let burnt = daemon.ctl(&["burn", "--node", NODE, "--device", card.to_str().unwrap(), "--yes"]).unwrap();
    assert_eq!(burnt.code, Some(0), "{burnt:?}\n{}", daemon.log());
    assert_eq!(lab::look_at(&card, "a burn that nobody disturbs"), Card::Complete);
    daemon.stop().unwrap();
    daemon
}

/// A second life on that history.
fn second_life(first: &Daemon) -> Daemon {
    let daemon = lab::site("");
    lab::sh("cp -a \"$1\" \"$2\"", &[first.path("state").to_str().unwrap(), daemon.path("state").to_str().unwrap()]);
    daemon
}

/// Whether the daemon died by SIGKILL before it answered.
fn start(daemon: &mut Daemon, kill: &(&str, String)) -> bool {
    daemon.spawn(&[(kill.0, &kill.1)]).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while std::os::unix::net::UnixStream::connect(daemon.socket()).is_err() {
        if died(daemon, Duration::ZERO) {
            return true;
        }
        assert!(Instant::now() < until, "metisd does not answer\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// Whether it has ended, which only its failpoint may do.
fn died(daemon: &mut Daemon, patience: Duration) -> bool {
    match daemon.wait(patience) {
        Ok(status) => {
            assert_eq!(status.signal(), Some(9), "metisd ended by itself: {status}\n{}", daemon.log());
            true
        }
        Err(_) => false,
    }
}

fn burn(daemon: &Daemon, card: &str) -> Child {
    let arguments = ["--timeout", "8", "burn", "--node", NODE, "--device", card, "--allow-fixed", "--yes"];
    daemon.ctl_command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// No process has the card open any more.
fn let_go(card: &Path) {
    let open = || {
        std::fs::read_dir("/proc").unwrap().flatten().any(|process| {
            std::fs::read_dir(process.path().join("fd"))
                .is_ok_and(|fds| fds.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target == card)))
        })
    };
    lab::until("the card is let go of", Duration::from_secs(10), || !open());
}

/// What one killed burn led to.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct End {
    card: Card,
    reason: String,
}

/// One burn with the daemon killed at one place. `None`: it came to its end and stopped without having been there.
fn killed(first: &Daemon, kill: &(&str, String), device: bool) -> Option<End> {
    let when = format!("{}={}", kill.0, kill.1);
    let mut daemon = second_life(first);
    let card = daemon.path("card.img");
    lab::old_card(&card);
    let attached = device.then(|| Loop::attach(&card).unwrap());
    let target: PathBuf = attached.as_ref().map_or(card.clone(), |attached| attached.device.clone());

    let mut client = None;
    let mut dead = start(&mut daemon, kill);
    if !dead {
        let mut child = burn(&daemon, target.to_str().unwrap());
        while child.try_wait().unwrap().is_none() && !dead {
            dead = died(&mut daemon, Duration::from_millis(20));
        }
        client = Some(child);
    }
    if !dead {
        daemon.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
        let status = daemon.wait(Duration::from_secs(10)).unwrap();
        if status.success() {
            assert_eq!(lab::look_at(&card, &when), Card::Complete);
            return None;
        }
        assert_eq!(status.signal(), Some(9), "{status}");
    }
    let left = lab::facts_left(&daemon);
    lab::assert_intact(&lab::facts_left(first), &left, &format!("{when}: history"));
    daemon.start().unwrap();
    let answer: Option<Answer> = client.map(|child| child.wait_with_output().unwrap().into());
    let_go(&target);
    drop(attached);
    let found = lab::look_at(&card, &when);
    let end = check(&daemon, &left, found, answer.as_ref(), &when);
    daemon.stop().unwrap();
    lab::assert_intact(&left, &lab::facts_left(&daemon), &when);
    Some(End { card: found, reason: end })
}

/// The run is closed with its reason, the card is what it says, and nothing was done that the journal does not know. Answers the reason.
fn check(daemon: &Daemon, left: &[Row], card: Card, client: Option<&Answer>, when: &str) -> String {
    let status = daemon.json(&["status"]).unwrap();
    assert_eq!(status["journal"]["writable"], true, "{when}: {status:#}");
    assert_eq!(status["problems"].as_array().map(Vec::len), Some(0), "{when}: {status:#}");
    let runs = daemon.json(&["run", "list"]).unwrap();
    let runs = runs["runs"].as_array().unwrap();
    let history = lab::facts_now(daemon);
    lab::assert_intact(left, &history, when);
    lab::assert_told_is_stored(daemon, &history, when);
    assert_eq!(runs.last().unwrap()["phase"], "done", "{when}: the burn of the first life: {runs:#?}");
    if runs.len() == 1 {
        assert_eq!(card, Card::Untouched, "{when}: a card was touched by a run that the journal does not know");
        assert!(client.is_none_or(|client| client.code != Some(0)), "{when}: {client:?}");
        return "never admitted".to_owned();
    }
    let (run, id) = (&runs[0], runs[0]["id"].as_str().unwrap());
    let facts: Vec<_> = history.iter().filter(|fact| fact.run.as_deref() == Some(id)).collect();
    let ends = facts.iter().filter(|fact| fact.kind == "run.ended").count();
    assert_eq!(ends, 1, "{when}: {facts:#?}");
    let reason = facts.iter().find(|fact| fact.kind == "run.ended").unwrap().text("reason");
    // Its plan names the steps that write, whoever writes.
    let begun =
        facts.iter().any(|fact| fact.kind == "step.started" && ["card.write", "image.stream"].contains(&fact.text("step").as_str()));
    assert!(begun || card == Card::Untouched, "{when}: {card:?}, and the journal knows of no writing: {facts:#?}");
    match run["phase"].as_str() {
        Some("done") => assert_eq!(card, Card::Complete, "{when}: {run:#}"),
        Some("failed") => {
            assert!(reason.starts_with("interrupted: metisd stopped"), "{when}: {reason}");
            let untouched = reason.contains("was not touched") || reason.contains("nothing was written to");
            assert_ne!(untouched, reason.contains("not to be used"), "{when}: {reason}");
            assert!(!untouched || card == Card::Untouched, "{when}: the card is {card:?}, and the run says: {reason}");
            assert!(client.is_none_or(|client| client.code != Some(0)), "{when}: {client:?}");
        }
        phase => panic!("{when}: {phase:?}: {run:#}"),
    }
    reason.replace(daemon.path("card.img").to_str().unwrap(), "CARD")
}

/// Kills at 1, 2, 3, … of each place until the burn is through; two at a time. Answers how often, and what was seen.
fn enumerate(places: &[(&'static str, &str)], device: bool) -> (u32, BTreeSet<End>) {
    let first = history();
    let seen = Mutex::new(BTreeSet::new());
    let mut kills = 0;
    for (variable, place) in places {
        let (next, end) = (AtomicU32::new(1), AtomicU32::new(MOST));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::SeqCst);
                        if number >= end.load(Ordering::SeqCst) {
                            break;
                        }
                        match killed(&first, &(variable, format!("{place}{number}")), device) {
                            Some(found) => drop(seen.lock().unwrap().insert(found)),
                            None => drop(end.fetch_min(number, Ordering::SeqCst)),
                        }
                    }
                });
            }
        });
        let count = end.load(Ordering::SeqCst) - 1;
        assert!((8..MOST - 1).contains(&count), "{variable}={place}N: {count} kills");
        kills += count;
    }
    (kills, seen.into_inner().unwrap())
}

fn assert_all_kinds_of_ends_were_seen(kills: u32, ends: &BTreeSet<End>, step: &str, cards: &[Card]) {
    for wanted in ["never admitted", "while step image.fetch ran", "while step card.prepare ran", step, "not to be used"] {
        assert!(ends.iter().any(|end| end.reason.contains(wanted)), "no burn ended with `{wanted}` in {kills} kills: {ends:#?}");
    }
    for card in cards {
        assert!(ends.iter().any(|end| end.card == *card), "no card was {card:?} after {kills} kills: {ends:#?}");
    }
}

#[test]
fn kill_9_within_every_journal_write_of_a_burn_into_a_file() {
    let (kills, ends) = enumerate(&[("METIS_JOURNAL_KILL_AT", "")], false);
    assert_all_kinds_of_ends_were_seen(kills, &ends, "while step image.stream ran", &[Card::Untouched, Card::Complete]);
}

#[test]
fn kill_9_around_every_journal_write_of_a_burn_to_a_device() {
    if !require::root("kill -9 at every journal write of a burn to a loop device") {
        return;
    }
    let places = [("METIS_FAILPOINT", "journal.before:"), ("METIS_FAILPOINT", "journal.after:")];
    let (kills, ends) = enumerate(&places, true);
    assert_all_kinds_of_ends_were_seen(kills, &ends, "while step card.write ran", &[Card::Untouched, Card::Cleared, Card::Complete]);
}

#[test]
fn a_file_that_is_complete_but_not_recorded_ends_with_exit_code_5() {
    let mut early = 0;
    for number in 1..MOST {
        let mut daemon = lab::site("");
        let (image, place) = (daemon.path("card.img"), format!("journal.before:{number}"));
        if start(&mut daemon, &("METIS_FAILPOINT", place.clone())) {
            continue;
        }
        let made = daemon.ctl(&["--timeout", "2", "image", "--node", NODE, "--output", image.to_str().unwrap(), "--execute"]).unwrap();
        match made.code {
            // It died before the file was complete; or it did not answer at all.
            Some(1 | 4) => {
                assert!(!image.exists(), "{place}: {made:?}");
                early += 1;
            }
            Some(5) => {
                assert!(made.text().contains("complete and verified, but metisd did not say that it recorded it"), "{made:?}");
                assert_eq!(lab::look_at(&image, &place), Card::Complete);
                assert!(early > 3, "killed too early for its place: {place}");
                return;
            }
            code => panic!("{place}: {code:?}: {made:?}\n{}", daemon.log()),
        }
    }
}
