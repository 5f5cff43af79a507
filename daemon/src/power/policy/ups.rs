//! One UPS: what it said, what can be inferred from it, and how it is judged.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::debounce::Debounce;
use super::ground::{Ground, Judged, judge, seconds};
use super::{Change, LONGEST_STEP};
use crate::power::budget::{Trend, of_ups};
use crate::power::{LinkError, Settings};
use crate::site::{Now, Reading, UpsName, Verdict};

/// State of the conversation with the UPS.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Link {
    /// Not asked yet.
    New,
    /// The newest poll brought a reading.
    Up,
    /// It did not.
    Down(LinkError),
}

/// Where the power comes from, as far as was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Unknown,
    Mains,
    Battery,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fsd {
    Absent,
    /// There at first sight, on line.
    Latched,
    /// Seen to appear.
    Announced,
}

/// Why it is judged so.
#[derive(Debug, Clone, PartialEq)]
enum Cause {
    NeverHeard,
    Silent,
    NoLine,
    Mains,
    Battery,
    Calibrating,
    Act(Ground),
}

#[derive(Debug, Clone)]
pub(super) struct UpsWatch {
    pub(super) link: Link,
    pub(super) login_problem: Option<String>,
    /// Newest reading and when it came, informative or not.
    pub(super) heard: Option<(Reading, Timestamp)>,
    pub(super) verdict: Verdict,
    pub(super) since: Timestamp,
    pub(super) trend: Trend,
    cause: Cause,
    line: Line,
    /// Tokens of the newest reading from which something could be inferred.
    informed: Option<BTreeSet<String>>,
    /// Time without such a reading, counted only while metis was awake.
    silence: Duration,
    /// Boot time from which it was on battery, other than for a calibration.
    battery_since: Option<Duration>,
    /// For how long OFF was heard without a gap.
    off_for: Option<Duration>,
    fsd: Fsd,
    /// It said "0 s of runtime" on line with a charged battery: that number means nothing until it says another.
    runtime_lies: bool,
    debounce: Debounce,
}

impl UpsWatch {
    pub(super) fn new(now: &Now) -> Self {
        Self {
            link: Link::New,
            login_problem: None,
            heard: None,
            verdict: Verdict::Unknown,
            since: now.wall,
            trend: Trend::default(),
            cause: Cause::NeverHeard,
            line: Line::Unknown,
            informed: None,
            silence: Duration::ZERO,
            battery_since: None,
            off_for: None,
            fsd: Fsd::Absent,
            runtime_lies: false,
            debounce: Debounce::default(),
        }
    }

    /// FSD stands, but is left over.
    pub(super) fn fsd_latched(&self) -> bool {
        self.fsd == Fsd::Latched && self.line != Line::Battery
    }

    /// Time on battery so far; `None` on line.
    pub(super) fn battery_for(&self, now: &Now) -> Option<Duration> {
        self.battery_since.map(|since| now.boot.saturating_sub(since))
    }

    /// Nothing was heard so far, but metis has not listened for long either.
    pub(super) fn may_yet_speak(&self, settings: &Settings) -> bool {
        self.informed.is_none() && self.silence <= settings.thresholds.comm_lost_after
    }

    /// The newest readings hold a reason to act, whether or not enough of them agree.
    pub(super) fn wants_to_act(&self) -> bool {
        self.verdict == Verdict::OnBattery && self.debounce.pending().is_some()
    }

    /// A poll brought a reading.
    pub(super) fn hear(&mut self, settings: &Settings, name: &UpsName, reading: &Reading, now: &Now, changes: &mut Vec<Change>) {
        self.link = Link::Up;
        self.heard = Some((reading.clone(), now.wall));
        if !informative(&reading.status) {
            return self.judge_silence(settings, name, now, changes);
        }
        let gap = self.silence.min(LONGEST_STEP);
        self.silence = Duration::ZERO;
        self.take_fsd(&reading.status, name, changes);
        self.take_line(reading, now, settings);
        self.take_off(&reading.status, gap);
        self.informed = Some(reading.status.clone());
        let (verdict, cause) = self.judge_reading(settings, name, reading, now);
        self.settle(verdict, cause, name, now, changes);
    }

    /// A poll brought none.
    pub(super) fn miss(&mut self, settings: &Settings, name: &UpsName, error: &LinkError, now: &Now, changes: &mut Vec<Change>) {
        self.link = Link::Down(error.clone());
        self.judge_silence(settings, name, now, changes);
    }

    /// Time passed.
    pub(super) fn pass(&mut self, step: Duration) {
        self.silence = self.silence.saturating_add(step);
    }

    fn take_fsd(&mut self, status: &BTreeSet<String>, name: &UpsName, changes: &mut Vec<Change>) {
        self.fsd = match (status.contains("FSD"), self.fsd) {
            (false, _) => Fsd::Absent,
            (true, Fsd::Absent) if self.informed.is_some() => Fsd::Announced,
            (true, Fsd::Absent) => {
                if !status.contains("OB") {
                    changes.push(Change::FsdLatched { ups: name.clone() });
                }
                Fsd::Latched
            }
            (true, known) => known,
        };
    }

    fn take_line(&mut self, reading: &Reading, now: &Now, settings: &Settings) {
        let status = &reading.status;
        if status.contains("OL") {
            self.line = Line::Mains;
            self.battery_since = None;
            self.trend.clear();
            let charged = reading.charge.is_some_and(|charge| charge > settings.thresholds.charge_floor);
            self.runtime_lies = reading.runtime == Some(Duration::ZERO) && charged && !status.contains("LB");
        } else if status.contains("OB") {
            self.line = Line::Battery;
        }
        if self.line == Line::Battery {
            self.runtime_lies &= reading.runtime.is_none_or(|runtime| runtime.is_zero());
            self.trend.push(now.boot, self.believed_runtime(reading), reading.charge);
            // A calibration drains the battery on purpose, with the mains present: the time on battery starts after it.
            self.battery_since = if status.contains("CAL") { None } else { self.battery_since.or(Some(now.boot)) };
        }
    }

