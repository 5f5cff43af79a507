//! Nouns of two metis hosts: what one says of itself to the other, and the Lease by which one of them commands.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::BootId;

/// What a host is doing to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It stops it.
    ShuttingDown,
    /// It starts it.
    StartingUp,
}

/// A run that is under way, or about to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// What it does.
    pub doing: Doing,
    /// Its id; empty: it is about to be admitted.
    pub run: String,
    /// The boot in which it was admitted.
    pub boot_id: BootId,
    /// How far it has come, for people.
    pub phase: String,
    /// Since its beginning, by that host's own clock.
    pub age: Duration,
}

/// The newest start-up that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its id.
    pub run: String,
    /// Its outcome, as in reports.
    pub outcome: String,
}

/// What a host says of itself. It holds no moment of a wall clock: those of two hosts may differ by minutes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Its host name, which its marks carry.
    pub host: String,
    /// Its role, as in `daemon.host_role`.
    pub role: String,
    /// Its present boot.
    pub boot_id: BootId,
    /// What is under way there.
    pub intents: Vec<Intent>,
    /// The newest start-up that has ended there.
    pub ended: Option<Ended>,
}

impl Word {
    /// What it does of that kind in its present boot; what an earlier one left behind counts no more.
    pub fn does(&self, doing: Doing) -> Option<&Intent> {
        self.intents.iter().find(|intent| intent.doing == doing && intent.boot_id == self.boot_id)
    }
}

/// What came of asking the other host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It said this.
    Said(Word),
    /// Its sshd is not reached: off, cable, hung.
    Unreachable(String),
    /// Its sshd lets us in, and its metisd does not answer.
    Silent(String),
    /// It is there and does not let us in, or is not whom we expect.
    Denied(String),
}

impl Answer {
    /// Why it could not be asked.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Said(_) => None,
            Self::Unreachable(why) | Self::Silent(why) | Self::Denied(why) => Some(why),
        }
    }

    /// `answers`, `unreachable`, `silent` or `denied`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Said(_) => "answers",
            Self::Unreachable(_) => "unreachable",
            Self::Silent(_) => "silent",
            Self::Denied(_) => "denied",
        }
    }
}

/// Who wants a start-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// Somebody at this host.
    Person,
    /// metis itself.
    Boot,
    /// The other host, which hands it over.
    OtherHost,
}

/// A Lease (coordination.k8s.io/v1) as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// Who holds it; empty: nobody.
    pub holder: String,
    /// The run that it is held for.
    pub run: String,
    /// Unrenewed for so long it is free.
    pub duration: Duration,
    /// By its holder's clock; nobody else counts on it.
    pub acquired: Option<Timestamp>,
    /// The same.
    pub renewed: Option<Timestamp>,
    /// How often its holder changed.
    pub transitions: u64,
    /// Changes with every write; empty: it was never written.
    pub version: String,
}

/// What is known of that Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseView {
    /// The API does not answer; why.
    Silent(String),
    /// Nobody holds it, or who did has not renewed it in time.
    Free,
    /// This host holds it.
    Ours,
    /// Somebody else renews it.
    Theirs {
        /// Who.
        holder: String,
        /// For this run.
        run: String,
    },
    /// Somebody else holds it, and whether he renews it shows within this time.
    Unsure {
        /// Who.
        holder: String,
        /// For this run.
        run: String,
        /// Until then it is his.
        left: Duration,
    },
}

impl LeaseView {
    /// Held by somebody else, as far as is known: for that run.
    pub fn other(&self) -> Option<(&str, &str)> {
        match self {
            Self::Theirs { holder, run } | Self::Unsure { holder, run, .. } => Some((holder, run)),
            Self::Silent(_) | Self::Free | Self::Ours => None,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        match self {
            Self::Silent(why) => format!("the API does not answer: {why}"),
            Self::Free => "nobody holds the Lease".to_owned(),
            Self::Ours => "this host holds the Lease".to_owned(),
            Self::Theirs { holder, run } => format!("{holder} holds the Lease for {run} and renews it"),
            Self::Unsure { holder, run, left } => {
                format!("{holder} held the Lease for {run}; whether it renews it is known in {} s", left.as_secs().max(1))
            }
        }
    }
}

/// Whether runs of that id stop the cluster.
pub fn is_shutdown(run: &str) -> bool {
    run.starts_with("shutdown-")
}
