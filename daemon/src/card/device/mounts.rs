//! What is mounted and swapped to: proc(5) `mountinfo` and `swaps`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::sysfs::Topology;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// `major:minor`; `0:…` for btrfs, overlay and others without a device of their own.
    pub dev: String,
    pub point: PathBuf,
    pub source: String,
    /// Directories that an overlay is made of.
    pub layers: Vec<PathBuf>,
}

/// The mount table and what is swapped to.
#[derive(Debug, Default)]
pub(super) struct InUse {
    pub mounts: Vec<Mount>,
    /// Device paths; swap files are on something mounted.
    pub swaps: Vec<PathBuf>,
}

impl InUse {
    /// Reads `proc` (normally `/proc`). Process 1 sees mounts that a sandboxed daemon does not; where it may not be asked, our own
    /// table has to do.
    pub fn read(proc: &Path) -> io::Result<Self> {
        let mut mounts = parse_mounts(&fs::read_to_string(proc.join("self/mountinfo"))?);
        if let Ok(table) = fs::read_to_string(proc.join("1/mountinfo")) {
            for mount in parse_mounts(&table) {
                if !mounts.contains(&mount) {
                    mounts.push(mount);
                }
            }
        }
        let swaps = fs::read_to_string(proc.join("swaps")).map(|table| parse_swaps(&table)).unwrap_or_default();
        Ok(Self { mounts, swaps })
    }

    /// The mounts that hold `path`: those at its longest prefix, stacked ones too.
    fn covering(&self, path: &Path) -> impl Iterator<Item = &Mount> {
        let longest = self.mounts.iter().filter(|m| path.starts_with(&m.point)).map(|m| m.point.components().count()).max();
        let path = path.to_owned();
        self.mounts.iter().filter(move |m| path.starts_with(&m.point) && Some(m.point.components().count()) == longest)
    }

    /// The block device of a mount itself, not of what it is layered on.
    pub fn block_of(mount: &Mount, topology: &Topology) -> Option<String> {
        topology.by_dev(&mount.dev).map(str::to_owned).or_else(|| topology.by_path(Path::new(&mount.source)))
    }

    /// All block devices that `path` rests on: through bind mounts, overlays, loop files, dm and partitions.
    pub fn blocks_under(&self, path: &Path, topology: &Topology) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut open = vec![path.to_owned()];
        while let Some(path) = open.pop() {
            if !seen.insert(path.clone()) {
                continue;
            }
            for mount in self.covering(&path) {
                open.extend(mount.layers.iter().cloned());
                if let Some(block) = Self::block_of(mount, topology) {
                    found.extend(self.beneath(&block, topology));
                }
            }
        }
        found
    }

    /// `block` and everything it rests on.
    pub fn beneath(&self, block: &str, topology: &Topology) -> BTreeSet<String> {
        topology.beneath(block, &|file| self.covering(file).filter_map(|mount| Self::block_of(mount, topology)).collect())
    }
}

/// proc_pid_mountinfo(5): `id parent major:minor root point options [tags…] - type source super-options`.
fn parse_mounts(table: &str) -> Vec<Mount> {
    table.lines().filter_map(parse_mount).collect()
}

fn parse_mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let (dev, _root, point) = (left.next()?, left.next()?, left.next()?);
    let mut right = right.split(' ');
    let (fstype, source, options) = (right.next()?, right.next()?, right.next().unwrap_or_default());
    let layers = if fstype == "overlay" { overlay_layers(options) } else { Vec::new() };
    Some(Mount { dev: dev.to_owned(), point: PathBuf::from(unescape(point)), source: unescape(source), layers })
}

fn overlay_layers(options: &str) -> Vec<PathBuf> {
    options
        .split(',')
        .filter_map(|option| option.split_once('='))
        .filter(|(key, _)| ["lowerdir", "lowerdir+", "upperdir", "workdir", "datadir+"].contains(key))
        .flat_map(|(_, paths)| paths.split(':'))
        .filter(|path| !path.is_empty())
        .map(|path| PathBuf::from(unescape(path)))
        .collect()
}

/// proc_swaps(5): a heading, then `path type size used priority`.
fn parse_swaps(table: &str) -> Vec<PathBuf> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| line.split_ascii_whitespace().next())
        .map(|path| PathBuf::from(unescape(path)))
        .filter(|path| path.starts_with("/dev"))
        .collect()
}

/// The kernel writes blanks and backslashes in names as `\040` (octal).
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'\\'
            && let Some(digits) = tail.get(..3)
            && let Some(value) = std::str::from_utf8(digits).ok().and_then(|digits| u8::from_str_radix(digits, 8).ok())
        {
            bytes.push(value);
            rest = &tail[3..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_and_optional_tags_are_understood() {
        let table = "36 35 8:17 / /media/my\\040card rw,noatime shared:12 master:1 - ext4 /dev/sdb1 rw\nnot a mount line\n\
                     40 1 0:50 / / rw - overlay overlay rw,lowerdir=/media/ro:/media/b\\134c,upperdir=/u/x,workdir=/u/w\n";
        let mounts = parse_mounts(table);
        assert_eq!(mounts.len(), 2);
        assert_eq!((mounts[0].dev.as_str(), mounts[0].point.to_str()), ("8:17", Some("/media/my card")));
        let layers: Vec<_> = mounts[1].layers.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(layers, ["/media/ro", "/media/b\\c", "/u/x", "/u/w"]);
    }

    #[test]
    fn swap_files_are_not_swap_devices() {
        let table = "Filename\tType\tSize\tUsed\tPriority\n/dev/sda3   partition 1 0 -2\n/swap\\040file file 1 0 -3\n";
        assert_eq!(parse_swaps(table), [PathBuf::from("/dev/sda3")]);
    }

    proptest::proptest! {
        #[test]
        fn no_table_is_fatal(table in "\\PC{0,200}") {
            parse_mounts(&table);
            parse_swaps(&table);
            unescape(&table);
        }
    }
}
