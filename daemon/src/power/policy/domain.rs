//! One power domain: up while one of its feeds keeps it up.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::ups::UpsWatch;
use super::{Change, Trigger};
use crate::power::Settings;
use crate::site::{Now, PowerDomain, UpsName, Verdict};

#[derive(Debug, Clone)]
pub(super) struct DomainWatch {
    pub(super) verdict: Verdict,
    pub(super) since: Timestamp,
    pub(super) trigger: Option<Trigger>,
    /// Polls since a triggered domain was last critical.
    calm: u32,
}

impl DomainWatch {
    pub(super) fn new(now: &Now) -> Self {
        Self { verdict: Verdict::Unknown, since: now.wall, trigger: None, calm: 0 }
    }

    /// Judges by the feeds. `polled`: a poll of one of them has just come in.
    pub(super) fn judge(
        &mut self,
        settings: &Settings,
        config: &PowerDomain,
        upses: &BTreeMap<UpsName, UpsWatch>,
        polled: bool,
        now: &Now,
        changes: &mut Vec<Change>,
    ) {
        let verdict = verdict_of(settings, config, upses);
        let from = std::mem::replace(&mut self.verdict, verdict);
        if from != verdict {
            self.since = now.wall;
            changes.push(Change::Domain { domain: config.name.clone(), from, to: verdict, reason: reason(config, upses, now) });
        }
        if verdict == Verdict::Critical {
            self.calm = 0;
            if self.trigger.is_none() {
                let because = reason(config, upses, now);
                self.trigger = Some(Trigger { at: now.wall, because: because.clone() });
                changes.push(Change::Trigger { domain: config.name.clone(), because });
            }
        } else if self.trigger.is_some() && polled {
            self.calm_down(settings, config, upses, now, changes);
        }
    }

    /// A trigger is cleared by as many polls as decide one; a flash of mains on an empty battery is none of them.
    fn calm_down(
        &mut self,
        settings: &Settings,
        config: &PowerDomain,
        upses: &BTreeMap<UpsName, UpsWatch>,
        now: &Now,
        changes: &mut Vec<Change>,
    ) {
        let calm = self.verdict == Verdict::Online
            || self.verdict == Verdict::OnBattery && !feeds(config, upses).any(|(_, ups)| ups.wants_to_act());
        self.calm = if calm { self.calm.saturating_add(1) } else { 0 };
        if self.calm >= settings.thresholds.debounce_polls.max(1) {
            self.trigger = None;
            changes.push(Change::TriggerCleared { domain: config.name.clone(), because: reason(config, upses, now) });
        }
    }
}

/// The feeds of a domain, by name.
pub(super) fn feeds<'a>(
    config: &'a PowerDomain,
    upses: &'a BTreeMap<UpsName, UpsWatch>,
) -> impl Iterator<Item = (&'a UpsName, &'a UpsWatch)> {
    config.upses.iter().filter_map(|name| upses.get_key_value(name))
}

/// Critical only when no feed keeps the domain up. A feed of which nothing is known is no feed to rely on, and no reason to act either
/// (upsmon counts it as on line: upsmon(8), MINSUPPLIES); but each is given the time to speak first.
fn verdict_of(settings: &Settings, config: &PowerDomain, upses: &BTreeMap<UpsName, UpsWatch>) -> Verdict {
    let has = |verdict| feeds(config, upses).any(|(_, ups)| ups.verdict == verdict);
    let verdict =
        [Verdict::Online, Verdict::OnBattery, Verdict::Critical].into_iter().find(|verdict| has(*verdict)).unwrap_or(Verdict::Unknown);
    let too_early = feeds(config, upses).any(|(_, ups)| ups.may_yet_speak(settings));
    if verdict == Verdict::Critical && too_early { Verdict::OnBattery } else { verdict }
}

/// Why it is judged so, for people: what each feed says.
pub(super) fn reason(config: &PowerDomain, upses: &BTreeMap<UpsName, UpsWatch>, now: &Now) -> String {
    let parts: Vec<String> = feeds(config, upses).map(|(name, ups)| format!("{name}: {}", ups.reason(now))).collect();
    if parts.is_empty() { "no UPS feeds it".to_owned() } else { parts.join("; ") }
}
