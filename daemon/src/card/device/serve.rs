//! The card writer: what `metisd card-writer` runs on its socket.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;

use super::super::Extent;
use super::chunk::{Chunk, chunks};
use super::fault::{Fault, FaultKind};
use super::guard::Want;
use super::link::Link;
use super::list::Roots;
use super::medium::{Guarded, OpenError, open};
use super::protocol::{Begin, Frame, Reply, Request, VERSION, invalid, read_control, read_frame, write_control};
use super::write::{Burn, Watch};

/// Serves one burn on a connected stream socket: for `metisd card-writer` that is file descriptor 0, given by the daemon that started
/// it or by systemd (`Accept=yes`, `StandardInput=socket`). It runs its own guards: the daemon is not believed.
pub fn serve(socket: OwnedFd) -> ExitCode {
    let opener = |begin: &Begin| open(&Roots::host(), &begin.device, &want(begin));
    match serve_on(UnixStream::from(socket), &opener, &|milestone| tracing::info!(?milestone, "card")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("card-writer: {error} (it is started by metisd or by the unit of its socket)");
            ExitCode::FAILURE
        }
    }
}

fn want(begin: &Begin) -> Want {
    Want { size: begin.size, allow_fixed: begin.allow_fixed, diskseq: begin.diskseq }
}

/// How the target is found and opened.
pub(super) type Opener<'a> = &'a dyn Fn(&Begin) -> Result<Guarded, OpenError>;

/// As [`serve`], with another way to open the target. An error: the other end did not even begin.
pub(super) fn serve_on(mut socket: UnixStream, opener: Opener<'_>, watch: Watch<'_>) -> io::Result<()> {
    let begin = match read_frame(&mut socket)? {
        // A connection that is closed at once asks whether anybody listens.
        None => return Ok(()),
        Some(Frame::Control(len)) => match read_control(&mut socket, len)? {
            Request::Begin(begin) => begin,
            Request::Abort => return Ok(()),
        },
        Some(Frame::Data { .. }) => return Err(invalid("data before the beginning".to_owned())),
    };
    let opened = prepare(&begin).and_then(|chunks| Ok((chunks, opener(&begin)?)));
    let reply = match opened {
        Ok((chunks, target)) => return burn(socket, chunks, &target, watch),
        Err(OpenError::Refused(guards)) => Reply::Refused { guards },
        Err(OpenError::Fault(fault)) => Reply::Failed(fault),
    };
    write_control(&mut socket, &reply)
}

/// Everything that can be wrong with the request itself.
fn prepare(begin: &Begin) -> Result<Arc<[Chunk]>, OpenError> {
    if begin.version != VERSION {
        let message = format!("the card writer speaks version {VERSION}, the daemon {}; restart metisd after an upgrade", begin.version);
        return Err(Fault::new(FaultKind::Protocol, message).into());
    }
    let extents: Vec<_> = begin.extents.iter().map(|(offset, len)| Extent { offset: *offset, len: *len }).collect();
    let chunks = chunks(&extents, begin.size).map_err(|error| Fault::new(FaultKind::Protocol, error.to_string()))?;
    Ok(chunks.into())
}

fn burn(socket: UnixStream, chunks: Arc<[Chunk]>, target: &Guarded, watch: Watch<'_>) -> io::Result<()> {
    let (device, serial) = (target.medium.path.clone(), target.device.serial.clone());
    tracing::info!(device = %device.display(), serial, "writing a card");
    let link = Link::start(socket, Arc::clone(&chunks))?;
    link.send(&Reply::Ready { device, serial });
    let reply = match Burn::new(target, &chunks, &link, watch).run() {
        Ok(summary) => {
            tracing::info!(bytes = summary.bytes, write_ms = summary.write_ms, verify_ms = summary.verify_ms, "card written and read back");
            Reply::Done(summary)
        }
        Err(fault) => {
            tracing::error!("{fault}");
            Reply::Failed(fault)
        }
    };
    link.send(&reply);
    Ok(())
}
