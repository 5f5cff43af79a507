//! What the demonstration images hold: what a fresh Ubuntu or Armbian has where injection looks and edits.

/// A file, directory or link of the root.
pub(super) struct Node {
    /// Without a leading slash.
    pub(super) path: String,
    pub(super) mode: u16,
    pub(super) gid: u32,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Directory,
    File(Vec<u8>),
    Link(&'static str),
}

const SHADOW_GROUP: u32 = 42;

const DIRECTORIES: &str = "boot dev etc etc/cloud etc/cloud/cloud.cfg.d etc/default etc/rancher etc/ssh etc/ssh/sshd_config.d etc/sudoers.d \
    etc/systemd etc/systemd/journald.conf.d etc/systemd/network etc/systemd/system etc/systemd/system/multi-user.target.wants home media mnt \
    opt proc run srv sys usr usr/bin usr/lib usr/lib/firmware usr/lib/systemd usr/lib/systemd/network usr/lib/systemd/system usr/local \
    usr/local/bin usr/sbin usr/share var var/cache var/lib var/lib/cloud var/lib/cloud/seed var/lib/dbus var/lib/systemd var/log";

const LINKS: [(&str, &str); 7] = [
    ("bin", "usr/bin"),
    ("lib", "usr/lib"),
    ("sbin", "usr/sbin"),
    ("var/run", "/run"),
    ("var/lib/dbus/machine-id", "/etc/machine-id"),
    ("etc/localtime", "/usr/share/zoneinfo/Etc/UTC"),
    ("etc/systemd/system/multi-user.target.wants/ssh.service", "/usr/lib/systemd/system/ssh.service"),
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
    nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\nsystemd-network:x:998:998:systemd Network Management:/:/usr/sbin/nologin\n\
    sshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n";
const GROUP: &str =
    "root:x:0:\ndaemon:x:1:\nadm:x:4:\nsudo:x:27:\nshadow:x:42:\nsystemd-journal:x:999:\nsystemd-network:x:998:\nnogroup:x:65534:\n";
const SHADOW: &str = "root:*:20454:0:99999:7:::\ndaemon:*:20454:0:99999:7:::\nnobody:*:20454:0:99999:7:::\n\
    systemd-network:!*:20454::::::\nsshd:!:20454::::::\n";
const GSHADOW: &str = "root:*::\ndaemon:*::\nadm:*::\nsudo:*::\nshadow:*::\nsystemd-journal:!*::\nsystemd-network:!*::\nnogroup:*::\n";
const SSHD_CONFIG: &str = "# Debian's default, without its comments.\nInclude /etc/ssh/sshd_config.d/*.conf\n\n\
    KbdInteractiveAuthentication no\nUsePAM yes\nX11Forwarding yes\nPrintMotd no\nAcceptEnv LANG LC_*\nSubsystem sftp /usr/lib/openssh/sftp-server\n";
const SUDOERS: &str = "Defaults env_reset\nDefaults secure_path=\"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"\n\
    root ALL=(ALL:ALL) ALL\n%sudo ALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n";
const SSH_SERVICE: &str = "[Unit]\nDescription=OpenBSD Secure Shell server\nAfter=network.target\n\n\
    [Service]\nExecStart=/usr/sbin/sshd -D\nType=notify\n\n[Install]\nWantedBy=multi-user.target\n";
const K3S_SERVICE: &str = "[Unit]\nDescription=Lightweight Kubernetes\nAfter=network-online.target\n\n\
    [Service]\nType=notify\nExecStart=/usr/local/bin/k3s agent\nRestart=always\n\n[Install]\nWantedBy=multi-user.target\n";
const CLOUD_CFG: &str = "datasource_list: [NoCloud, None]\ndisable_root: true\npreserve_hostname: false\n";
const MOTD: &str = "A demonstration image of metis: it has the shape of a card, but no kernel and no programs, and does not boot.\n";

fn node(path: &str, mode: u16, kind: Kind) -> Node {
    Node { path: path.to_owned(), mode, gid: 0, kind }
}

fn file(path: &str, mode: u16, content: impl AsRef<[u8]>) -> Node {
    node(path, mode, Kind::File(content.as_ref().to_vec()))
}

/// What both shapes have, directories before what is in them.
fn common(hostname: &str, os_release: &str, fstab: &str) -> Vec<Node> {
    let mut nodes: Vec<_> = DIRECTORIES.split_whitespace().map(|path| node(path, 0o755, Kind::Directory)).collect();
    nodes.extend([node("root", 0o700, Kind::Directory), node("tmp", 0o1777, Kind::Directory), node("var/tmp", 0o1777, Kind::Directory)]);
    nodes.extend(LINKS.map(|(path, target)| node(path, 0o777, Kind::Link(target))));
    nodes.extend([
        file("etc/hostname", 0o644, format!("{hostname}\n")),
        file("etc/hosts", 0o644, format!("127.0.0.1 localhost\n127.0.1.1 {hostname}\n::1 localhost ip6-localhost ip6-loopback\n")),
        file("etc/machine-id", 0o444, "9a0d6c7e51f84d1b8a3c2e4f60718293\n"),
        file("etc/os-release", 0o644, os_release),
        file("etc/fstab", 0o644, fstab),
        file("etc/motd", 0o644, MOTD),
        file("etc/passwd", 0o644, PASSWD),
        file("etc/group", 0o644, GROUP),
        Node { gid: SHADOW_GROUP, ..file("etc/shadow", 0o640, SHADOW) },
        Node { gid: SHADOW_GROUP, ..file("etc/gshadow", 0o640, GSHADOW) },
        file("etc/subuid", 0o644, ""),
        file("etc/subgid", 0o644, ""),
        file("etc/sudoers", 0o440, SUDOERS),
        file("etc/ssh/sshd_config", 0o644, SSHD_CONFIG),
        file("etc/cloud/cloud.cfg", 0o644, CLOUD_CFG),
        file("usr/lib/systemd/system/ssh.service", 0o644, SSH_SERVICE),
        file("usr/lib/systemd/system/k3s-agent.service", 0o644, K3S_SERVICE),
        file("usr/lib/systemd/system/multi-user.target", 0o644, "[Unit]\nDescription=Multi-User System\n"),
        file("usr/bin/bash", 0o755, MOTD),
        file("usr/bin/cloud-init", 0o755, MOTD),
        file("usr/local/bin/k3s", 0o755, noise(3 << 20, 3)),
        file("usr/lib/firmware/demo.bin", 0o644, noise(5 << 20, 4)),
        file("var/log/lastlog", 0o664, ""),
    ]);
    nodes
}

/// The root of Ubuntu for the Raspberry Pi.
pub(super) fn raspberry_pi() -> Vec<Node> {
    let os = "PRETTY_NAME=\"metis demonstration (Ubuntu 24.04 shape)\"\nNAME=\"Ubuntu\"\nVERSION_ID=\"24.04\"\nID=ubuntu\nID_LIKE=debian\n";
    let fstab = "LABEL=writable / ext4 defaults 0 1\nLABEL=system-boot /boot/firmware vfat defaults 0 1\n";
    let mut nodes = common("ubuntu", os, fstab);
    nodes.extend([
        node("boot/firmware", 0o755, Kind::Directory),
        node("etc/netplan", 0o755, Kind::Directory),
        file("usr/sbin/netplan", 0o755, MOTD),
    ]);
    nodes
}

/// The root of Armbian.
pub(super) fn armbian() -> Vec<Node> {
    let os = "PRETTY_NAME=\"metis demonstration (Armbian shape)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nID=debian\n";
    let mut nodes = common("rockpi-4b", os, "LABEL=armbi_root / ext4 defaults,noatime,commit=600,errors=remount-ro 0 1\n");
    nodes.extend([
        file("etc/armbian-release", 0o644, "BOARD=rockpi-4b\nBOARD_NAME=\"Rock Pi 4B\"\nLINUXFAMILY=rockchip64\nARCH=arm64\n"),
        file("etc/default/armbian-firstrun", 0o644, "# Regenerate the host keys at the first boot\nOPENSSHD_REGENERATE_HOST_KEYS=true\n"),
        file("boot/armbianEnv.txt", 0o644, "verbosity=1\nrootdev=LABEL=armbi_root\nrootfstype=ext4\n"),
        file("usr/lib/systemd/system/systemd-networkd.service", 0o644, "[Unit]\nDescription=Network Configuration\n"),
        node(
            "etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
            0o777,
            Kind::Link("/usr/lib/systemd/system/systemd-networkd.service"),
        ),
    ]);
    nodes
}

/// The FAT boot partition of Ubuntu for the Raspberry Pi.
pub(super) fn boot() -> Vec<(&'static str, Vec<u8>)> {
    let cmdline = "console=serial0,115200 dwc_otg.lpm_enable=0 console=tty1 root=LABEL=writable rootfstype=ext4 rootwait fixrtc\n";
    let config = "[all]\nkernel=vmlinuz\ncmdline=cmdline.txt\ninitramfs initrd.img followkernel\n\n[pi4]\nmax_framebuffers=2\n\n[all]\narm_64bit=1\n";
    vec![
        ("config.txt", config.into()),
        ("cmdline.txt", cmdline.into()),
        ("meta-data", b"dsmode: local\ninstance_id: cloud-image\n".to_vec()),
        ("user-data", b"#cloud-config\nchpasswd:\n  expire: true\n".to_vec()),
        ("network-config", b"version: 2\nethernets:\n  eth0:\n    dhcp4: true\n    optional: true\n".to_vec()),
        ("README", MOTD.into()),
        ("overlays/README", b"Overlays of the firmware.\n".to_vec()),
        ("vmlinuz", noise(4 << 20, 5)),
    ]
}

/// Bytes that do not compress, always the same for one seed (xorshift64).
pub(super) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
