//! Makes the steps of a start-up.

use std::collections::BTreeSet;
use std::time::Duration;

use super::table::{HARD_END, row};
use crate::cluster::Settings;
use crate::cluster::shutdown::by_hand;
use crate::runbook::{Form, Limit, OnFailure, PlannedStep, Retry};
use crate::site::{Gate, Host, K3sRole, Learned, NodeName, Returns, Scheme, Step};

/// Pause after a gate's look that found nothing out; the looks themselves are repeated within an attempt.
const AGAIN: Duration = Duration::from_secs(1);
/// API calls in a row that one step may need.
const CALLS: u32 = 6;

/// A call that fails is tried again until the step's limit.
const RETRY: Retry = Retry { attempts: 20, back_off: Duration::from_secs(1), longest: Duration::from_secs(15) };

pub(super) struct Maker<'a> {
    pub settings: &'a Settings,
    pub learned: &'a Learned,
}

type Planned = PlannedStep<Step>;

impl Maker<'_> {
    fn step(&self, id: String, title: String, action: Step, host: &str, within: Duration, by_hand: String) -> Planned {
        let predicted = self.learned.get(action.kind(), host).unwrap_or_else(|| unmeasured(&action)).min(within);
        PlannedStep { limit: Limit::within(within), predicted, by_hand, retry: RETRY, ..PlannedStep::act(id, title, action, within) }
    }

    /// A gate with the patience of its row.
    pub(super) fn gate(&self, gate: Gate) -> Planned {
        let patience = (row(&gate).patience)(self.settings);
        self.gate_within(gate, patience)
    }

    fn gate_within(&self, gate: Gate, patience: Duration) -> Planned {
        let (title, by_hand) = words(&gate);
        let by_hand = if gate == Gate::Services { ask_by_hand(self.settings) } else { by_hand };
        let host = match &gate {
            Gate::HostUp { node } | Gate::Packages { node } | Gate::NodeReady { node } => node.as_str().to_owned(),
            _ => String::new(),
        };
        let id = if host.is_empty() { gate.name().to_owned() } else { format!("{}.{host}", gate.name()) };
        // An attempt looks again and again until its patience is at its end: only then is it the plan's turn.
        let form = Form::Gate { patience: Duration::ZERO, every: AGAIN, remedies: Vec::new() };
        let step = self.step(id, title, Step::Await { gate, patience }, &host, patience.saturating_mul(HARD_END), by_hand);
        Planned { form, ..step }
    }

    pub(super) fn packages(&self, host: &Host) -> Planned {
        let wanted = self.settings.startup.packages.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        let by_hand = by_hand::on(host, &format!("apt-get install {wanted}"));
        Planned { by_hand, ..self.gate(Gate::Packages { node: host.name.clone() }) }
    }

    /// A look at the end at a host that was not waited for.
    pub(super) fn missing(&self, host: &Host) -> Planned {
        let step = self.gate_within(Gate::NodeReady { node: host.name.clone() }, self.settings.call_timeout);
        Planned { title: format!("{}: has it come back after all?", host.name), on_failure: OnFailure::Continue, ..step }
    }

    /// Magic packets where they wake it, and the gate that says that it is up, side by side.
    pub(super) fn come_up(&self, host: &Host) -> Vec<Planned> {
        self.wake(host).into_iter().chain([self.host_up(host)]).collect()
    }

    fn wake(&self, host: &Host) -> Option<Planned> {
        let (mac, to) = host.mac.as_ref().zip(host.wake).filter(|_| host.returns == Returns::WakeOnLan)?;
        let within = (row(&Gate::HostUp { node: host.name.clone() }).patience)(self.settings).saturating_mul(HARD_END);
        let by_hand = format!("wakeonlan -i {} {mac}", to.ip());
        let title = format!("{}: wake it where it is off, by magic packets to {mac}", host.name);
        Some(self.step(format!("wake.{}", host.name), title, Step::Wake { node: host.name.clone() }, host.name.as_str(), within, by_hand))
    }

    fn host_up(&self, host: &Host) -> Planned {
        let step = self.gate(Gate::HostUp { node: host.name.clone() });
        let back = match host.returns {
            Returns::AcCycle => "comes back by itself",
            Returns::WakeOnLan => "comes back by a magic packet, or by its button",
            Returns::ByHand => "a person presses its button",
        };
        Planned { title: format!("{}: is on and lets us in ({back})", host.name), by_hand: by_hand::on(host, "true"), ..step }
    }

    pub(super) fn bring_up(&self, host: &Host, role: K3sRole) -> Planned {
        let unit = unit(role);
        let (node, by_hand) = (host.name.clone(), by_hand::on(host, &format!("systemctl start --no-block {unit}")));
        let within = self.settings.startup.node_timeout;
        let action = Step::BringUpK3s { node: node.clone(), role };
        let step = self.step(format!("k3s.{node}"), format!("{node}: start {unit}"), action, node.as_str(), within, by_hand);
        Planned { form: Form::Ensure, ..step }
    }

    fn calls(&self) -> Duration {
        self.settings.call_timeout.saturating_mul(CALLS)
    }

    pub(super) fn release_cordons(&self, except: &BTreeSet<NodeName>) -> Planned {
        let action = Step::ReleaseCordons { except: except.clone() };
        let title = "clear the cordons that metis holds".to_owned();
        self.step("cordons".into(), title, action, "", self.calls(), "kubectl uncordon NODE…".into())
    }

    pub(super) fn release_flux(&self) -> Planned {
        let title = "resume what metis suspended".to_owned();
        self.step("flux.resume".into(), title, Step::ReleaseFlux, "", self.calls(), "flux resume kustomization NAME -n NAMESPACE …".into())
    }

    pub(super) fn reconcile(&self) -> Planned {
        let title = "ask Flux to reconcile what is not applied".to_owned();
        let by_hand = "flux reconcile kustomization flux-system --with-source".to_owned();
        let within = self.settings.startup.source_timeout.max(self.calls());
        let step = self.step("flux.reconcile".into(), title, Step::Reconcile, "", within, by_hand);
        Planned { form: Form::Ensure, ..step }
    }
}

