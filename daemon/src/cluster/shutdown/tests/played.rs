//! Whatever plan, played by the real runner in a world that takes its time, fails and hangs: what begins when.

use proptest::prelude::*;

use super::laws::{any_facts, any_order, any_settings, any_topology};
use super::*;
use crate::runbook::{Order, Run, Status, StepResult, cut, least, next, settle};
use crate::site::{BootId, K3sRole, Now};

/// What becomes of an attempt.
#[derive(Debug, Clone)]
enum Answer {
    /// It ends by itself.
    After(Duration, StepResult),
    /// It ends when it is told to.
    Obeys,
    /// It never ends.
    Hangs,
}

fn any_answer() -> impl Strategy<Value = Answer> {
    let result = prop_oneof![
        6 => Just(StepResult::Done { detail: String::new() }),
        1 => Just(StepResult::NotReady { detail: "not yet".into() }),
        1 => Just(StepResult::CannotTell { detail: "no answer".into() }),
        1 => any::<bool>().prop_map(|permanent| StepResult::Failed { detail: "failed".into(), permanent }),
    ];
    prop_oneof![
        6 => (0..30_000_u64, result).prop_map(|(millis, result)| Answer::After(Duration::from_millis(millis), result)),
        1 => Just(Answer::Obeys),
        1 => Just(Answer::Hangs),
    ]
}

fn now(boot: Duration) -> Now {
    let wall = jiff::Timestamp::from_second(1_800_000_000).unwrap() + boot;
    Now { wall, boot, boot_id: BootId::new("b"), synced: true }
}

/// An attempt under way.
struct Attempt {
    step: StepId,
    number: u32,
    obeys: bool,
    end: Option<(Duration, StepResult)>,
}

/// A run that was played to its end.
struct Played {
    run: Run<Step>,
    begun: BTreeMap<StepId, Duration>,
    ended: BTreeMap<StepId, Duration>,
    /// Steps of which an attempt was made that does not end before it is told to.
    stuck: BTreeSet<StepId>,
    over: Duration,
}

struct Player<'a> {
    played: Played,
    attempts: Vec<Attempt>,
    answers: std::iter::Cycle<std::slice::Iter<'a, Answer>>,
}

impl Player<'_> {
    /// Takes the runner's orders at that moment until it only waits; until when.
    fn advance(&mut self, at: Duration) -> Option<Duration> {
        loop {
            let orders = next(&self.played.run, &now(at));
            let timer = orders.iter().find_map(|order| if let Order::Timer { at } = order { Some(*at) } else { None });
            if orders.iter().all(|order| matches!(order, Order::Timer { .. })) {
                return timer;
            }
            for order in orders {
                self.take(order, at);
            }
        }
    }

    fn take(&mut self, order: Order, at: Duration) {
        match order {
            Order::Start { step, mode, attempt, deadline } => {
                self.played.run.started(&step, mode, attempt, deadline, at, now(at).wall);
                self.played.begun.entry(step.clone()).or_insert(at);
                let answer = self.answers.next().cloned().unwrap_or(Answer::Hangs);
                if !matches!(answer, Answer::After(..)) {
                    self.played.stuck.insert(step.clone());
                }
                let (obeys, end) = match answer {
                    Answer::After(time, result) => (true, Some((at + time, result))),
                    Answer::Obeys => (true, None),
                    Answer::Hangs => (false, None),
                };
                self.attempts.push(Attempt { step, number: attempt, obeys, end });
            }
            Order::Abort { step, because } => {
                self.played.run.aborting(&step, &because, at);
                for attempt in self.attempts.iter_mut().filter(|attempt| attempt.step == step && attempt.obeys) {
                    attempt.end = Some((at, StepResult::Cancelled { detail: String::new() }));
                }
            }
            Order::Settle { step, status, detail } => self.settled(&step, status, &detail, at),
            Order::Finish { outcome, .. } => {
                self.played.run.finished(outcome);
                self.played.over = at;
            }
            Order::Timer { .. } => {}
        }
    }

    fn settled(&mut self, step: &StepId, status: Status, detail: &str, at: Duration) {
        self.played.run.settled(step, status, detail, at, now(at).wall);
        if status.ended() {
            self.played.ended.insert(step.clone(), at);
        }
    }

    /// The attempts that end now.
    fn answer(&mut self, at: Duration) {
        let (ending, rest) = std::mem::take(&mut self.attempts).into_iter().partition(|attempt| is_due(attempt, at));
        self.attempts = rest;
        for Attempt { step, number, end, .. } in ending {
            let Some((_, result)) = end else { continue };
            if let Some((status, detail)) = settle(&self.played.run, &step, number, &result, &now(at)) {
                self.settled(&step, status, &detail, at);
            }
        }
    }
}

fn is_due(attempt: &Attempt, at: Duration) -> bool {
    attempt.end.as_ref().is_some_and(|(end, _)| *end <= at)
}

