//! Service Power: shutdowns, arming.

use std::collections::BTreeSet;
use std::time::Duration;

use metis_proto::v1;
use metis_proto::v1::power_server::Power;
use tonic::{Request, Response, Status};

use super::authz::Admitted;
use super::card::plan_status;
use super::port::{ShutdownPlan, ShutdownQuestion, StartupQuestion};
use super::{Context, Role, convert, errors};
use crate::cluster::{ShutdownMode, startup};
use crate::control::{self, Reply};
use crate::runbook::Runbook;
use crate::site::{Asker, Cause, DomainName, NodeName, OnTrigger, RunId, Step};

/// The kind of the runs that this service begins.
const SHUTDOWN: &str = "shutdown";

/// The service.
pub(super) struct PowerService(pub(super) Context);

fn mode(value: i32) -> Result<Option<ShutdownMode>, Status> {
    match v1::ShutdownMode::try_from(value) {
        Ok(v1::ShutdownMode::Unspecified) => Ok(None),
        Ok(v1::ShutdownMode::ClusterOnly) => Ok(Some(ShutdownMode::ClusterOnly)),
        Ok(v1::ShutdownMode::HostPoweroff) => Ok(Some(ShutdownMode::HostPoweroff)),
        Err(_) => Err(Status::invalid_argument(format!("mode {value} is not known to this metisd: it is older than its caller"))),
    }
}

fn span(value: Option<prost_types::Duration>, name: &str) -> Result<Option<Duration>, Status> {
    let Some(value) = value else { return Ok(None) };
    match Duration::try_from(value) {
        Ok(span) if !span.is_zero() => Ok(Some(span)),
        _ => Err(Status::invalid_argument(format!("{name} must be longer than nothing"))),
    }
}

fn question(asked: v1::ShutdownRequest) -> Result<ShutdownQuestion, Status> {
    let domains: BTreeSet<_> = asked.domains.into_iter().map(DomainName::from).collect();
    Ok(ShutdownQuestion {
        mode: mode(asked.mode)?,
        reason: asked.reason,
        domains: (!domains.is_empty()).then_some(domains),
        skip_drain: asked.skip_drain,
        skip_etcd_snapshot: asked.skip_etcd_snapshot,
        drain_timeout: span(asked.drain_timeout, "drain_timeout")?,
        emergency_drain_timeout: span(asked.emergency_drain_timeout, "emergency_drain_timeout")?,
        require_ups_battery: asked.require_ups_battery,
        ups_host: (!asked.ups_host.is_empty()).then_some(asked.ups_host),
        execute: asked.execute,
    })
}

/// For the record: what was asked for.
fn target(question: &ShutdownQuestion) -> String {
    let mut words = vec![question.mode.map_or("as configured", ShutdownMode::name).to_owned()];
    words.extend(question.domains.iter().flatten().map(|domain| format!("domain {domain}")));
    words.extend(question.skip_drain.then(|| "without drain".to_owned()));
    words.extend(question.skip_etcd_snapshot.then(|| "without snapshot".to_owned()));
    words.extend((!question.reason.is_empty()).then(|| format!("because {}", question.reason)));
    words.join(", ")
}

/// What the plan does to each of its hosts, in the order in which they end.
fn hosts(plan: &ShutdownPlan) -> Vec<v1::HostEnd> {
    let on = |wanted: fn(&Step) -> bool| -> BTreeSet<NodeName> {
        let steps = plan.runbook.phases.iter().flat_map(|phase| &phase.steps).filter(|step| wanted(&step.action));
        steps.filter_map(|step| step.action.host().cloned()).collect()
    };
    let stopped = on(|step| matches!(step, Step::StopK3s { .. }));
    let off = on(|step| matches!(step, Step::PowerOff { .. } | Step::PowerOffThisHost { .. }));
    let named = plan.topology.hosts.values().filter(|host| stopped.contains(&host.name) || off.contains(&host.name));
    let mut ends: Vec<_> = named
        .map(|host| v1::HostEnd {
            name: host.name.to_string(),
            k3s_stops: stopped.contains(&host.name),
            powers_off: off.contains(&host.name),
            returns: host.returns.name().to_owned(),
            access: host.access.name().to_owned(),
            domains: host.domains.iter().map(ToString::to_string).collect(),
            this_host: host.this_host,
            mac: host.mac.clone().unwrap_or_default(),
        })
        .collect();
    ends.sort_by_key(|end| end.this_host);
    ends
}

/// A plan, and the run that executes it; empty for a dry run.
pub fn answer(run: String, plan: &ShutdownPlan) -> v1::ShutdownResponse {
    v1::ShutdownResponse { run, plan: Some(convert::plan(&plan.runbook, plan.remaining)), hosts: hosts(plan) }
}

fn armed_mode(mode: OnTrigger) -> v1::ShutdownMode {
    match mode {
        OnTrigger::Observe => v1::ShutdownMode::Unspecified,
        OnTrigger::ClusterOnly => v1::ShutdownMode::ClusterOnly,
        OnTrigger::HostPoweroff => v1::ShutdownMode::HostPoweroff,
    }
}

