//! The block devices of this host, from `/sys/block`, and whether somebody uses them.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use serde::Serialize;

use super::mounts::InUse;
use super::sysfs::{Block, Topology, number, text};

/// Directories without which this host does not run: a disk below one of them is a system disk.
const SYSTEM: [&str; 11] =
    ["/", "/usr", "/etc", "/opt", "/var", "/var/lib", "/var/lib/metis", "/boot", "/boot/efi", "/boot/firmware", "/efi"];

/// Where the kernel's view is read from; tests give trees of their own.
#[derive(Debug, Clone)]
pub struct Roots {
    /// Normally `/sys`.
    pub sys: PathBuf,
    /// Normally `/dev`.
    pub dev: PathBuf,
    /// Normally `/proc`.
    pub proc: PathBuf,
}

impl Roots {
    /// This host.
    pub fn host() -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into(), proc: "/proc".into() }
    }
}

/// What a path turned out to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A whole disk.
    #[default]
    Disk,
    /// A partition of this disk.
    Partition(PathBuf),
    /// A file, directory or character device.
    NotBlock,
    /// Nothing there.
    Missing,
}

/// A possible target, as it was when asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Device {
    /// What it is; unless a disk, everything but `path` is empty.
    pub kind: Kind,
    /// e.g. `/dev/sdz`.
    pub path: PathBuf,
    /// Stable name below `/dev/disk/by-id`, where udev made one.
    pub by_id: Option<PathBuf>,
    /// `major:minor`.
    pub number: String,
    /// Bytes; 0 where no medium is inserted.
    pub size: u64,
    /// Logical sector size in bytes.
    pub sector_size: u64,
    /// As the device reports it; a loop device's file.
    pub model: String,
    /// Serial number; the CID of an SD card or eMMC.
    pub serial: String,
    /// `usb`, `mmc` (SD card), `emmc`, `sata`, `nvme`, `virtio`, `scsi`, `loop`, `dm`, `md`, `nbd`, `ram` or `other`.
    pub transport: &'static str,
    /// Marked so by the kernel, or attached by USB, or an SD card.
    pub removable: bool,
    /// Write-protected.
    pub read_only: bool,
    /// Counts up whenever a medium is inserted or attached (sysfs `diskseq`); 0 where the kernel has none.
    pub diskseq: u64,
    /// Where it, a partition of it, or something stacked on it is mounted.
    pub mounts: Vec<String>,
    /// Swap devices on it.
    pub swaps: Vec<String>,
    /// What is stacked on it: dm (LVM, LUKS), md, btrfs, loop.
    pub holders: Vec<String>,
    /// Directories of the running system that rest on it; not empty: the system disk.
    pub system: Vec<String>,
}

/// All whole disks with a medium, by path; neither memory disks nor what is stacked on other disks.
///
/// # Errors
/// Where `/sys/block` or the mount table cannot be read: without them no device can be called safe.
pub fn list(roots: &Roots) -> io::Result<Vec<Device>> {
    let host = Host::read(roots)?;
    let disks = host.topology.blocks.iter().filter(|(name, block)| block.disk.is_none() && listed(name));
    Ok(disks.map(|(name, block)| host.device(name, block)).filter(|device| device.size > 0).collect())
}

/// The device behind `path` (a node or a link to one); [`Device::kind`] says where it is no whole disk. Nothing is opened.
///
/// # Errors
/// As [`list()`]; or where `path` may not be looked at.
pub fn find(roots: &Roots, path: &Path) -> io::Result<Device> {
    let other = |kind| Device { kind, path: path.to_owned(), ..Device::default() };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(other(Kind::Missing)),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_block_device() {
        return Ok(other(Kind::NotBlock));
    }
    let host = Host::read(roots)?;
    let number = device_number(metadata.rdev());
    let found = host.topology.by_dev(&number).and_then(|name| host.topology.blocks.get_key_value(name));
    Ok(match found {
        None => other(Kind::Missing),
        Some((_, Block { disk: Some(disk), .. })) => other(Kind::Partition(host.path(disk))),
        Some((name, block)) => host.device(name, block),
    })
}

/// `major:minor` as sysfs writes it.
pub(super) fn device_number(rdev: u64) -> String {
    format!("{}:{}", major(rdev), minor(rdev))
}

/// Boot areas and the replay-protected block of an eMMC are no places for a card image.
fn listed(name: &str) -> bool {
    let hidden = ["ram", "zram", "dm-", "md", "sr", "fd"].iter().any(|prefix| name.starts_with(prefix));
    let emmc_area = name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb"));
    !hidden && !emmc_area
}

struct Host<'a> {
    roots: &'a Roots,
    topology: Topology,
    in_use: InUse,
}

impl<'a> Host<'a> {
    fn read(roots: &'a Roots) -> io::Result<Self> {
        Ok(Self { roots, topology: Topology::read(&roots.sys, &roots.dev)?, in_use: InUse::read(&roots.proc)? })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.roots.dev.join(name.replace('!', "/"))
    }

