//! A burn that goes well: every byte that counts, on a device and in a file.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use metis_tests::card::{self, arg, is_clean, tables, used_card};
use metisd::card::Extent;

use crate::bench::{Bench, CARD, Used, able};

/// The bytes of those ranges.
fn read(path: &std::path::Path, extents: &[Extent]) -> Vec<Vec<u8>> {
    let file = File::open(path).unwrap();
    let one = |extent: &Extent| {
        let mut bytes = vec![0; extent.len as usize];
        file.read_exact_at(&mut bytes, extent.offset).unwrap();
        bytes
    };
    extents.iter().map(one).collect()
}

/// What the file has data for: `image` writes sparsely, so that this is what is in use.
fn data_of(path: &std::path::Path) -> Vec<Extent> {
    use nix::unistd::{Whence, lseek};
    let file = File::open(path).unwrap();
    let mut found = Vec::new();
    let mut at = 0;
    while let Ok(begin) = lseek(&file, at, Whence::SeekData) {
        let end = lseek(&file, begin, Whence::SeekHole).unwrap();
        found.push(Extent { offset: begin as u64, len: (end - begin) as u64 });
        at = end;
    }
    found
}

#[test]
fn device_file_and_image_hold_the_same_bytes() {
    if !able("happy burn") {
        return;
    }
    let used = Used::new(CARD);
    let bench = Bench::start();
    let device = &used.device.device;
    let (image, file) = (used.dir.path().join("pi-1.img"), used.dir.path().join("pi-1.card"));
    used_card(&file, CARD).unwrap();

    bench.burns(device);
    let made = bench.ctl(&["image", "--node", "pi-1", "--output", arg(&image), "--execute"]);
    bench.failed(&made, 0, &["read back", "done"]);
    let burnt = bench.ctl(&["burn", "--node", "pi-1", "--device", arg(&file), "--yes"]);
    bench.failed(&burnt, 0, &["read back", "done"]);

    let extents = data_of(&image);
    let total: u64 = extents.iter().map(|e| e.len).sum();
    assert!(total > 36 << 20 && total < card::SIZE * 3 / 4, "in use are {total} bytes in {extents:?}");
    let wanted = read(&image, &extents);
    for copy in [device, &file] {
        assert!(read(copy, &extents) == wanted, "{} differs from the image", copy.display());
        assert_eq!(tables(copy).unwrap(), [true, false, false]);
        is_clean(copy, used.dir.path()).unwrap();
    }
    is_clean(&image, used.dir.path()).unwrap();
    // Free space is not written: it keeps what was there.
    let free = Extent { offset: extents.last().map(|e| e.offset + e.len).unwrap(), len: 4096 };
    assert!(read(device, &[free])[0].iter().all(|b| *b == 0xA5));
    let plan = bench.ctl(&["plan", "--node", "pi-1", "--device", arg(device), "--allow-fixed"]);
    bench.failed(&plan, 0, &["cached"]);
    bench.cache_is_verified();
    bench.tells_no_secret();
}
