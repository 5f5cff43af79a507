use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::super::testing::{arg, ok, run, sfdisk, sparse};
use super::super::{FileImage, MemImage};
use super::*;

const MIB: u64 = 1 << 20;

struct Disk {
    dir: tempfile::TempDir,
    path: PathBuf,
}

/// A sparse disk with a table by sfdisk.
fn disk(size: u64, script: &str) -> Disk {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    sparse(&path, size);
    sfdisk(&path, script);
    Disk { dir, path }
}

/// Lays a file system made by `mkfs` over the disk at `offset`.
fn format(disk: &Disk, offset: u64, len: u64, mkfs: &[&str]) {
    let part = disk.dir.path().join("part.img");
    sparse(&part, len);
    let args: Vec<&str> = mkfs[1..].iter().copied().chain([arg(&part)]).collect();
    ok(mkfs[0], &args);
    let (input, output, seek) = (format!("if={}", part.display()), format!("of={}", disk.path.display()), format!("seek={offset}"));
    ok("dd", &[&input, &output, &seek, "bs=64K", "oflag=seek_bytes", "conv=notrunc,sparse", "status=none"]);
}

fn layout(path: &Path) -> Result<Layout, LayoutError> {
    Layout::read(&FileImage::open(path).unwrap())
}

/// (number, first sector, sectors) of every partition, by sfdisk and by us, ascending.
fn assert_same_as_sfdisk(disk: &Disk) -> Layout {
    let json: serde_json::Value = serde_json::from_str(&ok("sfdisk", &["--json", arg(&disk.path)])).unwrap();
    let theirs = json["partitiontable"]["partitions"].as_array().unwrap();
    let mut theirs: Vec<(u64, u64, u64)> = theirs
        .iter()
        .filter(|p| p["type"] != "5" && p["type"] != "f")
        .map(|p| {
            let node = p["node"].as_str().unwrap();
            let number = node.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
            (p["start"].as_u64().unwrap(), p["size"].as_u64().unwrap(), number)
        })
        .collect();
    theirs.sort_unstable();
    let layout = layout(&disk.path).unwrap();
    let ours: Vec<_> = layout.partitions.iter().map(|p| (p.offset / 512, p.len / 512, u64::from(p.number))).collect();
    assert_eq!(ours, theirs);
    layout
}

#[test]
fn mbr_with_logical_partitions_is_read_as_sfdisk_reads_it() {
    let disk = disk(
        128 * MIB,
        "label: dos\nstart=2048,size=20480,type=c\nstart=22528,size=20480,type=83\nstart=43008,type=5\n\
         start=45056,size=8192,type=83\nstart=55296,size=8192,type=82\nstart=65536,size=8192,type=83\n",
    );
    let layout = assert_same_as_sfdisk(&disk);
    assert_eq!(layout.table, Table::Mbr);
    assert_eq!(layout.partitions.iter().map(|p| p.number).collect::<Vec<_>>(), [1, 2, 5, 6, 7]);
    assert_eq!(layout.partitions[3].kind, PartitionType::Mbr(0x82));
}

#[test]
fn a_raspberry_pi_card_boots_from_fat_and_has_its_root_on_ext4() {
    let disk = disk(160 * MIB, "label: dos\nstart=2048,size=131072,type=c\nstart=133120,type=83\n");
    format(&disk, MIB, 64 * MIB, &["mkfs.vfat", "-F", "32", "-n", "system-boot", "-i", "1234ABCD"]);
    format(&disk, 65 * MIB, 95 * MIB, &["mkfs.ext4", "-q", "-L", "writable", "-U", "c0ffee00-1111-4222-8333-444455556666"]);
    let layout = assert_same_as_sfdisk(&disk);
    let boot = layout.boot().unwrap();
    assert_eq!((boot.number, boot.fs.kind, boot.fs.label.as_deref()), (1, FsKind::Fat(FatBits::Fat32), Some("system-boot")));
    assert_eq!(boot.fs.uuid.as_deref(), Some("1234-ABCD"));
    let root = layout.root().unwrap();
    assert_eq!((root.number, root.fs.kind, root.fs.label.as_deref()), (2, FsKind::Ext4, Some("writable")));
    assert_eq!(root.fs.uuid.as_deref(), Some("c0ffee00-1111-4222-8333-444455556666"));
}

#[test]
fn a_debian_cloud_image_has_its_root_on_partition_1_before_15() {
    let disk = disk(
        160 * MIB,
        "label: gpt\n14: start=2048,size=6144,type=21686148-6449-6E6F-744E-656564454649\n\
         15: start=8192,size=65536,type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B,name=\"EFI\"\n\
         1: start=73728,type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n",
    );
    format(&disk, 4 * MIB, 32 * MIB, &["mkfs.vfat", "-F", "16", "-n", "ESP"]);
    format(&disk, 36 * MIB, 120 * MIB, &["mkfs.ext4", "-q"]);
    let layout = assert_same_as_sfdisk(&disk);
    assert_eq!(layout.table, Table::Gpt);
    assert_eq!(layout.partitions.iter().map(|p| p.number).collect::<Vec<_>>(), [14, 15, 1]);
    assert_eq!((layout.root().unwrap().number, layout.boot().unwrap().number), (1, 15));
    assert_eq!(layout.boot().unwrap().name.as_deref(), Some("EFI"));
    assert_eq!(layout.boot().unwrap().fs.kind, FsKind::Fat(FatBits::Fat16));
    assert_eq!(layout.partitions[0].fs.kind, FsKind::Unknown);
}

