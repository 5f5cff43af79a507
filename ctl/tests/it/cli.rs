//! Exit codes, messages and renderings.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use insta::assert_snapshot;
use metis_proto::v1;

use crate::fake::{Fake, Fault};
use crate::{is_root, metisctl, program, run, str};

const DEVICE: &str = "/dev/metis-no-such-disk";

/// Tables fit 100 columns; commands to copy and messages are not broken.
fn fits(text: &str) -> &str {
    let free = ["   ", "PROBLEM", "would be refused", "warning", "sha256", "TRIGGERED", "DISARMED", "DRY RUN"];
    for line in text.lines().filter(|line| !free.iter().any(|start| line.starts_with(start))) {
        assert!(line.chars().count() <= 100, "wider than 100: {line}");
    }
    text
}

#[test]
fn nobody_listens() {
    let dir = tempfile::tempdir().unwrap();
    let ran = run(&dir.path().join("sock"), &["status"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.contains("does not answer on"), "{}", ran.err);
}

#[test]
fn no_permission_is_told_from_not_running() {
    let fake = Fake::start(Fault::None);
    let open = |mode| std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(fake.socket(), open(0o000)).unwrap();
    let mut command = metisctl(&fake.socket(), &["status"]);
    if is_root() {
        // Root opens everything: as nobody, with a program that nobody can reach.
        let copy = fake.path("metisctl");
        std::fs::copy(env!("CARGO_BIN_EXE_metisctl"), &copy).unwrap();
        std::fs::set_permissions(&copy, open(0o755)).unwrap();
        std::fs::set_permissions(fake.dir.path(), open(0o755)).unwrap();
        command = program(&copy, &fake.socket(), &["status"]);
        command.uid(65_534).gid(65_534);
    }
    let ran: crate::Ran = command.output().unwrap().into();
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.contains("no permission on") && ran.err.contains("group metis"), "{}", ran.err);
}

#[test]
fn a_daemon_that_does_not_answer_is_given_up() {
    let fake = Fake::start(Fault::Mute);
    let ran = run(&fake.socket(), &["status", "--timeout", "0.3"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.contains("did not answer within 0.3 s"), "{}", ran.err);
}

#[test]
fn wrong_usage() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sock");
    for args in [
        &["burn"][..],
        &["image", "--node", "x"],
        &["frobnicate"],
        &["--timeout", "-1", "status"],
        &["ups", "history", "x", "--since", "9y"],
    ] {
        let ran = run(&socket, args);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}: {ran:?}");
    }
    let ran = run(&socket, &["burn", "--node", "x", "--device", "/"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("/ is a directory"), "{}", ran.err);
}

#[test]
fn all_guards_of_a_refusal_are_printed() {
    let fake = Fake::start(Fault::Refuse);
    let ran = run(&fake.socket(), &["burn", "--yes", "--node", "titan-13", "--device", DEVICE]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_snapshot!(ran.err, @"
    metisctl: refused: burn titan-13 to /dev/metis-no-such-disk
      device.mounted: /dev/sdz1 is mounted on /mnt: unmount it (cannot be waived)
      device.fixed: /dev/sdz is not removable (waive it with --allow-fixed)
    ");
    let ran = run(&fake.socket(), &["image", "--execute", "--node", "titan-13", "--output", str(&fake.path("x.img"))]);
    assert_eq!((ran.code, ran.err.contains("device.fixed")), (3, true), "{ran:?}");
    let ran = run(&fake.socket(), &["run", "cancel", "burn-17", "--execute"]);
    assert_eq!((ran.code, ran.out.as_str()), (3, "burn-17 cannot be cancelled:\n  the card is complete\n"), "{ran:?}");
}

#[test]
fn a_role_that_is_too_small() {
    let fake = Fake::start(Fault::Role);
    let ran = run(&fake.socket(), &["burn", "--yes", "--node", "titan-13", "--device", DEVICE]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.err.contains("needs role maintenance; you are uid 1000 with role viewer"), "{}", ran.err);
}

#[test]
fn dry_runs_change_nothing_and_say_so() {
    let fake = Fake::start(Fault::None);
    let burn = ["burn", "--node", "titan-13", "--device", DEVICE];
    let ran = run(&fake.socket(), &burn);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.ends_with("DRY RUN: nothing was changed, add --yes\n"), "{}", ran.out);
    assert!(!fake.heard().burns[0].execute);
    let file = fake.path("x.img");
    let ran = run(&fake.socket(), &["image", "--node", "titan-13", "--output", str(&file)]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.ends_with("DRY RUN: nothing was changed, add --execute\n"), "{}", ran.out);
    assert!(!file.exists() && !fake.heard().start.unwrap().execute);
    let ran = run(&fake.socket(), &["run", "cancel", "last"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("cancelling burn-17 would mean:\n  the card has no partition table\n"), "{}", ran.out);
    assert!(ran.out.ends_with("DRY RUN: nothing was changed, add --execute\n"), "{}", ran.out);
    let ran = run(&fake.socket(), &[&["-o", "json"], &burn[..]].concat());
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&json["dry_run"], &json["plan"]["phases"][1]["steps"][0]["form"]), (&true.into(), &"act".into()));
    assert!(ran.err.contains("DRY RUN"), "{}", ran.err);
}

