//! `prepare`, `inventory import` and arming by them: the real daemon and client, a real sshd, a real upsd and a real API server.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use metis_tests::daemon::Daemon;
use metis_tests::nut::Nut;
use metis_tests::plane::{self, Options, Plane};
use metis_tests::process::Process;
use metis_tests::{nut, require};
use metisd::config;
use metisd::site::NodeName;
use serde_json::{Value, json};

const SSHD: &str = "/usr/sbin/sshd";

/// An sshd of its own on loopback that lets root in with one key.
struct Sshd {
    dir: tempfile::TempDir,
    port: u16,
    _process: Process,
}

impl Sshd {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["host_ed25519", "user"] {
            keygen(&path(name));
        }
        fs::copy(path("user.pub"), path("authorized_keys")).unwrap();
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let text = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n\
             PidFile none\n",
            path("host_ed25519").display(),
            path("authorized_keys").display()
        );
        fs::write(path("config"), text).unwrap();
        fs::create_dir_all("/run/sshd").unwrap();
        let mut process = Process::new(SSHD, path("log")).args(["-D", "-e", "-f"]).arg(path("config"));
        process.start().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "{}", process.last_words());
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { dir, port, _process: process }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// By ssh-keygen.
    fn fingerprint(&self) -> String {
        let out = Command::new("ssh-keygen").arg("-lf").arg(self.path("host_ed25519.pub")).output().unwrap();
        String::from_utf8(out.stdout).unwrap().split(' ').nth(1).unwrap().to_owned()
    }
}

fn keygen(path: &Path) {
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "metis-test", "-f"]).arg(path).output().unwrap();
    assert!(made.status.success(), "{made:?}");
}

/// titan-13 is the sshd; nobody listens where titan-15 should be.
fn inventory(ssh: &Sshd) -> String {
    format!(
        "defaults: {{ host: {{ user: root, host_keys: [\"{}\"] }} }}\nclasses:\n  agent: {{ arch: arm64, k3s: {{ role: agent }} }}\n  outside: {{ arch: amd64 }}\n\
         nodes:\n  titan-db: {{ class: outside, host: {{ managed: false }} }}\n  titan-13: {{ class: agent, host: {{ address: 127.0.0.1, port: {} }} }}\n  \
         titan-15: {{ class: agent, host: {{ address: 127.0.0.2, port: 9 }} }}\n",
        ssh.fingerprint(),
        ssh.port
    )
}

fn main_config(ssh: &Sshd, nut: &Nut) -> String {
    let ups = nut.name("ups");
    format!(
        "hosts: {{ key: {{ file: {} }}, connect_timeout: 2s }}\nstartup: {{ clocks: false }}\npower:\n  poll_interval: 500ms\n  upses: {{ \"{ups}\": {{ username: metis, \
         password: {{ file: \"@DIR@/secrets/nut\" }} }} }}\n  domains: {{ all: {{ upses: [\"{ups}\"], nodes: [titan-13, titan-15] }} }}\n",
        ssh.path("user").display()
    )
}

/// Findings of that name.
fn found<'a>(answer: &'a Value, name: &str) -> Vec<&'a Value> {
    answer["findings"].as_array().unwrap().iter().filter(|finding| finding["name"] == name).collect()
}

fn level<'a>(answer: &'a Value, name: &str) -> &'a str {
    let found = found(answer, name);
    assert_eq!(found.len(), 1, "{name}: {answer:#}");
    found[0]["level"].as_str().unwrap()
}

fn available(what: &str) -> bool {
    require::root(what) && require::programs(what, &[SSHD, "ssh-keygen"])
}

