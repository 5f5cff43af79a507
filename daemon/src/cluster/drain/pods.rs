//! Bookkeeping of a drain: what was seen of each pod, what was asked of it, what is asked next. Pure; times count from the beginning.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::budget::{self, Surroundings};
use super::filter::{Fate, Keep, Rules, daemon_set, fate};
use super::ladder::{self, Clock, Move, Standing};
use crate::cluster::objects::Pod;
use crate::cluster::port::Drained;

/// `terminationGracePeriodSeconds` where a pod says nothing (corev1.DefaultTerminationGracePeriodSeconds).
const GRACE: u64 = 30;

/// An eviction that was granted, but of which nothing is seen for so long, is asked for again.
const SEEN_AFTER: Duration = Duration::from_secs(5);

/// Finalizers hold a pod whose grace is over by so much.
const HELD_AFTER: Duration = Duration::from_secs(2);

/// An API server that refuses for its load and says no time is left alone for so long.
const OVERLOADED: Duration = Duration::from_secs(1);

/// What was asked of a pod, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It is being terminated.
    Granted,
    /// It is not there any more, or another one of its name is.
    Gone,
    /// 429 for a disruption budget: not now; why, and when to ask again.
    NotNow(String, Option<Duration>),
    /// 429 because the API server has too much to do; what it said, and when to ask again.
    Busy(String, Option<Duration>),
    /// Never by eviction; why.
    Never(String),
    /// The call had no result; why.
    Failed(String),
}

/// A pod that has to go.
#[derive(Debug, Clone)]
struct Tracked {
    pod: Pod,
    standing: Standing,
    /// A call about it is under way.
    busy: bool,
    /// Since when it is known to be terminated at our wish.
    asked: Option<Duration>,
    /// Why it is still there.
    why: String,
    /// It was refused for its disruption budget.
    refused: bool,
    gone: bool,
}

/// All pods of the node.
#[derive(Debug, Default)]
pub struct Pods {
    tracked: BTreeMap<String, Tracked>,
    /// Controllers of pods that had to go: what they make anew on this node, cordon or not, is not evicted a second time.
    controllers: BTreeSet<String>,
    returned: BTreeSet<String>,
    kept: BTreeMap<Keep, u32>,
    listed: bool,
    rungs: Vec<String>,
}

/// A call that is to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// UID of the pod.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// [`Move::Evict`] or [`Move::Delete`].
    pub step: Move,
}

impl Pods {
    /// Takes over a list of the node's pods, as it was at `asked`.
    pub fn see(&mut self, pods: Vec<Pod>, rules: &Rules, gone_sets: &BTreeSet<(String, String)>, asked: Duration) {
        let present: BTreeSet<String> = pods.iter().map(|pod| pod.metadata.uid.clone()).collect();
        for (uid, tracked) in &mut self.tracked {
            tracked.gone = !present.contains(uid);
        }
        let first = !std::mem::replace(&mut self.listed, true);
        for pod in pods {
            if let Some(tracked) = self.tracked.get_mut(&pod.metadata.uid) {
                tracked.see(pod, asked);
                continue;
            }
            match fate(&pod, rules, gone_sets) {
                Fate::Keep(why) if first => *self.kept.entry(why).or_default() += 1,
                Fate::Keep(_) => {}
                Fate::Go | Fate::GoForGood if !first && self.is_return(&pod) => {
                    self.returned.insert(pod.metadata.key());
                }
                fate => self.track(pod, fate == Fate::GoForGood, asked),
            }
        }
    }

    fn is_return(&self, pod: &Pod) -> bool {
        pod.metadata.controller().is_some_and(|owner| self.controllers.contains(&owner.uid))
    }

    fn track(&mut self, pod: Pod, for_good: bool, asked: Duration) {
        self.controllers.extend(pod.metadata.controller().map(|owner| owner.uid.clone()));
        let grace = Duration::from_secs(pod.spec.termination_grace_period_seconds.unwrap_or(GRACE));
        let standing = Standing { grace, for_good, ..Standing::default() };
        let uid = pod.metadata.uid.clone();
        let mut tracked = Tracked {
            pod: Pod::default(),
            standing,
            busy: false,
            asked: None,
            why: "was not asked yet".to_owned(),
            refused: false,
            gone: false,
        };
        tracked.see(pod, asked);
        self.tracked.insert(uid, tracked);
    }

