//! Images that are not what the inventory says, and a cache that is full or rots.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use metis_tests::card::{MIB, arg, has_no_table, ok, sha256};
use metis_tests::medium::Small;
use metis_tests::require;
use nix::sys::signal::Signal;

use crate::bench::{Bench, CARD, Used, able};

const CONFIG: &str = "card: { free_space_floor: 1 MiB, cache_dir: \"@DIR@/cache\" }\n";

/// Puts the right image into the inventory and has it reloaded.
fn correct(bench: &Bench, wrong: &str, published: &Path) {
    let path = bench.daemon.path("inventory.yaml");
    let inventory = fs::read_to_string(&path).unwrap();
    let right = inventory.replace(wrong, &bench.golden.sha256).replace(arg(published), arg(&bench.golden.published));
    fs::write(path, right).unwrap();
    bench.daemon.signal(Signal::SIGHUP).unwrap();
    let adopted = |log: &str| log.matches("in force, from").count() > 1;
    metis_tests::medium::wait_for("the reload", Duration::from_secs(10), || adopted(&bench.daemon.log())).unwrap();
}

/// A burn of this image fails so, the card stays as it was; once the inventory is right, it is burnt.
fn refused(bench: &mut Bench, used: &Used, published: &Path, sum: &str, words: &[&str]) {
    let device = &used.device.device;
    bench.failed(&bench.burn(device), 1, words);
    used.is_untouched();
    bench.cache_is_verified();
    correct(bench, sum, published);
    bench.burns(device);
    bench.in_order("burn-1", "failed", words);
}

#[test]
fn another_digest_than_the_inventory_says() {
    if !able("wrong sha256") {
        return;
    }
    let used = Used::new(CARD);
    let wrong = "0".repeat(64);
    let golden = metis_tests::card::golden().unwrap();
    let mut bench = Bench::with(&golden.published, &wrong, CONFIG).started();
    let words = [arg(&golden.published), &golden.sha256, &format!("expected {wrong}"), "nothing of it was used", "Correct the sha256"];
    refused(&mut bench, &used, &golden.published, &wrong, &words);
}

#[test]
fn cut_off_in_the_middle() {
    if !able("truncated image") {
        return;
    }
    let golden = metis_tests::card::golden().unwrap();
    for (ending, program, level) in [("xz", "xz", "-0"), ("zst", "zstd", "-1")] {
        let used = Used::new(CARD);
        let cut: PathBuf = used.dir.path().join(format!("cut.img.{ending}"));
        ok("sh", &["-c", &format!("{program} -q {level} -c {} | head -c 20000000 >{}", arg(&golden.raw), arg(&cut))]).unwrap();
        // The inventory has the digest of what was published, which is cut off.
        let sum = sha256(&fs::read(&cut).unwrap());
        let mut bench = Bench::with(&cut, &sum, CONFIG).started();
        let words = [arg(&cut), "unpacking it failed", "the published file is damaged"];
        refused(&mut bench, &used, &cut, &sum, &words);
    }
}

#[test]
fn not_there_at_all() {
    if !able("missing image") {
        return;
    }
    let used = Used::new(CARD);
    let golden = metis_tests::card::golden().unwrap();
    let none = used.dir.path().join("none.img.zst");
    let mut bench = Bench::with(&none, &golden.sha256, CONFIG).started();
    let words = [arg(&none), "No such file or directory", "check that the file exists"];
    let sum = golden.sha256.clone();
    refused(&mut bench, &used, &none, &sum, &words);
}

#[test]
fn the_cache_disk_is_full() {
    if !able("full cache disk") {
        return;
    }
    let used = Used::new(CARD);
    let golden = metis_tests::card::golden().unwrap();
    let mut bench = Bench::with(&golden.published, &golden.sha256, CONFIG);
    let disk = Small::mount(&bench.daemon.path("cache"), 20).unwrap();
    bench.daemon.start().unwrap();
    let words = [arg(&disk.dir), "bytes free", "card.free_space_floor", "Free some space or lower the floor"];
    bench.failed(&bench.burn(&used.device.device), 1, &words);
    used.is_untouched();
    bench.cache_is_verified();
    disk.resize(200).unwrap();
    bench.burns(&used.device.device);
    bench.in_order("burn-1", "failed", &words);
    drop(bench);
    drop(disk);
}

/// Changes one byte of the only image in the cache.
fn rot(bench: &Bench, at: u64) {
    let image = bench.daemon.path("cache").join(format!("{}.img", bench.golden.sha256));
    let file = File::options().read(true).write(true).open(image).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn a_cached_image_rots() {
    if !able("bit rot in the cache") || !require::root("bit rot in the cache") {
        return;
    }
    let used = Used::new(CARD);
    let mut bench = Bench::start();
    let device = &used.device.device;
    bench.burns(device);

    // In the header: noticed before it is used, and fetched anew.
    rot(&bench, 40);
    bench.burns(device);
    assert!(bench.daemon.log().contains("removed a damaged image from the cache"));

    // In the middle of the data: noticed while the card is written.
    rot(&bench, 20 * MIB);
    let words = [arg(&bench.daemon.path("cache")), "is damaged at byte", "removed from the cache"].map(str::to_owned);
    let words = words.each_ref().map(String::as_str);
    bench.failed(&bench.burn(device), 1, &words);
    has_no_table(device).unwrap();
    bench.cache_is_verified();
    bench.burns(device);
    bench.in_order("burn-3", "failed", &words);
}
