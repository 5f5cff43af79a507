//! Pure: what a person asks of a start-up → the order to the planner, and what refuses it.

use super::power::fails;
use crate::api::port::StartupQuestion;
use crate::cluster::startup::StartupOrder;
use crate::config::{HostRole, Settings};
use crate::power::{Snapshot, UpsState};
use crate::site::{Guard, Verdict};

/// The order.
pub fn order(settings: &Settings, question: &StartupQuestion) -> StartupOrder {
    StartupOrder {
        ignore: question.ignore.clone(),
        allow_on_battery: question.allow_on_battery,
        min_battery: question.min_battery,
        stability_window: question.stability_window,
        checklist_timeout: question.checklist_timeout,
        stability_timeout: question.stability_timeout,
        skip_packages: question.skip_packages,
        has_ups: !settings.power.upses.is_empty(),
        two_hosts: settings.peer.is_some(),
    }
}

/// What refuses it, beside what the plan itself says: all at once.
pub fn guards(settings: &Settings, power: Option<&Snapshot>, question: &StartupQuestion) -> Vec<Guard> {
    let mut guards = Vec::new();
    let role = settings.daemon.host_role;
    if !matches!(role, HostRole::Coordinator | HostRole::Peer) {
        let message = format!("daemon.host_role is `{role}`: only a coordinator or a peer commands a start-up");
        guards.push(Guard { name: "daemon.host_role".to_owned(), message, waiver: None });
    }
    let upses = || power.into_iter().flat_map(|power| &power.upses);
    if !question.allow_on_battery {
        guards.extend(on_battery(upses()));
        guards.extend(charge(upses(), question.min_battery.unwrap_or(settings.cluster.startup.min_battery)));
    }
    let required = question.require_ups_battery || settings.cluster.startup.require_ups_battery;
    let heard = |ups: &UpsState| ups.charge.is_some() && ups.verdict != Verdict::Unknown;
    if required && !upses().any(heard) {
        let message = "no UPS has been heard from, and its battery is asked for (--require-ups-battery); see `metisctl ups`".to_owned();
        let waiver = question.require_ups_battery.then(|| "without --require-ups-battery".to_owned());
        guards.push(Guard { name: "power.battery".to_owned(), message, waiver });
    }
    guards
}

fn on_battery<'a>(upses: impl Iterator<Item = &'a UpsState>) -> Option<Guard> {
    let failing: Vec<_> = upses.filter(|ups| fails(ups)).map(|ups| ups.name.as_str()).collect();
    (!failing.is_empty()).then(|| {
        let message = format!("{} is on battery: what is started now may have to be stopped at once", failing.join(", "));
        Guard { name: "power.on_battery".to_owned(), message, waiver: Some("--allow-on-battery".to_owned()) }
    })
}

/// On the mains a low charge is only waited for.
fn charge<'a>(upses: impl Iterator<Item = &'a UpsState>, minimum: u8) -> Option<Guard> {
    let low = |ups: &&UpsState| fails(ups) && ups.charge.is_some_and(|charge| charge < f64::from(minimum));
    let low: Vec<_> = upses.filter(low).map(|ups| ups.name.as_str()).collect();
    (!low.is_empty()).then(|| {
        let message = format!("{} runs on battery and holds less than {minimum} %", low.join(", "));
        Guard { name: "power.charge".to_owned(), message, waiver: Some("--min-startup-battery".to_owned()) }
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::config;

    const MAIN: &str = "
daemon: { host_role: ROLE }
startup: { require_ups_battery: true }
power: { upses: { 'pyrphoros@localhost': {} }, domains: { all: { upses: [pyrphoros@localhost], nodes: [] } } }
";

    fn settings(role: &str) -> Settings {
        config::from_strs(&MAIN.replace("ROLE", role), "{}").unwrap_or_else(|errors| panic!("{errors:?}"))
    }

    pub fn power(verdict: Verdict, charge: Option<f64>) -> Snapshot {
        let at = jiff::Timestamp::UNIX_EPOCH;
        let ups = UpsState {
            name: "pyrphoros@localhost".into(),
            verdict,
            reason: String::new(),
            status: std::collections::BTreeSet::new(),
            charge,
            runtime: None,
            load: None,
            last_heard: Some(at),
            since: at,
            link: "connected".to_owned(),
            fsd_latched: false,
            vars: std::collections::BTreeMap::new(),
        };
        Snapshot { at, upses: vec![ups], domains: Vec::new() }
    }

    #[test]
    fn all_that_refuses_is_said_at_once_and_each_waiver_waives_its_own() {
        let names = |role: &str, power: &Snapshot, question: &StartupQuestion| {
            guards(&settings(role), Some(power), question).into_iter().map(|guard| guard.name).collect::<Vec<_>>()
        };
        let asked = StartupQuestion::default();
        let low = power(Verdict::OnBattery, Some(20.0));
        assert_eq!(names("observer", &low, &asked), ["daemon.host_role", "power.on_battery", "power.charge"]);
        assert_eq!(names("coordinator", &power(Verdict::Unknown, None), &asked), ["power.battery"]);
        assert_eq!(names("coordinator", &power(Verdict::Online, Some(20.0)), &asked), Vec::<String>::new(), "it is waited for");
        let lower = StartupQuestion { min_battery: Some(10), ..StartupQuestion::default() };
        assert_eq!(names("coordinator", &low, &lower), ["power.on_battery"]);
        let anyway = StartupQuestion { allow_on_battery: true, ..StartupQuestion::default() };
        assert_eq!(names("coordinator", &low, &anyway), Vec::<String>::new());
    }
}
