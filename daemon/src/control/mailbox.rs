//! The loop: one task owns the state. Letters in, facts to the journal, then effects out, then a new view.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::decide::{Decision, Order, decide};
use super::failpoint::Failpoint;
use super::handle::{Handle, Letter};
use super::port::FactLog;
use super::takeover::Kind;
use super::view::{View, Volatile};
use super::{Adopted, Effect, Event, Fact, Job, ProgressSink, Reply, Stamp, State, StepProgress, Told, apply, tell};
use crate::journal::{Health, Record};
use crate::power;
use crate::runbook::{Form, Mode};
use crate::site::{Now, RunId, Step, StepId, Verdict};

/// Letters that may wait.
const LETTERS: usize = 256;
/// Facts that a slow subscriber may be behind.
const TOLD: usize = 1024;
/// How often silence is judged at least while a UPS is not known to be on line.
const URGENT_TICK: Duration = Duration::from_secs(1);
/// Wall-clock time that runs away from boot time by more than this has jumped; slewing stays far below (adjtimex(2): 500 ppm).
const CLOCK_JUMP: Duration = Duration::from_secs(2);

/// How the loop runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// It turns, and publishes a view, at least this often. The watchdog of the service manager lives on that.
    pub tick: Duration,
    /// A checkpoint is stored after this many facts.
    pub checkpoint_every: u64,
    /// Facts that were replayed since the newest one.
    pub replayed: u64,
    /// What was found amiss at the start; shown among the problems as long as the daemon lives.
    pub notes: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        // Over 4 s longer than a usual poll, which puts it off again: a wait that long is in a part of tokio's wheel that turns every
        // 4.1 s, and a shorter one wakes the process although it is never due.
        Self { tick: Duration::from_millis(6500), checkpoint_every: 5000, replayed: 0, notes: Vec::new() }
    }
}

/// What the loop holds of an attempt under way.
struct Attempt {
    cancel: CancellationToken,
    deadline: watch::Sender<Duration>,
}

/// The owner of the state. See [`Mailbox::new`] and [`Mailbox::run`].
pub struct Mailbox<L, N> {
    state: State,
    log: L,
    clock: N,
    options: Options,
    letters: mpsc::Receiver<Letter>,
    effects: mpsc::UnboundedSender<Effect>,
    view: watch::Sender<Arc<View>>,
    told: broadcast::Sender<Arc<Told>>,
    health: watch::Receiver<Health>,
    power: Arc<power::Settings>,
    watch: power::Watch,
    jobs: BTreeMap<(RunId, StepId), Attempt>,
    progress: BTreeMap<RunId, watch::Sender<Option<StepProgress>>>,
    timers: BTreeSet<Duration>,
    ticked: Duration,
    tick_span: Duration,
    wall_minus_boot: i128,
    since_checkpoint: u64,
    failpoint: Failpoint,
    stopped: bool,
}

