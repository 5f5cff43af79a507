//! The thread that writes the file: its disk may be slow, the connection must not wait in the same task.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::errors::CtlError;
use crate::image_file::{Done, ImageFile, Purpose};

/// Chunks in flight between connection and disk.
const QUEUE: usize = 16;
const SYNC_EVERY: Duration = Duration::from_secs(1);

enum Work {
    Piece { offset: u64, data: Vec<u8> },
    Finish { sha256: String },
}

/// A failed or cancelled writer.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub error: CtlError,
    /// What became of the file; empty where none was touched.
    pub remains: String,
}

/// The running thread. Dropped, it gives the file up by itself.
pub struct Writer {
    work: mpsc::Sender<Work>,
    done: watch::Receiver<Done>,
    cancel: Arc<AtomicBool>,
    thread: JoinHandle<Result<PathBuf, Failure>>,
}

impl Writer {
    /// Starts to write an image of `size` bytes, of which `total` are sent.
    pub fn start(path: &Path, purpose: Purpose, size: u64, total: u64) -> Self {
        let (work, queue) = mpsc::channel(QUEUE);
        let (report, done) = watch::channel(Done::default());
        let cancel = Arc::new(AtomicBool::new(false));
        let path = path.to_owned();
        let thread = tokio::task::spawn_blocking({
            let cancel = cancel.clone();
            move || write_all(&path, purpose, size, total, queue, &report, &cancel)
        });
        Self { work, done, cancel, thread }
    }

    /// Hands a piece over; waits while the disk is slower. False: the thread has failed, [`Writer::ended`] says why.
    pub async fn piece(&self, offset: u64, data: Vec<u8>) -> bool {
        self.work.send(Work::Piece { offset, data }).await.is_ok()
    }

    /// All pieces were handed over.
    pub async fn finish(&self, sha256: String) -> bool {
        self.work.send(Work::Finish { sha256 }).await.is_ok()
    }

    /// Bytes on the medium so far.
    pub fn done(&self) -> Done {
        *self.done.borrow()
    }

    /// Asks the thread to give the file up.
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }

    /// What became of the file. Without a finish it is given up. Cancel safe.
    pub async fn ended(&mut self) -> Result<PathBuf, Failure> {
        match (&mut self.thread).await {
            Ok(result) => result,
            Err(e) => Err(Failure { error: CtlError::Other(anyhow::anyhow!("the writing thread ended: {e}")), remains: String::new() }),
        }
    }

    /// Cancels, lets the queue go, and waits for the file to be given up. Cancel safe.
    pub async fn give_up(&mut self) -> Result<PathBuf, Failure> {
        self.cancel();
        // Replacing the sender closes the queue that the thread waits on.
        self.work = mpsc::channel(1).0;
        self.ended().await
    }
}

fn failed(file: ImageFile<'_>, error: anyhow::Error) -> Failure {
    Failure { error: error.into(), remains: file.abandon() }
}

fn write_all(
    path: &Path,
    purpose: Purpose,
    size: u64,
    total: u64,
    mut queue: mpsc::Receiver<Work>,
    report: &watch::Sender<Done>,
    cancel: &AtomicBool,
) -> Result<PathBuf, Failure> {
    let mut file = ImageFile::open(path, purpose, size, cancel).map_err(|error| Failure { error, remains: String::new() })?;
    let mut synced = Instant::now();
    loop {
        let done = match queue.blocking_recv() {
            None => return Err(failed(file, anyhow::anyhow!("the image did not come to its end"))),
            Some(Work::Finish { sha256 }) => {
                let finished = file.finish(&sha256, total, &mut |done| _ = report.send_replace(done));
                return finished.map_err(|e| failed(file, e));
            }
            Some(Work::Piece { offset, data }) => file.write(offset, &data).and_then(|done| {
                if synced.elapsed() < SYNC_EVERY {
                    return Ok(done);
                }
                synced = Instant::now();
                file.sync()
            }),
        };
        match done {
            Ok(done) => _ = report.send_replace(done),
            Err(e) => return Err(failed(file, e)),
        }
    }
}
