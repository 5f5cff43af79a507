//! Golden images: fetched, verified, kept in the cache in a form that is read at random and checked on every read.

mod client;
mod download;
mod entry;
mod error;
pub mod extents;
mod ingest;
mod source;
mod space;
mod unpack;

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use download::{Patience, WORTH};
pub use error::ImageError;

use super::media::open_regular;
use super::{ReadAt as _, Settings, Verified};
use crate::site::{ImageRef, Progress};
use download::Download;
use entry::Entry;
use ingest::Job;
use source::Source;
use space::{IMAGE, LOCK, Space};

/// How often a fetch looks whether another one of the same image is done.
const POLL: Duration = Duration::from_millis(100);

/// The cache of golden images: by SHA-256 of the published file, shared by everybody on this host who opens the same directory.
#[derive(Debug, Clone)]
pub struct Store {
    settings: Settings,
    patience: Patience,
}

impl Store {
    /// A store over `settings.cache_dir`, which is made when it is first needed.
    pub fn new(settings: Settings) -> Self {
        Self { settings, patience: Patience::default() }
    }

    /// The same store with other deadlines.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// Whether the image is in the cache: then [`Store::fetch`] needs neither its source nor the network. Opens one file.
    pub fn is_cached(&self, image: &ImageRef) -> bool {
        source::parse(image).is_ok_and(|(_, image)| Entry::open(&self.space().path(&image.sha256, IMAGE), &image.sha256).is_ok())
    }

    /// Size of the unpacked image in bytes, where it is in the cache. Opens one file.
    pub fn cached_size(&self, image: &ImageRef) -> Option<u64> {
        let (_, image) = source::parse(image).ok()?;
        Entry::open(&self.space().path(&image.sha256, IMAGE), &image.sha256).ok().map(|entry| entry.size())
    }

    /// Brings the image into the cache, unless it is there: fetched, its SHA-256 checked before anything of it is used, unpacked,
    /// stored. `progress` has the stages `fetch`, `check`, `unpack` and `ingest`. Dropping the future stops the work as `cancel` does;
    /// what was downloaded stays for the next attempt.
    ///
    /// # Errors
    /// [`ImageError`]; the cache then holds nothing that was not verified.
    pub async fn fetch(
        &self,
        image: &ImageRef,
        progress: &(dyn Fn(Progress) + Sync),
        cancel: &CancellationToken,
    ) -> Result<Verified, ImageError> {
        let (sender, mut receiver) = watch::channel(Progress::default());
        let token = cancel.child_token();
        let _stop = token.clone().drop_guard();
        let work = self.fetch_quietly(image, sender, token);
        tokio::pin!(work);
        let mut told = Progress::default();
        loop {
            tokio::select! {
                result = &mut work => return result,
                Ok(()) = receiver.changed() => {
                    let now = *receiver.borrow_and_update();
                    // Several threads report: what is told never steps back.
                    if now.stage != told.stage || now.done > told.done {
                        progress(now);
                        told = now;
                    }
                }
            }
        }
    }

    fn space(&self) -> Space {
        Space { dir: self.settings.cache_dir.clone(), floor: self.settings.free_space_floor }
    }

    async fn fetch_quietly(
        &self,
        image: &ImageRef,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<Verified, ImageError> {
        let (source, image) = source::parse(image)?;
        let space = self.space();
        if let Some(found) = cached(&space, &image).await? {
            return Ok(found);
        }
        let _lock = lock(&space, &image.sha256, &cancel).await?;
        if let Some(found) = cached(&space, &image).await? {
            return Ok(found);
        }
        let shown = source::shown(&image.url);
        let job = Arc::new(Job::new(image.clone(), shown, space.clone(), self.settings.max_image_size, progress, cancel));
        let (published, downloaded) = match source {
            Source::File(path) => {
                let opener = job.clone();
                (blocking(&space, move || open_regular(&path).map_err(|e| opener.source_error(e))).await??, false)
            }
            Source::Https(url) => {
                let (ca_file, patience, shown) = (self.settings.ca_file.clone(), self.patience.clone(), job.shown.clone());
                let client = blocking(&space, move || client::client(ca_file.as_deref(), &patience))
                    .await?
                    .map_err(|why| ImageError::Download { image: shown, why })?;
                (Download::new(job.clone(), client, url, self.patience.clone()).run().await?, true)
            }
        };
        let worker = job.clone();
        blocking(&space, move || {
            worker.ingest(&published, downloaded)?;
            worker.space.forget_part(&worker.image.sha256);
            Ok::<_, ImageError>(())
        })
        .await??;
        cached(&space, &image).await?.ok_or_else(|| ImageError::Cache {
            path: space.path(&image.sha256, IMAGE),
            source: io::Error::other("the image was given up right after it was stored"),
        })
    }
}

async fn blocking<T: Send + 'static>(space: &Space, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ImageError> {
    let panicked = || ImageError::Cache { path: space.dir.clone(), source: io::Error::other("an image thread panicked") };
    tokio::task::spawn_blocking(work).await.map_err(|error| if error.is_cancelled() { ImageError::Cancelled } else { panicked() })
}

/// The image, if it is in the cache. An entry that is damaged or of another version is removed.
async fn cached(space: &Space, image: &ImageRef) -> Result<Option<Verified>, ImageError> {
    let (path, sha256) = (space.path(&image.sha256, IMAGE), image.sha256.clone());
    blocking(space, move || match Entry::open(&path, &sha256) {
        Ok(entry) => {
            entry.touch().map_err(ImageError::cache(&path))?;
            Ok(Some(Verified { data: Arc::new(entry), sha256 }))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!(path = %path.display(), "removed a damaged image from the cache");
            std::fs::remove_file(&path).map_err(ImageError::cache(&path))?;
            Ok(None)
        }
        Err(e) => Err(ImageError::cache(&path)(e)),
    })
    .await?
}

/// Waits until nobody else on this host fetches the same image. The lock goes with the file.
async fn lock(space: &Space, sha256: &str, cancel: &CancellationToken) -> Result<File, ImageError> {
    let (dir, path) = (space.dir.clone(), space.path(sha256, LOCK));
    let file = blocking(space, move || {
        std::fs::create_dir_all(&dir).map_err(ImageError::cache(&dir))?;
        File::options().write(true).create(true).truncate(false).open(&path).map_err(ImageError::cache(&path))
    })
    .await??;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => (),
            Err(std::fs::TryLockError::Error(e)) => return Err(ImageError::cache(&space.dir)(e)),
        }
        tokio::select! {
            () = cancel.cancelled() => return Err(ImageError::Cancelled),
            () = tokio::time::sleep(POLL) => (),
        }
    }
}

#[cfg(test)]
mod tests;
