//! The one interpreter of [`Step`]: performs an attempt in the real world and says what became of it.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::burn;
use super::outage::{self, Wanted};
use super::shutdown::Attempt;
use super::startup;
use super::stream;
use super::world::World;
use crate::control::{self, Effect, Event, Handle, Job};
use crate::runbook::{Mode, StepResult};
use crate::site::Step;

/// Takes effects until the control loop has ended; then ends what is still under way. Owns every task that performs a step.
pub async fn effects(mut orders: mpsc::UnboundedReceiver<Effect>, world: Arc<World>, handle: Handle) {
    let mut jobs = JoinSet::new();
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Effect::Perform(job)) => { jobs.spawn(one(*job, Arc::clone(&world), handle.clone())); }
                Some(Effect::Ended(record)) => {
                    outage::report(&world, &handle.view(), &record, control::RUN_REPORT).await;
                    world.forget(&record.id);
                }
                Some(Effect::PlanShutdown { domains, because, mode, runtime }) => {
                    let wanted = Wanted { domains, because, mode, runtime };
                    jobs.spawn(outage::shut_down(Arc::clone(&world), handle.clone(), wanted));
                }
                Some(Effect::PlanStartup { because }) => {
                    jobs.spawn(startup::come_back(Arc::clone(&world), handle.clone(), because));
                }
                Some(Effect::WithdrawOutlets { run }) => {
                    let world = Arc::clone(&world);
                    jobs.spawn(async move { outage::withdraw_outlets(&world, &run).await });
                }
                Some(Effect::PowerOffThisHost { run, node, delay }) => {
                    jobs.spawn(outage::power_off(Arc::clone(&world), handle.clone(), run, node, delay));
                }
                None => break,
            },
            Some(ended) = jobs.join_next() => if let Err(error) = ended {
                tracing::error!(%error, "a task that performs steps was lost");
            },
        }
    }
    jobs.shutdown().await;
}

/// Performs one attempt. The result reaches the loop whatever happens, a panic included: a step without end would hold its run.
async fn one(job: Job, world: Arc<World>, handle: Handle) {
    let (run, step, attempt) = (job.run.clone(), job.step.clone(), job.attempt);
    let task = tokio::spawn(perform(job, world, handle.clone()));
    let result =
        task.await.unwrap_or_else(|error| failed(format!("metisd has a fault: performing {step} of {run}: {error}; please report it")));
    handle.send(Event::StepFinished { run, step, attempt, result }).await;
}

async fn perform(job: Job, world: Arc<World>, handle: Handle) -> StepResult {
    match (&job.action, job.mode) {
        (Step::FetchImage { image }, Mode::Probe) => burn::is_cached(&world, image).await,
        (Step::FetchImage { image }, Mode::Act | Mode::Remedy(_)) => burn::fetch(&world, &job, image).await,
        (Step::PrepareCard { node, image, no_inject }, Mode::Act | Mode::Remedy(_)) => {
            burn::prepare(&world, &job, node, image, *no_inject).await
        }
        (Step::WriteCard { device, diskseq, allow_fixed }, Mode::Act | Mode::Remedy(_)) => {
            burn::write(&world, &job, &handle, device, *diskseq, *allow_fixed).await
        }
        (Step::StreamImage { .. }, Mode::Act | Mode::Remedy(_)) => stream::stream(&world, &job, &handle).await,
        (Step::PrepareCard { .. } | Step::WriteCard { .. } | Step::StreamImage { .. }, Mode::Probe) => {
            StepResult::CannotTell { detail: format!("{} leaves nothing that could be looked at", job.action.kind()) }
        }
        (_, _) => {
            let attempt = Attempt { world: &world, parts: world.parts_of(&job.settings).await, job: &job, handle: &handle };
            tokio::select! {
                biased;
                result = attempt.perform() => result,
                () = job.cancel.cancelled() => StepResult::Cancelled { detail: "ended where it was".to_owned() },
            }
        }
    }
}

/// A failure that another attempt may overcome.
pub(super) fn failed(detail: String) -> StepResult {
    StepResult::Failed { detail, permanent: false }
}

/// A failure that no other attempt overcomes.
pub(super) fn permanent(detail: String) -> StepResult {
    StepResult::Failed { detail, permanent: true }
}

/// A failure, unless the attempt was told to end.
pub(super) fn failed_or_cancelled(cancel: &CancellationToken, detail: String) -> StepResult {
    if cancel.is_cancelled() { StepResult::Cancelled { detail } } else { failed(detail) }
}
