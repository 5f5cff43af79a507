//! The conversation of `Card.Image`: the daemon streams an image, this client writes it and says what became of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use metis_proto::v1::card_client::CardClient;
use metis_proto::v1::image_response::Message;
use metis_proto::v1::{self, image_request};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Interval;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::errors::CtlError;
use crate::exit::Exit;
use crate::follow::{self, Follow};
use crate::human::{self, Look};
use crate::image_file::{Purpose, part};
use crate::interrupt::Interrupts;
use crate::output::Console;
use crate::progress::Meter;
use crate::session::Session;
use crate::target;
use crate::view::card::{CardPlanView, CardView};
use crate::view::plan::PlanView;
use crate::view::run::{self, RunView};
use crate::writer::{Failure, Writer};

/// Chunks are far smaller; a daemon that sends more is broken.
const MESSAGE_BYTES: usize = 16 << 20;
const TICK: Duration = Duration::from_millis(500);
/// How long a cancelled or failed run may take to be closed before this client goes.
const FAREWELL: Duration = Duration::from_secs(5);

/// What is wanted.
pub struct Order<'a> {
    /// The card.
    pub spec: v1::CardSpec,
    /// What the file is for.
    pub purpose: Purpose,
    /// The file.
    pub path: &'a Path,
}

/// Answer of `image --execute`, and of `burn --yes` to a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImageDoneView {
    /// The file.
    pub file: PathBuf,
    /// Size of the image.
    pub size_bytes: u64,
    /// Bytes written and read back.
    pub written_bytes: u64,
    /// SHA-256, hex, of the written bytes in ascending order.
    pub sha256: String,
    /// What was injected.
    pub card: Option<CardView>,
    /// The run; null where the daemon went away after the file was complete.
    pub run: Option<RunView>,
}

impl ImageDoneView {
    /// What is on it, and two lines.
    pub fn table(&self, look: &Look) -> String {
        let card = self.card.as_ref().map(|card| card.table(look) + "\n").unwrap_or_default();
        let Self { file, size_bytes, written_bytes, .. } = self;
        let (size, written) = (human::bytes(*size_bytes), human::bytes(*written_bytes));
        let line = format!("{}: {size}, of which {written} in use were written and read back", file.display());
        match &self.run {
            Some(run) => format!("{card}{line}\n{}", run.outcome()),
            None => card + &line,
        }
    }
}

impl Order<'_> {
    fn start(&self, execute: bool) -> v1::ImageRequest {
        let target = std::path::absolute(self.path).unwrap_or_else(|_| self.path.to_owned());
        let start = v1::ImageStart {
            spec: Some(self.spec.clone()),
            execute,
            target: target.display().to_string(),
            purpose: self.verb().to_owned(),
        };
        v1::ImageRequest { message: Some(image_request::Message::Start(start)) }
    }

    /// "image titan-13", for messages.
    fn what(&self) -> String {
        format!("{} {}", self.verb(), self.spec.node)
    }

    fn verb(&self) -> &'static str {
        match self.purpose {
            Purpose::Image => "image",
            Purpose::Card => "burn",
        }
    }
}

/// What would be done.
pub async fn dry_run(session: &Session, order: &Order<'_>) -> Result<CardPlanView, CtlError> {
    let requests = tokio_stream::iter([order.start(false)]);
    let mut client = client(session);
    let asked = async {
        let mut answers = client.image(requests).await?.into_inner();
        while let Some(answer) = answers.message().await? {
            if let Some(Message::Header(header)) = answer.message {
                return Ok(tonic::Response::new(header));
            }
        }
        Err(Status::internal("the plan did not come"))
    };
    let header = session.call(&order.what(), asked).await?;
    let mut plan = PlanView::from(header.plan.unwrap_or_default());
    if order.purpose == Purpose::Card {
        plan.refusals.extend(target::file_guards(order.path, header.size)?);
    }
    Ok(CardPlanView { dry_run: true, plan, device: None, card: header.card.map(Into::into) })
}

/// Writes the file; returns what was made and the exit code.
pub async fn execute(session: &Session, order: &Order<'_>, console: &mut Console<'_>) -> Result<(ImageDoneView, Exit), CtlError> {
    let mut interrupts = Interrupts::listen()?;
    let (requests, queue) = mpsc::channel(16);
    let _ = requests.send(order.start(true)).await;
    let mut client = client(session);
    let answers = tokio::select! {
        () = interrupts.next() => return Err(CtlError::Interrupted("cancelled before anything was written".into())),
        opened = client.image(ReceiverStream::new(queue)) => opened.map_err(|s| CtlError::rpc(&order.what(), s))?.into_inner(),
    };
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let meter = Meter::new(console);
    let mut transfer = Transfer { order, answers, requests, interrupts, tick, meter, header: None, writer: None };
    let received = transfer.receive(console).await;
    transfer.meter.clear();
    match received {
        Ok((file, sha256)) => transfer.close(session, file, sha256, console).await,
        Err(stop) => Err(transfer.stop(stop, console).await),
    }
}

