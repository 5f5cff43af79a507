//! What others saw of a shutdown: the API server's audit log, the journals of the hosts, the history of the laboratory.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use metis_tests::hosts::{Role, unit};
use metis_tests::nspawn::{End, Event, Host, Moment, State};
use metis_tests::plane::audit::Entry;
use serde_json::Value;

use super::site::{AGENTS, Site, VOLUMES};

/// systemd has stopped a unit (sd-messages.h, SD_MESSAGE_UNIT_STOPPED).
const UNIT_STOPPED: &str = "MESSAGE_ID=9d1aaa27d60140bd96365438aad20286";

/// Everything that was asked of the API servers.
pub fn audit(site: &Site) -> Vec<Entry> {
    site.hosts.cluster().with(|plane| plane.audit()).unwrap()
}

/// What metis changed, oldest first.
pub fn writes(site: &Site) -> Vec<Entry> {
    audit(site).into_iter().filter(|entry| entry.by_metis() && entry.is_write()).collect()
}

fn suspends(entry: &Entry) -> bool {
    entry.line.pointer("/requestObject/spec/suspend") == Some(&Value::Bool(true))
}

/// When systemd last stopped the unit on a host.
pub fn stopped(host: &Host, unit: &str) -> Option<Timestamp> {
    let said = host.entries(&["-o", "json", UNIT_STOPPED, &format!("UNIT={unit}")]).unwrap();
    let last: Value = serde_json::from_str(said.lines().last()?).unwrap();
    let micros: i64 = last["__REALTIME_TIMESTAMP"].as_str().unwrap().parse().unwrap();
    Some(Timestamp::from_microsecond(micros).unwrap())
}

/// Each object of Flux that was not suspended before was, once, the root first, by metis under its own name; nobody undid it.
pub fn assert_flux_is_suspended(site: &Site) {
    let audit = audit(site);
    let kinds = ["kustomizations", "helmreleases"];
    let ours: Vec<&Entry> =
        audit.iter().filter(|entry| entry.by_metis() && entry.is_write() && kinds.contains(&entry.resource.as_str())).collect();
    let names: Vec<&str> = ours.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["cluster", "apps", "media"], "{ours:#?}");
    for entry in &ours {
        assert!(entry.code == 200 && suspends(entry), "{entry:#?}");
        assert!(entry.line["requestURI"].as_str().unwrap().contains("fieldManager=metis"), "{entry:#?}");
    }
    let first = ours[0].at;
    let others: Vec<&Entry> = audit
        .iter()
        .filter(|entry| !entry.by_metis() && entry.is_write() && entry.at >= first && kinds.contains(&entry.resource.as_str()))
        .filter(|entry| entry.line.pointer("/requestObject/spec").is_some())
        .collect();
    assert!(others.is_empty(), "somebody else changed what metis had suspended: {others:#?}");
}

/// Pods were asked to go, and none of the storage plane among them.
pub fn assert_the_storage_plane_was_left_alone(site: &Site) {
    let asked: Vec<Entry> = writes(site).into_iter().filter(|entry| matches!(entry.resource.as_str(), "pods" | "pods/eviction")).collect();
    assert!(asked.iter().filter(|entry| entry.namespace == "default").count() >= 5, "{asked:#?}");
    let touched: Vec<_> = asked.iter().filter(|entry| entry.namespace != "default").collect();
    assert!(touched.is_empty(), "{touched:#?}");
}

/// The storage had detached every volume before systemd stopped k3s on its node.
pub fn assert_volumes_were_detached_before_their_nodes_stopped(site: &Site) {
    let audit = audit(site);
    for (role, name) in VOLUMES {
        let detached = |entry: &&Entry| {
            let state = entry.line.pointer("/requestObject/status/state");
            entry.user == "actor" && entry.resource == "volumes/status" && entry.name == name && state == Some(&"detached".into())
        };
        let last = audit.iter().rfind(detached).map(|entry| entry.at);
        let stop = stopped(&site.hosts[role], "k3s-agent.service");
        assert!(last.is_some() && last < stop, "{name}: detached {last:?}, {} stopped {stop:?}", role.name());
    }
}

