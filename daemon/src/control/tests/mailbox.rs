//! The loop over a journal that works, is full, hangs, or comes back. Its clock can be put forward.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::support::*;
use crate::control::{Effect, Event, Fact, FactLog, Handle, Job, Mailbox, Options, Reply, Request, State, fold};
use crate::journal::{AppendError, Health, Kept, KeptIn, Record, Stored};
use crate::power;
use crate::runbook::{Outcome, StepResult};
use crate::site::{Now, OnTrigger, PowerDomain, Progress, Reading, RunId, UpsName};

/// What the fake disk does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Disk {
    Well,
    Full,
    Hangs,
}

struct Inner {
    disk: Disk,
    stored: Vec<Stored>,
    kept: Vec<Stored>,
    next_seq: u64,
    checkpoint: Option<(u64, String)>,
}

/// A journal in memory, with the promises of the real one.
#[derive(Clone)]
struct FakeLog {
    inner: Arc<Mutex<Inner>>,
    health: Arc<watch::Sender<Health>>,
}

impl FakeLog {
    fn new() -> Self {
        let inner = Inner { disk: Disk::Well, stored: Vec::new(), kept: Vec::new(), next_seq: 1, checkpoint: None };
        Self { inner: Arc::new(Mutex::new(inner)), health: Arc::new(watch::Sender::new(Health::default())) }
    }

    fn set(&self, disk: Disk) {
        let mut inner = self.inner.lock().unwrap();
        inner.disk = disk;
        if disk == Disk::Well {
            let kept = std::mem::take(&mut inner.kept);
            inner.stored.extend(kept);
            self.health.send_replace(Health::default());
        }
    }

    /// Every fact that is durable.
    fn kinds(&self) -> Vec<String> {
        self.inner.lock().unwrap().stored.iter().map(|row| row.kind.clone()).collect()
    }

    fn number(inner: &mut Inner, records: Vec<Record>, now: &Now) -> Vec<Stored> {
        let first = inner.next_seq;
        inner.next_seq += records.len() as u64;
        let row = |(record, seq): (Record, u64)| Stored {
            seq,
            at: now.wall,
            since_boot: now.boot,
            boot_id: now.boot_id.clone(),
            synced: now.synced,
            kind: record.kind,
            version: record.version,
            run: record.run,
            payload: record.payload,
        };
        records.into_iter().zip(first..).map(row).collect()
    }
}

impl FactLog for FakeLog {
    fn append(&self, records: Vec<Record>, now: &Now) -> impl Future<Output = Result<u64, AppendError>> + Send {
        let outcome = {
            let mut inner = self.inner.lock().unwrap();
            let rows = Self::number(&mut inner, records, now);
            match inner.disk {
                Disk::Well => {
                    inner.stored.extend(rows);
                    Ok(inner.next_seq - 1)
                }
                Disk::Full => Err(AppendError::DiskFull("/var/lib/metis/journal.db".into())),
                Disk::Hangs => Err(AppendError::Timeout(Duration::from_secs(1))),
            }
        };
        let health = Arc::clone(&self.health);
        async move {
            if let Err(error) = &outcome {
                if matches!(error, AppendError::Timeout(_)) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                health.send_modify(|health| health.trouble = Some(error.to_string()));
            }
            outcome
        }
    }

    async fn keep(&self, records: Vec<Record>, now: &Now) -> Kept {
        let mut inner = self.inner.lock().unwrap();
        let rows = Self::number(&mut inner, records, now);
        inner.kept.extend(rows);
        let backlog = inner.kept.len();
        self.health.send_modify(|health| health.backlog = backlog);
        Kept { last: inner.next_seq - 1, place: KeptIn::Spill }
    }

    async fn checkpoint(&self, seq: u64, payload: String, _: &Now) -> Result<(), AppendError> {
        self.inner.lock().unwrap().checkpoint = Some((seq, payload));
        Ok(())
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }
}

fn no_upses() -> Arc<power::Settings> {
    Arc::new(power::Settings {
        on_trigger: OnTrigger::Observe,
        poll_interval: Duration::from_secs(5),
        read_timeout: Duration::from_secs(2),
        thresholds: power::Thresholds {
            runtime_safety_factor: 1.1,
            charge_floor: 20.0,
            max_on_battery: None,
            debounce_polls: 3,
            comm_lost_after: Duration::from_secs(15),
            off_after: Duration::from_secs(30),
        },
        shutdown_budget: Duration::from_secs(300),
        cut_outlets: false,
        prepared_within: None,
        predecessors: Vec::new(),
        budgets: std::collections::BTreeMap::new(),
        upses: Vec::new(),
        domains: Vec::new(),
    })
}

