//! The card writer's end of the socket. One thread reads it all the time, so that an abort or the daemon's end is noticed whatever
//! the device is doing; chunks wait in a bounded pool of aligned buffers.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::chunk::{CHUNK, Chunk};
use super::fault::{Fault, FaultKind};
use super::medium::Buffer;
use super::protocol::{Frame, Reply, Request, invalid, read_control, read_frame, write_control};

/// Buffers between socket and device.
const BUFFERS: usize = 8;

/// A chunk's bytes, not yet written.
#[derive(Debug)]
pub(super) struct Filled {
    pub index: usize,
    pub buffer: Buffer,
}

/// Both directions.
pub(super) struct Link {
    out: Mutex<UnixStream>,
    filled: Mutex<Receiver<Filled>>,
    empty: SyncSender<Buffer>,
    stop: Arc<OnceLock<Fault>>,
    reader: Option<JoinHandle<()>>,
}

impl Link {
    /// Starts to read `socket`.
    pub fn start(socket: UnixStream, chunks: Arc<[Chunk]>) -> io::Result<Self> {
        let (empty, pool) = sync_channel(BUFFERS);
        let (full, filled) = sync_channel(BUFFERS);
        let stop = Arc::new(OnceLock::new());
        let from = socket.try_clone()?;
        let reader = Reader { from, chunks, pool, full, made: 0, stop: Arc::clone(&stop) };
        let reader = std::thread::Builder::new().name("card-link".to_owned()).spawn(move || reader.run())?;
        Ok(Self { out: Mutex::new(socket), filled: Mutex::new(filled), empty, stop, reader: Some(reader) })
    }

    /// The next chunk; `None`: not within `wait`.
    pub fn next(&self, wait: Duration) -> Option<Filled> {
        match self.filled.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(wait) {
            Ok(filled) => Some(filled),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                let _ = self.stop.set(went_away());
                None
            }
        }
    }

    /// Gives a buffer back for the next chunk.
    pub fn recycle(&self, buffer: Buffer) {
        // The reader is gone once the socket is closed; then nobody needs it.
        let _ = self.empty.try_send(buffer);
    }

    /// Why to stop, once there is a reason.
    pub fn stopped(&self) -> Option<Fault> {
        self.stop.get().cloned()
    }

    /// Says something to the daemon.
    pub fn send(&self, reply: &Reply) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if write_control(&mut *out, reply).is_err() {
            let _ = self.stop.set(went_away());
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = self.out.lock().unwrap_or_else(PoisonError::into_inner).shutdown(Shutdown::Both);
        // A reader that waits for a buffer ends with its sender.
        let (closed, _) = sync_channel(0);
        self.empty = closed;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

enum Heard {
    Chunk,
    Abort,
    End,
}

struct Reader {
    from: UnixStream,
    chunks: Arc<[Chunk]>,
    pool: Receiver<Buffer>,
    full: SyncSender<Filled>,
    made: usize,
    stop: Arc<OnceLock<Fault>>,
}

impl Reader {
    fn run(mut self) {
        let fault = loop {
            match self.frame() {
                Ok(Heard::Chunk) => {}
                Ok(Heard::Abort) => break Fault::new(FaultKind::Aborted, "stopped on request"),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => break Fault::new(FaultKind::Protocol, error.to_string()),
                Ok(Heard::End) | Err(_) => break went_away(),
            }
        };
        let _ = self.stop.set(fault);
    }

    fn frame(&mut self) -> io::Result<Heard> {
        match read_frame(&mut self.from)? {
            None => Ok(Heard::End),
            Some(Frame::Control(len)) => match read_control(&mut self.from, len)? {
                Request::Abort => Ok(Heard::Abort),
                Request::Begin(_) => Err(invalid("a second begin".to_owned())),
            },
            Some(Frame::Data { index, len }) => {
                if self.chunks.get(index).is_none_or(|chunk| chunk.len != len) {
                    return Err(invalid(format!("chunk {index} of {len} bytes is not on the list")));
                }
                let Some(mut buffer) = self.buffer() else { return Ok(Heard::End) };
                self.from.read_exact(buffer.bytes_mut(len))?;
                Ok(if self.full.send(Filled { index, buffer }).is_ok() { Heard::Chunk } else { Heard::End })
            }
        }
    }

    fn buffer(&mut self) -> Option<Buffer> {
        if let Ok(buffer) = self.pool.try_recv() {
            return Some(buffer);
        }
        if self.made < BUFFERS {
            self.made += 1;
            return Some(Buffer::new(CHUNK as usize));
        }
        self.pool.recv().ok()
    }
}

fn went_away() -> Fault {
    Fault::new(FaultKind::Aborted, "the daemon went away")
}
