//! Service Card.

use futures::stream::BoxStream;
use metis_proto::v1;
use metis_proto::v1::card_server::Card;
use metis_proto::v1::image_request::Message as FromCaller;
use metis_proto::v1::image_response::Message as ToCaller;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::authz::Admitted;
use super::port::{CardQuestion, Destination, ImageIn, ImageOut, ImagePipe, PlanError, Planned};
use super::{Context, Role, convert, errors, runs};
use crate::card::plan::Overrides;
use crate::control::{self, Reply};
use crate::site::{NodeName, RunId};

/// The service.
pub(super) struct CardService(pub(super) Context);

/// A refused or failed plan as a status.
pub(super) fn plan_status(error: PlanError) -> Status {
    match error {
        PlanError::NoSuchNode(message) => Status::not_found(message),
        PlanError::Refused(guards) => errors::refused(&guards),
        PlanError::Failed(message) => Status::internal(message),
    }
}

fn question(spec: Option<v1::CardSpec>, caller: &Admitted) -> Result<CardQuestion, Status> {
    let spec = spec.ok_or_else(|| Status::invalid_argument("spec is missing: which node?"))?;
    if spec.node.is_empty() {
        return Err(Status::invalid_argument("spec.node is missing: which node?"));
    }
    Ok(CardQuestion {
        node: NodeName::new(spec.node),
        overrides: Overrides {
            image: spec.image_override.into_iter().collect(),
            sha256: spec.sha256_override.into_iter().collect(),
            may_name_files: caller.role >= Some(Role::Admin),
        },
        no_inject: spec.no_inject,
    })
}

fn device(path: String, allow_fixed: bool) -> Result<Destination, Status> {
    if path.is_empty() {
        return Err(Status::invalid_argument("device is missing: `metisctl device` lists them"));
    }
    Ok(Destination::Device { path: path.into(), allow_fixed })
}

impl Context {
    async fn admit(&self, caller: &Admitted, planned: &Planned) -> Result<RunId, Status> {
        let asked = control::Request::admit(caller.caller.label(), planned.runbook.clone());
        match self.ask(asked).await? {
            Reply::Admitted { run } => Ok(run),
            Reply::Refused { guards } => Err(errors::refused(&guards)),
            other => Err(Status::internal(format!("unexpected answer to a request: {other:?}"))),
        }
    }
}

#[tonic::async_trait]
impl Card for CardService {
    async fn plan(&self, request: Request<v1::CardPlanRequest>) -> Result<Response<v1::CardPlanResponse>, Status> {
        let caller = Admitted::of(&request)?;
        let v1::CardPlanRequest { spec, device: path, allow_fixed } = request.into_inner();
        let planned = self.0.site.plan_card(question(spec, &caller)?, device(path, allow_fixed)?).await.map_err(plan_status)?;
        Ok(Response::new(v1::CardPlanResponse {
            plan: Some(convert::plan(&planned.runbook, None)),
            device: planned.device.as_ref().map(|d| convert::device(d, &planned.runbook.refusals)),
            card: Some(convert::planned_card(&planned)),
        }))
    }

    async fn burn(&self, request: Request<v1::BurnRequest>) -> Result<Response<v1::BurnResponse>, Status> {
        let caller = Admitted::of(&request)?;
        let v1::BurnRequest { spec, device: path, execute, allow_fixed } = request.into_inner();
        let (question, destination) = (question(spec, &caller)?, device(path.clone(), allow_fixed)?);
        if execute {
            self.0.audit(&caller, "Card.Burn", &format!("{} to {path}", question.node)).await?;
        }
        let planned = self.0.site.plan_card(question, destination).await.map_err(plan_status)?;
        let run = if execute { self.0.admit(&caller, &planned).await?.to_string() } else { String::new() };
        Ok(Response::new(v1::BurnResponse { run, plan: Some(convert::plan(&planned.runbook, None)) }))
    }

    type ImageStream = BoxStream<'static, Result<v1::ImageResponse, Status>>;

