//! The real daemon and client, end to end, on files.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use metis_tests::daemon::program;
use metis_tests::site;
use nix::sys::signal::Signal;

#[test]
fn the_sandbox_shows_everything_and_ends_by_itself() {
    // As a user would run it: not as root where that can be helped, from a folder that he can read.
    let folder = tempfile::tempdir().unwrap();
    let metisd = folder.path().join("metisd");
    std::fs::copy(program("metisd"), &metisd).unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(&metisd);
    if nix::unistd::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let out = command.arg("sandbox").current_dir("/").output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{text}");
    for part in ["insert", "DISARMED: would have acted", "titan-13", "would be shut down", "== Summary"] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
}

#[test]
fn a_card_into_a_file_is_recorded_and_holds_the_node() {
    let mut daemon = site::daemon(site::PLAIN).unwrap();
    daemon.start().unwrap();
    let card = daemon.path("card.img");
    let card = card.to_str().unwrap();

    let dry = daemon.ctl(&["burn", "--node", "pi-1", "--device", card]).unwrap();
    assert_eq!(dry.code, Some(0), "{dry:?}");
    assert!(dry.text().contains("DRY RUN: nothing was changed"), "{dry:?}");
    assert!(!std::path::Path::new(card).exists());
    assert_eq!(daemon.json(&["run", "list"]).unwrap()["runs"].as_array().map(Vec::len), Some(0));

    let burnt = daemon.ctl(&["burn", "--node", "pi-1", "--device", card, "--yes"]).unwrap();
    assert_eq!(burnt.code, Some(0), "{burnt:?}\n{}", daemon.log());
    let run = daemon.json(&["run", "get", "last"]).unwrap();
    assert_eq!(run["run"]["phase"], "done", "{run:#}");
    let secret = "not-a-secret-of-anybody";
    assert!(!daemon.log().contains(secret) && !run.to_string().contains(secret) && !burnt.text().contains(secret));
}

#[test]
fn sigterm_ends_within_ten_seconds_and_sighup_keeps_what_was_good() {
    let mut daemon = site::daemon(site::PLAIN).unwrap();
    daemon.start().unwrap();
    let digest = |daemon: &metis_tests::daemon::Daemon| daemon.json(&["status"]).unwrap()["config"]["digest"].clone();
    let before = digest(&daemon);

    daemon.configure("card: { free_space_floor: 17 MiB }\n").unwrap();
    daemon.signal(Signal::SIGHUP).unwrap();
    daemon.until(Duration::from_secs(5), &["status"], |s| s["config"]["digest"] != before).unwrap();
    let good = digest(&daemon);

    daemon.configure("card: { free_space_floor: 17 }\nnonsense: 1\n").unwrap();
    daemon.signal(Signal::SIGHUP).unwrap();
    let status =
        daemon.until(Duration::from_secs(5), &["status"], |s| s["config"]["rejected"].as_array().is_some_and(|r| r.len() == 2)).unwrap();
    assert_eq!(status["config"]["digest"], good);
    assert!(daemon.stop().unwrap() < Duration::from_secs(10));

    // The file on disk is still wrong: the last good settings serve, loudly.
    daemon.start().unwrap();
    let status = daemon.json(&["status"]).unwrap();
    assert_eq!(status["config"]["digest"], good, "{status:#}");
    assert_eq!(status["config"]["rejected"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_second_instance_on_the_same_state_is_refused() {
    let mut daemon = site::daemon(site::PLAIN).unwrap();
    daemon.start().unwrap();
    let out = Command::new(program("metisd")).arg("--config").arg(daemon.path("metis.yaml")).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains(&daemon.pid().unwrap().to_string()), "the holder is not named: {text}");
    assert_eq!(daemon.ctl(&["status"]).unwrap().code, Some(0));
}

#[test]
fn kill_nine_loses_no_history() {
    let mut daemon = site::daemon(site::PLAIN).unwrap();
    daemon.start().unwrap();
    let card = daemon.path("card.img");
    let burnt = daemon.ctl(&["burn", "--node", "armbian-1", "--device", card.to_str().unwrap(), "--yes"]).unwrap();
    assert_eq!(burnt.code, Some(0), "{burnt:?}");
    let before = daemon.json(&["run", "get", "last"]).unwrap();
    daemon.kill().unwrap();
    daemon.start().unwrap();
    assert_eq!(daemon.json(&["run", "get", "last"]).unwrap(), before);
}
