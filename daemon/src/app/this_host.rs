//! This host's own end, where logind announces it: recorded, shown, and held up for a moment while a run is under way.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::control::{Handle, Request, View};
use crate::host::port::HostError;
use crate::host::systemd::{ShutdownEvent, ShutdownWatch, Systemd};

/// Until logind has answered.
const LISTEN_WITHIN: Duration = Duration::from_secs(10);
/// A bus that is away is looked for this often: dbus is restarted by upgrades.
const AGAIN: Duration = Duration::from_secs(60);
/// So much of logind's patience is left over: who is released by logind itself is told of in the log as one who did not answer.
const SPARE: Duration = Duration::from_secs(1);

/// Listens until `stop`. Where systemd does not run (sd_booted(3)) there is nobody to listen to.
pub async fn watch(handle: Handle, stop: CancellationToken) {
    if !Path::new("/run/systemd/system").is_dir() {
        return stop.cancelled().await;
    }
    let systemd = Systemd::new();
    let mut said = String::new();
    while !stop.is_cancelled() {
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = listen(&systemd, &handle) => ended,
        };
        let why = ended.err().map_or_else(|| "the connection to the system bus was lost".to_owned(), |error| error.to_string());
        if why != said {
            tracing::warn!("shutdowns of this host that others order are not heard of for now: {why}");
            said = why;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// Until the bus is gone.
async fn listen(systemd: &Systemd, handle: &Handle) -> Result<(), HostError> {
    let mut watch = systemd.watch_shutdown(LISTEN_WITHIN).await?;
    if !watch.begun() {
        // It may have been called off while nobody listened.
        record(handle, false, Instant::now() + LISTEN_WITHIN).await;
    }
    while let Some(event) = watch.next().await {
        match event {
            ShutdownEvent::Coming => hold(&mut watch, handle).await,
            ShutdownEvent::CalledOff => record(handle, false, Instant::now() + LISTEN_WITHIN).await,
        }
    }
    Ok(())
}

/// Holds the shutdown up until it is recorded and no run is under way, or logind's patience is nearly over.
async fn hold(watch: &mut ShutdownWatch, handle: &Handle) {
    let until = Instant::now() + patience(watch.limit());
    record(handle, true, until).await;
    let mut views = handle.views();
    let _ = timeout_at(until, views.wait_for(|view| is_idle(view))).await;
    watch.release();
}

fn patience(limit: Duration) -> Duration {
    limit.saturating_sub(SPARE).max(limit / 2)
}

fn is_idle(view: &View) -> bool {
    view.runs.iter().all(|record| record.run.outcome.is_some())
}

async fn record(handle: &Handle, goes_down: bool, until: Instant) {
    match timeout_at(until, handle.request(Request::ThisHost { goes_down })).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(goes_down, "this host's shutdown could not be recorded: {error}"),
        Err(_) => tracing::warn!(goes_down, "this host's shutdown was not recorded in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logind_is_never_waited_out() {
        for (limit, held) in [(5_000, 4_000), (30_000, 29_000), (1_000, 500), (1_500, 750), (0, 0)] {
            assert_eq!(patience(Duration::from_millis(limit)), Duration::from_millis(held), "{limit}");
        }
    }
}