#[test]
fn an_armbian_card_is_one_ext4_after_a_gap() {
    let disk = disk(96 * MIB, "label: dos\nstart=32768,type=83\n");
    format(&disk, 16 * MIB, 80 * MIB, &["mkfs.ext4", "-q", "-L", "armbi_root"]);
    let layout = assert_same_as_sfdisk(&disk);
    assert_eq!((layout.root().unwrap().offset, layout.boot()), (16 * MIB, None));
}

#[test]
fn a_separate_boot_and_home_are_not_taken_for_the_root() {
    let disk = disk(
        96 * MIB,
        "label: gpt\nstart=2048,size=16384,type=linux\nstart=18432,size=32768,type=linux\n\
         start=51200,size=131072,type=933AC7E1-2EB4-4F13-B844-0E14E2AEF915\n",
    );
    format(&disk, MIB, 8 * MIB, &["mkfs.ext4", "-q", "-L", "BOOT"]);
    format(&disk, 9 * MIB, 16 * MIB, &["mkfs.ext4", "-q"]);
    format(&disk, 25 * MIB, 64 * MIB, &["mkfs.ext4", "-q"]);
    assert_eq!(layout(&disk.path).unwrap().root().unwrap().number, 2);
}

#[test]
fn bare_file_systems_are_known_by_their_superblocks() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&[&str], FsKind); 8] = [
        (&["mkfs.ext4", "-q"], FsKind::Ext4),
        (&["mkfs.ext4", "-q", "-b", "1024"], FsKind::Ext4),
        (&["mkfs.ext3", "-q"], FsKind::Other("ext3")),
        (&["mkfs.ext2", "-q"], FsKind::Other("ext2")),
        (&["mkfs.vfat", "-F", "12", "-s", "32"], FsKind::Fat(FatBits::Fat12)),
        (&["mkfs.vfat", "-F", "16"], FsKind::Fat(FatBits::Fat16)),
        (&["mkfs.vfat", "-F", "32", "-s", "1"], FsKind::Fat(FatBits::Fat32)),
        (&["mkswap"], FsKind::Swap),
    ];
    for (mkfs, kind) in cases {
        let path = dir.path().join("bare.img");
        sparse(&path, 48 * MIB);
        let args: Vec<&str> = mkfs[1..].iter().copied().chain([arg(&path)]).collect();
        ok(mkfs[0], &args);
        let layout = layout(&path).unwrap();
        assert_eq!((layout.table, layout.partitions.len(), layout.partitions[0].fs.kind), (Table::None, 1, kind), "{mkfs:?}");
        assert_eq!((layout.partitions[0].number, layout.partitions[0].len), (0, 48 * MIB));
    }
}

#[test]
fn an_image_without_anything_known_has_no_root() {
    let layout = Layout::read(&MemImage(vec![0; 1 << 16])).unwrap();
    assert_eq!((layout.table, layout.root(), layout.boot()), (Table::None, None, None));
    assert_eq!(layout.partitions[0].fs.kind, FsKind::Unknown);
    assert_eq!(Layout::read(&MemImage(Vec::new())).unwrap().partitions[0].len, 0);
}

