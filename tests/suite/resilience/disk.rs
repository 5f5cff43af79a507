//! State directories that fail: full, read-only, hung. All need root: they are file systems of the test's own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use metis_tests::daemon::Daemon;
use metis_tests::loopdev::Loop;
use metis_tests::require;

use super::journal::{assert_an_outage_is_seen, problems};
use super::lab::{self, NODE, Outage};

/// A mounted file system; thawed and unmounted when dropped.
struct Mounted {
    dir: tempfile::TempDir,
}

impl Mounted {
    fn new(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        lab::sh("mount \"$@\"", &[arguments, &[dir.path().to_str().unwrap()]].concat());
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn order(&self, line: &str) {
        lab::sh(line, &[self.path().to_str().unwrap()]);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.order("fsfreeze -u \"$1\" 2>/dev/null || true; umount \"$1\" || umount -l \"$1\"");
    }
}

/// A daemon, not started, with its state on that file system; images are cached elsewhere.
fn on(disk: &Mounted, outage: &Outage) -> Daemon {
    let daemon = lab::site("");
    let config = lab::configuration(&outage.config()).replace("card: {", "card: { cache_dir: \"@DIR@/images\",");
    daemon.configure(&config).unwrap();
    std::os::unix::fs::symlink(disk.path(), daemon.path("state")).unwrap();
    daemon
}

/// A burn is refused for want of the journal, soon, and touches nothing.
fn assert_a_burn_is_refused(daemon: &Daemon, why: &str) {
    let card = daemon.path("refused.img");
    let begun = Instant::now();
    let refused = daemon.ctl(&["burn", "--node", NODE, "--device", card.to_str().unwrap(), "--yes"]).unwrap();
    assert_eq!(refused.code, Some(3), "{refused:?}\n{}", daemon.log());
    assert!(refused.text().contains("needs the journal") && refused.text().contains(why), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(!card.exists());
}

/// Without a restart: the journal takes facts again, and those of the bad time are in it, in order.
fn assert_restored_by_itself(daemon: &Daemon, before: u64) {
    daemon.until(Duration::from_secs(20), &["status"], |status| status["journal"]["writable"] == true).unwrap();
    assert!(!problems(daemon).contains("journal"), "{}", problems(daemon));
    let history = lab::facts_now(daemon);
    let kinds: Vec<_> = history.iter().filter(|fact| fact.seq > before).map(|fact| fact.kind.as_str()).collect();
    let told = ["journal.degraded", "trigger.decided", "trigger.cleared", "journal.restored"];
    let places: Vec<_> = told.iter().map(|kind| kinds.iter().position(|found| found == kind)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{kinds:?}");
    let times: Vec<_> = history.iter().map(|fact| fact.at).collect();
    assert!(times.is_sorted(), "facts are not in the order in which they happened: {history:#?}");
    lab::assert_told_is_stored(daemon, &history, "after the bad time");
    let card = daemon.path("card.img");
    let burnt = daemon.ctl(&["burn", "--node", NODE, "--device", card.to_str().unwrap(), "--yes"]).unwrap();
    assert_eq!(burnt.code, Some(0), "{burnt:?}");
}

fn last_seq(daemon: &Daemon) -> u64 {
    daemon.json(&["status"]).unwrap()["journal"]["last_seq"].as_u64().unwrap()
}

#[test]
fn a_full_state_directory_refuses_burns_and_recovers_by_itself() {
    if !require::root("a full state directory") {
        return;
    }
    let disk = Mounted::new(&["-t", "tmpfs", "-o", "size=2m", "metis-test"]);
    let outage = Outage::new(600.0);
    let mut daemon = on(&disk, &outage);
    daemon.start().unwrap();
    daemon.until(Duration::from_secs(10), &["ups"], |ups| ups["domains"][0]["verdict"] == "online").unwrap();
    let before = last_seq(&daemon);
    disk.order("cat /dev/zero >\"$1/filler\" 2>/dev/null || true");

    assert_an_outage_is_seen(&daemon, &outage);
    let said = problems(&daemon);
    assert!(said.contains("no space left on its file system; free some"), "{said}");
    assert_a_burn_is_refused(&daemon, "no space left");
    // A restart in the middle loses nothing either.
    daemon.kill().unwrap();
    daemon.start().unwrap();
    assert!(problems(&daemon).contains("journal"), "{}", problems(&daemon));
    assert_a_burn_is_refused(&daemon, "no space left");
    disk.order("rm \"$1/filler\"");
    assert_restored_by_itself(&daemon, before);
    daemon.stop().unwrap();
    daemon.start().unwrap();
    assert_eq!(problems(&daemon), "");
    daemon.stop().unwrap();
}

#[test]
fn a_read_only_state_directory_is_said_and_the_ups_is_watched() {
    if !require::root("a read-only state directory") {
        return;
    }
    let disk = Mounted::new(&["-t", "tmpfs", "-o", "size=16m", "metis-test"]);
    let outage = Outage::new(600.0);
    let mut daemon = on(&disk, &outage);
    daemon.start().unwrap();
    daemon.until(Duration::from_secs(10), &["ups"], |ups| ups["domains"][0]["verdict"] == "online").unwrap();
    daemon.stop().unwrap();
    let left = lab::facts_left(&daemon);
    disk.order("mount -o remount,ro \"$1\"");

    daemon.start().unwrap();
    let said = problems(&daemon);
    assert!(said.contains("read-only") && said.contains("restart metisd once that is mended"), "{said}");
    assert_an_outage_is_seen(&daemon, &outage);
    assert_a_burn_is_refused(&daemon, "read-only");
    daemon.stop().unwrap();

    disk.order("mount -o remount,rw \"$1\"");
    daemon.start().unwrap();
    assert_eq!(problems(&daemon), "");
    let history = lab::facts_now(&daemon);
    lab::assert_intact(&left, &history, "read-only meanwhile");
    for kind in ["journal.degraded", "trigger.decided", "trigger.cleared", "journal.restored"] {
        assert!(history.iter().any(|fact| fact.kind == kind), "{kind}: {history:#?}");
    }
    daemon.stop().unwrap();
}

#[test]
fn a_hung_disk_does_not_hold_the_daemon() {
    if !require::root("a hung disk") || !require::programs("a hung disk", &["fsfreeze", "mkfs.ext4"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let file: PathBuf = scratch.path().join("disk");
    std::fs::File::create(&file).unwrap().set_len(32 * lab::MIB).unwrap();
    lab::sh("mkfs.ext4 -q -F \"$1\"", &[file.to_str().unwrap()]);
    let device = Loop::attach(&file).unwrap();
    let disk = Mounted::new(&[device.path()]);
    let outage = Outage::new(600.0);
    let mut daemon = on(&disk, &outage);
    daemon.start().unwrap();
    daemon.until(Duration::from_secs(10), &["ups"], |ups| ups["domains"][0]["verdict"] == "online").unwrap();
    let before = last_seq(&daemon);
    disk.order("fsfreeze -f \"$1\"");

    assert_an_outage_is_seen(&daemon, &outage);
    let said = problems(&daemon);
    assert!(said.contains("was not written within 1s") && said.contains("journalctl -k"), "{said}");
    assert_a_burn_is_refused(&daemon, "was not written within 1s");
    let begun = Instant::now();
    daemon.json(&["status"]).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "the control loop is held: {:?}", begun.elapsed());
    let listed = daemon.ctl(&["run", "list"]).unwrap();
    assert!(listed.code == Some(0) && listed.text().contains("older runs are left out: the journal"), "{listed:?}");
    disk.order("fsfreeze -u \"$1\"");
    assert_restored_by_itself(&daemon, before);

    // It can be stopped while the disk hangs, too.
    disk.order("fsfreeze -f \"$1\"");
    daemon.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    std::thread::sleep(Duration::from_secs(5));
    disk.order("fsfreeze -u \"$1\"");
    assert!(daemon.wait(Duration::from_secs(10)).unwrap().success(), "{}", daemon.log());
}

/// A daemon on an ordinary folder, with images cached elsewhere.
fn on_a_folder(outage: &Outage) -> Daemon {
    let daemon = lab::site("");
    let config = lab::configuration(&outage.config()).replace("card: {", "card: { cache_dir: \"@DIR@/images\",");
    daemon.configure(&config).unwrap();
    daemon
}

#[test]
fn a_state_directory_that_is_renamed_or_removed_is_said_and_loses_no_fact() {
    let outage = Outage::new(600.0);
    let mut daemon = on_a_folder(&outage);
    daemon.start().unwrap();
    daemon.until(Duration::from_secs(10), &["ups"], |ups| ups["domains"][0]["verdict"] == "online").unwrap();
    let (state, away) = (daemon.path("state"), daemon.path("away"));
    let before = last_seq(&daemon);
    std::fs::rename(&state, &away).unwrap();
    assert_an_outage_is_seen(&daemon, &outage);
    let said = problems(&daemon);
    assert!(said.contains("renamed, removed or replaced while metisd runs") && said.contains("put it back"), "{said}");
    assert_a_burn_is_refused(&daemon, "renamed, removed or replaced");
    // Somebody else's directory at its place is not taken for it.
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("journal.db"), "").unwrap();
    std::fs::write(state.join("journal.db-wal"), "another's").unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert!(problems(&daemon).contains("renamed, removed or replaced"));
    std::fs::rename(&state, daemon.path("other")).unwrap();
    std::fs::rename(&away, &state).unwrap();
    assert_restored_by_itself(&daemon, before);

    std::fs::remove_dir_all(&state).unwrap();
    assert_an_outage_is_seen(&daemon, &outage);
    assert!(problems(&daemon).contains("renamed, removed or replaced"));
    std::fs::rename(daemon.path("other"), &state).unwrap();
    daemon.stop().unwrap();
    assert_eq!(std::fs::read(state.join("journal.db-wal")).unwrap(), b"another's", "the end of a daemon touched another's journal");
    std::fs::remove_dir_all(&state).unwrap();

    // Begun anew with what the spill file kept.
    daemon.start().unwrap();
    assert_eq!(problems(&daemon), "");
    let kinds: Vec<_> = lab::facts_now(&daemon).into_iter().map(|fact| fact.kind).collect();
    for kind in ["journal.degraded", "trigger.decided", "trigger.cleared", "journal.restored"] {
        assert!(kinds.iter().any(|found| found == kind), "{kind}: {kinds:?}");
    }
    daemon.stop().unwrap();
}
