//! What a run leaves behind: hosts that are off, and how each comes back; what it changed and has not undone.

use std::collections::{BTreeMap, BTreeSet};

use crate::runbook::{Run, Status};
use crate::site::{Change, Claim, DomainName, Host, NodeName, Returns, Step, Topology, UpsName};

/// What is known at the run's end of its hosts, their power and its changes.
#[derive(Debug, Clone, Copy)]
pub struct Aftermath<'a> {
    /// Hosts and what feeds them.
    pub topology: &'a Topology,
    /// Domains on the mains.
    pub online: &'a BTreeSet<DomainName>,
    /// What the run changed and has not undone.
    pub claims: &'a [Claim],
}

/// Hosts that took the order to power off, or may have taken it, and how each comes back.
pub(super) fn off(run: &Run<Step>, after: &Aftermath<'_>) -> BTreeMap<NodeName, String> {
    let cut = cut(run);
    let told = |node: &NodeName| after.claims.iter().any(|claim| claim.change == Change::PoweredOff && claim.object.name == node.as_str());
    let steps = run.book.phases.iter().flat_map(|phase| &phase.steps);
    let gone = steps.filter_map(|step| match &step.action {
        Step::PowerOff { node } if run.status(&step.id) == Status::Done || told(node) => Some(node),
        Step::PowerOffThisHost { node, .. } if run.status(&step.id) == Status::Done => Some(node),
        _ => None,
    });
    gone.map(|node| (node.clone(), after.topology.hosts.get(node).map_or_else(unknown, |host| returns(host, &cut, after)))).collect()
}

fn unknown() -> String {
    "it is not in the inventory any more: nobody knows how".to_owned()
}

/// UPSes that cut and restore their outlets once this host has halted.
fn cut(run: &Run<Step>) -> BTreeSet<UpsName> {
    let steps = run.book.phases.iter().flat_map(|phase| &phase.steps).filter(|step| run.status(&step.id) == Status::Done);
    steps
        .filter_map(|step| if let Step::CutOutlets { upses } = &step.action { Some(upses.iter().cloned()) } else { None })
        .flatten()
        .collect()
}

/// A host with several feeds is without power only when all of them are.
fn returns(host: &Host, cut: &BTreeSet<UpsName>, after: &Aftermath<'_>) -> String {
    let feeds: BTreeSet<&UpsName> = host.domains.iter().filter_map(|domain| after.topology.domains.get(domain)).flatten().collect();
    let is_cut = !feeds.is_empty() && feeds.iter().all(|ups| cut.contains(*ups));
    let on_mains = host.domains.iter().any(|domain| after.online.contains(domain));
    let how = match host.returns {
        Returns::AcCycle if is_cut => "by itself, once its UPS has cut and restored the outlets (ac-cycle)",
        Returns::AcCycle if on_mains => {
            "when a person presses its button: its power stayed on, and only power that goes and returns starts it (ac-cycle)"
        }
        Returns::AcCycle => "by itself if its power really goes and returns, else when a person presses its button (ac-cycle)",
        Returns::WakeOnLan if host.mac.is_none() => {
            "when a person presses its button: its MAC address is not known, so that no magic packet wakes it (wake-on-lan)"
        }
        Returns::WakeOnLan => "by a magic packet (wake-on-lan)",
        Returns::ByHand => "when a person presses its button (by-hand)",
    };
    how.to_owned()
}

