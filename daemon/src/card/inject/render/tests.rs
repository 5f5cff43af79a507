//! Rendering by tables and by chance: hostile values, secrets, and what a second preparation finds.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::Value;

use super::super::error::InjectError;
use super::super::facts::ROOT_SEED;
use super::super::tree::{Kind, Put, Stat, Tree};
use super::*;
use crate::card::testing::{arg, ok, run};
use crate::site::{HostKeyAlgorithm, K3sRole, NetworkRenderer, NodeSettings, SeedPlace, SshUser};

const TOKEN: &str = "K10feed::node:S3CRETTOKEN";
const HASH: &str = "$6$salt$S3CRETHASH";

/// A file system in memory: path → content, mode, owner.
#[derive(Default, Clone)]
struct MemTree(RefCell<BTreeMap<String, (Vec<u8>, Stat)>>);

impl Tree for MemTree {
    fn stat(&self, path: &str) -> Result<Option<Stat>, InjectError> {
        Ok(self.0.borrow().get(path).map(|(_, stat)| stat.clone()))
    }

    fn list(&self, path: &str) -> Result<Vec<String>, InjectError> {
        let prefix = format!("{}/", path.trim_end_matches('/'));
        let names = self
            .0
            .borrow()
            .keys()
            .filter_map(|path| Some(path.strip_prefix(&prefix)?.split('/').next()?.to_owned()))
            .collect::<BTreeSet<_>>();
        Ok(names.into_iter().collect())
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, InjectError> {
        Ok(self.0.borrow().get(path).map(|(content, _)| content.clone()))
    }

    fn put(&self, path: &str, what: Put<'_>, mode: u32, (uid, gid): (u32, u32)) -> Result<(), InjectError> {
        let (content, kind) = match what {
            Put::File(content) => (content.to_vec(), Kind::File),
            Put::Symlink(target) => (Vec::new(), Kind::Symlink(target.to_owned())),
            Put::Dir => (Vec::new(), Kind::Dir),
        };
        self.0.borrow_mut().insert(path.to_owned(), (content, Stat { kind, mode, uid, gid }));
        Ok(())
    }

    fn remove(&self, path: &str) -> Result<(), InjectError> {
        self.0.borrow_mut().remove(path);
        Ok(())
    }
}

/// A root and a boot partition of Ubuntu's shape, with everything that injection edits.
fn image() -> (MemTree, MemTree) {
    let (root, boot) = (MemTree::default(), MemTree::default());
    let files = [
        ("/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 golden\n"),
        ("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\nubuntu:x:1000:1000::/home/ubuntu:/bin/bash\n"),
        ("/etc/group", "root:x:0:\nubuntu:x:1000:\nsudo:x:27:ubuntu\n"),
        ("/etc/shadow", "root:*:19000:0:99999:7:::\nubuntu:!:0:0:99999:7:::\n"),
        ("/etc/gshadow", "root:*::\nubuntu:!::\nsudo:*::ubuntu\n"),
        ("/etc/subuid", "ubuntu:100000:65536\n"),
        ("/etc/subgid", "ubuntu:100000:65536\n"),
        ("/etc/sudoers", "root ALL=(ALL:ALL) ALL\n"),
        ("/etc/ssh/sshd_config", "Port 22\nMatch User git\n  Include /etc/ssh/sshd_config.d/*.conf\n"),
        ("/etc/ssh/sshd_config.d/50-cloud.conf", "Port 2222\nPasswordAuthentication no\n"),
        ("/etc/ssh/ssh_host_ecdsa_key", "golden\n"),
        ("/etc/netplan/50-cloud-init.yaml", "network: {version: 2, ethernets: {end0: {dhcp4: true}}}\n"),
        ("/etc/systemd/network/05-any.network", "[Match]\nName=e*\n[Network]\nDHCP=yes\n"),
        ("/etc/default/armbian-firstrun", "OPENSSHD_REGENERATE_HOST_KEYS=true\n"),
        ("/etc/systemd/system/sockets.target.wants/ssh.socket", ""),
        ("/etc/systemd/system/multi-user.target.wants/regenerate_ssh_host_keys.service", ""),
        ("/usr/lib/systemd/system/systemd-networkd.service", ""),
        ("/usr/lib/systemd/system/systemd-networkd.socket", ""),
        ("/usr/bin/cloud-init", ""),
        ("/usr/sbin/netplan", ""),
        ("/var/lib/dbus/machine-id", "0123\n"),
        ("/var/lib/cloud/seed/nocloud/user-data", "#cloud-config\n"),
    ];
    for (path, text) in files {
        root.put(path, Put::File(text.as_bytes()), 0o644, (0, 0)).unwrap();
    }
    boot.put("/user-data", Put::File(b"#cloud-config\n"), 0o755, (0, 0)).unwrap();
    (root, boot)
}

fn facts((root, boot): &(MemTree, MemTree)) -> ImageFacts {
    ImageFacts::read(root, Some((boot, Some("system-boot".into()))), &"ab".repeat(32)).unwrap()
}

fn applied(image: &(MemTree, MemTree), render: &Render) -> (MemTree, MemTree) {
    let image = image.clone();
    for edit in &render.edits {
        super::super::apply(if edit.fs == Fs::Root { &image.0 } else { &image.1 }, edit).unwrap();
    }
    image
}

fn text(edits: &[FileEdit], path: &str) -> String {
    let edit = edits.iter().find(|edit| edit.path == path).unwrap_or_else(|| panic!("{path} is not rendered"));
    match &edit.kind {
        EditKind::File(content) => content.expose_str().unwrap().to_owned(),
        other => panic!("{path}: {other:?}"),
    }
}

/// Mostly what is allowed, sometimes anything.
fn mostly(valid: impl Strategy<Value = String> + 'static) -> BoxedStrategy<String> {
    prop_oneof![30 => valid, 1 => any::<String>(), 1 => "[a-z\n\r:#'\"{}%&*!|>@`\\\\ ]{0,20}"].boxed()
}

fn any_node() -> impl Strategy<Value = MergedNode> {
    let word = || mostly("[a-z][a-z0-9]{0,8}".prop_map(String::from));
    let network = (
        option::of(prop_oneof![Just(NetworkRenderer::Netplan), Just(NetworkRenderer::Networkd)]),
        word(),
        any::<[u8; 2]>(),
        8_u8..33,
        option::of(any::<u8>()),
        option::of(vec(any::<[u8; 16]>(), 0..3)),
        vec(word(), 0..3),
    );
    let user = (
        option::of(vec(mostly("ssh-ed25519 [A-Za-z0-9+/]{10} [a-z ]{0,5}".prop_map(String::from)), 0..3)),
        vec(word(), 0..3),
        any::<bool>(),
        any::<bool>(),
    );
    let ssh = (option::weighted(0.7, 1_u16..), btree_map(word(), user, 0..3));
    let k3s = (
        option::of(prop_oneof![Just(K3sRole::Agent), Just(K3sRole::Server)]),
        btree_map(word(), word(), 0..3),
        vec(mostly("[a-z]{1,5}=[a-z]{0,5}:NoExecute".prop_map(String::from)), 0..3),
    );
    let other = (
        word(),
        option::of(word()),
        btree_map(any::<[u8; 4]>(), vec(word(), 1..3), 0..3),
        option::of(prop_oneof![Just(SeedPlace::Auto), Just(SeedPlace::Root), Just(SeedPlace::Boot), Just(SeedPlace::None)]),
    );
    (network, ssh, k3s, other).prop_map(|(network, ssh, k3s, (hostname, journald, hosts, seed))| {
        let mut settings = NodeSettings { seed, ..NodeSettings::default() };
        let (renderer, interface, low, prefix, gateway, nameservers, search) = network;
        if renderer.is_some() {
            settings.network.renderer = renderer;
            settings.network.interface = Some(interface);
            settings.network.address = Some([10, 1, low[0], low[1]].into());
            settings.network.prefix = Some(prefix);
            settings.network.gateway = gateway.map(|last| [10, 1, low[0], last].into());
            settings.network.nameservers = nameservers.map(|list| list.into_iter().map(Into::into).collect());
            settings.network.search = Some(search);
        }
        settings.ssh.port = ssh.0;
        for (name, (keys, groups, sudo, password)) in ssh.1 {
            let password_hash = password.then(|| SecretRef::Credential("hash".into()));
            settings.ssh.users.insert(name, SshUser { keys, groups: Some(groups), sudo: Some(sudo), password_hash });
        }
        settings.k3s.role = k3s.0;
        settings.k3s.server = Some("https://10.1.0.1:6443".into());
        settings.k3s.token = Some(SecretRef::Credential("token".into()));
        settings.k3s.labels = k3s.1;
        settings.k3s.taints = Some(k3s.2);
        settings.journald.storage = journald;
        settings.hosts = hosts.into_iter().map(|(address, names)| (address.into(), names)).collect();
        MergedNode { name: "titan-13".into(), hostname, class: "rpi4".into(), arch: crate::site::Arch::Arm64, image: None, settings }
    })
}

fn secrets() -> Secrets {
    let entry =
        |name: &str, text: &str| (SecretRef::Credential(name.into()), ResolvedSecret { secret: Secret::new(text), version: "1".into() });
    [entry("token", TOKEN), entry("hash", HASH)].into()
}

fn node() -> MergedNode {
    let settings = NodeSettings::default();
    MergedNode {
        name: "titan-13".into(),
        hostname: "titan-13".into(),
        class: "rpi4".into(),
        arch: crate::site::Arch::Arm64,
        image: None,
        settings,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_the_inventory_says_no_secret_leaks_and_twice_is_once(node in any_node()) {
        let image = image();
        let Ok(first) = render(&node, &secrets(), &facts(&image)) else { return Ok(()) };
        for edit in &first.edits {
            let EditKind::File(content) = &edit.kind else { continue };
            let leaks = content.expose().windows(6).any(|window| window == b"S3CRET");
            prop_assert!(edit.secret || !leaks, "{} carries a secret", edit.path);
            prop_assert!(!edit.secret || (edit.fs == Fs::Root && edit.mode & !0o644 == 0), "{}", edit.path);
        }
        let shown = format!("{first:?}");
        prop_assert!(!shown.contains("S3CRET"));
        let after = applied(&image, &first);
        let second = render(&node, &secrets(), &facts(&after)).unwrap();
        prop_assert_eq!(&second.instance_id, &first.instance_id);
        prop_assert!(second.edits.iter().all(FileEdit::is_own), "nothing is left to repair");
        prop_assert!(applied(&after, &second).0.0.borrow().iter().eq(after.0.0.borrow().iter()));
        prop_assert!(applied(&after, &second).1.0.borrow().iter().eq(after.1.0.borrow().iter()));
    }

    #[test]
    fn every_value_arrives_in_its_file_as_it_was(node in any_node()) {
        let Ok(render) = render(&node, &secrets(), &facts(&image())) else { return Ok(()) };
        prop_assert_eq!(text(&render.edits, "/etc/hostname"), node.hostname.clone());
        if let Some(renderer) = node.settings.network.renderer && renderer == NetworkRenderer::Netplan {
            let file: Value = serde_yaml::from_str(&text(&render.edits, "/etc/netplan/90-metis.yaml")).unwrap();
            let entry = &file["network"]["ethernets"][node.settings.network.interface.as_ref().unwrap()];
            let address = format!("{}/{}", node.settings.network.address.unwrap(), node.settings.network.prefix.unwrap());
            prop_assert_eq!(entry["addresses"][0].as_str(), Some(address.as_str()));
            prop_assert_eq!(entry["dhcp4"].as_bool(), Some(false));
        }
        if node.settings.k3s.role.is_some() {
            let config: Value = serde_yaml::from_str(&text(&render.edits, "/etc/rancher/k3s/config.yaml.d/10-metis.yaml")).unwrap();
            let labels = config["node-label"].as_array().map_or(0, Vec::len);
            prop_assert_eq!(labels, node.settings.k3s.labels.len());
            prop_assert_eq!(config["token-file"].as_str(), Some("/etc/rancher/k3s/metis.token"));
        }
        for line in text(&render.edits, "/etc/hosts").lines().filter(|line| !line.starts_with('#')) {
            let address = line.split(' ').next().unwrap();
            prop_assert!(address.parse::<std::net::IpAddr>().is_ok(), "{line}");
        }
        let identity: Value = serde_json::from_str(&text(&render.edits, "/etc/metis/node.json")).unwrap();
        prop_assert_eq!(identity["instance_id"].as_str(), Some(render.instance_id.as_str()));
        for name in ["/meta-data", "/user-data"].map(|name| if render.edits.iter().any(|edit| edit.path == name) { name.to_owned() } else { format!("{ROOT_SEED}{name}") }) {
            if render.edits.iter().any(|edit| edit.path == name && edit.kind != EditKind::Remove) {
                let seed: Value = serde_yaml::from_str(&text(&render.edits, &name)).unwrap();
                let host = seed.get("local-hostname").or(seed.get("hostname")).and_then(Value::as_str);
                prop_assert_eq!(host, Some(node.hostname.as_str()));
            }
        }
    }
}

#[test]
fn accounts_are_such_as_pwck_and_grpck_accept() {
    let mut node = node();
    let atlas = SshUser {
        groups: Some(vec!["sudo".into(), "docker".into()]),
        sudo: Some(true),
        password_hash: Some(SecretRef::Credential("hash".into())),
        keys: Some(vec![]),
    };
    node.settings.ssh.users = [("atlas".into(), atlas), ("ubuntu".into(), SshUser::default())].into();
    let render = render(&node, &secrets(), &facts(&image())).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for name in ["passwd", "shadow", "group", "gshadow"] {
        std::fs::write(dir.path().join(name), text(&render.edits, &format!("/etc/{name}"))).unwrap();
    }
    let path = |name: &str| arg(&dir.path().join(name)).to_owned();
    // Both also look for homes, shells, groups and users of this machine; of the tables themselves they must have nothing to say.
    for (program, tables) in [("pwck", ["passwd", "shadow"]), ("grpck", ["group", "gshadow"])] {
        let said = run(program, &["-r", &path(tables[0]), &path(tables[1])]);
        let said = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        let known = ["directory", "no changes", "program", "no group 1001", "no user", "delete member"];
        assert!(said.lines().all(|line| known.iter().any(|known| line.contains(known))), "{said}");
    }
    let passwd = text(&render.edits, "/etc/passwd");
    assert!(passwd.contains("\natlas:x:1001:1001::/home/atlas:/bin/sh"), "{passwd}");
    let group = text(&render.edits, "/etc/group");
    assert!(
        group.contains("sudo:x:27:ubuntu,atlas\n") && group.contains("docker:x:999:atlas") && group.contains("atlas:x:1001:\n"),
        "{group}"
    );
    let shadow = text(&render.edits, "/etc/shadow");
    assert!(shadow.contains(&format!("atlas:{HASH}::0:99999:7:::")) && shadow.contains("ubuntu:!::0:"), "{shadow}");
    assert!(text(&render.edits, "/etc/subuid").ends_with("atlas:165536:65536"));
    assert_eq!(text(&render.edits, "/etc/sudoers.d/90-metis"), "atlas ALL=(ALL:ALL) NOPASSWD: ALL");
    assert!(text(&render.edits, "/etc/sudoers").ends_with("@includedir /etc/sudoers.d"));
}

#[test]
fn public_keys_are_what_ssh_keygen_derives_and_other_keys_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, args: &[&str]| {
        let path = dir.path().join(name);
        ok("ssh-keygen", &[&["-q", "-C", "", "-f", arg(&path)], args].concat());
        std::fs::read(path).unwrap()
    };
    let with = |algorithm, bytes: Vec<u8>| {
        let mut node = node();
        let reference = SecretRef::Credential("host".into());
        node.settings.ssh.host_keys = [(algorithm, reference.clone())].into();
        let secrets = [(reference, ResolvedSecret { secret: Secret::new(bytes), version: "1".into() })].into();
        render(&node, &secrets, &facts(&image()))
    };
    for (algorithm, name, bits) in
        [(HostKeyAlgorithm::Ed25519, "ed25519", "256"), (HostKeyAlgorithm::Ecdsa, "ecdsa", "384"), (HostKeyAlgorithm::Rsa, "rsa", "2048")]
    {
        let key = make(name, &["-t", name, "-b", bits, "-N", ""]);
        let render = with(algorithm, key).unwrap();
        let derived = ok("ssh-keygen", &["-y", "-f", arg(&dir.path().join(name))]);
        let public = text(&render.edits, &format!("/etc/ssh/ssh_host_{name}_key.pub"));
        assert_eq!(public, format!("{} root@titan-13", derived.trim()));
        let removed = |path: &str| render.edits.iter().any(|edit| edit.path == path && edit.kind == EditKind::Remove);
        assert!(name == "ecdsa" || removed("/etc/ssh/ssh_host_ecdsa_key"), "the golden image's own key goes");
        assert!(removed("/etc/systemd/system/multi-user.target.wants/regenerate_ssh_host_keys.service"));
        assert_eq!(text(&render.edits, "/etc/default/armbian-firstrun"), "OPENSSHD_REGENERATE_HOST_KEYS=false");
        let user_data: Value = serde_yaml::from_str(&text(&render.edits, "/user-data")).unwrap();
        assert_eq!((user_data["ssh_deletekeys"].as_bool(), user_data["ssh_genkeytypes"][0].as_str()), (Some(false), Some(name)));
    }
    for (bytes, why) in [
        (make("locked", &["-t", "ed25519", "-N", "passphrase"]), "passphrase"),
        (make("pem", &["-t", "rsa", "-b", "2048", "-m", "PEM", "-N", ""]), "ssh-keygen -p"),
        (make("wrong", &["-t", "rsa", "-b", "2048", "-N", ""]), "another algorithm"),
        (b"nonsense".to_vec(), "not an OpenSSH private key"),
    ] {
        let error = with(HostKeyAlgorithm::Ed25519, bytes).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("ssh.host_keys.ed25519") && error.contains("credential:host"), "{error}");
    }
}

