//! A run in one paragraph for the log.

use std::collections::BTreeMap;

use super::{Report, Span, StepReport};
use crate::runbook::Status;

impl Report {
    /// One paragraph for the log: who wanted what and why, how it ended, what took its time, what was left, what to look at.
    pub fn story(&self) -> String {
        let took = words(self.span.seconds);
        let mut story = format!("{}: {}, asked for by {}: {} after {took}", self.run, self.title, self.requested_by, self.outcome.name());
        if let Some(margin) = self.margin_seconds {
            let when = if margin < 0 { "after" } else { "before" };
            let expected = words(self.predicted_seconds);
            story = format!("{story} ({expected} expected), {} {when} the deadline", words(margin.unsigned_abs()));
        }
        if !self.reason.is_empty() {
            story = format!("{story}: {}", self.reason);
        }
        if let Some(trigger) = &self.trigger {
            story = format!("{story}. Begun because {}", trigger.because);
        }
        for raised in &self.raised {
            story = format!("{story}. Raised at {} by {}", raised.at, raised.requested_by);
            if let Some(lowered) = raised.lowered {
                story = format!("{story} until the mains were back at {lowered}");
            }
        }
        let part =
            |name: &str, words: Vec<String>| if words.is_empty() { String::new() } else { format!(". {name}: {}", words.join(", ")) };
        let timed = |steps: &mut dyn Iterator<Item = &StepReport>| -> Vec<String> {
            steps.filter_map(|step| Some((step, step.span?))).map(step_words).collect()
        };
        story += &part("Time line", timed(&mut self.steps()));
        story += &part("Undone", timed(&mut self.undone.iter().flat_map(|phase| &phase.steps)));
        let rungs = self.steps().filter(|step| step.kind == "node.drain" && !step.milestones.is_empty());
        story += &part("Rungs", rungs.map(|step| format!("{}: {}", step.title, step.milestones.join("; "))).collect());
        story += &part("Locks", self.overridden_locks.iter().map(|(host, locks)| format!("{host}: {}", locks.join("; "))).collect());
        story += &part("Left behind", self.abandoned.iter().map(|(host, why)| format!("{host} ({why})")).collect());
        let mut ways: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (host, how) in &self.powered_off {
            ways.entry(how).or_default().push(host.as_str());
        }
        let ways: Vec<_> = ways.into_iter().map(|(how, hosts)| format!("{} come back {how}", hosts.join(", "))).collect();
        story += &part("Off", ways.into_iter().reduce(|all, one| format!("{all}; {one}")).into_iter().collect());
        let held = self.left.iter().filter(|(change, _)| matches!(**change, "suspended" | "cordoned"));
        story += &part("Not undone", held.map(|(change, objects)| format!("{} ({change})", objects.join(", "))).collect());
        story += &part("Never begun", self.steps().filter(|step| never_begun(step)).map(|step| step.title.clone()).collect());
        story + "."
    }
}

/// This host's own power-off is done without a time: it is ordered once the run is recorded.
fn never_begun(step: &StepReport) -> bool {
    step.span.is_none() && step.status != Status::Done
}

fn step_words((step, span): (&StepReport, Span)) -> String {
    let mut text = format!("{} {}", step.title, words(span.seconds));
    if step.attempts > 1 {
        text = format!("{text} ({} attempts)", step.attempts);
    }
    match step.status {
        Status::Done => text,
        Status::Cancelled => format!("{text} (cancelled)"),
        Status::Abandoned => format!("{text} (abandoned)"),
        Status::UnknownOutcome => format!("{text} (outcome unknown)"),
        Status::Skipped => format!("{text} (skipped)"),
        Status::Failed | Status::Pending | Status::Running { .. } | Status::Waiting { .. } => format!("{text} (failed)"),
    }
}

/// `42 s`, `4 min 12 s`, `2 h 03 min`.
pub(super) fn words(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s:02} s"),
        (h, m, _) => format!("{h} h {m:02} min"),
    }
}
