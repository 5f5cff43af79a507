//! The shutdown hook on a host with systemd: when it has the UPSes cut their outlets, and when not.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use metis_tests::daemon::program;
use metis_tests::lab::Lab;
use metis_tests::nspawn::{Build, End, Event, History, Host, Times};
use metis_tests::require;
use metisd::host::clock::Clock;
use metisd::power::outlets;
use metisd::site::{BootId, Now, UpsName};

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const OFF_WITHIN: Duration = Duration::from_secs(60);
/// In place of a driver: notes how it was called, and who else was still there.
const RECORDER: &str = "#!/bin/sh
{ echo \"call $*\"; for process in /proc/[0-9]*; do read -r name <\"$process/comm\" && echo \"beside $name\"; done; } >>/srv/record
";
/// `cut` has that driver, `plain` NUT's dummy-ups, which knows no way to shut a UPS down.
const UPS_CONF: &str = "driverpath = /usr/local/lib/nut\nuser = root\n[cut]\n driver = recorder\n port = x\n[other]\n driver = recorder\n port = x\n[plain]\n driver = dummy-ups\n port = plain.dev\n";
/// What has to have ended before the outlets are cut, and takes its time.
const WORK: &str = "[Service]\nExecStart=/bin/sleep infinity\nExecStop=/bin/sh -c 'sleep 1; echo ended >>/srv/record'\n[Install]\nWantedBy=multi-user.target\n";

fn put(root: &Path, path: &str, text: &str, mode: u32) -> anyhow::Result<()> {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap())?;
    fs::write(&path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

/// metis as `systemd/install` leaves it, with NUT and something to stop.
fn install(root: &Path) -> anyhow::Result<()> {
    let binaries = program("metisd").parent().unwrap().to_path_buf();
    let out = Command::new(Path::new(REPOSITORY).join("systemd/install")).arg(root).env("BIN", binaries).output()?;
    anyhow::ensure!(out.status.success(), "systemd/install: {}", String::from_utf8_lossy(&out.stderr));
    put(root, "etc/tmpfiles.d/zz-site.conf", "Z /etc/metis - root metis -\n", 0o644)?;
    put(root, "etc/nut/ups.conf", UPS_CONF, 0o644)?;
    // Debian's nutshutdown takes MODE=none for upsmon's word, and would have the outlets cut at every shutdown.
    put(root, "etc/nut/nut.conf", "MODE=netserver\n", 0o644)?;
    put(root, "etc/nut/plain.dev", "ups.status: OB LB\n", 0o644)?;
    put(root, "usr/local/lib/nut/recorder", RECORDER, 0o755)?;
    symlink("/lib/nut/dummy-ups", root.join("usr/local/lib/nut/dummy-ups"))?;
    put(root, "etc/systemd/system/work.service", WORK, 0o644)?;
    let enabled = Command::new("systemctl").arg("--root").arg(root).args(["--no-pager", "enable", "metisd", "work"]).output()?;
    anyhow::ensure!(enabled.status.success(), "systemctl enable: {}", String::from_utf8_lossy(&enabled.stderr));
    Ok(())
}

struct Site {
    host: Host,
    history: History,
    /// In place of its console, which nspawn has none of for a host without a terminal.
    console: tempfile::NamedTempFile,
}

impl Site {
    fn start(name: &str) -> anyhow::Result<Self> {
        let history = History::default();
        let console = tempfile::NamedTempFile::new()?;
        let options = vec!["--private-network".to_owned(), format!("--bind={}:/dev/console", console.path().display())];
        let build = Build { name: name.to_owned(), options, cable: None, times: Times::QUICK, restores: true, history: history.clone() };
        let host = Host::build(Arc::new(Lab::start(name)?), build)?;
        install(&host.disk())?;
        host.power_on()?;
        Ok(Self { host, history, console })
    }

    /// The moment as metisd on that host would take it.
    fn now(&self) -> Now {
        let boot_id = self.host.sh("cat /proc/sys/kernel/random/boot_id").unwrap();
        Now { boot_id: BootId::new(boot_id.trim()), ..Clock::new().unwrap().now() }
    }

    /// Leaves word as of `now`.
    fn leave(&self, upses: &[&str], now: &Now) {
        let upses: BTreeSet<UpsName> = upses.iter().map(|ups| UpsName::from(format!("{ups}@localhost"))).collect();
        outlets::leave(&self.host.root().join("run/metis"), &upses, now).unwrap();
    }

    /// Runs `action` and waits until the host is off; what was recorded by then, and what the hook said.
    fn down(&self, action: &str) -> (Vec<String>, String) {
        self.host.sh("rm -f /srv/record; systemctl is-active metisd work").unwrap();
        let said = self.console().len();
        let _ = self.host.output(&["systemctl", action]);
        assert_eq!(self.host.wait_off(OFF_WITHIN).unwrap(), End::PoweredOff, "{action}: {}", self.host.console());
        self.left(said)
    }

    fn console(&self) -> String {
        fs::read_to_string(self.console.path()).unwrap()
    }

    fn left(&self, said: usize) -> (Vec<String>, String) {
        let record = fs::read_to_string(self.host.disk().join("srv/record")).unwrap_or_default();
        let console = self.console()[said..].lines().filter(|line| line.contains("metis: ")).collect::<Vec<_>>().join("\n");
        (record.lines().map(str::to_owned).collect(), console)
    }

    fn on(&self) -> &Self {
        self.host.power_on().unwrap();
        self
    }
}

fn calls(record: &[String]) -> Vec<&str> {
    record.iter().filter_map(|line| line.strip_prefix("call ")).collect()
}

fn able(test: &str) -> bool {
    require::root(test) && require::programs(test, &["systemd-nspawn", "mmdebstrap", "nsenter"])
}

#[test]
fn outlets_are_cut_after_everything_else_has_ended() {
    if !able("cut outlets") {
        return;
    }
    let site = Site::start("cut").unwrap();
    site.leave(&["cut", "plain", "gone"], &site.now());
    let (record, said) = site.down("poweroff");
    assert_eq!(record[0], "ended", "the work went first: {record:?}");
    assert_eq!(calls(&record).len(), 1, "{record:?}");
    assert!(calls(&record)[0].contains("-a cut") && calls(&record)[0].contains("-k"), "{record:?}");
    let beside: BTreeSet<&str> = record.iter().filter_map(|line| line.strip_prefix("beside ")).collect();
    // PID 1 and its executor, the hook with its own processes, upsdrvctl's driver.
    let expected = BTreeSet::from([
        "systemd-shutdow",
        "(sd-exec-strv)",
        "(sd-executor)",
        "metis",
        "timeout",
        "upsdrvctl",
        "recorder",
        "dummy-ups",
        "tail",
        "nutshutdown",
        "upsmon",
    ]);
    assert!(beside.is_subset(&expected) && beside.contains("systemd-shutdow"), "{beside:?}");
    assert!(said.contains("metis: cut was told to cut its outlets"), "{said}");
    assert!(said.contains("metis: plain was not told to cut its outlets: upsdrvctl ended with 1"), "{said}");
    assert!(said.contains("metis: gone was not told to cut its outlets: upsdrvctl ended with 1"), "{said}");

    // A halt, too; two UPSes at once.
    site.on().leave(&["cut", "other"], &site.now());
    let (record, said) = site.down("halt");
    assert_eq!(calls(&record).len(), 2, "{record:?} {said}");

    // NUT is not there.
    site.on().host.sh("mv /sbin/upsdrvctl /sbin/upsdrvctl.gone").unwrap();
    site.leave(&["cut"], &site.now());
    let (record, said) = site.down("poweroff");
    assert_eq!(calls(&record), [""; 0]);
    assert!(said.contains("no upsdrvctl here (Debian: nut-server): no outlets are cut"), "{said}");
}

#[test]
fn outlets_are_not_cut_without_word_for_this_power_off() {
    if !able("outlets left alone") {
        return;
    }
    let site = Site::start("leave").unwrap();
    let none = |(record, said): (Vec<String>, String), why: &str| {
        assert_eq!(record, ["ended"], "{why}: {said}");
        assert!(if why.is_empty() { said.is_empty() } else { said.contains(why) }, "{why}: {said}");
    };
    none(site.down("poweroff"), "");

    site.on().leave(&["cut"], &Now { boot_id: BootId::new("another"), ..site.now() });
    none(site.down("poweroff"), "is not of this boot: no outlets are cut");

    let now = site.on().now();
    site.leave(&["cut"], &Now { boot: now.boot.saturating_sub(outlets::VALID_FOR + Duration::from_secs(2)), ..now });
    none(site.down("poweroff"), "is too old: no outlets are cut");

    site.on().host.sh("printf 'ups=cut\\nuntil=x\\n' >/run/metis/cut-outlets").unwrap();
    none(site.down("poweroff"), "is not of this boot");

    // What root's shell must not take for more than names.
    let boot_id = site.on().now().boot_id;
    let evil = format!("boot_id={boot_id}\nuntil=99999999\nups=-k\nups=$(touch /srv/evil)\nups=cut;id\nups=\nups\n");
    fs::write(site.host.root().join("run/metis/cut-outlets"), evil).unwrap();
    none(site.down("poweroff"), "no name of a UPS");
    assert!(!site.host.disk().join("srv/evil").exists());

    // A reboot cuts nothing, and the word does not outlive it.
    site.on().leave(&["cut"], &site.now());
    site.host.sh("rm -f /srv/record").unwrap();
    let boot = site.now().boot_id;
    let _ = site.host.output(&["systemctl", "reboot"]);
    site.host.wait_for(60, &format!("! grep -q {boot} /proc/sys/kernel/random/boot_id && systemctl is-active metisd")).unwrap();
    assert_eq!(site.left(0).0, ["ended"]);
    assert!(!site.host.root().join("run/metis/cut-outlets").exists());
}

#[test]
fn a_host_whose_mains_came_back_boots_again() {
    if !able("returning mains") {
        return;
    }
    let site = Site::start("race").unwrap();
    let rebooted = || site.history.lock().unwrap().iter().filter(|moment| moment.event == Event::Rebooting).count();
    site.host.sh("printf 'MODE=netserver\\nPOWEROFF_WAIT=\"2s\"\\n' >/etc/nut/nut.conf").unwrap();
    site.leave(&["cut"], &site.now());
    site.host.sh("rm -f /srv/record").unwrap();
    let boot = site.now().boot_id;
    let _ = site.host.output(&["systemctl", "poweroff"]);
    site.host.wait_for(60, &format!("! grep -q {boot} /proc/sys/kernel/random/boot_id && systemctl is-active metisd")).unwrap();
    assert_eq!(rebooted(), 1);
    let (record, said) = site.left(0);
    assert_eq!(calls(&record).len(), 1, "{record:?}");
    assert!(said.contains("still powered 2 s after the outlets should have been cut: rebooting"), "{said}");

    // More than systemd waits for: said, and the host is off as it was told.
    site.host.sh("echo POWEROFF_WAIT=5m >>/etc/nut/nut.conf").unwrap();
    site.leave(&["cut"], &site.now());
    let (record, said) = site.down("poweroff");
    assert_eq!((calls(&record).len(), rebooted()), (1, 1), "{said}");
    assert!(said.contains("POWEROFF_WAIT=5m does not fit into the "), "{said}");
}