#[test]
fn all_findings_come_at_once_and_arming_goes_by_them() {
    const WHAT: &str = "prepare";
    if !available(WHAT) || !nut::available(WHAT) {
        return;
    }
    nut::hide().unwrap();
    let ssh = Sshd::start();
    let users = "[metis]\n password = s3cret\n upsmon primary\n";
    let nut = Nut::start(&["ups"], users, "").unwrap();
    nut.set("ups", &[("ups.status", "OL"), ("ups.test.result", "Done and passed"), ("ups.test.date", "2020/01/01")]).unwrap();
    let mut daemon = Daemon::new(&main_config(&ssh, &nut), &inventory(&ssh)).unwrap();
    daemon.secret("secrets/nut", "f0rgotten").unwrap();
    daemon.start().unwrap();
    daemon.until(Duration::from_secs(15), &["ups"], |ups| ups["upses"][0]["vars"]["ups.test.date"] == "2020/01/01").unwrap();
    fs::create_dir_all(daemon.path("state/bundles")).unwrap();
    fs::write(daemon.path("state/bundles/harbor-bootstrap-2.11-arm64.tar.zst"), "abc").unwrap();

    let ran = daemon.ctl(&["prepare", "-o", "json"]).unwrap();
    assert_eq!(ran.code, Some(1), "the password is wrong: {ran:?}\n{}", daemon.log());
    let answer = ran.json().unwrap();
    assert_eq!((&answer["green"], &answer["recorded"]), (&json!(false), &json!(true)));
    assert_eq!(level(&answer, "ups.login"), "problem");
    assert!(answer["findings"][0]["level"] == "problem", "problems first: {answer:#}");
    assert!(!ran.out.contains("s3cret") && !ran.out.contains("f0rgotten"), "{}", ran.out);
    // A host that is off is a warning, one that answers is compared with our clock.
    let hosts = found(&answer, "host");
    let says =
        |level: &str, part: &str| hosts.iter().any(|host| host["level"] == level && host["message"].as_str().unwrap().contains(part));
    assert!(says("warning", "titan-15") && says("ok", "titan-13"), "{hosts:#?}");
    assert_eq!(
        found(&answer, "host.clock").iter().filter(|finding| finding["message"].as_str().unwrap().contains(" s ")).count(),
        0,
        "{answer:#}"
    );
    assert_eq!((level(&answer, "ups"), level(&answer, "ups.self-test")), ("ok", "warning"));
    assert!(found(&answer, "ups.self-test")[0]["age_seconds"].as_f64().unwrap() > 1e8);
    assert_eq!((level(&answer, "kube.rights"), level(&answer, "disk")), ("warning", "ok"), "no cluster");
    let status = daemon.json(&["status"]).unwrap();
    assert_eq!((&status["prepared"]["green"], &status["prepared"]["outdated"]), (&json!(false), &json!(false)));
    assert_eq!((&status["ups_host"], &status["ups_battery"]), (&json!(nut.name("ups")), &json!(100.0)));
    assert_eq!((&status["flux_source"], &status["flux_source_ready"]), (&Value::Null, &Value::Null));
    let refused = daemon.ctl(&["arm"]).unwrap();
    assert_eq!(refused.code, Some(3), "{refused:?}");
    for part in ["prepare.red: ", "prepare.problem: ups.login", "daemon.host_role: "] {
        assert!(refused.err.contains(part), "{part} is missing in {}", refused.err);
    }

    // Mended, and looked at again; the record survives a restart.
    fs::write(daemon.path("secrets/nut"), "s3cret").unwrap();
    let ran = daemon.ctl(&["prepare"]).unwrap();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("\nGREEN: 0 problems"), "{}", ran.out);
    daemon.stop().unwrap();
    daemon.start().unwrap();
    let refused = daemon.ctl(&["arm"]).unwrap();
    assert!(refused.err.contains("daemon.host_role: ") && !refused.err.contains("prepare."), "{}", refused.err);
    assert!(daemon.ctl(&["status"]).unwrap().out.contains("prepared  green"));
    // Under another configuration it does not count.
    daemon.configure(&main_config(&ssh, &nut).replace("500ms", "600ms")).unwrap();
    daemon.signal(nix::sys::signal::Signal::SIGHUP).unwrap();
    daemon.until(Duration::from_secs(10), &["status"], |status| status["prepared"]["outdated"] == json!(true)).unwrap();
    let refused = daemon.ctl(&["arm"]).unwrap();
    assert!(refused.err.contains("prepare.settings: "), "{}", refused.err);
}

