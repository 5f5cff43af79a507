//! Pure: readings → verdicts → triggers. [`Watch`] is volatile; only its [`Change`]s are worth keeping.
//!
//! The rules are those of FEATURES "Power: watching", upsmon(8) and upsmon.conf(5); where upsmon shuts down on doubt about a UPS that was
//! on line, metis says that it cannot tell. All durations run on [`Now::boot`].

mod debounce;
mod domain;
mod ground;
mod snapshot;
#[cfg(test)]
mod tests;
mod ups;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::{Observation, Settings};
use crate::site::{DomainName, Now, UpsName, Verdict};

use domain::DomainWatch;
pub use snapshot::{DomainState, Snapshot, UpsState};
use ups::UpsWatch;

/// Longest step that silence is counted by. A watcher that was itself asleep (suspend, SIGSTOP, starved) must not take its own sleep for
/// the UPS's silence.
const LONGEST_STEP: Duration = Duration::from_secs(5);

/// What the policy decided that is worth a fact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// A UPS is judged differently.
    Ups {
        /// Which.
        ups: UpsName,
        /// Judged so until now.
        from: Verdict,
        /// Judged so from now on.
        to: Verdict,
        /// Why, for people.
        reason: String,
    },
    /// A power domain is judged differently.
    Domain {
        /// Which.
        domain: DomainName,
        /// Judged so until now.
        from: Verdict,
        /// Judged so from now on.
        to: Verdict,
        /// Why, for people.
        reason: String,
    },
    /// FSD was there at first sight while on line: left over from an earlier outage until upsd is restarted; shown, not acted on.
    FsdLatched {
        /// Which UPS.
        ups: UpsName,
    },
    /// A domain is about to lose power: the site is to be stopped.
    Trigger {
        /// Which domain.
        domain: DomainName,
        /// Why, for people.
        because: String,
    },
    /// The reason of an earlier [`Change::Trigger`] is gone.
    TriggerCleared {
        /// Which domain.
        domain: DomainName,
        /// Why, for people.
        because: String,
    },
}

/// A decided trigger that has not been cleared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    /// When it was decided.
    pub at: Timestamp,
    /// Why, for people.
    pub because: String,
}

impl Trigger {
    /// What is shown and logged while disarmed, with the time of day in `zone`.
    pub fn disarmed_message(&self, zone: &TimeZone) -> String {
        format!("DISARMED: would have acted at {} because {}", self.at.to_zoned(zone.clone()).strftime("%H:%M:%S"), self.because)
    }
}

/// Everything that is believed about UPSes and domains right now. Never stored: a restarted daemon starts from "never heard from".
#[derive(Debug, Clone)]
pub struct Watch {
    upses: BTreeMap<UpsName, UpsWatch>,
    domains: BTreeMap<DomainName, DomainWatch>,
    awake_at: Duration,
}

impl Watch {
    /// Nothing heard yet.
    pub fn new(settings: &Settings, now: &Now) -> Self {
        let mut watch = Self { upses: BTreeMap::new(), domains: BTreeMap::new(), awake_at: now.boot };
        watch.reconfigure(settings, now);
        watch
    }

    /// Takes new settings: what is known of UPSes and domains that stay is kept. The next [`Watch::tick`] judges by the new settings.
    pub fn reconfigure(&mut self, settings: &Settings, now: &Now) {
        self.upses.retain(|name, _| settings.upses.iter().any(|ups| ups.name == *name));
        for ups in &settings.upses {
            self.upses.entry(ups.name.clone()).or_insert_with(|| UpsWatch::new(now));
        }
        self.domains.retain(|name, _| settings.domains.iter().any(|domain| domain.name == *name));
        for domain in &settings.domains {
            self.domains.entry(domain.name.clone()).or_insert_with(|| DomainWatch::new(now));
        }
    }

    /// Takes in one poll of one UPS. A UPS that is not configured changes nothing.
    pub fn observe(&mut self, settings: &Settings, observation: &Observation, now: &Now) -> Vec<Change> {
        let name = &observation.ups;
        let mut changes = self.pass_time(settings, Some(name), now);
        if let Some(ups) = self.upses.get_mut(name) {
            ups.login_problem.clone_from(&observation.login_problem);
            match &observation.result {
                Ok(reading) => ups.hear(settings, name, reading, now, &mut changes),
                Err(error) => ups.miss(settings, name, error, now, &mut changes),
            }
            self.judge_domains(settings, Some(name), now, &mut changes);
        }
        changes
    }

    /// Lets time pass without news: silence grows. To be called about once a second: a step of more than 5 s counts as 5 s.
    pub fn tick(&mut self, settings: &Settings, now: &Now) -> Vec<Change> {
        let mut changes = self.pass_time(settings, None, now);
        self.judge_domains(settings, None, now, &mut changes);
        changes
    }

    /// What is believed, for people and for the API.
    pub fn snapshot(&self, settings: &Settings, now: &Now) -> Snapshot {
        snapshot::take(&self.upses, &self.domains, settings, now)
    }

    /// Lets the silence of all UPSes grow, and judges it, but for the one that has `news`: it is judged by those.
    fn pass_time(&mut self, settings: &Settings, news: Option<&UpsName>, now: &Now) -> Vec<Change> {
        let step = now.boot.saturating_sub(self.awake_at).min(LONGEST_STEP);
        self.awake_at = now.boot;
        let mut changes = Vec::new();
        for (name, ups) in &mut self.upses {
            ups.pass(step);
            if news != Some(name) {
                ups.judge_silence(settings, name, now, &mut changes);
            }
        }
        changes
    }

    fn judge_domains(&mut self, settings: &Settings, heard: Option<&UpsName>, now: &Now, changes: &mut Vec<Change>) {
        for config in &settings.domains {
            if let Some(domain) = self.domains.get_mut(&config.name) {
                let polled = heard.is_some_and(|ups| config.upses.contains(ups));
                domain.judge(settings, config, &self.upses, polled, now, changes);
            }
        }
    }
}
