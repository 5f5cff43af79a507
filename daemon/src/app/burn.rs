//! Steps of a burn: the image into the cache, the card prepared, the card written.

use std::path::Path;
use std::sync::Arc;

use super::perform::{failed, failed_or_cancelled, permanent};
use super::world::World;
use crate::card::device::{self, Milestone, Target, WriteError};
use crate::card::inject::{self, ResolvedSecret, Secrets};
use crate::card::{Prepared, Verified, merge};
use crate::config::Settings;
use crate::control::{Event, Handle, Job};
use crate::runbook::StepResult;
use crate::secrets::{self, VersionKey};
use crate::site::{ImageRef, MergedNode, NodeName, Progress};

/// Whether the image needs no fetching.
pub async fn is_cached(world: &World, image: &ImageRef) -> StepResult {
    let (store, image) = (World::store(&world.settings()), image.clone());
    match tokio::task::spawn_blocking(move || store.cached_size(&image)).await {
        Ok(Some(size)) => StepResult::Done { detail: format!("cached, {size} bytes") },
        Ok(None) => StepResult::NotReady { detail: "not cached".to_owned() },
        Err(error) => StepResult::CannotTell { detail: error.to_string() },
    }
}

/// Performs `Step::FetchImage`.
pub async fn fetch(world: &World, job: &Job, image: &ImageRef) -> StepResult {
    match verified(world, job, image).await {
        Ok(verified) => StepResult::Done { detail: format!("{} bytes, SHA-256 {}", verified.data().size(), verified.sha256()) },
        Err(result) => result,
    }
}

/// The image, from the cache or fetched into it.
async fn verified(world: &World, job: &Job, image: &ImageRef) -> Result<Verified, StepResult> {
    let store = World::store(&world.pinned(&job.settings));
    let sink = job.progress.clone();
    let report = move |progress: Progress| sink.report(progress);
    store.fetch(image, &report, &job.cancel).await.map_err(|error| {
        if error.is_permanent() { permanent(error.to_string()) } else { failed_or_cancelled(&job.cancel, error.to_string()) }
    })
}

/// Performs `Step::PrepareCard`.
pub async fn prepare(world: &Arc<World>, job: &Job, node: &NodeName, image: &ImageRef, no_inject: bool) -> StepResult {
    let image = match verified(world, job, image).await {
        Ok(verified) => verified,
        Err(result) => return result,
    };
    let settings = world.pinned(&job.settings);
    let (shared, node) = (Arc::clone(world), node.clone());
    let task = tokio::task::spawn_blocking(move || prepared(&shared, &settings, &node, &image, no_inject));
    match task.await {
        Ok(Ok(card)) => {
            let detail = format!("{} files injected, instance-id {}", card.files().len(), card.instance_id());
            world.keep_card(&job.run, card);
            StepResult::Done { detail }
        }
        Ok(Err(error)) => permanent(format!("{error:#}")),
        Err(error) => failed(error.to_string()),
    }
}

/// Blocking: resolves the secrets, renders the node and lays its files over the image.
fn prepared(world: &World, settings: &Settings, node: &NodeName, image: &Verified, no_inject: bool) -> anyhow::Result<Prepared> {
    if no_inject {
        return Ok(inject::prepare_plain(image)?);
    }
    let node = merge::merge(&settings.inventory, node)?;
    let secrets = resolved(world, settings, &node)?;
    Ok(inject::prepare(image, &node, &secrets)?)
}

fn resolved(world: &World, settings: &Settings, node: &MergedNode) -> Result<Secrets, secrets::SecretError> {
    let key = VersionKey::load_or_create(&settings.daemon.state_dir)?;
    inject::secret_refs(node)
        .into_iter()
        .map(|reference| {
            let secret = secrets::resolve(&reference, &world.secrets)?;
            let version = key.version_id(&secret);
            Ok((reference, ResolvedSecret { secret, version }))
        })
        .collect()
}

/// Performs `Step::WriteCard`.
pub async fn write(world: &World, job: &Job, handle: &Handle, path: &Path, diskseq: u64, allow_fixed: bool) -> StepResult {
    let Some(card) = world.card(&job.run) else {
        return permanent("there is no prepared card: metisd was restarted meanwhile; start again".to_owned());
    };
    let target = Target { device: path.to_path_buf(), diskseq, allow_fixed };
    let writer = World::writer(&world.pinned(&job.settings));
    let (sink, runtime) = (job.progress.clone(), tokio::runtime::Handle::current());
    let (run, step, to) = (job.run.clone(), job.step.clone(), handle.clone());
    let on_event = move |event| {
        let message = match event {
            device::Event::Progress(progress) => return sink.report(progress),
            device::Event::Ready { device, serial } => format!("{} is open exclusively (serial {})", device.display(), or_none(&serial)),
            device::Event::Milestone(Milestone::BodyWritten) => "written, but for the partition table".to_owned(),
            device::Event::Milestone(Milestone::BodyVerified) => "read back: every byte is right".to_owned(),
            device::Event::Milestone(Milestone::TableWritten) => "partition table written and read back".to_owned(),
        };
        runtime.block_on(to.send(Event::Milestone { run: run.clone(), step: step.clone(), message }));
    };
    match device::write(&writer, &card, &target, job.cancel.clone(), on_event).await {
        Ok(summary) => StepResult::Done { detail: finished(&summary) },
        Err(WriteError::Cancelled(message)) => StepResult::Cancelled { detail: message },
        Err(error) => permanent(error.to_string()),
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

fn finished(summary: &device::Summary) -> String {
    let how =
        if summary.direct { "past the page cache" } else { "after flushing and dropping the page cache (the target takes no O_DIRECT)" };
    let warnings = summary.warnings.iter().fold(String::new(), |all, warning| all + "; " + warning);
    let rewritten = if summary.rewritten > 0 { format!("; {} chunks had to be written again", summary.rewritten) } else { String::new() };
    format!(
        "{}: {:.1} MB written at {:.1} MB/s, read back {how} at {:.1} MB/s{rewritten}{warnings}; insert the card and power on",
        summary.device.display(),
        summary.bytes as f64 / 1e6,
        summary.write_rate(),
        summary.verify_rate(),
    )
}
