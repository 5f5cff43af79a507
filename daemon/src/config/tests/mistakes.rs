//! Every mistake of every file is reported at once, where it stands, with what is allowed.

use super::*;

pub const MAIN: &str = "\
daemon:
  host_role: Coordinater
  state-dir: /var/lib/metis
api:
  roles:
    viewer:
      groups: []
power:
  poll_interval: 90
  thresholds:
    charge_floor: 120
  upses:
    pyrphoros@localhost:
      username: metis
      password: hunter2-literal
    pyrphoros@localhost:3493: {}
  domains:
    pyrphoros:
      upses: [pyrphorus@localhost]
      nodes: [titan-13, titan-99]
card:
  free_space_floor: 2 Gigs
  cache_dir: var/cache
";

const INVENTORY: &str = "\
defaults:
  ssh:
    users:
      erika: { sudo: yes }
classes:
  worker:
    arch: x86_64
    image:
      url: http://images.example.net/worker.img.xz
      sha256: deadbeef
    network: { interface: end0, renderer: netplan, prefix: 24 }
    k3s:
      labels: { longhorn: true, node-role.kubernetes.io/worker: \"\" }
      taints: [\"dedicated=storage:NoScheduel\"]
nodes:
  titan-13:
    class: worker
    network: { address: 192.168.22.43 }
  titan-15:
    class: wroker
    network: { address: 192.168.22.300 }
  titan-17:
    class: worker
    network: { address: 192.168.22.43 }
  titan-13:
    class: worker
  Titan_19:
    class: worker
";

#[test]
fn all_mistakes_of_two_files_are_reported_in_one_run() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("metis.yaml"), MAIN).unwrap();
    std::fs::write(folder.path().join("inventory.yaml"), INVENTORY).unwrap();
    let report = check_report(&load(&folder.path().join("metis.yaml"), None));
    let report = report.replace(&format!("{}/", folder.path().display()), "");
    assert!(!report.contains("hunter2"), "a secret was shown");
    insta::assert_snapshot!(report);
}

#[test]
fn a_syntax_error_ends_only_its_file() {
    let found = mistakes_of("power: [\n", "nodes: { titan-13: { class: gone } }\n");
    assert!(found.contains("metis.yaml:1:8: syntax error"), "{found}");
    assert!(found.contains("inventory.yaml:1:29: nodes.titan-13.class: `gone` is not a class"), "{found}");
    assert_eq!(found.lines().count(), 2, "{found}");

    let found = mistakes_of("power: { domains: { d: { upses: [u@h], nodes: [titan-1] } } }", "nodes: ]");
    assert!(found.contains("inventory.yaml:1:8: syntax error"), "{found}");
    assert!(found.contains("`u@h` is not a UPS of this site"), "{found}");
    assert!(!found.contains("titan-1`"), "what the broken file may hold is not missed: {found}");
}

