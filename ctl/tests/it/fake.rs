//! A metisd that answers from a script, on a Unix socket of its own. The real one is tested in tests/.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metis_proto::details::{self, Detail};
use metis_proto::v1;
use metis_proto::v1::card_server::{Card, CardServer};
use metis_proto::v1::image_request::Message as Asked;
use metis_proto::v1::image_response::Message as Answer;
use metis_proto::v1::leases_server::{Leases, LeasesServer};
use metis_proto::v1::power_server::{Power, PowerServer};
use metis_proto::v1::prepare_server::{Prepare, PrepareServer};
use metis_proto::v1::runs_server::{Runs, RunsServer};
use metis_proto::v1::status_server::StatusServer;
use metis_proto::v1::ups_server::UpsServer;
use sha2::{Digest as _, Sha256};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{lease, prepare, sample, shutdown, startup};

type Stream<T> = Pin<Box<dyn futures::Stream<Item = Result<T, Status>> + Send>>;
type Answered<T> = Result<Response<T>, Status>;

/// What goes wrong.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Fault {
    #[default]
    None,
    /// Every mutating call, with two guards.
    Refuse,
    /// Every mutating call.
    Role,
    /// The plan of a dry run lists a guard.
    PlanRefuses,
    /// The digest is of other bytes.
    CorruptTrailer,
    /// After this many chunks nothing comes any more.
    StallAfter(usize),
    /// Runs never end.
    Endless,
    /// The first watch breaks off after the first event.
    BreakWatch,
    /// Calls are never answered.
    Mute,
    /// The run is not closed yet when the stream says that it is.
    EarlyEnd,
    /// After three chunks nothing comes, and nothing is heard.
    Deaf,
}

/// An image: size and pieces in use.
#[derive(Debug, Clone)]
pub struct Image {
    pub size: u64,
    pub extents: Vec<(u64, Vec<u8>)>,
}

impl Image {
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        self.extents.iter().for_each(|(_, data)| hash.update(data));
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }

    pub fn total(&self) -> u64 {
        self.extents.iter().map(|(_, data)| data.len() as u64).sum()
    }

    /// In the order of the contract: ascending, pieces below 1 MiB last.
    fn chunks(&self) -> Vec<v1::ImageChunk> {
        let mut chunks = Vec::new();
        for (start, data) in &self.extents {
            for (n, piece) in data.chunks(256 << 10).enumerate() {
                chunks.push(v1::ImageChunk { offset: start + (n as u64) * (256 << 10), data: piece.to_vec() });
            }
        }
        chunks.sort_by_key(|c| (c.offset < 1 << 20, c.offset));
        chunks
    }
}

/// What the client said.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    pub start: Option<v1::ImageStart>,
    pub progress: Vec<v1::ImageProgress>,
    pub result: Option<v1::ImageResult>,
    pub burns: Vec<v1::BurnRequest>,
    pub shutdowns: Vec<v1::ShutdownRequest>,
    pub startups: Vec<v1::StartupRequest>,
    pub arms: Vec<v1::ArmRequest>,
    pub watches: Vec<u64>,
}

#[derive(Clone)]
struct Script {
    image: Image,
    fault: Fault,
    ends_as: v1::Phase,
    heard: Arc<Mutex<Heard>>,
}

