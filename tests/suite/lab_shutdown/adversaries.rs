//! Whatever fails on the way: the run ends inside its deadline, stops every host that can be reached, and names every one that cannot.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use metis_tests::hosts::{Role, Sudo};
use metis_tests::nspawn::{End, Event, State};
use metis_tests::plane::front::{Fault, Rule};
use metis_tests::process::Process;
use metis_tests::require;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::site::{FED, Site, Wanted, budget, deployment};

/// titan-db's state directory on a file system of its own, which can be filled.
const SMALL_DISK: &str = "--tmpfs=/var/lib/metis:size=64M";

/// titan-db's state directory on a file system in user space, which hangs on demand. Not a frozen disk: the hosts share a kernel, and the first
/// sync(2) of any of them would hang with it.
struct SlowDisk {
    server: Process,
    dir: tempfile::TempDir,
}

impl SlowDisk {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let (behind, mount) = (dir.path().join("behind"), dir.path().join("mount"));
        std::fs::create_dir(&behind).unwrap();
        std::fs::create_dir(&mount).unwrap();
        let mut server = Process::new("bindfs", dir.path().join("log")).arg("-f").arg(&behind).arg(&mount);
        server.start().unwrap();
        let disk = Self { server, dir };
        let end = Instant::now() + Duration::from_secs(10);
        while !std::fs::read_to_string("/proc/mounts").unwrap().contains(&disk.mount()) {
            assert!(Instant::now() < end, "{}", disk.server.last_words());
            std::thread::sleep(Duration::from_millis(50));
        }
        disk
    }

    fn mount(&self) -> String {
        self.dir.path().join("mount").display().to_string()
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        let _ = self.server.signal(Signal::SIGCONT);
        self.server.kill();
        let _ = nix::mount::umount2(self.mount().as_str(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// What is to come of an outage.
struct Expected<'a> {
    /// Hosts that are out of reach, by their names in the inventory.
    lost: &'a [&'a str],
    /// Hosts that power themselves off.
    off: &'a [Role],
    /// What the run's story has to say.
    said: &'a [&'a str],
}

