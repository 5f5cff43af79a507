//! Cards that the real daemon burnt: judged by the file-system checkers, compared file by file with their golden images, and booted.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use metis_tests::daemon::Daemon;
use metis_tests::loopdev::Loop;
use metis_tests::nspawn::golden;
use metis_tests::qemu::Guest;
use metis_tests::site::TOKEN;
use metis_tests::{require, site};
use serde_json::Value;

const SECTOR: u64 = 512;

fn able(test: &str, more: &[&str]) -> bool {
    require::root(test)
        && require::programs(test, &[&["losetup", "sfdisk", "zstd", "e2fsck", "fsck.vfat", "mdir", "ssh-keygen", "python3"], more].concat())
}

/// Runs a program that must succeed; its standard output.
fn ok(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{program} {arguments:?}: {}\n{stdout}{stderr}", out.status);
    stdout.into_owned()
}

/// What every node of these tests gets in its root, whatever the image.
const INJECTED: [&str; 24] = [
    "/etc/cloud/cloud.cfg.d/99-metis.cfg",
    "/etc/group",
    "/etc/gshadow",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/machine-id",
    "/etc/metis",
    "/etc/metis/node.json",
    "/etc/passwd",
    "/etc/rancher/k3s",
    "/etc/rancher/k3s/config.yaml.d",
    "/etc/rancher/k3s/config.yaml.d/10-metis.yaml",
    "/etc/rancher/k3s/metis.token",
    "/etc/shadow",
    "/etc/ssh/ssh_host_ed25519_key",
    "/etc/ssh/ssh_host_ed25519_key.pub",
    "/etc/ssh/sshd_config.d/10-metis.conf",
    "/etc/subgid",
    "/etc/subuid",
    "/etc/sudoers.d/90-metis",
    "/etc/systemd/journald.conf.d/10-metis.conf",
    "/home/brad",
    "/home/brad/.ssh",
    "/home/brad/.ssh/authorized_keys",
];

/// The NoCloud seed where it goes to the root.
const SEED: [&str; 4] = [
    "/var/lib/cloud/seed/nocloud",
    "/var/lib/cloud/seed/nocloud/meta-data",
    "/var/lib/cloud/seed/nocloud/network-config",
    "/var/lib/cloud/seed/nocloud/user-data",
];

/// A card, its golden image, and the key that was injected.
struct Burnt {
    card: PathBuf,
    golden: PathBuf,
    fingerprint: String,
    _daemon: Daemon,
}

/// Burns `node` to a loop device over a file of `size` bytes, of which the first `used` are full of something else.
fn burn(mut daemon: Daemon, node: &str, compressed: &Path, used: u64, size: u64) -> Burnt {
    let key = daemon.path("secrets/host_key");
    let fingerprint = ok("ssh-keygen", &["-lf", key.to_str().unwrap()]).split(' ').nth(1).unwrap().to_owned();
    let card = daemon.path("card.img");
    let mut old = File::create(&card).unwrap();
    let block = vec![0xa5; 1 << 20];
    for _ in 0..used >> 20 {
        old.write_all(&block).unwrap();
    }
    old.set_len(size).unwrap();
    drop(old);

    daemon.start().unwrap();
    let device = Loop::attach(&card).unwrap();
    let answer = daemon.ctl(&["burn", "--node", node, "--device", device.path(), "--allow-fixed", "--yes"]).unwrap();
    assert_eq!(answer.code, Some(0), "{answer:?}\n{}", daemon.log());
    assert!(!answer.text().contains(TOKEN) && !daemon.log().contains(TOKEN), "a secret was shown");
    daemon.stop().unwrap();
    drop(device);

    let golden = daemon.path("golden.img");
    ok("zstd", &["-q", "-d", compressed.to_str().unwrap(), "-o", golden.to_str().unwrap()]);
    Burnt { card, golden, fingerprint, _daemon: daemon }
}

/// Offset and length of every partition, in bytes.
fn partitions(image: &Path) -> Vec<(u64, u64)> {
    let table: Value = serde_json::from_str(&ok("sfdisk", &["--json", image.to_str().unwrap()])).unwrap();
    let of = |p: &Value| (p["start"].as_u64().unwrap() * SECTOR, p["size"].as_u64().unwrap() * SECTOR);
    table["partitiontable"]["partitions"].as_array().unwrap().iter().map(of).collect()
}

/// The whole tree of an ext4 partition, path to everything about it, as the kernel sees it.
fn tree(image: &Path, (offset, len): (u64, u64)) -> BTreeMap<String, Value> {
    let device = Loop::slice(image, offset, len).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/lab/tree");
    serde_json::from_str(&ok(script, &[device.path()])).unwrap()
}

/// Paths that differ in anything, and what both trees say of them.
fn differences(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) -> BTreeSet<String> {
    let all: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    all.into_iter().filter(|path| before.get(*path) != after.get(*path)).cloned().collect()
}