    fn device(&self, name: &str, block: &Block) -> Device {
        let dir = &block.dir;
        let real = fs::canonicalize(dir).unwrap_or_else(|_| dir.clone());
        let transport = transport(name, &real);
        Device {
            kind: Kind::Disk,
            path: self.path(name),
            by_id: by_id(&self.roots.dev, name),
            number: block.dev.clone(),
            // sysfs counts in units of 512 bytes, whatever the sector size.
            size: number(&dir.join("size")) * 512,
            sector_size: number(&dir.join("queue/logical_block_size")),
            model: model(block),
            serial: serial(&real),
            transport,
            removable: number(&dir.join("removable")) == 1 || matches!(transport, "usb" | "mmc"),
            read_only: number(&dir.join("ro")) == 1,
            diskseq: number(&dir.join("diskseq")),
            mounts: self.mounts(name),
            swaps: self.swaps(name),
            holders: unique(self.topology.with_partitions(name).flat_map(|(_, block)| block.holders.clone())),
            system: self.system(name),
        }
    }

    fn mounts(&self, name: &str) -> Vec<String> {
        let on_it = self.in_use.mounts.iter().filter(|mount| {
            InUse::block_of(mount, &self.topology).is_some_and(|block| self.in_use.beneath(&block, &self.topology).contains(name))
        });
        unique(on_it.map(|mount| mount.point.display().to_string()))
    }

    fn swaps(&self, name: &str) -> Vec<String> {
        let on_it = self
            .in_use
            .swaps
            .iter()
            .filter(|path| self.topology.by_path(path).is_some_and(|block| self.in_use.beneath(&block, &self.topology).contains(name)));
        unique(on_it.map(|path| path.display().to_string()))
    }

    fn system(&self, name: &str) -> Vec<String> {
        let below = |point: &&str| self.in_use.blocks_under(Path::new(point), &self.topology).contains(name);
        SYSTEM.iter().filter(|point| below(point)).map(|point| (*point).to_owned()).collect()
    }
}

fn unique(names: impl Iterator<Item = String>) -> Vec<String> {
    names.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

fn transport(name: &str, real: &Path) -> &'static str {
    const BY_NAME: [(&str, &str); 8] = [
        ("nvme", "nvme"),
        ("loop", "loop"),
        ("vd", "virtio"),
        ("dm-", "dm"),
        ("md", "md"),
        ("nbd", "nbd"),
        ("ram", "ram"),
        ("zram", "ram"),
    ];
    if name.starts_with("mmcblk") {
        return if text(&real.join("device/type")) == "MMC" { "emmc" } else { "mmc" };
    }
    if let Some((_, transport)) = BY_NAME.iter().find(|(prefix, _)| name.starts_with(prefix)) {
        return transport;
    }
    if !name.starts_with("sd") {
        return "other";
    }
    let bus = |prefix: &str| {
        real.components()
            .filter_map(|part| part.as_os_str().to_str())
            .any(|part| part.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit())))
    };
    [("usb", "usb"), ("ata", "sata"), ("virtio", "virtio")].iter().find(|(prefix, _)| bus(prefix)).map_or("scsi", |(_, name)| name)
}

fn model(block: &Block) -> String {
    if let Some(file) = &block.backing {
        return file.display().to_string();
    }
    let device = block.dir.join("device");
    let name = [text(&device.join("vendor")), text(&device.join("model"))].join(" ").trim().to_owned();
    match (block.dm_name.clone(), text(&device.join("name"))) {
        (Some(dm), _) => dm,
        (None, card) if !card.is_empty() => card,
        // A virtio disk's vendor is a number that says nothing.
        (None, _) if name.starts_with("0x") => String::new(),
        (None, _) => name,
    }
}

/// SD cards: the CID. USB: the serial number of the USB device above. Others: what the disk says.
fn serial(real: &Path) -> String {
    let own = ["device/cid", "device/serial", "serial"].iter().map(|name| text(&real.join(name))).find(|text| !text.is_empty());
    let usb = || real.ancestors().find(|dir| dir.join("idVendor").exists()).map(|dir| text(&dir.join("serial")));
    own.or_else(usb).unwrap_or_default()
}

/// udev makes several links; one that names bus and model says more than a WWN.
fn by_id(dev_root: &Path, name: &str) -> Option<PathBuf> {
    let dir = dev_root.join("disk/by-id");
    let links = fs::read_dir(&dir).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let ours = links.filter(|link| fs::read_link(link).is_ok_and(|to| to.file_name().is_some_and(|to| to == name)));
    ours.min_by_key(|link| {
        let id = link.file_name().map(|id| id.to_string_lossy().into_owned()).unwrap_or_default();
        let opaque = ["wwn-", "nvme-eui.", "nvme-nvme.", "scsi-3", "lvm-", "dm-uuid-"].iter().any(|prefix| id.starts_with(prefix));
        (opaque, id)
    })
}

#[cfg(test)]
mod tests;