pub(super) fn startup_question(asked: v1::StartupRequest) -> Result<StartupQuestion, Status> {
    let min_battery = asked.min_battery.map(|percent| u8::try_from(percent).ok().filter(|percent| *percent <= 100));
    if min_battery == Some(None) {
        return Err(Status::invalid_argument("min_battery is a percentage: 0 to 100"));
    }
    Ok(StartupQuestion {
        reason: asked.reason,
        ignore: asked.ignore.into_iter().map(NodeName::from).collect(),
        allow_on_battery: asked.allow_on_battery,
        min_battery: min_battery.flatten(),
        require_ups_battery: asked.require_ups_battery,
        stability_window: span(asked.stability_window, "stability_window")?,
        checklist_timeout: span(asked.checklist_timeout, "checklist_timeout")?,
        stability_timeout: span(asked.stability_timeout, "stability_timeout")?,
        skip_packages: asked.skip_packages,
        allow_peer_startup: asked.allow_peer_startup,
        auto_peer_failover: asked.auto_peer_failover,
    })
}

/// For the record: what was asked for.
pub(super) fn startup_target(question: &StartupQuestion) -> String {
    let mut words = vec!["the cluster".to_owned()];
    words.extend(question.ignore.iter().map(|node| format!("without {node}")));
    words.extend(question.allow_on_battery.then(|| "also on battery".to_owned()));
    words.extend(question.skip_packages.then(|| "without a look at packages".to_owned()));
    words.extend(question.min_battery.map(|percent| format!("from {percent} % of charge")));
    words.extend(question.allow_peer_startup.then(|| "without the other host's word".to_owned()));
    words.extend(question.auto_peer_failover.then(|| "taken over where the coordinator is not reached".to_owned()));
    words.extend((!question.reason.is_empty()).then(|| format!("because {}", question.reason)));
    words.join(", ")
}

impl Context {
    pub(super) async fn begin_startup(&self, requester: String, runbook: &Runbook<Step>) -> Result<RunId, Status> {
        let runbook = runbook.clone();
        match self.ask(control::Request::Admit { requester, runbook, cause: Cause::Person, within: None }).await? {
            Reply::Admitted { run } => Ok(run),
            Reply::Refused { guards } => Err(errors::refused(&guards)),
            other => Err(Status::internal(format!("unexpected answer to a request: {other:?}"))),
        }
    }

    async fn begin_shutdown(&self, caller: &Admitted, plan: &ShutdownPlan) -> Result<RunId, Status> {
        let (requester, runbook) = (caller.caller.label(), plan.runbook.clone());
        let asked = control::Request::Admit { requester, runbook, cause: Cause::Person, within: plan.remaining };
        match self.ask(asked).await? {
            Reply::Admitted { run } => Ok(run),
            Reply::Refused { guards } => Err(errors::refused(&guards)),
            other => Err(Status::internal(format!("unexpected answer to a request: {other:?}"))),
        }
    }
}

#[tonic::async_trait]
impl Power for PowerService {
    async fn shutdown(&self, request: Request<v1::ShutdownRequest>) -> Result<Response<v1::ShutdownResponse>, Status> {
        let caller = Admitted::of(&request)?;
        let question = question(request.into_inner())?;
        let execute = question.execute;
        if execute {
            self.0.require(&caller, Role::Admin, "Power.Shutdown").await?;
            self.0.audit(&caller, "Power.Shutdown", &target(&question)).await?;
        }
        let plan = self.0.power.plan_shutdown(question).await.map_err(plan_status)?;
        let run = if execute { self.0.begin_shutdown(&caller, &plan).await?.to_string() } else { String::new() };
        Ok(Response::new(answer(run, &plan)))
    }

    async fn startup(&self, request: Request<v1::StartupRequest>) -> Result<Response<v1::StartupResponse>, Status> {
        let caller = Admitted::of(&request)?;
        let asked = request.into_inner();
        let execute = asked.execute;
        let question = startup_question(asked.clone())?;
        if execute {
            self.0.require(&caller, Role::Admin, "Power.Startup").await?;
            self.0.audit(&caller, "Power.Startup", &startup_target(&question)).await?;
        }
        let (who, runbook) = self.0.startup_plan(question, Asker::Person, execute).await?;
        let (run, handed_over_to) = match (execute, who.hand_over) {
            (false, _) => (String::new(), String::new()),
            (true, true) => self.0.hand_over(asked, caller.caller.label()).await?,
            (true, false) => (self.0.begin_startup(caller.caller.label(), &runbook).await?.to_string(), String::new()),
        };
        Ok(Response::new(v1::StartupResponse { run, plan: Some(convert::plan(&runbook, None)), handed_over_to }))
    }