/// Asserts that two files have the same bytes from `from` to `to`.
fn same_bytes(one: &Path, other: &Path, from: u64, to: u64) {
    let read = |path: &Path| {
        let mut file = File::open(path).unwrap();
        file.seek(SeekFrom::Start(from)).unwrap();
        let mut bytes = Vec::new();
        file.take(to - from).read_to_end(&mut bytes).unwrap();
        bytes
    };
    let (a, b) = (read(one), read(other));
    assert_eq!(a.len() as u64, to - from);
    let at = a.iter().zip(&b).position(|(a, b)| a != b);
    assert!(a == b, "{} and {} differ at byte {:?} of {from}..{to}", one.display(), other.display(), at);
}

/// Every file of a FAT partition, with its content and attributes, as mtools sees it.
fn fat_tree(image: &Path, (offset, _): (u64, u64)) -> BTreeMap<String, Value> {
    let at = format!("{}@@{offset}", image.display());
    let all = ok("mdir", &["-/", "-b", "-a", "-i", &at, "::/"]);
    let look = |path: &str| {
        let content = if path.ends_with('/') { String::new() } else { ok("mtype", &["-i", &at, path]) };
        let attributes = ok("mattrib", &["-i", &at, path.trim_end_matches('/')]);
        (path.to_owned(), serde_json::json!({ "content": content, "attributes": attributes }))
    };
    all.lines().map(look).collect()
}

fn e2fsck(image: &Path, (offset, len): (u64, u64)) {
    let device = Loop::slice(image, offset, len).unwrap();
    ok("e2fsck", &["-fn", device.path()]);
}

fn fsck_vfat(image: &Path, (offset, len): (u64, u64)) {
    let device = Loop::slice(image, offset, len).unwrap();
    ok("fsck.vfat", &["-n", device.path()]);
}

/// Asserts that of an ext4 partition exactly `expected` paths differ between the golden image and the card.
fn only(burnt: &Burnt, partition: (u64, u64), expected: &[&[&str]]) -> BTreeMap<String, Value> {
    let (before, after) = (tree(&burnt.golden, partition), tree(&burnt.card, partition));
    let expected: BTreeSet<String> = expected.iter().copied().flatten().map(ToString::to_string).collect();
    let changed = differences(&before, &after);
    let show = |path: &String| format!("{path}\n  golden {:?}\n  card   {:?}\n", before.get(path), after.get(path));
    let unexpected: String = changed.difference(&expected).map(show).collect();
    let missing: Vec<_> = expected.difference(&changed).collect();
    assert!(unexpected.is_empty() && missing.is_empty(), "also changed:\n{unexpected}unchanged: {missing:?}");
    after
}