/// Text of `metis.yaml`, and what must be said of it. Empty: it is valid.
const MAIN_CASES: &[(&str, &str)] = &[
    ("", ""),
    ("power:\n", ""),
    ("power: { upses: {} }", ""),
    ("power: []", "1:8: power: must be a map of keys, is a list"),
    (
        "powr: {}",
        "1:1: powr: unknown key; did you mean `power`? (allowed here: daemon, api, power, cluster, shutdown, startup, card, hosts, peer, inventory)",
    ),
    ("daemon: { host_role: cards, log_level: debug }", ""),
    ("daemon: { log_level: loud }", "1:22: daemon.log_level: `loud` is not allowed (allowed: error, warn, info, debug, trace)"),
    ("daemon: { state_dir: }", "daemon.state_dir: has no value"),
    ("daemon: { state_dir: /var/../etc }", "daemon.state_dir: `/var/../etc` is not allowed; write an absolute path"),
    ("inventory: inventory.yaml", "1:12: inventory: `inventory.yaml` is not allowed; write an absolute path"),
    ("api: { roles: { root: { users: [a] } } }", "1:17: api.roles.root: `root` is not allowed"),
    ("api: { roles: { admin: { users: [0, erika], groups: [sudo, 27] } } }", ""),
    ("api: { roles: { admin: { users: [] } } }", "1:17: api.roles.admin: gives the role to nobody"),
    ("api: { roles: { admin: } }", "1:17: api.roles.admin: gives the role to nobody"),
    ("api: { roles: { admin: { users: erika } } }", "api.roles.admin.users: must be a list"),
    ("api: { group: 4294967295 }", "api.group: `4294967295` is not a user or group name"),
    ("power: { on_trigger: poweroff }", "`poweroff` is not allowed (allowed: observe, cluster-only, host-poweroff)"),
    ("power: { on_trigger: observ }", "`observ` is not allowed; did you mean `observe`?"),
    ("startup: { vault: {} }", ""),
    ("startup: { vault: { via: pod } }", "startup.vault.via: `pod` is not allowed (allowed: ssh, direct)"),
    ("startup: { vault: { tls: false } }", ""),
    ("startup: { vault: { tls: false, via: direct } }", "startup.vault: `tls: false` needs `via: ssh`"),
    ("startup: { vault: { tls: false, ca_file: /etc/ca.pem } }", "startup.vault: `ca_file` belongs to `tls: true` alone"),
    ("startup: { vault: { break_glass: [keys] } }", "startup.vault: `break_glass` begins with `keys`; write the absolute path"),
    ("startup: { vault: { break_glass: [/usr/local/sbin/keys, --site] } }", ""),
    ("startup: { vault: { keys: c2VzYW1lIHNlc2FtZQ } }", "startup.vault.keys: must say where the secret is kept"),
    ("startup: { vault: { pods: 0 } }", "startup.vault.pods: "),
    ("power: { poll_interval: 1ms }", "`1ms` is out of range; write a duration from 500ms to 1m"),
    ("power: { cut_outlets: 1 }", "power.cut_outlets: "),
    ("power: { cut_outlets: true, predecessors: [] }", ""),
    (
        "power: { predecessors: [hecate] }",
        "power.predecessors[0]: `hecate` is not a unit; write its whole name, such as nut-monitor.service",
    ),
    ("power: { predecessors: [a b.service, .service] }", "power.predecessors[1]: `.service` is not a unit"),
    ("power: { thresholds: { max_on_battery: never } }", ""),
    (
        "power: { thresholds: { max_on_battery: 10 } }",
        "has no unit; write 10s for seconds or 10m for minutes (units: ms, s, m, h, d), or never",
    ),
    ("power: { thresholds: { runtime_safety_factor: 0.5 } }", "`0.5` is not allowed; write a number from 1 to 10"),
    ("power: { thresholds: { charge_floor: 20% } }", ""),
    ("power: { thresholds: { debounce_polls: 0 } }", "`0` is not allowed; write a whole number from 1 to 100"),
    (
        "power: { thresholds: { comm_lost_after: 2s } }",
        "1:10: power.thresholds: `comm_lost_after` (2s) must be longer than `power.poll_interval` (2s)",
    ),
    ("power: { upses: { pyrphoros: {} } }", "1:19: power.upses.pyrphoros: `pyrphoros` is not a UPS; write ups@host"),
    ("power: { upses: { 'u@[::1]:3493': {} } }", ""),
    ("power: { upses: { 'u@h:0': {} } }", "is not a UPS"),
    ("power: { upses: { u@H: {}, 'u@h:3493': {} } }", "is the same UPS as `u@H` at metis.yaml:1:19"),
    ("power: { upses: { u@h: { username: m } } }", "1:19: power.upses.u@h: `password` is missing"),
    ("power: { upses: { u@h: { password: { file: /k } } } }", "power.upses.u@h: `username` is missing"),
    ("power: { upses: { u@h: { username: m, password: { credential: k } } } }", ""),
    ("power: { upses: { u@h: { tls: {} } } }", "power.upses.u@h.tls: `ca_file` is missing"),
    ("power: { domains: { d: { upses: [], nodes: [] } } }", "1:21: power.domains.d: `upses` is missing"),
    ("power: { upses: { u@h: {} }, domains: { d: { upses: [u@h] } } }", "power.domains.d: `nodes` is missing"),
    (
        "power: { upses: { u@h: {} }, domains: { d: { upses: [u@h, u@h], nodes: [] } } }",
        "power.domains.d.upses[1]: stands in this list twice, first at metis.yaml:1:54",
    ),
    (
        "power: { upses: { u@h: {} }, domains: { d: { upses: [u@h], nodes: [] }, e: { upses: [u@h], nodes: [] } } }",
        "power.domains.e: has the same UPSes as the domain at metis.yaml:1:41",
    ),
    // A UPS may feed several domains: that of its single-feed nodes, and one with a second feed.
    ("power: { upses: { u@h: {}, v@h: {} }, domains: { d: { upses: [u@h], nodes: [] }, e: { upses: [u@h, v@h], nodes: [] } } }", ""),
    ("cluster: { kubeconfig: { credential: kubeconfig }, endpoints: ['https://a:6443', 'https://[fd00::1]:6443'], ca_file: /ca }", ""),
    ("cluster: { kubeconfig: /etc/metis/kubeconfig }", "cluster.kubeconfig: must say where the secret is kept"),
    ("cluster: { endpoints: ['https://a:6443'] }", "1:1: cluster: `kubeconfig` is missing: `endpoints` says where the API server is"),
    ("cluster: { ca_file: /ca }", "1:1: cluster: `kubeconfig` is missing: `ca_file` says where"),
    (
        "cluster: { kubeconfig: { file: /k }, endpoints: ['http://a:6443'] }",
        "1:50: cluster.endpoints[0]: `http://a:6443` does not start with",
    ),
    (
        "cluster: { kubeconfig: { file: /k }, endpoints: ['https://a:6443', 'https://a:6443'] }",
        "cluster.endpoints[1]: stands in this list twice, first at metis.yaml:1:50",
    ),
    ("cluster: { call_timeout: 100ms }", "`100ms` is out of range; write a duration from 500ms to 1m"),
    ("cluster: { datastore: sqlite }", "1:23: cluster.datastore: must be a map of keys, is a single value"),
    ("cluster: { datastore: { kind: etcd } }", "`etcd` is not allowed (allowed: embedded-etcd, external, sqlite)"),
    ("cluster: { datastore: { keep: 0 } }", "cluster.datastore.keep: `0` is not allowed; write a whole number from 1 to 1000"),
    ("cluster: { datastore: { kind: sqlite } }", ""),
    ("cluster: { datastore: { kind: sqlite, keep: 3 } }", "1:12: cluster.datastore: `keep` belongs to `kind: embedded-etcd` alone"),
    ("cluster: { datastore: { dump: pg_dump } }", "1:12: cluster.datastore: `dump` belongs to `kind: external` alone"),
    ("cluster: { datastore: { kind: external } }", "1:12: cluster.datastore: `host` is missing: the node of the inventory"),
    ("cluster: { datastore: { kind: external, host: gone } }", "1:47: cluster.datastore.host: `gone` is not a node of the inventory"),
    ("cluster: { cordon_lease: 4m59s }", "`4m59s` is out of range; write a duration from 5m to 7d"),
    ("cluster: { cordon_lease: 5m }", ""),
    (
        "cluster: { cordon_lease: 5m }\nshutdown: { drain_timeout: 4m }",
        "1:26: cluster.cordon_lease: cordons would end after 5m (cluster.cordon_lease) in the midst of a shutdown, whose drain, detach and \
         stop may take 6m",
    ),
    ("shutdown: { drain_timeout: 59m }", "1:1: shutdown: cordons would end after 1h"),
    ("shutdown: { mode: poweroff }", "shutdown.mode: `poweroff` is not allowed (allowed: cluster-only, host-poweroff)"),
    ("shutdown: { mode: host-poweroff }", ""),
    ("shutdown: { drain_timeout: 30s }", "1:1: shutdown: `emergency_drain_timeout` (45s) must not be longer than `drain_timeout` (30s)"),
    ("shutdown: { hosts_at_once: 0 }", "`0` is not allowed; write a whole number from 1 to 256"),
    ("shutdown: { require_ups_battery: true }", "1:34: shutdown.require_ups_battery: the site has no UPS"),
    ("shutdown: { require_ups_battery: true }\npower: { upses: { u@h: {} } }", ""),
    ("shutdown: { protect: }", ""),
    ("shutdown: { protect: [{ namespace: gitea }, { selector: 'a=b,example.net/c=' }] }", ""),
    ("shutdown: { protect: gitea }", "1:22: shutdown.protect: must be a list"),
    ("shutdown: { protect: [gitea] }", "1:23: shutdown.protect[0]: must be a map of keys, is a single value"),
    ("shutdown: { protect: [{}] }", "1:23: shutdown.protect[0]: would keep every pod of the cluster"),
    ("shutdown: { protect: [{ namespce: a }] }", "1:25: shutdown.protect[0].namespce: unknown key; did you mean `namespace`?"),
    ("shutdown: { protect: [{ selector: 'app in (a)' }] }", "shutdown.protect[0].selector: `app in (a)` is not a selector"),
    ("shutdown: { protect: [{ namespace: A }] }", "shutdown.protect[0].namespace: `A` is not"),
    ("card: { free_space_floor: 500 }", "`500` has no unit; write a size such as 500 MiB or 2G"),
    ("card: { free_space_floor: 500 MiB, max_image_size: 32GB }", ""),
    ("card: { max_image_size: 99999999T }", "is not a size"),
    ("card: { max_image_size: 1K }", "is too small; write at least 1048576 B"),
    ("hosts: { user: atlas, key: { file: /k }, at_once: 4, connect_timeout: 2s, helper_image: 'r.lan:5000/a/b:1' }", ""),
    ("hosts: { user: 'a b' }", "1:16: hosts.user: `a b` is not a user or group name"),
    ("hosts: { key: secret }", "hosts.key: must say where the secret is kept"),
    ("hosts: { known_hosts: known_hosts }", "hosts.known_hosts: `known_hosts` is not allowed; write an absolute path"),
    ("hosts: { connect_timeout: 5 }", "`5` has no unit"),
    ("hosts: { at_once: 0 }", "`0` is not allowed; write a whole number from 1 to 64"),
    ("hosts: { this_host: titan-db }", "1:21: hosts.this_host: `titan-db` is not a node of the inventory"),
    ("hosts: { helper_image: busybox }", ""),
    ("hosts: { helper_image: 'https://r.lan/busybox' }", "`https://r.lan/busybox` is not a container image"),
    ("hosts: { helper_image: 'busybox@sha256:beef' }", "is not a container image"),
    ("hosts: { helper_image: 'Busybox' }", "is not a container image"),
    ("hosts: { helper_image: 'busybox:' }", "is not a container image"),
    ("hosts: { helper_namespace: Kube }", "`Kube` is not a host name"),
    ("card: &c { ca_file: /a }", "1:10: card: anchors (`&name`) are not supported"),
];

