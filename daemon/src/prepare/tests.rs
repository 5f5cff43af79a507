use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::facts::*;
use super::*;
use crate::site::{Access, BootId, Now, UpsName};

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn days_ago(days: i64) -> Timestamp {
    now() - SignedDuration::from_hours(24 * days)
}

fn bundle(name: &str, days: i64) -> Bundle {
    Bundle { name: name.into(), size: 900_000_000, modified: days_ago(days), sha256: Ok("ab".into()), expected: Some("ab".into()) }
}

fn tree(days: i64) -> Tree {
    let components = BTreeMap::from([("core".to_owned(), 3), ("vault".to_owned(), 2)]);
    Tree { components, at: Some(days_ago(days)), revision: "main@sha1:5eed".into(), exposed: Vec::new() }
}

fn host(name: &str, answer: Result<HostAnswer, HostTrouble>) -> HostSeen {
    HostSeen { name: name.into(), node_name: name.into(), access: Access::Ssh, k3s: true, answer }
}

fn answer() -> HostAnswer {
    let commands = hosts::PACKAGES.iter().map(|(command, _)| (*command).to_owned()).collect();
    HostAnswer { skew: Some((0.1, 0.05)), synced: Some(true), commands: Some(commands) }
}

fn ups(vars: &[(&str, &str)]) -> UpsSeen {
    let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    UpsSeen { name: UpsName::new("pyrphoros@localhost"), heard: Some(now()), vars, login: Some(Ok(())), in_domain: true }
}

/// A site on which all is well.
fn well() -> Facts {
    Facts {
        now: Now { wall: now(), boot: Duration::from_secs(100), boot_id: BootId::new("b"), synced: true },
        has_cluster: true,
        clocks: true,
        bundle_dir: "/var/lib/metis/bundles".into(),
        bundles: Ok(vec![bundle("harbor-bootstrap-1-arm64.tar.zst", 3)]),
        snapshot: Ok(Some(tree(1))),
        cache: Ok(Some(tree(1))),
        captured_secrets: Ok(Some(tree(1))),
        secrets: Ok(vec![SecretSeen { used_by: vec!["hosts.key".into()], reference: "file:/k".into(), trouble: None }]),
        images: Ok(vec![ImageSeen {
            classes: vec!["pi".into()],
            url: "https://x/pi.img.zst".into(),
            sha256: "f".repeat(64),
            cached: true,
        }]),
        hosts: vec![host("titan-13", Ok(answer()))],
        longhorn: Some(BTreeSet::from(["titan-13".to_owned()])),
        rights: Ok(vec![Right { what: "patch nodes".into(), allowed: true }]),
        upses: vec![ups(&[("ups.test.result", "Done and passed"), ("ups.test.date", "2027/01/03")])],
        told: vec![Finding::new("nut.maxage", Level::Ok, "MAXAGE is 15 s")],
        installed: Ok(vec![Installed { path: "/x/metis.rules".into(), purpose: "none", present: true }]),
        disk: Ok(Disk { free: 20 << 30, total: 32 << 30, floor: 2 << 30 }),
    }
}

/// What is not well, by name and level.
fn troubles(change: impl FnOnce(&mut Facts)) -> Vec<(String, Level)> {
    let mut facts = well();
    change(&mut facts);
    let found = judge(&facts);
    assert!(found.windows(2).all(|pair| pair[0].level <= pair[1].level), "problems first");
    found.into_iter().filter(|finding| finding.level != Level::Ok).map(|finding| (finding.name, finding.level)).collect()
}

fn one(name: &str, level: Level) -> Vec<(String, Level)> {
    vec![(name.to_owned(), level)]
}

#[test]
fn where_all_is_well_everything_is_said_to_be() {
    let found = judge(&well());
    assert_eq!(troubles(|_| {}), []);
    assert!(is_green(&found));
    let names: BTreeSet<&str> = found.iter().map(|finding| finding.name.as_str()).collect();
    let all = [
        "bundle",
        "cache",
        "clock",
        "disk",
        "host",
        "image",
        "installed",
        "kube.rights",
        "nut.maxage",
        "secret",
        "snapshot",
        "ups",
        "ups.login",
        "ups.self-test",
    ];
    assert_eq!(names, BTreeSet::from(all));
}

