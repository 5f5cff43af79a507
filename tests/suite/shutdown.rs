//! Shutdown, arming and cancelling as a person sees them: the real daemon and client, on a site whose hosts cannot be reached.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use metis_tests::daemon::{Answer, Daemon, program};
use metis_tests::nut::Nut;
use metis_tests::{nut, require, site};
use nix::sys::signal::Signal;

/// Nobody listens there, and nobody answers elsewhere: every host is off.
const INVENTORY: &str = "defaults: { host: { port: 9, host_keys: [\"SHA256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\"] } }
classes:
  server: { arch: arm64, k3s: { role: server } }
  agent: { arch: arm64, k3s: { role: agent } }
  outside: { arch: amd64 }
nodes:
  titan-db: { class: outside, host: { address: localhost } }
  titan-0a: { class: server, host: { address: 127.0.0.2, returns: ac-cycle } }
  titan-13: { class: agent, host: { address: 127.0.0.3, returns: by-hand } }
  titan-15: { class: agent, host: { address: 127.0.0.4, returns: wake-on-lan, mac: 00:1b:21:3a:4f:5e } }
";

/// uid 65534 sees, 65533 burns.
const ROLES: &str = "api:
  group: \"65534\"
  roles: { viewer: { users: [\"65534\"] }, maintenance: { users: [\"65533\"] } }
hosts: { this_host: titan-db, user: metis, key: { file: \"@DIR@/secrets/host_key\" }, connect_timeout: 1s }
startup: { clocks: false }
shutdown: { stop_timeout: 3s, drain_timeout: 3s, emergency_drain_timeout: 3s, detach_timeout: 3s, snapshot_timeout: 3s }
";

fn power(nut: &Nut) -> String {
    let ups = nut.name("ups");
    format!(
        "{ROLES}power:\n  poll_interval: 500ms\n  prepared_within: PREPARED\n  shutdown_budget: 1m\n  thresholds: {{ debounce_polls: 1 }}\n  upses: {{ \"{ups}\": {{ }} }}\n  \
         domains: {{ all: {{ upses: [\"{ups}\"], nodes: [titan-0a, titan-13, titan-15] }} }}\n"
    )
}

/// A daemon on the site that can be reached by every user of this host.
fn started(role: &str, config: &str) -> Daemon {
    let mut daemon = Daemon::new("", INVENTORY).unwrap();
    let head = "daemon: { state_dir: \"@DIR@/state\", runtime_dir: \"@DIR@/run\", log_level: debug, host_role: ROLE }\n";
    let config = format!("{head}{config}").replace("@DIR@", &daemon.dir.path().display().to_string()).replace("ROLE", role);
    std::fs::write(daemon.path("metis.yaml"), config).unwrap();
    site::secrets(&daemon).unwrap();
    std::fs::set_permissions(daemon.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    daemon.start().unwrap();
    std::fs::set_permissions(daemon.path("run"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::copy(program("metisctl"), daemon.path("metisctl")).unwrap();
    daemon
}

/// metisctl as another user.
fn as_user(daemon: &Daemon, uid: u32, arguments: &[&str]) -> Answer {
    let mut command = Command::new(daemon.path("metisctl"));
    command.arg("--socket").arg(daemon.socket()).args(arguments).current_dir("/").uid(uid).gid(65534);
    command.output().unwrap().into()
}

fn runs(daemon: &Daemon) -> usize {
    daemon.json(&["run", "list"]).unwrap()["runs"].as_array().map_or(0, Vec::len)
}

#[test]
fn a_dry_run_plans_the_whole_site_and_changes_nothing() {
    let daemon = started("coordinator", ROLES);
    let dry = daemon.ctl(&["shutdown", "--mode", "host-poweroff"]).unwrap();
    assert_eq!(dry.code, Some(0), "{dry:?}\n{}", daemon.log());
    for part in ["stop k3s", "point of no return", "a person presses its button", "by a magic packet", "$ ssh", "run cancel` undoes"] {
        assert!(dry.out.contains(part), "{part} is missing in\n{}", dry.out);
    }
    assert!(dry.out.ends_with("DRY RUN: nothing was changed, add --execute\n"), "{}", dry.out);
    let plan = daemon.json(&["shutdown"]).unwrap();
    let hosts: Vec<_> = plan["hosts"].as_array().unwrap().iter().map(|h| (h["name"].as_str().unwrap(), h["powers_off"] == true)).collect();
    assert_eq!(hosts, [("titan-0a", false), ("titan-13", false), ("titan-15", false)], "cluster-only leaves hosts on");
    assert_eq!(runs(&daemon), 0);
}

#[test]
fn the_plan_is_for_everybody_and_the_rest_for_admins() {
    if !require::root("roles of a shutdown") {
        return;
    }
    let daemon = started("coordinator", ROLES);
    for (uid, role) in [(65534, "viewer"), (65533, "maintenance")] {
        let dry = as_user(&daemon, uid, &["shutdown"]);
        assert_eq!(dry.code, Some(0), "{role}: {dry:?}");
        assert_ne!(as_user(&daemon, uid, &["arm", "--check"]).code, Some(4));
        for command in [&["shutdown", "--execute"][..], &["arm"], &["disarm"]] {
            let refused = as_user(&daemon, uid, command);
            assert_eq!(refused.code, Some(3), "{role} {command:?}: {refused:?}");
            let said = format!("refused: {} needs role admin; you are uid {uid} with role {role}", command[0]);
            assert!(refused.err.contains(&said), "{}", refused.err);
        }
    }
    let nobody = as_user(&daemon, 65532, &["shutdown"]);
    assert_eq!(nobody.code, Some(3), "{nobody:?}");
    assert_eq!((runs(&daemon), daemon.json(&["status"]).unwrap()["armed"].clone()), (0, false.into()));
    // Who was refused is on record.
    for call in ["Power.Shutdown", "Power.Arm", "Power.Disarm"] {
        let line = format!("{call}  by uid 65533 (role maintenance): refused");
        assert!(daemon.log().contains(&line), "{line} is missing in\n{}", daemon.log());
    }
}

#[test]
fn hosts_that_cannot_be_reached_are_named_and_the_run_ends() {
    let daemon = started("coordinator", ROLES);
    let done = daemon.ctl(&["shutdown", "--execute", "--reason", "works at the mains"]).unwrap();
    assert_eq!(done.code, Some(5), "{done:?}\n{}", daemon.log());
    for host in ["titan-0a", "titan-13", "titan-15"] {
        assert!(done.out.contains(&format!("\n  {host}: k3s.stop")), "{host} is not named:\n{}", done.out);
    }
    let run = daemon.json(&["run", "show", "last"]).unwrap();
    assert_eq!(
        (&run["run"]["phase"], &run["run"]["kind"], &run["run"]["cause"]),
        (&"degraded".into(), &"shutdown".into(), &"person".into())
    );
    let shown = daemon.ctl(&["run", "show", "last"]).unwrap();
    assert!(shown.out.contains("PHASE") && shown.out.contains("not done:\n"), "{}", shown.out);
    assert!(daemon.log().contains("because works at the mains"), "the reason is on record");
    let late = daemon.ctl(&["run", "cancel", "last", "--execute"]).unwrap();
    assert_eq!(late.code, Some(3), "{late:?}");
    assert!(late.out.contains("has ended already: degraded"), "{late:?}");
}

#[test]
fn arming_is_refused_with_all_reasons_or_holds_until_disarmed() {
    if !require::root("arming") || !nut::available("arming") {
        return;
    }
    nut::hide().unwrap();
    let nut = Nut::start(&["ups"], "", "").unwrap();
    // Without a UPS there is nothing to act upon.
    let daemon = started("observer", ROLES);
    let refused = daemon.ctl(&["arm"]).unwrap();
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(refused.err.contains("power.no_domain: ") && refused.err.contains("daemon.host_role: "), "{}", refused.err);
    assert_eq!(daemon.ctl(&["shutdown"]).unwrap().code, Some(3), "an observer commands no shutdown");
    assert_eq!(daemon.json(&["status"]).unwrap()["armed"], false);
    drop(daemon);

    let mut daemon = started("coordinator", &power(&nut).replace("PREPARED", "1h"));
    daemon.until(Duration::from_secs(10), &["ups"], |ups| ups["upses"][0]["verdict"] == "online").unwrap();
    let unprepared = daemon.ctl(&["arm"]).unwrap();
    assert_eq!(unprepared.code, Some(3), "{unprepared:?}");
    assert!(unprepared.err.contains("prepare.missing: ") && !unprepared.err.contains("power."), "{}", unprepared.err);
    let prepared = daemon.ctl(&["prepare"]).unwrap();
    assert_eq!(prepared.code, Some(0), "{prepared:?}");
    let check = daemon.ctl(&["arm", "--check"]).unwrap();
    assert_eq!(check.code, Some(0), "{check:?}");
    assert!(check.out.contains("disarmed; nothing stands against arming for cluster-only"), "{}", check.out);
    assert_eq!(daemon.json(&["status"]).unwrap()["armed"], false, "a check changes nothing");

    let armed = daemon.ctl(&["arm", "--mode", "host-poweroff"]).unwrap();
    assert_eq!((armed.code, armed.out.lines().next()), (Some(0), Some("ARMED: a trigger leads to host-poweroff")), "{armed:?}");
    let status = daemon.json(&["status"]).unwrap();
    assert_eq!((&status["armed"], &status["on_trigger"]), (&true.into(), &"host-poweroff".into()));
    assert_eq!(status["phase"], "watching; armed: a trigger leads to host-poweroff", "systemd's STATUS=");
    // It is a fact, and survives whatever becomes of the daemon.
    daemon.kill().unwrap();
    daemon.start().unwrap();
    let shown = daemon.ctl(&["status"]).unwrap();
    assert!(shown.out.contains("ARMED: a trigger leads to host-poweroff"), "{}", shown.out);
    let disarmed = daemon.ctl(&["disarm"]).unwrap();
    assert_eq!(disarmed.code, Some(0), "{disarmed:?}");
    assert!(disarmed.out.contains("DISARMED"), "{disarmed:?}");
    assert_eq!(daemon.json(&["status"]).unwrap()["armed"], false);
}

#[test]
fn a_shutdown_goes_on_without_its_watcher_and_says_how_to_attach_and_to_cancel() {
    let daemon = started("coordinator", &ROLES.replace("connect_timeout: 1s", "connect_timeout: 30s").replace("port: 9", "port: 1"));
    let child = daemon.ctl_command(&["shutdown", "--execute"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    daemon.until(Duration::from_secs(10), &["run", "list"], |runs| runs["runs"].as_array().is_some_and(|r| !r.is_empty())).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let left: Answer = child.wait_with_output().unwrap().into();
    // It may have ended before the signal came: hosts that refuse are quick.
    if left.code == Some(130) {
        assert!(left.err.contains("detached: shutdown-1 goes on in metisd") && left.err.contains("run watch shutdown-1"), "{left:?}");
    }
    let watched = daemon.ctl(&["run", "watch", "shutdown-1"]).unwrap();
    assert_eq!(watched.code, Some(5), "{watched:?}");
}

/// The report of the newest shutdown; it is written once the run has ended.
fn report(daemon: &Daemon) -> serde_json::Value {
    let file = daemon.path("state/last-shutdown-report.json");
    for _ in 0..100 {
        if let Ok(text) = std::fs::read(&file) {
            return serde_json::from_slice(&text).unwrap();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("no report:\n{}", daemon.log());
}

/// The user's ssh, played by a script: it makes the local end of the socket and runs the remote command.
const SSH: &str = "#!/bin/sh
while [ $# -gt 0 ]; do
  case \"$1\" in
    -L) ln -s \"${2#*:}\" \"${2%%:*}\"; shift 2 ;;
    -o) shift 2 ;;
    --) shift; break ;;
    *) shift ;;
  esac
done
shift
exec sh -c \"$*\"
";

#[test]
fn of_two_requests_at_once_from_here_and_from_elsewhere_one_is_refused() {
    let daemon = started("coordinator", ROLES);
    std::fs::write(daemon.path("ssh"), SSH).unwrap();
    std::fs::set_permissions(daemon.path("ssh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", daemon.dir.path().display(), std::env::var("PATH").unwrap());
    let ask = |arguments: &[&str]| {
        let mut command = daemon.ctl_command(arguments);
        command.env("PATH", &path).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let asked = [ask(&["shutdown", "--execute"]), ask(&["--host", "erika@titan-db", "shutdown", "--execute"])];
    let answers = asked.map(|child| Answer::from(child.wait_with_output().unwrap()));
    let mut codes: Vec<_> = answers.iter().map(|answer| answer.code).collect();
    codes.sort_unstable();
    assert_eq!(codes, [Some(3), Some(5)], "{answers:?}");
    let refused = answers.iter().find(|answer| answer.code == Some(3)).unwrap();
    assert!(refused.err.contains("run.busy: shutdown-1 (stop the cluster) is under way: it stops some of the same hosts"), "{refused:?}");
    assert_eq!(runs(&daemon), 1);
}

#[test]
fn a_failing_ups_raises_the_shutdown_that_is_under_way() {
    if !require::root("raising a shutdown") || !nut::available("raising a shutdown") {
        return;
    }
    nut::hide().unwrap();
    let nut = Nut::start(&["ups"], "", "").unwrap();
    let daemon = started("coordinator", &power(&nut).replace("PREPARED", "never").replace("stop_timeout: 3s", "stop_timeout: 20s"));
    daemon.until(Duration::from_secs(10), &["ups"], |ups| ups["upses"][0]["verdict"] == "online").unwrap();
    assert_eq!(daemon.ctl(&["arm", "--mode", "host-poweroff"]).unwrap().code, Some(0));
    let mut stop = daemon.ctl_command(&["shutdown", "--execute"]);
    let stop = stop.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    daemon.until(Duration::from_secs(10), &["run", "list"], |runs| runs["runs"].as_array().is_some_and(|r| !r.is_empty())).unwrap();
    nut.set("ups", &[("ups.status", "OB DISCHRG"), ("battery.runtime", "60"), ("battery.charge", "60")]).unwrap();
    let followed: Answer = stop.wait_with_output().unwrap().into();
    assert_eq!(followed.code, Some(5), "{followed:?}\n{}", daemon.log());
    assert!(followed.err.contains("run.raised") && followed.err.contains("raised by the failing power of all"), "{followed:?}");
    assert_eq!(runs(&daemon), 1);
    let shown = daemon.ctl(&["run", "show", "last"]).unwrap();
    assert!(shown.out.contains("by the failing power of all") && shown.out.contains("power off 3 hosts"), "{}", shown.out);
    let report = report(&daemon);
    assert_eq!((&report["raised"][0]["domains"][0], &report["cause"]["cause"]), (&"all".into(), &"person".into()), "{report:#}");
    let named: Vec<_> = report["abandoned"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(named, ["titan-0a", "titan-13", "titan-15"]);
    assert!(!report["phases"].to_string().contains("poweroff.titan-db"), "no UPS feeds this host: {report:#}");
}

fn standalone(daemon: &Daemon, arguments: &[&str]) -> Answer {
    let mut command = Command::new(program("metisd"));
    command.arg("--config").arg(daemon.path("metis.yaml")).args(["shutdown", "--standalone"]).args(arguments);
    command.output().unwrap().into()
}

#[test]
fn a_standalone_shutdown_leaves_a_daemon_that_answers_its_work() {
    let daemon = started("coordinator", ROLES);
    let refused = standalone(&daemon, &["--execute"]);
    assert_eq!(refused.code, Some(3), "{refused:?}");
    let pid = daemon.pid().unwrap();
    let said = format!("metisd (process {pid}) runs and answers on {}: use `metisctl shutdown`", daemon.socket().display());
    assert!(refused.err.contains(&said), "{}", refused.err);
    let dry = standalone(&daemon, &[]);
    assert_eq!(dry.code, Some(0), "a plan disturbs nobody: {dry:?}");
    assert_eq!(runs(&daemon), 0);
}

#[test]
fn a_standalone_shutdown_does_the_same_as_the_daemon() {
    let mut daemon = started("coordinator", ROLES);
    daemon.stop().unwrap();
    let dry = standalone(&daemon, &["--mode", "host-poweroff"]);
    assert_eq!(dry.code, Some(0), "{dry:?}");
    assert!(dry.out.contains("point of no return") && dry.out.ends_with("DRY RUN: nothing was changed, add --execute\n"), "{}", dry.out);
    let done = standalone(&daemon, &["--execute"]);
    assert_eq!(done.code, Some(5), "{done:?}");
    assert!(done.out.contains("shutdown-1 degraded") && done.out.contains("\n  titan-13: k3s.stop"), "{}", done.out);
    // The daemon knows of it afterwards.
    daemon.start().unwrap();
    let run = daemon.json(&["run", "get", "shutdown-1"]).unwrap();
    assert_eq!(run["run"]["phase"], "degraded", "{run:#}");
    assert!(run["run"]["requested_by"].as_str().unwrap().ends_with(", standalone"), "{run:#}");
}

#[test]
fn beside_a_daemon_that_hangs_there_is_a_way() {
    let daemon = started("coordinator", ROLES);
    daemon.signal(Signal::SIGSTOP).unwrap();
    let refused = standalone(&daemon, &["--execute"]);
    assert_eq!(refused.code, Some(3), "{refused:?}");
    for part in
        ["does not answer on", "systemctl kill --signal=KILL metisd.service", "--beside", &format!("kill -9 {}", daemon.pid().unwrap())]
    {
        assert!(refused.err.contains(part), "{part} is missing in {}", refused.err);
    }
    let done = standalone(&daemon, &["--execute", "--beside"]);
    assert_eq!(done.code, Some(5), "{done:?}");
    assert!(done.out.contains("shutdown-1 degraded"), "{}", done.out);
    daemon.signal(Signal::SIGCONT).unwrap();
    assert_eq!(runs(&daemon), 0, "its journal was left alone");
}
