//! `image`, and `burn` to a file.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use metis_proto::v1;

use crate::fake::{Fake, Fault, Image, bytes};
use crate::sample::{self, MIB};
use crate::{cannot, is_root, run, spawn, str};

const CARD: [&str; 2] = ["--node", "titan-13"];

/// What a fresh file must hold.
fn whole(image: &Image) -> Vec<u8> {
    let mut all = vec![0; image.size as usize];
    for (offset, data) in &image.extents {
        all[*offset as usize..][..data.len()].copy_from_slice(data);
    }
    all
}

fn image(fake: &Fake, output: &Path) -> crate::Ran {
    run(&fake.socket(), &[&["image", "--execute", "--output", output.to_str().unwrap()], &CARD[..]].concat())
}

fn burn(fake: &Fake, device: &Path) -> crate::Ran {
    run(&fake.socket(), &[&["burn", "--yes", "--device", device.to_str().unwrap()], &CARD[..]].concat())
}

#[test]
fn an_image_has_every_byte_is_sparse_and_private() {
    let fake = Fake::start(Fault::None);
    let file = fake.path("x.img");
    std::fs::write(&file, "an older image").unwrap();
    let ran = image(&fake, &file);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(bytes(&file) == whole(&sample::image()));
    let meta = std::fs::metadata(&file).unwrap();
    assert_eq!(meta.mode() & 0o777, 0o600);
    assert!(meta.blocks() * 512 < sample::image().size, "not sparse: {} blocks", meta.blocks());
    assert!(!fake.path("x.img.part").exists());
    assert!(ran.out.contains("8.39 MB, of which 3.21 MB in use were written and read back"), "{}", ran.out);
    let heard = fake.heard();
    let start = heard.start.unwrap();
    assert_eq!((start.purpose.as_str(), start.target.as_str()), ("image", str(&file)));
    assert!(heard.result.unwrap().ok);
    let last = heard.progress.last().unwrap();
    assert_eq!((last.written_bytes, last.verified_bytes), (sample::image().total(), sample::image().total()));
}

#[test]
fn a_run_that_is_closed_a_little_later_is_waited_for() {
    let fake = Fake::start(Fault::EarlyEnd);
    let ran = image(&fake, &fake.path("x.img"));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("image-3 done"), "{}", ran.out);
}

#[test]
fn a_result_as_json() {
    let fake = Fake::start(Fault::None);
    let file = fake.path("x.img");
    let ran = run(&fake.socket(), &["-o", "json", "image", "--execute", "--output", str(&file), "--node", "titan-13"]);
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(json["file"], str(&file));
    assert_eq!(json["size_bytes"], 8 * MIB);
    assert_eq!(json["sha256"], sample::image().sha256());
    assert_eq!(json["run"]["phase"], "done");
}

#[test]
fn a_card_file_is_made_with_the_size_of_the_image() {
    let fake = Fake::start(Fault::None);
    let file = fake.path("card.img");
    let ran = burn(&fake, &file);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(bytes(&file) == whole(&sample::image()));
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fake.heard().start.unwrap().purpose, "burn");
}

#[test]
fn an_existing_card_file_is_written_in_place() {
    let fake = Fake::start(Fault::None);
    let file = fake.path("card.img");
    let size = 10 * MIB as usize;
    std::fs::write(&file, vec![0xaa; size]).unwrap();
    let inode = std::fs::metadata(&file).unwrap().ino();
    assert_eq!(burn(&fake, &file).code, 0);
    let mut expected = vec![0xaa; size];
    let mib = MIB as usize;
    for end in [mib, 8 * mib, size] {
        expected[end - mib..end].fill(0);
    }
    for (offset, data) in &sample::image().extents {
        expected[*offset as usize..][..data.len()].copy_from_slice(data);
    }
    assert!(bytes(&file) == expected);
    assert_eq!(std::fs::metadata(&file).unwrap().ino(), inode);
}

