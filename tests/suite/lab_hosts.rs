//! The laboratory's hosts do what real ones do.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use metis_tests::hosts::{self, Hosts, PRIMARY, Plan, Role, SECONDARY, Sudo, UpsPlan};
use metis_tests::nspawn::{End, Event, State, Times};

const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Over SSH, what must succeed.
fn ssh(site: &Hosts, role: Role, line: &str) -> String {
    let out = site.ssh(role, line).unwrap();
    assert!(out.status.success(), "{role:?} {line}: {}\n{}", out.status, text(&out.stderr));
    text(&out.stdout).trim().to_owned()
}

#[test]
fn six_hosts_and_everything_that_can_happen_to_one() {
    if !hosts::available("six hosts") {
        return;
    }
    let site = Plan::new(&Role::ALL).sudo(Role::Titan15, Sudo::Password).sudo(Role::Titan05, Sudo::Absent).start().unwrap();
    let everyone = Role::ALL.map(|role| ssh(&site, role, "hostname"));
    assert_eq!(everyone, ["titan-db", "titan-0a", "titan-13", "titan-15", "titan-05", "tethys"]);
    names_sudo_and_logind(&site);
    power_off_and_on(&site);
    reboot(&site);
    power_cut(&site);
    power_that_flaps(&site);
    cable(&site);
    frozen_sshd(&site);
}

fn names_sudo_and_logind(site: &Hosts) {
    assert_eq!(ssh(site, Role::Titan13, "getent hosts titan-24").split_whitespace().next(), Some("10.77.0.24"));
    assert_eq!(ssh(site, Role::Titan13, "sudo -n id -u"), "0");
    let refused = |role| {
        let out = site.ssh(role, "sudo -n id -u").unwrap();
        assert_eq!(out.status.code(), Some(1));
        text(&out.stderr)
    };
    assert!(refused(Role::Titan15).contains("password is required"));
    assert!(refused(Role::Titan05).contains("password is required"), "sudo does not tell who is not in sudoers");
    assert!(ssh(site, Role::Titan13, "loginctl list-sessions --no-legend").contains("metis-op"));
    let can = "busctl call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager CanPowerOff";
    assert_eq!(ssh(site, Role::Titan13, &format!("sudo {can}")), "s \"yes\"");
    // One host reaches another, and every host has its own key.
    ssh(site, Role::Tethys, "exec 3<>/dev/tcp/titan-13/2277; read -r line <&3; case $line in SSH-2.0*) ;; *) exit 1; esac");
    assert_ne!(site.host_key(Role::Titan13).fingerprint, site.host_key(Role::Titan15).fingerprint);
}

fn power_off_and_on(site: &Hosts) {
    let host = &site[Role::Titan13];
    let times = Times { boot: Duration::from_secs(1), power_off: Duration::from_secs(2) };
    host.set_times(times);
    let before = ssh(site, Role::Titan13, BOOT_ID);
    let gone = site.ssh(Role::Titan13, "sudo systemctl poweroff; sleep 60").unwrap();
    assert_eq!(gone.status.code(), Some(255), "{}", text(&gone.stderr));
    assert_eq!(host.wait_off(Duration::from_secs(30)).unwrap(), End::PoweredOff);
    let (stopping, off) =
        (site.when("titan-13", &Event::Is(State::Stopping)), site.when("titan-13", &Event::Is(State::Off(End::PoweredOff))));
    assert!(off.unwrap() - stopping.unwrap() >= times.power_off);
    // Not even its kernel answers.
    assert!(site.banner(Role::Titan13).unwrap_err().to_string().contains("timed out"), "{:?}", site.banner(Role::Titan13));
    let switched = Instant::now();
    host.power_on().unwrap();
    assert!(switched.elapsed() >= times.boot);
    site.wait_ssh(Role::Titan13).unwrap();
    assert_ne!(ssh(site, Role::Titan13, BOOT_ID), before);
    ssh(site, Role::Titan13, "sudo journalctl -q -b -1 -u ssh | grep -q 'Server listening on 0.0.0.0 port 2277'");
}

fn reboot(site: &Hosts) {
    let before = ssh(site, Role::Tethys, BOOT_ID);
    let asked = Instant::now();
    let _ = site.ssh(Role::Tethys, "sudo systemctl reboot; sleep 60").unwrap();
    site.wait_event("tethys", &Event::Rebooting, asked, Duration::from_secs(30)).unwrap();
    site[Role::Tethys].wait_on().unwrap();
    site.wait_ssh(Role::Tethys).unwrap();
    assert_ne!(ssh(site, Role::Tethys, BOOT_ID), before);
}

