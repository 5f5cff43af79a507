//! Pure: cordons on lease. What metis' own cordons on the live nodes mean, and what becomes of them.
//!
//! Only a person renews a lease. What expires is cleared where its reason is gone, else the node is marked for a person; it is never
//! forgotten. A host that is down keeps its cordon until the start-up's own step. Cordons of others are not looked at.

use jiff::Timestamp;

use super::seen::NodeSeen;
use crate::site::{Mark, Now};

/// A cordon that the journal knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The node, by its Kubernetes name.
    pub node: String,
    /// When it expires; `None`: it was placed without a lease, and ends with its run.
    pub expires: Option<Timestamp>,
    /// The run that placed it is under way.
    pub run_active: bool,
    /// metis stopped k3s on the node's host, or powered it off, and has not brought it back.
    pub host_down: bool,
    /// A start-up is under way: it has a step of its own for cordons.
    pub starting: bool,
    /// It is marked for a person already.
    pub marked: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Its reason is gone: it is cleared.
    Clear {
        /// On this node.
        node: String,
    },
    /// It has expired, and its reason is not known to be gone: a person has to look.
    Mark {
        /// On this node.
        node: String,
        /// Why.
        because: String,
    },
    /// The node carries our mark, and the journal does not know it.
    Adopt {
        /// On this node.
        node: String,
        /// As it stands there.
        mark: Mark,
    },
    /// What stands on the node is not what the journal says of the lease.
    Correct {
        /// On this node.
        node: String,
        /// As it has to stand there.
        mark: Mark,
    },
    /// Somebody else ended it.
    Forget {
        /// On this node.
        node: String,
        /// How.
        because: String,
    },
}

/// What becomes of the cordons of `holder`, this host. An unreachable API has no nodes to show: then nothing is to be decided, and the
/// leases are still held.
pub fn reconcile(holder: &str, held: &[Held], nodes: &[NodeSeen], now: &Now) -> Vec<Action> {
    let known = held.iter().filter_map(|lease| due(holder, lease, nodes.iter().find(|node| node.name == lease.node), now));
    let unknown = nodes.iter().filter_map(|node| {
        let mark = node.mark.as_ref().filter(|mark| mark.holder == holder && node.unschedulable)?;
        let known = held.iter().any(|lease| lease.node == node.name);
        (!known).then(|| Action::Adopt { node: node.name.clone(), mark: mark.clone() })
    });
    known.chain(unknown).collect()
}

/// What is still to be done where `before` the nodes were looked at these were held: a cordon that was let go of meanwhile is not unknown,
/// and adopting it would hold what is gone. The next look tells.
pub fn unless_let_go(actions: Vec<Action>, before: &std::collections::BTreeSet<String>) -> Vec<Action> {
    let late = |action: &Action| matches!(action, Action::Adopt { node, .. } if before.contains(node));
    actions.into_iter().filter(|action| !late(action)).collect()
}

fn due(holder: &str, lease: &Held, node: Option<&NodeSeen>, now: &Now) -> Option<Action> {
    let forget = |because: &str| Some(Action::Forget { node: lease.node.clone(), because: because.to_owned() });
    let Some(node) = node else { return forget("the node is not there any more") };
    // Claimed, and not placed yet.
    if lease.run_active {
        return None;
    }
    if !node.unschedulable {
        return forget("somebody else uncordoned it");
    }
    match &node.mark {
        None => return forget("somebody made the cordon his own"),
        Some(mark) if mark.holder != holder => return forget(&format!("{} holds it now", mark.holder)),
        Some(mark) if differs(mark.expires, lease.expires) => {
            return Some(Action::Correct { node: lease.node.clone(), mark: Mark { expires: lease.expires, ..mark.clone() } });
        }
        Some(_) => {}
    }
    // Expiry runs on wall time, and a clock that is not synchronised cannot tell.
    let expired = now.synced && lease.expires.is_none_or(|expires| now.wall >= expires);
    if !expired || lease.starting {
        return None;
    }
    // Also where somebody started by hand what metis had stopped.
    if node.ready && node.lease_fresh {
        return Some(Action::Clear { node: lease.node.clone() });
    }
    if lease.host_down {
        return None;
    }
    let because = "its lease has expired, and the node is not Ready: uncordon it once it is well, or renew the lease".to_owned();
    (!lease.marked).then(|| Action::Mark { node: lease.node.clone(), because })
}

