//! When each step of a run ran, beside what was expected of it.

use std::fmt::Write as _;

use comfy_table::Cell;
use jiff::Timestamp;

use super::run::{RunStepView, RunView, tone};
use crate::human::{self, Look};
use crate::output::{Tone, cell, table};

/// Columns of the bars: what the others leave, within these.
const WIDTH: std::ops::RangeInclusive<usize> = 8..=40;
const HEADER: [&str; 7] = ["PHASE", "WHERE", "WHEN", "FROM", "TOOK", "EXPECTED", "STATE"];
/// The column of the bars.
const WHEN: usize = 2;

/// One row a step that was begun: phase, node, bar, start, duration, prediction, state.
pub fn steps(run: &RunView, look: &Look) -> String {
    let Some(begun) = run.started else { return String::new() };
    let ended = run.ended.unwrap_or(look.now).max(begun);
    let all = run.phases.iter().chain(&run.unwind).flat_map(|phase| phase.steps.iter().map(move |step| (phase, step)));
    let shown: Vec<_> = all.filter(|(_, step)| step.started.is_some() || step.phase == "unknown-outcome").collect();
    let mut last = "";
    let mut rows: Vec<[String; 7]> = Vec::new();
    for (phase, step) in &shown {
        rows.push(row(if phase.name == last { "" } else { &phase.name }, step, begun, ended));
        last = &phase.name;
    }
    let scale = Scale { begun, span: ended.duration_since(begun).as_secs_f64().max(1.0), width: width(&rows, look) };
    let cells = rows.into_iter().zip(&shown).map(|(mut row, (_, step))| {
        row[WHEN] = scale.bar(step.started.unwrap_or(begun), step.ended.unwrap_or(ended));
        let mut cells: Vec<Cell> = row.into_iter().map(|text| cell(text, Tone::Plain)).collect();
        cells.pop();
        cells.push(cell(step.phase, tone(step.phase)));
        cells
    });
    table(&HEADER, &[3, 4, 5], cells.collect(), look)
}

/// All but the bar.
fn row(phase: &str, step: &RunStepView, begun: Timestamp, ended: Timestamp) -> [String; 7] {
    let seconds = |from: Timestamp, to: Timestamp| human::seconds(to.duration_since(from).as_secs_f64());
    let from = step.started.unwrap_or(begun);
    [
        phase.to_owned(),
        step.host.clone().unwrap_or_else(|| step.id.clone()),
        String::new(),
        format!("+{}", seconds(begun, from)),
        if step.started.is_some() { seconds(from, step.ended.unwrap_or(ended)) } else { "-".to_owned() },
        step.predicted_seconds.map_or_else(|| "-".to_owned(), human::seconds),
        step.phase.to_owned(),
    ]
}

/// What the other columns, two spaces apart, leave to the bars.
fn width(rows: &[[String; 7]], look: &Look) -> usize {
    let column = |n: usize| rows.iter().map(|row| row[n].chars().count()).chain([HEADER[n].len()]).max().unwrap_or(0) + 2;
    let others: usize = (0..HEADER.len()).filter(|n| *n != WHEN).map(column).sum();
    usize::from(look.columns).saturating_sub(others + 2).clamp(*WIDTH.start(), *WIDTH.end())
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
    /// Columns of a bar.
    width: usize,
}

impl Scale {
    fn column(&self, at: Timestamp) -> usize {
        let share = at.duration_since(self.begun).as_secs_f64() / self.span;
        (share.clamp(0.0, 1.0) * self.width as f64).round() as usize
    }

    /// At least one column, so that a short step is seen.
    fn bar(&self, from: Timestamp, to: Timestamp) -> String {
        let from = self.column(from).min(self.width - 1);
        let to = self.column(to).clamp(from + 1, self.width);
        format!("{}{}{}", "·".repeat(from), "█".repeat(to - from), "·".repeat(self.width - to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_never_empty_and_never_longer_than_the_run() {
        let begun: Timestamp = "2026-11-21T14:00:00Z".parse().unwrap();
        let at = |s: i64| begun + jiff::SignedDuration::from_secs(s);
        let scale = Scale { begun, span: 60.0, width: 30 };
        let filled = |from, to| scale.bar(at(from), at(to)).chars().filter(|c| *c == '█').count();
        for (from, to, columns) in [(0, 60, 30), (0, 0, 1), (60, 60, 1), (30, 60, 15), (-10, 90, 30), (59, 10, 1)] {
            assert_eq!(filled(from, to), columns, "{from}..{to}");
            assert_eq!(scale.bar(at(from), at(to)).chars().count(), 30);
        }
    }
}
