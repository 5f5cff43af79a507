//! The steps, each with its limit, its replay class and the command a person would type.

use std::collections::BTreeSet;
use std::time::Duration;

use super::scope::Scope;
use super::{by_hand, expect};
use crate::cluster::port::Facts;
use crate::cluster::{Datastore, Settings, ShutdownOrder};
use crate::runbook::{Form, Limit, OnFailure, PlannedStep, Replay, Retry};
use crate::site::{Access, Host, K3sRole, Learned, Step, UpsName};

/// Tried again and again; the limit of the step is what ends it.
const UNTIL_LIMIT: Retry = Retry { attempts: 100, back_off: Duration::from_secs(1), longest: Duration::from_secs(10) };
/// Pause between two looks at what goes by itself.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// logind acts so long after this host was told to power off: the answer and the last facts still get out.
const THIS_HOST_DELAY: Duration = Duration::from_secs(5);
/// Calls of the API that a step without a time of its own may take.
const CALLS: u32 = 4;
/// Name of the snapshot; k3s appends node and time.
pub const SNAPSHOT: &str = "metis-shutdown";

/// Weights of the steps that share what time is left, least first to be passed over. What is not listed has none: it is always begun.
mod share {
    pub(super) const LOOK: u32 = 2;
    pub(super) const SAVE: u32 = 3;
    pub(super) const SUSPEND: u32 = 4;
    pub(super) const SECONDARIES: u32 = 5;
    pub(super) const LEFTOVERS: u32 = 6;
    pub(super) const DETACH: u32 = 8;
    pub(super) const DRAIN: u32 = 16;
}

/// Makes steps.
pub(super) struct Maker<'a> {
    pub settings: &'a Settings,
    pub facts: &'a Facts,
    pub learned: &'a Learned,
    pub order: &'a ShutdownOrder,
    pub scope: &'a Scope<'a>,
}

type Planned = PlannedStep<Step>;

