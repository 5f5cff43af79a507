//! Keeps `startup-progress.json`: live while a start-up is under way, its final state afterwards.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::outage::replace;
use super::world::World;
use crate::cluster::startup;
use crate::control::{Handle, RunRecord, View};
use crate::report::progress::{Progress, Subject, progress};

/// The file, in the state directory.
pub const FILE: &str = "startup-progress.json";
/// It is written no more often.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// What is under way is written anew so often at least: who reads the file sees that it is alive.
const ALIVE_EVERY: Duration = Duration::from_secs(30);

/// Writes it whenever it says something new, until told to stop.
pub async fn keep(world: Arc<World>, handle: Handle, stop: CancellationToken) {
    let mut views = handle.views();
    let mut written = read(path(&world)).await;
    loop {
        let now = newest(&views.borrow_and_update()).map(|record| told(&world, &record));
        let under_way = now.as_ref().is_some_and(|progress| progress.ended.is_none());
        if let Some(progress) = now.filter(|progress| is_news(written.as_ref(), progress)) {
            // What could not be written is tried again with the next change, or when it is due to show that it is alive.
            let writing = async {
                let value = write(path(&world), &progress).await;
                tokio::time::sleep(AT_MOST_EVERY).await;
                value
            };
            tokio::select! {
                value = writing => written = value.or(written),
                () = stop.cancelled() => return,
            }
        }
        tokio::select! {
            changed = views.changed() => if changed.is_err() { return stop.cancelled().await },
            () = tokio::time::sleep(ALIVE_EVERY), if under_way => {}
            () = stop.cancelled() => return,
        }
    }
}

fn path(world: &World) -> PathBuf {
    world.settings().daemon.state_dir.join(FILE)
}

fn newest(view: &View) -> Option<Arc<RunRecord>> {
    view.runs.iter().find(|record| record.run.book.kind == startup::KIND).cloned()
}

fn told(world: &World, record: &RunRecord) -> Progress {
    progress(&Subject {
        id: &record.id,
        run: &record.run,
        requester: &record.requester,
        cause: &record.cause,
        started: record.started,
        ended: record.ended,
        reason: &record.reason,
        // The final state is the same whenever it is written.
        now: record.ended.unwrap_or_else(|| world.now().wall),
        advice: &|gate| startup::row(gate).on_failure,
    })
}

/// Whether it says more than that time has passed, or so much has passed that it should.
fn is_news(written: Option<&Value>, progress: &Progress) -> bool {
    let Some(before) = written else { return true };
    let without_time = |mut value: Value| {
        if let Value::Object(fields) = &mut value {
            fields.remove("updated");
            fields.remove("percent");
        }
        value
    };
    let Ok(now) = serde_json::to_value(progress) else { return false };
    let age = before["updated"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok());
    let old = age.is_none_or(|at| progress.updated.duration_since(at).unsigned_abs() >= ALIVE_EVERY);
    (old && progress.ended.is_none()) || without_time(before.clone()) != without_time(now)
}

async fn read(path: PathBuf) -> Option<Value> {
    let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
    serde_json::from_slice(&read.ok()?.ok()?).ok()
}

/// What was written. A disk that hangs is waited for: whoever writes beside it would only hang as well.
async fn write(path: PathBuf, progress: &Progress) -> Option<Value> {
    let value = serde_json::to_value(progress).ok()?;
    let text = serde_json::to_vec_pretty(progress).ok()?;
    let shown = path.display().to_string();
    match tokio::task::spawn_blocking(move || replace(&path, &text)).await {
        Ok(Ok(())) => Some(value),
        Ok(Err(error)) => {
            tracing::warn!("{shown} cannot be written: {error}");
            None
        }
        Err(error) => {
            tracing::error!("{shown}: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runbook::{Run, Runbook};
    use crate::site::{Cause, RunId};

    #[test]
    fn only_news_are_written_and_a_sign_of_life() {
        let run = Run::new(Runbook::new("startup", "start the cluster", Vec::new()));
        let at = |seconds: i64| jiff::Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        let told = |now: i64, ended: Option<i64>| {
            progress(&Subject {
                id: &RunId::new("startup-1"),
                run: &run,
                requester: "ada",
                cause: &Cause::Person,
                started: at(0),
                ended: ended.map(at),
                reason: "",
                now: at(now),
                advice: &|_| "",
            })
        };
        let written = |progress: &Progress| serde_json::to_value(progress).unwrap();
        let first = told(0, None);
        assert!(is_news(None, &first));
        let before = written(&first);
        assert!(!is_news(Some(&before), &told(29, None)), "time alone is none");
        assert!(is_news(Some(&before), &told(30, None)), "it is alive");
        assert!(is_news(Some(&before), &told(-30, None)), "also after the clock was set back");
        assert!(is_news(Some(&before), &told(1, Some(1))), "its end");
        assert!(!is_news(Some(&written(&told(1, Some(1)))), &told(1, Some(1))), "a restarted daemon leaves it alone");
        assert!(is_news(Some(&serde_json::json!("nonsense")), &first));
    }
}
