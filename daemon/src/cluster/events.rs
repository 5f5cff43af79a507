//! Kubernetes Events: what metis did to a node stands with the node (`kubectl describe node`). They are told beside the work and never
//! delay it; one that the API server does not take in time is left out, since the journal has it anyway.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::kube::{Api, Call, path};
use super::objects::Meta;
use crate::site::Mark;

/// An Event is tried for so long.
const WITHIN: Duration = Duration::from_secs(5);
/// So many wait for their turn; further ones are left out.
const WAITING: usize = 64;
/// The API server takes no longer note (validation of events.k8s.io/v1).
const NOTE: usize = 1024;
/// Events of objects without a namespace are there.
const NAMESPACE: &str = "default";

/// What happened to a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Happened {
    /// The node.
    pub node: Meta,
    /// Whether it was cordoned; else its cordon was cleared.
    pub cordoned: bool,
    /// For whom and why; of a cleared cordon the one that stood.
    pub mark: Mark,
    /// By the API server's clock, so that it fits in with the Events of others.
    pub at: Timestamp,
}

/// Writes Events. Dropping it leaves out what it has not written yet.
pub struct Recorder {
    queue: mpsc::Sender<Happened>,
    /// Owns the task that writes.
    _writer: JoinSet<()>,
}

impl Recorder {
    /// Must be called on the runtime that drives it.
    pub fn new(api: Arc<Api>) -> Self {
        let (queue, mut waiting) = mpsc::channel(WAITING);
        let mut writer = JoinSet::new();
        writer.spawn(async move {
            while let Some(happened) = waiting.recv().await {
                write(&api, &happened).await;
            }
        });
        Self { queue, _writer: writer }
    }

    /// Tells it. Never waits.
    pub fn tell(&self, happened: Happened) {
        if let Err(error) = self.queue.try_send(happened) {
            tracing::debug!(%error, "an Event is left out");
        }
    }
}

async fn write(api: &Api, happened: &Happened) {
    let call = Call::post(&path("events.k8s.io/v1", NAMESPACE, "events", ""), &event(happened));
    match api.ask(&call, Instant::now() + WITHIN).await {
        Ok(_) => {}
        // Its answer was lost, and it is there.
        Err(failure) if failure.code() == Some(409) => {}
        Err(failure) => tracing::debug!(error = %failure, node = %happened.node.name, "an Event is left out"),
    }
}

/// As the API server takes it.
fn event(happened: &Happened) -> Value {
    let Happened { node, cordoned, mark, at } = happened;
    let (reason, action) = if *cordoned { ("Cordoned", "Cordon") } else { ("Uncordoned", "Uncordon") };
    // Who tells the same once more, because no answer came, tells it under the same name.
    let short: String = node.name.chars().take(200).collect();
    let name = format!("{}.metis-{}-{:x}", short.trim_end_matches(['.', '-']), reason.to_lowercase(), at.as_second());
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "eventTime": format!("{:.6}", at),
        "reportingController": "metis.v1/metisd",
        "reportingInstance": if mark.holder.is_empty() { "metisd".to_owned() } else { mark.holder.chars().take(128).collect() },
        "action": action,
        "reason": reason,
        "regarding": { "apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid },
        "note": note(*cordoned, mark),
        "type": "Normal",
    })
}

fn note(cordoned: bool, mark: &Mark) -> String {
    let Mark { holder, run, step, reason, expires } = mark;
    let mut note = if cordoned {
        let lease = expires.map(|at| format!("; its lease ends at {at:.0}")).unwrap_or_default();
        format!("cordoned by metis on {holder} for {run} ({step}): {reason}{lease}")
    } else {
        format!("metis cleared the cordon that it had placed on {holder} for {run} ({step}): {reason}")
    };
    let at = (0..=NOTE.min(note.len())).rev().find(|at| note.is_char_boundary(*at)).unwrap_or_default();
    note.truncate(at);
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happened(cordoned: bool, reason: &str) -> Happened {
        let node = Meta { name: "titan-13".to_owned(), uid: "u-1".to_owned(), ..Meta::default() };
        let expires = Some("2026-11-21T17:00:00.5Z".parse().unwrap());
        let (holder, run, step) = ("titan-db".to_owned(), "shutdown-7".to_owned(), "drain.titan-13".to_owned());
        let mark = Mark { holder, run, step, reason: reason.to_owned(), expires };
        Happened { node, cordoned, mark, at: "2026-11-21T16:00:00Z".parse().unwrap() }
    }

    #[test]
    fn an_event_says_who_did_what_to_which_node_for_which_run() {
        let event = event(&happened(true, "the site is being shut down"));
        let expected = "cordoned by metis on titan-db for shutdown-7 (drain.titan-13): the site is being shut down; its lease ends at 2026-11-21T17:00:00Z";
        assert_eq!(event["note"], expected);
        assert_eq!(
            (&event["reason"], &event["action"], &event["eventTime"]),
            (&json!("Cordoned"), &json!("Cordon"), &json!("2026-11-21T16:00:00.000000Z"))
        );
        assert_eq!(event["regarding"]["uid"], "u-1");
        let cleared = super::event(&happened(false, "x"));
        assert_eq!(cleared["note"], "metis cleared the cordon that it had placed on titan-db for shutdown-7 (drain.titan-13): x");
        assert_ne!(cleared["metadata"]["name"], event["metadata"]["name"]);
    }

    #[test]
    fn a_note_is_no_longer_than_it_may_be() {
        let long = event(&happened(true, &"ä".repeat(2000)));
        let note = long["note"].as_str().unwrap();
        assert!(note.len() <= NOTE && note.len() >= NOTE - 1 && note.ends_with('ä'), "{}", note.len());
    }
}