/// As [`MAIN_CASES`], of `inventory.yaml`; `worker` is a class without image, `burnt` one with.
const INVENTORY_CASES: &[(&str, &str)] = &[
    ("nodes: { a: { class: worker } }", ""),
    ("nodes: { a: }", "nodes.a: `class` is missing: one of `classes`"),
    ("nodes: { a: { class: worker, hostname: -a } }", "`-a` is not a host name"),
    ("nodes: { a: { class: worker, hostname: 12 } }", "`12` is a number or boolean to YAML, but text is wanted here; write \"12\""),
    (
        "nodes: { a: { class: worker }, b: { class: worker, hostname: a } }",
        "nodes.b.hostname: the host name `a` belongs to `a` at inventory.yaml:",
    ),
    (
        "nodes: { a: { class: worker, network: { address: 10.0.0.1 } } }",
        "nodes.a: has a static address, but neither the node nor its class nor `defaults` has `network.prefix`",
    ),
    ("nodes: { a: { class: worker, network: { address: 10.0.0.1/8, prefix: 8 } } }", "nodes.a.network: gives the prefix length twice"),
    ("nodes: { a: { class: worker, network: { address: 10.0.0.1/33 } } }", "has a wrong prefix length; write one from 1 to 32"),
    ("nodes: { a: { class: worker, network: { address: 10.0.0.0/24 } } }", "10.0.0.0/24 is the network's own address"),
    ("nodes: { a: { class: worker, network: { address: 10.0.0.255/24 } } }", "is the network's broadcast address"),
    ("nodes: { a: { class: worker, network: { address: 10.0.0.0/31 } } }", ""),
    ("nodes: { a: { class: worker, network: { address: 127.0.0.1/8 } } }", "cannot be the address of a host"),
    ("nodes: { a: { class: worker, network: { address: 'fd00::1/64', gateway: 'fe80::1' } } }", ""),
    (
        "nodes: { a: { class: worker, network: { address: 10.0.0.2/24, gateway: 10.0.1.1 } } }",
        "the gateway 10.0.1.1 is not in the network of 10.0.0.2/24",
    ),
    ("nodes: { a: { class: worker, network: { address: 10.0.0.2/24, gateway: 10.0.0.2 } } }", "the gateway 10.0.0.2 is the node itself"),
    ("nodes: { a: { class: worker, network: { address: 10.0.0.2/24, gateway: 'fd00::1' } } }", "are of different kinds"),
    (
        "nodes: { a: { class: worker, network: { address: 'fd00::1/64' } }, b: { class: worker, network: { address: 'FD00:0::1/64' } } }",
        "the address fd00::1 belongs to `a` at",
    ),
    ("nodes: { a: { class: worker, network: { interface: a-very-long-name } } }", "is not an interface name"),
    (
        "nodes: { a: { class: burnt, network: { address: 10.0.0.2/24 } } }",
        "has a static address, but neither the node nor its class nor `defaults` has `network.interface`",
    ),
    (
        "nodes: { a: { class: burnt, k3s: { role: agent } } }",
        "is a k3s agent, but neither the node nor its class nor `defaults` has `k3s.token`",
    ),
    ("nodes: { a: { class: burnt, k3s: { role: agent, server: 'https://10.0.0.1:6443', token: { file: /t } } } }", ""),
    ("defaults: { k3s: { version: v1.33.3 } }", "`v1.33.3` is not a k3s version; write the whole of it, such as v1.31.5+k3s1"),
    ("defaults: { k3s: { server: 'https://10.0.0.1:66443' } }", "has no valid host or port"),
    ("defaults: { k3s: { server: 'http://10.0.0.1:6443' } }", "does not start with https://"),
    ("defaults: { k3s: { token: K10abcdef } }", "defaults.k3s.token: must say where the secret is kept"),
    ("defaults: { k3s: { token: { vault: x } } }", "defaults.k3s.token: must say where the secret is kept"),
    ("defaults: { k3s: { token: { file: /a, credential: b } } }", "defaults.k3s.token: must say where the secret is kept"),
    ("defaults: { k3s: { labels: { a: 1.5 } } }", "`1.5` is a number or boolean to YAML"),
    ("defaults: { k3s: { labels: { a: '1.5', 'example.net/rack': r-1, node.kubernetes.io/zone: '' } } }", ""),
    ("defaults: { k3s: { labels: { node-role.kubernetes.io/worker: '' } } }", "is refused by the kubelet"),
    ("defaults: { k3s: { labels: { -a: b } } }", "`-a` is not a label key of Kubernetes"),
    ("defaults: { k3s: { labels: { a: b_ } } }", "`b_` is not a label value of Kubernetes"),
    ("defaults: { k3s: { taints: ['a=b:NoSchedule', 'a=c:NoSchedule'] } }", "a node can have only one taint of a key and effect"),
    ("defaults: { k3s: { taints: ['a=b:NoSchedule', 'a=b:NoExecute', 'example.net/x:PreferNoSchedule'] } }", ""),
    ("defaults: { k3s: { taints: ['a'] } }", "`a` is not a taint"),
    ("defaults: { ssh: { port: 65536 } }", "`65536` is not allowed; write a port from 1 to 65535"),
    ("defaults: { ssh: { port: '22' } }", "is quoted text; write a port from 1 to 65535 without quotes"),
    ("defaults: { ssh: { users: { 'a b': {} } } }", "defaults.ssh.users.\"a b\": `a b` is not a user or group name"),
    (
        "defaults: { ssh: { users: { e: { keys: ['ssh-ed25519 AAAA'] } } } }",
        "defaults.ssh.users.e.keys[0]: is not a line of authorized_keys",
    ),
    ("defaults: { ssh: { users: { e: { sudo: 'true' } } } }", "is quoted text; write true or false without quotes"),
    ("defaults: { ssh: { users: { e: { password_hash: $6$secret } } } }", "must say where the secret is kept"),
    ("defaults: { ssh: { host_keys: { dsa: { file: /a } } } }", "`dsa` is not allowed; did you mean `rsa`? (allowed: ed25519, ecdsa, rsa)"),
    ("defaults: { journald: { system_max_use: 200 MB } }", "`200 MB` is not a size of journald.conf(5)"),
    ("defaults: { journald: { max_retention: 1 fortnight } }", "is not a time span of systemd.time(7)"),
    ("defaults: { journald: { storage: disk } }", "`disk` is not allowed (allowed: volatile, persistent, auto, none)"),
    ("defaults: { hosts: { registry: [10.0.0.1] } }", "`registry` is not an IP address; write `address: [name, …]`"),
    ("defaults: { hosts: { 10.0.0.1: [registry.lan, registry] } }", ""),
    ("defaults: { host: { access: ssh, address: 'fd00::1', port: 2277, user: atlas, sudo: false, returns: wake-on-lan } }", ""),
    ("defaults: { host: { returns: wake-on-lan, mac: '00-1B-21-3a-4f-5e' } }", ""),
    ("defaults: { host: { mac: '00:1b:21:3a:4f' } }", "defaults.host.mac: `00:1b:21:3a:4f` is not a MAC address of an interface"),
    ("defaults: { host: { mac: '01:1b:21:3a:4f:5e' } }", "is not a MAC address of an interface; write one such as 00:1b:21:3a:4f:5e"),
    ("defaults: { host: { mac: '+0:1b:21:3a:4f:5e' } }", "is not a MAC address of an interface"),
    ("nodes: { a: { class: worker, host: { access: local, managed: false, node_name: a.lan } } }", ""),
    ("defaults: { host: { access: telnet } }", "`telnet` is not allowed (allowed: ssh, helper-pod, local, none)"),
    ("defaults: { host: { returns: ac } }", "`ac` is not allowed (allowed: ac-cycle, wake-on-lan, by-hand)"),
    ("defaults: { host: { address: 'a b' } }", "`a b` is not a DNS name; write one such as titan-db.lan, or an IP address"),
    ("defaults: { host: { port: 0 } }", "`0` is not allowed; write a port from 1 to 65535"),
    ("defaults: { host: { user: 0 } }", "`0` is not a user or group name"),
    ("defaults: { host: { host_keys: ['SHA256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8'] } }", ""),
    ("defaults: { host: { host_keys: ['SHA256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8='] } }", "is not a fingerprint; write SHA256:"),
    ("defaults: { host: { host_keys: ['MD5:16:27:ac:a5'] } }", "defaults.host.host_keys[0]: `MD5:16:27:ac:a5` is not a fingerprint"),
    ("defaults: { host: { host_keys: [] } }", "defaults.host: `host_keys` is empty, so that no host key would do"),
    ("defaults: { host: { node_name: Titan } }", "`Titan` is not the name of a node of Kubernetes"),
    (
        "nodes: { a: { class: worker, host: { access: helper-pod } } }",
        "nodes.a: has `host.access: helper-pod`, but no `k3s.role`: a pod runs on nodes of the cluster only",
    ),
    (
        "nodes: { a: { class: worker, k3s: { role: server }, host: { access: helper-pod } } }",
        "nodes.a: has `host.access: helper-pod`, but metis.yaml has no `hosts.helper_image` for that pod",
    ),
    (
        "nodes: { a: { class: worker, host: { node_name: x } }, b: { class: worker, host: { node_name: x } } }",
        "nodes.b: the node name `x` belongs to `a` at inventory.yaml:",
    ),
    (
        "nodes: { a: { class: worker, host: { address: jump.lan } }, b: { class: worker, host: { address: jump.lan } } }",
        "nodes.b: is reached at jump.lan like `a` at inventory.yaml:",
    ),
    ("nodes: { a: { class: worker, host: { address: jump.lan } }, b: { class: worker, host: { address: jump.lan, port: 2223 } } }", ""),
    ("defaults: { seed: floppy }", "`floppy` is not allowed (allowed: auto, boot, root, none)"),
];

