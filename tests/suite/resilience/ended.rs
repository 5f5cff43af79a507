//! What has to hold of a site, a journal and a report when a story is over, whoever was killed meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use metisd::sim::site::Model;

use super::case::{Case, Story};
use super::lab::{self, Row};
use super::site::{self, DATASTORE, SERVER, THIS, WORKERS};

/// A story that is over.
pub struct Ended {
    pub case: Case,
    /// All facts.
    pub history: Vec<Row>,
    pub model: Model,
    /// The disk took longer than the journal waits.
    pub ill: bool,
}

impl Ended {
    pub fn check(&self) {
        let (when, log) = (&self.case.when, self.case.daemon.log());
        lab::assert_intact(&self.case.left, &self.history, when);
        lab::assert_told_is_stored(&self.case.daemon, &self.history, when);
        let runs = usize::from(!matches!(self.case.story, Story::LeaseRenewed | Story::LeaseReleased | Story::LeaseExpired));
        assert_eq!(self.count("run.admitted"), runs, "{when}: one outage is one shutdown\n{log}");
        assert_eq!(self.count("run.ended"), runs, "{when}\n{log}");
        let mut ended = BTreeSet::new();
        for fact in self.told().filter(|fact| fact.kind == "step.ended") {
            assert!(ended.insert(fact.text("step")), "{when}: {} ended twice\n{log}", fact.text("step"));
        }
        match self.case.story {
            Story::StartUp => return self.check_started(),
            Story::LeaseRenewed => return self.check_renewed(),
            Story::LeaseReleased | Story::LeaseExpired => return self.check_released(),
            Story::Outage | Story::MainsBack | Story::Asked | Story::Cancelled => {}
        }
        let report = self.case.report().unwrap();
        self.check_dump(&report);
        match self.case.story {
            Story::Outage => self.check_off(),
            Story::Asked => self.check_stopped(),
            _ => self.check_untouched(&report),
        }
        if !self.case.story.undone() {
            self.check_report(&report);
        }
    }

    /// Facts of the story itself.
    fn told(&self) -> impl Iterator<Item = &Row> {
        self.history.iter().skip(self.case.prepared)
    }

    fn count(&self, kind: &str) -> usize {
        self.told().filter(|fact| fact.kind == kind).count()
    }

    /// The dump must not be repeated: it was made once, or nobody knows.
    fn check_dump(&self, report: &serde_json::Value) {
        let when = &self.case.when;
        let dumps = site::acts(&self.model).get(format!("dump dump-it {DATASTORE}").as_str()).copied().unwrap_or_default();
        match status(report, "datastore.dump").as_str() {
            "done" => assert_eq!(dumps, 1, "{when}: {:#?}", self.model.log),
            "unknown_outcome" => assert!(dumps <= 1 && self.case.kills > 0, "{when}: {:#?}", self.model.log),
            other => panic!("{when}: the dump is {other}: {report:#}"),
        }
    }

    /// All is done but what must not be repeated, whoever died meanwhile.
    fn check_report(&self, report: &serde_json::Value) {
        let when = &self.case.when;
        let outcome = if status(report, "datastore.dump") == "done" { "done" } else { "degraded" };
        assert_eq!(report["outcome"], outcome, "{when}: {report:#}\n{}", self.case.daemon.log());
        assert_eq!(report["abandoned"], serde_json::json!({}), "{when}: {report:#}");
        for (id, status) in statuses(report) {
            assert!(status == "done" || id == "datastore.dump", "{when}: {id} is {status}: {report:#}\n{}", self.case.daemon.log());
        }
    }

    fn check_off(&self) {
        let (when, model) = (&self.case.when, &self.model);
        assert!(model.hosts.values().all(|host| !host.on), "{when}: {:#?}", model.log);
        let order: Vec<String> = WORKERS
            .iter()
            .map(|name| format!("stop k3s-agent.service {name}"))
            .chain([
                format!("stop k3s.service {SERVER}"),
                format!("killall {SERVER}"),
                format!("off {SERVER}"),
                format!("off {DATASTORE}"),
                format!("off {THIS}"),
            ])
            .collect();
        let places: Vec<_> = order.iter().map(|act| site::first(model, act, when)).collect();
        assert!(places[0].max(places[1]) < places[2] && places[2..].is_sorted(), "{when}: {:#?}", model.log);
        let off: BTreeMap<_, _> = site::acts(model).into_iter().filter(|(act, _)| act.starts_with("off ")).collect();
        // Only the order to this host itself cannot be looked up afterwards.
        assert!(off.iter().all(|(act, count)| *count == 1 || act.ends_with(THIS)), "{when}: {off:?}");
        assert_eq!(site::changed(model, &self.case.before), site::claimed(&self.history), "{when}");
    }

