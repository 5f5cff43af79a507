//! kill -9 at every journal write of a trigger and a burn: the real journal, and a process that really dies.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::mailbox::{one_ups, poll};
use super::support::*;
use crate::control::{Effect, Event, Fact, Mailbox, Options, Reply, Request, fold};
use crate::journal::{self, Opened};
use crate::runbook::Outcome;
use crate::site::Now;

/// Where the process that dies works.
const DIR: &str = "METIS_TEST_CRASH_DIR";
const NAME: &str = "control::tests::crash::kill_9_at_every_journal_write_of_a_trigger_and_a_burn";

fn opened(dir: &Path, now: &Now) -> Opened {
    let mut options = journal::Options::new(dir.join("state"), dir.join("spill.jsonl"));
    options.understands = Fact::understands;
    journal::open(options, now).unwrap()
}

#[test]
fn kill_9_at_every_journal_write_of_a_trigger_and_a_burn() {
    if let Some(dir) = std::env::var_os(DIR) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(live(Path::new(&dir)));
    }
    let mut reasons = std::collections::BTreeSet::new();
    for place in ["journal.before", "journal.after"] {
        let mut writes = 0;
        loop {
            let dir = tempfile::tempdir().unwrap();
            if !killed(dir.path(), &format!("{place}:{}", writes + 1)) {
                break;
            }
            writes += 1;
            reasons.extend(check(dir.path()));
        }
        assert!(writes >= 9, "only {writes} writes: start, settings, verdicts, trigger, admission, two more steps, end, stop");
    }
    for step in ["image.fetch", "card.prepare", "card.write"] {
        assert!(reasons.iter().any(|reason| reason.contains(&format!("while step {step} ran"))), "{step} in {reasons:?}");
    }
}

/// Whether the process died of the failpoint; else it ended well.
#[allow(clippy::disallowed_methods, reason = "the process under test")]
fn killed(dir: &Path, failpoint: &str) -> bool {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args([NAME, "--exact", "--nocapture"]).env(DIR, dir).env("METIS_FAILPOINT", failpoint);
    let output = command.output().unwrap();
    if output.status.success() {
        return false;
    }
    assert_eq!(output.status.signal(), Some(9), "{}", String::from_utf8_lossy(&output.stdout));
    true
}

/// One life of the daemon: an outage, a burn, an ordered stop. Each effect leaves a line on disk.
async fn live(dir: &Path) {
    let began = Instant::now();
    let clock = move || now(10).later(began.elapsed());
    let Opened { journal, .. } = opened(dir, &clock());
    let (mailbox, handle, mut effects) = Mailbox::new(fold(None, &[]).0, journal, clock, Arc::new(one_ups()), Options::default());
    let task = tokio::spawn(mailbox.run("0.1.0".into(), adopted(), Vec::new()));
    for status in ["OL", "OL", "OL", "OB LB", "OB LB", "OB LB", "OB LB"] {
        handle.observe(poll(status)).await;
    }
    let request = Request::admit("ada", burn("/dev/sdz", 1));
    assert!(matches!(handle.request(request).await.unwrap(), Reply::Admitted { .. }));
    while let Some(Effect::Perform(job)) = effects.recv().await {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("effects")).unwrap();
        writeln!(file, "{} {} {}", job.run, job.step, job.attempt).unwrap();
        file.sync_all().unwrap();
        let (run, step, attempt) = (job.run.clone(), job.step.clone(), job.attempt);
        handle.send(Event::StepFinished { run, step, attempt, result: done() }).await;
    }
    handle.request(Request::Stop).await.unwrap();
    task.await.unwrap();
}

/// What the next life finds: no effect without its fact, and a burn that is closed with its reason.
fn check(dir: &Path) -> Option<String> {
    let late = now(500);
    let Opened { journal, checkpoint, tail, problems, .. } = opened(dir, &late);
    assert_eq!(problems, Vec::<String>::new());
    let (state, problems) = fold(checkpoint.as_ref(), &tail);
    assert_eq!(problems, Vec::<String>::new());
    let facts: Vec<_> = tail.iter().map(|row| Fact::decode(&row.kind, row.version, &row.payload).unwrap()).collect();
    for line in std::fs::read_to_string(dir.join("effects")).unwrap_or_default().lines() {
        let known = facts
            .iter()
            .any(|fact| matches!(fact, Fact::StepStarted { run, step, attempt, .. } if format!("{run} {step} {attempt}") == line));
        assert!(known, "{line} was performed, and the journal does not know it");
    }
    journal.close();
    let mut world = World { state, ..World::default() };
    world.feed(&recovered(), &late);
    assert!(world.starts().is_empty());
    let record = world.state.runs.back()?;
    assert!(record.ended.is_some());
    let outcome = record.run.outcome.unwrap();
    assert!(outcome == Outcome::Done || outcome == Outcome::Failed, "{outcome:?}");
    assert_eq!(outcome == Outcome::Failed, record.reason.starts_with("interrupted: metisd stopped while step "), "{}", record.reason);
    assert!(!world.state.triggers.is_empty(), "the trigger came before the burn and is still known");
    Some(record.reason.clone())
}
