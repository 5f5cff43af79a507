//! A golden image of Raspberry Pi shape, made by mkfs, mcopy and sfdisk, and what is asked of a card.
#![allow(clippy::disallowed_methods, reason = "tests start the tools that make and judge images")]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, ensure};
use sha2::{Digest as _, Sha256};

/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;
/// Where the FAT partition lies.
pub const BOOT: (u64, u64) = (MIB, 16 * MIB);
/// Where the ext4 partition lies.
pub const ROOT: (u64, u64) = (17 * MIB, 63 * MIB);
/// Size of the image.
pub const SIZE: u64 = 80 * MIB;
/// Random bytes in a file of the root: what keeps a slow card busy.
const PAYLOAD: usize = 36 << 20;

/// A golden image as published, and the same unpacked.
#[derive(Debug, Clone)]
pub struct Golden {
    /// Raw.
    pub raw: PathBuf,
    /// As published: zstd.
    pub published: PathBuf,
    /// SHA-256 of the published file, hex.
    pub sha256: String,
}

/// Runs a program that has to succeed; returns what it printed.
///
/// # Errors
/// Where it does not; with what it said.
pub fn ok(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let out = run(program, arguments)?;
    ensure!(
        out.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs a program of this machine.
///
/// # Errors
/// Where it cannot be started.
pub fn run(program: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .with_context(|| program.to_owned())
}

/// A path as an argument.
pub fn arg(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// SHA-256 in hex.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The image; made once for every version of this file and kept beside the binaries.
///
/// # Errors
/// Where a tool is missing or fails.
pub fn golden() -> anyhow::Result<Golden> {
    let target = std::env::current_exe()?.ancestors().nth(2).context("the target folder")?.to_path_buf();
    let dir = target.join(format!("card-{}", &sha256(include_bytes!("card.rs"))[..12]));
    fs::create_dir_all(&dir)?;
    let lock = File::create(dir.join("lock"))?;
    lock.lock()?;
    let golden = Golden { raw: dir.join("card.img"), published: dir.join("card.img.zst"), sha256: String::new() };
    if !dir.join("made").exists() {
        make(&dir, &golden)?;
        fs::write(dir.join("made"), "")?;
    }
    Ok(Golden { sha256: sha256(&fs::read(&golden.published)?), ..golden })
}

fn make(dir: &Path, golden: &Golden) -> anyhow::Result<()> {
    let (boot, root) = (dir.join("boot"), dir.join("root"));
    for (path, size) in [(&boot, BOOT.1), (&root, ROOT.1), (&golden.raw, SIZE)] {
        File::create(path)?.set_len(size)?;
    }
    ok("mkfs.vfat", &["-F", "16", "-n", "system-boot", "-i", "11223344", arg(&boot)])?;
    let config = dir.join("config.txt");
    fs::write(&config, "arm_64bit=1\n")?;
    ok("mcopy", &["-i", arg(&boot), arg(&config), "::config.txt"])?;
    let tree = tempfile::tempdir_in(dir)?;
    populate(tree.path())?;
    ok("mkfs.ext4", &["-q", "-F", "-L", "writable", "-d", arg(tree.path()), arg(&root)])?;
    let sectors = |(at, len): (u64, u64)| format!("start={},size={}", at / 512, len / 512);
    partition(&golden.raw, &format!("label: dos\n{},type=c\n{},type=83\n", sectors(BOOT), sectors(ROOT)))?;
    let disk = File::options().write(true).open(&golden.raw)?;
    disk.write_all_at(&fs::read(&boot)?, BOOT.0)?;
    disk.write_all_at(&fs::read(&root)?, ROOT.0)?;
    ok("zstd", &["-q", "-f", "-1", arg(&golden.raw), "-o", arg(&golden.published)])?;
    Ok(())
}

/// A small Debian-like root with a large file.
fn populate(root: &Path) -> anyhow::Result<()> {
    let dirs =
        ["etc/ssh/sshd_config.d", "etc/netplan", "etc/cloud/cloud.cfg.d", "etc/sudoers.d", "usr/bin", "usr/sbin", "usr/lib/systemd/system"];
    for dir in dirs.into_iter().chain(["var/lib/dbus", "home", "root", "srv"]) {
        fs::create_dir_all(root.join(dir))?;
    }
    for (link, target) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib")] {
        symlink(target, root.join(link))?;
    }
    let files: [(&str, u32, &str); 14] = [
        ("etc/hostname", 0o644, "golden\n"),
        ("etc/hosts", 0o644, "127.0.0.1 localhost\n127.0.1.1 golden\n"),
        ("etc/machine-id", 0o444, "0123456789abcdef0123456789abcdef\n"),
        ("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/usr/sbin:/usr/sbin/nologin\n"),
        ("etc/group", 0o644, "root:x:0:\ndaemon:x:1:\nshadow:x:42:\nsudo:x:27:\n"),
        ("etc/shadow", 0o640, "root:*:0:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n"),
        ("etc/gshadow", 0o640, "root:*::\nsudo:*::\n"),
        ("etc/sudoers", 0o440, "root ALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n"),
        ("etc/ssh/sshd_config", 0o644, "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n"),
        ("etc/netplan/50-cloud-init.yaml", 0o600, "network:\n  version: 2\n"),
        ("usr/lib/systemd/system/systemd-networkd.service", 0o644, "[Unit]\n"),
        ("usr/bin/bash", 0o755, "#!\n"),
        ("usr/bin/cloud-init", 0o755, "#!\n"),
        ("usr/sbin/netplan", 0o755, "#!\n"),
    ];
    for (path, mode, text) in files {
        fs::write(root.join(path), text)?;
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode))?;
    }
    Ok(fs::write(root.join("srv/payload"), noise(PAYLOAD))?)
}