/// Plays it from boot time 0.
fn play(run: Run<Step>, answers: &[Answer]) -> Played {
    let played = Played { run, begun: BTreeMap::new(), ended: BTreeMap::new(), stuck: BTreeSet::new(), over: Duration::ZERO };
    let mut player = Player { played, attempts: Vec::new(), answers: answers.iter().cycle() };
    let mut at = Duration::ZERO;
    for _ in 0..100_000 {
        let timer = player.advance(at);
        if player.played.run.outcome.is_some() {
            return player.played;
        }
        let ends = player.attempts.iter().filter_map(|attempt| attempt.end.as_ref().map(|(end, _)| *end));
        at = ends.chain(timer).min().map_or_else(|| panic!("it waits for ever"), |next| next.max(at));
        player.answer(at);
    }
    panic!("it goes on for ever");
}

impl Played {
    fn steps(&self) -> impl Iterator<Item = &PlannedStep<Step>> {
        self.run.book.phases.iter().flat_map(|phase| &phase.steps)
    }

    fn begun(&self, id: &str) -> Option<Duration> {
        self.begun.get(&StepId::new(id)).copied()
    }

    /// When it had ended, for a step of the plan; one that never did ends after everything.
    fn ended(&self, id: &str) -> Option<Duration> {
        let id = StepId::new(id);
        self.steps().find(|step| step.id == id).map(|_| self.ended.get(&id).copied().unwrap_or(Duration::MAX))
    }
}

fn is_stop(step: &Step) -> bool {
    matches!(step, Step::StopK3s { .. } | Step::EndLeftovers { .. } | Step::PowerOff { .. } | Step::PowerOffThisHost { .. })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(384))]

    #[test]
    fn every_plan_as_it_is_played(
        (settings, topology, facts, order) in (any_settings(), any_topology(), any_facts(), any_order()),
        answers in prop::collection::vec(any_answer(), 1..24),
        remaining in prop::option::of(0..900_u64),
    ) {
        let order = ShutdownOrder { remaining: remaining.map(secs), ..order };
        let mut run = Run::new(planned(&settings, &topology, &facts, &order));
        // As the control loop begins it: never with less than what the stops of hosts need.
        let within = remaining.map(|remaining| secs(remaining).max(least(&run)));
        let mut limits = BTreeMap::new();
        if let Some(within) = within {
            limits = cut(&run, within);
            run.deadline = Some(within);
            run.recut(limits.clone(), Duration::ZERO);
        }
        let played = play(run, &answers);
        if let Some(within) = within {
            prop_assert!(played.over <= within, "it took {:?} of {within:?}", played.over);
        }

        for step in played.steps().filter(|step| is_stop(&step.action)) {
            let Some(begun) = played.begun(step.id.as_str()) else { continue };
            let Some(host) = step.action.host().and_then(|node| topology.hosts.get(node)) else { continue };
            // What it hosts is off it, or its time is over.
            for before in [format!("drain.{}", host.name), "volumes.detached".to_owned()] {
                let ended = played.ended(&before);
                prop_assert!(host.k3s.is_none() || ended.is_none_or(|ended| ended <= begun), "{} before the end of {before}", step.id);
            }
            // Its own services are stopped before its power goes.
            let stop = played.ended(&format!("stop.{}", host.name));
            let powers_off = matches!(step.action, Step::PowerOff { .. } | Step::PowerOffThisHost { .. });
            prop_assert!(!powers_off || stop.is_none_or(|ended| ended <= begun), "{} before its k3s has stopped", step.id);
            if matches!(step.action, Step::StopK3s { role: K3sRole::Server, .. }) {
                let agents = played.steps().filter(|step| matches!(step.action, Step::StopK3s { role: K3sRole::Agent, .. }));
                prop_assert!(agents.map(|step| played.ended(step.id.as_str())).all(|ended| ended <= Some(begun)), "{}", step.id);
            }
            if host.this_host {
                let others = played.steps().filter(|other| other.id != step.id && !matches!(other.action, Step::PowerOffThisHost { .. }));
                let open = others.filter(|other| played.ended(other.id.as_str()) > Some(begun)).map(|other| other.id.to_string());
                let open: Vec<_> = if powers_off { open.collect() } else { Vec::new() };
                prop_assert!(open.is_empty(), "this host goes before {open:?}");
            }
        }

        // Nothing but its limit ends a drain that does not end by itself.
        for step in played.steps().filter(|step| matches!(step.action, Step::Drain { .. })) {
            let (Some(begun), Some(ended)) = (played.begun.get(&step.id), played.ended.get(&step.id)) else { continue };
            let limit = limits.get(&step.id).copied().unwrap_or(step.limit.ceiling);
            let in_time = within.is_none_or(|within| *begun + limit + played.run.book.abort_grace <= within);
            if played.stuck.contains(&step.id) && in_time {
                prop_assert!(*ended >= *begun + limit, "{} was given up after {:?} of {limit:?}", step.id, ended.saturating_sub(*begun));
            }
        }
    }
}
