//! Devices that may not be written: refused, by the plan where it can be seen there, by the card writer where it cannot.

use std::fs::File;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use metis_tests::card::{self, MIB, arg, ok, used_card};
use metis_tests::medium::wait_for;
use metis_tests::require;
use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::bench::{Bench, CARD, Used, able, burn_of};

/// That the plan and the burn refuse it by this guard, with these words, and that no run came of it.
fn refused(bench: &Bench, device: &Path, guard: &str, words: &[&str]) {
    let plan = bench.ctl(&["plan", "--node", "pi-1", "--device", arg(device), "--allow-fixed"]);
    bench.failed(&plan, 3, &[guard, "it would be refused"]);
    bench.failed(&plan, 3, words);
    let burn = bench.burn(device);
    bench.failed(&burn, 3, &["refused: ", guard, "cannot be waived"]);
    bench.failed(&burn, 3, words);
    assert_eq!(bench.daemon.json(&["run", "list"]).unwrap()["runs"], serde_json::json!([]));
}

/// Brings the image into the cache, so that its size is known.
fn cached(bench: &Bench) {
    let image = bench.daemon.path("warm.img");
    assert_eq!(bench.ctl(&["image", "--node", "pi-1", "--output", arg(&image), "--execute"]).code, Some(0));
    std::fs::remove_file(image).unwrap();
}

#[test]
fn in_use_unfit_or_no_disk() {
    if !able("guards of devices") {
        return;
    }
    let used = Used::new(CARD);
    let mut bench = Bench::start();
    let device = used.device.device.clone();

    // Not removable, as loop devices are: the only guard that a flag waives.
    let fixed = bench.ctl(&["burn", "--node", "pi-1", "--device", arg(&device), "--yes"]);
    bench.failed(&fixed, 3, &["device.fixed", "is not removable", "waive it with --allow-fixed"]);
    bench.failed(&bench.ctl(&burn_of(Path::new("/dev/metis-none"))), 3, &["device.missing", "/dev/metis-none", "metisctl device"]);
    bench.failed(&bench.ctl(&burn_of(Path::new("/dev/null"))), 2, &["/dev/null is neither a block device nor a regular file"]);
    bench.failed(&bench.ctl(&["burn", "--node", "pi-1"]), 2, &["--device"]);
    bench.failed(
        &bench.ctl(&["burn", "--node", "pi-9", "--device", arg(&device), "--yes"]),
        1,
        &["the inventory has no node `pi-9`", "pi-1"],
    );

    ok("blockdev", &["--setro", arg(&device)]).unwrap();
    refused(&bench, &device, "device.read_only", &[arg(&device), "write-protect switch"]);
    ok("blockdev", &["--setrw", arg(&device)]).unwrap();

    ok("partx", &["-a", arg(&device)]).unwrap();
    let partition = PathBuf::from(format!("{}p1", device.display()));
    refused(&bench, &partition, "device.partition", &["whole disk, here", arg(&device)]);
    ok("partx", &["-d", arg(&device)]).unwrap();

    used.is_untouched();
    let mount = used.dir.path().join("mnt");
    std::fs::create_dir(&mount).unwrap();
    ok("mkfs.ext4", &["-q", "-F", arg(&device)]).unwrap();
    ok("mount", &[arg(&device), arg(&mount)]).unwrap();
    std::fs::write(mount.join("precious"), "data").unwrap();
    refused(&bench, &device, "device.mounted", &["is mounted at", arg(&mount), "unmount it first"]);
    assert_eq!(std::fs::read_to_string(mount.join("precious")).unwrap(), "data");
    ok("umount", &[arg(&mount)]).unwrap();

    bench.burns(&device);
    bench.in_order("last", "done", &[]);
    bench.daemon.stop().unwrap();
    bench.failed(&bench.burn(&device), 4, &["metisd", "start it with"]);
}

