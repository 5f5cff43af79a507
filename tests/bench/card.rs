//! A golden image and a card as slow as a good SD card: a loop device over memory, throttled by the blkio controller (cgroups(7), version 1).
#![allow(clippy::disallowed_methods, reason = "runs the tools that make images and devices")]

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use metis_tests::loopdev::Loop;

/// Bytes a second of the card.
pub const WRITES: u64 = 90_000_000;
/// Bytes a second of the card.
pub const READS: u64 = 95_000_000;
const MIB: u64 = 1 << 20;
const FAT_MIB: u64 = 256;
/// Changes with what [`image`] makes: names the file in the cache.
const RECIPE: u32 = 1;
const THROTTLE: &str = "/sys/fs/cgroup/blkio/blkio.throttle";

/// Runs a shell script that ends at its first error; its standard error is in the message.
pub fn shell(script: &str) -> Result<()> {
    let output = Command::new("bash").args(["-ec", script]).output()?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// An image of `mib` MiB below `cache`, 45 % used: MBR, FAT with 60 MB in it, ext4 with files of all sizes, half of them compressible.
pub fn image(cache: &Path, mib: u64) -> Result<PathBuf> {
    let path = cache.join(format!("bench-card-{RECIPE}-{mib}.img"));
    if path.exists() {
        return Ok(path);
    }
    let work = tempfile::Builder::new().prefix("bench-card-").tempdir_in(cache)?;
    let (tree, part) = (work.path().join("tree"), work.path().join("card.img"));
    fill(&tree, (mib - FAT_MIB) * MIB * 42 / 100)?;
    let (tree, file, root) = (tree.display(), part.display(), 1 + FAT_MIB);
    shell(&format!(
        "truncate -s {mib}M {file}
         printf 'start=1MiB,size={FAT_MIB}MiB,type=c\\nstart={root}MiB,type=83\\n' | sfdisk -q {file}
         mkfs.vfat -F 32 -s 2 --offset 2048 {file} $(({FAT_MIB} * 1024)) >/dev/null 2>&1
         head -c 60000000 /dev/urandom >{tree}.kernel; mcopy -i {file}@@1M {tree}.kernel ::kernel.img
         mkfs.ext4 -q -F -d {tree} -E offset=$(({root} << 20)) {file} $((({mib} - {root}) * 1024))k"
    ))?;
    fs::rename(&part, &path)?;
    Ok(path)
}

fn fill(tree: &Path, bytes: u64) -> Result<()> {
    fs::create_dir_all(tree.join("etc"))?;
    fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/bash\n")?;
    fs::write(tree.join("etc/group"), "root:x:0:\n")?;
    fs::write(tree.join("etc/shadow"), "root:*:20000:0:99999:7:::\n")?;
    let (mut random, mut written, mut number) = (Random(1), 0, 0_u64);
    while written < bytes {
        // Mostly small ones, most bytes in large ones: as a system is.
        let size = match random.next() % 100 {
            0..80 => 1 + random.next() % 16_384,
            80..98 => random.next() % 262_144,
            _ => random.next() % 8_388_608,
        };
        let folder = tree.join(format!("usr/{}", number / 200));
        fs::create_dir_all(&folder)?;
        random.write(&folder.join(number.to_string()), size, number.is_multiple_of(2))?;
        written += size;
        number += 1;
    }
    Ok(())
}

/// xorshift64: the same image every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn write(&mut self, path: &Path, bytes: u64, compressible: bool) -> Result<()> {
        let mut file = BufWriter::with_capacity(MIB as usize, File::create(path)?);
        let mut left = bytes;
        while left > 0 {
            let next = self.next();
            let word = if compressible { format!("{:08x}", next & 0xffff).into_bytes() } else { next.to_le_bytes().to_vec() };
            let count = left.min(word.len() as u64);
            file.write_all(&word[..count as usize])?;
            left -= count;
        }
        Ok(file.flush()?)
    }
}

/// A card with old data all over it.
pub struct Card {
    /// The device.
    pub device: Loop,
    number: u64,
    _memory: tempfile::TempDir,
}

impl Card {
    /// Of `bytes`, in memory.
    pub fn insert(bytes: u64) -> Result<Self> {
        let memory = tempfile::Builder::new().prefix("metis-card-").tempdir_in("/dev/shm")?;
        let file = memory.path().join("card.img");
        Random(7).write(&file, bytes, false)?;
        let device = Loop::attach(&file)?;
        let number = fs::metadata(&device.device)?.rdev();
        let card = Self { device, number, _memory: memory };
        card.throttle(WRITES, READS)?;
        Ok(card)
    }

    /// In the root group: what the kernel writes back on its own is throttled too.
    fn throttle(&self, writes: u64, reads: u64) -> Result<()> {
        let (major, minor) = (nix::sys::stat::major(self.number), nix::sys::stat::minor(self.number));
        for (what, rate) in [("write", writes), ("read", reads)] {
            let knob = format!("{THROTTLE}.{what}_bps_device");
            fs::write(&knob, format!("{major}:{minor} {rate}"))
                .with_context(|| format!("{knob}: a throttled card needs blkio of cgroup v1"))?;
        }
        Ok(())
    }

    /// Nothing of it is in the page cache any more.
    pub fn forget(&self) -> Result<()> {
        shell(&format!("sync {0}; blockdev --flushbufs {0}", self.device.path()))
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        let _ = self.throttle(0, 0);
    }
}