/// A running fake; it ends when dropped.
pub struct Fake {
    pub dir: tempfile::TempDir,
    heard: Arc<Mutex<Heard>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Fake {
    pub fn start(fault: Fault) -> Self {
        Self::with(fault, sample::image(), v1::Phase::Done)
    }

    pub fn with(fault: Fault, image: Image, ends_as: v1::Phase) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let script = Script { image, fault, ends_as, heard: heard.clone() };
        let listener = runtime.block_on(async { UnixListener::bind(dir.path().join("sock")).unwrap() });
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(StatusServer::new(script.clone()))
                .add_service(UpsServer::new(script.clone()))
                .add_service(CardServer::new(script.clone()))
                .add_service(PowerServer::new(script.clone()))
                .add_service(LeasesServer::new(script.clone()))
                .add_service(PrepareServer::new(script.clone()))
                .add_service(RunsServer::new(script))
                .serve_with_incoming(UnixListenerStream::new(listener)),
        );
        Self { dir, heard, runtime: Some(runtime) }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }

    /// Waits until the client has said something.
    pub fn until(&self, what: &str, said: impl Fn(&Heard) -> bool) {
        for _ in 0..400 {
            if said(&self.heard()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("the client never {what}: {:?}", self.heard());
    }

    /// Ends as a killed process does: connections are gone, nothing is said.
    pub fn die(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.die();
    }
}

impl Script {
    fn hear(&self, note: impl FnOnce(&mut Heard)) {
        note(&mut self.heard.lock().unwrap());
    }

    fn admit(&self) -> Result<(), Status> {
        self.admit_as(v1::Role::Maintenance)
    }

    fn admit_as(&self, needed: v1::Role) -> Result<(), Status> {
        match self.fault {
            Fault::Refuse => {
                let detail = Detail::Refusal(v1::Refusal { guards: sample::guards() });
                Err(details::status(Code::FailedPrecondition, "2 guards refuse", &detail))
            }
            Fault::Role => {
                let needed = v1::RoleNeeded { needed: needed.into(), caller: v1::Role::Viewer.into(), uid: 1000 };
                Err(details::status(Code::PermissionDenied, "role", &Detail::RoleNeeded(needed)))
            }
            _ => Ok(()),
        }
    }

    fn plan(&self) -> v1::Plan {
        let refusals = if self.fault == Fault::PlanRefuses { sample::guards() } else { Vec::new() };
        v1::Plan { refusals, ..sample::plan() }
    }

    async fn converse(self, mut asked: Streaming<v1::ImageRequest>, answers: mpsc::Sender<Result<v1::ImageResponse, Status>>) {
        let say = |m| answers.send(Ok(v1::ImageResponse { message: Some(m) }));
        let Ok(Some(v1::ImageRequest { message: Some(Asked::Start(start)) })) = asked.message().await else { return };
        self.hear(|h| h.start = Some(start.clone()));
        if let (true, Err(refused)) = (start.execute, self.admit()) {
            let _ = answers.send(Err(refused)).await;
            return;
        }
        let run = if start.execute { "image-3".to_owned() } else { String::new() };
        let _ = say(Answer::Event(sample::event(1, "image.fetch", "step.started"))).await;
        let header = v1::ImageHeader {
            run,
            plan: Some(self.plan()),
            size: self.image.size,
            extent_bytes: self.image.total(),
            card: Some(sample::card()),
        };
        let _ = say(Answer::Header(header)).await;
        if !start.execute {
            return;
        }
        for (n, chunk) in self.image.chunks().into_iter().enumerate() {
            if matches!(self.fault, Fault::StallAfter(limit) if n >= limit) || (self.fault == Fault::Deaf && n >= 3) {
                break;
            }
            let _ = say(Answer::Chunk(chunk)).await;
        }
        let sha256 = if self.fault == Fault::CorruptTrailer { "0".repeat(64) } else { self.image.sha256() };
        if !matches!(self.fault, Fault::StallAfter(_) | Fault::Deaf) {
            let _ = say(Answer::Trailer(v1::ImageTrailer { sha256 })).await;
        }
        while let Ok(Some(request)) = asked.message().await {
            match request.message {
                Some(Asked::Result(_)) if self.fault == Fault::Deaf => (),
                Some(Asked::Progress(p)) => self.hear(|h| h.progress.push(p)),
                Some(Asked::Result(r)) => {
                    self.hear(|h| h.result = Some(r.clone()));
                    let phase = match (r.ok, &self.fault) {
                        (true, Fault::EarlyEnd) => v1::Phase::Running,
                        (true, _) => v1::Phase::Done,
                        (false, _) => v1::Phase::Failed,
                    };
                    let run = sample::run("image-3", phase);
                    let _ = say(Answer::End(v1::ImageEnd { run: Some(run) })).await;
                    return;
                }
                _ => (),
            }
        }
    }
}

#[tonic::async_trait]
impl Card for Script {
    type ImageStream = Stream<v1::ImageResponse>;

    async fn plan(&self, request: Request<v1::CardPlanRequest>) -> Answered<v1::CardPlanResponse> {
        let device = v1::Device { path: request.into_inner().device, ..sample::devices().remove(0) };
        Ok(Response::new(v1::CardPlanResponse { plan: Some(self.plan()), device: Some(device), card: Some(sample::card()) }))
    }

    async fn burn(&self, request: Request<v1::BurnRequest>) -> Answered<v1::BurnResponse> {
        let request = request.into_inner();
        self.hear(|h| h.burns.push(request.clone()));
        if request.execute {
            self.admit()?;
        }
        let run = if request.execute { "burn-17".to_owned() } else { String::new() };
        Ok(Response::new(v1::BurnResponse { run, plan: Some(self.plan()) }))
    }

    async fn image(&self, request: Request<Streaming<v1::ImageRequest>>) -> Answered<Self::ImageStream> {
        let (answers, queue) = mpsc::channel(4);
        tokio::spawn(self.clone().converse(request.into_inner(), answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }

    async fn config(&self, request: Request<v1::CardConfigRequest>) -> Answered<v1::CardConfigResponse> {
        let node = request.into_inner().spec.unwrap_or_default().node;
        if node != "titan-13" {
            return Err(Status::not_found(format!("the inventory has no node {node}; it has titan-13")));
        }
        Ok(Response::new(v1::CardConfigResponse { json: r#"{"hostname":"titan-13","k3s":{"token":"***"}}"#.into() }))
    }

    async fn devices(&self, _: Request<v1::ListDevicesRequest>) -> Answered<v1::ListDevicesResponse> {
        Ok(Response::new(v1::ListDevicesResponse { devices: sample::devices() }))
    }
}

#[tonic::async_trait]
impl Prepare for Script {
    async fn look(&self, _: Request<v1::LookRequest>) -> Answered<v1::LookResponse> {
        Ok(Response::new(prepare::looked(self.fault != Fault::PlanRefuses)))
    }

    async fn inventory(&self, request: Request<v1::InventoryRequest>) -> Answered<v1::InventoryResponse> {
        let v1::InventoryRequest { ssh_port, network_prefix } = request.into_inner();
        let yaml = format!("# port {ssh_port}, prefix {network_prefix}\nnodes: {{}}\n");
        Ok(Response::new(v1::InventoryResponse { yaml, notes: vec!["compare each host key".into()] }))
    }
}

#[tonic::async_trait]
impl Power for Script {
    async fn shutdown(&self, request: Request<v1::ShutdownRequest>) -> Answered<v1::ShutdownResponse> {
        let request = request.into_inner();
        self.hear(|h| h.shutdowns.push(request.clone()));
        if request.execute {
            self.admit_as(v1::Role::Admin)?;
        }
        let run = if request.execute { "shutdown-3".to_owned() } else { String::new() };
        let refusals = if self.fault == Fault::PlanRefuses { shutdown::guards() } else { Vec::new() };
        let plan = v1::Plan { refusals, ..shutdown::plan() };
        Ok(Response::new(v1::ShutdownResponse { run, plan: Some(plan), hosts: shutdown::hosts() }))
    }

    async fn startup(&self, request: Request<v1::StartupRequest>) -> Answered<v1::StartupResponse> {
        let request = request.into_inner();
        self.hear(|h| h.startups.push(request.clone()));
        if request.execute {
            self.admit_as(v1::Role::Admin)?;
        }
        let run = if request.execute { "shutdown-3".to_owned() } else { String::new() };
        let refusals = if self.fault == Fault::PlanRefuses { startup::guards() } else { Vec::new() };
        // On the peer of two hosts.
        let handed_over_to = if request.reason == "asked at the peer" && request.execute { "titan-db".to_owned() } else { String::new() };
        Ok(Response::new(v1::StartupResponse { run, plan: Some(v1::Plan { refusals, ..startup::plan() }), handed_over_to }))
    }

    async fn gates(&self, _: Request<v1::GatesRequest>) -> Answered<v1::GatesResponse> {
        Ok(Response::new(startup::tables()))
    }

    async fn arm(&self, request: Request<v1::ArmRequest>) -> Answered<v1::ArmResponse> {
        let request = request.into_inner();
        self.hear(|h| h.arms.push(request));
        if request.execute {
            self.admit_as(v1::Role::Admin)?;
        }
        let refusals = if self.fault == Fault::PlanRefuses { shutdown::guards() } else { Vec::new() };
        let mode = if request.mode == 0 { v1::ShutdownMode::ClusterOnly.into() } else { request.mode };
        Ok(Response::new(v1::ArmResponse {
            armed: request.execute,
            mode,
            refusals,
            warnings: vec!["no shutdown was rehearsed yet".into()],
        }))
    }

    async fn disarm(&self, _: Request<v1::DisarmRequest>) -> Answered<v1::DisarmResponse> {
        self.admit_as(v1::Role::Admin)?;
        Ok(Response::new(v1::DisarmResponse { was_armed: true, active: vec!["shutdown-3".into()] }))
    }
}

#[tonic::async_trait]
impl Leases for Script {
    async fn list(&self, _: Request<v1::ListLeasesRequest>) -> Answered<v1::ListLeasesResponse> {
        Ok(Response::new(lease::leases()))
    }

    async fn renew(&self, request: Request<v1::RenewLeaseRequest>) -> Answered<v1::LeaseResponse> {
        let request = request.into_inner();
        if request.execute {
            self.admit_as(v1::Role::Maintenance)?;
        }
        let span = request.span.map_or_else(|| "as configured".to_owned(), |span| format!("for {} s", span.seconds));
        Ok(Response::new(v1::LeaseResponse { done: format!("{} {span}, execute: {}", request.node, request.execute) }))
    }

    async fn release(&self, request: Request<v1::ReleaseLeaseRequest>) -> Answered<v1::LeaseResponse> {
        let request = request.into_inner();
        if request.execute {
            self.admit_as(v1::Role::Maintenance)?;
        }
        Ok(Response::new(v1::LeaseResponse { done: format!("{} released, execute: {}", request.node, request.execute) }))
    }
}

#[tonic::async_trait]
impl Runs for Script {
    type WatchStream = Stream<v1::RunEvent>;

    async fn list(&self, _: Request<v1::ListRunsRequest>) -> Answered<v1::ListRunsResponse> {
        Ok(Response::new(v1::ListRunsResponse { runs: sample::runs(), incomplete: String::new() }))
    }

    async fn get(&self, request: Request<v1::GetRunRequest>) -> Answered<v1::GetRunResponse> {
        let id = request.into_inner().id;
        let id = if id == "last" { "burn-17".to_owned() } else { id };
        let phase = if self.fault == Fault::Endless { v1::Phase::Running } else { self.ends_as };
        let known = HashMap::from([
            ("burn-17", sample::run("burn-17", phase)),
            ("image-3", sample::run("image-3", phase)),
            ("shutdown-3", shutdown::run(phase)),
        ]);
        match known.get(id.as_str()) {
            Some(run) => {
                Ok(Response::new(v1::GetRunResponse { run: Some(run.clone()), events: sample::events(), incomplete: String::new() }))
            }
            None => Err(Status::not_found(format!("there is no run {id}"))),
        }
    }

    async fn watch(&self, request: Request<v1::WatchRunRequest>) -> Answered<Self::WatchStream> {
        let v1::WatchRunRequest { id, from_seq } = request.into_inner();
        if !["burn-17", "image-3", "shutdown-3"].contains(&id.as_str()) {
            return Err(Status::not_found(format!("there is no run {id}")));
        }
        self.hear(|h| h.watches.push(from_seq));
        let (answers, queue) = mpsc::channel(4);
        let script = self.clone();
        tokio::spawn(async move {
            for event in sample::events().into_iter().filter(|e| e.seq == 0 || e.seq > from_seq) {
                let _ = answers.send(Ok(event)).await;
                if script.fault == Fault::BreakWatch && from_seq == 0 {
                    let _ = answers.send(Err(Status::unavailable("broken pipe"))).await;
                    return;
                }
            }
            if script.fault == Fault::Endless {
                answers.closed().await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }

    async fn cancel(&self, request: Request<v1::CancelRunRequest>) -> Answered<v1::CancelRunResponse> {
        let v1::CancelRunRequest { id, execute } = request.into_inner();
        let too_late = self.fault == Fault::Refuse;
        if id == "shutdown-3" {
            return Ok(Response::new(shutdown::cancel(execute, too_late)));
        }
        let consequences = if too_late { "the card is complete" } else { "the card has no partition table" };
        Ok(Response::new(v1::CancelRunResponse {
            consequences: vec![consequences.into()],
            cancelled: execute && !too_late,
            until: String::new(),
        }))
    }
}

#[tonic::async_trait]
impl v1::ups_server::Ups for Script {
    type WatchStream = Stream<v1::ListUpsResponse>;

    async fn list(&self, _: Request<v1::ListUpsRequest>) -> Answered<v1::ListUpsResponse> {
        Ok(Response::new(sample::power()))
    }

    async fn watch(&self, _: Request<v1::WatchUpsRequest>) -> Answered<Self::WatchStream> {
        let first = tokio_stream::iter([Ok(sample::power()), Ok(sample::power())]);
        Ok(Response::new(Box::pin(futures::StreamExt::chain(first, futures::stream::pending()))))
    }

    async fn history(&self, _: Request<v1::UpsHistoryRequest>) -> Answered<v1::UpsHistoryResponse> {
        Ok(Response::new(sample::history()))
    }
}

#[tonic::async_trait]
impl v1::status_server::Status for Script {
    type WatchStream = Stream<v1::GetStatusResponse>;

    async fn get(&self, _: Request<v1::GetStatusRequest>) -> Answered<v1::GetStatusResponse> {
        if self.fault == Fault::Mute {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(sample::status()))
    }

    async fn watch(&self, _: Request<v1::WatchStatusRequest>) -> Answered<Self::WatchStream> {
        let first = tokio_stream::iter([Ok(sample::status())]);
        Ok(Response::new(Box::pin(futures::StreamExt::chain(first, futures::stream::pending()))))
    }
}

/// Bytes of a file, for comparison.
pub fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