impl<L: FactLog, N: Fn() -> Now + Send + 'static> Mailbox<L, N> {
    /// A mailbox over the folded state, the way into it, and what it orders. Nothing happens before [`Mailbox::run`].
    pub fn new(
        state: State,
        log: L,
        clock: N,
        power: Arc<power::Settings>,
        options: Options,
    ) -> (Self, Handle, mpsc::UnboundedReceiver<Effect>) {
        let now = clock();
        let (post, letters) = mpsc::channel(LETTERS);
        let (effects, ordered) = mpsc::unbounded_channel();
        let (view, views) = watch::channel(Arc::new(View::default()));
        let (told, _) = broadcast::channel(TOLD);
        let handle = Handle { letters: post, view: views, told: told.clone() };
        let mailbox = Self {
            health: log.health(),
            watch: power::Watch::new(&power, &now),
            ticked: now.boot,
            tick_span: Duration::ZERO,
            wall_minus_boot: wall_minus_boot(&now),
            state,
            log,
            clock,
            letters,
            effects,
            view,
            told,
            power,
            jobs: BTreeMap::new(),
            progress: BTreeMap::new(),
            timers: BTreeSet::new(),
            since_checkpoint: options.replayed,
            failpoint: Failpoint::from_environment(),
            options,
            stopped: false,
        };
        (mailbox, handle, ordered)
    }

    /// Decides on what was recovered, publishes the first view, and serves until [`super::Request::Stop`] was carried out or all handles
    /// are gone.
    ///
    /// `version`: of metisd. `settings`: in force. `rejected`: errors of settings on disk that are not.
    pub async fn run(mut self, version: String, settings: Adopted, rejected: Vec<String>) -> State {
        self.process(Event::Recovered { version, settings, rejected }).await;
        while !self.stopped {
            self.follow_health().await;
            self.publish();
            self.failpoint.hang_at("mailbox.hang").await;
            let pause = self.pause();
            tokio::select! {
                letter = self.letters.recv() => match letter {
                    Some(letter) => self.open(letter).await,
                    None => break,
                },
                changed = self.health.changed() => if changed.is_err() {
                    // The journal's writer is gone; appends say so from now on.
                    tokio::time::sleep(pause).await;
                },
                () = tokio::time::sleep(pause) => {}
            }
            self.pass_time().await;
        }
        self.publish();
        self.state
    }

    async fn open(&mut self, letter: Letter) {
        match letter {
            Letter::Event(event) => {
                self.process(event).await;
            }
            Letter::Ask(request, answer) => {
                if let Some(reply) = self.process(Event::Asked(request)).await {
                    let _ = answer.send(reply);
                }
            }
            Letter::Observed(observation) => {
                let now = (self.clock)();
                let changes = self.watch.observe(&self.power, &observation, &now);
                self.judge(changes, &now).await;
            }
            Letter::Budgets(budgets) => self.power = Arc::new(power::Settings { budgets, ..power::Settings::clone(&self.power) }),
            Letter::Adopt(settings, power) => {
                // Learned of the settings before; new ones follow.
                let budgets = self.power.budgets.clone();
                self.power = Arc::new(power::Settings { budgets, ..power::Settings::clone(&power) });
                self.watch.reconfigure(&self.power, &(self.clock)());
                self.process(Event::SettingsAdopted(settings)).await;
            }
        }
    }

    /// Time until something is due by itself.
    fn pause(&self) -> Duration {
        let next_tick = self.ticked.saturating_add(self.tick_span);
        let due = self.timers.first().map_or(next_tick, |timer| next_tick.min(*timer));
        due.saturating_sub((self.clock)().boot)
    }

    async fn pass_time(&mut self) {
        let now = (self.clock)();
        if self.timers.first().is_some_and(|timer| *timer <= now.boot) {
            self.timers.retain(|timer| *timer > now.boot);
            self.process(Event::TimerFired).await;
        }
        // Who is awake anyway for a poll looks at the clock early: an idle host is not woken for it once more.
        if now.boot.saturating_sub(self.ticked) >= self.tick_span.min(URGENT_TICK) / 2 {
            let changes = self.watch.tick(&self.power, &now);
            self.judge(changes, &now).await;
            self.tick_span = self.tick(&now);
            self.ticked = now.boot;
            self.check_clock(&now).await;
        }
    }

    /// Quiet while all is well, so that an idle host stays idle.
    fn tick(&self, now: &Now) -> Duration {
        let snapshot = self.watch.snapshot(&self.power, now);
        let calm = snapshot.upses.iter().all(|ups| ups.verdict == Verdict::Online);
        if calm { self.options.tick } else { self.options.tick.min(URGENT_TICK) }
    }

    async fn check_clock(&mut self, now: &Now) {
        let offset = wall_minus_boot(now);
        let jump = offset - self.wall_minus_boot;
        if jump.unsigned_abs() > CLOCK_JUMP.as_nanos() {
            self.wall_minus_boot = offset;
            self.process(Event::ClockJumped { seconds: i64::try_from(jump / 1_000_000_000).unwrap_or(i64::MAX) }).await;
        }
    }

    /// What the policy found becomes events; a shutdown under way hears what the batteries still give.
    async fn judge(&mut self, changes: Vec<power::Change>, now: &Now) {
        self.judge_changes(changes, now).await;
        if self.state.active().any(|record| Kind::of(&record.run.book.kind) == Some(Kind::Shutdown)) {
            let domains = self.watch.snapshot(&self.power, now).domains;
            let failing = domains.into_iter().filter(|domain| matches!(domain.verdict, Verdict::OnBattery | Verdict::Critical));
            let factor = self.power.thresholds.runtime_safety_factor.max(1.0);
            let left: BTreeMap<_, _> = failing.filter_map(|domain| Some((domain.name, domain.runtime?.div_f64(factor)))).collect();
            if !left.is_empty() {
                self.process(Event::Runtime { left }).await;
            }
        }
        if self.state.active().any(|record| Kind::of(&record.run.book.kind) == Some(Kind::Startup)) {
            for event in charges(&self.watch.snapshot(&self.power, now)) {
                self.process(event).await;
            }
        }
    }

    async fn judge_changes(&mut self, changes: Vec<power::Change>, now: &Now) {
        for change in changes {
            let event = match change {
                power::Change::Ups { ups, to, reason, .. } => Event::UpsVerdict { ups, verdict: to, reason },
                power::Change::Domain { domain, to, reason, .. } => Event::DomainVerdict { domain, verdict: to, reason },
                power::Change::FsdLatched { ups } => Event::FsdLatched { ups },
                power::Change::TriggerCleared { domain, because } => Event::TriggerGone { domain, because },
                power::Change::Trigger { domain, because } => {
                    let snapshot = self.watch.snapshot(&self.power, now);
                    let seen = snapshot.domains.into_iter().find(|state| state.name == domain);
                    let budget = power::budget::of_domain(&self.power, &domain);
                    Event::Trigger { domain, because, budget, runtime: seen.and_then(|state| state.runtime) }
                }
            };
            self.process(event).await;
        }
    }

    /// The journal tells by itself when the disk fails and when it is back.
    async fn follow_health(&mut self) {
        let health = self.health.borrow_and_update().clone();
        match (&health.trouble, &self.state.journal_trouble) {
            (Some(reason), None) => {
                self.process(Event::JournalFailed { reason: reason.clone() }).await;
            }
            (None, Some(_)) if health.backlog == 0 => {
                self.process(Event::JournalRestored).await;
            }
            _ => {}
        }
    }

    /// Decides, records, applies, carries out. Where the facts cannot be recorded nothing of that decision stands: it is decided again
    /// with the trouble known, and those facts are kept until the disk is back.
    async fn process(&mut self, event: Event) -> Option<Reply> {
        let now = (self.clock)();
        let mut decision = decide(&self.state, &event, &now);
        let ill = self.state.journal_trouble.is_some() && self.health.borrow().trouble.is_some();
        let failure = if ill { Some(String::new()) } else { self.append(&decision.facts, &now).await.err() };
        if let Some(reason) = failure {
            if event == Event::JournalRestored {
                return None;
            }
            if self.state.journal_trouble.is_none() {
                self.keep(&[Fact::JournalDegraded { reason }], &now).await;
                decision = decide(&self.state, &event, &now);
            }
            self.keep(&decision.facts, &now).await;
        }
        let Decision { orders, reply, .. } = decision;
        // Whoever carries them out looks at the view, and may do so before this loop turns.
        if !orders.is_empty() {
            self.publish();
        }
        self.carry_out(orders, &now);
        self.checkpoint(&now).await;
        reply
    }

    async fn append(&mut self, facts: &[Fact], now: &Now) -> Result<(), String> {
        if facts.is_empty() {
            return Ok(());
        }
        let records =
            facts.iter().map(Fact::record).collect::<Result<Vec<_>, _>>().map_err(|error| format!("a fact cannot be stored: {error}"))?;
        self.failpoint.kill_at("journal.before");
        let last = self.log.append(records, now).await.map_err(|error| error.to_string())?;
        self.failpoint.kill_at("journal.after");
        self.apply_all(facts, last, now);
        Ok(())
    }

    async fn keep(&mut self, facts: &[Fact], now: &Now) {
        let records: Vec<Record> = facts.iter().filter_map(|fact| fact.record().ok()).collect();
        if !records.is_empty() {
            let kept = self.log.keep(records, now).await;
            self.apply_all(facts, kept.last, now);
        }
    }

    /// `last`: sequence number of the last of them; they are numbered without gaps.
    fn apply_all(&mut self, facts: &[Fact], last: u64, now: &Now) {
        let first = last.saturating_sub(facts.len() as u64 - 1);
        for (fact, seq) in facts.iter().zip(first..) {
            let stamp = Stamp { seq, now: now.clone() };
            apply(&mut self.state, fact, &stamp);
            if let Fact::LimitsCut { run, .. } = fact {
                self.tell_deadlines(run);
            }
            let told = Told { stamp, fact: fact.clone() };
            tell::log(&told);
            let _ = self.told.send(Arc::new(told));
        }
        self.since_checkpoint += facts.len() as u64;
    }

    fn carry_out(&mut self, orders: Vec<Order>, now: &Now) {
        for order in orders {
            match order {
                Order::Start { run, step, mode, attempt, deadline } => self.start(run, step, mode, attempt, deadline),
                Order::Abort { run, step } => {
                    if let Some(attempt) = self.jobs.get(&(run, step)) {
                        attempt.cancel.cancel();
                    }
                }
                Order::Timer { at } => {
                    self.timers.insert(at.max(now.boot));
                }
                Order::Ended { run } => self.ended(&run),
                Order::PlanShutdown { domains, because, mode, runtime } => {
                    let _ = self.effects.send(Effect::PlanShutdown { domains, because, mode, runtime });
                }
                Order::PlanStartup { because } => {
                    let _ = self.effects.send(Effect::PlanStartup { because });
                }
                Order::PowerOffThisHost { run, node, delay } => {
                    let _ = self.effects.send(Effect::PowerOffThisHost { run, node, delay });
                }
                Order::WithdrawOutlets { run } => {
                    let _ = self.effects.send(Effect::WithdrawOutlets { run });
                }
                Order::Stop => self.stopped = true,
            }
        }
    }

    /// Attempts under way hear that their deadline has come nearer.
    fn tell_deadlines(&self, run: &RunId) {
        let Some(record) = self.state.run(run) else { return };
        for ((_, step), attempt) in self.jobs.iter().filter(|((of, _), _)| of == run) {
            if let Some(deadline) = record.run.state(step).and_then(|state| state.deadline) {
                attempt.deadline.send_if_modified(|known| std::mem::replace(known, deadline) != deadline);
            }
        }
    }

    fn start(&mut self, run: RunId, step: StepId, mode: Mode, attempt: u32, deadline: Duration) {
        let Some(record) = self.state.run(&run) else { return };
        let Some(action) = record.run.book.step(&step).and_then(|planned| action(&planned.action, &planned.form, mode)) else { return };
        let settings = record.settings.clone();
        let cancel = CancellationToken::new();
        let (to_attempt, deadline) = watch::channel(deadline);
        self.jobs.insert((run.clone(), step.clone()), Attempt { cancel: cancel.clone(), deadline: to_attempt });
        let channel = self.progress.entry(run.clone()).or_insert_with(|| watch::Sender::new(None));
        let progress = ProgressSink::new(step.clone(), channel.clone());
        let job = Job { run, step, attempt, mode, action, deadline, settings, cancel, progress };
        let _ = self.effects.send(Effect::Perform(Box::new(job)));
    }

    /// Whatever of the run still runs is nobody's any more.
    fn ended(&mut self, run: &RunId) {
        self.jobs.retain(|(of, _), attempt| {
            if of == run {
                attempt.cancel.cancel();
            }
            of != run
        });
        self.progress.remove(run);
        if let Some(record) = self.state.run(run) {
            let _ = self.effects.send(Effect::Ended(Arc::clone(record)));
        }
    }

    /// Nothing depends on it: a failure is tried again with the next facts.
    async fn checkpoint(&mut self, now: &Now) {
        if self.since_checkpoint < self.options.checkpoint_every || self.state.journal_trouble.is_some() {
            return;
        }
        let Ok(payload) = serde_json::to_string(&self.state) else { return };
        match self.log.checkpoint(self.state.last_seq, payload, now).await {
            Ok(()) => self.since_checkpoint = 0,
            Err(error) => {
                tracing::warn!(%error, "no checkpoint was stored; the next start replays more facts");
                self.since_checkpoint = self.options.checkpoint_every / 2;
            }
        }
    }

    fn publish(&self) {
        let health = self.health.borrow().clone();
        let volatile = Volatile {
            progress: self.progress.iter().map(|(run, channel)| (run.clone(), channel.subscribe())).collect(),
            waiting: health.backlog as u64,
            lost: health.lost,
            power: self.watch.snapshot(&self.power, &(self.clock)()),
            notes: self.options.notes.clone(),
        };
        self.view.send_replace(Arc::new(View::build(&self.state, volatile)));
    }
}