#[test]
fn the_port_is_the_only_one_and_reaches_the_socket_too() {
    let mut node = node();
    node.settings.ssh.port = Some(2277);
    let render = render(&node, &secrets(), &facts(&image())).unwrap();
    assert_eq!(text(&render.edits, "/etc/ssh/sshd_config.d/10-metis.conf"), "Port 2277");
    let main = text(&render.edits, "/etc/ssh/sshd_config");
    assert!(main.starts_with("Include /etc/ssh/sshd_config.d/*.conf\n# replaced by 10-metis.conf: Port 22\nMatch User git\n"), "{main}");
    assert!(text(&render.edits, "/etc/ssh/sshd_config.d/50-cloud.conf").starts_with("# replaced by 10-metis.conf: Port 2222\n"));
    assert_eq!(text(&render.edits, "/etc/systemd/system/ssh.socket.d/10-metis.conf"), "[Socket]\nListenStream=\nListenStream=2277");
}

#[test]
fn a_networkd_image_gets_its_file_its_links_and_no_rival() {
    let mut node = node();
    let network = &mut node.settings.network;
    (network.renderer, network.interface) = (Some(NetworkRenderer::Networkd), Some("end0".into()));
    (network.address, network.prefix, network.gateway) = (Some([192, 168, 22, 43].into()), Some(24), Some([192, 168, 22, 1].into()));
    (network.nameservers, network.search) = (Some(vec![[192, 168, 22, 1].into()]), Some(vec!["lan".into(), "home.lan".into()]));
    let render = render(&node, &secrets(), &facts(&image())).unwrap();
    let expected =
        "[Match]\nName=end0\n\n[Network]\nDHCP=no\nAddress=192.168.22.43/24\nGateway=192.168.22.1\nDNS=192.168.22.1\nDomains=lan home.lan";
    assert_eq!(text(&render.edits, "/etc/systemd/network/10-metis-end0.network"), expected);
    assert!(render.edits.contains(&FileEdit::remove("/etc/systemd/network/05-any.network")));
    let link = FileEdit::symlink(
        "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
        "/usr/lib/systemd/system/systemd-networkd.service",
    );
    assert!(render.edits.contains(&link));
    assert_eq!(text(&render.edits, "/etc/resolv.conf"), "nameserver 192.168.22.1\nsearch lan home.lan");
}