    fn check_stopped(&self) {
        let (when, model) = (&self.case.when, &self.model);
        assert!(model.hosts.values().all(|host| host.on && host.units.is_empty()), "{when}: {:#?}", model.log);
        let changed = site::changed(model, &self.case.before);
        assert_eq!(changed.len(), 7, "{when}: 2 suspended, 2 cordoned, 3 stopped: {changed:?}");
        assert_eq!(changed, site::claimed(&self.history), "{when}");
    }

    /// As it was before it was stopped; nothing is held any more.
    fn check_started(&self) {
        let (when, model) = (&self.case.when, &self.model);
        assert_eq!(site::changed(model, &self.case.before), BTreeSet::new(), "{when}: {:#?}", model.log);
        assert_eq!(site::claimed(&self.history), BTreeSet::new(), "{when}: {:#?}", model.log);
        let report = self.case.report().unwrap();
        assert_eq!(report["outcome"], "done", "{when}: {report:#}\n{}", self.case.daemon.log());
        for (id, status) in statuses(&report) {
            assert_eq!(status, "done", "{when}: {id}: {report:#}");
        }
        assert!(!model.log.iter().any(|act| act.contains("media")), "{when}: what somebody else suspended: {:#?}", model.log);
        let servers = site::first(model, &format!("start k3s.service {SERVER}"), when);
        assert!(servers < site::first(model, &format!("start k3s-agent.service {}", WORKERS[0]), when), "{when}: {:#?}", model.log);
    }

    fn check_renewed(&self) {
        let (when, model) = (&self.case.when, &self.model);
        assert!(model.nodes.values().filter(|node| node.unschedulable).count() == WORKERS.len(), "{when}: {:#?}", model.log);
        assert!(site::changed(model, &self.case.before).is_subset(&site::claimed(&self.history)), "{when}");
    }

    /// This cordon is gone, in the journal too, and the other stands.
    fn check_released(&self) {
        let (when, model) = (&self.case.when, &self.model);
        let cordoned = |name: &str| model.nodes[name].unschedulable;
        assert!(!cordoned(WORKERS[0]) && cordoned(WORKERS[1]), "{when}: {:#?}", model.log);
        let claimed = site::claimed(&self.history);
        let nodes: Vec<_> = claimed.iter().filter(|claim| claim.starts_with("Node/")).collect();
        assert_eq!(nodes, [&format!("Node/{} cordoned", WORKERS[1])], "{when}");
        assert!(site::changed(model, &self.case.before).is_subset(&claimed), "{when}");
    }

    fn check_untouched(&self, report: &serde_json::Value) {
        let (when, model) = (&self.case.when, &self.model);
        assert_eq!(site::changed(model, &self.case.before), BTreeSet::new(), "{when}: {:#?}", model.log);
        assert_eq!(site::claimed(&self.history), BTreeSet::new(), "{when}: {:#?}", model.log);
        assert!(model.hosts.values().all(|host| host.on), "{when}: {:#?}", model.log);
        assert_eq!(report["outcome"], "cancelled", "{when}: {report:#}");
        let reason = report["reason"].as_str().unwrap();
        assert!(reason.ends_with("what it had done is undone"), "{when}: {reason}\n{}", self.case.daemon.log());
    }
}

fn statuses(report: &serde_json::Value) -> BTreeMap<String, String> {
    let steps = report["phases"].as_array().unwrap().iter().flat_map(|phase| phase["steps"].as_array().unwrap());
    steps.map(|step| (step["id"].as_str().unwrap().to_owned(), step["status"].as_str().unwrap().to_owned())).collect()
}

fn status(report: &serde_json::Value, id: &str) -> String {
    statuses(report).remove(id).unwrap_or_default()
}
