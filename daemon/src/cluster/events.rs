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

/// Something that metis did to a node.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// It was cordoned, for this.
    Cordoned(Mark),
    /// The cordon with this mark was cleared.
    Uncordoned(Mark),
    /// A person has to look, because of this.
    ManualAction(String),
}

/// What happened to a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Happened {
    /// The node.
    pub node: Meta,
    /// What.
    pub what: What,
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
    let Happened { node, what, at } = happened;
    let (reason, action, kind, holder) = match what {
        What::Cordoned(mark) => ("Cordoned", "Cordon", "Normal", mark.holder.as_str()),
        What::Uncordoned(mark) => ("Uncordoned", "Uncordon", "Normal", mark.holder.as_str()),
        What::ManualAction(_) => ("ManualAction", "AskForAPerson", "Warning", ""),
    };
    // Who tells the same once more, because no answer came, tells it under the same name.
    let short: String = node.name.chars().take(200).collect();
    let name = format!("{}.metis-{}-{:x}", short.trim_end_matches(['.', '-']), reason.to_lowercase(), at.as_second());
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "eventTime": format!("{:.6}", at),
        "reportingController": "metis.v1/metisd",
        "reportingInstance": if holder.is_empty() { "metisd".to_owned() } else { holder.chars().take(128).collect() },
        "action": action,
        "reason": reason,
        "regarding": { "apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid },
        "note": note(what),
        "type": kind,
    })
}

fn note(what: &What) -> String {
    let mut note = match what {
        What::Cordoned(Mark { holder, run, step, reason, expires }) => {
            let lease = expires.map(|at| format!("; its lease ends at {at:.0}")).unwrap_or_default();
            format!("cordoned by metis on {holder} for {run} ({step}): {reason}{lease}")
        }
        What::Uncordoned(Mark { holder, run, step, reason, .. }) => {
            format!("metis cleared the cordon of {run} ({step}), which metis on {holder} had placed: {reason}")
        }
        What::ManualAction(because) => format!("a person has to look: {because}; `metisctl lease`"),
    };
    let at = (0..=NOTE.min(note.len())).rev().find(|at| note.is_char_boundary(*at)).unwrap_or_default();
    note.truncate(at);
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happened(what: fn(Mark) -> What, reason: &str) -> Happened {
        let node = Meta { name: "titan-13".to_owned(), uid: "u-1".to_owned(), ..Meta::default() };
        let expires = Some("2026-11-21T17:00:00.5Z".parse().unwrap());
        let (holder, run, step) = ("titan-db".to_owned(), "shutdown-7".to_owned(), "drain.titan-13".to_owned());
        let mark = Mark { holder, run, step, reason: reason.to_owned(), expires };
        Happened { node, what: what(mark), at: "2026-11-21T16:00:00Z".parse().unwrap() }
    }

    #[test]
    fn an_event_says_who_did_what_to_which_node_for_which_run() {
        let event = event(&happened(What::Cordoned, "the site is being shut down"));
        let expected = "cordoned by metis on titan-db for shutdown-7 (drain.titan-13): the site is being shut down; its lease ends at 2026-11-21T17:00:00Z";
        assert_eq!(event["note"], expected);
        assert_eq!(
            (&event["reason"], &event["action"], &event["eventTime"]),
            (&json!("Cordoned"), &json!("Cordon"), &json!("2026-11-21T16:00:00.000000Z"))
        );
        assert_eq!(event["regarding"]["uid"], "u-1");
        let cleared = super::event(&happened(What::Uncordoned, "x"));
        assert_eq!(cleared["note"], "metis cleared the cordon of shutdown-7 (drain.titan-13), which metis on titan-db had placed: x");
        assert_ne!(cleared["metadata"]["name"], event["metadata"]["name"]);
        let asked =
            super::event(&Happened { what: What::ManualAction("its lease has expired".to_owned()), ..happened(What::Cordoned, "x") });
        assert_eq!((&asked["type"], &asked["reportingInstance"]), (&json!("Warning"), &json!("metisd")));
        assert_eq!(asked["note"], "a person has to look: its lease has expired; `metisctl lease`");
    }

    #[test]
    fn a_note_is_no_longer_than_it_may_be() {
        let long = event(&happened(What::Cordoned, &"ä".repeat(2000)));
        let note = long["note"].as_str().unwrap();
        assert!(note.len() <= NOTE && note.len() >= NOTE - 1 && note.ends_with('ä'), "{}", note.len());
    }
}