#[test]
fn the_seed_goes_where_the_image_looks_for_it() {
    let place = |seed, boot: Option<(&str, bool)>, cloud_init| {
        let mut node = node();
        node.settings.seed = seed;
        let mut facts = facts(&image());
        facts.has_cloud_init = cloud_init;
        facts.boot = boot.map(|(label, seeded)| super::super::facts::BootFacts {
            label: Some(label.into()),
            files: seeded.then(|| "user-data".to_owned()).into_iter().collect(),
        });
        let edits = render(&node, &secrets(), &facts)?.edits;
        let found = edits.into_iter().find(|edit| edit.path.ends_with("/meta-data"));
        Ok(found.map(|edit| (edit.fs, edit.mode)))
    };
    let (boot, root): (_, Result<_, RenderError>) = (Ok(Some((Fs::Boot, 0o755))), Ok(Some((Fs::Root, 0o600))));
    assert_eq!(place(None, Some(("CIDATA", false)), true), boot);
    assert_eq!(place(None, Some(("system-boot", true)), true), boot);
    assert_eq!(place(None, Some(("bootfs", false)), true), root);
    assert_eq!(place(None, None, false), Ok(None));
    assert_eq!(place(Some(SeedPlace::Boot), Some(("bootfs", false)), true), boot);
    assert_eq!(place(Some(SeedPlace::Root), Some(("cidata", true)), true), root);
    assert_eq!(place(Some(SeedPlace::None), Some(("cidata", true)), true), Ok(None));
    let error = place(Some(SeedPlace::Boot), None, true).unwrap_err().to_string();
    assert_eq!(error, "node titan-13: seed: the image has no FAT boot partition for the seed; say `root`");
}

