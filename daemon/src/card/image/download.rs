//! HTTPS downloads that resume: after a broken connection, and after a restart of the daemon.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE};
use reqwest::{Client, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_util::bytes::Bytes;

use super::super::bytes::hex;
use super::client::because;
use super::error::ImageError;
use super::ingest::Job;
use super::space::{PART, PART_INFO};
use crate::site::Progress;

/// How long a server is waited for, and how often it is asked again.
#[derive(Debug, Clone)]
pub struct Patience {
    /// For name resolution, connection and TLS handshake.
    pub connect: Duration,
    /// For an answer, and for each piece of it.
    pub read: Duration,
    /// Attempts in a row that may bring less than [`WORTH`] bytes.
    pub attempts: u32,
    /// Before the second attempt; doubles with each.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), read: Duration::from_secs(30), attempts: 5, pause: Duration::from_secs(1) }
    }
}

/// An attempt that brought this many bytes does not count as failed.
pub const WORTH: u64 = 1 << 20;

/// What the server said of the file when the part was begun.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Info {
    url: String,
    /// A strong `ETag` or a `Last-Modified` date, for `If-Range`.
    validator: Option<String>,
}

/// The part of the published file that is there.
struct Part {
    file: File,
    hasher: Sha256,
    len: u64,
    /// Some of it came with an earlier answer.
    resumed: bool,
}

/// Why an attempt ended early.
enum Failed {
    /// Worth another attempt.
    Again(String),
    /// Not worth one.
    Final(String),
    Error(ImageError),
}

/// One download.
pub(super) struct Download {
    job: Arc<Job>,
    client: Client,
    url: Url,
    patience: Patience,
    part: PathBuf,
    info: PathBuf,
}

impl Download {
    pub(super) fn new(job: Arc<Job>, client: Client, url: Url, patience: Patience) -> Self {
        let (part, info) = (job.space.path(&job.image.sha256, PART), job.space.path(&job.image.sha256, PART_INFO));
        Self { job, client, url, patience, part, info }
    }