/// One UPS that feeds one domain.
pub(super) fn one_ups() -> power::Settings {
    let ups = UpsName::new("u@h");
    let mut settings = (*no_upses()).clone();
    settings.upses = vec![power::UpsSettings { name: ups.clone(), username: None, password: None, tls: None }];
    settings.domains = vec![PowerDomain { name: "d".into(), upses: [ups].into(), nodes: ["titan-13".into()].into() }];
    settings
}

/// A poll of it.
pub(super) fn poll(status: &str) -> power::Observation {
    let status = status.split(' ').map(str::to_owned).collect();
    let reading = Reading { status, runtime: Some(Duration::from_secs(100)), ..Reading::default() };
    power::Observation { ups: UpsName::new("u@h"), result: Ok(reading), login_problem: None }
}

struct Daemon {
    log: FakeLog,
    forward: Arc<AtomicU64>,
    handle: Handle,
    effects: mpsc::UnboundedReceiver<Effect>,
    task: tokio::task::JoinHandle<State>,
}

impl Daemon {
    fn start(log: FakeLog, state: State, options: Options) -> Self {
        let began = tokio::time::Instant::now();
        let first = state.last_seq + 10;
        let forward = Arc::new(AtomicU64::new(0));
        let seconds = Arc::clone(&forward);
        let clock = move || now(first + seconds.load(Ordering::SeqCst)).later(began.elapsed());
        let (mailbox, handle, effects) = Mailbox::new(state, log.clone(), clock, no_upses(), options);
        let task = tokio::spawn(mailbox.run("0.1.0".into(), adopted(), Vec::new()));
        Self { log, forward, handle, effects, task }
    }

    fn fresh() -> Self {
        Self::start(FakeLog::new(), State::default(), Options::default())
    }

    /// Lets that many seconds pass.
    async fn pass(&self, seconds: u64) {
        self.forward.fetch_add(seconds, Ordering::SeqCst);
        self.handle.send(Event::TimerFired).await;
    }

    async fn ask(&self, request: Request) -> Reply {
        self.handle.request(request).await.unwrap()
    }

    async fn burn(&self) -> Reply {
        self.ask(Request::admit("ada", burn("/dev/sdz", 1))).await
    }

    async fn job(&mut self) -> Box<Job> {
        match tokio::time::timeout(Duration::from_secs(10), self.effects.recv()).await {
            Ok(Some(Effect::Perform(job))) => job,
            other => panic!("no job: {other:?}"),
        }
    }

    async fn finish(&self, job: &Job, result: StepResult) {
        self.handle.send(Event::StepFinished { run: job.run.clone(), step: job.step.clone(), attempt: job.attempt, result }).await;
    }

    /// Waits until the view is so.
    async fn until(&self, what: impl Fn(&crate::control::View) -> bool) {
        let mut views = self.handle.views();
        tokio::time::timeout(Duration::from_secs(10), views.wait_for(|view| what(view))).await.unwrap().unwrap();
    }

    fn outcome(&self, run: &str) -> Option<Outcome> {
        self.handle.view().run(run).unwrap().run.outcome
    }
}

#[tokio::test]
async fn a_burn_is_recorded_before_each_effect_and_told_to_subscribers() {
    let mut daemon = Daemon::fresh();
    let mut told = daemon.handle.subscribe();
    assert_eq!(daemon.burn().await, Reply::Admitted { run: RunId::new("burn-1") });
    for steps in 1..=3 {
        let job = daemon.job().await;
        assert_eq!(daemon.log.kinds().iter().filter(|kind| *kind == "step.started").count(), steps, "the fact comes first");
        daemon.finish(&job, done()).await;
    }
    let Some(Effect::Ended(record)) = daemon.effects.recv().await else { panic!("not reported") };
    assert_eq!(record.run.outcome, Some(Outcome::Done));
    daemon.until(|view| view.run("last").is_some_and(|record| record.ended.is_some())).await;
    let mut last = 0;
    while let Ok(one) = told.try_recv() {
        assert_eq!(one.stamp.seq, last.max(one.stamp.seq), "in order");
        last = one.stamp.seq;
    }
    assert_eq!(last, daemon.handle.view().last_seq);
    assert_eq!(daemon.handle.view().phase, "watching");
}

#[tokio::test]
async fn progress_is_seen_while_the_run_lasts_and_leaves_no_fact() {
    let mut daemon = Daemon::fresh();
    daemon.burn().await;
    let job = daemon.job().await;
    let facts = daemon.handle.view().last_seq;
    let mut progress = daemon.handle.progress(&job.run).unwrap();
    job.progress.report(Progress { stage: "fetch", done: 7, total: 9 });
    progress.changed().await.unwrap();
    assert_eq!(progress.borrow().as_ref().unwrap().progress.done, 7);
    assert_eq!(daemon.handle.view().last_seq, facts);
    let run = job.run.clone();
    daemon.ask(Request::Cancel { requester: "ada".into(), run: run.clone(), execute: true }).await;
    assert!(job.cancel.is_cancelled());
    daemon.finish(&job, StepResult::Cancelled { detail: String::new() }).await;
    daemon.until(|view| view.run("last").is_some_and(|record| record.ended.is_some())).await;
    assert!(daemon.handle.progress(&run).is_none());
}