impl Maker<'_> {
    /// A step that is repeated until it is done or its limit has come, and that the run outlives.
    fn step(&self, id: String, title: String, action: Step, host: &str, limit: Limit, by_hand: String) -> Planned {
        let predicted = expect::expected(self.learned, &action, host, limit.ceiling);
        let on_failure = OnFailure::Continue;
        PlannedStep { limit, predicted, on_failure, by_hand, retry: UNTIL_LIMIT, ..PlannedStep::act(id, title, action, limit.ceiling) }
    }

    /// As [`Maker::step`], of what is done on a host: one that is not reached does not hold up the others.
    fn on_host(&self, id: String, title: String, action: Step, host: &Host, limit: Limit, by_hand: String) -> Planned {
        let patience = self.settings.shutdown.unreachable_timeout;
        let gone = self.scope.not_ready(host);
        // The kubelet alone may be gone: to be reached and to act each gets that time.
        let ceiling = if gone { limit.ceiling.min(patience.saturating_mul(2)) } else { limit.ceiling };
        let step = self.step(id, title, action, host.name.as_str(), Limit { ceiling, ..limit }, by_hand);
        Planned { unreached: Some(if gone { Duration::ZERO } else { patience }), ..step }
    }

    fn calls(&self) -> Duration {
        self.settings.call_timeout.saturating_mul(CALLS)
    }

    pub(super) fn collect(&self) -> Planned {
        let by_hand =
            "kubectl get nodes,kustomizations.kustomize.toolkit.fluxcd.io,helmreleases.helm.toolkit.fluxcd.io,volumeattachments -A";
        let limit = Limit { ceiling: self.calls(), share: share::LOOK };
        self.step("cluster.collect".into(), "record what is about to change".into(), Step::Collect, "", limit, by_hand.into())
    }

    pub(super) fn suspend_flux(&self) -> Planned {
        let limit = Limit { ceiling: self.calls(), share: share::SUSPEND };
        let by_hand = by_hand::flux("suspend", self.facts);
        self.step("flux.suspend".into(), "suspend Flux".into(), Step::SuspendFlux, "", limit, by_hand)
    }

    pub(super) fn resume_flux(&self) -> Planned {
        let by_hand = by_hand::flux("resume", self.facts);
        self.step("flux.resume".into(), "resume Flux".into(), Step::ResumeFlux, "", Limit::within(self.calls()), by_hand)
    }

    /// Snapshot or dump, where the whole cluster stops and there is something to do it with.
    pub(super) fn save_datastore(&self) -> Option<Planned> {
        if self.order.skip_etcd_snapshot || !self.scope.whole_cluster {
            return None;
        }
        let limit = Limit { ceiling: self.settings.shutdown.snapshot_timeout, share: share::SAVE };
        match &self.settings.datastore {
            Datastore::EmbeddedEtcd { keep } => {
                let mut servers: Vec<_> = self.scope.k3s(K3sRole::Server).collect();
                servers.sort_by_key(|host| (self.scope.not_ready(host), host.access == Access::HelperPod));
                let host = servers.first()?;
                let action = Step::SnapshotEtcd { node: host.name.clone(), name: SNAPSHOT.to_owned(), keep: *keep };
                let by_hand = by_hand::on(host, &format!("k3s etcd-snapshot save --name {SNAPSHOT}"));
                let title = format!("{}: etcd snapshot", host.name);
                // A second snapshot is a second file, and the oldest are pruned.
                Some(self.on_host("etcd.snapshot".into(), title, action, host, limit, by_hand))
            }
            Datastore::External { host, dump: Some(command) } => {
                let host = self.scope.host(host)?;
                let action = Step::DumpDatastore { node: host.name.clone(), command: command.clone() };
                let (title, by_hand) = (format!("{}: dump the datastore", host.name), by_hand::shell_on(host, command));
                // Nobody but its author knows whether it may run twice.
                let step = self.on_host("datastore.dump".into(), title, action, host, limit, by_hand);
                Some(Planned { replay: Replay::NeverRepeat, ..step })
            }
            Datastore::External { dump: None, .. } | Datastore::Sqlite => None,
        }
    }

    pub(super) fn drain(&self, host: &Host) -> Planned {
        let shutdown = &self.settings.shutdown;
        let ceiling = if self.order.cause.emergency() {
            self.order.emergency_drain_timeout.unwrap_or(shutdown.emergency_drain_timeout)
        } else {
            self.order.drain_timeout.unwrap_or(shutdown.drain_timeout)
        };
        // Nobody ends the pods of a node without a kubelet.
        let cordon_only = self.order.skip_drain || self.scope.not_ready(host);
        let (node, kubernetes) = (host.name.clone(), &host.node_name);
        let (title, ceiling, by_hand) = if cordon_only {
            (format!("{node}: cordon"), self.calls(), format!("kubectl cordon {kubernetes}"))
        } else {
            let flags = format!("--ignore-daemonsets --delete-emptydir-data --force --timeout={}s", ceiling.as_secs());
            (format!("{node}: cordon and drain"), ceiling, format!("kubectl drain {kubernetes} {flags}"))
        };
        let limit = Limit { ceiling, share: share::DRAIN };
        self.step(format!("drain.{node}"), title, Step::Drain { node, cordon_only }, host.name.as_str(), limit, by_hand)
    }

    pub(super) fn uncordon(&self, host: &Host) -> Planned {
        let (node, limit) = (host.name.clone(), Limit::within(self.calls()));
        let by_hand = format!("kubectl uncordon {}", host.node_name);
        self.step(format!("uncordon.{node}"), format!("{node}: uncordon"), Step::Uncordon { node }, host.name.as_str(), limit, by_hand)
    }

    pub(super) fn await_detach(&self, hosts: &[&Host]) -> Planned {
        let patience = self.settings.shutdown.detach_timeout;
        let nodes: BTreeSet<_> = hosts.iter().map(|host| host.name.clone()).collect();
        let limit = Limit { ceiling: patience, share: share::DETACH };
        let by_hand = "kubectl get volumeattachments.storage.k8s.io,volumeattachments.longhorn.io -A".to_owned();
        let step = self.step("volumes.detached".into(), "volumes are detached".into(), Step::AwaitDetach { nodes }, "", limit, by_hand);
        Planned { form: Form::Gate { patience, every: LOOK_EVERY, remedies: Vec::new() }, ..step }
    }

    /// Stops k3s, or powers off a host that nobody reaches any more once it stopped.
    pub(super) fn stop(&self, host: &Host, role: K3sRole) -> Planned {
        if super::goes_with_its_stop(self.settings, host) && self.scope.is_off(host) {
            return self.power_off(host);
        }
        let (node, limit) = (host.name.clone(), Limit::within(self.settings.shutdown.stop_timeout));
        let (title, by_hand) = (format!("{node}: stop {}", unit(role)), by_hand::on(host, &format!("systemctl stop {}", unit(role))));
        let step = self.on_host(format!("stop.{node}"), title, Step::StopK3s { node, role }, host, limit, by_hand);
        Planned { commits: role == K3sRole::Server, ..step }
    }

    pub(super) fn start(&self, host: &Host) -> Planned {
        let (node, role) = (host.name.clone(), K3sRole::Agent);
        let limit = Limit::within(self.settings.shutdown.stop_timeout);
        let (title, by_hand) = (format!("{node}: start {}", unit(role)), by_hand::on(host, &format!("systemctl start {}", unit(role))));
        self.on_host(format!("start.{node}"), title, Step::StartK3s { node, role }, host, limit, by_hand)
    }

    pub(super) fn end_leftovers(&self, host: &Host) -> Planned {
        // A power-off ends them as well.
        let share = if self.scope.is_off(host) { share::LEFTOVERS } else { 0 };
        let (node, limit) = (host.name.clone(), Limit { ceiling: self.settings.shutdown.stop_timeout, share });
        let by_hand = by_hand::shell_on(host, "/usr/local/bin/k3s-killall.sh; sync");
        let title = format!("{node}: end what k3s left");
        self.on_host(format!("leftovers.{node}"), title, Step::EndLeftovers { node }, host, limit, by_hand)
    }

    pub(super) fn set_fsd(&self, ups: &UpsName) -> Planned {
        let (name, server) = ups.as_str().split_once('@').unwrap_or((ups.as_str(), "localhost"));
        let (address, port) = server.rsplit_once(':').unwrap_or((server, "3493"));
        let by_hand =
            format!("printf 'USERNAME …\\nPASSWORD …\\nLOGIN {name}\\nPRIMARY {name}\\nFSD {name}\\nLOGOUT\\n' | nc {address} {port}");
        let limit = Limit::within(self.settings.shutdown.poweroff_timeout);
        let action = Step::SetFsd { ups: ups.clone() };
        let step = self.step(format!("fsd.{ups}"), format!("{ups}: tell other machines to shut down (FSD)"), action, "", limit, by_hand);
        Planned { commits: true, ..step }
    }

    pub(super) fn await_secondaries(&self, ups: &UpsName) -> Planned {
        let patience = self.settings.shutdown.secondaries_timeout;
        let limit = Limit { ceiling: patience, share: share::SECONDARIES };
        let (title, action) = (format!("{ups}: other machines have gone"), Step::AwaitSecondaries { ups: ups.clone() });
        let step = self.step(format!("secondaries.{ups}"), title, action, "", limit, format!("upsc -c {ups}"));
        Planned { form: Form::Gate { patience, every: LOOK_EVERY, remedies: Vec::new() }, ..step }
    }

    pub(super) fn power_off(&self, host: &Host) -> Planned {
        let (node, limit) = (host.name.clone(), Limit::within(self.settings.shutdown.poweroff_timeout));
        let by_hand = by_hand::on(host, "systemctl poweroff");
        let (id, title) = (format!("poweroff.{node}"), format!("{node}: power off"));
        let step = self.on_host(id, title, Step::PowerOff { node }, host, limit, by_hand);
        Planned { commits: true, ..step }
    }

    pub(super) fn cut_outlets(&self, upses: &BTreeSet<UpsName>) -> Planned {
        let limit = Limit::within(self.settings.shutdown.poweroff_timeout);
        let names = super::joined(upses.iter().map(ToString::to_string));
        let (title, action) =
            (format!("{names}: cut and restore the outlets after this host has halted"), Step::CutOutlets { upses: upses.clone() });
        // POWERDOWNFLAG of upsmon.conf(5), which NUT's own shutdown hook looks for.
        let step = self.step("outlets.cut".into(), title, action, "", limit, "sudo touch /etc/killpower".into());
        Planned { commits: true, ..step }
    }

    /// What the power-offs that it orders need beyond its last step.
    pub(super) fn tail(&self) -> Duration {
        let halt = self.settings.shutdown.halt_time;
        match (self.scope.off().any(|host| host.this_host), self.scope.off().next()) {
            (true, _) => halt.saturating_add(THIS_HOST_DELAY),
            (false, Some(_)) => halt,
            (false, None) => Duration::ZERO,
        }
    }

    pub(super) fn power_off_this(&self, host: &Host) -> Planned {
        let (node, limit) = (host.name.clone(), Limit::within(self.settings.shutdown.poweroff_timeout));
        let (id, title) = (format!("poweroff.{node}"), format!("{node}: power off this host"));
        let action = Step::PowerOffThisHost { node, delay: THIS_HOST_DELAY };
        let step = self.step(id, title, action, host.name.as_str(), limit, "sudo systemctl poweroff".into());
        Planned { commits: true, ..step }
    }
}

/// Name of the unit that k3s' installer makes.
fn unit(role: K3sRole) -> &'static str {
    match role {
        K3sRole::Server => "k3s",
        K3sRole::Agent => "k3s-agent",
    }
}