fn client(session: &Session) -> CardClient<tonic::transport::Channel> {
    CardClient::new(session.channel.clone()).max_decoding_message_size(MESSAGE_BYTES)
}

/// Why the transfer ends early.
enum Stop {
    /// Ctrl-C.
    Cancelled,
    /// The daemon broke off, or refused.
    Daemon(Status),
    /// This side failed; the thread has cleaned up.
    Writer(Failure),
}

struct Transfer<'a> {
    order: &'a Order<'a>,
    answers: Streaming<v1::ImageResponse>,
    requests: mpsc::Sender<v1::ImageRequest>,
    interrupts: Interrupts,
    tick: Interval,
    meter: Meter,
    header: Option<v1::ImageHeader>,
    writer: Option<Writer>,
}

impl Transfer<'_> {
    /// Until the file is complete.
    async fn receive(&mut self, console: &mut Console<'_>) -> Result<(PathBuf, String), Stop> {
        loop {
            let message = tokio::select! {
                biased;
                () = self.interrupts.next() => return Err(Stop::Cancelled),
                message = self.answers.message() => message.map_err(Stop::Daemon)?,
                _ = self.tick.tick() => {
                    self.report(console);
                    continue;
                }
            };
            let Some(message) = message else { return Err(Stop::Daemon(Status::unavailable("the stream ended early"))) };
            match message.message {
                Some(Message::Event(event)) => {
                    follow::show(event, false, &mut self.meter, console).map_err(ours)?;
                }
                Some(Message::Header(header)) => self.begin(header, console),
                Some(Message::Chunk(chunk)) => self.piece(chunk).await?,
                Some(Message::Trailer(trailer)) => return self.finish(trailer.sha256, console).await,
                Some(Message::End(end)) => return Err(Stop::Daemon(ended_early(end))),
                None => (),
            }
        }
    }

    fn begin(&mut self, header: v1::ImageHeader, console: &mut Console<'_>) {
        let again = if header.run.is_empty() { String::new() } else { format!("{}: ", header.run) };
        let title = header.plan.as_ref().map(|p| p.title.clone()).unwrap_or_default();
        self.meter.aside(|| console.note(&format!("{again}{title}")));
        self.writer = Some(Writer::start(self.order.path, self.order.purpose, header.size, header.extent_bytes));
        self.header = Some(header);
    }

    async fn piece(&mut self, chunk: v1::ImageChunk) -> Result<(), Stop> {
        let Some(writer) = &mut self.writer else { return Err(Stop::Daemon(Status::internal("a chunk came before the header"))) };
        let taken = tokio::select! {
            biased;
            () = self.interrupts.next() => return Err(Stop::Cancelled),
            taken = writer.piece(chunk.offset, chunk.data) => taken,
        };
        if taken { Ok(()) } else { Err(writer_failed(writer.ended().await)) }
    }

    async fn finish(&mut self, sha256: String, console: &mut Console<'_>) -> Result<(PathBuf, String), Stop> {
        let Some(writer) = &mut self.writer else { return Err(Stop::Daemon(Status::internal("the trailer came before the header"))) };
        // A full queue drains at the pace of the disk.
        tokio::select! {
            biased;
            () = self.interrupts.next() => return Err(Stop::Cancelled),
            _ = writer.finish(sha256.clone()) => (),
        }
        loop {
            let Some(writer) = &mut self.writer else { return Err(Stop::Cancelled) };
            tokio::select! {
                biased;
                () = self.interrupts.next() => return Err(Stop::Cancelled),
                ended = writer.ended() => {
                    self.report(console);
                    return ended.map(|file| (file, sha256)).map_err(Stop::Writer);
                }
                _ = self.tick.tick() => self.report(console),
            }
        }
    }

    /// Shows and tells the daemon how far the medium is.
    fn report(&mut self, console: &mut Console<'_>) {
        let (Some(writer), Some(header)) = (&self.writer, &self.header) else { return };
        let done = writer.done();
        let (stage, bytes) = if done.verified > 0 { ("verify", done.verified) } else { ("write", done.written) };
        self.meter.update(console, stage, bytes, header.extent_bytes);
        let progress = v1::ImageProgress { written_bytes: done.written, verified_bytes: done.verified };
        // A daemon that is slow to listen misses one; the next tells it all.
        let _ = self.requests.try_send(v1::ImageRequest { message: Some(image_request::Message::Progress(progress)) });
    }

    /// The file is complete: the run is closed.
    async fn close(
        mut self,
        session: &Session,
        file: PathBuf,
        sha256: String,
        console: &mut Console<'_>,
    ) -> Result<(ImageDoneView, Exit), CtlError> {
        let last = async {
            tell(&self.requests, v1::ImageResult { ok: true, ..Default::default() }).await;
            end(&mut self.answers).await
        };
        let run = tokio::select! {
            () = self.interrupts.next() => None,
            run = tokio::time::timeout(session.timeout, last) => run.ok().flatten(),
        };
        let header = self.header.unwrap_or_default();
        let ended = match run.as_ref().and_then(|r| Some((r, run::exit(r.phase)?))) {
            Some((run, exit)) => Some((run.clone().into(), exit)),
            // The last fact of the run may still be on its way to the journal.
            None => Follow::new(session, &header.run, run.map_or(0, |r| r.seq), None).until_ended(&mut self.interrupts, console).await.ok(),
        };
        if ended.is_none() {
            console.note("the file is complete and verified, but metisd did not say that it recorded it");
        }
        let (run, exit) = ended.map_or((None, Exit::Degraded), |(run, exit)| (Some(run), exit));
        let card = header.card.map(CardView::from);
        let view = ImageDoneView { file, size_bytes: header.size, written_bytes: header.extent_bytes, sha256, card, run };
        Ok((view, exit))
    }

    /// Cleans up, tells the daemon, and says what became of the file.
    async fn stop(&mut self, stop: Stop, console: &mut Console<'_>) -> CtlError {
        let cancelled = matches!(stop, Stop::Cancelled);
        let failure = match stop {
            Stop::Writer(failure) => failure,
            Stop::Cancelled => {
                console.note("cancelling; Ctrl-C again leaves at once");
                let Some(remains) = self.clean_up().await else { return self.forced() };
                Failure { error: CtlError::Interrupted("cancelled by Ctrl-C".into()), remains }
            }
            Stop::Daemon(status) => {
                let Some(remains) = self.clean_up().await else { return self.forced() };
                let error = broken(&self.order.what(), status);
                return with_remains(error, &remains);
            }
        };
        self.farewell(v1::ImageResult { ok: false, error: failure.error.to_string(), cancelled }).await;
        with_remains(failure.error, &failure.remains)
    }

    /// Tells the daemon and hears it close the run, unless that takes long or Ctrl-C comes (again).
    async fn farewell(&mut self, result: v1::ImageResult) {
        let requests = self.requests.clone();
        let interrupts = &mut self.interrupts;
        let answers = &mut self.answers;
        tokio::select! {
            () = interrupts.next() => (),
            () = tokio::time::sleep(FAREWELL) => (),
            () = async { tell(&requests, result).await; end(answers).await; } => (),
        }
    }

    /// What became of the file; `None` after another Ctrl-C.
    async fn clean_up(&mut self) -> Option<String> {
        let Some(writer) = &mut self.writer else { return Some(String::new()) };
        tokio::select! {
            biased;
            () = self.interrupts.next() => None,
            ended = writer.give_up() => Some(match ended {
                Ok(file) => format!("{} is complete all the same", file.display()),
                Err(failure) => failure.remains,
            }),
        }
    }

    fn forced(&self) -> CtlError {
        let path = self.order.path;
        CtlError::Interrupted(match self.order.purpose {
            Purpose::Image => {
                let _ = std::fs::remove_file(part(path));
                format!("left at once; {} was not made", path.display())
            }
            Purpose::Card => format!("left at once; {} is not a valid card: write it again", path.display()),
        })
    }
}

