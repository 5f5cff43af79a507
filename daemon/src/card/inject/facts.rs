//! What rendering needs to know about an image: the files of it that are edited rather than replaced, and what it has installed.

use std::collections::{BTreeMap, BTreeSet};

use super::error::InjectError;
use super::tree::{Kind, Tree};

/// A text file of the image with its mode and owner.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextFile {
    /// Its text.
    pub text: String,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What an image has, as far as it matters for injection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageFacts {
    /// SHA-256, hex, of the image as published.
    pub sha256: String,
    /// `/etc/hosts`.
    pub hosts: Option<TextFile>,
    /// `/etc/passwd`.
    pub passwd: Option<TextFile>,
    /// `/etc/shadow`.
    pub shadow: Option<TextFile>,
    /// `/etc/group`.
    pub group: Option<TextFile>,
    /// `/etc/gshadow`.
    pub gshadow: Option<TextFile>,
    /// `/etc/subuid`.
    pub subuid: Option<TextFile>,
    /// `/etc/subgid`.
    pub subgid: Option<TextFile>,
    /// `/etc/sudoers`.
    pub sudoers: Option<TextFile>,
    /// `/etc/ssh/sshd_config`.
    pub sshd_config: Option<TextFile>,
    /// `/etc/ssh/sshd_config.d/*.conf` by name.
    pub sshd_dropins: BTreeMap<String, TextFile>,
    /// `/etc/ssh/ssh_host_*` by name.
    pub host_keys: BTreeSet<String>,
    /// `/etc/netplan/*.yaml` by name.
    pub netplan: BTreeMap<String, TextFile>,
    /// `/etc/systemd/network/*.network` by name.
    pub networkd: BTreeMap<String, TextFile>,
    /// `/etc/default/armbian-firstrun`: Armbian makes new host keys at its first boot unless this says no.
    pub armbian_firstrun: Option<TextFile>,
    /// Unit files below `/usr/lib/systemd/system` (or `/lib`).
    pub units: BTreeSet<String>,
    /// Where these are.
    pub unit_dir: String,
    /// Links below `/etc/systemd/system` that enable units, e.g. `sockets.target.wants/ssh.socket`.
    pub enabled: BTreeSet<String>,
    /// Whether sshd's socket takes its port from `sshd_config` by itself (Ubuntu's sshd-socket-generator).
    pub ssh_socket_generator: bool,
    /// Whether netplan is installed.
    pub has_netplan: bool,
    /// Whether cloud-init is installed.
    pub has_cloud_init: bool,
    /// Whether `/bin/bash` exists.
    pub has_bash: bool,
    /// `/var/lib/dbus/machine-id` is a file of its own, not a link to `/etc/machine-id`.
    pub dbus_machine_id: bool,
    /// Files of a NoCloud seed below the root.
    pub root_seed: BTreeSet<String>,
    /// The FAT boot partition, where there is one.
    pub boot: Option<BootFacts>,
}

/// The FAT boot partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BootFacts {
    /// Its label.
    pub label: Option<String>,
    /// Names in its root directory.
    pub files: BTreeSet<String>,
}

/// Where a NoCloud seed below the root is (cloud-init: NoCloud).
pub const ROOT_SEED: &str = "/var/lib/cloud/seed/nocloud";
const UNIT_DIRS: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];
const WANTS: [&str; 4] = ["multi-user.target.wants", "sockets.target.wants", "network-online.target.wants", "ssh.service.requires"];
const GENERATORS: [&str; 2] =
    ["/usr/lib/systemd/system-generators/sshd-socket-generator", "/lib/systemd/system-generators/sshd-socket-generator"];

impl ImageFacts {
    /// Reads them.
    ///
    /// # Errors
    /// Where the file system cannot be read or a file to be edited is not UTF-8.
    pub fn read(root: &dyn Tree, boot: Option<(&dyn Tree, Option<String>)>, sha256: &str) -> Result<Self, InjectError> {
        let exists = |path: &str| root.stat(path).map(|stat| stat.is_some());
        let mut facts = Self {
            sha256: sha256.to_owned(),
            hosts: text(root, "/etc/hosts")?,
            passwd: text(root, "/etc/passwd")?,
            shadow: text(root, "/etc/shadow")?,
            group: text(root, "/etc/group")?,
            gshadow: text(root, "/etc/gshadow")?,
            subuid: text(root, "/etc/subuid")?,
            subgid: text(root, "/etc/subgid")?,
            sudoers: text(root, "/etc/sudoers")?,
            sshd_config: text(root, "/etc/ssh/sshd_config")?,
            sshd_dropins: texts(root, "/etc/ssh/sshd_config.d", ".conf")?,
            host_keys: root.list("/etc/ssh")?.into_iter().filter(|name| name.starts_with("ssh_host_")).collect(),
            netplan: texts(root, "/etc/netplan", ".yaml")?,
            networkd: texts(root, "/etc/systemd/network", ".network")?,
            armbian_firstrun: text(root, "/etc/default/armbian-firstrun")?,
            has_netplan: exists("/usr/sbin/netplan")? || exists("/usr/share/netplan")? || exists("/usr/libexec/netplan")?,
            has_cloud_init: exists("/usr/bin/cloud-init")? || exists("/etc/cloud/cloud.cfg")?,
            has_bash: exists("/bin/bash")?,
            dbus_machine_id: root.stat("/var/lib/dbus/machine-id")?.is_some_and(|stat| stat.kind == Kind::File),
            root_seed: root.list(ROOT_SEED)?.into_iter().collect(),
            ..Self::default()
        };
        for dir in UNIT_DIRS {
            facts.units = root.list(dir)?.into_iter().collect();
            dir.clone_into(&mut facts.unit_dir);
            if !facts.units.is_empty() {
                break;
            }
        }
        for wants in WANTS {
            let names = root.list(&format!("/etc/systemd/system/{wants}"))?;
            facts.enabled.extend(names.into_iter().map(|name| format!("{wants}/{name}")));
        }
        for path in GENERATORS {
            facts.ssh_socket_generator |= exists(path)?;
        }
        if let Some((tree, label)) = boot {
            facts.boot = Some(BootFacts { label, files: tree.list("/")?.into_iter().collect() });
        }
        Ok(facts)
    }
}

fn texts(tree: &dyn Tree, dir: &str, ending: &str) -> Result<BTreeMap<String, TextFile>, InjectError> {
    let mut files = BTreeMap::new();
    for name in tree.list(dir)? {
        if name.ends_with(ending)
            && let Some(file) = text(tree, &format!("{dir}/{name}"))?
        {
            files.insert(name, file);
        }
    }
    Ok(files)
}

fn text(tree: &dyn Tree, path: &str) -> Result<Option<TextFile>, InjectError> {
    let Some(content) = tree.read(path)? else { return Ok(None) };
    let text = String::from_utf8(content).map_err(|_| InjectError::Path {
        fs: "root",
        doing: "edit",
        path: path.to_owned(),
        why: "it is not UTF-8 text".to_owned(),
    })?;
    // Behind a link the file's own mode is not known; these are what Debian gives to files in /etc.
    let own = tree.stat(path)?.filter(|stat| stat.kind == Kind::File);
    let (mode, uid, gid) = own.map_or((0o644, 0, 0), |stat| (stat.mode, stat.uid, stat.gid));
    Ok(Some(TextFile { text, mode, uid, gid }))
}