#[test]
fn a_card_file_smaller_than_the_image_is_refused_untouched() {
    let fake = Fake::start(Fault::None);
    let file = fake.path("card.img");
    std::fs::write(&file, vec![0xaa; 4 * MIB as usize]).unwrap();
    let ran = burn(&fake, &file);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.err.contains("file.too-small: ") && ran.err.contains("(cannot be waived)"), "{}", ran.err);
    assert!(bytes(&file) == vec![0xaa; 4 * MIB as usize]);
    fake.until("said that it failed", |h| h.result.as_ref().is_some_and(|r| !r.ok && r.error.contains("too-small")));
    let dry = run(&fake.socket(), &["burn", "--node", "titan-13", "--device", str(&file)]);
    assert_eq!(dry.code, 3, "the dry run says the same: {dry:?}");
    assert!(dry.out.contains("would be refused: file.too-small"), "{}", dry.out);
}

#[test]
fn a_file_that_is_being_written_is_refused() {
    let fake = Fake::start(Fault::None);
    let file = fake.path("card.img");
    let open = std::fs::File::create(&file).unwrap();
    open.set_len(8 * MIB).unwrap();
    open.try_lock().unwrap();
    let ran = burn(&fake, &file);
    assert_eq!((ran.code, ran.err.contains("file.in-use")), (3, true), "{ran:?}");
}

#[test]
fn bytes_that_differ_from_the_digest_leave_nothing_valid() {
    let fake = Fake::start(Fault::CorruptTrailer);
    let (file, card) = (fake.path("x.img"), fake.path("card.img"));
    let ran = image(&fake, &file);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("not what the daemon sent") && ran.err.contains("the partial file is removed"), "{}", ran.err);
    assert!(!file.exists() && !fake.path("x.img.part").exists());
    assert!(!fake.heard().result.unwrap().ok);

    std::fs::write(&card, vec![0xaa; 8 * MIB as usize]).unwrap();
    let ran = burn(&fake, &card);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("has no partition table"), "{}", ran.err);
    assert!(bytes(&card)[..MIB as usize].iter().all(|b| *b == 0));
}

#[test]
fn a_daemon_that_dies_leaves_nothing_valid() {
    let mut fake = Fake::start(Fault::StallAfter(3));
    let file = fake.path("x.img");
    let child = spawn(&fake.socket(), &[&["image", "--execute", "--output", str(&file)], &CARD[..]].concat());
    fake.until("made the bytes durable", |h| h.progress.iter().any(|p| p.written_bytes > 0) || fake.path("x.img.part").exists());
    fake.die();
    let ran: crate::Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("broke off") && ran.err.contains("the partial file is removed"), "{}", ran.err);
    assert!(!file.exists() && !fake.path("x.img.part").exists());
}

#[test]
fn a_full_file_system_is_named() {
    if !is_root() {
        return cannot("a full file system", "mounting a tmpfs needs root");
    }
    let fake = Fake::start(Fault::None);
    let small = fake.path("small");
    std::fs::create_dir(&small).unwrap();
    if let Err(e) = nix::mount::mount(Some("tmpfs"), &small, Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=2m")) {
        return cannot("a full file system", &format!("no tmpfs: {e}"));
    }
    let ran = image(&fake, &small.join("x.img"));
    let left = std::fs::read_dir(&small).unwrap().count();
    let card = burn(&fake, &small.join("card.img"));
    let head = std::fs::read(small.join("card.img")).unwrap_or_default();
    nix::mount::umount(&small).unwrap();
    assert_eq!((ran.code, left), (1, 0), "{ran:?}");
    assert!(ran.err.contains("No space left on device") && ran.err.contains("x.img"), "{}", ran.err);
    assert_eq!(card.code, 1, "{card:?}");
    assert!(!head.is_empty() && head[..MIB as usize].iter().all(|b| *b == 0));
}

#[test]
fn a_larger_image_streams_through_a_bounded_queue() {
    let data = (0..12 * MIB).map(|n| (n >> 9) as u8).collect();
    let image = Image { size: 24 * MIB, extents: vec![(8 * MIB, data)] };
    let fake = Fake::with(Fault::None, image.clone(), v1::Phase::Done);
    let file = fake.path("x.img");
    assert_eq!(self::image(&fake, &file).code, 0);
    let mut found = vec![0; 12 * MIB as usize];
    std::fs::File::open(&file).unwrap().read_exact_at(&mut found, 8 * MIB).unwrap();
    assert!(found == image.extents[0].1);
}