fn action(action: &Step, form: &Form<Step>, mode: Mode) -> Option<Step> {
    match (mode, form) {
        (Mode::Probe | Mode::Act, _) => Some(action.clone()),
        (Mode::Remedy(index), Form::Gate { remedies, .. }) => remedies.get(index as usize).cloned(),
        (Mode::Remedy(_), Form::Act | Form::Ensure) => None,
    }
}

fn wall_minus_boot(now: &Now) -> i128 {
    now.wall.as_nanosecond() - i128::try_from(now.boot.as_nanos()).unwrap_or(i128::MAX)
}

/// What the batteries of domains that run on them still hold: the feed that holds most keeps its domain up.
fn charges(power: &power::Snapshot) -> Vec<Event> {
    let failing = power.domains.iter().filter(|domain| matches!(domain.verdict, Verdict::OnBattery | Verdict::Critical));
    let most = |domain: &power::DomainState| {
        power.upses.iter().filter(|ups| domain.upses.contains(&ups.name)).filter_map(|ups| ups.charge).reduce(f64::max)
    };
    let event = |domain: &power::DomainState| {
        Some(Event::Charge { domain: domain.name.clone(), percent: most(domain)?, budget: domain.budget, runtime: domain.runtime })
    };
    failing.filter_map(event).collect()
}