/// Bytes that no packer makes smaller (xorshift64).
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(len.div_ceil(8)).flatten().take(len).collect()
}

/// Partitions a file with an sfdisk(8) script.
///
/// # Errors
/// Where sfdisk refuses it.
pub fn partition(disk: &Path, script: &str) -> anyhow::Result<()> {
    let mut command = Command::new("/sbin/sfdisk");
    command.args(["--quiet", "--no-reread", "--no-tell-kernel"]).arg(disk).stdin(Stdio::piped());
    let mut child = command.spawn().context("sfdisk of the Debian package fdisk")?;
    child.stdin.take().context("a pipe")?.write_all(script.as_bytes())?;
    ensure!(child.wait()?.success(), "sfdisk refused {script}");
    Ok(())
}

/// A used card of `size` bytes: old content everywhere, and a GPT with its spare at the end.
///
/// # Errors
/// Where it cannot be made.
pub fn used_card(path: &Path, size: u64) -> anyhow::Result<()> {
    fs::write(path, vec![0xA5; size as usize])?;
    partition(path, "label: gpt\nstart=2048,size=8192\nstart=10240,size=8192\n")?;
    ensure!(tables(path)? != [false; 3], "the used card has a partition table");
    Ok(())
}

/// Whether there are: a boot signature, a GPT, a spare GPT at the end.
///
/// # Errors
/// Where it cannot be read.
pub fn tables(card: &Path) -> io::Result<[bool; 3]> {
    let file = File::open(card)?;
    let size = io::Seek::seek(&mut &file, io::SeekFrom::End(0))?;
    let at = |offset: u64, expected: &[u8]| {
        let mut found = vec![0; expected.len()];
        file.read_exact_at(&mut found, offset).map(|()| found == expected)
    };
    Ok([at(510, &[0x55, 0xAA])?, at(512, b"EFI PART")?, at(size - 512, b"EFI PART")?])
}

/// That no partition table is on it, and nothing at all in its first 4 KiB.
///
/// # Errors
/// Where there is something.
pub fn has_no_table(card: &Path) -> anyhow::Result<()> {
    let found = tables(card)?;
    ensure!(found == [false; 3], "{}: boot signature, GPT, spare GPT: {found:?}", card.display());
    let mut first = vec![0; 4096];
    File::open(card)?.read_exact_at(&mut first, 0)?;
    ensure!(first.iter().all(|b| *b == 0), "{}: the first 4 KiB are not zeros", card.display());
    Ok(())
}

/// That the file systems of a card are without fault, by the tools that come with them.
///
/// # Errors
/// What they found.
pub fn is_clean(card: &Path, scratch: &Path) -> anyhow::Result<()> {
    for ((at, len), name, judge) in [(BOOT, "judged.fat", ["fsck.vfat", "-n"]), (ROOT, "judged.ext4", ["e2fsck", "-fn"])] {
        let part = scratch.join(name);
        let mut bytes = vec![0; len as usize];
        File::open(card)?.read_exact_at(&mut bytes, at)?;
        fs::write(&part, bytes)?;
        let out = run(judge[0], &[judge[1], arg(&part)])?;
        ensure!(out.status.code() == Some(0), "{}: {}: {}", card.display(), judge[0], String::from_utf8_lossy(&out.stdout));
        fs::remove_file(part)?;
    }
    Ok(())
}
