//! Small golden images made from nothing, for `metisd sandbox` and tests: a real partition table, real file systems, and the files that an
//! injection edits. They have the shape of a card, but no kernel and no programs, and do not boot. Always the same bytes.

mod files;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use hadris_fat::{FatKind, FatOptions, VolumeLabel};
use hadris_fs::{Content, Tree};
use hadris_storage::{BlockSize, MemDevice};
use mkext4::{FsBuilder, InodeHandle, Meta, Options, ROOT};
use sha2::{Digest as _, Sha256};

use super::bytes::hex;
use super::media::write_sparse;
use crate::site::ImageRef;
use files::{Kind, Node};

const MIB: u64 = 1 << 20;
/// 2026-01-01, for every time stamp: the same image from every build.
const EPOCH: i64 = 1_767_225_600;
const LEVEL: i32 = 3;

/// Which card the image is shaped like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Ubuntu for the Raspberry Pi: FAT32 `system-boot` with the NoCloud seed, ext4 `writable`.
    RaspberryPi,
    /// Armbian: one ext4 behind 16 MiB with the boot loader.
    Armbian,
}

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Writing it failed.
    #[error("making the demonstration image {}: {source}", path.display())]
    Write {
        /// The file being made.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file system could not be made.
    #[error("making the demonstration image {}: its {filesystem}: {why}", path.display())]
    Format {
        /// The file being made.
        path: PathBuf,
        /// Which.
        filesystem: &'static str,
        /// Why.
        why: String,
    },
}

/// Makes the image, packs it with zstd into `path` and says what an inventory would say of it. Takes well under a second.
///
/// # Errors
/// Where `path` cannot be written.
pub fn golden(shape: Shape, path: &Path) -> Result<ImageRef, DemoError> {
    let failed = |source| DemoError::Write { path: path.to_owned(), source };
    let path = std::path::absolute(path).map_err(failed)?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    let image = tempfile::tempfile_in(dir).map_err(failed)?;
    Builder { path: &path, image: &image }.build(shape)?;
    let (sha256, content) = pack(&image, &path).map_err(failed)?;
    let url = reqwest::Url::from_file_path(&path).map_or_else(|()| path.display().to_string(), String::from);
    Ok(ImageRef { url, sha256, content_sha256: Some(content) })
}

/// Packs the image and returns the digests of the packed and the unpacked file.
fn pack(image: &File, path: &Path) -> io::Result<(String, String)> {
    let mut out = Hashed { inner: BufWriter::new(File::create(path)?), hasher: Sha256::new() };
    let mut content = Sha256::new();
    {
        let mut encoder = zstd::stream::write::Encoder::new(&mut out, LEVEL)?;
        encoder.include_checksum(true)?;
        let size = image.metadata()?.len();
        let mut buf = vec![0; MIB as usize];
        for at in (0..size).step_by(buf.len()) {
            let part = &mut buf[..(size - at).min(MIB) as usize];
            image.read_exact_at(part, at)?;
            content.update(&*part);
            encoder.write_all(part)?;
        }
        encoder.finish()?;
    }
    out.inner.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok((hex(&out.hasher.finalize()), hex(&content.finalize())))
}

