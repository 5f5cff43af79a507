//! The UPS corpus: every case of `corpus/cases.rs` decided twice, by the policy alone in virtual time and by the real metisd, disarmed, on
//! a real upsd with dummy-ups. Both have to decide as the table says.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test; figures are shown, not asserted"
)]

#[path = "corpus/cases.rs"]
mod cases;
#[path = "corpus/real.rs"]
mod real;
#[path = "corpus/replay.rs"]
mod replay;

use std::collections::BTreeSet;

use cases::{CASES, Case, Expect};
use metis_tests::nut::available;

/// So much earlier than in the table a real decision may come (metis polls at other moments), and so much later (the driver's own poll, upsd,
/// a busy machine): a bound between right and wrong decisions, not a measure of speed.
const EARLY: f64 = 1.0;
const LATE: f64 = 15.0;

/// Whether the triggers (seconds of the script) are what the table says, give or take.
fn wrong(expect: Expect, triggers: &[f64], early: f64, late: f64) -> Option<String> {
    match (expect, triggers) {
        (Expect::Quiet, []) => None,
        (Expect::Quiet, _) => Some(format!("FALSE: triggered at {triggers:.1?}")),
        (Expect::Trigger(..), []) => Some("MISSED".to_owned()),
        (Expect::Trigger(from, to), [at]) if (from - early..=to + late).contains(at) => None,
        (Expect::Trigger(from, to), all) => Some(format!("triggered at {all:.1?}, expected once in {from:.1}..{to:.1}")),
    }
}

fn judged(how: &str, early: f64, late: f64, decide: impl Fn(&Case, usize) -> Vec<f64>) {
    let (mut bad, mut decided) = (Vec::new(), 0);
    for case in CASES {
        for (number, (_, expect)) in case.domains.iter().enumerate() {
            let triggers = decide(case, number);
            decided += 1;
            println!("{how}: {}[{number}]: {expect:?}, triggered at {triggers:.1?}", case.name);
            bad.extend(wrong(*expect, &triggers, early, late).map(|what| format!("{}[{number}]: {what}", case.name)));
        }
    }
    println!("{how}: {decided} decisions, {} wrong", bad.len());
    assert!(bad.is_empty(), "{how}: {bad:#?}");
}

#[test]
fn the_table_is_whole() {
    let names: BTreeSet<&str> = CASES.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), CASES.len(), "a name stands twice");
    let triggers = CASES.iter().flat_map(|case| case.domains).filter(|(_, expect)| *expect != Expect::Quiet).count();
    assert!(CASES.len() >= 50 && triggers >= 18, "{} cases, {triggers} triggers", CASES.len());
}

#[test]
fn decided_by_the_policy_in_virtual_time() {
    judged("policy", 0.0, 0.0, |case, domain| replay::triggers(case).remove(domain));
}

#[test]
fn decided_by_metisd_on_a_real_upsd() {
    if !available("corpus") {
        return;
    }
    let decided = real::decide().unwrap();
    judged("metisd", EARLY, LATE, |case, domain| decided[case.name][domain].clone());
}