#[test]
fn what_is_kept_for_a_bad_day() {
    use Level::{CannotTell, Problem, Warning};
    assert_eq!(troubles(|f| f.bundles = Ok(Vec::new())), one("bundle", Warning));
    assert_eq!(troubles(|f| f.bundles = Err("no permission".into())), one("bundle", CannotTell));
    assert_eq!(troubles(|f| f.bundles = Ok(vec![bundle("a", 200)])), one("bundle", Warning), "old");
    assert_eq!(troubles(|f| f.bundles = Ok(vec![bundle("a", 200), bundle("b", 2)])), [], "the newest counts");
    let changed = |sha256: Part<String>, expected: Option<&str>| {
        let expected = expected.map(ToOwned::to_owned);
        troubles(move |f| f.bundles = Ok(vec![Bundle { sha256, expected, ..bundle("a", 2) }]))
    };
    assert_eq!(changed(Ok("cd".into()), Some("ab")), one("bundle", Problem), "damaged");
    assert_eq!(changed(Ok("cd".into()), None), one("bundle", Warning));
    assert_eq!(changed(Err("not read within 10 s".into()), Some("ab")), one("bundle", CannotTell));
    assert_eq!(troubles(|f| f.snapshot = Ok(None)), one("snapshot", Warning));
    assert_eq!(troubles(|f| f.snapshot = Ok(Some(Tree::default()))), one("snapshot", Warning), "empty");
    assert_eq!(troubles(|f| f.snapshot = Ok(Some(tree(31)))), one("snapshot", Warning), "old");
    assert_eq!(troubles(|f| f.cache = Err("no".into())), one("cache", CannotTell));
    assert_eq!(troubles(|f| f.captured_secrets = Ok(Some(Tree { exposed: vec!["/s".into()], ..tree(1) }))), one("cache.secrets", Problem));
    assert_eq!(troubles(|f| f.captured_secrets = Ok(None)), [], "a platform may have none");
    assert_eq!(troubles(|f| f.images.as_mut().unwrap()[0].cached = false), one("image", Warning));
    assert_eq!(troubles(|f| f.secrets.as_mut().unwrap()[0].trouble = Some("secret /k is refused".into())), one("secret", Problem));
    // A site without a cluster needs neither bundle nor copies.
    let without = troubles(|f| {
        f.has_cluster = false;
        (f.bundles, f.snapshot, f.cache) = (Ok(Vec::new()), Ok(None), Ok(None));
    });
    assert_eq!(without, one("kube.rights", Warning));
}

#[test]
fn hosts_and_their_clocks_and_packages() {
    use Level::{Problem, Warning};
    let with = |answer: Result<HostAnswer, HostTrouble>| troubles(move |f| f.hosts.push(host("titan-15", answer)));
    assert_eq!(with(Err(HostTrouble::Unreachable("off".into()))), one("host", Warning), "the next outage may find it up");
    assert_eq!(with(Err(HostTrouble::Refused("sudo asks".into()))), one("host", Problem), "it will not do better then");
    let skewed = |skew, wrong| with(Ok(HostAnswer { skew: Some((skew, wrong)), ..answer() }));
    assert_eq!(skewed(1.9, 0.1), []);
    assert_eq!(skewed(-2.5, 0.1), one("host.clock", Warning));
    assert_eq!(skewed(2.5, 0.6), [], "it may as well be right");
    assert_eq!(skewed(300.0, 1.0), one("host.clock", Problem));
    assert_eq!(with(Ok(HostAnswer { synced: Some(false), ..answer() })), one("host.clock", Warning));
    assert_eq!(with(Ok(HostAnswer { skew: None, synced: None, commands: None })), [], "a host that says nothing of it");
    let bare = || HostAnswer { commands: Some(BTreeSet::from(["dmsetup".to_owned()])), ..answer() };
    let stored = |longhorn: Option<&[&str]>| {
        let longhorn = longhorn.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        troubles(move |f| {
            f.longhorn = longhorn;
            f.hosts = vec![host("titan-15", Ok(bare()))];
        })
    };
    assert_eq!(stored(Some(&["titan-15"])), one("host.packages", Problem));
    assert_eq!(stored(Some(&["titan-13"])), one("host.packages", Warning));
    assert_eq!(stored(Some(&[])), [], "the site has no Longhorn");
    assert_eq!(stored(None), one("host.packages", Warning));
    assert_eq!(troubles(|f| f.hosts = vec![HostSeen { k3s: false, ..host("titan-db", Ok(bare())) }]), [], "no k3s, no volumes");
    let mut facts = well();
    facts.hosts = vec![host("titan-13", Ok(bare()))];
    let fix = judge(&facts).into_iter().find(|finding| finding.name == "host.packages").unwrap().fix.unwrap();
    assert_eq!(fix, "apt-get install cryptsetup open-iscsi nfs-common (on titan-13)");
}

