//! Sends what the card writer asks for: one thread reads (and decodes) the card ahead, one writes to the socket.

use std::io;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use super::super::ReadAt;
use super::chunk::Chunk;
use super::protocol::{Request, write_control, write_data};

/// Chunks read ahead of the socket.
const AHEAD: usize = 4;

enum Order {
    Begin(Request),
    Send(Range<usize>),
    Stop,
}

/// The daemon's sending side.
pub(super) struct Feeder {
    orders: Sender<Order>,
    stop: Arc<AtomicBool>,
    failed: Arc<OnceLock<(u64, io::Error)>>,
    chunks: usize,
    thread: JoinHandle<()>,
}

/// Stops a [`Feeder`] from elsewhere.
pub(super) struct Stopper {
    orders: Sender<Order>,
    stop: Arc<AtomicBool>,
}

impl Stopper {
    /// Asks the writer to abort, after the chunk that is under way.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.orders.send(Order::Stop);
    }
}

impl Feeder {
    pub fn start(socket: &UnixStream, data: &Arc<dyn ReadAt>, chunks: Arc<[Chunk]>) -> io::Result<Self> {
        let (orders, queue) = channel();
        let (stop, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(OnceLock::new()));
        let count = chunks.len();
        let feed =
            Feed { socket: socket.try_clone()?, data: Arc::clone(data), chunks, stop: Arc::clone(&stop), failed: Arc::clone(&failed) };
        let thread = thread::Builder::new().name("card-feed".to_owned()).spawn(move || feed.run(&queue))?;
        Ok(Self { orders, stop, failed, chunks: count, thread })
    }

    pub fn stopper(&self) -> Stopper {
        Stopper { orders: self.orders.clone(), stop: Arc::clone(&self.stop) }
    }

    /// Sends the first frame.
    pub fn begin(&self, request: Request) {
        let _ = self.orders.send(Order::Begin(request));
    }

    /// Sends chunks `from..to`; `false`: there are no such chunks.
    pub fn send(&self, from: u32, to: u32) -> bool {
        let range = from as usize..to as usize;
        let known = !range.is_empty() && range.end <= self.chunks;
        if known {
            let _ = self.orders.send(Order::Send(range));
        }
        known
    }

    /// Ends the thread, whose socket is shut down by now; offset and error where the source failed.
    pub fn finish(self) -> Option<(u64, io::Error)> {
        self.stopper().stop();
        let _ = self.thread.join();
        Arc::into_inner(self.failed)?.into_inner()
    }
}

struct Feed {
    socket: UnixStream,
    data: Arc<dyn ReadAt>,
    chunks: Arc<[Chunk]>,
    stop: Arc<AtomicBool>,
    failed: Arc<OnceLock<(u64, io::Error)>>,
}

impl Feed {
    /// A socket that fails ends it; what went wrong is what the other direction hears.
    fn run(mut self, orders: &Receiver<Order>) {
        for order in orders {
            let sent = match order {
                Order::Begin(request) => write_control(&mut self.socket, &request),
                Order::Send(range) => self.send(range),
                Order::Stop => {
                    let _ = write_control(&mut self.socket, &Request::Abort);
                    return;
                }
            };
            if sent.is_err() {
                return;
            }
        }
    }

    fn send(&mut self, range: Range<usize>) -> io::Result<()> {
        let Self { socket, data, chunks, stop, failed } = self;
        let chunks: &[Chunk] = chunks;
        let (full, ready) = sync_channel(AHEAD);
        thread::scope(|scope| {
            scope.spawn(move || {
                for index in range {
                    let chunk = chunks[index];
                    let mut bytes = vec![0; chunk.len];
                    let read = data.read_exact_at(&mut bytes, chunk.offset);
                    let failed = read.is_err();
                    // Nobody listens any more once the socket has failed or the burn is stopped.
                    if full.send((index, read.map(|()| bytes))).is_err() || failed {
                        return;
                    }
                }
            });
            for (index, bytes) in ready {
                if stop.load(Ordering::SeqCst) {
                    return Ok(());
                }
                match bytes {
                    Ok(bytes) => write_data(socket, index as u32, &bytes)?,
                    Err(error) => {
                        let _ = failed.set((chunks[index].offset, error));
                        return write_control(socket, &Request::Abort);
                    }
                }
            }
            Ok(())
        })
    }
}
