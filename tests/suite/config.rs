//! What a wrong configuration is told, by the real metisd.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use metis_tests::daemon::{Answer, Daemon, program};

/// Eleven mistakes; `@DIR@` is the folder. The harness puts one line before it.
const MAIN: &str = "\
power:
  on_trigger: poweroff
  poll_interval: 90
  shutdown_budget: forever
  thresholds: { charge_floor: 120, debounce_polls: 0 }
  upses:
    pyrphoros: {}
    statera@localhost: { username: metis, password: hunter2-literal }
  domains:
    pyrphoros: { upses: [pyrphorus@localhost], nodes: [titan-13, titan-99] }
card: { free_space_floor: 2 Gigs }
api: { roles: { owner: { users: [root] } } }
";

/// Line and column, key, and what is said.
type Mistake = (&'static str, &'static str, &'static str);

const MAIN_MISTAKES: [Mistake; 11] = [
    ("3:15", "power.on_trigger", "allowed: observe"),
    ("4:18", "power.poll_interval", "90s"),
    ("5:20", "power.shutdown_budget", "duration"),
    ("6:31", "power.thresholds.charge_floor", "120"),
    ("6:52", "power.thresholds.debounce_polls", "1 to 100"),
    ("8:5", "power.upses.pyrphoros", "ups@host"),
    ("9:53", "power.upses.statera@localhost.password", "{ file: "),
    ("11:26", "power.domains.pyrphoros.upses[0]", "is not a UPS of this site"),
    ("11:66", "power.domains.pyrphoros.nodes[1]", "titan-99"),
    ("12:27", "card.free_space_floor", "2 Gigs"),
    ("13:17", "api.roles.owner", "viewer, maintenance, admin"),
];

const INVENTORY: &str = "\
classes:
  worker:
    arch: x86_64
    image: { url: \"http://images.example.net/worker.img.xz\", sha256: deadbeef }
    network: { interface: end0, renderer: netplan, prefix: 240 }
nodes:
  titan-13: { class: worker, network: { address: 192.168.22.300 } }
  titan-14: { clas: worker }
  titan-15: { class: wroker, network: { address: 192.168.22.43 } }
  Titan_16: { class: worker }
";

const INVENTORY_MISTAKES: [Mistake; 8] = [
    ("3:11", "classes.worker.arch", "amd64"),
    ("4:19", "classes.worker.image.url", "https:"),
    ("4:70", "classes.worker.image.sha256", "64"),
    ("5:60", "classes.worker.network.prefix", "240"),
    ("7:50", "nodes.titan-13.network.address", "192.168.22.300"),
    ("8:15", "nodes.titan-14.clas", "did you mean `class`?"),
    ("9:22", "nodes.titan-15.class", "worker"),
    ("10:3", "nodes.Titan_16", "host name"),
];

fn check(daemon: &Daemon) -> Answer {
    Command::new(program("metisd")).arg("--check-config").arg("--config").arg(daemon.path("metis.yaml")).output().unwrap().into()
}

/// Every mistake stands in a line of its own that begins with its place.
fn assert_all_are_said(text: &str, daemon: &Daemon) {
    let files: [(&Path, &[Mistake]); 2] =
        [(&daemon.path("metis.yaml"), &MAIN_MISTAKES), (&daemon.path("inventory.yaml"), &INVENTORY_MISTAKES)];
    for (file, mistakes) in files {
        for (place, key, what) in mistakes {
            let begin = format!("{}:{place}: {key}: ", file.display());
            let line = text.lines().find(|line| line.contains(&begin));
            assert!(line.is_some_and(|line| line.contains(what)), "no `{begin}…{what}…` in\n{text}");
        }
    }
    assert!(!text.contains("hunter2"), "a secret was shown:\n{text}");
}

fn with_inventory(main: &str) -> String {
    format!("{main}inventory: \"@DIR@/inventory.yaml\"\n")
}

#[test]
fn check_config_reports_every_mistake_of_both_files_at_once() {
    let daemon = Daemon::new(&with_inventory(MAIN), INVENTORY).unwrap();
    let answer = check(&daemon);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert_all_are_said(&answer.text(), &daemon);

    daemon.configure(&with_inventory("")).unwrap();
    std::fs::write(daemon.path("inventory.yaml"), "nodes: {}\n").unwrap();
    let answer = check(&daemon);
    assert_eq!(answer.code, Some(0), "{answer:?}");
}

#[test]
fn a_first_start_on_a_wrong_configuration_fails_with_every_mistake() {
    let mut daemon = Daemon::new(&with_inventory(MAIN), INVENTORY).unwrap();
    daemon.spawn(&[]).unwrap();
    let status = daemon.wait(Duration::from_secs(20)).unwrap();
    assert_eq!(status.code(), Some(1));
    assert_all_are_said(&daemon.log(), &daemon);
    assert!(daemon.log().contains("there is no earlier one that was good"), "{}", daemon.log());
    assert!(!daemon.path("state").exists(), "a start that failed left a state directory");
}

#[test]
fn a_later_start_on_a_wrong_configuration_serves_the_last_good_one_and_says_so() {
    let mut daemon = Daemon::new(&with_inventory("card: { free_space_floor: 17 MiB }\n"), "nodes: {}\n").unwrap();
    daemon.start().unwrap();
    let good = daemon.json(&["status"]).unwrap()["config"]["digest"].clone();
    daemon.stop().unwrap();

    daemon.configure(&with_inventory(MAIN)).unwrap();
    std::fs::write(daemon.path("inventory.yaml"), INVENTORY).unwrap();
    daemon.start().unwrap();
    let status = daemon.json(&["status"]).unwrap();
    assert_eq!(status["config"]["digest"], good, "{status:#}");
    let rejected: Vec<_> = status["config"]["rejected"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert_all_are_said(&rejected.join("\n"), &daemon);
    assert_all_are_said(&daemon.log(), &daemon);
    let table = daemon.ctl(&["status"]).unwrap();
    assert_eq!(table.code, Some(0), "{table:?}");
    assert_all_are_said(&table.text(), &daemon);
}