fn power_cut(site: &Hosts) {
    let host = &site[Role::Titan05];
    host.sh("echo kept >/root/file; sync /root/file").unwrap();
    let cut = Instant::now();
    host.cut_power().unwrap();
    assert!(cut.elapsed() < Duration::from_secs(5));
    assert_eq!(host.state(), State::Off(End::PowerCut));
    assert!(host.sh("true").unwrap_err().to_string().contains("off"));
    host.power_on().unwrap();
    assert_eq!(host.sh("cat /root/file").unwrap(), "kept\n");
    site.wait_ssh(Role::Titan05).unwrap();
}

/// Whenever it is cut, it ends, and boots again.
fn power_that_flaps(site: &Hosts) {
    let host = &site[Role::Titan05];
    for n in 0..10 {
        host.cut_power().unwrap();
        assert_eq!(host.state(), State::Off(End::PowerCut));
        host.switch_on().unwrap();
        std::thread::sleep(Duration::from_millis(n * 70));
    }
    host.wait_on().unwrap();
    site.wait_ssh(Role::Titan05).unwrap();
}

fn cable(site: &Hosts) {
    let host = &site[Role::Titan15];
    host.pull_cable().unwrap();
    assert_eq!(site.ssh(Role::Titan15, "true").unwrap().status.code(), Some(255));
    assert_eq!(host.state(), State::On);
    host.plug_cable().unwrap();
    site.wait_ssh(Role::Titan15).unwrap();
}

fn frozen_sshd(site: &Hosts) {
    let host = &site[Role::Titan0a];
    host.freeze_sshd().unwrap();
    let error = site.banner(Role::Titan0a).unwrap_err();
    assert!(error.to_string().contains("temporarily unavailable"), "connected, but nothing was said: {error:#}");
    host.thaw_sshd().unwrap();
    site.banner(Role::Titan0a).unwrap();
}

/// What upsd says of a UPS to a host of the laboratory.
fn upsc(site: &Hosts, host: Role, ups: &str, variable: &str) -> String {
    site[host].wait_for(5, &format!("upsc {ups} {variable}")).unwrap().trim().to_owned()
}

fn wait_upsc(site: &Hosts, host: Role, ups: &str, status: &str) -> String {
    site[host].wait_for(30, &format!("upsc {ups} ups.status | grep -x '{status}'")).unwrap().trim().to_owned()
}

#[test]
fn a_ups_carries_what_is_on_until_it_is_empty_and_then_nothing() {
    if !hosts::available("a UPS") {
        return;
    }
    let small = UpsPlan { feeds: vec![Role::Titan13, Role::Titan15], ..UpsPlan::pyrphoros(Duration::from_secs(12)) };
    let small = UpsPlan { recharge: Duration::from_secs(30), low_percent: 30.0, ..small };
    let site = Plan::new(&[Role::TitanDb, Role::Titan13, Role::Titan15]).ups(small).stays_off(Role::Titan15).start().unwrap();
    let ups = site.ups("pyrphoros");
    // From another host, over the network.
    assert_eq!(upsc(&site, Role::Titan13, "pyrphoros@titan-db", "ups.status"), "OL");
    let runtime = |host| upsc(&site, host, "pyrphoros@titan-db", "battery.runtime").parse::<u64>().unwrap();
    assert!((11..=12).contains(&runtime(Role::Titan13)));

    // Half of it is on: it lasts longer.
    site.ssh(Role::Titan15, "sudo systemctl poweroff").unwrap();
    site[Role::Titan15].wait_off(Duration::from_secs(20)).unwrap();
    site[Role::TitanDb].wait_for(10, "test $(upsc pyrphoros battery.runtime) -ge 19").unwrap();
    site[Role::Titan15].power_on().unwrap();

    let failed = Instant::now();
    ups.set_mains(false);
    wait_upsc(&site, Role::TitanDb, "pyrphoros", "OB DISCHRG");
    wait_upsc(&site, Role::TitanDb, "pyrphoros", "OB DISCHRG LB");
    assert!(ups.charge() <= 30.0 && ups.charge() > 0.0);
    let dead = site.wait_event("pyrphoros", &Event::OutletsOff, failed, Duration::from_secs(30)).unwrap();
    assert!(dead - failed >= Duration::from_secs(11), "{:?}", dead - failed);
    for role in [Role::Titan13, Role::Titan15] {
        assert_eq!(site[role].wait_off(Duration::from_secs(5)).unwrap(), End::PowerCut);
    }
    assert_eq!(site[Role::TitanDb].state(), State::On, "it is not at this UPS");

    // Mains are back: the outlets too, and who boots by itself does.
    ups.set_mains(true);
    site.wait_event("pyrphoros", &Event::OutletsOn, dead, Duration::from_secs(10)).unwrap();
    site[Role::Titan13].wait_on().unwrap();
    assert_eq!(site[Role::Titan15].state(), State::Off(End::PowerCut));
    wait_upsc(&site, Role::TitanDb, "pyrphoros", "OL CHRG");
    site[Role::Titan15].power_on().unwrap();

    // The hook of a last host: upsdrvctl cuts the outlets, though mains are there, and they come back.
    let killed = Instant::now();
    site[Role::TitanDb].sh("NUT_STATEPATH=/run/nut NUT_ALTPIDPATH=/run/nut upsdrvctl -u root shutdown").unwrap();
    let off = site.wait_event("pyrphoros", &Event::OutletsOff, killed, Duration::from_secs(10)).unwrap();
    assert!(off - killed >= Duration::from_secs(1));
    site.wait_event("pyrphoros", &Event::OutletsOn, off, Duration::from_secs(10)).unwrap();
    site[Role::Titan13].wait_on().unwrap();
    forced_shutdown(&site);
}

