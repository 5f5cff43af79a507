//! How hard a pod is asked to go, as time runs out: evict (its disruption budgets count) → force (also what nothing makes anew) →
//! disable-eviction (DELETE, budgets do not count) → a shorter grace → left to the stop of its host. A pure function of the time that is
//! left, asked anew whenever that changes. All times count from the beginning of the drain.

use std::time::Duration;

/// When it is, and when the drain must be over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Now.
    pub now: Duration,
    /// The deadline; it may come nearer from one question to the next.
    pub end: Duration,
}

/// What is known of a pod that has to go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// Between its SIGTERM and SIGKILL, as the pod wants it.
    pub grace: Duration,
    /// Nothing makes it anew.
    pub for_good: bool,
    /// Other pods of the node, which are made anew, are still there.
    pub others: bool,
    /// It is being terminated, and its grace ends then.
    pub ends: Option<Duration>,
    /// A call about it failed, and none is made until then.
    pub paused_until: Duration,
    /// Its eviction was refused, and it is not asked for again until then.
    pub refused_until: Duration,
    /// No eviction of it can succeed: its disruption budget cannot be met any more, or it has more than one.
    pub hopeless: bool,
}

/// What is done to a pod now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Nothing.
    Wait,
    /// Evicted; with this grace, or its own.
    Evict(Option<Duration>),
    /// Deleted; with this grace, or its own.
    Delete(Option<Duration>),
    /// The time is up.
    Leave,
}

/// The API server takes no shorter one: 0 would remove the pod before anybody knows that its processes ended, and a second one of a
/// StatefulSet could start beside it (kubectl delete also makes 1 of 0).
const SHORTEST: Duration = Duration::from_secs(1);

impl Clock {
    /// What the kubelet and the API server need beyond a pod's grace.
    fn margin(&self) -> Duration {
        (self.end / 10).min(Duration::from_secs(2))
    }

    /// From then on budgets do not count: so that the pod still gets its whole grace, but neither before a quarter of the time nor after
    /// three.
    fn disable_eviction_at(&self, grace: Duration) -> Duration {
        self.end.saturating_sub(self.margin()).saturating_sub(grace).clamp(self.end / 4, self.end / 4 * 3)
    }

    /// From then on pods go that nothing makes anew, whatever else is there.
    fn force_at(&self, grace: Duration) -> Duration {
        self.disable_eviction_at(grace) / 2
    }

    /// From then on nothing is waited for.
    fn last_call_at(&self) -> Duration {
        self.end.saturating_sub((self.end / 20).clamp(SHORTEST, Duration::from_secs(5)).min(self.end / 4))
    }

    /// `grace` where it ends in time (`None`: no need to say it), else what time allows in whole seconds.
    fn grace(&self, grace: Duration) -> Option<Duration> {
        let left = self.end.saturating_sub(self.margin()).saturating_sub(self.now);
        (grace > left).then(|| Duration::from_secs(left.as_secs()).max(SHORTEST))
    }
}

/// What is done to a pod now.
pub fn next(pod: &Standing, clock: Clock) -> Move {
    if clock.now >= clock.end {
        return Move::Leave;
    }
    if let Some(ends) = pod.ends {
        return shorten(pod, ends, clock);
    }
    if clock.now < pod.paused_until {
        return Move::Wait;
    }
    if pod.hopeless || clock.now >= clock.disable_eviction_at(pod.grace) {
        return Move::Delete(clock.grace(pod.grace));
    }
    if pod.for_good && pod.others && clock.now < clock.force_at(pod.grace) {
        return Move::Wait;
    }
    if clock.now < pod.refused_until { Move::Wait } else { Move::Evict(clock.grace(pod.grace)) }
}

/// A pod that is being terminated, but would take too long.
fn shorten(pod: &Standing, ends: Duration, clock: Clock) -> Move {
    let last_call = clock.now >= clock.last_call_at() && ends > clock.now + SHORTEST;
    let too_late = ends + clock.margin() > clock.end && ends > clock.now + SHORTEST;
    if clock.now < pod.paused_until || !(last_call || too_late) {
        return Move::Wait;
    }
    let grace = if last_call { SHORTEST } else { clock.grace(ends.saturating_sub(clock.now)).unwrap_or(SHORTEST) };
    // A grace in whole seconds that does not end sooner changes nothing.
    if clock.now + grace < ends { Move::Delete(Some(grace)) } else { Move::Wait }
}