#[test]
fn a_plan_that_would_be_refused() {
    let fake = Fake::start(Fault::PlanRefuses);
    let ran = run(&fake.socket(), &["plan", "--node", "titan-13", "--device", DEVICE]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_snapshot!("plan_refused", fits(&ran.out));
}

#[test]
fn images_from_the_environment_are_sent_along() {
    let fake = Fake::start(Fault::None);
    let mut command = metisctl(&fake.socket(), &["burn", "--no-inject", "--allow-fixed", "--node", "titan-13", "--device", DEVICE]);
    command.env("METIS_IMAGE_RPI4_ARMBIAN_STD", "file:/srv/a.img").env("METIS_IMAGE_RPI4_ARMBIAN_STD_SHA256", "00ff");
    assert!(command.status().unwrap().success());
    let request = fake.heard().burns.remove(0);
    let spec = request.spec.unwrap();
    assert_eq!(spec.image_override["rpi4-armbian-std"], "file:/srv/a.img");
    assert_eq!(spec.sha256_override["rpi4-armbian-std"], "00ff");
    assert!(spec.no_inject && request.allow_fixed);
}

#[test]
fn a_run_gives_its_exit_code() {
    for (phase, code, said) in [
        (v1::Phase::Done, 0, "burn-17 done in 3 min 20 s: insert the card and power on"),
        (v1::Phase::Failed, 1, "burn-17 failed in 3 min 20 s: cannot write /dev/sdz"),
        (v1::Phase::Degraded, 5, "burn-17 degraded in 3 min 20 s: written"),
    ] {
        let fake = Fake::with(Fault::None, crate::sample::image(), phase);
        let ran = run(&fake.socket(), &["burn", "--yes", "--node", "titan-13", "--device", DEVICE]);
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.out.starts_with(said), "{}", ran.out);
        assert!(ran.err.contains("burn-17: burn titan-13 to /dev/sdz") && ran.err.contains("step.started"), "{}", ran.err);
        let ran = run(&fake.socket(), &["run", "watch", "last"]);
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.out.contains("card.write step.ended done: 1.83 GB written"), "{}", ran.out);
    }
}

