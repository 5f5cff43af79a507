//! Pure: what a person asks of a shutdown → the order to the planner, and what refuses it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::api::port::ShutdownQuestion;
use crate::cluster::ShutdownOrder;
use crate::config::{HostRole, Settings};
use crate::power::Snapshot;
use crate::site::{Cause, DomainName, Guard, Verdict};

/// The order, without the time that is left.
pub fn order(settings: &Settings, question: &ShutdownQuestion) -> ShutdownOrder {
    let mode = question.mode.unwrap_or(settings.cluster.shutdown.mode);
    ShutdownOrder {
        mode,
        reason: question.reason.clone(),
        cause: Cause::Person,
        domains: question.domains.clone(),
        skip_drain: question.skip_drain,
        skip_etcd_snapshot: question.skip_etcd_snapshot,
        drain_timeout: question.drain_timeout,
        emergency_drain_timeout: question.emergency_drain_timeout,
        cut_outlets: settings.power.cut_outlets,
        remaining: None,
    }
}

/// Runtime that is left to what is stopped, where it runs on battery, with the safety factor taken off; the configured budget where a UPS
/// does not say.
pub fn remaining(settings: &Settings, power: Option<&Snapshot>, domains: Option<&BTreeSet<DomainName>>) -> Option<Duration> {
    let concerned =
        power.into_iter().flat_map(|power| &power.domains).filter(|domain| domains.is_none_or(|only| only.contains(&domain.name)));
    let failing = concerned.filter(|domain| matches!(domain.verdict, Verdict::OnBattery | Verdict::Critical));
    let factor = settings.power.thresholds.runtime_safety_factor.max(1.0);
    // A battery that says nothing is not taken for one that lasts.
    failing.map(|domain| domain.runtime.map_or(settings.power.shutdown_budget, |left| left.div_f64(factor))).min()
}

/// What refuses it, beside what the plan itself says.
pub fn guards(settings: &Settings, power: Option<&Snapshot>, question: &ShutdownQuestion) -> Vec<Guard> {
    let mut guards = Vec::new();
    let role = settings.daemon.host_role;
    if !matches!(role, HostRole::Coordinator | HostRole::Peer) {
        let message = format!("daemon.host_role is `{role}`: only a coordinator or a peer commands a shutdown");
        guards.push(Guard { name: "daemon.host_role".to_owned(), message, waiver: None });
    }
    let known: BTreeSet<_> = settings.power.domains.iter().map(|domain| &domain.name).collect();
    for domain in question.domains.iter().flatten().filter(|domain| !known.contains(domain)) {
        let names = known.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        let message = format!("there is no power domain {domain}; there are: {}", if names.is_empty() { "none" } else { &names });
        guards.push(Guard { name: "power.no_domain".to_owned(), message, waiver: None });
    }
    if (question.require_ups_battery || settings.cluster.shutdown.require_ups_battery) && !heard(power, question.ups_host.as_deref()) {
        let which = question.ups_host.as_deref().unwrap_or("any UPS");
        let message = format!("{which} has not been heard from, and its battery is asked for (--require-ups-battery); see `metisctl ups`");
        let waiver = question.require_ups_battery.then(|| "without --require-ups-battery".to_owned());
        guards.push(Guard { name: "power.battery".to_owned(), message, waiver });
    }
    guards
}

/// Whether a UPS of that name, or of that host's upsd, says how much its battery holds.
fn heard(power: Option<&Snapshot>, which: Option<&str>) -> bool {
    let named = |ups: &str| {
        which.is_none_or(|which| ups == which || ups.split_once('@').is_some_and(|(_, host)| host.split(':').next() == Some(which)))
    };
    power
        .into_iter()
        .flat_map(|power| &power.upses)
        .any(|ups| named(ups.name.as_str()) && ups.charge.is_some() && ups.verdict != Verdict::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const MAIN: &str = "
daemon: { host_role: ROLE }
power:
  upses: { 'pyrphoros@localhost': {} }
  domains: { pyrphoros: { upses: [pyrphoros@localhost], nodes: [] } }
";

    fn settings(role: &str) -> Settings {
        config::from_strs(&MAIN.replace("ROLE", role), "{}").unwrap_or_else(|errors| panic!("{errors:?}"))
    }

    fn names(settings: &Settings, question: &ShutdownQuestion) -> Vec<String> {
        guards(settings, None, question).into_iter().map(|guard| guard.name).collect()
    }

    #[test]
    fn all_that_refuses_is_said_at_once() {
        let question = ShutdownQuestion {
            domains: Some(BTreeSet::from([DomainName::new("statera")])),
            require_ups_battery: true,
            ..ShutdownQuestion::default()
        };
        assert_eq!(names(&settings("observer"), &question), ["daemon.host_role", "power.no_domain", "power.battery"]);
        assert_eq!(names(&settings("coordinator"), &ShutdownQuestion::default()), Vec::<String>::new());
    }
}