    /// Downloads the published file into the cache and checks its SHA-256. Returns it open.
    pub(super) async fn run(self) -> Result<File, ImageError> {
        let this = Arc::new(self);
        let opener = this.clone();
        let mut part = Some(blocking(&this, move || opener.open()).await??);
        let (mut failures, mut pause, mut from_scratch) = (0, this.patience.pause, false);
        loop {
            let before = part.as_ref().map_or(0, |part| part.len);
            let why = match this.attempt(&mut part).await {
                Ok(()) => match this.check(&mut part, &mut from_scratch)? {
                    Some(file) => return Ok(file),
                    None => continue,
                },
                Err(Failed::Error(error)) => {
                    if matches!(error, ImageError::NoSpace { .. } | ImageError::TooLarge { .. }) {
                        this.discard();
                    }
                    return Err(error);
                }
                Err(Failed::Final(why)) => return Err(this.failed(why)),
                Err(Failed::Again(why)) => why,
            };
            let len = part.as_ref().map_or(0, |part| part.len);
            failures = if len >= before + WORTH { 1 } else { failures + 1 };
            if failures >= this.patience.attempts {
                return Err(this.failed(format!("{why} ({failures} attempts; {len} bytes are kept for the next time)")));
            }
            tracing::warn!(image = this.job.shown, bytes = len, why, "the download broke off; trying again");
            tokio::select! {
                () = this.job.cancel.cancelled() => return Err(ImageError::Cancelled),
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(30)),
            }
        }
    }

    fn failed(&self, why: String) -> ImageError {
        ImageError::Download { image: self.job.shown.clone(), why }
    }

    fn discard(&self) {
        self.job.space.forget_part(&self.job.image.sha256);
    }

    /// The whole file if its digest is right; `None` to fetch it once more from the beginning, because pieces of two versions of it may
    /// have met.
    fn check(&self, part: &mut Option<Part>, from_scratch: &mut bool) -> Result<Option<File>, ImageError> {
        let Some(found) = part.take() else { return Err(self.failed("the part got lost".to_owned())) };
        let actual = hex(&found.hasher.clone().finalize());
        if actual == self.job.image.sha256 {
            return Ok(Some(found.file));
        }
        if !found.resumed || *from_scratch {
            self.discard();
            return Err(self.job.digest_error(actual));
        }
        *from_scratch = true;
        *part = Some(self.restart(found)?);
        Ok(None)
    }

    /// Opens what an earlier attempt left of the same URL, or a new part.
    fn open(&self) -> Result<Part, ImageError> {
        let failed = |e| self.job.space.failed(&self.part, e);
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&self.part).map_err(failed)?;
        if self.known().url != self.url.as_str() {
            file.set_len(0).map_err(failed)?;
        }
        let mut part = Part { file: file.try_clone().map_err(failed)?, hasher: Sha256::new(), len: 0, resumed: false };
        let mut buf = vec![0; 1 << 20];
        loop {
            match file.read(&mut buf).map_err(failed)? {
                0 => break,
                len => {
                    part.hasher.update(&buf[..len]);
                    part.len += len as u64;
                }
            }
            self.job.check_cancel()?;
        }
        part.resumed = part.len > 0;
        Ok(part)
    }

    fn known(&self) -> Info {
        std::fs::read(&self.info).ok().and_then(|raw| serde_json::from_slice(&raw).ok()).unwrap_or_default()
    }

    fn restart(&self, mut part: Part) -> Result<Part, ImageError> {
        let failed = |e| self.job.space.failed(&self.part, e);
        part.file.set_len(0).and_then(|()| part.file.seek(SeekFrom::Start(0))).map_err(failed)?;
        Ok(Part { hasher: Sha256::new(), len: 0, resumed: false, ..part })
    }

    /// One request. `part` is back in its place whatever happens, unless the writing thread is lost.
    async fn attempt(self: &Arc<Self>, part: &mut Option<Part>) -> Result<(), Failed> {
        let len = part.as_ref().map_or(0, |part| part.len);
        let mut request = self.client.get(self.url.clone()).header(ACCEPT_ENCODING, "identity");
        if len > 0 {
            request = request.header(RANGE, format!("bytes={len}-"));
            if let Some(validator) = self.known().validator {
                request = request.header(IF_RANGE, validator);
            }
        }
        let response = tokio::select! {
            () = self.job.cancel.cancelled() => return Err(Failed::Error(ImageError::Cancelled)),
            response = request.send() => response.map_err(|e| Failed::Again(because(&e.without_url())))?,
        };
        let start = match response.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT if range_start(response.headers()) == Some(len) => len,
            StatusCode::RANGE_NOT_SATISFIABLE if range_total(response.headers()) == Some(len) => return Ok(()),
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                self.restart_in(part).await.map_err(Failed::Error)?;
                return Err(Failed::Again("the server answered with another range than asked for".to_owned()));
            }
            status if status.is_server_error() || matches!(status.as_u16(), 408 | 429) => {
                return Err(Failed::Again(format!("the server answered {status}")));
            }
            status => return Err(Failed::Final(format!("the server answered {status}; check the URL"))),
        };
        if start == 0 {
            self.restart_in(part).await.map_err(Failed::Error)?;
            self.remember(response.headers()).await.map_err(Failed::Error)?;
        }
        self.receive(response, part, start).await
    }

    async fn restart_in(self: &Arc<Self>, part: &mut Option<Part>) -> Result<(), ImageError> {
        if let Some(old) = part.take() {
            let this = self.clone();
            *part = Some(blocking(self, move || this.restart(old)).await??);
        }
        Ok(())
    }

    /// Keeps what identifies this version of the file beside the part.
    async fn remember(self: &Arc<Self>, headers: &HeaderMap) -> Result<(), ImageError> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let validator = text(ETAG).filter(|tag| !tag.starts_with("W/")).or_else(|| text(LAST_MODIFIED));
        let info = Info { url: self.url.to_string(), validator };
        let this = self.clone();
        blocking(self, move || {
            let raw = serde_json::to_vec(&info).unwrap_or_default();
            std::fs::write(&this.info, raw).map_err(|e| this.job.space.failed(&this.info, e))
        })
        .await?
    }

    /// Takes the body into the part: read here, hashed and written on a thread of its own.
    async fn receive(self: &Arc<Self>, mut response: Response, part: &mut Option<Part>, start: u64) -> Result<(), Failed> {
        let announced = response.content_length();
        let total = announced.map_or(0, |more| start + more);
        let limit = self.job.limit.saturating_add(self.job.limit / 64 + WORTH);
        if total > limit {
            return Err(Failed::Error(ImageError::TooLarge { image: self.job.shown.clone(), limit: self.job.limit }));
        }
        let Some(mut taken) = part.take() else { return Err(Failed::Final("the part got lost".to_owned())) };
        taken.resumed |= start > 0;
        let (sender, mut receiver) = mpsc::channel(16);
        let this = self.clone();
        let writer = tokio::task::spawn_blocking(move || {
            let room = this.job.space.make(announced.unwrap_or(0), &this.job.image.sha256);
            let written = room.and_then(|()| this.append(&mut taken, &mut receiver, limit, total));
            (taken, written)
        });
        let read = loop {
            let chunk = tokio::select! {
                () = self.job.cancel.cancelled() => break Err(Failed::Error(ImageError::Cancelled)),
                chunk = response.chunk() => chunk,
            };
            match chunk {
                // A writer that is gone has its own error to tell.
                Ok(Some(bytes)) => {
                    if sender.send(bytes).await.is_err() {
                        break Ok(());
                    }
                }
                Ok(None) => break Ok(()),
                Err(e) => break Err(Failed::Again(because(&e.without_url()))),
            }
        };
        drop(sender);
        let (returned, written) = writer.await.map_err(|e| Failed::Error(self.lost(&e)))?;
        *part = Some(returned);
        written.map_err(Failed::Error)?;
        read
    }

    /// Blocking: until nothing comes any more. `total`: bytes of the whole file, 0 where that is not known.
    fn append(&self, part: &mut Part, from: &mut mpsc::Receiver<Bytes>, limit: u64, total: u64) -> Result<(), ImageError> {
        while let Some(bytes) = from.blocking_recv() {
            if part.len + bytes.len() as u64 > limit {
                return Err(ImageError::TooLarge { image: self.job.shown.clone(), limit: self.job.limit });
            }
            part.file.write_all(&bytes).map_err(|e| self.job.space.failed(&self.part, e))?;
            part.hasher.update(&bytes);
            part.len += bytes.len() as u64;
            self.job.wrote(bytes.len() as u64)?;
            self.job.progress.send_replace(Progress { stage: "fetch", done: part.len, total });
        }
        Ok(())
    }

    fn lost(&self, error: &tokio::task::JoinError) -> ImageError {
        if error.is_cancelled() {
            return ImageError::Cancelled;
        }
        ImageError::Cache { path: self.part.clone(), source: io::Error::other("the writing thread panicked") }
    }
}

async fn blocking<T: Send + 'static>(download: &Download, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| download.lost(&e))
}

/// First byte of `Content-Range: bytes 100-199/200`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// Size of the file in `Content-Range: bytes */200`.
fn range_total(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_RANGE)?.to_str().ok()?.rsplit_once('/')?.1.trim().parse().ok()
}