    /// DaemonSets that pods of the list belong to and that must be looked up before [`Pods::see`].
    pub fn daemon_sets(pods: &[Pod]) -> BTreeSet<(String, String)> {
        pods.iter().filter(|pod| !pod.finished()).filter_map(daemon_set).collect()
    }

    /// The calls to make now; each is under way until [`Pods::said`]. Lines for people say what rung was taken for which pods.
    pub fn tasks(&mut self, clock: Clock) -> (Vec<Task>, Vec<String>) {
        let others = self.tracked.values().any(|tracked| !tracked.gone && !tracked.standing.for_good);
        let mut tasks = Vec::new();
        let mut taken: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        for (uid, tracked) in self.tracked.iter_mut().filter(|(_, tracked)| !tracked.gone && !tracked.busy) {
            tracked.standing.others = others;
            let step = ladder::next(&tracked.standing, clock);
            if !matches!(step, Move::Evict(_) | Move::Delete(_)) {
                continue;
            }
            if let Some(rung) = tracked.rung(step) {
                taken.entry(rung).or_default().push(tracked.pod.metadata.key());
            }
            tracked.busy = true;
            let (namespace, name) = (tracked.pod.metadata.namespace.clone(), tracked.pod.metadata.name.clone());
            tasks.push(Task { uid: uid.clone(), namespace, name, step });
        }
        let mut lines: Vec<String> = taken.into_iter().map(|(rung, pods)| format!("{rung}: {}", pods.join(", "))).collect();
        lines.retain(|line| !self.rungs.contains(line));
        self.rungs.extend(lines.iter().cloned());
        (tasks, lines)
    }

    /// Takes over what came of a task.
    pub fn said(&mut self, task: &Task, said: Said, now: Duration) {
        let Some(tracked) = self.tracked.get_mut(&task.uid) else { return };
        tracked.busy = false;
        match said {
            // The next list shows it.
            Said::Gone => tracked.standing.paused_until = now + Duration::from_secs(2),
            Said::Granted => tracked.granted(task.step, now),
            Said::NotNow(why, after) => {
                tracked.refused = true;
                tracked.why = why;
                tracked.standing.refused_until = now + pause(&task.uid, after);
            }
            Said::Busy(why, after) => {
                tracked.why = why;
                tracked.standing.paused_until = now + after.unwrap_or(OVERLOADED) + spread(&task.uid);
            }
            Said::Never(why) => {
                tracked.why = why;
                tracked.standing.hopeless = true;
            }
            Said::Failed(why) => {
                tracked.why = why;
                tracked.standing.paused_until = now + Duration::from_secs(1);
            }
        }
    }

    /// Namespaces with pods that were refused for their budgets, of which it is not known yet whether that can change.
    pub fn refused_in(&self) -> BTreeSet<String> {
        let open = |tracked: &&Tracked| tracked.refused && !tracked.gone && !tracked.standing.hopeless && tracked.standing.ends.is_none();
        self.tracked.values().filter(open).map(|tracked| tracked.pod.metadata.namespace.clone()).collect()
    }

    /// Judges the refused pods of a namespace.
    pub fn judge(&mut self, namespace: &str, around: &Surroundings, beside: &BTreeSet<String>) {
        for tracked in self.tracked.values_mut().filter(|tracked| tracked.refused && tracked.pod.metadata.namespace == namespace) {
            let budgets = budget::refusing(&tracked.pod, around).join(", ");
            if budgets.is_empty() || tracked.standing.ends.is_some() {
                continue;
            }
            tracked.why = format!("its disruption budget {budgets} allows no eviction");
            if budget::hopeless(&tracked.pod, around, beside) {
                tracked.why.push_str(", and never can: no node is left that would take a new pod");
                tracked.standing.hopeless = true;
            }
        }
    }