const CLASSES: &str = "\
classes:
  worker: { arch: arm64 }
  burnt:
    arch: amd64
    image: { url: 'file:/images/a.img', sha256: '0000000000000000000000000000000000000000000000000000000000000000' }
";

#[test]
fn each_rule_is_kept_and_says_what_is_allowed() {
    for (text, expected) in MAIN_CASES {
        judge(text, expected, &mistakes_of(text, ""), "metis.yaml:");
    }
    for (text, expected) in INVENTORY_CASES {
        judge(text, expected, &mistakes_of("", &format!("{CLASSES}{text}\n")), "inventory.yaml:");
    }
}

fn judge(text: &str, expected: &str, found: &str, file: &str) {
    if expected.is_empty() {
        assert_eq!(found, "", "{text}");
    } else {
        assert!(found.contains(expected) && found.starts_with(file), "{text}\nexpected {expected}\nfound {found}");
        // One mistake, one complaint; a missing pair of keys counts as two.
        assert!(found.lines().count() <= 2, "{text}\nfound {found}");
    }
}

#[test]
fn the_way_to_a_host_needs_what_metis_yaml_says() {
    let inventory = |access: &str| {
        format!(
            "{CLASSES}nodes: {{ a: {{ class: worker, k3s: {{ role: agent }}, host: {{ access: {access} }} }}, b: {{ class: worker }} }}"
        )
    };
    assert_eq!(mistakes_of("hosts: { helper_image: busybox }", &inventory("helper-pod")), "");
    assert_eq!(mistakes_of("hosts: { this_host: a }", &inventory("local")), "");
    let found = mistakes_of("hosts: { this_host: b }", &inventory("local"));
    assert!(found.contains("nodes.a: has `host.access: local`, but this host is `b` by `hosts.this_host` at metis.yaml:1:21"), "{found}");
}

