//! The corpus: what UPSes were seen to say, second by second, and whether that is a reason to act.

use proptest::prelude::*;

use super::*;
use crate::power::testing::settings;
use crate::power::{LinkError, reading_from_vars};
use crate::site::BootId;

fn start() -> Now {
    Now { wall: "2026-11-21T14:00:00Z".parse().unwrap(), boot: Duration::from_secs(100), boot_id: BootId::new("b"), synced: true }
}

fn observation(ups: &str, word: &str) -> Observation {
    let result = match word {
        "stale" => Err(LinkError::DataStale),
        "dead" => Err(LinkError::DriverNotConnected),
        "gone" => Err(LinkError::Unreachable("upsd closed the connection".to_owned())),
        text => Ok(reading(text)),
    };
    Observation { ups: ups.into(), result, login_problem: None }
}

/// `OB DISCHRG c=80 r=1200`: tokens, charge, runtime.
fn reading(text: &str) -> crate::site::Reading {
    let mut vars = BTreeMap::new();
    let mut status = Vec::new();
    for word in text.split(' ') {
        match word.split_once('=') {
            Some(("c", charge)) => drop(vars.insert("battery.charge".to_owned(), charge.to_owned())),
            Some(("r", runtime)) => drop(vars.insert("battery.runtime".to_owned(), runtime.to_owned())),
            _ => status.push(word),
        }
    }
    vars.insert("ups.status".to_owned(), status.join(" "));
    reading_from_vars(vars)
}

struct Play {
    settings: Settings,
    watch: Watch,
    now: Now,
    triggers: Vec<String>,
    cleared: usize,
    changes: Vec<Change>,
}

impl Play {
    fn new(settings: Settings) -> Self {
        let now = start();
        Self { watch: Watch::new(&settings, &now), settings, now, triggers: Vec::new(), cleared: 0, changes: Vec::new() }
    }

    fn take(&mut self, changes: Vec<Change>) {
        for change in &changes {
            match change {
                Change::Trigger { because, .. } => self.triggers.push(because.clone()),
                Change::TriggerCleared { .. } => self.cleared += 1,
                _ => {}
            }
        }
        self.changes.extend(changes);
    }

    /// One second with a tick.
    fn second(&mut self) {
        self.now = self.now.later(Duration::from_secs(1));
        let changes = self.watch.tick(&self.settings, &self.now);
        self.take(changes);
    }

    fn poll(&mut self, words: &[(&str, &str)]) {
        self.second();
        self.second();
        for (ups, word) in words {
            let changes = self.watch.observe(&self.settings, &observation(ups, word), &self.now);
            self.take(changes);
        }
    }

    fn polls(&mut self, count: usize, words: &[(&str, &str)]) {
        for _ in 0..count {
            self.poll(words);
        }
    }

    fn verdict(&self) -> Verdict {
        self.watch.snapshot(&self.settings, &self.now).domains[0].verdict
    }
}

const FULL: &str = "OL CHRG c=100 r=3600";
const BATTERY: &str = "OB DISCHRG c=90 r=3000";
const LOW: &str = "OB DISCHRG LB c=60 r=900";