    /// Whether nothing that had to go runs any more.
    pub fn done(&self, now: Duration) -> bool {
        self.listed && self.tracked.values().all(|tracked| tracked.gone || (!tracked.busy && tracked.held(now)))
    }

    /// Whether the pods were listed at all.
    pub fn listed(&self) -> bool {
        self.listed
    }

    /// One line: how many go and how many stay.
    pub fn summary(&self) -> String {
        let kept: Vec<String> = self.kept.iter().map(|(why, count)| format!("{count} {}", why.name())).collect();
        let stay = if kept.is_empty() { String::new() } else { format!("; {} stay", kept.join(", ")) };
        format!("{} pods to evict{stay}", self.tracked.len())
    }

    /// How it ended.
    pub fn result(&self) -> Drained {
        let left =
            self.tracked.values().filter(|tracked| !tracked.gone).map(|tracked| format!("{}: {}", tracked.pod.metadata.key(), tracked.why));
        let returned = self.returned.iter().map(|key| format!("{key}: came back to the cordoned node (it tolerates the cordon)"));
        Drained {
            gone: self.tracked.values().filter(|tracked| tracked.gone).count() as u32,
            rungs: self.rungs.clone(),
            left: left.chain(returned).collect(),
        }
    }
}

impl Tracked {
    /// The pod as it was at `asked`.
    fn see(&mut self, pod: Pod, asked: Duration) {
        if pod.deleting() && self.standing.ends.is_none() {
            // Somebody else's deletion, or one that we do not know the answer of: it began at `asked` at the latest.
            let grace = pod.metadata.deletion_grace_period_seconds.map_or(self.standing.grace, Duration::from_secs);
            self.standing.ends = Some(asked + grace);
            "is being terminated".clone_into(&mut self.why);
        }
        if !pod.deleting() && self.asked.is_some_and(|granted| asked > granted + SEEN_AFTER) {
            self.standing.ends = None;
            self.asked = None;
            "its eviction was granted, but it was not terminated".clone_into(&mut self.why);
        }
        if pod.deleting() && pod.finished() && !pod.metadata.finalizers.is_empty() {
            self.why = format!("has ended, but finalizers hold it: {}", pod.metadata.finalizers.join(", "));
        }
        self.pod = pod;
    }

    fn granted(&mut self, step: Move, now: Duration) {
        let (Move::Evict(grace) | Move::Delete(grace)) = step else { return };
        let grace = grace.unwrap_or(self.standing.grace);
        self.standing.ends = Some(now + grace);
        self.standing.paused_until = Duration::ZERO;
        self.asked = Some(now);
        self.refused = false;
        self.why = format!("has not ended within its grace of {} s", grace.as_secs());
    }

    /// Only finalizers keep the object; its processes ended.
    fn held(&self, now: Duration) -> bool {
        let over = self.standing.ends.is_some_and(|ends| now > ends + HELD_AFTER);
        self.pod.deleting() && self.pod.finished() && over && !self.pod.metadata.finalizers.is_empty()
    }

    /// The name of the rung that a move is, beyond plain eviction.
    fn rung(&self, step: Move) -> Option<&'static str> {
        match step {
            Move::Delete(_) if self.standing.ends.is_some() => Some("shorter grace"),
            Move::Delete(_) => Some("disable-eviction (disruption budgets do not count)"),
            Move::Evict(_) if self.standing.for_good => Some("force (nothing makes them anew)"),
            Move::Evict(Some(_)) => Some("shorter grace"),
            _ => None,
        }
    }
}

/// kubectl pauses 5 s after a 429.
fn pause(uid: &str, after: Option<Duration>) -> Duration {
    after.unwrap_or(Duration::from_secs(4)).max(Duration::from_secs(4)) + spread(uid)
}

/// Up to two seconds, by UID: a thousand pods are not asked for at once again.
fn spread(uid: &str) -> Duration {
    let hash = uid.bytes().fold(0u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
    Duration::from_millis(hash % 2000)
}