struct Hashed<W> {
    inner: W,
    hasher: Sha256,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let len = self.inner.write(buf)?;
        self.hasher.update(&buf[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The image being made.
struct Builder<'a> {
    path: &'a Path,
    image: &'a File,
}

impl Builder<'_> {
    fn build(&self, shape: Shape) -> Result<(), DemoError> {
        match shape {
            Shape::RaspberryPi => {
                self.size(112 * MIB)?;
                self.write(&mbr(0x52A5_B001, &[(0x0C, MIB, 40 * MIB), (0x83, 44 * MIB, 68 * MIB)]), 0)?;
                self.fat("system-boot", MIB, 40 * MIB)?;
                self.ext4("writable", *b"metis-demo-rpi-1", files::raspberry_pi(), 44 * MIB, 68 * MIB)
            }
            Shape::Armbian => {
                self.size(96 * MIB)?;
                self.write(&mbr(0xA4B1_A001, &[(0x83, 16 * MIB, 80 * MIB)]), 0)?;
                // Where Rockchip's boot ROM looks for the loader, and the loader for U-Boot.
                self.write(&files::noise(200_000, 1), 64 * 512)?;
                self.write(&files::noise(900_000, 2), 16384 * 512)?;
                self.ext4("armbi_root", *b"metis-demo-armbi", files::armbian(), 16 * MIB, 80 * MIB)
            }
        }
    }

    fn failed(&self, source: io::Error) -> DemoError {
        DemoError::Write { path: self.path.to_owned(), source }
    }

    fn format(&self, filesystem: &'static str, why: &dyn std::fmt::Display) -> DemoError {
        DemoError::Format { path: self.path.to_owned(), filesystem, why: why.to_string() }
    }

    fn size(&self, size: u64) -> Result<(), DemoError> {
        self.image.set_len(size).map_err(|e| self.failed(e))
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<(), DemoError> {
        write_sparse(self.image, data, offset).map(drop).map_err(|e| self.failed(e))
    }

    fn fat(&self, label: &str, offset: u64, len: u64) -> Result<(), DemoError> {
        let failed = |e: &dyn std::fmt::Display| self.format("FAT", e);
        let block = BlockSize::new(512).ok_or_else(|| failed(&"sectors of 512 bytes are refused"))?;
        let options = FatOptions::new()
            .with_kind(FatKind::Fat32)
            .with_label(VolumeLabel::new(label).map_err(|e| failed(&e))?)
            .with_serial(0x3E71_5001)
            .with_partition_offset(offset);
        let mut tree = Tree::new();
        for (path, content) in files::boot() {
            tree.insert(path, hadris_fs::Node::file(Content::bytes(content))).map_err(|e| failed(&e))?;
        }
        let mut device = MemDevice::new(vec![0; len as usize], block);
        hadris_fat::sync::write(&mut device, &tree, &options).map_err(|e| failed(&e))?;
        let mut image = device.into_inner();
        relabel(&mut image, label).ok_or_else(|| failed(&"the label is not where it should be"))?;
        self.write(&image, offset)
    }

    fn ext4(&self, label: &str, uuid: [u8; 16], nodes: Vec<Node>, offset: u64, len: u64) -> Result<(), DemoError> {
        let failed = |e: mkext4::Error| self.format("ext4", &e);
        let mut options = Options::new(len, version_4(uuid), EPOCH);
        options.label = Some(label.to_owned());
        let mut builder = FsBuilder::new(options).map_err(failed)?;
        let mut directories = std::collections::BTreeMap::from([(String::new(), ROOT)]);
        let mut contents = Vec::new();
        for node in nodes {
            let (parent, name) = node.path.rsplit_once('/').unwrap_or(("", &node.path));
            let Some(parent) = directories.get(parent).copied() else {
                return Err(self.format("ext4", &format!("{} has no directory", node.path)));
            };
            let meta = Meta::new(node.mode, 0, node.gid, (EPOCH, 0));
            if let Some((file, content)) = declare(&mut builder, parent, name, meta, &node, &mut directories).map_err(failed)? {
                contents.push((file, content));
            }
        }
        let layout = builder.seal().map_err(failed)?;
        let mut sink = Part { image: self.image, offset };
        let mut writer = layout.writer(&mut sink).map_err(failed)?;
        for (file, content) in contents {
            writer.fill(file, &mut &content[..]).map_err(failed)?;
        }
        writer.finish().map(drop).map_err(failed)
    }
}

/// Gives the label its own case: the crate writes capitals, Ubuntu's is `system-boot`. It is in both boot sectors and the root directory.
fn relabel(image: &mut [u8], label: &str) -> Option<()> {
    const BOOT_SECTORS: [usize; 2] = [0, 6 * 512];
    const LABEL: usize = 71;
    let directory = super::layout::fat::geometry(image)?.clusters as usize;
    for at in BOOT_SECTORS.map(|sector| sector + LABEL).into_iter().chain([directory]) {
        let field = image.get_mut(at..at + label.len())?;
        if !field.eq_ignore_ascii_case(label.as_bytes()) {
            return None;
        }
        field.copy_from_slice(label.as_bytes());
    }
    Some(())
}

/// Declares one node; a file with content comes back to be filled.
fn declare(
    builder: &mut FsBuilder,
    parent: InodeHandle,
    name: &str,
    meta: Meta,
    node: &Node,
    directories: &mut std::collections::BTreeMap<String, InodeHandle>,
) -> mkext4::Result<Option<(InodeHandle, Vec<u8>)>> {
    match &node.kind {
        Kind::Directory => {
            let directory = builder.mkdir(parent, name, meta)?;
            directories.insert(node.path.clone(), directory);
            Ok(None)
        }
        Kind::Link(target) => builder.symlink(parent, name, target, meta).map(|_| None),
        Kind::File(content) => {
            let file = builder.file(parent, name, meta, content.len() as u64)?;
            Ok((!content.is_empty()).then(|| (file, content.clone())))
        }
    }
}

/// Sixteen bytes of text as a UUID of version 4 (RFC 9562).
fn version_4(mut raw: [u8; 16]) -> [u8; 16] {
    raw[6] = raw[6] & 0x0F | 0x40;
    raw[8] = raw[8] & 0x3F | 0x80;
    raw
}

/// A partition of the image as mkext4 writes it.
struct Part<'a> {
    image: &'a File,
    offset: u64,
}

impl mkext4::RegionSink for Part<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.image.write_all_at(bytes, self.offset + offset)
    }

    /// The file is fresh and sparse.
    fn zeros(&mut self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}

/// A DOS partition table: disk identifier, then type, first byte and size in bytes of each partition.
fn mbr(identifier: u32, partitions: &[(u8, u64, u64)]) -> [u8; 512] {
    /// Cylinder, head and sector of what is out of their range.
    const NO_CHS: [u8; 3] = [0xFE, 0xFF, 0xFF];
    let mut sector = [0; 512];
    sector[440..444].copy_from_slice(&identifier.to_le_bytes());
    for (slot, (kind, offset, len)) in sector[446..510].chunks_exact_mut(16).zip(partitions) {
        slot[1..4].copy_from_slice(&NO_CHS);
        slot[4] = *kind;
        slot[5..8].copy_from_slice(&NO_CHS);
        slot[8..12].copy_from_slice(&((offset / 512) as u32).to_le_bytes());
        slot[12..16].copy_from_slice(&((len / 512) as u32).to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xAA]);
    sector
}

#[cfg(test)]
mod tests;