#[test]
fn a_debian_card_is_the_golden_image_with_its_node_and_boots_as_it() {
    if !able("a card that boots", &["qemu-system-x86_64", "mmdebstrap"]) {
        return;
    }
    let made = golden("debian-amd64").unwrap();
    let image = made.join("disk.img.zst");
    let sha256 = fs::read_to_string(made.join("disk.img.zst.sha256")).unwrap();
    let inventory = format!(
        r#"
classes:
  amd64:
    arch: amd64
    image: {{ url: "file:{}", sha256: "{}" }}
    network: {{ renderer: networkd, interface: eth0, prefix: 24, gateway: 10.0.2.2, nameservers: [10.0.2.3] }}
    ssh:
      port: 2277
      users: {{ brad: {{ keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f brad@desk"], groups: [sudo], sudo: true }} }}
    k3s:
      role: agent
      version: v1.33.3+k3s1
      server: "https://10.0.2.2:6443"
      token: {{ file: "@DIR@/secrets/token" }}
      labels: {{ longhorn: "true" }}
      taints: ["dedicated=media:NoSchedule"]
    journald: {{ storage: persistent, system_max_use: 200M }}
nodes:
  titan-22:
    class: amd64
    network: {{ address: 10.0.2.15 }}
    ssh: {{ host_keys: {{ ed25519: {{ file: "@DIR@/secrets/host_key" }} }} }}
"#,
        image.display(),
        sha256.trim()
    );
    let daemon = Daemon::new(site::PLAIN, &inventory).unwrap();
    site::secrets(&daemon).unwrap();
    // QEMU's SD cards have sizes that are powers of two.
    let burnt = burn(daemon, "titan-22", &image, 2 << 30, 4 << 30);
    let mut guest = Guest::boot(&burnt.card, &made).unwrap();

    let [efi, root] = partitions(&burnt.card)[..] else { panic!("two partitions") };
    e2fsck(&burnt.card, root);
    fsck_vfat(&burnt.card, efi);
    same_bytes(&burnt.golden, &burnt.card, 0, efi.0);
    assert_eq!(fat_tree(&burnt.golden, efi), fat_tree(&burnt.card, efi), "nothing goes there on this node");
    // What `systemctl enable systemd-networkd` links, with the units' real path.
    let networkd = [
        "/etc/systemd/network/10-metis-eth0.network",
        "/etc/systemd/system/dbus-org.freedesktop.network1.service",
        "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
        "/etc/systemd/system/network-online.target.wants/systemd-networkd-wait-online.service",
        "/etc/systemd/system/sockets.target.wants/systemd-networkd.socket",
    ];
    let folders = ["/etc/rancher", "/etc/systemd/journald.conf.d", "/var/lib/cloud", "/var/lib/cloud/seed"];
    let card = only(&burnt, root, &[&INJECTED, &SEED, &networkd, &folders]);
    for secret in ["/etc/ssh/ssh_host_ed25519_key", "/etc/rancher/k3s/metis.token", "/etc/rancher/k3s/config.yaml.d/10-metis.yaml"] {
        assert_eq!((card[secret]["mode"].as_str(), card[secret]["uid"].as_u64()), (Some("0o100600"), Some(0)), "{secret}");
    }

    let report: Value = serde_json::from_str(&guest.line_after("NODE-REPORT ", Duration::from_secs(400)).unwrap()).unwrap();
    assert_eq!(report["hostname"], "titan-22");
    assert_eq!(report["address"], serde_json::json!(["10.0.2.15"]));
    assert!(report["host_key"].as_str().unwrap().contains(&burnt.fingerprint), "{report:#}");
    assert_eq!((&report["sshd_port"], &report["sshd_active"]), (&"2277".into(), &"active".into()));
    let k3s = &report["k3s"];
    assert_eq!(k3s["server"], "https://10.0.2.2:6443", "{report:#}");
    assert_eq!(k3s["node-label"], serde_json::json!(["longhorn=true"]), "{report:#}");
    assert_eq!(report["token_chars"], TOKEN.len());
    assert_eq!(report["cloud_init"], report["node"]["instance_id"]);
    assert_eq!(report["machine_id"].as_str().map(str::len), Some(32), "{report:#}");
    assert_eq!(report["failed"], "", "{report:#}");
    assert!(report["sshd_listens"].as_array().unwrap().contains(&"0.0.0.0:2277".into()), "{report:#}");
    assert_eq!(report["gateway"], serde_json::json!(["10.0.2.2"]));
    assert_eq!(report["journal"], true, "the journal is persistent");
    let brad = &report["users"]["brad"];
    assert!(brad["groups"].as_array().unwrap().contains(&"sudo".into()), "{report:#}");
    assert!(brad["sudo"].to_string().contains("NOPASSWD: ALL") && brad["keys"].to_string().contains("brad@desk"), "{report:#}");
    assert_eq!(report["users"].as_object().unwrap().len(), 1, "nobody else: {report:#}");
}

#[test]
fn a_raspberry_pi_card_is_the_golden_image_with_its_node() {
    if !able("a Raspberry Pi card", &["mtype"]) {
        return;
    }
    let daemon = site::daemon(site::PLAIN).unwrap();
    let compressed = daemon.path("pi.img.zst");
    let burnt = burn(daemon, "pi-1", &compressed, 128 << 20, 256 << 20);
    let [boot, root] = partitions(&burnt.card)[..] else { panic!("two partitions") };
    e2fsck(&burnt.card, root);
    fsck_vfat(&burnt.card, boot);
    same_bytes(&burnt.golden, &burnt.card, 0, boot.0);
    same_bytes(&burnt.golden, &burnt.card, boot.0 + boot.1, root.0);
    let (before, after) = (fat_tree(&burnt.golden, boot), fat_tree(&burnt.card, boot));
    let changed = differences(&before, &after);
    assert_eq!(changed.into_iter().collect::<Vec<_>>(), ["::/meta-data", "::/network-config", "::/user-data"], "{after:#?}");
    assert!(after["::/meta-data"]["content"].as_str().unwrap().contains("local-hostname: pi-1"), "{after:#?}");
    only(&burnt, root, &[&INJECTED, &["/etc/netplan/90-metis.yaml", "/etc/resolv.conf"]]);
}

#[test]
fn an_armbian_card_is_the_golden_image_with_its_node_behind_the_same_boot_loader() {
    if !able("an Armbian card", &[]) {
        return;
    }
    let daemon = site::daemon(site::PLAIN).unwrap();
    let compressed = daemon.path("armbian.img.zst");
    let burnt = burn(daemon, "armbian-1", &compressed, 96 << 20, 256 << 20);
    let [root] = partitions(&burnt.card)[..] else { panic!("one partition") };
    e2fsck(&burnt.card, root);
    assert!(root.0 >= 16 << 20, "the boot loader is before the root");
    same_bytes(&burnt.golden, &burnt.card, 0, root.0);
    let networkd =
        ["/etc/resolv.conf", "/etc/systemd/network/10-metis-end0.network", "/etc/systemd/system/dbus-org.freedesktop.network1.service"];
    only(&burnt, root, &[&INJECTED, &SEED, &networkd, &["/etc/default/armbian-firstrun"]]);
}
