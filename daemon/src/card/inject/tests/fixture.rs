//! Images with known trees, a node for them, and the judges.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::super::testing::{arg, ok, run, sfdisk, sparse};
use super::super::super::{MemImage, Prepared, ReadAt as _, Verified};
use super::super::ext4::Ext4;
use super::super::overlay::{Overlay, Window};
use super::super::tree::{Put, Tree as _};
use super::super::{InjectError, ResolvedSecret, Secrets};
use crate::site::{
    Arch, HostKeyAlgorithm, HostSettings, JournaldSettings, K3sRole, K3sSettings, MergedNode, NetworkRenderer, NetworkSettings,
    NodeSettings, Secret, SecretRef, SeedPlace, SshSettings, SshUser,
};

pub const MIB: u64 = 1 << 20;
pub const TOKEN: &str = "K10abc::server:very-secret-token";
pub const HASH: &str = "$y$j9T$abcdefgh$0123456789abcdefghijklmnopqrstuvwxyzABCDE";
pub const ROOT_AT: u64 = 32 * MIB;
pub const ROOT_LEN: u64 = 64 * MIB;
const BOOT_AT: u64 = MIB;
const BOOT_LEN: u64 = 24 * MIB;

/// A temporary directory with an Ed25519 host key made by ssh-keygen.
pub struct Lab {
    pub dir: tempfile::TempDir,
}

