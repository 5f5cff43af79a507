//! What UPSes say, and whether that is a reason to stop the site.
//!
//! A script is a list of (seconds, word). Words: the tokens of `ups.status` with `c=` and `r=` for charge and runtime (empty, in all of a
//! script: there is no such number); `FSD` among them is set on upsd by a primary and stays; `dead`: the driver is killed; `stale`: it is frozen; `gone`: the network
//! to upsd is cut; `upsd`: upsd and its drivers are restarted after that time.

use std::time::Duration;

/// One script for each UPS.
pub type Script = &'static [(u64, &'static str)];

/// A decision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Expect {
    /// No trigger, ever.
    Quiet,
    /// Exactly one, between these seconds of the script as the policy sees it.
    Trigger(f64, f64),
}

/// A domain: which of the case's UPSes feed it, and what is to be decided.
pub type Domain = (&'static [usize], Expect);

/// A case.
pub struct Case {
    /// What it is.
    pub name: &'static str,
    /// Its UPSes.
    pub scripts: &'static [Script],
    /// Its domains.
    pub domains: &'static [Domain],
    /// It breaks what others would share: upsd, its network, the daemon's thresholds.
    pub alone: bool,
}

/// Consecutive polls that must agree; drivers are asked once a second, metis asks twice: one wild second must not be enough.
pub const DEBOUNCE: u32 = 6;
/// How often metis asks.
pub const POLL: Duration = Duration::from_millis(500);
/// Silence on battery that counts as low battery.
pub const COMM_LOST: Duration = Duration::from_secs(8);
/// OFF for longer than this is critical.
pub const OFF_AFTER: Duration = Duration::from_secs(8);
/// Only cases that run alone have it.
pub const MAX_ON_BATTERY: Duration = Duration::from_secs(14);

use Expect::{Quiet, Trigger};

const ONE: &[usize] = &[0];
const BOTH: &[usize] = &[0, 1];
const F: &str = "OL CHRG c=100 r=3600";
const B: &str = "OB DISCHRG c=90 r=3000";
const LOW: &str = "OB DISCHRG LB c=60 r=900";

const fn one(name: &'static str, scripts: &'static [Script], domains: &'static [Domain]) -> Case {
    Case { name, scripts, domains, alone: false }
}

const fn alone(name: &'static str, scripts: &'static [Script], domains: &'static [Domain]) -> Case {
    Case { name, scripts, domains, alone: true }
}

const QUIET: &[Domain] = &[(ONE, Quiet)];

/// All of them.
pub const CASES: &[Case] = &[
    one("on line", &[&[(12, F)]], QUIET),
    one("short outage", &[&[(3, F), (6, B), (4, F)]], QUIET),
    one("outage to LB", &[&[(3, F), (4, B), (6, LOW)]], &[(ONE, Trigger(9.0, 10.5))]),
    one("first thing heard is OB LB", &[&[(6, LOW)]], &[(ONE, Trigger(2.0, 3.5))]),
    one("LB without OB", &[&[(10, "OL LB CHRG c=30 r=100")]], QUIET),
    one("low numbers on line", &[&[(10, "OL CHRG c=5 r=60")]], QUIET),
    one("CAL, then comm loss", &[&[(3, F), (4, "OL CAL DISCHRG c=40 r=400"), (12, "dead")]], QUIET),
    one("OB CAL, then comm loss", &[&[(3, F), (4, "OB CAL DISCHRG c=40 r=400"), (12, "dead")]], QUIET),
    one("calibration down to LB", &[&[(3, F), (3, "OB CAL DISCHRG c=40 r=400"), (6, "OB CAL LB DISCHRG c=5 r=60"), (3, F)]], QUIET),
    one("self-test flashes OFF", &[&[(3, F), (2, "OL OFF c=100 r=3600"), (5, F)]], QUIET),
    one("self-test flashes OFF, then a USB error", &[&[(3, F), (2, "OL OFF c=100 r=3600"), (14, "stale")]], QUIET),
    one("OFF and it stays", &[&[(3, F), (13, "OFF c=100 r=3600")]], &[(ONE, Trigger(11.0, 13.0))]),
    one("data stale on battery", &[&[(3, F), (4, B), (14, "stale")]], &[(ONE, Trigger(15.0, 19.0))]),
    one("data stale on line, then well", &[&[(3, F), (14, "stale"), (4, F)]], QUIET),
    one("driver dead on battery", &[&[(3, F), (4, B), (12, "dead")]], &[(ONE, Trigger(14.5, 16.0))]),
    one("driver dead on line", &[&[(3, F), (14, "dead"), (4, F)]], QUIET),
    one("driver restarts on battery", &[&[(3, F), (4, B), (1, "dead"), (6, B)]], QUIET),
    one("never heard from", &[&[(14, "dead")]], QUIET),
    one("WAIT at start", &[&[(6, "WAIT"), (5, F)]], QUIET),
    one("WAIT on battery", &[&[(3, F), (4, B), (3, "WAIT"), (4, B)]], QUIET),
    one("WAIT on battery that does not end", &[&[(3, F), (4, B), (12, "WAIT OB c=90 r=3000")]], &[(ONE, Trigger(14.5, 16.0))]),
    one("latched FSD at first sight on line", &[&[(8, "FSD OL CHRG c=100 r=3600")]], QUIET),
    one("latched FSD, then an outage", &[&[(4, "FSD OL c=100 r=3600"), (4, "FSD OB DISCHRG c=90 r=3600")]], &[(ONE, Trigger(4.0, 5.0))]),
    one("FSD appears on line", &[&[(4, F), (5, "FSD OL c=100 r=3600")]], &[(ONE, Trigger(4.0, 5.0))]),
    one("FSD with OB at first sight", &[&[(5, "FSD OB DISCHRG c=90 r=3000")]], &[(ONE, Trigger(0.0, 1.0))]),
    one(
        "jumping runtime",
        &[&[
            (3, F),
            (3, B),
            (1, "OB DISCHRG c=90 r=1"),
            (3, B),
            (1, "OB DISCHRG c=90 r=60"),
            (3, B),
            (1, "OB DISCHRG c=90 r=9999999999"),
            (3, B),
        ]],
        QUIET,
    ),
    one("missing runtime", &[&[(3, "OL c=100 r="), (8, "OB DISCHRG c=50 r=")]], QUIET),
    one(
        "runtime not numeric now and then",
        &[&[(3, F), (2, "OB c=50 r=300"), (2, "OB c=50 r=NA"), (5, "OB c=50 r=290")]],
        &[(ONE, Trigger(7.0, 9.0))],
    ),
    one("non-numeric charge and runtime", &[&[(3, F), (8, "OB DISCHRG c=NA r=NA")]], QUIET),
    one("no number at all, LB speaks", &[&[(3, "OL c= r="), (4, "OB c= r="), (6, "OB LB c= r=")]], &[(ONE, Trigger(9.0, 10.5))]),
    one("always says runtime 0", &[&[(3, "OL c=100 r=0"), (8, "OB c=90 r=0")]], QUIET),
    one("runtime falls to the need", &[&[(3, F), (4, "OB c=50 r=340"), (6, "OB c=50 r=330")]], &[(ONE, Trigger(9.0, 10.5))]),
    one("charge falls to the floor", &[&[(3, F), (4, "OB c=20.5 r=900"), (6, "OB c=20 r=900")]], &[(ONE, Trigger(9.0, 10.5))]),
    one("charge just above the floor", &[&[(3, F), (8, "OB c=20.5 r=900")]], QUIET),
    one("flapping mains", &[&[(3, F), (2, B), (1, F), (1, B), (2, F), (1, B), (1, F), (2, B), (3, F)]], QUIET),
    one(
        "flapping mains on an empty battery",
        &[&[(3, F), (6, "OB c=15 r=120"), (1, "OL c=15 r=120"), (5, "OB c=14 r=110")]],
        &[(ONE, Trigger(5.0, 6.5))],
    ),
    one(
        "OVER, ALARM and BYPASS on line, then comm loss",
        &[&[(3, F), (3, "OL OVER ALARM c=100 r=3600"), (3, "OL BYPASS c=100 r=3600"), (12, "dead")]],
        QUIET,
    ),
    one("ALARM and OVER on battery", &[&[(3, F), (8, "ALARM OVER OB DISCHRG c=90 r=3000")]], QUIET),
    one("on bypass without OL", &[&[(3, F), (3, B), (8, "BYPASS c=10 r=30")]], QUIET),
    one(
        "unknown tokens",
        &[&[(3, "OL X-ECO c=100 r=3600"), (3, "OB X-FOO c=90 r=3000"), (6, "OB X-FOO LB c=90 r=3000")]],
        &[(ONE, Trigger(8.0, 9.5))],
    ),
    one("a token that only contains OB or LB", &[&[(10, "OL XOBX BLB c=100 r=3600")]], QUIET),
    one("two feeds: one low, one on line", &[&[(3, F), (8, LOW)], &[(11, F)]], &[(BOTH, Quiet)]),
    one("two feeds: one low, one on battery", &[&[(3, F), (8, LOW)], &[(3, F), (8, B)]], &[(BOTH, Quiet)]),
    one("two feeds: both low, one after the other", &[&[(3, F), (12, LOW)], &[(3, F), (4, B), (8, LOW)]], &[(BOTH, Trigger(9.0, 10.5))]),
    one("two feeds: one low, one long silent", &[&[(12, F), (6, LOW)], &[(3, F), (15, "dead")]], &[(BOTH, Trigger(14.0, 15.5))]),
    one("two feeds: FSD on one of them", &[&[(3, F), (6, "FSD OB c=90 r=3000")], &[(9, F)]], &[(BOTH, Quiet)]),
    one("two domains: only the failing one", &[&[(3, F), (8, LOW)], &[(11, F)]], &[(ONE, Trigger(5.0, 6.5)), (&[1], Quiet), (BOTH, Quiet)]),
    alone("link blip of 4 s on battery", &[&[(3, F), (4, B), (4, "gone"), (5, B), (3, F)]], QUIET),
    alone("link lost on battery", &[&[(3, F), (4, B), (12, "gone")]], &[(ONE, Trigger(14.5, 16.0))]),
    alone("link lost on line", &[&[(3, F), (12, "gone"), (3, F)]], QUIET),
    alone("upsd restarts on battery", &[&[(3, F), (4, B), (1, "upsd"), (5, B), (3, F)]], QUIET),
    alone("latched FSD, then upsd restarts", &[&[(4, "FSD OL c=100 r=3600"), (1, "upsd"), (6, F)]], QUIET),
    alone("on battery for as long as allowed", &[&[(3, F), (10, B), (4, F)]], QUIET),
    alone("on battery for too long", &[&[(3, F), (20, B)]], &[(ONE, Trigger(17.0, 20.5))]),
];