#[test]
fn a_watch_that_breaks_off_is_taken_up_where_it_was() {
    let fake = Fake::start(Fault::BreakWatch);
    let ran = run(&fake.socket(), &["-o", "json", "run", "watch", "burn-17"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let seqs: Vec<_> = ran.out.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs.iter().filter(|s| **s > 0).copied().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(fake.heard().watches, [0, 1]);
    let ran = run(&fake.socket(), &["run", "watch", "burn-99"]);
    assert_eq!((ran.code, ran.err.contains("there is no run burn-99")), (1, true), "{ran:?}");
}

#[test]
fn a_daemon_lost_for_good_during_a_run() {
    let mut fake = Fake::start(Fault::Endless);
    let child = crate::spawn(&fake.socket(), &["run", "watch", "burn-17", "--timeout", "1"]);
    fake.until("watched", |h| h.watches == [0]);
    fake.die();
    let ran: crate::Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.contains("the run is the daemon's") && ran.err.contains("run watch burn-17"), "{}", ran.err);
}

#[test]
fn renderings() {
    let fake = Fake::start(Fault::None);
    for (name, args) in [
        ("status", &["status"][..]),
        ("ups", &["ups"]),
        ("device", &["device"]),
        ("plan", &["plan", "--node", "titan-13", "--device", DEVICE]),
        ("config", &["config", "--node", "titan-13"]),
        ("status_json", &["status", "-o", "json"]),
        ("ups_yaml", &["ups", "-o", "yaml"]),
        ("device_json", &["device", "list", "-o", "json"]),
        ("run_get_json", &["run", "get", "burn-17", "-o", "json"]),
        ("ups_history_json", &["ups", "history", "pyrphoros@localhost", "-o", "json"]),
    ] {
        let ran = run(&fake.socket(), args);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}: {ran:?}");
        assert!(!ran.out.contains('\x1b'), "colours outside a terminal: {args:?}");
        assert_snapshot!(name, if name.contains('_') { ran.out } else { fits(&ran.out).replace(str(&fake.socket()), "SOCKET") });
    }
    for args in [&["run"][..], &["run", "get", "last"], &["ups", "history", "pyrphoros@localhost"]] {
        let ran = run(&fake.socket(), args);
        assert_eq!(ran.code, 0, "{ran:?}");
        fits(&ran.out);
    }
    let ran = run(&fake.socket(), &["config", "--node", "titan-99"]);
    assert_eq!((ran.code, ran.err.contains("the inventory has no node titan-99")), (1, true), "{ran:?}");
}

#[test]
fn in_process_it_is_the_same_client() {
    let fake = Fake::start(Fault::None);
    let args = ["metisctl", "--socket", str(&fake.socket()), "device"].map(OsString::from);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let code = runtime.block_on(metisctl::run(args, &mut out, &mut err));
    assert_eq!((code, err), (0, Vec::new()));
    assert_eq!(String::from_utf8(out).unwrap(), run(&fake.socket(), &["device"]).out);
}

#[test]
fn every_command_has_help_and_a_man_page() {
    let dir = tempfile::tempdir().unwrap();
    let mut helps = String::new();
    for args in [
        &[][..],
        &["status"],
        &["ups"],
        &["ups", "history"],
        &["config"],
        &["plan"],
        &["image"],
        &["burn"],
        &["device"],
        &["device", "list"],
        &["shutdown"],
        &["startup"],
        &["prepare"],
        &["inventory"],
        &["inventory", "import"],
        &["arm"],
        &["disarm"],
        &["lease"],
        &["lease", "list"],
        &["lease", "renew"],
        &["lease", "release"],
        &["run"],
        &["run", "list"],
        &["run", "get"],
        &["run", "watch"],
        &["run", "cancel"],
        &["completions"],
        &["man"],
    ] {
        let ran: crate::Ran = metisctl(Path::new("/s"), &[args, &["--help"]].concat()).env_remove("METIS_SOCKET").output().unwrap().into();
        assert_eq!(ran.code, 0, "{ran:?}");
        let own = if args.is_empty() { &ran.out } else { ran.out.split("Options of every command:").next().unwrap() };
        helps += &format!("=== metisctl {}\n{}\n", args.join(" "), own.trim_end());
        let page = dir.path().join(format!("{}.1", [&["metisctl"], args].concat().join("-")));
        if !page.exists() {
            assert_eq!(run(Path::new("/s"), &["man", dir.path().to_str().unwrap()]).code, 0);
        }
        assert!(std::fs::read_to_string(&page).unwrap().contains(".SH NAME"), "{}", page.display());
    }
    assert_snapshot!("help", helps);
    let page = std::fs::read_to_string(dir.path().join("metisctl.1")).unwrap();
    assert!(page.contains("refused by a guard") && page.contains("METIS_IMAGE_"), "exit codes and environment are in the page");
}

#[test]
fn a_reader_that_goes_away_is_no_error_to_talk_about() {
    let mut command = metisctl(Path::new("/s"), &["completions", "bash"]);
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let ran: crate::Ran = child.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.err.as_str()), (1, ""), "{ran:?}");
}

#[test]
fn completions_are_scripts() {
    for (shell, word) in [("bash", "complete -F"), ("zsh", "#compdef metisctl"), ("fish", "complete -c metisctl")] {
        let ran = run(Path::new("/s"), &["completions", shell]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.out.contains(word), "{shell}");
    }
}
