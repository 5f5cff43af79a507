//! What is about to be changed is recorded first; what was undone is recorded after.

use crate::control::{Handle, Reply, Request};
use crate::site::{Change, Claim, ObjectRef, RunId, StepId};

/// Records the claims; nothing may be changed before it is `Ok`.
///
/// # Errors
/// The control loop did not take them.
pub async fn claim(handle: &Handle, run: &RunId, step: &StepId, claims: Vec<Claim>) -> Result<(), String> {
    if claims.is_empty() {
        return Ok(());
    }
    match handle.request(Request::Claim { run: run.clone(), step: step.clone(), claims }).await {
        Ok(Reply::Noted) => Ok(()),
        Ok(_) => Err(format!("{run} has ended: nothing more is changed for it")),
        Err(error) => Err(format!("what is about to be changed could not be recorded: {error}")),
    }
}

/// Records that changes were undone.
///
/// # Errors
/// The control loop did not take it.
pub async fn release(handle: &Handle, run: &RunId, objects: Vec<ObjectRef>, because: &str) -> Result<(), String> {
    if objects.is_empty() {
        return Ok(());
    }
    let request = Request::Release { run: run.clone(), objects, because: because.to_owned() };
    handle.request(request).await.map(drop).map_err(|error| format!("what was undone could not be recorded: {error}"))
}

/// What metis changed so in any run, oldest first, and has not undone.
pub fn held_by_any(handle: &Handle, change: Change) -> Vec<ObjectRef> {
    let view = handle.view();
    view.claims.iter().filter(|record| record.claim.change == change).map(|record| record.claim.object.clone()).collect()
}

/// What that run changed so, oldest first, and has not undone.
pub fn held(handle: &Handle, run: &RunId, change: Change) -> Vec<ObjectRef> {
    let view = handle.view();
    view.claims
        .iter()
        .filter(|record| record.run == *run && record.claim.change == change)
        .map(|record| record.claim.object.clone())
        .collect()
}
