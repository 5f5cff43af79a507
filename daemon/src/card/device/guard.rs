//! What stands against writing a device: pure, all guards at once.

use super::list::{Device, Kind};
use crate::site::Guard;

/// SDXC ends at 2 TB; what is larger is somebody's disk, not a card.
const LARGEST_CARD: u64 = 2_200_000_000_000;

/// The sector size that partition tables of the images count in.
const SECTOR: u64 = 512;

/// The flag that says: I know that this is not a card.
const ALLOW_FIXED: &str = "--allow-fixed";

/// What is to be written, and what the caller takes upon himself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Want {
    /// Size of the whole card in bytes; 0: not known yet.
    pub size: u64,
    /// Waives the guards against devices that are no cards.
    pub allow_fixed: bool,
    /// [`Device::diskseq`] when it was planned; 0: not compared.
    pub diskseq: u64,
}

/// Everything that stands against writing `want` to `device`; empty: it may be written.
pub fn guards(device: &Device, want: &Want) -> Vec<Guard> {
    let path = device.path.display();
    match &device.kind {
        Kind::Missing => return vec![hard("device.missing", format!("{path}: there is no such device; `metisctl device` lists them"))],
        Kind::NotBlock => return vec![hard("device.not_block", format!("{path} is not a block device; `metisctl device` lists them"))],
        Kind::Partition(disk) => {
            let disk = disk.display();
            return vec![hard("device.partition", format!("{path} is a partition; a card needs the whole disk, here {disk}"))];
        }
        Kind::Disk => {}
    }
    [in_use(device), unfit(device, want), no_card(device, want)].concat()
}

fn in_use(device: &Device) -> Vec<Guard> {
    let path = device.path.display();
    let mut found = Vec::new();
    if !device.system.is_empty() {
        found.push(hard("device.system", format!("{path} holds {} of this running host", some_of(&device.system))));
    }
    if !device.mounts.is_empty() {
        found.push(hard("device.mounted", format!("{path} is mounted at {}; unmount it first", some_of(&device.mounts))));
    }
    if !device.swaps.is_empty() {
        let swaps = some_of(&device.swaps);
        found.push(hard("device.swap", format!("{path} is used as swap ({swaps}); `swapoff` it first")));
    }
    if !device.holders.is_empty() {
        let holders = some_of(&device.holders);
        found.push(hard(
            "device.held",
            format!("{path} is part of {holders}; stop that first (vgchange -an, mdadm --stop, cryptsetup close, losetup -d)"),
        ));
    }
    found
}

fn unfit(device: &Device, want: &Want) -> Vec<Guard> {
    let path = device.path.display();
    let mut found = Vec::new();
    if device.size == 0 {
        found.push(hard("device.no_medium", format!("{path} has no medium; insert a card")));
    } else if device.size < want.size {
        let (has, needs) = (bytes(device.size), bytes(want.size));
        found.push(hard("device.too_small", format!("{path} has {has}, the card needs {needs}; take a larger one")));
    }
    if device.read_only {
        found.push(hard("device.read_only", format!("{path} is read-only; move the write-protect switch of the card or adapter")));
    }
    if device.sector_size != SECTOR {
        let size = device.sector_size;
        found.push(hard("device.sector_size", format!("{path} has sectors of {size} bytes; the image's partition table counts in 512")));
    }
    if want.diskseq != 0 && device.diskseq != want.diskseq {
        let (is, was) = (device.diskseq, want.diskseq);
        found.push(hard("device.changed", format!("{path} is not the medium that was planned (diskseq {is}, was {was}); plan again")));
    }
    found
}

fn no_card(device: &Device, want: &Want) -> Vec<Guard> {
    if want.allow_fixed {
        return Vec::new();
    }
    let path = device.path.display();
    let mut found = Vec::new();
    if !device.removable {
        found.push(soft("device.fixed", format!("{path} ({}) is not removable: it does not look like a card", device.transport)));
    }
    if device.size > LARGEST_CARD {
        found.push(soft("device.large", format!("{path} has {}: no card is that large", bytes(device.size))));
    }
    found
}

/// A guard without waiver.
pub(super) fn hard(name: &str, message: String) -> Guard {
    Guard { name: name.to_owned(), message, waiver: None }
}

fn soft(name: &str, message: String) -> Guard {
    Guard { waiver: Some(ALLOW_FIXED.to_owned()), ..hard(name, message) }
}

/// The first five; a container host has hundreds of mounts.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// As cards are sold: decimal units.
pub(super) fn bytes(count: u64) -> String {
    match count {
        0..1_000_000 => format!("{count} bytes"),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        1_000_000_000..1_000_000_000_000 => format!("{:.2} GB", count as f64 / 1e9),
        _ => format!("{:.2} TB", count as f64 / 1e12),
    }
}

#[cfg(test)]
mod tests;
