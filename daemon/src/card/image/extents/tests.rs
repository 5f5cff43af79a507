use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::super::super::testing::{arg, ok, run, sfdisk, sparse, with_kernel};
use super::super::super::{FileImage, MemImage};
use super::*;

const MIB: u64 = 1 << 20;

/// A file system made by e2fsprogs or dosfstools, with a few files where the tool can.
fn make(dir: &Path, size: u64, mkfs: &[&str]) -> PathBuf {
    let path = dir.join("fs.img");
    let _ = std::fs::remove_file(&path);
    sparse(&path, size);
    let args: Vec<&str> = mkfs[1..].iter().copied().chain([arg(&path)]).collect();
    ok(mkfs[0], &args);
    path
}

/// A directory with some files of odd sizes.
fn tree(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    std::fs::create_dir_all(tree.join("etc/deep/er")).unwrap();
    for n in 0..300u32 {
        std::fs::write(tree.join(format!("etc/deep/file{n}")), vec![n as u8; (n * n) as usize]).unwrap();
    }
    tree
}

fn part_free(path: &Path) -> Result<Vec<Range<u64>>, &'static str> {
    let image = FileImage::open(path).unwrap();
    let layout = Layout::read(&image).unwrap();
    free_of(&image, &layout.partitions[0]).map_err(|refusal| match refusal {
        Refusal::Whole(reason) => reason,
        Refusal::Io(error) => panic!("{error}"),
    })
}

/// Free blocks as dumpe2fs(8) lists them for every group, merged.
fn dumpe2fs(path: &Path) -> Vec<Range<u64>> {
    let text = ok("dumpe2fs", &[arg(path)]);
    let header = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse::<u64>().unwrap();
    let block = header("Block size:");
    let mut runs: Vec<Range<u64>> = Vec::new();
    for list in text.lines().filter_map(|line| line.strip_prefix("  Free blocks: ")) {
        for run in list.split(", ").filter(|run| !run.trim().is_empty()) {
            let (from, to) = run.trim().split_once('-').unwrap_or((run.trim(), run.trim()));
            let (from, to): (u64, u64) = (from.parse().unwrap(), to.parse().unwrap());
            match runs.last_mut() {
                Some(last) if last.end == from * block => last.end = (to + 1) * block,
                _ => runs.push(from * block..(to + 1) * block),
            }
        }
    }
    runs
}

fn merged(ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => merged.push(range),
        }
    }
    merged
}

/// Overwrites everything outside of `extents`.
fn spoil(path: &Path, extents: &[Extent]) -> u64 {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let garbage = vec![0xA5; MIB as usize];
    let size = file.metadata().unwrap().len();
    let (mut at, mut spoilt) = (0, 0);
    for extent in extents.iter().copied().chain([Extent { offset: size, len: 0 }]) {
        while at < extent.offset {
            let len = (extent.offset - at).min(MIB);
            file.write_all_at(&garbage[..len as usize], at).unwrap();
            (at, spoilt) = (at + len, spoilt + len);
        }
        at = extent.offset + extent.len;
    }
    spoilt
}

fn extents_of(path: &Path) -> Vec<Extent> {
    let image = FileImage::open(path).unwrap();
    allocated(&image, &Layout::read(&image).unwrap()).unwrap()
}

#[test]
fn ext_variants_agree_with_dumpe2fs_block_for_block() {
    let dir = tempfile::tempdir().unwrap();
    let tree = tree(dir.path());
    let tree = arg(&tree);
    let variants: [(u64, &[&str]); 13] = [
        (200, &["mkfs.ext4"]),
        (200, &["mkfs.ext4", "-O", "^64bit"]),
        (96, &["mkfs.ext4", "-b", "1024"]),
        (96, &["mkfs.ext4", "-b", "2048", "-i", "4096"]),
        (3000, &["mkfs.ext4"]),
        (3000, &["mkfs.ext4", "-O", "^flex_bg"]),
        (3000, &["mkfs.ext4", "-O", "^sparse_super,^resize_inode"]),
        (3000, &["mkfs.ext4", "-O", "sparse_super2"]),
        (300, &["mkfs.ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg", "-G", "4"]),
        (300, &["mkfs.ext4", "-b", "1024", "-O", "^metadata_csum,^uninit_bg"]),
        (200, &["mkfs.ext4", "-O", "inline_data,metadata_csum_seed"]),
        (200, &["mkfs.ext3"]),
        (200, &["mkfs.ext2", "-b", "1024"]),
    ];
    for (size, mkfs) in variants {
        let mut command = mkfs.to_vec();
        command.extend(["-q", "-d", tree]);
        let path = make(dir.path(), size * MIB, &command);
        let ours = merged(part_free(&path).unwrap_or_else(|reason| panic!("{mkfs:?}: {reason}")));
        assert_eq!(ours, dumpe2fs(&path), "{mkfs:?}");
        assert!(ours.iter().map(|run| run.end - run.start).sum::<u64>() > size * MIB / 3, "{mkfs:?}: something is free");
    }
}

