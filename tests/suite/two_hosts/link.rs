//! The link: gRPC through a real sshd to the other metisd's socket, as a user who has role maintenance there.

use std::time::Duration;

use metis_tests::daemon::{Answer, Daemon};
use metis_tests::require;
use metis_tests::sshd::{PROGRAM, Sshd};
use serde_json::Value;

use super::*;

/// The SSH user: one that every Debian has, and that may do nothing.
const USER: &str = "nobody";

struct Site {
    hosts: [Daemon; 2],
    sshd: Sshd,
}

/// `roles`: section `api.roles` of each.
fn site(roles: [&str; 2]) -> Site {
    let sshd = Sshd::start(&ADDRESSES).unwrap();
    let inventory = inventory(sshd.port, &format!(", host_keys: [\"{}\"]", sshd.fingerprint().unwrap()));
    let mut hosts = [0, 1].map(|at| daemon(at, &inventory, ""));
    let sockets = [0, 1].map(|at: usize| hosts[at].socket().display().to_string());
    for at in [0, 1] {
        let mut text = std::fs::read_to_string(hosts[at].path("metis.yaml")).unwrap();
        let more = format!(
            "api: {{ group: nogroup, roles: {{ {} }} }}
hosts: {{ this_host: {}, key: {{ file: {} }}, connect_timeout: 2s }}
cluster: {{ kubeconfig: {{ file: /nonexistent }} }}
peer: {{ host: {}, user: {USER}, socket: {}, ask_timeout: 5s }}
",
            roles[at],
            NAMES[at],
            sshd.path("user").display(),
            NAMES[1 - at],
            sockets[1 - at],
        );
        text.push_str(&more);
        std::fs::write(hosts[at].path("metis.yaml"), text).unwrap();
    }
    for host in &mut hosts {
        host.start().unwrap();
    }
    Site { hosts, sshd }
}

impl Site {
    fn startup(&self, at: usize, more: &[&str]) -> Answer {
        self.hosts[at].ctl(&[&["startup"], more].concat()).unwrap()
    }

    /// What the host knows of the other one, after it was asked once more.
    fn peer(&self, at: usize) -> Value {
        self.startup(at, &[]);
        self.hosts[at].json(&["status"]).unwrap()["peer"].clone()
    }
}

fn available(test: &str) -> bool {
    require::root(test) && require::programs(test, &["ssh-keygen", "unshare", PROGRAM])
}

const MAINTENANCE: &str = "maintenance: { users: [nobody] }";
const VIEWER: &str = "viewer: { users: [nobody] }";

#[test]
fn two_daemons_hear_of_each_other_and_one_of_them_starts() {
    if !available("two metisd linked by sshd") {
        return;
    }
    let mut site = site([MAINTENANCE, MAINTENANCE]);
    // Each knows what the other is and does.
    for (at, role) in [(0, "peer"), (1, "coordinator")] {
        let peer = site.peer(at);
        assert_eq!((peer["reach"].as_str(), peer["host_role"].as_str()), (Some("answers"), Some(role)), "{peer:#}");
    }
    assert!(site.peer(0)["heard_seconds"].is_number());
    let shown = site.startup(0, &[]);
    assert!(shown.code == Some(0) && shown.text().contains("tethys (peer) does nothing to the cluster"), "{shown:?}");
    let shown = site.startup(1, &[]);
    assert!(shown.text().contains("this start-up is handed over to it"), "{shown:?}");

    // What is asked of the peer the coordinator does, once.
    let given = site.startup(1, &["--execute", "--reason", "storm is over", "-o", "json"]);
    assert_eq!((given.code, given.json().unwrap()["handed_over"]["to"].as_str()), (Some(0), Some("titan-db")), "{given:?}");
    let run = site.hosts[0].json(&["run", "get", "startup-1"]).unwrap();
    let requester = run["run"]["requested_by"].as_str().or(run["requested_by"].as_str()).unwrap_or_default().to_owned();
    assert!(requester.contains("at tethys, through nobody (uid"), "{run:#}");
    assert_eq!(site.hosts[1].json(&["run", "list"]).unwrap()["runs"].as_array().map_or(0, Vec::len), 0);
    let twice = site.startup(1, &["--execute"]);
    assert!(twice.code == Some(3) && twice.text().contains("startup-1"), "{twice:?}");
    let status = site.hosts[1].ctl(&["status"]).unwrap().out;
    assert!(status.contains("titan-db (coordinator) starts the cluster (startup-1"), "{status}");

    // Its daemon is killed in mid start-up: its host is on, and nothing is taken over from it.
    site.hosts[0].kill().unwrap();
    let refused = site.startup(1, &["--auto-peer-failover"]);
    assert!(refused.code == Some(3) && refused.text().contains("peer.unreachable"), "{refused:?}");
    assert_eq!(site.peer(1)["reach"], "silent");
    assert_eq!(site.startup(1, &["--allow-peer-startup"]).code, Some(0), "a person may");
    site.hosts[0].start().unwrap();
    site.hosts[0].until(Duration::from_secs(20), &["run", "get", "startup-1"], |run| run.to_string().contains("host-up")).unwrap();
    assert!(site.startup(1, &[]).text().contains("startup-1"), "it goes on there");
    site.hosts[0].json(&["run", "cancel", "startup-1", "--execute"]).unwrap();
}

#[test]
fn what_is_cut_or_not_trusted_is_told_apart() {
    if !available("a link that is cut") {
        return;
    }
    let mut site = site([MAINTENANCE, VIEWER]);
    // A user who is nobody there is not heard.
    let peer = site.peer(0);
    assert!(peer["reach"] == "denied" && peer["why"].as_str().unwrap().contains("needs role maintenance"), "{peer:#}");
    assert_eq!(site.peer(1)["reach"], "answers", "each way has its own rights");
    let shown = site.startup(0, &[]);
    assert!(
        shown.code == Some(0) && shown.text().contains("tethys (peer) does nothing"),
        "what it said a moment ago is its word: {shown:?}"
    );
    std::thread::sleep(Duration::from_secs(11));
    let refused = site.startup(0, &[]);
    assert!(refused.code == Some(3) && refused.text().contains("--allow-peer-startup"), "{refused:?}");

    // The link is cut.
    site.sshd.stop();
    let peer = site.peer(1);
    assert_eq!(peer["reach"], "unreachable", "{peer:#}");
    let refused = site.startup(1, &[]);
    assert!(refused.text().contains("the peer takes over with --auto-peer-failover only"), "{refused:?}");
    let taken = site.startup(1, &["--auto-peer-failover"]);
    assert!(taken.code == Some(0) && taken.text().contains("titan-db cannot be asked"), "{taken:?}");

    // Whoever answers there with another key is not the other host.
    site.sshd.change_host_key().unwrap();
    let peer = site.peer(1);
    assert!(peer["reach"] == "denied" && peer["why"].as_str().unwrap().contains("is not trusted"), "{peer:#}");
    assert_eq!(site.startup(1, &["--auto-peer-failover"]).code, Some(3), "it is there: nothing is taken over");
}