/// One UPS: polls of 2 s, how often triggered, verdict at the end.
#[test]
fn corpus_of_one_ups() {
    use Verdict::{Critical, OnBattery, Online, Unknown};
    type Sequence = &'static [(usize, &'static str)];
    let cases: &[(&str, Sequence, usize, Verdict)] = &[
        ("on line", &[(100, FULL)], 0, Online),
        ("short outage", &[(5, FULL), (20, BATTERY), (5, FULL)], 0, Online),
        ("outage to LB", &[(5, FULL), (20, BATTERY), (3, LOW)], 1, Critical),
        ("LB for two polls of three", &[(5, FULL), (5, BATTERY), (2, LOW), (5, BATTERY)], 0, OnBattery),
        ("LB on line: an old battery", &[(50, "OL LB CHRG c=30 r=100")], 0, Online),
        ("low charge on line after an outage only waits", &[(50, "OL CHRG c=5 r=60")], 0, Online),
        ("first thing heard is OB LB", &[(3, LOW)], 1, Critical),
        ("runtime falls to the need", &[(5, FULL), (3, "OB c=50 r=330")], 1, Critical),
        ("runtime just above the need", &[(5, FULL), (30, "OB c=50 r=331")], 0, OnBattery),
        ("charge falls to the floor", &[(5, FULL), (3, "OB c=20 r=900")], 1, Critical),
        ("charge just above the floor", &[(5, FULL), (30, "OB c=20.5 r=900")], 0, OnBattery),
        ("on battery for as long as allowed", &[(5, FULL), (301, "OB c=90 r=3000")], 0, OnBattery),
        ("on battery for too long", &[(5, FULL), (304, "OB c=90 r=3000")], 1, Critical),
        ("too long, and the UPS says neither charge nor runtime", &[(5, FULL), (304, "OB")], 1, Critical),
        ("link blip on battery", &[(5, FULL), (5, BATTERY), (2, "gone"), (20, BATTERY)], 0, OnBattery),
        ("link blip of 14 s on battery", &[(5, FULL), (5, BATTERY), (6, "gone"), (20, BATTERY)], 0, OnBattery),
        ("link lost on battery", &[(5, FULL), (5, BATTERY), (8, "gone")], 1, Critical),
        ("data stale on battery", &[(5, FULL), (5, BATTERY), (8, "stale")], 1, Critical),
        ("driver dead on battery", &[(5, FULL), (5, BATTERY), (8, "dead")], 1, Critical),
        ("link flaps on battery", &[(5, FULL), (5, BATTERY), (6, "gone"), (1, BATTERY), (6, "gone"), (5, BATTERY)], 0, OnBattery),
        ("one LB, then the link is lost", &[(5, FULL), (1, LOW), (8, "gone")], 1, Critical),
        ("link lost on line", &[(5, FULL), (50, "gone")], 0, Unknown),
        ("data stale on line, then well", &[(5, FULL), (50, "stale"), (1, FULL)], 0, Online),
        ("never heard from", &[(100, "gone")], 0, Unknown),
        ("never heard from: driver dead", &[(100, "dead")], 0, Unknown),
        ("CAL, then comm loss", &[(5, FULL), (20, "OL CAL DISCHRG c=40 r=400"), (100, "dead")], 0, Unknown),
        ("OB CAL, then comm loss", &[(5, FULL), (20, "OB CAL DISCHRG c=40 r=400"), (100, "dead")], 0, Unknown),
        (
            "calibration down to LB",
            &[(5, FULL), (300, "OB CAL DISCHRG c=50 r=500"), (50, "OB CAL LB DISCHRG c=5 r=60"), (9, FULL)],
            0,
            Online,
        ),
        ("mains fail while it calibrates", &[(5, FULL), (300, "OB CAL c=50 r=500"), (3, "OB LB DISCHRG c=19 r=200")], 1, Critical),
        ("self-test flashes OFF", &[(5, FULL), (2, "OL OFF c=100 r=3600"), (20, FULL)], 0, Online),
        ("self-test flashes OFF, then a USB error", &[(5, FULL), (2, "OL OFF c=100 r=3600"), (100, "stale")], 0, Unknown),
        ("self-test flashes OB and OFF", &[(5, FULL), (1, BATTERY), (1, "OFF"), (1, "OB OFF"), (20, FULL)], 0, Online),
        ("OFF again and again", &[(1, FULL), (10, "OFF"), (1, FULL), (10, "OFF"), (1, FULL), (10, "OFF")], 0, Online),
        ("OFF and it stays", &[(5, FULL), (17, "OFF")], 1, Critical),
        ("OFF, but half of it was not heard", &[(5, FULL), (6, "OFF"), (20, "gone"), (6, "OFF")], 0, Online),
        ("BYPASS and ALARM on line, then comm loss", &[(5, FULL), (5, "OL BYPASS ALARM"), (50, "gone")], 0, Unknown),
        ("ALARM on battery, then comm loss", &[(5, FULL), (5, "ALARM OB DISCHRG c=90 r=3000"), (8, "gone")], 1, Critical),
        ("WAIT at start", &[(50, "WAIT"), (5, FULL)], 0, Online),
        ("WAIT for ever", &[(50, "WAIT")], 0, Unknown),
        ("driver restarts on battery", &[(5, FULL), (5, BATTERY), (3, "WAIT"), (5, BATTERY)], 0, OnBattery),
        ("WAIT on battery that does not end", &[(5, FULL), (5, BATTERY), (8, "WAIT OB c=90 r=3000")], 1, Critical),
        ("empty status on battery", &[(5, FULL), (5, BATTERY), (8, "c=90 r=3000")], 1, Critical),
        ("OL OB at once for a moment", &[(5, FULL), (3, "OL OB LB c=90 r=3000"), (5, FULL)], 0, Online),
        ("neither OL nor OB", &[(50, "CHRG c=50")], 0, Unknown),
        ("OB, then only ALARM LB", &[(5, FULL), (2, BATTERY), (3, "ALARM LB c=90 r=3000")], 1, Critical),
        ("on bypass without OL", &[(5, FULL), (2, BATTERY), (30, "BYPASS c=10 r=30")], 0, OnBattery),
        ("latched FSD on line", &[(100, "FSD OL CHRG c=100 r=3600")], 0, Online),
        ("latched FSD, then upsd restarts", &[(10, "FSD OL CHRG c=90 r=3600"), (3, "gone"), (10, FULL)], 0, Online),
        ("latched FSD, then an outage", &[(10, "FSD OL CHRG c=90 r=3600"), (1, "FSD OB DISCHRG c=90 r=3600")], 1, Critical),
        ("FSD with OB at first sight", &[(1, "FSD OB DISCHRG c=90 r=3000")], 1, Critical),
        ("FSD appears on line", &[(5, FULL), (1, "FSD OL CHRG c=100 r=3600")], 1, Critical),
        ("FSD appears across a gap", &[(5, FULL), (3, "gone"), (1, "FSD OL c=100 r=3600")], 1, Critical),
        ("FSD was announced, then silence", &[(5, FULL), (1, "FSD OL c=100 r=3600"), (50, "gone")], 1, Critical),
        ("one wild runtime", &[(5, FULL), (5, BATTERY), (1, "OB c=90 r=1"), (20, BATTERY)], 0, OnBattery),
        ("wild runtime now and then", &[(5, FULL), (1, "OB c=90 r=60"), (2, BATTERY), (1, "OB c=90 r=60"), (2, BATTERY)], 0, OnBattery),
        (
            "one wildly high runtime among low ones",
            &[(5, FULL), (2, "OB c=50 r=300"), (1, "OB c=50 r=9999"), (2, "OB c=50 r=290")],
            1,
            Critical,
        ),
        ("runtime missing now and then", &[(5, FULL), (2, "OB c=50 r=300"), (2, "OB c=50"), (1, "OB c=50 r=290")], 1, Critical),
        ("runtime is missing", &[(5, FULL), (50, "OB c=50")], 0, OnBattery),
        ("runtime is not numeric", &[(5, FULL), (50, "OB c=50 r=NA")], 0, OnBattery),
        ("charge is not numeric: neither 0 nor 100", &[(5, FULL), (50, "OB c=NA r=3000")], 0, OnBattery),
        ("no number at all, LB speaks", &[(5, "OL"), (50, "OB"), (3, "OB LB")], 1, Critical),
        ("always says runtime 0", &[(5, "OL c=100 r=0"), (50, "OB c=90 r=0")], 0, OnBattery),
        ("always says runtime 0, charge speaks", &[(5, "OL c=100 r=0"), (50, "OB c=90 r=0"), (3, "OB c=20 r=0")], 1, Critical),
        ("runtime 0 on battery only", &[(5, FULL), (3, "OB c=90 r=0")], 1, Critical),
        ("said 0 on line, counts on battery", &[(5, "OL c=100 r=0"), (5, "OB c=90 r=900"), (3, "OB c=50 r=0")], 1, Critical),
        ("mains return before the last poll agrees", &[(5, FULL), (2, LOW), (1, FULL), (2, LOW), (1, FULL)], 0, Online),
        ("unknown tokens", &[(5, "OL X-ECO c=100"), (5, "OB X-FOO c=90 r=3000"), (3, "OB X-FOO LB")], 1, Critical),
        ("a token that only contains OB or LB", &[(50, "OL XOBX BLB c=100")], 0, Online),
    ];
    for (name, sequence, triggers, verdict) in cases {
        let mut play = Play::new(settings(&["ups@host"]));
        for (count, word) in *sequence {
            play.polls(*count, &[("ups@host", word)]);
        }
        assert_eq!((play.triggers.len(), play.verdict()), (*triggers, *verdict), "{name}: {:#?}", play.changes);
    }
}