#[test]
fn the_digest_tells_other_ways_to_hosts_apart() {
    let digest = |main: &str| from_strs(main, "").unwrap().digest;
    assert_eq!(digest(""), digest("hosts: { user: metis, at_once: 8, connect_timeout: 5000ms }"));
    assert_ne!(digest(""), digest("hosts: { user: atlas }"));
}

#[test]
fn images_come_from_files_and_https_without_credentials() {
    let image =
        |url: &str, sha: &str| mistakes_of("", &format!("classes: {{ w: {{ arch: arm64, image: {{ url: '{url}', sha256: '{sha}' }} }} }}"));
    let zeros = "0".repeat(64);
    for url in ["file:/a.img", "file:///a.img.xz", "https://h/a", "https://h.example:8443/a?b", "https://[::1]/a.zst"] {
        assert_eq!(image(url, &zeros), "", "{url}");
    }
    for url in
        ["http://h/a", "/a.img", "file:a.img", "https://h", "https://h/", "https://h/a b", "https:///a", "oci://h/a", "https://h:0/a"]
    {
        assert!(image(url, &zeros).contains("write file:/path or https://host/path"), "{url}");
    }
    let found = image("https://user:hunter2@h/a", &zeros);
    assert!(found.contains("holds a user name or password") && !found.contains("hunter2"), "{found}");
    assert!(image("file:/a", &zeros[1..]).contains("(here are 63 characters)"));
}

