//! kill -9 at every journal write of a UPS verdict.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use metis_tests::daemon::Daemon;
use nix::sys::signal::Signal;

use super::lab::{self, Outage, Row};

/// Daemons at once: they mostly wait for the next poll.
const AT_ONCE: usize = 6;
/// A scenario that needs more kills than this never ends.
const MOST: u32 = 100;

/// What the mains do, and the last fact that follows.
const ACTS: [(bool, &str, &str); 3] = [(true, "domain.changed", "online"), (false, "trigger.decided", ""), (true, "trigger.cleared", "")];

fn happened(facts: &[Row], from: usize, kind: &str, to: &str) -> bool {
    facts.iter().skip(from).any(|fact| fact.kind == kind && (to.is_empty() || fact.text("to") == to))
}

/// An outage from OL to OL with the daemon killed once, at `place`; it is started again at once, and sees what is left of the outage.
/// Answers whether it was killed.
fn killed(place: &str) -> bool {
    let outage = Outage::new(600.0);
    let mut daemon = lab::site(&outage.config());
    let mut left = None;
    daemon.spawn(&[("METIS_FAILPOINT", place)]).unwrap();
    let mut from = 0;
    for (mains, kind, to) in ACTS {
        outage.mains(mains);
        lab::until(&format!("{place}: {kind} {to}"), Duration::from_secs(30), || {
            left = left.take().or_else(|| revived(&mut daemon, place, Duration::ZERO));
            happened(&lab::facts_now(&daemon), from, kind, to)
        });
        from = lab::facts_now(&daemon).len();
    }
    let status = daemon.json(&["status"]).unwrap_or_else(|_| {
        left = revived(&mut daemon, place, Duration::from_secs(5));
        daemon.json(&["status"]).unwrap()
    });
    assert_eq!(status["domains"][0]["verdict"], "online", "{place}: {status:#}");
    assert_eq!(status["journal"]["writable"], true, "{place}: {status:#}");
    daemon.signal(Signal::SIGTERM).unwrap();
    let status = daemon.wait(Duration::from_secs(10)).unwrap();
    if status.signal() == Some(9) {
        left = Some(lab::facts_left(&daemon));
        daemon.start().unwrap();
        // Once it answers it also listens to SIGTERM.
        daemon.json(&["status"]).unwrap();
        daemon.stop().unwrap();
    } else {
        assert!(status.success(), "{place}: {status}");
    }
    let history = lab::facts_left(&daemon);
    if let Some(left) = &left {
        lab::assert_intact(left, &history, place);
    }
    lab::assert_told_is_stored(&daemon, &history, place);
    check(&history, place);
    left.is_some()
}

/// Where it died: what it left, and it runs again.
fn revived(daemon: &mut Daemon, place: &str, patience: Duration) -> Option<Vec<Row>> {
    let status = daemon.wait(patience).ok()?;
    assert_eq!(status.signal(), Some(9), "{place}: {status}\n{}", daemon.log());
    let left = lab::facts_left(daemon);
    daemon.start().unwrap();
    Some(left)
}

/// One outage is one trigger, decided and cleared once, whoever died meanwhile; verdicts are a chain without a gap.
fn check(history: &[Row], place: &str) {
    let kinds: Vec<_> = history.iter().map(|fact| fact.kind.as_str()).filter(|kind| kind.starts_with("trigger.")).collect();
    assert_eq!(kinds, ["trigger.decided", "trigger.cleared"], "{place}: {history:#?}");
    let mut verdicts: BTreeMap<String, String> = BTreeMap::new();
    for fact in history {
        let name = fact.text("ups") + &fact.text("domain");
        if ["ups.changed", "domain.changed"].contains(&fact.kind.as_str()) {
            let before = verdicts.insert(name, fact.text("to")).unwrap_or_else(|| "unknown".to_owned());
            assert_eq!(before, fact.text("from"), "{place}: {history:#?}");
            assert_ne!(before, fact.text("to"), "{place}: a verdict that did not change: {history:#?}");
        }
    }
    assert!(verdicts.len() == 2 && verdicts.values().all(|verdict| verdict == "online"), "{place}: {verdicts:?}");
    let seqs: Vec<_> = history.iter().map(|fact| fact.seq).collect();
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "{place}: {seqs:?}");
}

#[test]
fn kill_9_at_every_journal_write_of_an_outage() {
    for place in ["journal.before", "journal.after"] {
        let (next, end) = (AtomicU32::new(1), AtomicU32::new(MOST));
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::SeqCst);
                        if number >= end.load(Ordering::SeqCst) {
                            break;
                        }
                        if !killed(&format!("{place}:{number}")) {
                            end.fetch_min(number, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        let kills = end.load(Ordering::SeqCst) - 1;
        assert!((9..MOST - 1).contains(&kills), "{place}: {kills} kills: start, verdicts there and back, trigger, its end, stop");
    }
}