#[test]
fn flapping_mains_trigger_only_when_the_battery_is_down() {
    let mut play = Play::new(settings(&["ups@host"]));
    for _ in 0..200 {
        play.polls(1, &[("ups@host", BATTERY)]);
        play.polls(1, &[("ups@host", FULL)]);
    }
    assert_eq!(play.triggers.len(), 0);
    for _ in 0..3 {
        play.polls(3, &[("ups@host", "OB c=15 r=120")]);
        play.polls(1, &[("ups@host", "OL c=15 r=120")]);
    }
    assert_eq!((play.triggers.len(), play.cleared), (1, 0), "one trigger, not cleared by a flash of mains: {:#?}", play.triggers);
    play.polls(3, &[("ups@host", FULL)]);
    assert_eq!(play.cleared, 1);
}

#[test]
fn two_feeds_must_both_be_gone() {
    use Verdict::{Critical, OnBattery, Online, Unknown};
    let cases: &[(&str, &str, usize, Verdict)] = &[
        (LOW, FULL, 0, Online),
        (LOW, BATTERY, 0, OnBattery),
        (LOW, LOW, 1, Critical),
        (LOW, "gone", 1, Critical),
        (BATTERY, "gone", 0, OnBattery),
        (FULL, "gone", 0, Online),
        ("gone", "gone", 0, Unknown),
        ("FSD OB", FULL, 0, Online),
        ("FSD OB", BATTERY, 0, OnBattery),
        ("FSD OB", "FSD OB", 1, Critical),
        (LOW, "OB CAL LB", 0, OnBattery),
        (LOW, "WAIT", 1, Critical),
    ];
    for (a, b, triggers, verdict) in cases {
        let mut play = Play::new(settings(&["a@host", "b@host"]));
        play.polls(20, &[("a@host", a), ("b@host", b)]);
        assert_eq!((play.triggers.len(), play.verdict()), (*triggers, *verdict), "{a} / {b}");
    }
}

