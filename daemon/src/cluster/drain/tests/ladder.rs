//! How hard a pod is asked.

use std::time::Duration;

use proptest::prelude::*;

use crate::cluster::drain::ladder::{Clock, Move, Standing, next};

const fn s(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn at(now: u64, end: u64) -> Clock {
    Clock { now: s(now), end: s(end) }
}

fn standing(grace: u64) -> Standing {
    Standing { grace: s(grace), ..Standing::default() }
}

#[test]
fn each_rung_has_its_share_of_the_time() {
    let plain = standing(30);
    let for_good = Standing { for_good: true, others: true, ..standing(30) };
    let hopeless = Standing { hopeless: true, ..standing(30) };
    let paused = Standing { refused_until: s(20), ..standing(30) };
    let failed = Standing { paused_until: s(140), refused_until: s(150), ..standing(30) };
    let ending = |ends| Standing { ends: Some(s(ends)), ..standing(30) };
    let cases = [
        ("an eviction at once", &plain, at(0, 180), Move::Evict(None)),
        ("still one at three quarters less a second", &plain, at(134, 180), Move::Evict(None)),
        ("then budgets do not count", &plain, at(135, 180), Move::Delete(None)),
        ("nor later", &plain, at(160, 180), Move::Delete(Some(s(18)))),
        ("the last call", &plain, at(177, 180), Move::Delete(Some(s(1)))),
        ("nothing at the end", &plain, at(180, 180), Move::Leave),
        ("nor after it", &plain, at(200, 180), Move::Leave),
        ("in an emergency a grace of 30 s has to begin sooner", &plain, at(13, 45), Move::Delete(None)),
        ("in an emergency", &plain, at(12, 45), Move::Evict(None)),
        ("a long grace is cut from the beginning", &standing(600), at(0, 180), Move::Evict(Some(s(178)))),
        ("and its budget counts for a quarter of the time", &standing(600), at(44, 180), Move::Evict(Some(s(134)))),
        ("not longer", &standing(600), at(45, 180), Move::Delete(Some(s(133)))),
        ("what nothing makes anew waits for the others", &for_good, at(0, 180), Move::Wait),
        ("but not for ever", &for_good, at(68, 180), Move::Evict(None)),
        ("and not for nothing", &Standing { others: false, ..for_good.clone() }, at(0, 180), Move::Evict(None)),
        ("a budget that can never be met does not count", &hopeless, at(1, 180), Move::Delete(None)),
        ("refused a moment ago", &paused, at(19, 180), Move::Wait),
        ("not any more", &paused, at(20, 180), Move::Evict(None)),
        ("a refusal is none of a deletion's business, a failed call is", &failed, at(139, 180), Move::Wait),
        ("the failed call is tried again", &failed, at(140, 180), Move::Delete(None)),
        ("being terminated in time", &ending(50), at(20, 180), Move::Wait),
        ("too late since the deadline came nearer", &ending(50), at(20, 40), Move::Delete(Some(s(18)))),
        ("the last call for what would just make it", &ending(179), at(176, 180), Move::Delete(Some(s(1)))),
        ("its grace is over: only waiting helps", &ending(50), at(179, 180), Move::Wait),
        ("a second's difference changes nothing", &ending(38), at(20, 40), Move::Wait),
        ("hardly any time at all", &plain, Clock { now: Duration::ZERO, end: Duration::from_millis(1) }, Move::Evict(Some(s(1)))),
        ("none", &plain, at(0, 0), Move::Leave),
    ];
    for (what, pod, clock, expected) in cases {
        assert_eq!(next(pod, clock), expected, "{what}: {clock:?}");
    }
}

fn duration(most: u64) -> impl Strategy<Value = Duration> {
    (0..most * 1000).prop_map(Duration::from_millis)
}

prop_compose! {
    fn any_standing()(grace in duration(700), for_good: bool, others: bool, ends in prop::option::of(duration(700)), paused_until in duration(400), refused_until in duration(400), hopeless: bool) -> Standing {
        Standing { grace, for_good, others, ends, paused_until, refused_until, hopeless }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_is_asked_after_the_deadline_and_no_grace_reaches_beyond_it(pod in any_standing(), now in duration(400), end in duration(400)) {
        let step = next(&pod, Clock { now, end });
        prop_assert_eq!(step == Move::Leave, now >= end);
        if let Move::Evict(grace) | Move::Delete(grace) = step {
            let grace = grace.unwrap_or(pod.grace);
            prop_assert!(now + grace <= end || grace == s(1), "{grace:?}");
            prop_assert!(grace <= pod.grace.max(s(1)) || pod.ends.is_some());
        }
    }

    #[test]
    fn nothing_asked_is_undone_by_a_longer_grace(pod in any_standing(), ends in duration(700), now in duration(400), end in duration(400)) {
        let pod = Standing { ends: Some(ends), ..pod };
        match next(&pod, Clock { now, end }) {
            Move::Delete(Some(grace)) => prop_assert!(now + grace < ends),
            other => prop_assert!(matches!(other, Move::Wait | Move::Leave), "{other:?}"),
        }
    }

    /// A nearer deadline never makes it gentler.
    #[test]
    fn a_nearer_deadline_takes_no_rung_back(pod in any_standing(), now in duration(400), end in duration(400), sooner in duration(400)) {
        let rank = |step: Move| match step {
            Move::Wait => 0,
            Move::Evict(_) => 1,
            Move::Delete(_) => 2,
            Move::Leave => 3,
        };
        let pod = Standing { ends: None, ..pod };
        let later = rank(next(&pod, Clock { now, end: end + sooner }));
        let sooner = rank(next(&pod, Clock { now, end }));
        prop_assert!(sooner >= later);
    }

    /// However it is refused, it is deleted before the end, unless a pause outlasts it.
    #[test]
    fn the_ladder_is_climbed_to_its_end(pod in any_standing(), end in duration(400)) {
        let pod = Standing { ends: None, paused_until: Duration::ZERO, ..pod };
        prop_assume!(end > Duration::from_millis(10));
        let step = next(&pod, Clock { now: end.saturating_sub(Duration::from_millis(1)), end });
        prop_assert!(matches!(step, Move::Delete(Some(_))) || pod.grace <= s(1), "{step:?}");
    }
}
