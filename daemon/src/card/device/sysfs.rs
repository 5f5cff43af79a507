//! The kernel's tree of block devices: disks, their partitions, and what is stacked on what.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One block device, whole or partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Block {
    /// Its directory below `/sys/block`.
    pub dir: PathBuf,
    /// `major:minor`.
    pub dev: String,
    /// The disk that it is a partition of.
    pub disk: Option<String>,
    /// What it is made of (dm, md).
    pub slaves: Vec<String>,
    /// What is made of it, for people: `dm-0 (vg-root)`, `btrfs 5c0e…`.
    pub holders: Vec<String>,
    /// A loop device's file.
    pub backing: Option<PathBuf>,
    /// Name below `/dev/mapper`.
    pub dm_name: Option<String>,
}

/// All block devices by kernel name.
#[derive(Debug, Default)]
pub(super) struct Topology {
    pub blocks: BTreeMap<String, Block>,
    dev_root: PathBuf,
}

impl Topology {
    /// Reads `sys` (normally `/sys`); device nodes are below `dev_root` (normally `/dev`).
    pub fn read(sys: &Path, dev_root: &Path) -> io::Result<Self> {
        let mut blocks = BTreeMap::new();
        for name in names(&sys.join("block"))? {
            let dir = sys.join("block").join(&name);
            for part in names(&dir)?.into_iter().filter(|part| dir.join(part).join("partition").exists()) {
                blocks.insert(part.clone(), Block { disk: Some(name.clone()), ..block(&dir.join(&part)) });
            }
            blocks.insert(name, block(&dir));
        }
        let mut topology = Self { blocks, dev_root: dev_root.to_owned() };
        topology.name_holders();
        topology.add_loop_holders();
        topology.add_btrfs_members(&sys.join("fs/btrfs"));
        Ok(topology)
    }

    /// Kernel name for `major:minor`.
    pub fn by_dev(&self, dev: &str) -> Option<&str> {
        self.blocks.iter().find(|(_, block)| block.dev == dev).map(|(name, _)| name.as_str())
    }

    /// Kernel name for a device path such as `/dev/sda2` or `/dev/mapper/vg-root`.
    pub fn by_path(&self, path: &Path) -> Option<String> {
        let rest = path.strip_prefix("/dev").or_else(|_| path.strip_prefix(&self.dev_root)).ok()?;
        if let Ok(mapped) = rest.strip_prefix("mapper") {
            let mapped = mapped.to_str()?;
            return self.blocks.iter().find(|(_, block)| block.dm_name.as_deref() == Some(mapped)).map(|(name, _)| name.clone());
        }
        // The kernel writes a slash in a device's name as '!' (cciss!c0d0).
        let name = rest.to_str()?.replace('/', "!");
        if self.blocks.contains_key(&name) {
            return Some(name);
        }
        let real = fs::canonicalize(self.dev_root.join(rest)).ok()?;
        let name = real.file_name()?.to_str()?;
        self.blocks.contains_key(name).then(|| name.to_owned())
    }

    /// `name` and its partitions.
    pub fn with_partitions<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, &'a Block)> {
        self.blocks.iter().filter(move |(other, block)| *other == name || block.disk.as_deref() == Some(name)).map(|(n, b)| (n.as_str(), b))
    }

    fn name_holders(&mut self) {
        let labels: BTreeMap<String, String> = self
            .blocks
            .iter()
            .filter_map(|(name, block)| block.dm_name.as_ref().map(|dm| (name.clone(), format!("{name} ({dm})"))))
            .collect();
        for holder in self.blocks.values_mut().flat_map(|block| &mut block.holders) {
            if let Some(label) = labels.get(holder) {
                holder.clone_from(label);
            }
        }
    }

    /// A loop device over a block device leaves no entry in `holders/`.
    fn add_loop_holders(&mut self) {
        let loops: Vec<(String, PathBuf)> =
            self.blocks.iter().filter_map(|(name, block)| block.backing.clone().map(|backing| (name.clone(), backing))).collect();
        for (name, backing) in loops {
            if let Some(block) = self.by_path(&backing).and_then(|under| self.blocks.get_mut(&under)) {
                block.holders.push(name);
            }
        }
    }

    /// mountinfo names one member of a btrfs, and `holders/` none.
    fn add_btrfs_members(&mut self, root: &Path) {
        for uuid in names(root).unwrap_or_default() {
            for member in names(&root.join(&uuid).join("devices")).unwrap_or_default() {
                if let Some(block) = self.blocks.get_mut(&member) {
                    block.holders.push(format!("btrfs {uuid}"));
                }
            }
        }
    }

    /// `name` and everything it rests on by partitions and stacking; `backing` adds what a loop device's file rests on.
    pub fn beneath(&self, name: &str, backing: &dyn Fn(&Path) -> Vec<String>) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mut open = vec![name.to_owned()];
        while let Some(name) = open.pop() {
            let Some(block) = self.blocks.get(&name) else { continue };
            if !seen.insert(name) {
                continue;
            }
            open.extend(block.disk.iter().cloned());
            open.extend(block.slaves.iter().cloned());
            if let Some(file) = &block.backing {
                open.extend(self.by_path(file));
                open.extend(backing(file));
            }
        }
        seen
    }
}

fn block(dir: &Path) -> Block {
    Block {
        dir: dir.to_owned(),
        dev: text(&dir.join("dev")),
        disk: None,
        slaves: names(&dir.join("slaves")).unwrap_or_default(),
        holders: names(&dir.join("holders")).unwrap_or_default(),
        backing: some(text(&dir.join("loop/backing_file"))).map(PathBuf::from),
        dm_name: some(text(&dir.join("dm/name"))),
    }
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// An attribute without its white space; empty where there is none.
pub(super) fn text(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).unwrap_or_default()
}

/// A numeric attribute; 0 where there is none.
pub(super) fn number(path: &Path) -> u64 {
    text(path).parse().unwrap_or(0)
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}
