//! The server: services, health, reflection and the role table on one socket.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt;
use metis_proto::v1::card_server::CardServer;
use metis_proto::v1::leases_server::LeasesServer;
use metis_proto::v1::peer_server::PeerServer;
use metis_proto::v1::power_server::PowerServer;
use metis_proto::v1::prepare_server::PrepareServer;
use metis_proto::v1::runs_server::RunsServer;
use metis_proto::v1::status_server::StatusServer;
use metis_proto::v1::ups_server::UpsServer;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::authz::{Admitted, AuthzLayer, OnRefused, RoleTable};
use super::port::{Peers, Power, Preparing, Site};
use super::{Caller, PeerStream, Role, card, errors, leases, power, prepare, runs, status, two_hosts, ups};
use crate::control::{Audit, Handle, HandleError, Reply, Request};
use crate::journal::Reader;
use crate::site::Now;

/// What is known of this host besides the View.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Host name.
    pub host: String,
    /// `coordinator`, `peer`, `observer` or `cards`.
    pub host_role: String,
    /// What is not as it should be, each with what to do.
    pub problems: Vec<String>,
}

/// What every service has at hand. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The control loop.
    pub handle: Handle,
    /// History.
    pub reader: Reader,
    /// Cards and devices.
    pub site: Arc<dyn Site>,
    /// Shutdowns, UPS history.
    pub power: Arc<dyn Power>,
    /// Preparations for a bad day.
    pub prepare: Arc<dyn Preparing>,
    /// The other metis host.
    pub peers: Arc<dyn Peers>,
    /// This host.
    pub facts: watch::Receiver<HostFacts>,
    /// Roles; may change with a reload.
    pub roles: watch::Receiver<Arc<RoleTable>>,
    /// The present moment.
    pub now: Arc<dyn Fn() -> Now + Send + Sync>,
}

impl Context {
    /// Asks the control loop.
    pub(super) async fn ask(&self, request: Request) -> Result<Reply, Status> {
        self.handle.request(request).await.map_err(|error| match error {
            HandleError::Stopped => Status::unavailable(error.to_string()),
            HandleError::Hangs => Status::deadline_exceeded(error.to_string()),
        })
    }

    /// Lets a call pass that needs a greater role than its RPC does, by what it asks for; a refusal is recorded.
    pub(super) async fn require(&self, caller: &Admitted, needed: Role, method: &str) -> Result<(), Status> {
        if caller.role >= Some(needed) {
            return Ok(());
        }
        tracing::warn!(metis.caller = %caller.caller.label(), metis.method = method, ?needed, "refused: role");
        let (method, role) = (method.to_owned(), errors::role_name(caller.role).to_owned());
        let status = errors::role_needed(&caller.caller, caller.role, needed, &method);
        self.ask(Request::Audit(Audit { uid: caller.caller.uid, role, method, target: String::new(), allowed: false })).await?;
        Err(status)
    }

    /// Records a mutating call that is let through, before anything is done.
    pub(super) async fn audit(&self, caller: &Admitted, method: &str, target: &str) -> Result<(), Status> {
        let role = errors::role_name(caller.role).to_owned();
        tracing::info!(metis.caller = %caller.caller.label(), metis.method = method, metis.target = target, "call");
        let audit = Audit { uid: caller.caller.uid, role, method: method.to_owned(), target: target.to_owned(), allowed: true };
        self.ask(Request::Audit(audit)).await.map(|_| ())
    }
}

/// Records refused calls.
fn on_refused(handle: Handle, now: &Context) -> OnRefused {
    let roles = now.roles.clone();
    Arc::new(move |caller: &Caller, rpc: &str, needed: Role| {
        let method = rpc.trim_start_matches("/metis.v1.").replace('/', ".");
        tracing::warn!(metis.caller = %caller.label(), metis.method = %method, needed = ?needed, "refused: role");
        // Refused reading changes nothing and may be polled: the log is enough for it.
        if needed < Role::Maintenance {
            return;
        }
        let role = errors::role_name(roles.borrow().role(caller)).to_owned();
        let audit = Audit { uid: caller.uid, role, method, target: String::new(), allowed: false };
        let handle = handle.clone();
        tokio::spawn(async move { handle.request(Request::Audit(audit)).await });
    })
}

/// Connections whose callers' names are looked up at the same time; more of them wait in the socket's backlog.
const CALLERS_NAMED_AT_ONCE: usize = 16;

/// Serves until `stop` fires; calls under way get `grace` to end.
///
/// # Errors
/// Where the services cannot be set up or the listener breaks.
pub async fn serve(
    listener: std::os::unix::net::UnixListener,
    context: Context,
    stop: CancellationToken,
    grace: Duration,
) -> anyhow::Result<()> {
    let listener = UnixListener::from_std(listener).context("adopting the API socket")?;
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    // A connection whose caller the kernel does not name is dropped; the others are served on.
    let named = incoming.map(|accepted| async move { PeerStream::of(accepted?).await }).buffer_unordered(CALLERS_NAMED_AT_ONCE);
    let incoming = named.filter_map(|accepted| async move {
        match accepted {
            Ok(stream) => Some(Ok::<_, std::io::Error>(stream)),
            Err(error) => {
                tracing::warn!(%error, "a connection to the API socket was dropped");
                None
            }
        }
    });
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<StatusServer<status::StatusService>>().await;
    health.set_serving::<UpsServer<ups::UpsService>>().await;
    health.set_serving::<CardServer<card::CardService>>().await;
    health.set_serving::<PowerServer<power::PowerService>>().await;
    health.set_serving::<PrepareServer<prepare::PrepareService>>().await;
    health.set_serving::<RunsServer<runs::RunsService>>().await;
    health.set_serving::<LeasesServer<leases::LeasesService>>().await;
    health.set_serving::<PeerServer<two_hosts::PeerService>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(metis_proto::DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let authz = AuthzLayer::new(context.roles.clone(), on_refused(context.handle.clone(), &context));
    let server = tonic::transport::Server::builder()
        .layer(authz)
        .add_service(health_service)
        .add_service(reflection().build_v1().context("reflection")?)
        .add_service(reflection().build_v1alpha().context("reflection")?)
        .add_service(StatusServer::new(status::StatusService(context.clone())))
        .add_service(UpsServer::new(ups::UpsService(context.clone())))
        .add_service(CardServer::new(card::CardService(context.clone())))
        .add_service(PowerServer::new(power::PowerService(context.clone())))
        .add_service(LeasesServer::new(leases::LeasesService(context.clone())))
        .add_service(PrepareServer::new(prepare::PrepareService(context.clone())))
        .add_service(PeerServer::new(two_hosts::PeerService(context.clone())))
        .add_service(RunsServer::new(runs::RunsService(context)))
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        served = server => served.context("serving the API socket"),
        // Streams that watch would hold the server for ever.
        () = late => Ok(()),
    }
}
