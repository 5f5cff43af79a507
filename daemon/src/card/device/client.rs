//! The daemon's end: starts or connects to the card writer, feeds it the card and hears how far it is.

use std::ffi::OsString;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::{Prepared, Settings};
use super::chunk::{BadExtents, chunks, coalesce};
use super::fault::{Fault, FaultKind};
use super::feed::Feeder;
use super::protocol::{Begin, Frame, Milestone, Reply, Request, Summary, VERSION, invalid, read_control, read_frame};
use crate::site::{Guard, Progress};

/// A card that erases for minutes is dead; the kernel itself gives up earlier.
const STALL: Duration = Duration::from_mins(4);
/// How long a stopped writer may take to clear the card.
const GRACE: Duration = Duration::from_secs(30);

/// Where the card writer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Writer {
    /// A unit of its own behind this socket.
    Socket(PathBuf),
    /// A child process of the daemon, with its socket as standard input.
    Child {
        /// Normally this very program.
        program: PathBuf,
        /// Normally `card-writer`.
        args: Vec<OsString>,
    },
}

impl Writer {
    /// `card.writer_socket`; without it a child. `/proc/self/exe` is this program even where a newer one has taken its place.
    pub fn new(settings: &Settings) -> Self {
        match &settings.writer_socket {
            Some(socket) => Self::Socket(socket.clone()),
            None => Self::Child { program: "/proc/self/exe".into(), args: vec!["card-writer".into()] },
        }
    }
}

/// What to write to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As the caller named it; the writer opens what its own guards find behind it.
    pub device: PathBuf,
    /// `diskseq` when it was planned; 0: not compared.
    pub diskseq: u64,
    /// Waives the guards against devices that are no cards.
    pub allow_fixed: bool,
}

/// What happens during a burn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The device is open exclusively; from here on its old content is lost.
    Ready {
        /// e.g. `/dev/sdz`.
        device: PathBuf,
        /// Serial number or CID; may be empty.
        serial: String,
    },
    /// Stages `write` and `verify`, in bytes that are on the medium or were read back from it.
    Progress(Progress),
    /// A stage is over.
    Milestone(Milestone),
}

/// Why there is no finished card.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The device may not be written; nothing was.
    #[error("refused: {}", .0.iter().map(|guard| guard.message.as_str()).collect::<Vec<_>>().join("; "))]
    Refused(Vec<Guard>),
    /// The writer gave up.
    #[error("{0}")]
    Fault(Fault),
    /// The writer ended without a word.
    #[error("the card writer died ({how}); {card}; see `journalctl -u metisd -u 'metis-card-writer*'` and burn again")]
    Died {
        /// Exit status or signal, where it is known.
        how: String,
        /// What became of the card.
        card: &'static str,
    },
    /// The writer could not be started or reached.
    #[error("cannot reach the card writer {place}: {error}; is metis-card-writer.socket active?")]
    Unreachable {
        /// Socket or program.
        place: String,
        /// Why.
        error: io::Error,
    },
    /// The prepared card could not be read.
    #[error("reading the prepared card at offset {offset}: {error}; fetch the image again")]
    Source {
        /// Byte of the image.
        offset: u64,
        /// Why.
        error: io::Error,
    },
    /// Nothing was heard from the writer for four minutes.
    #[error("the card writer reported nothing for {} s: the device does not answer; pull it out", STALL.as_secs())]
    Stalled,
    /// The writer does not keep to the protocol.
    #[error("the card writer does not keep to the protocol: {0}; restart metisd after an upgrade")]
    Protocol(io::Error),
    /// The card as prepared makes no sense.
    #[error("the prepared card cannot be written: {0}")]
    Extents(String),
    /// Stopped on request.
    #[error("cancelled: {0}")]
    Cancelled(String),
}

impl From<BadExtents> for WriteError {
    fn from(error: BadExtents) -> Self {
        Self::Extents(error.to_string())
    }
}

/// Writes `card` to `target` and reads it back; returns when the card is finished, or cleared of any partition table.
///
/// Cancelling asks the writer to stop and clear the card. Dropping the future hangs up, to the same end.
///
/// # Errors
/// [`WriteError`]; it says where the card may have been left with more than a cleared partition table.
pub async fn write(
    writer: &Writer,
    card: &Prepared,
    target: &Target,
    cancel: CancellationToken,
    on_event: impl FnMut(Event) + Send + 'static,
) -> Result<Summary, WriteError> {
    let extents = coalesce(card.extents());
    let chunks = chunks(&extents, card.size())?;
    let begin = Begin {
        version: VERSION,
        device: target.device.clone(),
        diskseq: target.diskseq,
        allow_fixed: target.allow_fixed,
        size: card.size(),
        extents: extents.iter().map(|extent| (extent.offset, extent.len)).collect(),
    };
    let place = writer.clone();
    let connection = tokio::task::spawn_blocking(move || connect(&place)).await.map_err(|error| died(error.to_string()))??;
    let hangup = Hangup(connection.socket.try_clone().map_err(WriteError::Protocol)?);
    let feeder = Feeder::start(&connection.socket, card.data(), chunks.into()).map_err(WriteError::Protocol)?;
    let stop = feeder.stopper();
    let mut session = tokio::task::spawn_blocking(move || Session { connection, feeder, reached: None, on_event }.run(&begin));
    let result = tokio::select! {
        result = &mut session => result,
        () = cancel.cancelled() => {
            stop.stop();
            if let Ok(result) = tokio::time::timeout(GRACE, &mut session).await {
                result
            } else {
                drop(hangup);
                session.await
            }
        }
    };
    let result = result.unwrap_or_else(|error| Err(died(format!("its client failed: {error}"))));
    match result {
        Err(WriteError::Fault(Fault { kind: FaultKind::Aborted, message, .. })) if cancel.is_cancelled() => {
            Err(WriteError::Cancelled(message))
        }
        Err(WriteError::Died { how, card }) if cancel.is_cancelled() => {
            Err(WriteError::Cancelled(format!("the card writer did not confirm it ({how}); {card}")))
        }
        result => result,
    }
}

