//! Pure: which of two metis hosts commands a start-up.
//!
//! The coordinator does; the peer hands a start-up over to it, and takes it itself only where the coordinator is reached neither by SSH nor
//! seen by the Lease. What the other host does is read first: its shutdown is not started against, and its start-up is not doubled.
//! A shutdown has no rule here: the battery does not wait for anybody, so nothing about the other host holds one up.
//!
//! No moment of a wall clock is compared: the clocks of two hosts may differ by minutes. Ages are the other host's own, whether the Lease is
//! renewed is observed on our own clock, and so is for how long a host has not been reached.

use std::time::Duration;

use crate::site::{Answer, Asker, Doing, Guard, Intent, LeaseView, Word};

/// Who reached us so recently is alive, whether we reach him or not.
pub const HEARD_FOR: Duration = Duration::from_secs(90);

/// What this host is to the start-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It commands.
    Coordinator,
    /// It takes over.
    Peer,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Peer => "peer",
        }
    }
}

/// All that it is decided by.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// Ours.
    pub role: Role,
    /// Our host name.
    pub me: &'a str,
    /// The other host's name in the inventory.
    pub other: &'a str,
    /// Who wants the start-up.
    pub asker: Asker,
    /// What came of asking the other host.
    pub answer: &'a Answer,
    /// For how long it has not been reached, without a break; zero: it was.
    pub unreachable_for: Duration,
    /// Since it reached us; `None`: it never did.
    pub heard: Option<Duration>,
    /// The Lease.
    pub lease: &'a LeaseView,
    /// Its word is waived.
    pub allow_peer_startup: bool,
    /// The peer may take over.
    pub auto_peer_failover: bool,
    /// It has to have been unreachable for so long, where nobody asks.
    pub takeover_after: Duration,
}

/// What this host does with a start-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// It runs it; why it may.
    GoOn(String),
    /// The other host runs it; why.
    HandOver(String),
    /// It cannot be decided yet; why.
    Wait(String),
    /// It does not run.
    Refuse(Guard),
}

/// Who commands.
pub fn startup(facts: &Facts<'_>) -> Command {
    if let Answer::Said(word) = facts.answer {
        return with_its_word(facts, word);
    }
    let why = facts.answer.why().unwrap_or_default();
    if let LeaseView::Theirs { holder, run } = facts.lease {
        let message = format!("{holder} commands: it renews the Lease for {run}, although {} cannot be asked ({why})", facts.other);
        return refuse("peer.intent", message, None);
    }
    if facts.allow_peer_startup {
        return Command::GoOn(format!("{} cannot be asked ({why}), and need not be (--allow-peer-startup)", facts.other));
    }
    if let (LeaseView::Unsure { .. }, Role::Peer) = (facts.lease, facts.role) {
        return Command::Wait(format!("{} cannot be asked ({why}), and {}", facts.other, facts.lease.text()));
    }
    match facts.role {
        Role::Coordinator => unreachable(facts, why, "see to it, or start without its word"),
        Role::Peer => take_over(facts, why),
    }
}

fn with_its_word(facts: &Facts<'_>, word: &Word) -> Command {
    let other = facts.other;
    if word.host == facts.me {
        let message = format!("peer.host: {other} is this very host ({}): name the other one", word.host);
        return refuse("peer.role", message, None);
    }
    if let Some(intent) = word.does(Doing::ShuttingDown) {
        let message = format!("{other} shuts the site down ({}): wait for its end, or cancel it there", shown(intent));
        return refuse("peer.intent", message, None);
    }
    if let Some(intent) = word.does(Doing::StartingUp) {
        let message = format!("{other} starts the cluster already ({}): follow it there", shown(intent));
        return refuse("peer.intent", message, None);
    }
    match (facts.role, word.role.as_str()) {
        (role, theirs) if role.name() == theirs => {
            let message = format!("{other} is {theirs} too: of two hosts one is the coordinator and one the peer (daemon.host_role)");
            refuse("peer.role", message, None)
        }
        (Role::Coordinator, _) => Command::GoOn(format!("{other} does nothing to the cluster")),
        (Role::Peer, "coordinator") if facts.asker == Asker::OtherHost => {
            let message = format!("{other} is the coordinator, and hands its own start-up to nobody");
            refuse("peer.role", message, None)
        }
        (Role::Peer, "coordinator") => Command::HandOver(format!("{other} is the coordinator, and is there")),
        (Role::Peer, theirs) => {
            let message = format!("daemon.host_role of {other} is `{theirs}`: a peer needs a coordinator to hand the start-up to");
            refuse("peer.role", message, None)
        }
    }
}

/// The peer, whose coordinator does not answer.
fn take_over(facts: &Facts<'_>, why: &str) -> Command {
    let other = facts.other;
    if let Some(heard) = facts.heard.filter(|heard| *heard < HEARD_FOR) {
        let hint = format!("it reached us {} s ago, so it is alive: start there, or see why it is not reached from here", heard.as_secs());
        return unreachable(facts, why, &hint);
    }
    match facts.answer {
        Answer::Unreachable(_) if !facts.auto_peer_failover => {
            unreachable(facts, why, "the peer takes over with --auto-peer-failover only")
        }
        Answer::Unreachable(_) if facts.asker == Asker::Boot && facts.unreachable_for < facts.takeover_after => {
            let left = facts.takeover_after.saturating_sub(facts.unreachable_for).as_secs().max(1);
            Command::Wait(format!("{other} is not reached ({why}): the peer takes over in {left} s"))
        }
        Answer::Unreachable(_) => Command::GoOn(format!("{other} is not reached ({why}), and {}: the peer takes over", facts.lease.text())),
        Answer::Silent(_) => unreachable(facts, why, "its host is on: systemd starts metisd there again"),
        Answer::Denied(_) => unreachable(facts, why, "it is there: the peer takes nothing over from a host that is"),
        // Decided by its word.
        Answer::Said(_) => Command::Wait(format!("{other} has answered")),
    }
}

fn unreachable(facts: &Facts<'_>, why: &str, hint: &str) -> Command {
    let message = format!("{}, the other metis host, cannot be asked what it does: {why}; {hint}", facts.other);
    refuse("peer.unreachable", message, Some("--allow-peer-startup"))
}

fn refuse(name: &str, message: String, waiver: Option<&str>) -> Command {
    Command::Refuse(Guard { name: name.to_owned(), message, waiver: waiver.map(ToOwned::to_owned) })
}

/// An intent for people.
pub fn shown(intent: &Intent) -> String {
    let run = if intent.run.is_empty() { "about to begin" } else { &intent.run };
    let phase = if intent.phase.is_empty() { String::new() } else { format!(", {}", intent.phase) };
    format!("{run}{phase}, for {} s", intent.age.as_secs())
}

#[cfg(test)]
mod tests;
