//! What is not as it should be besides what the control loop knows, by topic.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::api::HostFacts;

/// Cheap to clone.
#[derive(Clone)]
pub struct Problems {
    topics: Arc<Mutex<BTreeMap<&'static str, Vec<String>>>>,
    facts: Arc<watch::Sender<HostFacts>>,
}

impl Problems {
    /// None yet.
    pub fn new(facts: HostFacts) -> Self {
        Self { topics: Arc::default(), facts: Arc::new(watch::Sender::new(facts)) }
    }

    /// What readers see, now and later.
    pub fn facts(&self) -> watch::Receiver<HostFacts> {
        self.facts.subscribe()
    }

    /// Replaces what is known of a topic; a new problem is logged.
    pub fn set(&self, topic: &'static str, problems: Vec<String>) {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let before = topics.insert(topic, problems.clone()).unwrap_or_default();
        for problem in problems.iter().filter(|p| !before.contains(p)) {
            tracing::warn!("{problem}");
        }
        let all: Vec<String> = topics.values().flatten().cloned().collect();
        self.facts.send_if_modified(|facts| {
            let changed = facts.problems != all;
            facts.problems = all;
            changed
        });
    }

    /// The host's role changed with its settings.
    pub fn set_role(&self, role: &str) {
        self.facts.send_if_modified(|facts| {
            let changed = facts.host_role != role;
            role.clone_into(&mut facts.host_role);
            changed
        });
    }
}