/// Before anything was heard from the writer.
fn died(how: String) -> WriteError {
    WriteError::Died { how, card: "the card was not touched or has no partition table" }
}

/// Hangs up when dropped: a writer that hears nothing more clears the card.
struct Hangup(UnixStream);

impl Drop for Hangup {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

struct Connection {
    socket: UnixStream,
    /// How a child ended.
    ended: Option<Receiver<io::Result<ExitStatus>>>,
}

impl Connection {
    /// For the message about a writer that ended without a word.
    fn how_it_ended(&self) -> String {
        match self.ended.as_ref().map(|ended| ended.recv_timeout(Duration::from_secs(2))) {
            Some(Ok(Ok(status))) => status.to_string(),
            Some(Ok(Err(error))) => error.to_string(),
            Some(Err(RecvTimeoutError::Timeout)) => "it closed its socket and still runs".to_owned(),
            Some(Err(RecvTimeoutError::Disconnected)) | None => "its socket was closed".to_owned(),
        }
    }
}

fn connect(writer: &Writer) -> Result<Connection, WriteError> {
    match writer {
        Writer::Socket(path) => {
            let socket = UnixStream::connect(path);
            let socket = socket.map_err(|error| WriteError::Unreachable { place: path.display().to_string(), error })?;
            Ok(Connection { socket, ended: None })
        }
        Writer::Child { program, args } => {
            spawn(program, args).map_err(|error| WriteError::Unreachable { place: program.display().to_string(), error })
        }
    }
}

fn spawn(program: &PathBuf, args: &[OsString]) -> io::Result<Connection> {
    let (ours, theirs) = UnixStream::pair()?;
    #[allow(clippy::disallowed_methods, reason = "the adapter that starts the card writer")]
    let mut command = Command::new(program);
    // A group of its own: an interrupt from the terminal is for the daemon, which then asks the writer to stop.
    command.args(args).process_group(0).stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
    let mut child = command.spawn()?;
    let (tell, ended) = channel();
    // Waits as long as the kernel holds the child, which nobody can cut short.
    thread::Builder::new().name("card-writer-wait".to_owned()).spawn(move || {
        let status = child.wait();
        if let Ok(status) = &status {
            tracing::info!(%status, "card writer ended");
        }
        let _ = tell.send(status);
    })?;
    Ok(Connection { socket: ours, ended: Some(ended) })
}

struct Session<F> {
    connection: Connection,
    feeder: Feeder,
    reached: Option<Milestone>,
    on_event: F,
}

impl<F: FnMut(Event)> Session<F> {
    fn run(mut self, begin: &Begin) -> Result<Summary, WriteError> {
        let result = self.converse(begin);
        let _ = self.connection.socket.shutdown(Shutdown::Both);
        // What the source failed with is the cause of all that the writer then says.
        match self.feeder.finish() {
            Some((offset, error)) => Err(WriteError::Source { offset, error }),
            None => result,
        }
    }

    fn converse(&mut self, begin: &Begin) -> Result<Summary, WriteError> {
        let socket = &mut self.connection.socket;
        socket.set_read_timeout(Some(STALL)).map_err(WriteError::Protocol)?;
        self.feeder.begin(Request::Begin(begin.clone()));
        loop {
            match next(&mut self.connection.socket) {
                Ok(Some(reply)) => {
                    if let Some(end) = self.hear(reply) {
                        return end;
                    }
                }
                Ok(None) => return Err(self.died()),
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    fn hear(&mut self, reply: Reply) -> Option<Result<Summary, WriteError>> {
        match reply {
            Reply::Ready { device, serial } => (self.on_event)(Event::Ready { device, serial }),
            Reply::Send { from, to } => {
                if !self.feeder.send(from, to) {
                    return Some(Err(WriteError::Protocol(invalid(format!("the writer asks for chunks {from}..{to}")))));
                }
            }
            Reply::Progress { written, verified, total } => {
                let (stage, done) = if written < total && verified == 0 { ("write", written) } else { ("verify", verified) };
                (self.on_event)(Event::Progress(Progress { stage, done, total }));
            }
            Reply::Milestone(milestone) => {
                self.reached = Some(milestone);
                (self.on_event)(Event::Milestone(milestone));
            }
            Reply::Refused { guards } => return Some(Err(WriteError::Refused(guards))),
            Reply::Done(summary) => return Some(Ok(summary)),
            Reply::Failed(fault) => return Some(Err(WriteError::Fault(fault))),
        }
        None
    }

    /// Once the body is verified, the table may have been on its way.
    fn died(&self) -> WriteError {
        let card = match self.reached {
            Some(Milestone::BodyVerified | Milestone::TableWritten) => "do not use the card: its last step was not confirmed",
            _ => "the card has no partition table",
        };
        WriteError::Died { how: self.connection.how_it_ended(), card }
    }

    fn broken(&self, error: io::Error) -> WriteError {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => WriteError::Stalled,
            io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => self.died(),
            _ => WriteError::Protocol(error),
        }
    }
}

fn next(socket: &mut UnixStream) -> io::Result<Option<Reply>> {
    match read_frame(socket)? {
        None => Ok(None),
        Some(Frame::Control(len)) => read_control(socket, len).map(Some),
        Some(Frame::Data { .. }) => Err(invalid("data from the writer".to_owned())),
    }
}