#[test]
fn e2fsck_does_not_miss_what_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let tree = tree(dir.path());
    for options in [["-b", "1024"], ["-b", "4096"], ["-O", "^64bit"], ["-O", "^flex_bg"]] {
        let path = make(dir.path(), 300 * MIB, &["mkfs.ext4", "-q", options[0], options[1], "-d", arg(&tree)]);
        let spoilt = spoil(&path, &extents_of(&path));
        assert!(spoilt > 150 * MIB, "{options:?}: only {spoilt} bytes are left out");
        ok("e2fsck", &["-fn", arg(&path)]);
        ok(
            "sh",
            &[
                "-c",
                &format!(
                    "debugfs -R 'dump etc/deep/file299 {0}/out' {1} 2>/dev/null && cmp {0}/out {2}/etc/deep/file299",
                    arg(dir.path()),
                    arg(&path),
                    arg(&tree)
                ),
            ],
        );
    }
}

#[test]
fn a_file_system_that_the_kernel_used_agrees_with_dumpe2fs() {
    let dir = tempfile::tempdir().unwrap();
    let path = make(dir.path(), 600 * MIB, &["mkfs.ext4", "-q", "-b", "1024"]);
    let script = "mkdir a b; for n in $(seq 1 200); do head -c $((n*997)) /dev/urandom >a/$n; done; cp -r a b; rm a/1* ; sync; \
                  sha256sum $(find . -type f | sort) | sha256sum";
    let Some(before) = with_kernel(&path, script) else { return };
    assert_eq!(merged(part_free(&path).unwrap()), dumpe2fs(&path));
    spoil(&path, &extents_of(&path));
    ok("e2fsck", &["-fn", arg(&path)]);
    assert_eq!(with_kernel(&path, "sha256sum $(find . -type f | sort) | sha256sum"), Some(before));
}

#[test]
fn what_metis_does_not_read_is_copied_whole_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &str); 4] = [
        (&["mkfs.ext4", "-q", "-O", "bigalloc"], "clusters"),
        (&["mkfs.ext4", "-q", "-O", "meta_bg,^resize_inode"], "meta block groups"),
        (&["mkswap"], "no file system"),
        (&["mkfs.ext4", "-q", "-N", "1024"], "journal is not replayed"),
    ];
    for (mkfs, reason) in cases {
        let path = make(dir.path(), 64 * MIB, mkfs);
        if reason.contains("journal") {
            ok("debugfs", &["-w", "-R", "feature needs_recovery", arg(&path)]);
        }
        let refusal = part_free(&path).unwrap_err();
        assert!(refusal.contains(reason), "{mkfs:?}: {refusal}");
        assert_eq!(extents_of(&path), [Extent { offset: 0, len: 64 * MIB }]);
    }
}

