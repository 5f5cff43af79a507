//! When each step of a run ran, beside what was expected of it.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::run::{RunPhaseView, RunStepView, RunView, tone};
use crate::human::{self, Look};
use crate::output::{cell, table};

/// Columns of the bars.
const WIDTH: usize = 30;

/// One row a step that was begun: phase, node, bar, start, duration, prediction, state.
pub fn steps(run: &RunView, look: &Look) -> String {
    let Some(begun) = run.started else { return String::new() };
    let ended = run.ended.unwrap_or(look.now).max(begun);
    let scale = Scale { begun, span: ended.duration_since(begun).as_secs_f64().max(1.0) };
    let all: Vec<(&RunPhaseView, &RunStepView)> =
        run.phases.iter().chain(&run.unwind).flat_map(|phase| phase.steps.iter().map(move |step| (phase, step))).collect();
    let shown = all.iter().filter(|(_, step)| step.started.is_some() || step.phase == "unknown-outcome");
    let mut last = "";
    let rows = shown.map(|(phase, step)| {
        let name = if phase.name == last { "" } else { phase.name.as_str() };
        last = phase.name.as_str();
        let (from, to) = (step.started.unwrap_or(begun), step.ended.unwrap_or(ended));
        let seconds = |from: Timestamp, to: Timestamp| human::seconds(to.duration_since(from).as_secs_f64());
        let took = if step.started.is_some() { seconds(from, to) } else { "-".to_owned() };
        vec![
            name.into(),
            step.host.clone().unwrap_or_else(|| step.id.clone()).into(),
            scale.bar(from, to).into(),
            format!("+{}", seconds(begun, from)).into(),
            took.into(),
            step.predicted_seconds.map_or_else(|| "-".to_owned(), human::seconds).into(),
            cell(step.phase, tone(step.phase)),
        ]
    });
    let header = ["PHASE", "WHERE", "WHEN", "FROM", "TOOK", "EXPECTED", "STATE"];
    table(&header, &[3, 4, 5], rows.collect(), look)
}

/// What was told while the steps ran, by step: rungs that were taken, what was left.
pub fn milestones(run: &RunView) -> String {
    let mut s = String::new();
    for step in run.phases.iter().chain(&run.unwind).flat_map(|phase| &phase.steps).filter(|step| !step.milestones.is_empty()) {
        let _ = writeln!(s, "{}", step.id);
        for milestone in &step.milestones {
            let _ = writeln!(s, "  {milestone}");
        }
    }
    s
}

struct Scale {
    begun: Timestamp,
    /// Seconds of the whole run.
    span: f64,
}

impl Scale {
    fn column(&self, at: Timestamp) -> usize {
        let share = at.duration_since(self.begun).as_secs_f64() / self.span;
        (share.clamp(0.0, 1.0) * WIDTH as f64).round() as usize
    }

    /// At least one column, so that a short step is seen.
    fn bar(&self, from: Timestamp, to: Timestamp) -> String {
        let from = self.column(from).min(WIDTH - 1);
        let to = self.column(to).clamp(from + 1, WIDTH);
        format!("{}{}{}", "·".repeat(from), "█".repeat(to - from), "·".repeat(WIDTH - to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_never_empty_and_never_longer_than_the_run() {
        let begun: Timestamp = "2026-11-21T14:00:00Z".parse().unwrap();
        let at = |s: i64| begun + jiff::SignedDuration::from_secs(s);
        let scale = Scale { begun, span: 60.0 };
        let filled = |from, to| scale.bar(at(from), at(to)).chars().filter(|c| *c == '█').count();
        for (from, to, columns) in [(0, 60, 30), (0, 0, 1), (60, 60, 1), (30, 60, 15), (-10, 90, 30), (59, 10, 1)] {
            assert_eq!(filled(from, to), columns, "{from}..{to}");
            assert_eq!(scale.bar(at(from), at(to)).chars().count(), WIDTH);
        }
    }
}
