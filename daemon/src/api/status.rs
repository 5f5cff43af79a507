//! Service Status.

use futures::StreamExt;
use futures::stream::BoxStream;
use metis_proto::v1;
use metis_proto::v1::status_server::Status as StatusApi;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::authz::Admitted;
use super::errors::role_to_proto;
use super::{Context, convert};
use crate::site::OnTrigger;

/// The service.
pub(super) struct StatusService(pub(super) Context);

impl Context {
    fn status(&self, caller: &Admitted) -> v1::GetStatusResponse {
        let view = self.handle.view();
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
        }
    }
}

#[tonic::async_trait]
impl StatusApi for StatusService {
    async fn get(&self, request: Request<v1::GetStatusRequest>) -> Result<Response<v1::GetStatusResponse>, Status> {
        Ok(Response::new(self.0.status(&Admitted::of(&request)?)))
    }

    type WatchStream = BoxStream<'static, Result<v1::GetStatusResponse, Status>>;

    async fn watch(&self, request: Request<v1::WatchStatusRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = Admitted::of(&request)?;
        let context = self.0.clone();
        let views = WatchStream::new(context.handle.views()).map(|_| ());
        let facts = WatchStream::new(context.facts.clone()).map(|_| ());
        let changes = futures::stream::select(views, facts);
        Ok(Response::new(Box::pin(changes.map(move |()| Ok(context.status(&caller))))))
    }
}