#[test]
fn the_first_feed_that_speaks_does_not_decide_alone() {
    let mut play = Play::new(settings(&["a@host", "b@host"]));
    play.polls(7, &[("a@host", "FSD OB"), ("b@host", "gone")]);
    assert_eq!((play.triggers.len(), play.verdict()), (0, Verdict::OnBattery));
    play.polls(1, &[("a@host", "FSD OB"), ("b@host", "gone")]);
    assert_eq!((play.triggers.len(), play.verdict()), (1, Verdict::Critical));
}

#[test]
fn the_second_feed_goes_last_and_comes_back_first() {
    let mut play = Play::new(settings(&["a@host", "b@host"]));
    play.polls(5, &[("a@host", FULL), ("b@host", FULL)]);
    play.polls(10, &[("a@host", LOW), ("b@host", BATTERY)]);
    assert_eq!(play.triggers.len(), 0);
    play.polls(2, &[("a@host", "gone"), ("b@host", LOW)]);
    assert_eq!(play.triggers.len(), 0);
    play.polls(1, &[("a@host", "gone"), ("b@host", LOW)]);
    assert_eq!(play.triggers.len(), 1);
    assert!(play.triggers[0].contains("b@host: on battery and the battery is low (OB LB)"), "{:?}", play.triggers);
    play.polls(2, &[("a@host", "gone"), ("b@host", FULL)]);
    assert_eq!((play.cleared, play.verdict()), (1, Verdict::Online));
}