fn words(gate: &Gate) -> (String, String) {
    let (title, by_hand) = match gate {
        Gate::Command => ("this host commands".to_owned(), "kubectl -n kube-system get lease metis"),
        Gate::Lease => ("this host holds the Lease".to_owned(), "kubectl -n kube-system get lease metis"),
        Gate::Mains => ("no UPS runs on battery".to_owned(), "upsc UPS ups.status"),
        Gate::Charge { minimum } => (format!("every UPS holds at least {minimum} %"), "upsc UPS battery.charge"),
        Gate::Clocks { hosts } if hosts.is_empty() => {
            ("this host's clock is synchronised".to_owned(), "timedatectl show -p NTPSynchronized")
        }
        Gate::Clocks { hosts } => {
            (format!("the clocks of most of {} hosts are synchronised", hosts.len()), "ssh HOST timedatectl show -p NTPSynchronized")
        }
        Gate::Packages { node } => (format!("{node}: has what its storage needs"), ""),
        Gate::HostUp { node } => (format!("{node}: is on and lets us in"), ""),
        Gate::ControlPlane => ("the API server is ready".to_owned(), "kubectl get --raw /readyz"),
        Gate::NodeReady { node } => (format!("{node}: Ready since its present boot"), "kubectl get nodes -o wide"),
        Gate::Vault => ("every pod of Vault is unsealed".to_owned(), "vault operator unseal"),
        Gate::FluxSource => ("Flux reads its source".to_owned(), "flux get sources git -A"),
        Gate::Flux => ("all of Flux is applied".to_owned(), "flux get all -A --status-selector ready=false"),
        Gate::Namespaces => ("namespaces are there".to_owned(), "kubectl get namespaces"),
        Gate::Workloads => ("workloads have converged".to_owned(), "kubectl get deployments,statefulsets,daemonsets -A"),
        Gate::Ingress => ("every host of the ingress is answered for by its backend".to_owned(), "kubectl get ingress,ingressroute -A"),
        Gate::Services => ("the services of the checklist serve".to_owned(), ""),
        Gate::Endpoints => ("critical Services have ready addresses".to_owned(), "kubectl get endpointslices -A"),
        Gate::Soak { window } => {
            (format!("all of it stays so for {} s", window.as_secs()), "kubectl get events -A --sort-by=.lastTimestamp")
        }
    };
    (title, by_hand.to_owned())
}

/// What a person would ask the services of the checklist.
fn ask_by_hand(settings: &Settings) -> String {
    let commands = settings.startup.services.iter().map(|service| {
        let target = &service.target;
        match target.scheme {
            Scheme::Http | Scheme::Https => format!("curl -i {target}"),
            Scheme::Postgres => format!("pg_isready -h {} -p {}", target.host, target.port()),
            Scheme::Tls => format!("openssl s_client -connect {}:{}", target.host, target.port()),
            Scheme::Tcp => format!("nc -v {} {}", target.host, target.port()),
        }
    });
    commands.collect::<Vec<_>>().join("; ")
}

/// Until it was measured: a small site of Raspberry Pis.
fn unmeasured(action: &Step) -> Duration {
    Duration::from_secs(match action {
        Step::Await {
            gate:
                Gate::Command | Gate::Lease | Gate::Mains | Gate::Charge { .. } | Gate::Clocks { .. } | Gate::Packages { .. } | Gate::Namespaces,
            ..
        } => 1,
        Step::Wake { .. } | Step::Await { gate: Gate::HostUp { .. }, .. } => 60,
        Step::Await { gate: Gate::ControlPlane | Gate::NodeReady { .. } | Gate::Vault | Gate::FluxSource, .. } => 45,
        Step::Await { gate: Gate::Flux, .. } => 180,
        Step::Await { gate: Gate::Workloads, .. } => 240,
        Step::Await { gate: Gate::Ingress | Gate::Services, .. } => 30,
        Step::Await { gate: Gate::Soak { window }, .. } => window.as_secs(),
        _ => 3,
    })
}

/// Name of the unit that k3s' installer makes.
fn unit(role: K3sRole) -> &'static str {
    match role {
        K3sRole::Server => "k3s",
        K3sRole::Agent => "k3s-agent",
    }
}