/// An outage of pyrphoros with all that against metis.
fn outage(site: &Site, strike: impl FnOnce(&Site), expected: &Expected<'_>) {
    site.arm();
    strike(site);
    let failed = site.mains_fail();
    let (run, deadline) = until_it_has_ended(site);
    let ended = run["ended"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    assert!(ended.is_some() && ended <= deadline, "it had until {deadline:?}: {run:#}\n{}", site.metis.log());
    assert_off_in_time(site, expected.off, failed);
    let story = story(site);
    let lost: BTreeSet<&str> = not_stopped(&run).into_iter().collect();
    assert_eq!(lost, expected.lost.iter().copied().collect(), "{story}\n{run:#}");
    for words in expected.lost.iter().chain(expected.said) {
        assert!(story.contains(words), "{words} is missing in\n{story}\n{run:#}");
    }
}

/// These hosts power themselves off, and pyrphoros' outlets have power until then.
fn assert_off_in_time(site: &Site, off: &[Role], failed: Instant) {
    let by_itself = Event::Is(State::Off(End::PoweredOff));
    for role in off {
        let off = site.hosts.wait_event(role.name(), &by_itself, failed, Duration::from_secs(60));
        assert!(off.is_ok(), "{}: {off:?}\n{}", role.name(), site.metis.log());
    }
    let history = site.hosts.history();
    let dead = history.iter().find(|moment| moment.event == Event::OutletsOff).map(|moment| moment.at);
    for role in off {
        let off = site.hosts.when(role.name(), &by_itself);
        assert!(dead.is_none_or(|dead| off < Some(dead)), "{} was off too late: {history:#?}", role.name());
    }
}

/// The run as metisctl shows it at last, and its last deadline: titan-db powers off a few seconds after it has ended.
fn until_it_has_ended(site: &Site) -> (Value, Option<jiff::Timestamp>) {
    let end = Instant::now() + Duration::from_secs(200);
    let (mut seen, mut deadline) = (Value::Null, None);
    loop {
        if let Ok(detail) = site.metis.json(&["run", "get", "last"]) {
            seen = detail["run"].clone();
            deadline = seen["deadline"].as_str().and_then(|text| text.parse().ok()).or(deadline);
        }
        if !seen["ended"].is_null() {
            return (seen, deadline);
        }
        assert!(Instant::now() < end, "it has not ended: {seen:#}\n{}", site.metis.log());
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Hosts of which a stop or a power-off is not done.
fn not_stopped(run: &Value) -> Vec<&str> {
    let phases = run["phases"].as_array().unwrap().iter();
    let steps = phases.flat_map(|phase| phase["steps"].as_array().unwrap());
    let stops = steps.filter(|step| matches!(step["kind"].as_str().unwrap(), "k3s.stop" | "host.poweroff" | "host.poweroff-self"));
    stops.filter(|step| step["phase"] != "done").filter_map(|step| step["host"].as_str()).collect()
}

/// What metisd told the journal of its host when the run had ended.
fn story(site: &Site) -> String {
    let log = site.metis.log();
    let story = log.lines().rfind(|line| line.contains("shutdown-1: ") && line.contains("asked for by"));
    story.unwrap_or_else(|| panic!("no story in\n{log}")).to_owned()
}

/// Pods that cannot go: a budget that is never met, a finalizer that nobody removes, a process that ignores SIGTERM.
fn stubborn_pods() -> String {
    let on = |node: &str| format!("nodeSelector: {{kubernetes.io/hostname: {node}}}, ");
    let held = "apiVersion: v1\nkind: Pod\nmetadata: {name: held, namespace: default, finalizers: [lab.metis/held]}\nspec: {nodeName: titan-05, terminationGracePeriodSeconds: 3, containers: [{name: main, image: none}]}\n---\n";
    let deaf = "command: [sh, -c, \"trap '' TERM; while :; do sleep 4300; done\"]";
    let deaf = deployment("deaf", 1, "lab.metis/actor: process", &(on("titan-05") + "terminationGracePeriodSeconds: 600, "), deaf);
    deployment("guarded", 2, "", &on("titan-05"), "") + &budget("guarded", 2) + &deaf + held
}

const OF_STUBBORN_PODS: [&str; 4] = ["disable-eviction", "default/guarded-", "shorter grace", "default/held"];

/// k3s stands still, and what systemd sends to stop it does not.
fn hang_k3s(site: &Site, role: Role) {
    let deaf = "mkdir -p /run/systemd/system/k3s-agent.service.d; printf '[Service]\\nKillSignal=SIGWINCH\\n' >/run/systemd/system/k3s-agent.service.d/deaf.conf; systemctl daemon-reload";
    site.hosts[role].sh(deaf).unwrap();
    site.hosts[role].freeze_k3s().unwrap();
}

fn hang_the_snapshot(site: &Site) {
    let hang =
        "printf '#!/bin/sh\\nexec sleep 1000\\n' >/root/hang; chmod +x /root/hang; mount --bind /root/hang /usr/local/lib/k3s/etcdctl";
    site.hosts[Role::Titan0a].sh(hang).unwrap();
}

fn fill_the_disk(site: &Site) {
    site.metis.host().sh("cat /dev/zero >/var/lib/metis/filler 2>/dev/null || true").unwrap();
}

fn some_errors() -> Vec<Rule> {
    let rule = |method, path: &str, times, fault| Rule { method, path: path.to_owned(), times: Some(times), fault };
    vec![
        rule("GET", "/api/v1/nodes", 1, Fault::Hang),
        rule("GET", "/api/v1/pods", 2, Fault::Status(500, None)),
        rule("PATCH", "/kustomizations/", 2, Fault::Status(429, Some(1))),
        rule("PATCH", "/kustomizations/", 1, Fault::LostAnswer),
        rule("PATCH", "/nodes/", 2, Fault::Status(500, None)),
        rule("POST", "/eviction", 3, Fault::Status(429, Some(1))),
        rule("POST", "/eviction", 2, Fault::Reset),
    ]
}

#[test]
fn full_all_of_them_together() {
    let wanted = Wanted {
        front: true,
        sudo: Some((Role::Titan05, Sudo::Password)),
        options: vec![(Role::TitanDb, SMALL_DISK.to_owned())],
        work: stubborn_pods(),
        ..Wanted::default()
    };
    let Some(site) = Site::start("all adversaries together", &wanted) else { return };
    let strike = |site: &Site| {
        site.hosts[Role::Tethys].cut_power().unwrap();
        hang_k3s(site, Role::Titan13);
        site.hosts[Role::Titan15].freeze_sshd().unwrap();
        hang_the_snapshot(site);
        fill_the_disk(site);
        site.front.as_ref().unwrap().rules(some_errors());
    };
    let off = [Role::TitanDb, Role::Titan0a, Role::Titan13];
    outage(&site, strike, &Expected { lost: &["titan-05", "titan-15", "titan-24"], off: &off, said: &OF_STUBBORN_PODS });
}

#[test]
fn full_pods_that_do_not_go() {
    let Some(site) = Site::start("stubborn pods", &Wanted { work: stubborn_pods(), ..Wanted::default() }) else { return };
    outage(&site, |_| {}, &Expected { lost: &[], off: &FED, said: &OF_STUBBORN_PODS });
}

#[test]
fn full_a_host_whose_sshd_hangs() {
    let Some(site) = Site::start("a hung sshd", &Wanted::default()) else { return };
    let strike = |site: &Site| site.hosts[Role::Titan15].freeze_sshd().unwrap();
    let off = [Role::TitanDb, Role::Titan0a, Role::Titan13, Role::Titan05];
    outage(&site, strike, &Expected { lost: &["titan-15"], off: &off, said: &[] });
}

#[test]
fn full_a_host_whose_k3s_hangs() {
    let Some(site) = Site::start("a hung k3s", &Wanted::default()) else { return };
    outage(&site, |site| hang_k3s(site, Role::Titan13), &Expected { lost: &[], off: &FED, said: &[] });
}

#[test]
fn full_an_api_server_that_hangs() {
    let Some(site) = Site::start("a hung API server", &Wanted::default()) else { return };
    let strike = |site: &Site| site.hosts.cluster().with(|plane| plane.freeze()).unwrap();
    outage(&site, strike, &Expected { lost: &[], off: &FED, said: &["suspend Flux"] });
}

#[test]
fn full_an_api_server_that_answers_nothing_but_errors() {
    let Some(site) = Site::start("a failing API server", &Wanted { front: true, ..Wanted::default() }) else { return };
    let rules = vec![Rule::any("/api/", Fault::Status(500, None)), Rule::any("/", Fault::Status(429, Some(1)))];
    let strike = |site: &Site| site.front.as_ref().unwrap().rules(rules);
    outage(&site, strike, &Expected { lost: &[], off: &FED, said: &["suspend Flux"] });
}

#[test]
fn full_a_host_without_power_and_one_without_sudo() {
    let wanted = Wanted { sudo: Some((Role::Titan05, Sudo::Absent)), ..Wanted::default() };
    let Some(site) = Site::start("a dead host and a wrong sudo", &wanted) else { return };
    let strike = |site: &Site| site.hosts[Role::Titan15].cut_power().unwrap();
    let off = [Role::TitanDb, Role::Titan0a, Role::Titan13];
    outage(&site, strike, &Expected { lost: &["titan-05", "titan-15"], off: &off, said: &["sudo"] });
}

#[test]
fn full_a_snapshot_that_hangs() {
    let Some(site) = Site::start("a hung snapshot", &Wanted::default()) else { return };
    outage(&site, hang_the_snapshot, &Expected { lost: &[], off: &FED, said: &["etcd snapshot"] });
}

#[test]
fn full_a_disk_that_is_full() {
    let wanted = Wanted { options: vec![(Role::TitanDb, SMALL_DISK.to_owned())], ..Wanted::default() };
    let Some(site) = Site::start("a full disk", &wanted) else { return };
    outage(&site, fill_the_disk, &Expected { lost: &[], off: &FED, said: &[] });
    assert!(site.metis.log().contains("no space left"), "it says so: {}", site.metis.log());
}

#[test]
fn full_a_disk_that_hangs() {
    if !require::root("a hung disk") || !require::programs("a hung disk", &["bindfs"]) {
        return;
    }
    let disk = SlowDisk::new();
    let options = vec![(Role::TitanDb, format!("--bind={}:/var/lib/metis", disk.mount()))];
    let Some(site) = Site::start("a hung disk", &Wanted { options, ..Wanted::default() }) else { return };
    site.arm();
    disk.server.signal(Signal::SIGSTOP).unwrap();
    let failed = site.mains_fail();
    // Runs are read from the disk, so metisctl does not show this one; and what waits for the disk would hold the end of titan-db.
    let over = site.metis.host().wait_for(120, "journalctl -u metisd | grep 'this host, powers off in'");
    disk.server.signal(Signal::SIGCONT).unwrap();
    over.unwrap();
    assert_off_in_time(&site, &FED, failed);
    let story = story(&site);
    assert!(story.contains("before the deadline") && !story.contains("Left behind"), "{story}");
    assert!(site.metis.log().contains("was not written within 1s"), "it says so: {}", site.metis.log());
}