/// The real upsd: who may set FSD does, and it stays.
fn forced_shutdown(site: &Hosts) {
    let say = |user: (&str, &str)| {
        let (name, password) = user;
        format!(
            "exec 3<>/dev/tcp/titan-db/3493; printf 'USERNAME {name}\\nPASSWORD {password}\\nLOGIN pyrphoros\\nPRIMARY pyrphoros\\nFSD pyrphoros\\nLOGOUT\\n' >&3; cat <&3"
        )
    };
    site.wait_ssh(Role::Titan13).unwrap();
    assert!(ssh(site, Role::Titan13, &say(SECONDARY)).contains("ACCESS-DENIED"));
    assert!(ssh(site, Role::Titan13, &say(PRIMARY)).contains("OK FSD-SET"));
    assert!(upsc(site, Role::TitanDb, "pyrphoros", "ups.status").starts_with("FSD "));
}

/// What of a laboratory with this in its name is still there.
fn left(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if text(&command).contains(name) {
            found.push(text(&command).replace('\0', " "));
        }
    }
    for tree in ["/var/tmp", "/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/run/netns"] {
        let entries = std::fs::read_dir(tree).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| entry.path().display().to_string()).filter(|path| path.contains(name)));
    }
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(name)).map(str::to_owned));
    found
}

#[test]
fn nothing_is_left_behind() {
    if !hosts::available("nothing is left behind") {
        return;
    }
    let name = |site: &Hosts| site.lab().work().file_name().unwrap().to_str().unwrap().to_owned();
    let site = Hosts::start(&[Role::Titan13]).unwrap();
    let dropped = name(&site);
    assert!(left(&dropped).len() > 3, "{:?}", left(&dropped));
    drop(site);
    assert_eq!(left(&dropped), Vec::<String>::new());

    let panicked = std::thread::spawn(move || {
        let site = Hosts::start(&[Role::Titan13]).unwrap();
        std::panic::panic_any(name(&site));
    });
    let panicked = panicked.join().unwrap_err().downcast::<String>().unwrap();
    assert_eq!(left(&panicked), Vec::<String>::new());
}

/// Holds hosts until it is killed: the part of the next test that is started again as a process of its own.
fn hold(place: &str) {
    let site = Hosts::start(&[Role::Titan13, Role::Titan15]).unwrap();
    let mut program = site.lab().command("sleep").arg("1000").spawn().unwrap();
    let facts = format!("{}\n{}\n", site.lab().work().file_name().unwrap().to_str().unwrap(), program.id());
    std::fs::write(format!("{place}.new"), facts).unwrap();
    std::fs::rename(format!("{place}.new"), place).unwrap();
    program.wait().unwrap();
}

#[test]
fn a_test_that_is_killed_leaves_nothing() {
    if let Ok(place) = std::env::var("METIS_LAB_HELD") {
        return hold(&place);
    }
    if !hosts::available("a test that is killed") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let held = dir.path().join("held");
    let this = std::env::current_exe().unwrap();
    let mut child = Command::new(this);
    child
        .args(["--exact", "a_test_that_is_killed_leaves_nothing"])
        .env("METIS_LAB_HELD", &held)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = child.spawn().unwrap();
    let until = Instant::now() + Duration::from_mins(2);
    while !held.exists() {
        assert!(child.try_wait().unwrap().is_none() && Instant::now() < until, "no hosts");
        std::thread::sleep(Duration::from_millis(50));
    }
    let facts = std::fs::read_to_string(&held).unwrap();
    let (name, program) = facts.trim().split_once('\n').unwrap();
    assert!(!left(name).is_empty() && Path::new("/proc").join(program).exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while !left(name).is_empty() || Path::new("/proc").join(program).exists() {
        assert!(Instant::now() < until, "{:?}", left(name));
        std::thread::sleep(Duration::from_millis(100));
    }
}