/// Every agent was stopped, and the server after all of them.
pub fn assert_agents_stopped_before_the_server(site: &Site) {
    let when = |role| (role, stopped(&site.hosts[role], unit(role).unwrap()));
    let agents = AGENTS.map(when);
    let (_, server) = when(Role::Titan0a);
    assert!(agents.iter().all(|(_, at)| at.is_some() && *at < server), "server {server:?}, agents {agents:#?}");
}

/// These hosts powered themselves off, titan-db last, and none did anything else.
pub fn assert_powered_off(site: &Site, off: &[Role]) {
    let history = site.hosts.history();
    let ended: Vec<(usize, &Moment)> =
        history.iter().enumerate().filter(|(_, moment)| matches!(&moment.event, Event::Is(State::Off(end)) if *end != End::New)).collect();
    let by_itself: BTreeSet<&str> = ended
        .iter()
        .filter(|(_, moment)| moment.event == Event::Is(State::Off(End::PoweredOff)))
        .map(|(_, moment)| moment.host.as_str())
        .collect();
    let expected: BTreeSet<&str> = off.iter().map(|role| role.name()).collect();
    assert_eq!((by_itself, ended.len()), (expected, off.len()), "{ended:#?}");
    assert_eq!(ended.last().map(|(_, moment)| moment.host.as_str()), Some("titan-db"), "{ended:#?}");
}

/// The outlets had power until titan-db was off, and went dead afterwards because they were told to, with charge left.
pub fn assert_the_battery_lasted(site: &Site) {
    let history = site.hosts.history();
    let place = |name: &str, event: &Event| history.iter().position(|moment| moment.host == name && moment.event == *event);
    let off = place("titan-db", &Event::Is(State::Off(End::PoweredOff)));
    let dead = place("pyrphoros", &Event::OutletsOff);
    assert!(off.is_some() && dead.is_none_or(|dead| Some(dead) > off), "{history:#?}");
    assert!(site.hosts.ups("pyrphoros").charge() > 0.0);
}

/// Steps of a report by id: how each ended.
pub fn steps(report: &Value) -> BTreeMap<String, String> {
    let phases = report["phases"].as_array().cloned().unwrap_or_default();
    let steps = phases.iter().flat_map(|phase| phase["steps"].as_array().cloned().unwrap_or_default());
    steps.map(|step| (step["id"].as_str().unwrap().to_owned(), word(&step["status"]))).collect()
}

/// A status is a word, or an object that names its state.
fn word(status: &Value) -> String {
    status.as_str().map_or_else(|| status.to_string(), str::to_owned)
}

/// `shutdown-1` as it should be: everything done in time, every host with what was done on it, nothing left behind.
pub fn assert_report_of_a_good_run(report: &Value, hosts: &[&str], cause: &str) {
    let bad: Vec<_> = steps(report).into_iter().filter(|(_, status)| status != "done").collect();
    assert!(bad.is_empty() && report["outcome"] == "done" && report["reason"] == "", "{bad:?} {report:#}");
    assert_eq!((&report["kind"], &report["cause"]["cause"]), (&"shutdown".into(), &cause.into()), "{report:#}");
    assert_eq!(report["abandoned"], serde_json::json!({}), "{report:#}");
    let named: BTreeSet<&str> = report["hosts"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(named, hosts.iter().copied().collect(), "{report:#}");
    let (predicted, took) = (report["predicted_seconds"].as_u64().unwrap(), report["span"]["seconds"].as_u64().unwrap());
    assert!(predicted > 0 && took > 0, "{predicted} s were predicted, {took} s it took");
    if cause == "ups" {
        let margin = report["margin_seconds"].as_i64().unwrap();
        assert!(margin > 0, "{margin} s before the deadline: {report:#}");
        let because = report["trigger"]["because"].as_str().unwrap();
        assert!(because.contains("on battery with") && because.contains("are needed"), "{because}");
        assert!(report["trigger"]["runtime_seconds"].as_u64().is_some_and(|left| left > took), "{report:#}");
    } else {
        assert_eq!(report["trigger"], Value::Null, "{report:#}");
    }
}
