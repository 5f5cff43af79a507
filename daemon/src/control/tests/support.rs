//! Makers of events and a synchronous driver of decide and apply.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use crate::control::{Adopted, Decision, Event, Fact, Order, Reply, Request, Stamp, State, apply, decide};
use crate::runbook::{Phase, PlannedStep, Runbook, StepResult};
use crate::site::{BootId, ImageRef, NodeName, Now, OnTrigger, RunId, SettingsDigest, Step, StepId};

pub(super) fn now(seconds: u64) -> Now {
    Now {
        wall: Timestamp::from_second(1_800_000_000 + i64::try_from(seconds).unwrap()).unwrap(),
        boot: Duration::from_secs(seconds),
        boot_id: BootId::new("boot-a"),
        synced: true,
    }
}

pub(super) fn adopted() -> Adopted {
    Adopted {
        digest: SettingsDigest::new("d1"),
        files: vec!["/etc/metis/metis.yaml".into()],
        on_trigger: OnTrigger::Observe,
        on_boot: crate::site::OnBoot::Never,
    }
}

pub(super) fn recovered() -> Event {
    Event::Recovered { version: "0.1.0".into(), settings: adopted(), rejected: Vec::new() }
}

pub(super) fn image() -> ImageRef {
    serde_json::from_value(serde_json::json!({"url": "file:///golden.img", "sha256": "00", "content_sha256": null})).unwrap()
}

/// Fetch, prepare, write.
pub(super) fn burn(device: &str, diskseq: u64) -> Runbook<Step> {
    let minute = Duration::from_secs(60);
    let prepare = Step::PrepareCard { node: NodeName::new("titan-13"), image: image(), no_inject: false };
    let write = Step::WriteCard { device: PathBuf::from(device), diskseq, allow_fixed: false };
    book(
        "burn",
        vec![
            PlannedStep::act("image.fetch", "fetch the image", Step::FetchImage { image: image() }, minute),
            PlannedStep::act("card.prepare", "prepare the card", prepare, minute),
            PlannedStep::act("card.write", "write the card", write, minute),
        ],
    )
}

pub(super) fn book(kind: &str, steps: Vec<PlannedStep<Step>>) -> Runbook<Step> {
    Runbook::new(kind, format!("{kind} titan-13"), vec![Phase::serial("card", steps)])
}

/// A plan of one step that does nothing of note.
pub(super) fn simple(kind: &str) -> Runbook<Step> {
    let step = Step::StreamImage { target: "x.img".into() };
    book(kind, vec![PlannedStep::act("image.stream", "stream the image", step, Duration::from_secs(60))])
}

pub(super) fn admit(runbook: Runbook<Step>) -> Event {
    Event::Asked(Request::admit("ada (uid 1000)", runbook))
}

pub(super) fn cancel(run: &str, execute: bool) -> Event {
    Event::Asked(Request::Cancel { requester: "ada (uid 1000)".into(), run: RunId::new(run), execute })
}

pub(super) fn finished(run: &str, step: &str, attempt: u32, result: StepResult) -> Event {
    Event::StepFinished { run: RunId::new(run), step: StepId::new(step), attempt, result }
}

pub(super) fn done() -> StepResult {
    StepResult::Done { detail: String::new() }
}

/// State, its facts, and everything that was ordered.
#[derive(Default)]
pub(super) struct World {
    pub state: State,
    pub facts: Vec<(Fact, Stamp)>,
    pub orders: Vec<Order>,
}

impl World {
    /// A daemon that has just started.
    pub(super) fn started() -> Self {
        let mut world = Self::default();
        world.feed(&recovered(), &now(10));
        world
    }

    pub(super) fn feed(&mut self, event: &Event, now: &Now) -> Option<Reply> {
        let Decision { facts, orders, reply } = decide(&self.state, event, now);
        for fact in facts {
            let stamp = Stamp { seq: self.state.last_seq + 1, now: now.clone() };
            apply(&mut self.state, &fact, &stamp);
            self.facts.push((fact, stamp));
        }
        self.orders.extend(orders);
        reply
    }

    pub(super) fn admit(&mut self, runbook: Runbook<Step>, now: &Now) -> RunId {
        match self.feed(&admit(runbook), now) {
            Some(Reply::Admitted { run }) => run,
            other => panic!("not admitted: {other:?}"),
        }
    }

    pub(super) fn starts(&self) -> Vec<(String, String)> {
        self.orders
            .iter()
            .filter_map(|order| match order {
                Order::Start { run, step, .. } => Some((run.to_string(), step.to_string())),
                _ => None,
            })
            .collect()
    }

    pub(super) fn reason(&self, run: &str) -> String {
        self.state.run(&RunId::new(run)).unwrap().reason.clone()
    }
}