/// The annotation has whole seconds.
fn differs(shown: Option<Timestamp>, known: Option<Timestamp>) -> bool {
    shown.map(Timestamp::as_second) != known.map(Timestamp::as_second)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::site::BootId;

    const NOW: i64 = 1_800_000_000;

    fn now(synced: bool) -> Now {
        Now { wall: Timestamp::from_second(NOW).unwrap(), boot: Duration::from_secs(1000), boot_id: BootId::new("b"), synced }
    }

    fn mark(holder: &str) -> Mark {
        Mark { holder: holder.into(), run: "shutdown-1".into(), step: "drain.titan-13".into(), reason: String::new(), expires: None }
    }

    fn node() -> NodeSeen {
        NodeSeen {
            name: "titan-13".into(),
            ready: true,
            lease_fresh: true,
            boot_id: "x".into(),
            unschedulable: true,
            mark: Some(mark("titan-db")),
        }
    }

    fn held(expires: i64) -> Held {
        let expires = Some(Timestamp::from_second(NOW + expires).unwrap());
        Held { node: "titan-13".into(), expires, run_active: false, host_down: false, starting: false, marked: false }
    }

    /// What becomes of it where the node's annotation says what the journal says.
    fn word(held: &[Held], mut node: NodeSeen, now: &Now) -> &'static str {
        if let (Some(lease), Some(mark)) = (held.first(), node.mark.as_mut()) {
            mark.expires = lease.expires;
        }
        match reconcile("titan-db", held, &[node], now).as_slice() {
            [] => "held",
            [Action::Clear { .. }] => "cleared",
            [Action::Mark { .. }] => "marked",
            [Action::Adopt { .. }] => "adopted",
            [Action::Forget { .. }] => "forgotten",
            _ => "more than one",
        }
    }

    #[test]
    fn a_cordon_that_was_let_go_of_during_the_look_is_not_adopted() {
        let (known, none) = (["titan-13".to_owned()].into(), std::collections::BTreeSet::new());
        let adopts = || reconcile("titan-db", &[], &[node()], &now(true));
        assert!(matches!(unless_let_go(adopts(), &none)[..], [Action::Adopt { .. }]));
        assert!(unless_let_go(adopts(), &known).is_empty());
        let forgets = reconcile("titan-db", &[held(60)], &[], &now(true));
        assert!(matches!(unless_let_go(forgets, &known)[..], [Action::Forget { .. }]));
    }

    #[test]
    fn the_table() {
        let old = held(-1);
        let one = std::slice::from_ref(&old);
        let foreign = NodeSeen { mark: None, ..node() };
        let peers = NodeSeen { mark: Some(mark("tethys")), ..node() };
        let lost = NodeSeen { lease_fresh: false, ..node() };
        let cases: &[(&str, &[Held], NodeSeen, bool, &str)] = &[
            ("its time has not come", &[held(60)], node(), true, "held"),
            ("expired, and all is well", one, node(), true, "cleared"),
            ("expired, and the clock cannot tell", one, node(), false, "held"),
            ("expired, and the node is not well", one, lost.clone(), true, "marked"),
            ("the same, marked before", &[Held { marked: true, ..old.clone() }], lost.clone(), true, "held"),
            ("expired, and its run is under way", &[Held { run_active: true, ..old.clone() }], node(), true, "held"),
            ("expired, and its host was stopped", &[Held { host_down: true, ..old.clone() }], lost, true, "held"),
            ("the same, started by hand meanwhile", &[Held { host_down: true, ..old.clone() }], node(), true, "cleared"),
            ("expired in the midst of a start-up", &[Held { starting: true, ..old.clone() }], node(), true, "held"),
            ("uncordoned by hand", &[held(60)], NodeSeen { unschedulable: false, mark: None, ..node() }, true, "forgotten"),
            ("made somebody's own", &[held(60)], foreign.clone(), true, "forgotten"),
            ("a foreign cordon", &[], foreign, true, "held"),
            ("the peer's cordon", &[], peers.clone(), true, "held"),
            ("taken over by the peer", one, peers, true, "forgotten"),
            ("ours, and not in the journal", &[], node(), true, "adopted"),
        ];
        for (name, held, node, synced, wanted) in cases {
            assert_eq!(word(held, node.clone(), &now(*synced)), *wanted, "{name}");
        }
        let gone = reconcile("titan-db", &[held(60)], &[], &now(true));
        assert!(matches!(gone.as_slice(), [Action::Forget { because, .. }] if because.contains("not there")), "{gone:?}");
    }

    #[test]
    fn what_stands_on_the_node_follows_the_journal() {
        let renewed = held(7200);
        let actions = reconcile("titan-db", std::slice::from_ref(&renewed), &[node()], &now(true));
        let mark = Mark { expires: renewed.expires, ..mark("titan-db") };
        assert_eq!(actions, [Action::Correct { node: "titan-13".to_owned(), mark: mark.clone() }]);
        assert_eq!(word(&[renewed], NodeSeen { mark: Some(mark), ..node() }, &now(true)), "held");
    }

    proptest! {
        #[test]
        fn foreign_cordons_are_never_touched_and_nothing_is_cleared_early(
            expires in -100_i64..100, synced: bool, ready: bool, fresh: bool, unschedulable: bool, ours: Option<bool>,
            active: bool, down: bool, starting: bool, marked: bool, known: bool, drifted: bool,
        ) {
            let shown = held(if drifted { expires + 10 } else { expires }).expires;
            let mark = ours.map(|ours| Mark { expires: shown, ..mark(if ours { "titan-db" } else { "tethys" }) });
            let is_ours = ours == Some(true);
            let node = NodeSeen { ready, lease_fresh: fresh, unschedulable, mark, ..node() };
            let lease = Held { run_active: active, host_down: down, starting, marked, ..held(expires) };
            let leases = if known { vec![lease] } else { Vec::new() };
            let actions = reconcile("titan-db", &leases, std::slice::from_ref(&node), &now(synced));
            prop_assert!(actions.len() <= 1, "{actions:?}");
            for action in actions {
                match action {
                    Action::Correct { mark, .. } => {
                        prop_assert!(known && drifted && is_ours && unschedulable && !active && mark.expires == held(expires).expires);
                    }
                    Action::Clear { .. } => prop_assert!(known && !drifted && synced && expires <= 0 && !starting && !active && ready && fresh && is_ours),
                    Action::Mark { .. } => prop_assert!(known && !drifted && synced && expires <= 0 && !down && !starting && is_ours),
                    Action::Adopt { mark, .. } => prop_assert!(!known && mark.holder == "titan-db" && unschedulable),
                    Action::Forget { .. } => prop_assert!(known && !active && (!unschedulable || !is_ours)),
                }
            }
        }
    }
}