    async fn image(&self, request: Request<Streaming<v1::ImageRequest>>) -> Result<Response<Self::ImageStream>, Status> {
        let caller = Admitted::of(&request)?;
        let mut from_caller = request.into_inner();
        let Some(FromCaller::Start(start)) = from_caller.message().await?.and_then(|m| m.message) else {
            return Err(Status::invalid_argument("the first message of an image call is start"));
        };
        let v1::ImageStart { spec, execute, target, purpose } = start;
        let purpose = if purpose == "burn" { purpose } else { "image".to_owned() };
        let question = question(spec, &caller)?;
        if execute {
            self.0.audit(&caller, "Card.Image", &format!("{} to {target}", question.node)).await?;
        }
        let planned = self.0.site.plan_card(question, Destination::Caller { purpose, target }).await.map_err(plan_status)?;
        if !execute {
            let header = v1::ImageHeader {
                plan: Some(convert::plan(&planned.runbook, None)),
                card: Some(convert::planned_card(&planned)),
                ..v1::ImageHeader::default()
            };
            return Ok(Response::new(Box::pin(futures::stream::once(async move { Ok(response(ToCaller::Header(header))) }))));
        }
        let run = self.0.admit(&caller, &planned).await?;
        // Few and small, so that a slow caller slows the run down instead of filling memory.
        let (out, from_run) = mpsc::channel(4);
        let (to_run, back) = mpsc::channel(64);
        self.0.site.attach(&run, ImagePipe { out, back });
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(listen(self.0.clone(), run.clone(), caller.caller.label(), from_caller, to_run));
        tokio::spawn(serve(self.0.clone(), run, planned, from_run, sender));
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }

    async fn config(&self, request: Request<v1::CardConfigRequest>) -> Result<Response<v1::CardConfigResponse>, Status> {
        let caller = Admitted::of(&request)?;
        let value = self.0.site.card_config(question(request.into_inner().spec, &caller)?).await.map_err(plan_status)?;
        Ok(Response::new(v1::CardConfigResponse { json: value.to_string() }))
    }

    async fn devices(&self, _: Request<v1::ListDevicesRequest>) -> Result<Response<v1::ListDevicesResponse>, Status> {
        let devices = self.0.site.devices().await.map_err(plan_status)?;
        Ok(Response::new(v1::ListDevicesResponse { devices: devices.iter().map(|(d, g)| convert::device(d, g)).collect() }))
    }
}

fn response(message: ToCaller) -> v1::ImageResponse {
    v1::ImageResponse { message: Some(message) }
}

/// What the caller says goes to the run; his silence too.
async fn listen(context: Context, run: RunId, caller: String, mut from: Streaming<v1::ImageRequest>, to: mpsc::Sender<ImageIn>) {
    loop {
        let word = match from.message().await {
            Ok(Some(v1::ImageRequest { message: Some(FromCaller::Progress(p)) })) => {
                ImageIn::Progress { written: p.written_bytes, verified: p.verified_bytes }
            }
            Ok(Some(v1::ImageRequest { message: Some(FromCaller::Result(r)) })) => {
                if r.cancelled {
                    // Before the run hears of it: what ends after this has not failed.
                    let asked = control::Request::Cancel { requester: caller.clone(), run: run.clone(), execute: true };
                    let _ = context.ask(asked).await;
                }
                ImageIn::Result(if r.ok { Ok(()) } else { Err(r.error) })
            }
            Ok(Some(_)) => continue,
            Ok(None) | Err(_) => ImageIn::Gone,
        };
        let last = !matches!(word, ImageIn::Progress { .. });
        if to.send(word).await.is_err() || last {
            return;
        }
    }
}

type Sender = mpsc::Sender<Result<v1::ImageResponse, Status>>;

/// Everything that the run says goes to the caller, until the run has ended.
async fn serve(context: Context, run: RunId, planned: Planned, mut from_run: mpsc::Receiver<ImageOut>, to: Sender) {
    use futures::StreamExt as _;
    let mut events = runs::watch(context.clone(), run.clone(), 0);
    let mut streaming = true;
    loop {
        let message = tokio::select! {
            out = from_run.recv(), if streaming => {
                streaming = out.is_some();
                let Some(out) = out else { continue };
                image_message(&run, &planned, out)
            },
            event = events.next() => match event {
                Some(Ok(event)) => ToCaller::Event(event),
                Some(Err(status)) => { let _ = to.send(Err(status)).await; return }
                None => break,
            },
            () = to.closed() => return,
        };
        if to.send(Ok(response(message))).await.is_err() {
            return;
        }
    }
    let now = (context.now)();
    let ended = context.ended_run(&run).await;
    let end = ended.map(|record| response(ToCaller::End(v1::ImageEnd { run: Some(convert::run(&record, &now)) })));
    let _ = to.send(end).await;
}

fn image_message(run: &RunId, planned: &Planned, out: ImageOut) -> ToCaller {
    match out {
        ImageOut::Header { size, extents, card } => ToCaller::Header(v1::ImageHeader {
            run: run.to_string(),
            plan: Some(convert::plan(&planned.runbook, None)),
            size,
            extent_bytes: extents.iter().map(|e| e.len).sum(),
            card: Some(convert::finished_card(planned, &card)),
        }),
        ImageOut::Chunk { offset, data } => ToCaller::Chunk(v1::ImageChunk { offset, data }),
        ImageOut::Trailer { sha256 } => ToCaller::Trailer(v1::ImageTrailer { sha256 }),
    }
}