    async fn gates(&self, request: Request<v1::GatesRequest>) -> Result<Response<v1::GatesResponse>, Status> {
        Admitted::of(&request)?;
        let gates = self.0.power.gates().into_iter().map(|(row, patience)| v1::Gate {
            name: row.name.to_owned(),
            needs: row.needs.to_owned(),
            probe: row.probe.to_owned(),
            patience: prost_types::Duration::try_from(patience).ok(),
            on_failure: row.on_failure.to_owned(),
        });
        let guards = startup::GUARDS.iter().map(|row| v1::GuardRow {
            name: row.name.to_owned(),
            refuses: row.refuses.to_owned(),
            waiver: row.waiver.unwrap_or("").to_owned(),
        });
        let repairs = self.0.power.repairs().into_iter().map(|(row, allowed)| v1::RepairRow {
            name: row.repair.name().to_owned(),
            setting: row.setting.unwrap_or("").to_owned(),
            allowed,
            symptom: row.symptom.to_owned(),
            preconditions: row.preconditions.to_owned(),
            blast_radius: row.blast_radius.to_owned(),
            undo: row.undo.to_owned(),
            by_hand: row.by_hand.to_owned(),
            gates: row.gates.iter().map(|&gate| gate.to_owned()).collect(),
        });
        Ok(Response::new(v1::GatesResponse { gates: gates.collect(), guards: guards.collect(), repairs: repairs.collect() }))
    }

    async fn arm(&self, request: Request<v1::ArmRequest>) -> Result<Response<v1::ArmResponse>, Status> {
        let caller = Admitted::of(&request)?;
        let v1::ArmRequest { mode: asked, execute } = request.into_inner();
        let asked = mode(asked)?;
        if execute {
            self.0.require(&caller, Role::Admin, "Power.Arm").await?;
            self.0.audit(&caller, "Power.Arm", asked.map_or("as configured", ShutdownMode::name)).await?;
        }
        let arming = self.0.power.arming().await.map_err(plan_status)?;
        let mode = match asked {
            None => arming.mode,
            Some(ShutdownMode::ClusterOnly) => OnTrigger::ClusterOnly,
            Some(ShutdownMode::HostPoweroff) => OnTrigger::HostPoweroff,
        };
        if execute {
            if !arming.guards.is_empty() {
                return Err(errors::refused(&arming.guards));
            }
            match self.0.ask(control::Request::Arm { requester: caller.caller.label(), mode }).await? {
                Reply::Noted => {}
                Reply::Refused { guards } => return Err(errors::refused(&guards)),
                other => return Err(Status::internal(format!("unexpected answer to arming: {other:?}"))),
            }
        }
        Ok(Response::new(v1::ArmResponse {
            armed: execute || self.0.handle.view().armed(),
            mode: armed_mode(mode).into(),
            refusals: arming.guards.iter().map(errors::guard_to_proto).collect(),
            warnings: arming.warnings,
        }))
    }

    async fn disarm(&self, request: Request<v1::DisarmRequest>) -> Result<Response<v1::DisarmResponse>, Status> {
        let caller = Admitted::of(&request)?;
        self.0.audit(&caller, "Power.Disarm", "").await?;
        let was_armed = self.0.handle.view().armed();
        match self.0.ask(control::Request::Disarm { requester: caller.caller.label() }).await? {
            Reply::Noted => {}
            other => return Err(Status::internal(format!("unexpected answer to disarming: {other:?}"))),
        }
        let view = self.0.handle.view();
        let under_way = view.runs.iter().filter(|record| record.run.outcome.is_none() && record.run.book.kind == SHUTDOWN);
        Ok(Response::new(v1::DisarmResponse { was_armed, active: under_way.map(|record| record.id.to_string()).collect() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: i64) -> prost_types::Duration {
        prost_types::Duration { seconds, nanos: 0 }
    }

    #[test]
    fn what_is_asked_is_taken_as_it_is() {
        let asked = v1::ShutdownRequest {
            mode: v1::ShutdownMode::HostPoweroff.into(),
            reason: "storm".into(),
            skip_drain: true,
            drain_timeout: Some(seconds(90)),
            domains: vec!["pyrphoros".into()],
            execute: true,
            ..v1::ShutdownRequest::default()
        };
        let question = question(asked).unwrap();
        assert_eq!(question.mode, Some(ShutdownMode::HostPoweroff));
        assert_eq!(question.drain_timeout, Some(Duration::from_secs(90)));
        assert_eq!((question.emergency_drain_timeout, question.ups_host.clone()), (None, None));
        assert_eq!(target(&question), "host-poweroff, domain pyrphoros, without drain, because storm");
    }

    #[test]
    fn nothing_is_the_whole_site_as_configured_and_a_dry_run() {
        let question = question(v1::ShutdownRequest::default()).unwrap();
        assert_eq!(question, ShutdownQuestion::default());
        assert_eq!(target(&question), "as configured");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for asked in [
            v1::ShutdownRequest { mode: 9, ..v1::ShutdownRequest::default() },
            v1::ShutdownRequest { drain_timeout: Some(seconds(0)), ..v1::ShutdownRequest::default() },
            v1::ShutdownRequest { emergency_drain_timeout: Some(seconds(-1)), ..v1::ShutdownRequest::default() },
        ] {
            assert_eq!(question(asked.clone()).unwrap_err().code(), tonic::Code::InvalidArgument, "{asked:?}");
        }
    }
}