#[test]
fn wrong_values_are_refused_with_key_value_and_what_is_allowed() {
    type Change = fn(&mut MergedNode);
    let cases: [(Change, &str); 14] = [
        (|n| n.hostname = "a\nb".into(), "node titan-13: hostname: `a\\nb` is not a host name"),
        (|n| n.settings.network.interface = Some("end0/../x".into()), "network.interface: `end0/../x` is not an interface name"),
        (|n| n.settings.network.interface = None, "network.interface is not set, but network.address is set"),
        (|n| n.settings.network.renderer = None, "network.renderer is not set"),
        (|n| n.settings.network.prefix = Some(33), "network.prefix: `33` is not a prefix length of IPv4: 1 to 32"),
        (|n| n.settings.network.gateway = Some([10, 0, 1, 1].into()), "network.gateway: `10.0.1.1` is not in the network of 10.0.0.2/24"),
        (|n| n.settings.network.search = Some(vec!["a b".into()]), "network.search: `a b` is not a domain name"),
        (|n| n.settings.ssh.users = [("a:0".into(), SshUser::default())].into(), "ssh.users: `a:0` is not an account name"),
        (
            |n| n.settings.ssh.users = [("a".into(), SshUser { keys: Some(vec!["x y\nz".into()]), ..SshUser::default() })].into(),
            "ssh.users.a.keys: `x y\\nz` has control characters",
        ),
        (
            |n| {
                n.settings.ssh.users =
                    [("a".into(), SshUser { password_hash: Some(SecretRef::Credential("token".into())), ..SshUser::default() })].into();
            },
            "ssh.users.a.password_hash: the secret credential:token is not a crypt(5) hash",
        ),
        (|n| n.settings.k3s.role = Some(K3sRole::Agent), "k3s.server is not set, but k3s.role is agent"),
        (
            |n| {
                n.settings.k3s.role = Some(K3sRole::Server);
                n.settings.k3s.token = Some(SecretRef::Credential("absent".into()));
            },
            "k3s.token: the secret credential:absent was not read",
        ),
        (
            |n| {
                n.settings.k3s.role = Some(K3sRole::Server);
                n.settings.k3s.taints = Some(vec!["a=b:Never".into()]);
            },
            "k3s.taints: `a=b:Never` is not a taint",
        ),
        (|n| n.settings.journald.storage = Some("persistent\nForwardToConsole=yes".into()), "journald.storage: `persistent\\nForward"),
    ];
    for (change, expected) in cases {
        let mut node = node();
        let network = &mut node.settings.network;
        (network.renderer, network.interface) = (Some(NetworkRenderer::Netplan), Some("end0".into()));
        (network.address, network.prefix) = (Some([10, 0, 0, 2].into()), Some(24));
        change(&mut node);
        let error = render(&node, &secrets(), &facts(&image())).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\nshould say: {expected}");
        assert!(!error.contains("S3CRET"), "{error}");
    }
}