async fn tell(requests: &mpsc::Sender<v1::ImageRequest>, result: v1::ImageResult) {
    let _ = requests.send(v1::ImageRequest { message: Some(image_request::Message::Result(result)) }).await;
}

/// The daemon's last word.
async fn end(answers: &mut Streaming<v1::ImageResponse>) -> Option<v1::Run> {
    while let Ok(Some(answer)) = answers.message().await {
        if let Some(Message::End(end)) = answer.message {
            return end.run;
        }
    }
    None
}

fn ours(error: CtlError) -> Stop {
    Stop::Writer(Failure { error, remains: String::new() })
}

fn writer_failed(ended: Result<PathBuf, Failure>) -> Stop {
    match ended {
        Err(failure) => Stop::Writer(failure),
        Ok(file) => ours(CtlError::Other(anyhow::anyhow!("{} was finished before its last bytes came", file.display()))),
    }
}

fn ended_early(end: v1::ImageEnd) -> Status {
    Status::aborted(end.run.map_or_else(|| "the run ended early".to_owned(), |r| RunView::from(r).outcome()))
}

/// A stream that breaks is a failure of this command, not an unreachable daemon.
fn broken(what: &str, status: Status) -> CtlError {
    match status.code() {
        tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Internal | tonic::Code::Cancelled => {
            CtlError::Other(anyhow::anyhow!(
                "{what}: metisd broke off while it streamed the image ({}); look at `systemctl status metisd`",
                status.message()
            ))
        }
        _ => CtlError::rpc(what, status),
    }
}

fn with_remains(error: CtlError, remains: &str) -> CtlError {
    if remains.is_empty() {
        return error;
    }
    match error {
        CtlError::Interrupted(text) => CtlError::Interrupted(format!("{text}: {remains}")),
        error if error.exit() == Exit::Failed => CtlError::Other(anyhow::anyhow!("{error}\n  {remains}")),
        error => error,
    }
}