#[test]
fn a_secret_in_a_secrets_place_is_never_shown() {
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----hunter2";
    for place in [
        "k3s: { token: X }",
        "ssh: { users: { e: { password_hash: X } } }",
        "ssh: { host_keys: { rsa: X } }",
        "host: { key: X }",
        "ssh: { users: { e: { keys: [X] } } }",
    ] {
        for literal in [
            "'hunter2'",
            "hunter2",
            "[hunter2]",
            "{ hunter2: hunter2 }",
            "{ file: hunter2 }",
            "{ credential: 'hunter2/..' }",
            &format!("'{key}'"),
        ] {
            let found = mistakes_of("", &format!("defaults: {{ {} }}", place.replace('X', literal)));
            assert!(!found.is_empty(), "{place} {literal}");
            assert!(!found.contains("hunter2"), "{found}");
        }
    }
}

#[test]
fn many_mistakes_are_reported_in_bounded_time() {
    let lines = |count: usize, line: &dyn Fn(usize) -> String| (0..count).map(line).collect::<Vec<_>>().join("\n");
    let classes = lines(2000, &|at| format!("  c{at}: {{ arch: arm64 }}"));
    let nodes = lines(2000, &|at| format!("  n{at}: {{ class: d{at} }}"));
    let found = mistakes_of("", &format!("classes:\n{classes}\nnodes:\n{nodes}\n"));
    assert_eq!(found.lines().count(), 2000);
    assert!(
        found.starts_with("inventory.yaml:2003:16: nodes.n0.class: `d0` is not a class of this inventory; did you mean `c0`?"),
        "{}",
        &found[..200]
    );
}
