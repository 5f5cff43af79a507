//! Pure: what was found out about the site on a quiet day → findings, all at once. What finds it out is in `app`.

pub mod draft;
pub mod facts;
pub mod hosts;
mod judge;
mod kept;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde::Serialize;

pub use judge::judge;

/// How a thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// It will not do what it is meant for.
    Problem,
    /// It works, but worse than it could, or not for much longer.
    Warning,
    /// It could not be found out.
    CannotTell,
    /// As it should be.
    Ok,
}

impl Level {
    /// `problem`, `warning`, `cannot-tell` or `ok`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Problem => "problem",
            Self::Warning => "warning",
            Self::CannotTell => "cannot-tell",
            Self::Ok => "ok",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable name, e.g. `host.packages`.
    pub name: String,
    /// How it stands.
    pub level: Level,
    /// What was found, and on what.
    pub message: String,
    /// When that which was found was made or done; `None`: it has no age.
    pub at: Option<Timestamp>,
    /// What to do; `None`: nothing, or the message says it.
    pub fix: Option<String>,
}

impl Finding {
    /// Without an age, and with nothing to do.
    pub fn new(name: &str, level: Level, message: impl Into<String>) -> Self {
        Self { name: name.to_owned(), level, message: message.into(), at: None, fix: None }
    }

    /// With what to do.
    pub fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }

    /// With its age.
    pub fn at(self, at: Timestamp) -> Self {
        Self { at: Some(at), ..self }
    }
}

/// Whether nothing stands in the way: warnings, and what cannot be told from here, do not.
pub fn is_green(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.level != Level::Problem)
}

/// How many of them stand so.
pub fn count(findings: &[Finding], level: Level) -> usize {
    findings.iter().filter(|finding| finding.level == level).count()
}