impl Lab {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        ok("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", arg(&dir.path().join("key"))]);
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A small Debian-like root: merged /usr, users, ssh, networkd, cloud-init, netplan.
    pub fn tree(&self) -> PathBuf {
        let root = self.path("tree");
        if root.exists() {
            return root;
        }
        let dirs = ["etc/ssh/sshd_config.d", "etc/netplan", "etc/cloud/cloud.cfg.d", "usr/bin", "usr/sbin", "usr/lib/systemd/system"];
        for dir in dirs.into_iter().chain(["var/lib/dbus", "home", "root", "etc/default", "etc/sudoers.d", "srv/many"]) {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
        for (link, target) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib")] {
            symlink(target, root.join(link)).unwrap();
        }
        let files: [(&str, u32, &str); 19] = [
            ("etc/hostname", 0o644, "golden\n"),
            ("etc/hosts", 0o644, "127.0.0.1 localhost\n127.0.1.1 golden\n192.168.22.9 nas\n"),
            ("etc/machine-id", 0o444, "0123456789abcdef0123456789abcdef\n"),
            ("var/lib/dbus/machine-id", 0o644, "0123456789abcdef0123456789abcdef\n"),
            ("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/usr/sbin:/usr/sbin/nologin\n"),
            ("etc/group", 0o644, "root:x:0:\ndaemon:x:1:\nshadow:x:42:\nsudo:x:27:\n"),
            ("etc/shadow", 0o640, "root:*:0:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n"),
            ("etc/gshadow", 0o640, "root:*::\nsudo:*::\n"),
            ("etc/subuid", 0o644, "build:100000:65536\n"),
            ("etc/sudoers", 0o440, "root ALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n"),
            ("etc/ssh/sshd_config", 0o644, "Port 22\nUsePAM yes\n"),
            ("etc/ssh/ssh_host_rsa_key", 0o600, "golden image's\n"),
            ("etc/ssh/ssh_host_rsa_key.pub", 0o644, "golden image's\n"),
            ("etc/default/armbian-firstrun", 0o644, "# yes\nOPENSSHD_REGENERATE_HOST_KEYS=true\n"),
            (
                "etc/netplan/50-cloud-init.yaml",
                0o600,
                "network:\n  version: 2\n  ethernets:\n    all:\n      match: {name: \"e*\"}\n      dhcp4: true\n",
            ),
            ("usr/lib/systemd/system/systemd-networkd.service", 0o644, "[Unit]\n"),
            ("usr/bin/bash", 0o755, "#!\n"),
            ("usr/bin/cloud-init", 0o755, "#!\n"),
            ("usr/sbin/netplan", 0o755, "#!\n"),
        ];
        for (path, mode, text) in files {
            std::fs::write(root.join(path), text).unwrap();
            std::fs::set_permissions(root.join(path), PermissionsExt::from_mode(mode)).unwrap();
        }
        for n in 0..40 {
            std::fs::write(root.join(format!("srv/many/file-{n}")), vec![n as u8; 1 + n * 997]).unwrap();
        }
        root
    }

    /// A file system of [`ROOT_LEN`] bytes with the tree.
    pub fn ext4(&self, options: &[&str]) -> PathBuf {
        let path = self.path("root.ext4");
        let _ = std::fs::remove_file(&path);
        sparse(&path, ROOT_LEN);
        let tree = self.tree();
        let mut args = vec!["-q", "-F", "-L", "writable", "-d", arg(&tree)];
        args.extend(options);
        args.push(arg(&path));
        ok("mkfs.ext4", &args);
        path
    }

    /// A card of Raspberry Pi shape around that file system: MBR, FAT boot partition with a seed of the maker, root.
    pub fn card(&self, ext4: &Path) -> Vec<u8> {
        let boot = self.path("boot.fat");
        let _ = std::fs::remove_file(&boot);
        sparse(&boot, BOOT_LEN);
        ok("mkfs.vfat", &["-F", "16", "-n", "system-boot", "-i", "11223344", arg(&boot)]);
        for (name, text) in [("user-data", "#cloud-config\nchpasswd: {expire: true}\n"), ("config.txt", "arm_64bit=1\n")] {
            std::fs::write(self.path(name), text).unwrap();
            ok("mcopy", &["-i", arg(&boot), arg(&self.path(name)), &format!("::{name}")]);
        }
        let disk = self.path("disk.img");
        let _ = std::fs::remove_file(&disk);
        sparse(&disk, ROOT_AT + ROOT_LEN);
        let sectors = |bytes: u64| bytes / 512;
        sfdisk(
            &disk,
            &format!(
                "label: dos\nstart={},size={},type=c\nstart={},size={},type=83\n",
                sectors(BOOT_AT),
                sectors(BOOT_LEN),
                sectors(ROOT_AT),
                sectors(ROOT_LEN)
            ),
        );
        let mut image = std::fs::read(&disk).unwrap();
        put(&mut image, BOOT_AT, &std::fs::read(&boot).unwrap());
        put(&mut image, ROOT_AT, &std::fs::read(ext4).unwrap());
        image
    }

    /// A card of Armbian shape: a boot loader in the gap before the only partition.
    pub fn armbian(&self, ext4: &Path) -> Vec<u8> {
        let disk = self.path("disk.img");
        let _ = std::fs::remove_file(&disk);
        sparse(&disk, ROOT_AT + ROOT_LEN);
        sfdisk(&disk, &format!("label: dos\nstart={},size={},type=83\n", ROOT_AT / 512, ROOT_LEN / 512));
        let mut image = std::fs::read(&disk).unwrap();
        put(&mut image, 8192, &b"u-boot".repeat(20_000));
        put(&mut image, ROOT_AT, &std::fs::read(ext4).unwrap());
        image
    }

    /// The partitions of a prepared card as files: (boot, root).
    pub fn split(&self, card: &[u8]) -> (PathBuf, PathBuf) {
        let (boot, root) = (self.path("out.fat"), self.path("out.ext4"));
        std::fs::write(&boot, &card[BOOT_AT as usize..(BOOT_AT + BOOT_LEN) as usize]).unwrap();
        std::fs::write(&root, &card[ROOT_AT as usize..(ROOT_AT + ROOT_LEN) as usize]).unwrap();
        (boot, root)
    }

    pub fn secrets(&self) -> Secrets {
        let entry = |name: &str, bytes: Vec<u8>| {
            (SecretRef::Credential(name.into()), ResolvedSecret { secret: Secret::new(bytes), version: format!("{name}-v1") })
        };
        let key = std::fs::read(self.path("key")).unwrap();
        [entry("hash", HASH.into()), entry("token", format!("{TOKEN}\n").into()), entry("host", key)].into()
    }
}