#[test]
fn the_system_disk_is_refused_without_waiver() {
    if !require::root("system disk") {
        return;
    }
    let number = std::fs::metadata("/").unwrap().dev();
    let link = PathBuf::from(format!("/sys/dev/block/{}:{}", nix::sys::stat::major(number), nix::sys::stat::minor(number)));
    let Ok(block) = link.canonicalize() else {
        return require::not_run("system disk", "/ is on no block device");
    };
    let disk = if block.join("partition").exists() { block.parent().unwrap().to_path_buf() } else { block };
    let disk = Path::new("/dev").join(disk.file_name().unwrap());
    let bench = Bench::start();
    // Only planned: this test never asks for it to be written.
    let plan = bench.ctl(&["plan", "--node", "pi-1", "--device", arg(&disk), "--allow-fixed", "-o", "json"]);
    bench.failed(&plan, 3, &[]);
    let refusals = plan.json().unwrap()["plan"]["refusals"].clone();
    let system = refusals.as_array().unwrap().iter().find(|g| g["name"] == "device.system").unwrap();
    assert!(system["waiver"].is_null() && system["message"].as_str().unwrap().contains("of this running host"), "{refusals:#}");
    bench.failed(&bench.ctl(&["device"]), 0, &[arg(&disk)]);
}

#[test]
fn too_small_is_found_before_the_first_byte() {
    if !able("card too small") {
        return;
    }
    let (small, large) = (Used::new(card::SIZE - 16 * MIB), Used::new(CARD));
    let mut bench = Bench::start();
    let device = &small.device.device;
    let words = ["67.1 MB", "83.9 MB", "take a larger one"];

    // The size is not known before the image is there: the writer finds out.
    let burn = bench.burn(device);
    bench.failed(&burn, 1, &[&["refused", arg(device)], &words[..]].concat());
    small.is_untouched();
    assert_eq!(bench.last_run()["id"], "burn-1");

    // Now it is known, and nothing begins.
    let burn = bench.burn(device);
    bench.failed(&burn, 3, &["device.too_small", words[0], words[1], words[2]]);
    assert_eq!(bench.last_run()["id"], "burn-1");
    small.is_untouched();
    bench.burns(&large.device.device);
    bench.in_order("burn-1", "failed", &words);
}

#[test]
fn a_device_that_somebody_holds_is_left_alone() {
    if !able("device already open") {
        return;
    }
    let used = Used::new(CARD);
    let mut bench = Bench::start();
    let device = used.device.device.clone();
    cached(&bench);

    let holder = File::options().read(true).custom_flags(OFlag::O_EXCL.bits()).open(&device).unwrap();
    let words = [arg(&device), "is in use", "open exclusively", "fuser"];
    bench.failed(&bench.burn(&device), 1, &words);
    drop(holder);
    used.is_untouched();

    let holder = Flock::lock(File::open(&device).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
    let locked = [arg(&device), "is locked (flock)", "lslocks"];
    bench.failed(&bench.burn(&device), 1, &locked);
    drop(holder);
    used.is_untouched();

    bench.burns(&device);
    bench.in_order("burn-2", "failed", &words);
    bench.in_order("burn-3", "failed", &locked);
}

#[test]
fn another_medium_in_the_same_place_is_left_alone() {
    if !able("device changed after the plan") {
        return;
    }
    let used = Used::new(CARD);
    let mut bench = Bench::start();
    let device = used.device.device.clone();
    let other = used.dir.path().join("other");
    used_card(&other, CARD).unwrap();

    // Between plan and write lies the fetch; it waits for whoever fetches the same image.
    std::fs::create_dir(bench.daemon.path("cache")).unwrap();
    let lock = File::create(bench.daemon.path("cache").join(format!("{}.lock", bench.golden.sha256))).unwrap();
    lock.lock().unwrap();
    let burn = bench.begin(&burn_of(&device));
    wait_for("the run to begin", Duration::from_secs(10), || bench.daemon.log().contains("image.fetch")).unwrap();
    ok("losetup", &["-d", arg(&device)]).unwrap();
    ok("losetup", &["--direct-io=on", arg(&device), arg(&other)]).unwrap();
    lock.unlock().unwrap();

    let words = [arg(&device), "is not the medium that was planned", "diskseq", "plan again"];
    bench.failed(&bench.end(burn), 1, &words);
    used.is_untouched();
    bench.burns(&device);
    bench.in_order("burn-1", "failed", &words);
}