#[test]
fn upses_and_their_batteries() {
    use Level::{CannotTell, Problem, Warning};
    let with = |ups: UpsSeen| troubles(move |f| f.upses = vec![ups]);
    let tested = |result: &str, date: &str| with(ups(&[("ups.test.result", result), ("ups.test.date", date)]));
    assert_eq!(with(UpsSeen { heard: None, ..ups(&[]) }), one("ups", Problem));
    assert_eq!(with(UpsSeen { heard: Some(days_ago(1)), ..ups(&[("ups.test.result", "passed")]) }), one("ups", Problem));
    assert_eq!(with(UpsSeen { in_domain: false, ..ups(&[("ups.test.result", "passed")]) }), one("ups", Warning));
    assert_eq!(
        with(UpsSeen { login: Some(Err("ACCESS-DENIED".into())), ..ups(&[("ups.test.result", "passed")]) }),
        one("ups.login", Problem)
    );
    assert_eq!(with(UpsSeen { login: None, ..ups(&[("ups.test.result", "passed")]) }), []);
    assert_eq!(with(ups(&[])), one("ups.self-test", CannotTell));
    for (result, date, expected) in [
        ("Done and passed", "2027/01/01", None),
        ("Done and passed", "01/13/27", None),
        ("Done and passed", "13/01/2027", None),
        ("Done and passed", "2026-03-01", Some(Warning)),
        ("Done and passed", "some day", None),
        ("", "2027-01-01", None),
        ("No test initiated", "", Some(Warning)),
        ("Done and error", "2027/01/01", Some(Problem)),
        ("Battery is BAD", "2020/01/01", Some(Problem)),
        ("Aborted", "99/99/99", Some(Warning)),
    ] {
        assert_eq!(tested(result, date), expected.map_or(Vec::new(), |level| one("ups.self-test", level)), "{result:?} {date:?}");
    }
    let polled = |key: &str, value: &str| with(ups(&[("ups.test.result", "passed"), (key, value)]));
    assert_eq!(polled("driver.parameter.pollinterval", "2"), []);
    assert_eq!(polled("driver.parameter.pollinterval", "15"), one("nut.pollinterval", Warning));
    assert_eq!(polled("driver.parameter.pollfreq", "60"), one("nut.pollfreq", Warning));
    assert_eq!(polled("driver.parameter.pollfreq", "soon"), []);
}

#[test]
fn rights_files_clock_and_disk() {
    use Level::{CannotTell, Problem, Warning};
    let denied = |f: &mut Facts| f.rights.as_mut().unwrap().push(Right { what: "create pods/eviction".into(), allowed: false });
    assert_eq!(troubles(denied), one("kube.rights", Problem));
    assert_eq!(troubles(|f| f.rights = Err("no API server answers".into())), one("kube.rights", CannotTell));
    assert_eq!(troubles(|f| f.installed.as_mut().unwrap()[0].present = false), one("installed", Problem));
    assert_eq!(troubles(|f| f.now.synced = false), one("clock", Problem));
    assert_eq!(troubles(|f| (f.now.synced, f.clocks) = (false, false)), one("clock", Warning));
    let disk = |free: u64| troubles(move |f| f.disk = Ok(Disk { free, total: 32 << 30, floor: 2 << 30 }));
    assert_eq!(disk(100 << 20), one("disk", Problem));
    assert_eq!(disk(1 << 30), one("disk", Warning));
    assert_eq!(troubles(|f| f.disk = Err("it hangs".into())), one("disk", CannotTell));
}

#[test]
fn what_cannot_be_told_and_warnings_leave_it_green() {
    let finding = |level| Finding::new("x", level, "");
    assert!(is_green(&[finding(Level::Ok), finding(Level::Warning), finding(Level::CannotTell)]));
    assert!(!is_green(&[finding(Level::Ok), finding(Level::Problem)]));
    assert_eq!(count(&[finding(Level::Ok), finding(Level::Problem)], Level::Problem), 1);
}

proptest::proptest! {
    #[test]
    fn no_text_of_a_driver_panics(result in "(?s).{0,40}", date in "[0-9/. -]{0,14}", poll in "[0-9]{0,25}") {
        troubles(|f| f.upses = vec![ups(&[("ups.test.result", &result), ("ups.test.date", &date), ("driver.parameter.pollinterval", &poll)])]);
    }
}