pub fn node() -> MergedNode {
    let network = NetworkSettings {
        renderer: Some(NetworkRenderer::Netplan),
        interface: Some("end0".into()),
        address: Some([192, 168, 22, 43].into()),
        prefix: Some(24),
        gateway: Some([192, 168, 22, 1].into()),
        nameservers: Some(vec![[192, 168, 22, 1].into()]),
        search: Some(vec!["lan".into()]),
    };
    let atlas = SshUser {
        keys: Some(vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJz0 atlas@desk".into()]),
        groups: Some(vec!["sudo".into(), "docker".into()]),
        sudo: Some(true),
        password_hash: Some(SecretRef::Credential("hash".into())),
    };
    let root = SshUser { keys: Some(vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJz0 root@desk".into()]), ..SshUser::default() };
    let ssh = SshSettings {
        port: Some(2277),
        users: [("atlas".into(), atlas), ("root".into(), root)].into(),
        host_keys: [(HostKeyAlgorithm::Ed25519, SecretRef::Credential("host".into()))].into(),
    };
    let k3s = K3sSettings {
        role: Some(K3sRole::Agent),
        version: Some("v1.31.5+k3s1".into()),
        server: Some("https://192.168.22.7:6443".into()),
        token: Some(SecretRef::Credential("token".into())),
        labels: [("node-role.kubernetes.io/worker".into(), "true".into())].into(),
        taints: Some(vec!["longhorn=only:NoSchedule".into()]),
        node_ip: None,
    };
    let journald = JournaldSettings { system_max_use: Some("200M".into()), ..JournaldSettings::default() };
    let hosts = [([192, 168, 22, 7].into(), vec!["titan-0a".into()])].into();
    MergedNode {
        name: "titan-13".into(),
        hostname: "titan-13".into(),
        class: "rpi4".into(),
        arch: Arch::Arm64,
        image: None,
        settings: NodeSettings { network, ssh, k3s, journald, hosts, seed: Some(SeedPlace::Auto), host: HostSettings::default() },
    }
}

/// The root of a card, open over an overlay.
pub fn root_of(card: Vec<u8>) -> Ext4 {
    let overlay = Arc::new(Overlay::new(Arc::new(MemImage(card))));
    Ext4::open(Window { overlay, offset: ROOT_AT, len: ROOT_LEN }, 2).unwrap()
}

/// The card with its root filled up to the last few blocks.
pub fn filled(card: Vec<u8>) -> Vec<u8> {
    let size = card.len();
    let overlay = Arc::new(Overlay::new(Arc::new(MemImage(card))));
    let root = Ext4::open(Window { overlay: Arc::clone(&overlay), offset: ROOT_AT, len: ROOT_LEN }, 2).unwrap();
    for piece in [MIB as usize, 65_536, 4096] {
        let fill = |n: usize| root.put(&format!("/srv/fill-{piece}-{n}"), Put::File(&vec![0xAA; piece]), 0o644, (0, 0));
        let full = (0..).find_map(|n| fill(n).err().map(|error| (n, error)));
        let (last, error) = full.unwrap();
        assert!(matches!(error, InjectError::NoSpace { .. }), "{error}");
        root.remove(&format!("/srv/fill-{piece}-{last}")).unwrap();
    }
    drop(root);
    let mut bytes = vec![0; size];
    overlay.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

pub fn put(image: &mut [u8], at: u64, part: &[u8]) {
    image[at as usize..at as usize + part.len()].copy_from_slice(part);
}

pub fn verified(image: Vec<u8>) -> Verified {
    Verified { data: Arc::new(MemImage(image)), sha256: "ab".repeat(32) }
}

/// The whole card. Outside the extents the card keeps what it had: here garbage, which nothing may read.
pub fn written(prepared: &Prepared) -> Vec<u8> {
    let mut card: Vec<u8> = (0..prepared.size()).map(|i| (i % 253) as u8 ^ 0xA5).collect();
    for extent in prepared.extents() {
        let range = extent.offset as usize..(extent.offset + extent.len) as usize;
        prepared.data().read_exact_at(&mut card[range], extent.offset).unwrap();
    }
    card
}

/// A path's kind, mode, owner and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub content: Vec<u8>,
}

/// Everything in an ext4 file system, as ext4-view reads it.
pub fn ext4_tree(path: &Path) -> BTreeMap<String, Entry> {
    let fs = ext4_view::Ext4::load(Box::new(std::fs::read(path).unwrap())).unwrap();
    let mut tree = BTreeMap::new();
    let mut dirs = vec!["/".to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs.read_dir(dir.as_str()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().as_str().unwrap().to_owned();
            if name == "." || name == ".." {
                continue;
            }
            let path = format!("{}/{name}", dir.trim_end_matches('/'));
            let meta = fs.symlink_metadata(path.as_str()).unwrap();
            let content = if meta.is_dir() {
                dirs.push(path.clone());
                Vec::new()
            } else if meta.is_symlink() {
                fs.read_link(path.as_str()).unwrap().to_str().unwrap().into()
            } else {
                fs.read(path.as_str()).unwrap()
            };
            tree.insert(path, Entry { mode: meta.mode(), uid: meta.uid(), gid: meta.gid(), content });
        }
    }
    tree
}

/// What differs between two trees: (added or changed, removed).
pub fn differences(before: &BTreeMap<String, Entry>, after: &BTreeMap<String, Entry>) -> (Vec<String>, Vec<String>) {
    let changed = after.iter().filter(|(path, entry)| before.get(*path) != Some(entry)).map(|(path, _)| path.clone()).collect();
    let removed = before.keys().filter(|path| !after.contains_key(*path)).cloned().collect();
    (changed, removed)
}

pub fn e2fsck(path: &Path) {
    let output = run("e2fsck", &["-fn", arg(path)]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
}

pub fn fsck_vfat(path: &Path) {
    let output = run("fsck.vfat", &["-n", arg(path)]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
}