/// What was changed and is not undone, by the kind of change: `suspended`, `cordoned`, `stopped`, `powered-off`.
pub(super) fn left(claims: &[Claim]) -> BTreeMap<&'static str, Vec<String>> {
    let mut left: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for claim in claims {
        left.entry(claim.change.name()).or_default().push(claim.object.to_string());
    }
    left
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::runbook::{Mode, Phase, PlannedStep, Runbook};
    use crate::site::{Access, ObjectRef, StepId};
    use jiff::Timestamp;
    use std::time::Duration;

    pub(in crate::report) fn host(name: &str, returns: Returns, domains: &[&str]) -> Host {
        Host {
            name: name.into(),
            node_name: name.to_owned(),
            access: Access::Ssh,
            address: String::new(),
            port: 22,
            user: String::new(),
            key: None,
            host_keys: Vec::new(),
            sudo: false,
            returns,
            mac: Some("00:1b:21:3a:4f:5e".to_owned()),
            wake: None,
            k3s: None,
            this_host: false,
            domains: domains.iter().map(|domain| DomainName::new(*domain)).collect(),
        }
    }

    /// Two domains; `a`'s UPS may cut its outlets. Of the hosts `h0`, `h1`, … those in `done` took the order.
    fn site(hosts: Vec<Host>, cut: bool, done: &[&str]) -> (Run<Step>, Topology) {
        let minute = Duration::from_secs(60);
        let step =
            |host: &Host| PlannedStep::act(format!("poweroff.{}", host.name), "off", Step::PowerOff { node: host.name.clone() }, minute);
        let mut steps: Vec<_> = hosts.iter().map(step).collect();
        let outlets = Step::CutOutlets { upses: [UpsName::new("a@localhost")].into() };
        steps.push(PlannedStep::act("outlets.cut", "cut", outlets, minute));
        let mut run = Run::new(Runbook::new("shutdown", "stop", vec![Phase::serial("off", steps)]));
        let taken = done.iter().map(|name| format!("poweroff.{name}")).chain(cut.then(|| "outlets.cut".to_owned()));
        for id in taken.map(StepId::new) {
            run.started(&id, Mode::Act, 1, minute, minute, Timestamp::UNIX_EPOCH);
            run.settled(&id, Status::Done, "", minute, Timestamp::UNIX_EPOCH);
        }
        let ups = |name: &str| (DomainName::new(name), BTreeSet::from([UpsName::new(format!("{name}@localhost"))]));
        let hosts = hosts.into_iter().map(|host| (host.name.clone(), host)).collect();
        (run, Topology { hosts, domains: [ups("a"), ups("b")].into(), local_upses: BTreeSet::new(), ..Topology::default() })
    }

    #[test]
    fn how_a_host_comes_back_depends_on_what_becomes_of_its_power() {
        let (both, none): (&[&str], &[&str]) = (&["a", "b"], &[]);
        // (returns, its domains, outlets of `a` are cut, domains on the mains, comes back)
        let table = [
            (Returns::AcCycle, &["a"][..], true, both, "by itself, once its UPS"),
            (Returns::AcCycle, &["a"], false, both, "when a person presses its button: its power stayed on"),
            (Returns::AcCycle, &["a"], false, &["b"], "by itself if its power really goes"),
            (Returns::AcCycle, both, true, none, "by itself if its power really goes"),
            (Returns::AcCycle, both, true, &["b"], "when a person presses its button: its power stayed on"),
            (Returns::AcCycle, none, true, both, "by itself if its power really goes"),
            (Returns::WakeOnLan, &["a"], true, none, "by a magic packet"),
            (Returns::ByHand, &["a"], true, none, "when a person presses its button (by-hand)"),
        ];
        for (returns, domains, cut, online, expected) in table {
            let (run, topology) = site(vec![host("h0", returns, domains)], cut, &["h0"]);
            let online = online.iter().map(|domain| DomainName::new(*domain)).collect();
            let off = off(&run, &Aftermath { topology: &topology, online: &online, claims: &[] });
            let how = &off[&NodeName::new("h0")];
            assert!(how.starts_with(expected), "{returns:?} {domains:?} cut {cut} mains {online:?}: {how}");
        }
    }

    #[test]
    fn off_is_who_took_the_order_and_who_may_have_taken_it() {
        let hosts = (0..3).map(|i| host(&format!("h{i}"), Returns::ByHand, &["a"])).collect();
        let (run, topology) = site(hosts, false, &["h0"]);
        let claim = |change, name: &str| Claim { object: ObjectRef::new("Host", "", name), change, expires: None };
        let claims = [claim(Change::PoweredOff, "h1"), claim(Change::Stopped, "h2")];
        let online = BTreeSet::new();
        let off = off(&run, &Aftermath { topology: &topology, online: &online, claims: &claims });
        assert_eq!(off.keys().map(NodeName::as_str).collect::<Vec<_>>(), ["h0", "h1"]);
        assert_eq!(left(&claims), [("powered-off", vec!["Host/h1".to_owned()]), ("stopped", vec!["Host/h2".to_owned()])].into());
    }
}