#[test]
fn rights_are_asked_for_and_an_inventory_is_drafted_from_the_cluster() {
    const WHAT: &str = "inventory import";
    if !available(WHAT) || !plane::available(WHAT) {
        return;
    }
    let ssh = Sshd::start();
    let plane = Plane::start(&Options { longhorn: true, ..Options::default() }).unwrap();
    let node = |name: &str, address: &str, labels: &Value, taints: &Value| {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}});
        plane.api().unwrap().create("/api/v1/nodes", &node).unwrap();
        let info = json!({
            "architecture": "arm64", "bootID": "b", "containerRuntimeVersion": "c", "kernelVersion": "k", "kubeProxyVersion": "", "machineID": "m",
            "kubeletVersion": "v1.31.5+k3s1", "operatingSystem": "linux", "osImage": "Ubuntu 24.04.1 LTS", "systemUUID": "s",
        });
        let addresses = json!([{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]);
        let status = json!({"status": {"addresses": addresses, "nodeInfo": info}});
        plane.api().unwrap().merge(&format!("/api/v1/nodes/{name}/status"), &status).unwrap();
    };
    let taint = json!([{"key": "dedicated", "value": "media", "effect": "NoSchedule"}]);
    node("titan-13", "127.0.0.1", &json!({"example.net/rack": "2", "kubernetes.io/arch": "arm64"}), &taint);
    node("titan-0a", "127.0.0.2", &json!({"node-role.kubernetes.io/control-plane": "true"}), &Value::Null);

    let mut daemon = Daemon::new("cluster: { kubeconfig: { file: \"@DIR@/secrets/kubeconfig\" } }\n", "{}").unwrap();
    daemon.secret("secrets/kubeconfig", &fs::read_to_string(plane.metis_kubeconfig()).unwrap()).unwrap();
    daemon.start().unwrap();
    let port = ssh.port.to_string();
    let drafted = daemon.ctl(&["inventory", "import", "--ssh-port", &port]).unwrap();
    assert_eq!(drafted.code, Some(0), "{drafted:?}\n{}", daemon.log());
    let inventory = config::inventory_from_str(&drafted.out).unwrap_or_else(|errors| panic!("{errors:?}\n{}", drafted.out));
    let worker = &inventory.nodes[&NodeName::new("titan-13")].settings;
    assert_eq!(worker.host.host_keys.as_deref(), Some(&[ssh.fingerprint()][..]), "as ssh-keygen says it");
    assert_eq!(worker.k3s.taints.as_deref(), Some(&["dedicated=media:NoSchedule".to_owned()][..]));
    assert_eq!(worker.k3s.labels.keys().collect::<Vec<_>>(), ["example.net/rack"]);
    assert_eq!((worker.network.address, worker.host.address.as_deref()), (None, Some("127.0.0.1")), "no prefix is known");
    assert_eq!(inventory.nodes[&NodeName::new("titan-0a")].class.as_str(), "server-arm64");
    assert!(drafted.err.contains("titan-0a: its SSH host keys could not be read: 127.0.0.2"), "{}", drafted.err);

    let answer = daemon.ctl(&["prepare", "-o", "json"]).unwrap().json().unwrap();
    assert_eq!(level(&answer, "kube.rights"), "ok", "{answer:#}");
    // One right less is named; the others are not.
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/metis";
    let mut rules = plane.api().unwrap().get(role).unwrap()["rules"].clone();
    rules.as_array_mut().unwrap().retain(|rule| rule["resources"] != json!(["pods/eviction"]));
    plane.api().unwrap().merge(role, &json!({"rules": rules})).unwrap();
    assert_eq!(wait_for_denial(&daemon), "the API server does not let metis: create pods/eviction");
    // Nobody answers, and that is all that is known.
    plane.freeze().unwrap();
    let status = daemon.json(&["status"]).unwrap();
    assert_eq!(status["flux_source_ready"], Value::Null);
    plane.thaw().unwrap();
}

/// The authorizer reads changed roles a moment later.
fn wait_for_denial(daemon: &Daemon) -> String {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = daemon.ctl(&["prepare", "-o", "json"]).unwrap().json().unwrap();
        let rights = found(&answer, "kube.rights")[0].clone();
        if rights["level"] == "problem" || Instant::now() > until {
            return rights["message"].as_str().unwrap().to_owned();
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The daemon's folder is below /tmp, where everybody may write and nobody may take away what is not his: secrets there are taken.
#[test]
fn a_secret_that_others_can_read_is_a_problem() {
    let mut daemon = Daemon::new("hosts: { key: { file: \"@DIR@/secrets/key\" } }\n", "{}").unwrap();
    daemon.secret("secrets/key", "not a key").unwrap();
    fs::set_permissions(daemon.path("secrets/key"), fs::Permissions::from_mode(0o644)).unwrap();
    daemon.start().unwrap();
    let ran = daemon.ctl(&["prepare"]).unwrap();
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.out.contains("chmod 0600") && ran.out.contains("(hosts.key)"), "{}", ran.out);
}
