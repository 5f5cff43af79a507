//! Whether the site is prepared for a bad day.

use std::fmt::Write as _;

use jiff::Timestamp;
use metis_proto::v1;
use serde::Serialize;

use super::{text, time, word};
use crate::human::{self, Look};
use crate::output::{Tone, toned};

/// Answer of `prepare`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PrepareView {
    /// No problem was found.
    pub green: bool,
    /// When it was looked at.
    pub at: Option<Timestamp>,
    /// `arm` may go by it.
    pub recorded: bool,
    /// How many of each.
    pub problems: usize,
    /// How many of each.
    pub warnings: usize,
    /// How many of each.
    pub cannot_tell: usize,
    /// How many of each.
    pub ok: usize,
    /// Problems first.
    pub findings: Vec<FindingView>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FindingView {
    /// Stable, e.g. host.packages.
    pub name: String,
    /// ok, warning, problem or cannot-tell.
    pub level: &'static str,
    /// What was found.
    pub message: String,
    /// When that which was found was made or done.
    pub at: Option<Timestamp>,
    /// How old it is.
    pub age_seconds: Option<f64>,
    /// What to do.
    pub fix: Option<String>,
}

const PROBLEM: &str = "problem";
const WARNING: &str = "warning";
const CANNOT_TELL: &str = "cannot-tell";
const OK: &str = "ok";

fn level(value: i32) -> &'static str {
    match v1::FindingLevel::try_from(value).unwrap_or_default() {
        v1::FindingLevel::Unspecified => word::UNSPECIFIED,
        v1::FindingLevel::Ok => OK,
        v1::FindingLevel::Warning => WARNING,
        v1::FindingLevel::Problem => PROBLEM,
        v1::FindingLevel::CannotTell => CANNOT_TELL,
    }
}

impl From<v1::LookResponse> for PrepareView {
    fn from(r: v1::LookResponse) -> Self {
        let now = time(r.at);
        let finding = |f: v1::Finding| {
            let at = time(f.at);
            let age = at.zip(now).map(|(at, now)| now.duration_since(at).as_secs_f64());
            FindingView { name: f.name, level: level(f.level), message: f.message, at, age_seconds: age, fix: text(f.fix) }
        };
        let findings: Vec<FindingView> = r.findings.into_iter().map(finding).collect();
        let count = |level: &str| findings.iter().filter(|finding| finding.level == level).count();
        let (problems, warnings, cannot_tell, ok) = (count(PROBLEM), count(WARNING), count(CANNOT_TELL), count(OK));
        Self { green: r.green, at: now, recorded: r.recorded, problems, warnings, cannot_tell, ok, findings }
    }
}

impl PrepareView {
    /// All findings, what to do below each, and the sum of it.
    pub fn table(&self, look: &Look) -> String {
        let width = self.findings.iter().map(|finding| finding.name.chars().count()).max().unwrap_or(0);
        let mut s = String::new();
        for finding in &self.findings {
            finding.lines(width, look, &mut s);
        }
        let verdict = if self.green { toned("GREEN", Tone::Good, look) } else { toned("NOT PREPARED", Tone::Bad, look) };
        let _ = write!(
            s,
            "\n{verdict}: {} problems, {} warnings, {} cannot be told, {} ok",
            self.problems, self.warnings, self.cannot_tell, self.ok
        );
        if !self.recorded {
            s.push_str("; not recorded (that needs role maintenance): `metisctl arm` does not go by it");
        }
        s.push('\n');
        s
    }
}

impl FindingView {
    fn lines(&self, width: usize, look: &Look, s: &mut String) {
        let (word, tone) = match self.level {
            PROBLEM => ("PROBLEM", Tone::Bad),
            WARNING => ("warning", Tone::Warn),
            CANNOT_TELL => ("cannot tell", Tone::Plain),
            OK => ("ok", Tone::Good),
            other => (other, Tone::Plain),
        };
        // Padded before it is coloured: colours have no width.
        let word = toned(&format!("{word:<11}"), tone, look);
        let age = self.age_seconds.map(|seconds| format!(" ({} old)", human::seconds(seconds))).unwrap_or_default();
        let _ = writeln!(s, "{word}  {:<width$}  {}{age}", self.name, self.message);
        if let Some(fix) = &self.fix {
            let _ = writeln!(s, "{:11}  {:width$}  do: {fix}", "", "");
        }
    }
}