#[tokio::test]
async fn a_deadline_fires_the_cancel_token_and_a_deaf_attempt_is_abandoned() {
    let mut daemon = Daemon::fresh();
    daemon.burn().await;
    let job = daemon.job().await;
    daemon.pass(59).await;
    assert!(!job.cancel.is_cancelled());
    daemon.pass(1).await;
    tokio::time::timeout(Duration::from_secs(10), job.cancel.cancelled()).await.unwrap();
    daemon.pass(5).await;
    daemon.until(|view| view.run("last").is_some_and(|record| record.ended.is_some())).await;
    assert_eq!(daemon.outcome("burn-1"), Some(Outcome::Failed));
    assert!(daemon.handle.view().run("burn-1").unwrap().reason.contains("no longer waited for"));
}

#[tokio::test]
async fn without_a_journal_burns_are_refused_and_everything_else_goes_on() {
    for disk in [Disk::Full, Disk::Hangs] {
        let mut daemon = Daemon::fresh();
        daemon.until(|view| view.started.is_some()).await;
        daemon.log.set(disk);
        let Reply::Refused { guards } = daemon.burn().await else { panic!("admitted without a journal") };
        assert_eq!(guards[0].name, "journal.degraded");
        assert!(daemon.effects.try_recv().is_err(), "no effect without its fact");
        let shutdown = Request::admit("ada", simple("shutdown"));
        assert_eq!(daemon.ask(shutdown).await, Reply::Admitted { run: RunId::new("shutdown-1") });
        let job = daemon.job().await;
        daemon.finish(&job, done()).await;
        daemon.until(|view| view.run("last").is_some_and(|record| record.ended.is_some())).await;
        let view = daemon.handle.view();
        assert!(view.journal.degraded.is_some() && view.journal.waiting > 0);
        assert!(view.problems[0].contains("journal degraded"), "{:?}", view.problems);
        assert!(!daemon.log.kinds().contains(&"run.admitted".to_owned()));

        daemon.log.set(Disk::Well);
        daemon.until(|view| view.journal.degraded.is_none()).await;
        let kinds = daemon.log.kinds();
        for kind in ["journal.degraded", "run.admitted", "run.ended", "journal.restored"] {
            assert_eq!(kinds.iter().filter(|one| *one == kind).count(), 1, "{kind} in {kinds:?}");
        }
        assert!(matches!(daemon.burn().await, Reply::Refused { .. } | Reply::Admitted { .. }));
        assert_eq!(daemon.handle.view().run("last").unwrap().id.as_str(), "burn-2");
        let (state, problems) = fold(None, &daemon.log.inner.lock().unwrap().stored.clone());
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(state.runs.len(), 2, "the journal knows what happened without it");
    }
}

#[tokio::test]
async fn a_burn_that_the_disk_leaves_in_the_middle_starts_no_further_step_until_it_is_back() {
    let mut daemon = Daemon::fresh();
    daemon.burn().await;
    let job = daemon.job().await;
    daemon.log.set(Disk::Full);
    daemon.finish(&job, done()).await;
    daemon.until(|view| view.run("last").is_some_and(|record| record.run.hold.is_some())).await;
    assert!(daemon.effects.try_recv().is_err());
    assert!(daemon.handle.view().phase.contains("burn-1: held"), "{}", daemon.handle.view().phase);
    daemon.log.set(Disk::Well);
    assert_eq!(daemon.job().await.step.as_str(), "card.prepare");
}

#[tokio::test]
async fn a_journal_that_fails_from_the_start_leaves_a_watching_daemon() {
    let log = FakeLog::new();
    log.set(Disk::Full);
    let daemon = Daemon::start(log, State::default(), Options::default());
    daemon.until(|view| view.started.is_some() && view.journal.degraded.is_some()).await;
    assert_eq!(daemon.ask(Request::Stop).await, Reply::Noted);
    let state = daemon.task.await.unwrap();
    assert!(state.life.unwrap().stopped);
}

#[tokio::test]
async fn stop_ends_within_ten_seconds_even_if_an_attempt_does_not() {
    let mut daemon = Daemon::fresh();
    daemon.burn().await;
    let job = daemon.job().await;
    daemon.ask(Request::Stop).await;
    assert!(job.cancel.is_cancelled());
    let state = tokio::time::timeout(Duration::from_secs(10), daemon.task).await.unwrap().unwrap();
    assert_eq!(daemon.log.kinds().last().unwrap(), "daemon.stopped");
    assert_eq!(state.run(&RunId::new("burn-1")).unwrap().run.outcome, Some(Outcome::Cancelled));
    assert!(matches!(daemon.handle.request(Request::Stop).await, Err(crate::control::HandleError::Stopped)));
}