#[test]
fn a_watcher_that_slept_does_not_blame_the_ups() {
    let mut play = Play::new(settings(&["ups@host"]));
    play.polls(5, &[("ups@host", BATTERY)]);
    play.now = play.now.later(Duration::from_hours(1));
    play.second();
    assert_eq!((play.triggers.len(), play.verdict()), (0, Verdict::OnBattery));
    for _ in 0..11 {
        play.second();
    }
    assert_eq!(play.triggers.len(), 1, "then real silence counts");
}

#[test]
fn late_news_beat_the_silence_before_them() {
    let mut play = Play::new(settings(&["ups@host"]));
    play.polls(5, &[("ups@host", BATTERY)]);
    for _ in 0..15 {
        play.second();
    }
    play.now = play.now.later(Duration::from_secs(1));
    let changes = play.watch.observe(&play.settings, &observation("ups@host", BATTERY), &play.now);
    assert_eq!(changes, []);
}

#[test]
fn wall_clock_jumps_change_nothing() {
    let run = |jump: i64| {
        let mut play = Play::new(settings(&["ups@host"]));
        for _ in 0..40 {
            play.poll(&[("ups@host", BATTERY)]);
            play.now.wall = play.now.wall.checked_add(jiff::SignedDuration::from_secs(jump)).unwrap();
        }
        (play.triggers.len(), play.verdict())
    };
    assert_eq!([run(0), run(86_400), run(-86_400)], [(0, Verdict::OnBattery); 3]);
}

#[test]
fn a_single_poll_is_enough_for_lb_when_configured_but_never_for_a_number() {
    for (word, triggers) in [(LOW, 1), ("OB c=90 r=1", 0), ("OB c=1 r=3000", 0)] {
        let mut settings = settings(&["ups@host"]);
        settings.thresholds.debounce_polls = 1;
        let mut play = Play::new(settings);
        play.polls(5, &[("ups@host", BATTERY)]);
        play.polls(1, &[("ups@host", word)]);
        assert_eq!(play.triggers.len(), triggers, "{word}");
    }
}

#[test]
fn snapshot_tells_what_people_need() {
    let mut play = Play::new(settings(&["ups@host"]));
    play.polls(5, &[("ups@host", "FSD OL c=100 r=3600")]);
    let ups = play.watch.snapshot(&play.settings, &play.now).upses.remove(0);
    assert!(ups.fsd_latched);
    assert_eq!(ups.link, "connected");
    assert_eq!(ups.reason, "on line; FSD stands from before (latched until upsd restarts): not acted on");

    let mut play = Play::new(settings(&["ups@host"]));
    play.polls(5, &[("ups@host", FULL)]);
    for runtime in (930..=1000).rev().step_by(4) {
        play.poll(&[("ups@host", &format!("OB c=80 r={runtime}"))]);
    }
    play.poll(&[("ups@host", "stale")]);
    let mut problem = observation("ups@host", "stale");
    problem.login_problem = Some("login as metis was refused: ACCESS-DENIED".to_owned());
    play.watch.observe(&play.settings, &problem, &play.now);
    let snapshot = play.watch.snapshot(&play.settings, &play.now);
    let ups = &snapshot.upses[0];
    assert_eq!(ups.verdict, Verdict::OnBattery);
    assert!(ups.link.starts_with("DATA-STALE") && ups.link.ends_with("login as metis was refused: ACCESS-DENIED"), "{}", ups.link);
    assert!(ups.reason.contains("on battery for 36 s; no reading: DATA-STALE"), "{}", ups.reason);
    let domain = &snapshot.domains[0];
    assert_eq!((domain.budget.as_secs(), domain.runtime.map(|r| r.as_secs())), (300, Some(932)));
    assert_eq!(domain.margin, Some(jiff::SignedDuration::from_secs(602)));
    // It falls by 2 s each second: 602 s of margin are gone in 301 s.
    let until = domain.would_trigger.unwrap().duration_since(play.now.wall).as_secs();
    assert!((299..=303).contains(&until), "{until}");
    assert_eq!(domain.trigger, None);
}

#[test]
fn the_disarmed_message_names_time_and_reason() {
    let trigger = Trigger { at: start().wall, because: "ups@host: on battery".to_owned() };
    assert_eq!(trigger.disarmed_message(&TimeZone::UTC), "DISARMED: would have acted at 14:00:00 because ups@host: on battery");
}

