//! Service Status.

use std::collections::HashMap;

use futures::StreamExt;
use futures::stream::BoxStream;
use metis_proto::v1;
use metis_proto::v1::status_server::Status as StatusApi;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::authz::Admitted;
use super::errors::role_to_proto;
use super::{Context, convert, two_hosts};
use crate::control::PreparedRecord;
use crate::power::UpsState;
use crate::site::{Judged, OnTrigger, SettingsDigest, Verdict};

/// The service.
pub(super) struct StatusService(pub(super) Context);

impl Context {
    async fn status(&self, caller: &Admitted) -> v1::GetStatusResponse {
        let source = self.prepare.flux_source().await;
        let view = self.handle.view();
        let upses = view.power.as_ref().map(|power| power.upses.as_slice()).unwrap_or_default();
        let worst = worst(upses);
        let now = (self.now)();
        let settings = view.settings.as_ref();
        let config = settings.map(|s| v1::ConfigStatus {
            files: s.adopted.files.clone(),
            digest: s.adopted.digest.to_string(),
            loaded: Some(convert::timestamp(s.since)),
            rejected: s.rejected.clone(),
        });
        let on_trigger = match view.on_trigger() {
            OnTrigger::Observe => "observe",
            OnTrigger::ClusterOnly => "cluster-only",
            OnTrigger::HostPoweroff => "host-poweroff",
        };
        let facts = self.facts.borrow();
        v1::GetStatusResponse {
            version: view.version.clone(),
            host: facts.host.clone(),
            host_role: facts.host_role.clone(),
            phase: view.phase.clone(),
            armed: view.armed(),
            on_trigger: on_trigger.to_owned(),
            started: view.started.map(convert::timestamp),
            boot_id: view.boot_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            journal: Some(v1::JournalStatus {
                writable: view.journal.degraded.is_none(),
                degraded: view.journal.degraded.clone().unwrap_or_default(),
                last_seq: view.last_seq,
                facts: view.journal.facts,
            }),
            config,
            domains: view.power.iter().flat_map(|p| &p.domains).map(|d| convert::domain(d, view.armed())).collect(),
            runs: view.runs.iter().take(10).map(|r| convert::run(r, &now)).collect(),
            problems: view.problems.iter().chain(&facts.problems).cloned().collect(),
            caller_role: role_to_proto(caller.role).into(),
            now: Some(convert::timestamp(now.wall)),
            clock_synced: now.synced,
            ups_host: worst.map(|ups| ups.name.to_string()).unwrap_or_default(),
            ups_battery: worst.and_then(|ups| ups.charge),
            upses: upses.iter().map(|ups| v1::UpsState { vars: HashMap::new(), ..convert::ups(ups) }).collect(),
            flux_source: source.map(flux_source),
            leases: self.cordons().iter().map(|record| self.lease(record)).collect(),
            prepared: view.prepared.as_ref().map(|record| prepared(record, settings.map(|settings| &settings.adopted.digest))),
            peer: self.peers.status().map(|peer| two_hosts::status(peer, &now)),
        }
    }
}

/// The one that says most about what is coming.
fn worst(upses: &[UpsState]) -> Option<&UpsState> {
    let rank = |ups: &UpsState| match ups.verdict {
        Verdict::Critical => 0,
        Verdict::OnBattery => 1,
        Verdict::Unknown => 2,
        Verdict::Online => 3,
    };
    let charge = |ups: &UpsState| ups.charge.unwrap_or(f64::INFINITY);
    upses.iter().min_by(|one, other| rank(one).cmp(&rank(other)).then(charge(one).total_cmp(&charge(other))))
}

fn flux_source(judged: Judged) -> v1::FluxSourceStatus {
    let ready = match &judged {
        Judged::Ready(_) => Some(true),
        Judged::NotReady { .. } => Some(false),
        Judged::CannotTell(_) => None,
    };
    v1::FluxSourceStatus { ready, detail: judged.text().to_owned() }
}

fn prepared(record: &PreparedRecord, digest: Option<&SettingsDigest>) -> v1::PreparedStatus {
    let PreparedRecord { at, prepared } = record;
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    v1::PreparedStatus {
        at: Some(convert::timestamp(*at)),
        requested_by: prepared.requester.clone(),
        green: prepared.problems.is_empty(),
        problems: prepared.problems.clone(),
        warnings: number(prepared.warnings),
        cannot_tell: number(prepared.unclear),
        outdated: digest != Some(&prepared.settings),
    }
}

#[tonic::async_trait]
impl StatusApi for StatusService {
    async fn get(&self, request: Request<v1::GetStatusRequest>) -> Result<Response<v1::GetStatusResponse>, Status> {
        let caller = Admitted::of(&request)?;
        Ok(Response::new(self.0.status(&caller).await))
    }

    type WatchStream = BoxStream<'static, Result<v1::GetStatusResponse, Status>>;

    async fn watch(&self, request: Request<v1::WatchStatusRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = Admitted::of(&request)?;
        let context = self.0.clone();
        let views = WatchStream::new(context.handle.views()).map(|_| ());
        let facts = WatchStream::new(context.facts.clone()).map(|_| ());
        let changes = futures::stream::select(views, facts);
        let answers = changes.then(move |()| {
            let (context, caller) = (context.clone(), caller.clone());
            async move { Ok(context.status(&caller).await) }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ups_that_matters_most_is_shown() {
        let ups = |name: &str, verdict, charge| {
            let at = jiff::Timestamp::UNIX_EPOCH;
            UpsState {
                name: name.into(),
                verdict,
                reason: String::new(),
                status: std::collections::BTreeSet::new(),
                charge,
                runtime: None,
                load: None,
                last_heard: None,
                since: at,
                link: String::new(),
                fsd_latched: false,
                vars: std::collections::BTreeMap::new(),
            }
        };
        let shown = |upses: &[UpsState]| worst(upses).map(|ups| ups.name.to_string());
        assert_eq!(shown(&[]), None);
        let online = [ups("a@x", Verdict::Online, None), ups("b@x", Verdict::Online, Some(90.0)), ups("c@x", Verdict::Online, Some(80.0))];
        assert_eq!(shown(&online).as_deref(), Some("c@x"));
        let failing =
            [ups("a@x", Verdict::OnBattery, Some(99.0)), ups("b@x", Verdict::Unknown, None), ups("c@x", Verdict::Online, Some(5.0))];
        assert_eq!(shown(&failing).as_deref(), Some("a@x"));
    }

    #[test]
    fn what_could_not_be_seen_is_neither_ready_nor_not() {
        let said = |judged| flux_source(judged).ready;
        assert_eq!(said(Judged::Ready(String::new())), Some(true));
        assert_eq!(said(Judged::NotReady { why: String::new(), done: 0 }), Some(false));
        assert_eq!(said(Judged::CannotTell(String::new())), None);
    }
}