/// An MBR with these entries (type, first sector, sectors) on a disk of 64 sectors.
fn mbr(entries: &[(u8, u32, u32)]) -> MemImage {
    let mut image = vec![0; 64 * 512];
    for (i, (kind, start, sectors)) in entries.iter().enumerate() {
        let at = 446 + 16 * i;
        image[at + 4] = *kind;
        image[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        image[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    }
    image[510..512].copy_from_slice(&[0x55, 0xAA]);
    MemImage(image)
}

#[test]
fn contradictory_tables_are_refused_with_the_reason() {
    let mut looped = mbr(&[(5, 8, 40)]);
    let record = [mbr(&[(0x83, 1, 2), (5, 4, 8)]).0, mbr(&[(0x83, 1, 2), (5, 4, 8)]).0];
    looped.0[8 * 512..9 * 512].copy_from_slice(&record[0][..512]);
    looped.0[12 * 512..13 * 512].copy_from_slice(&record[1][..512]);
    let cases = [
        (mbr(&[(0x83, 8, 8), (0x83, 15, 8)]), "partitions 1 and 2 of the image overlap at byte 7680"),
        (mbr(&[(0x83, 0, 8)]), "partition 1 overlaps the table itself"),
        (mbr(&[(0x83, 60, 5)]), "partition 1 (bytes 30720 to 33280) reaches past the end of the image (32768 bytes)"),
        (mbr(&[(5, 8, 100)]), "reaches past the end"),
        (mbr(&[(5, 8, 8), (0xF, 20, 8)]), "two extended partitions"),
        (mbr(&[(5, 8, 8)]), "sector 8 has no signature"),
        (mbr(&[(0xEE, 1, 63)]), "the GPT header is not"),
        (looped, "does not end after 128"),
    ];
    for (image, reason) in cases {
        let error = Layout::read(&image).unwrap_err().to_string();
        assert!(error.contains(reason), "{error:?} lacks {reason:?}");
    }
}

#[test]
fn a_gpt_with_any_damaged_byte_is_refused() {
    let disk = disk(8 * MIB, "label: gpt\nstart=2048,size=2048,type=linux\n");
    let pristine = std::fs::read(&disk.path).unwrap();
    for at in [512 + 8, 512 + 24, 512 + 72, 512 + 88, 1024 + 16, 1024 + 32, 1024 + 40, 1024 + 5 * 128] {
        let mut image = pristine.clone();
        image[at] ^= 1;
        let error = Layout::read(&MemImage(image)).unwrap_err().to_string();
        assert!(error.contains("GUID partition table") && error.contains("checksum"), "byte {at}: {error}");
        assert!(error.contains("spare at the end of the image is whole"), "byte {at}: {error}");
    }
    let end = pristine.len() / 4;
    let truncated = Layout::read(&MemImage(pristine[..end].to_vec())).unwrap();
    assert_eq!(truncated.partitions.len(), 1, "the partition still fits");
    assert!(matches!(Layout::read(&MemImage(pristine[..end - 512].to_vec())), Err(LayoutError::OutOfRange { number: 1, .. })));
}

#[test]
fn a_gpt_with_a_whole_spare_can_be_mended_as_the_refusal_says() {
    for first in [512..1024, 1024..1024 + 128 * 128, 512 + 88..512 + 92] {
        let disk = disk(8 * MIB, "label: gpt\nstart=2048,size=2048,type=linux\n");
        let sound = layout(&disk.path).unwrap();
        let mut image = std::fs::read(&disk.path).unwrap();
        image[first.clone()].fill(0);
        std::fs::write(&disk.path, &image).unwrap();
        let error = layout(&disk.path).unwrap_err().to_string();
        assert!(error.contains("spare at the end of the image is whole, `sgdisk -e IMAGE`"), "{first:?}: {error}");
        run("sgdisk", &["-e", arg(&disk.path)]);
        assert_eq!(layout(&disk.path).unwrap(), sound, "{first:?}");

        let spare = image.len() - 512;
        image[spare + 40] ^= 1;
        let error = Layout::read(&MemImage(image)).unwrap_err().to_string();
        assert!(error.contains("no whole spare at the end of the image either"), "{first:?}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever the bytes: an answer or an error, and the answer keeps what the type promises.
    #[test]
    fn hostile_images_never_panic(
        sectors in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 512), 1..40),
        patches in proptest::collection::vec((0usize..20_000, proptest::sample::select(vec![0u8, 1, 0x55, 0xAA, 5, 0xEE, 0x80, 0xEB, 0x53, 0xEF, 0xFF])), 0..24),
        kind in proptest::sample::select(vec!["mbr", "gpt", "ext", "fat"]),
    ) {
        let mut image: Vec<u8> = sectors.concat();
        let mut put = |at: usize, bytes: &[u8]| if let Some(place) = image.get_mut(at..at + bytes.len()) { place.copy_from_slice(bytes) };
        for entry in 0..4 { put(446 + 16 * entry, &[0x80]); }
        put(510, &[0x55, 0xAA]);
        match kind {
            "gpt" => { put(450, &[0xEE]); put(512, b"EFI PART") }
            "ext" => { put(510, &[0, 0]); put(1080, &[0x53, 0xEF]) }
            "fat" => { put(0, &[0xEB]); put(11, &[0, 2, 4, 1, 0, 2]); put(21, &[0xF8]) }
            _ => (),
        }
        for (at, value) in patches { put(at, &[value]); }
        let size = image.len() as u64;
        if let Ok(layout) = Layout::read(&MemImage(image)) {
            for pair in layout.partitions.windows(2) {
                prop_assert!(pair[0].end() <= pair[1].offset);
            }
            prop_assert!(layout.partitions.iter().all(|p| p.end() <= size));
            let _ = (layout.root(), layout.boot());
        }
    }

    /// Every pair of MBR entries that shares a sector is refused, every other is read as it is.
    #[test]
    fn mbr_entries_are_taken_or_refused_as_a_whole(a in (1u32..60, 1u32..30), b in (1u32..60, 1u32..30)) {
        let image = mbr(&[(0x83, a.0, a.1), (0x83, b.0, b.1)]);
        let apart = a.0 + a.1 <= b.0 || b.0 + b.1 <= a.0;
        let inside = a.0 + a.1 <= 64 && b.0 + b.1 <= 64;
        match Layout::read(&image) {
            Ok(layout) => prop_assert!(apart && inside && layout.partitions.len() == 2),
            Err(_) => prop_assert!(!apart || !inside),
        }
    }
}
