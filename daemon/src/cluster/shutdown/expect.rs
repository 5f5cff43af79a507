//! How long a step is taken to need.

use std::time::Duration;

use crate::site::{Learned, Step};

/// What was learned of that kind of step on that host, else what such a step needs on a small site; never more than it may take.
pub(super) fn expected(learned: &Learned, action: &Step, host: &str, ceiling: Duration) -> Duration {
    learned.get(action.kind(), host).unwrap_or_else(|| unmeasured(action)).min(ceiling)
}

/// Until it was measured.
fn unmeasured(action: &Step) -> Duration {
    Duration::from_secs(match action {
        Step::Drain { cordon_only: true, .. } | Step::Uncordon { .. } | Step::SetFsd { .. } | Step::CutOutlets { .. } => 1,
        Step::PowerOff { .. } | Step::PowerOffThisHost { .. } => 3,
        Step::Collect | Step::SuspendFlux | Step::ResumeFlux | Step::StartK3s { .. } => 5,
        Step::StopK3s { .. } | Step::EndLeftovers { .. } => 8,
        Step::SnapshotEtcd { .. } | Step::DumpDatastore { .. } | Step::AwaitSecondaries { .. } => 15,
        Step::AwaitDetach { .. } => 20,
        _ => 40,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_comes_first_and_the_ceiling_is_kept() {
        let stop = Step::StopK3s { node: "titan-13".into(), role: crate::site::K3sRole::Agent };
        let secs = Duration::from_secs;
        let mut learned = Learned::default();
        assert_eq!(expected(&learned, &stop, "titan-13", secs(60)), secs(8));
        assert_eq!(expected(&learned, &stop, "titan-13", secs(3)), secs(3));
        learned.steps.insert("k3s.stop".into(), secs(20));
        assert_eq!(expected(&learned, &stop, "titan-13", secs(60)), secs(20), "of any host");
        learned.steps.insert("k3s.stop titan-13".into(), secs(2));
        assert_eq!(expected(&learned, &stop, "titan-13", secs(60)), secs(2), "of this host");
    }
}