    fn take_off(&mut self, status: &BTreeSet<String>, gap: Duration) {
        self.off_for = if !status.contains("OFF") || status.contains("CAL") {
            None
        } else {
            Some(self.off_for.map_or(Duration::ZERO, |so_far| so_far.saturating_add(gap)))
        };
    }

    fn believed_runtime(&self, reading: &Reading) -> Option<Duration> {
        reading.runtime.filter(|_| !self.runtime_lies)
    }

    fn judge_reading(&mut self, settings: &Settings, name: &UpsName, reading: &Reading, now: &Now) -> (Verdict, Cause) {
        let status = &reading.status;
        let on_battery = self.line == Line::Battery;
        self.debounce_reading(settings, name, reading, now);
        if self.fsd == Fsd::Announced || (status.contains("FSD") && on_battery) {
            return (Verdict::Critical, Cause::Act(Ground::Fsd));
        }
        let limit = settings.thresholds.off_after;
        if self.off_for.is_some_and(|off| off > limit) {
            return (Verdict::Critical, Cause::Act(Ground::Off { limit }));
        }
        match (self.line, self.debounce.settled()) {
            (Line::Mains, _) => (Verdict::Online, Cause::Mains),
            (Line::Unknown, _) => (Verdict::Unknown, Cause::NoLine),
            (Line::Battery, Some(ground)) => (Verdict::Critical, Cause::Act(ground.clone())),
            (Line::Battery, None) if status.contains("CAL") => (Verdict::OnBattery, Cause::Calibrating),
            (Line::Battery, None) => (Verdict::OnBattery, Cause::Battery),
        }
    }

    fn debounce_reading(&mut self, settings: &Settings, name: &UpsName, reading: &Reading, now: &Now) {
        let status = &reading.status;
        if self.line != Line::Battery || status.contains("CAL") {
            return self.debounce.reset();
        }
        // Load off or on bypass: what the battery says is not about the load; OFF has its own clock.
        if status.contains("OFF") || (status.contains("BYPASS") && !status.contains("OB")) {
            return;
        }
        let battery_for = self.battery_for(now).unwrap_or_default();
        match judge(settings, of_ups(settings, name), reading, self.believed_runtime(reading), battery_for, self.debounce.pending()) {
            Judged::Act(ground) => self.debounce.agree(ground, &settings.thresholds),
            Judged::Fine => self.debounce.disagree(),
            Judged::CannotTell => {}
        }
    }

    /// Nothing new can be inferred. Silence never lowers a critical verdict: only the UPS can say that it is well.
    pub(super) fn judge_silence(&mut self, settings: &Settings, name: &UpsName, now: &Now, changes: &mut Vec<Change>) {
        let limit = settings.thresholds.comm_lost_after;
        if self.verdict == Verdict::Critical || self.silence <= limit {
            return;
        }
        self.off_for = None;
        let (verdict, cause) = match &self.informed {
            None => (Verdict::Unknown, Cause::NeverHeard),
            // upsmon takes a UPS that vanished in CAL or OFF for critical; a self-test with a USB error has shut sites down so.
            Some(last) if self.line == Line::Battery && !last.contains("CAL") && !last.contains("OFF") => {
                (Verdict::Critical, Cause::Act(Ground::Silent { limit }))
            }
            Some(_) => (Verdict::Unknown, Cause::Silent),
        };
        self.settle(verdict, cause, name, now, changes);
    }

    fn settle(&mut self, verdict: Verdict, cause: Cause, name: &UpsName, now: &Now, changes: &mut Vec<Change>) {
        self.cause = cause;
        let from = std::mem::replace(&mut self.verdict, verdict);
        if from != verdict {
            self.since = now.wall;
            changes.push(Change::Ups { ups: name.clone(), from, to: verdict, reason: self.reason(now) });
        }
    }

    /// Why it is judged so, for people.
    pub(super) fn reason(&self, now: &Now) -> String {
        let mut text = match &self.cause {
            Cause::NeverHeard => "never heard from".to_owned(),
            Cause::Silent => format!("not heard from for {}, last it said {}", seconds(self.silence), self.last_words()),
            Cause::NoLine => format!("it says neither OL nor OB, only {}", self.last_words()),
            Cause::Mains => "on line".to_owned(),
            Cause::Battery => format!("on battery for {}", seconds(self.battery_for(now).unwrap_or_default())),
            Cause::Calibrating => "on battery for a calibration (CAL): not judged".to_owned(),
            Cause::Act(ground) => ground.to_string(),
        };
        if let (Link::Down(error), true) = (&self.link, self.silence > Duration::ZERO) {
            text.push_str("; no reading: ");
            text.push_str(&error.to_string());
        }
        if self.fsd_latched() && self.verdict == Verdict::Online {
            text.push_str("; FSD stands from before (latched until upsd restarts): not acted on");
        }
        text
    }

    fn last_words(&self) -> String {
        let tokens = self.informed.iter().flatten().map(String::as_str).collect::<Vec<_>>();
        tokens.join(" ")
    }
}

/// Whether anything can be inferred: WAIT (the driver is still starting), an empty status and "OL OB" at once say nothing.
fn informative(status: &BTreeSet<String>) -> bool {
    let contradicts_itself = status.contains("OL") && status.contains("OB");
    !status.is_empty() && !status.contains("WAIT") && !contradicts_itself
}
