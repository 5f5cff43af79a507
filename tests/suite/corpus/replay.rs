//! The corpus in virtual time, by the policy alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use metis_tests::nut::MAX_AGE;
use metisd::power::{Change, LinkError, Observation, Settings, Thresholds, UpsSettings, Watch, reading_from_vars};
use metisd::site::{BootId, Now, OnTrigger, PowerDomain, Reading, UpsName};

use super::cases::{COMM_LOST, Case, DEBOUNCE, MAX_ON_BATTERY, OFF_AFTER, POLL, Script};

pub fn ups_name(number: usize) -> UpsName {
    UpsName::from(format!("u{number}@h"))
}

fn settings(case: &Case) -> Settings {
    let name = |number: usize| format!("d{number}");
    let domain = |(number, (feeds, _)): (usize, &super::cases::Domain)| PowerDomain {
        name: name(number).into(),
        upses: feeds.iter().map(|feed| ups_name(*feed)).collect(),
        nodes: BTreeSet::new(),
    };
    Settings {
        on_trigger: OnTrigger::Observe,
        poll_interval: POLL,
        read_timeout: Duration::from_secs(2),
        thresholds: Thresholds {
            runtime_safety_factor: 1.1,
            charge_floor: 20.0,
            max_on_battery: case.alone.then_some(MAX_ON_BATTERY),
            debounce_polls: DEBOUNCE,
            comm_lost_after: COMM_LOST,
            off_after: OFF_AFTER,
        },
        shutdown_budget: Duration::from_mins(5),
        cut_outlets: false,
        prepared_within: None,
        predecessors: Vec::new(),
        budgets: BTreeMap::new(),
        upses: (0..case.scripts.len()).map(|n| UpsSettings { name: ups_name(n), username: None, password: None, tls: None }).collect(),
        domains: case.domains.iter().enumerate().map(domain).collect(),
    }
}

/// Tokens, charge and runtime of a word as variables of NUT.
pub fn variables(word: &str) -> BTreeMap<String, String> {
    let (numbers, status): (Vec<&str>, Vec<&str>) = word.split(' ').partition(|part| part.contains('='));
    let named = numbers.iter().filter_map(|part| part.split_once('=')).map(|(key, value)| {
        let name = if key == "c" { "battery.charge" } else { "battery.runtime" };
        (name.to_owned(), value.to_owned())
    });
    named.chain([("ups.status".to_owned(), status.join(" "))]).collect()
}

/// What a UPS says at that moment of its script, and since when.
fn word_at(script: Script, at: f64) -> (&'static str, f64) {
    let mut begun = 0.0;
    for (seconds, word) in script {
        if at < begun + *seconds as f64 {
            return (word, begun);
        }
        begun += *seconds as f64;
    }
    script.last().map_or(("dead", 0.0), |(seconds, word)| (*word, begun - *seconds as f64))
}

fn heard(script: Script, at: f64) -> Result<Reading, LinkError> {
    let say = |word: &str| Ok(reading_from_vars(variables(word)));
    match word_at(script, at) {
        ("dead", _) => Err(LinkError::DriverNotConnected),
        ("gone" | "upsd", _) => Err(LinkError::Unreachable("upsd closed the connection".to_owned())),
        // A frozen driver's last words stand until MAXAGE.
        ("stale", since) if at - since < MAX_AGE as f64 => say(word_at(script, since - 0.1).0),
        ("stale", _) => Err(LinkError::DataStale),
        (word, _) => say(word),
    }
}

/// How long a case runs.
pub fn length(case: &Case) -> u64 {
    case.scripts.iter().map(|script| script.iter().map(|(seconds, _)| seconds).sum()).max().unwrap_or(0)
}

/// When each domain triggered, in seconds of the script.
pub fn triggers(case: &Case) -> Vec<Vec<f64>> {
    let settings = settings(case);
    let start = Now { wall: jiff::Timestamp::UNIX_EPOCH, boot: Duration::from_secs(1000), boot_id: BootId::new("b"), synced: true };
    let mut watch = Watch::new(&settings, &start);
    let mut found = vec![Vec::new(); case.domains.len()];
    let polls = length(case) * 1000 / POLL.as_millis() as u64;
    for poll in 0..polls {
        let at = POLL * u32::try_from(poll).unwrap();
        let now = start.later(at);
        let mut changes = watch.tick(&settings, &now);
        for (number, script) in case.scripts.iter().enumerate() {
            let result = heard(script, at.as_secs_f64());
            changes.extend(watch.observe(&settings, &Observation { ups: ups_name(number), result, login_problem: None }, &now));
        }
        for change in changes {
            if let Change::Trigger { domain, .. } = change {
                let number: usize = domain.as_str()[1..].parse().unwrap();
                found[number].push(at.as_secs_f64());
            }
        }
    }
    found
}