#[tokio::test]
async fn the_loop_turns_without_letters_and_letters_put_its_next_turn_off() {
    let options = Options { tick: Duration::from_millis(200), ..Options::default() };
    let daemon = Daemon::start(FakeLog::new(), State::default(), options);
    daemon.until(|view| view.started.is_some()).await;
    let mut views = daemon.handle.views();
    views.mark_unchanged();
    for _ in 0..3 {
        tokio::time::timeout(Duration::from_secs(10), views.changed()).await.expect("a turn").unwrap();
    }

    let calm = Daemon::start(FakeLog::new(), State::default(), Options { tick: Duration::from_secs(1000), ..Options::default() });
    calm.until(|view| view.started.is_some()).await;
    let at = calm.handle.view().power.as_ref().unwrap().at;
    calm.pass(999).await;
    calm.until(|view| view.power.as_ref().is_some_and(|power| power.at.duration_since(at).as_secs() >= 999)).await;
    let mut views = calm.handle.views();
    views.mark_unchanged();
    // Were the tick not put off by the letter, it were due within a second.
    assert!(tokio::time::timeout(Duration::from_secs(2), views.changed()).await.is_err());
}

#[tokio::test]
async fn a_checkpoint_and_its_tail_are_what_the_next_life_starts_from() {
    let options = Options { checkpoint_every: 5, ..Options::default() };
    let mut daemon = Daemon::start(FakeLog::new(), State::default(), options);
    daemon.burn().await;
    let job = daemon.job().await;
    daemon.finish(&job, done()).await;
    let _ = daemon.job().await;
    daemon.task.abort();
    let (checkpoint, stored) = {
        let inner = daemon.log.inner.lock().unwrap();
        (inner.checkpoint.clone().unwrap(), inner.stored.clone())
    };
    let tail: Vec<_> = stored.iter().filter(|row| row.seq > checkpoint.0).cloned().collect();
    assert!(tail.len() < stored.len());
    let (state, problems) = fold(Some(&checkpoint), &tail);
    assert_eq!((problems, &state), (Vec::new(), &fold(None, &stored).0));

    let next = Daemon::start(daemon.log.clone(), state, Options::default());
    next.until(|view| view.run("burn-1").is_some_and(|record| record.ended.is_some())).await;
    let view = next.handle.view();
    assert_eq!(view.run("burn-1").unwrap().reason, "interrupted: metisd stopped while step card.prepare ran; /dev/sdz was not touched");
    assert_eq!(view.phase, "watching");
}

#[tokio::test]
async fn readings_that_lead_to_a_trigger_are_seen_and_recorded() {
    let daemon = Daemon::fresh();
    daemon.handle.adopt(adopted(), Arc::new(one_ups())).await;
    for status in ["OL", "OL", "OB"] {
        daemon.handle.observe(poll(status)).await;
        daemon.pass(1).await;
    }
    daemon.until(|view| view.phase == "on battery: u@h (runtime 100 s)").await;
    for status in ["OB LB", "OB LB", "OB LB", "OB LB", "OB LB"] {
        daemon.handle.observe(poll(status)).await;
        daemon.pass(1).await;
    }
    daemon.until(|view| !view.triggers.is_empty()).await;
    let view = daemon.handle.view();
    let trigger = &view.triggers[&"d".into()];
    assert_eq!(
        (trigger.would_act, trigger.budget, trigger.runtime),
        (OnTrigger::Observe, Duration::from_secs(300), Some(Duration::from_secs(100)))
    );
    assert!(view.phase.contains("DISARMED"), "{}", view.phase);
    assert!(view.power.as_ref().unwrap().domains[0].trigger.is_some());
    let kinds = daemon.log.kinds();
    for kind in ["ups.changed", "domain.changed", "trigger.decided"] {
        assert!(kinds.contains(&kind.to_owned()), "{kind} in {kinds:?}");
    }
}

#[tokio::test]
async fn an_audited_call_is_a_fact() {
    let daemon = Daemon::fresh();
    let audit = crate::control::Audit {
        uid: 1000,
        role: String::new(),
        method: "Card.Burn".into(),
        target: "titan-13 to /dev/sdz".into(),
        allowed: false,
    };
    let mut told = daemon.handle.subscribe();
    assert_eq!(daemon.ask(Request::Audit(audit.clone())).await, Reply::Noted);
    let mut seen = Vec::new();
    while let Ok(one) = told.try_recv() {
        seen.push(one.fact.clone());
    }
    assert!(seen.contains(&Fact::CallAudited { audit }));
    assert_eq!(daemon.log.kinds().last().unwrap(), "call.audited");
}
