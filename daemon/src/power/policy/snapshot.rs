//! What is believed right now, as data for the API.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::Trigger;
#[cfg(doc)]
use super::Watch;
use super::domain::{self, DomainWatch};
use super::ups::{Link, UpsWatch};
use crate::power::{Settings, budget};
use crate::site::{DomainName, NodeName, Now, PowerDomain, UpsName, Verdict};

/// Everything that a [`Watch`] believes at one moment, in the order of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Snapshot {
    /// The moment.
    pub at: Timestamp,
    /// The UPSes.
    pub upses: Vec<UpsState>,
    /// The power domains.
    pub domains: Vec<DomainState>,
}

/// One UPS.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UpsState {
    /// Its name.
    pub name: UpsName,
    /// How it is judged.
    pub verdict: Verdict,
    /// Why, for people.
    pub reason: String,
    /// Tokens of the newest `ups.status`.
    pub status: BTreeSet<String>,
    /// Percent; absent where not a number.
    pub charge: Option<f64>,
    /// Runtime left as the UPS says.
    pub runtime: Option<Duration>,
    /// Percent.
    pub load: Option<f64>,
    /// When the newest reading came; absent if never.
    pub last_heard: Option<Timestamp>,
    /// Since when the verdict holds.
    pub since: Timestamp,
    /// "connected", or why there is no reading; with what is wrong with the login.
    pub link: String,
    /// FSD stands but is left over from before: not acted on.
    pub fsd_latched: bool,
    /// All variables of the newest reading.
    pub vars: BTreeMap<String, String>,
}

/// One power domain.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DomainState {
    /// Its name.
    pub name: DomainName,
    /// How it is judged.
    pub verdict: Verdict,
    /// Why, for people.
    pub reason: String,
    /// Since when the verdict holds.
    pub since: Timestamp,
    /// Its feeds.
    pub upses: BTreeSet<UpsName>,
    /// What it feeds.
    pub nodes: BTreeSet<NodeName>,
    /// What a shutdown is taken to need.
    pub budget: Duration,
    /// The budget comes from real runs; false: it is `power.shutdown_budget`.
    pub budget_learned: bool,
    /// A runtime of this factor x budget, or less, is a trigger.
    pub safety_factor: f64,
    /// Runtime left: the shortest of the feeds that keep it up (of all feeds, when none does).
    pub runtime: Option<Duration>,
    /// Runtime minus factor x budget; negative: too little.
    pub margin: Option<SignedDuration>,
    /// When it would trigger at the present rate; absent on line and where it cannot be told.
    pub would_trigger: Option<Timestamp>,
    /// Decided and not cleared.
    pub trigger: Option<Trigger>,
}

/// Takes the snapshot that [`Watch::snapshot`] promises.
pub(super) fn take(
    upses: &BTreeMap<UpsName, UpsWatch>,
    domains: &BTreeMap<DomainName, DomainWatch>,
    settings: &Settings,
    now: &Now,
) -> Snapshot {
    let ups_states = settings.upses.iter().filter_map(|c| upses.get(&c.name).map(|ups| ups_state(&c.name, ups, now)));
    let domain_states =
        settings.domains.iter().filter_map(|c| domains.get(&c.name).map(|domain| domain_state(c, domain, upses, settings, now)));
    Snapshot { at: now.wall, upses: ups_states.collect(), domains: domain_states.collect() }
}

fn ups_state(name: &UpsName, ups: &UpsWatch, now: &Now) -> UpsState {
    let (reading, last_heard) = ups.heard.clone().map_or_else(Default::default, |(reading, at)| (reading, Some(at)));
    UpsState {
        name: name.clone(),
        verdict: ups.verdict,
        reason: ups.reason(now),
        status: reading.status,
        charge: reading.charge,
        runtime: reading.runtime,
        load: reading.load,
        last_heard,
        since: ups.since,
        link: link_text(ups),
        fsd_latched: ups.fsd_latched(),
        vars: reading.vars,
    }
}

fn link_text(ups: &UpsWatch) -> String {
    let link = match &ups.link {
        Link::New => "not asked yet".to_owned(),
        Link::Up => "connected".to_owned(),
        Link::Down(error) => error.to_string(),
    };
    match &ups.login_problem {
        Some(problem) => format!("{link}; {problem}"),
        None => link,
    }
}

fn domain_state(
    config: &PowerDomain,
    domain: &DomainWatch,
    upses: &BTreeMap<UpsName, UpsWatch>,
    settings: &Settings,
    now: &Now,
) -> DomainState {
    let keeps_up = |ups: &UpsWatch| ups.verdict == domain.verdict || domain.verdict == Verdict::Critical;
    let budget = budget::of_domain(settings, &config.name);
    let counting = || domain::feeds(config, upses).filter(|(_, ups)| keeps_up(ups));
    let runtime = counting().filter_map(|(_, ups)| ups.heard.as_ref()?.0.runtime).min();
    let until = (domain.verdict == Verdict::OnBattery)
        // The domain falls with the last of the feeds that keep it up.
        .then(|| counting().filter_map(|(name, ups)| until_trigger(name, ups, settings, now)).max())
        .flatten();
    DomainState {
        name: config.name.clone(),
        verdict: domain.verdict,
        reason: domain::reason(config, upses, now),
        since: domain.since,
        upses: config.upses.clone(),
        nodes: config.nodes.clone(),
        budget,
        budget_learned: settings.budgets.contains_key(&config.name),
        safety_factor: settings.thresholds.runtime_safety_factor,
        runtime,
        margin: runtime.and_then(|runtime| SignedDuration::try_from_secs_f64(budget::margin_seconds(settings, budget, runtime)).ok()),
        would_trigger: until.map(|until| now.later(until).wall),
        trigger: domain.trigger.clone(),
    }
}

fn until_trigger(name: &UpsName, ups: &UpsWatch, settings: &Settings, now: &Now) -> Option<Duration> {
    ups.battery_for(now).and_then(|battery_for| ups.trend.until_trigger(settings, budget::of_ups(settings, name), battery_for))
}