#[test]
fn fat_agrees_with_what_mtools_and_fsck_say() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, vec![7; 300_000]).unwrap();
    for (size, mkfs) in
        [(8u64, ["-F", "12", "-s", "8"]), (40, ["-F", "16", "-s", "4"]), (70, ["-F", "32", "-s", "1"]), (20, ["-F", "32", "-s", "8"])]
    {
        let path = make(dir.path(), size * MIB, &["mkfs.vfat", mkfs[0], mkfs[1], mkfs[2], mkfs[3]]);
        let fresh: u64 = part_free(&path).unwrap().iter().map(|run| run.end - run.start).sum();
        if (size, mkfs[1]) != (20, "32") {
            // mtools takes a FAT32 with so few clusters for FAT16.
            for n in 0..6 {
                ok("mcopy", &["-i", arg(&path), arg(&file), &format!("::file{n}")]);
            }
            ok("mdel", &["-i", arg(&path), "::file1", "::file3"]);
            let used: u64 = part_free(&path).unwrap().iter().map(|run| run.end - run.start).sum();
            let cluster = u64::from(std::fs::read(&path).unwrap()[13]) * 512;
            assert_eq!(fresh - used, 4 * 300_000u64.next_multiple_of(cluster), "{mkfs:?}");
        }
        let report = String::from_utf8(run("fsck.vfat", &["-nv", arg(&path)]).stdout).unwrap();
        let (in_use, clusters) = report
            .lines()
            .filter_map(|line| line.rsplit_once(' ').filter(|(_, last)| *last == "clusters").and_then(|(rest, _)| rest.rsplit_once(' ')))
            .find_map(|(_, pair)| pair.split_once('/'))
            .unwrap();
        let (in_use, clusters): (u64, u64) = (in_use.parse().unwrap(), clusters.parse().unwrap());
        let cluster = u64::from(std::fs::read(&path).unwrap()[13]) * 512;
        let ours: u64 = part_free(&path).unwrap().iter().map(|run| run.end - run.start).sum();
        assert_eq!(ours / cluster, clusters - in_use, "{mkfs:?}: {report}");
        spoil(&path, &extents_of(&path));
        ok("fsck.vfat", &["-n", arg(&path)]);
    }
}

#[test]
fn gaps_and_both_partition_tables_are_copied() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, part) = (dir.path().join("disk.img"), make(dir.path(), 120 * MIB, &["mkfs.ext4", "-q"]));
    sparse(&disk, 160 * MIB);
    sfdisk(&disk, "label: gpt\nstart=32768,size=245760,type=linux\n");
    ok("dd", &[&format!("if={}", arg(&part)), &format!("of={}", arg(&disk)), "bs=1M", "seek=16", "conv=notrunc,sparse", "status=none"]);
    let extents = extents_of(&disk);
    let covers = |from: u64, to: u64| extents.iter().any(|e| e.offset <= from && to <= e.offset + e.len);
    assert!(covers(0, 16 * MIB + 4096), "table and boot loader gap, up to the superblock");
    assert!(covers(136 * MIB, 160 * MIB), "the gap after the last partition and the backup table");
    assert!(extents.iter().map(|e| e.len).sum::<u64>() < 100 * MIB);
    for pair in extents.windows(2) {
        assert!(pair[0].offset + pair[0].len < pair[1].offset, "merged, ascending");
    }
    assert!(extents.iter().all(|e| e.offset % ALIGNMENT == 0 && e.len % ALIGNMENT == 0));
    spoil(&disk, &extents);
    assert_eq!(ok("sfdisk", &["--json", arg(&disk)]).matches("\"start\": 32768").count(), 1);
    ok("sfdisk", &["--verify", arg(&disk)]);
    ok("e2fsck", &["-fn", &format!("{}?offset={}", arg(&disk), 16 * MIB)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn clear_runs_are_exactly_the_clear_bits(bitmap in proptest::collection::vec(prop_oneof![Just(0u8), Just(0xFF), any::<u8>()], 0..40), cut in 0u64..320) {
        let bits = cut.min(bitmap.len() as u64 * 8);
        let runs = clear_runs(&bitmap, bits);
        for bit in 0..bits {
            let clear = bitmap[(bit / 8) as usize] >> (bit % 8) & 1 == 0;
            prop_assert_eq!(runs.iter().any(|run| run.contains(&bit)), clear, "bit {}", bit);
        }
        prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
    }

    /// A damaged superblock or descriptor never panics and never yields an extent that is out of order or out of range.
    #[test]
    fn hostile_file_systems_never_panic(patches in proptest::collection::vec((prop_oneof![1024usize..1424, 2048usize..2176, 0usize..64], any::<u8>()), 1..12), fat in any::<bool>()) {
        let mut image = if fat { FAT.clone() } else { EXT.clone() };
        for (at, value) in patches { image[at] = value; }
        let image = MemImage(image);
        if let Ok(layout) = Layout::read(&image) {
            let extents = allocated(&image, &layout).unwrap();
            prop_assert!(extents.windows(2).all(|pair| pair[0].offset + pair[0].len < pair[1].offset));
            prop_assert!(extents.last().is_some_and(|last| last.offset + last.len <= image.size()));
        }
    }
}

static EXT: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| template(&["mkfs.ext4", "-q", "-b", "1024", "-g", "256"]));
static FAT: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| template(&["mkfs.vfat"]));

fn template(mkfs: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::read(make(dir.path(), 2 * MIB, mkfs)).unwrap()
}