#[test]
fn a_site_without_ups_is_quiet_and_new_settings_keep_what_is_known() {
    let mut play = Play::new(settings(&[]));
    play.settings.domains.clear();
    play.polls(5, &[("ups@host", LOW)]);
    assert_eq!(play.changes, []);

    let mut play = Play::new(settings(&["a@host"]));
    play.polls(5, &[("a@host", BATTERY)]);
    play.settings = settings(&["a@host", "b@host"]);
    play.watch.reconfigure(&play.settings, &play.now);
    let snapshot = play.watch.snapshot(&play.settings, &play.now);
    assert_eq!(snapshot.upses.iter().map(|ups| ups.verdict).collect::<Vec<_>>(), [Verdict::OnBattery, Verdict::Unknown]);
    assert_eq!(snapshot.upses[1].reason, "never heard from");
}

fn any_word() -> impl Strategy<Value = String> {
    let tokens = prop::sample::subsequence(vec!["OL", "OB", "LB", "CAL", "OFF", "FSD", "WAIT", "BYPASS", "ALARM", "RB", "X"], 0..6);
    let number = prop_oneof![Just("NA".to_owned()), any::<f64>().prop_map(|n| n.to_string()), (0u32..4000).prop_map(|n| n.to_string())];
    let failure = prop::sample::select(vec!["stale", "dead", "gone"]).prop_map(str::to_owned);
    let spoken = (tokens, number.clone(), number).prop_map(|(tokens, c, r)| format!("{} c={c} r={r}", tokens.join(" ")));
    prop_oneof![4 => spoken, 1 => failure]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Total: any words, at any times, even with a boot clock that runs backwards; and what is always true of the outcome.
    #[test]
    fn any_sequence_is_judged(steps in prop::collection::vec((any_word(), any_word(), 0u64..40, any::<bool>()), 0..40)) {
        let mut play = Play::new(settings(&["a@host", "b@host"]));
        for (a, b, seconds, backwards) in steps {
            play.now = play.now.later(Duration::from_secs(seconds));
            if backwards {
                play.now.boot = play.now.boot.saturating_sub(Duration::from_secs(2 * seconds));
            }
            play.poll(&[("a@host", &a), ("b@host", &b)]);
            let snapshot = play.watch.snapshot(&play.settings, &play.now);
            let domain = &snapshot.domains[0];
            let verdicts: Vec<Verdict> = snapshot.upses.iter().map(|ups| ups.verdict).collect();
            prop_assert!(domain.verdict != Verdict::Critical || domain.trigger.is_some());
            prop_assert!(domain.verdict != Verdict::Critical || !verdicts.contains(&Verdict::Online));
            prop_assert!(!verdicts.contains(&Verdict::Online) || domain.verdict == Verdict::Online);
            prop_assert!(snapshot.upses.iter().all(|ups| !ups.reason.is_empty() && !ups.link.is_empty()));
        }
    }

    /// Without OB, OFF or FSD nothing triggers, whatever the numbers and the link do.
    #[test]
    fn on_line_nothing_triggers(words in prop::collection::vec(any_word(), 0..60)) {
        let mut play = Play::new(settings(&["ups@host"]));
        for word in words {
            let word = word.replace("OB", "OL").replace("OFF", "OL").replace("FSD", "OL");
            play.poll(&[("ups@host", &word)]);
        }
        prop_assert_eq!(play.triggers, Vec::<String>::new());
    }
}

#[test]
fn a_budget_says_where_it_comes_from() {
    let mut settings = settings(&["ups@host"]);
    let domain = settings.domains[0].name.clone();
    let shown = |settings: &Settings| {
        let play = Play::new(settings.clone());
        let domain = play.watch.snapshot(&play.settings, &play.now).domains.remove(0);
        (domain.budget.as_secs(), domain.budget_learned, domain.safety_factor.to_string())
    };
    assert_eq!(shown(&settings), (300, false, "1.1".to_owned()));
    settings.budgets.insert(domain, Duration::from_secs(95));
    assert_eq!(shown(&settings), (95, true, "1.1".to_owned()));
}
