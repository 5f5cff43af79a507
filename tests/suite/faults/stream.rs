//! Images that metisctl writes: its disk is full, it is killed or interrupted in the middle, the daemon goes away.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use metis_tests::card::{self, MIB, arg, has_no_table, is_clean, partition, tables};
use metis_tests::daemon::Answer;
use metis_tests::medium::{Small, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bench::{Bench, able};

fn image_to(path: &Path) -> [&str; 6] {
    ["image", "--node", "pi-1", "--output", arg(path), "--execute"]
}

fn burn_to(path: &Path) -> [&str; 6] {
    ["burn", "--node", "pi-1", "--device", arg(path), "--yes"]
}

/// A sparse file of the image's size that has been a card.
fn old_file(path: &Path) {
    File::create(path).unwrap().set_len(card::SIZE).unwrap();
    partition(path, "label: gpt\nstart=2048,size=8192\n").unwrap();
    assert_eq!(tables(path).unwrap(), [true; 3]);
}

#[test]
fn the_disk_of_the_file_is_full() {
    if !able("full disk of the file") {
        return;
    }
    let mut bench = Bench::start();
    let disk = Small::mount(&bench.daemon.path("small"), 24).unwrap();
    let (image, file) = (disk.dir.join("pi-1.img"), disk.dir.join("pi-1.card"));
    let words = ["No space left on device", "cannot write", "at byte"];

    let made = bench.ctl(&image_to(&image));
    bench.failed(&made, 1, &words);
    bench.failed(&made, 1, &[arg(&image), "was not made", "the partial file is removed"]);
    assert_eq!(fs::read_dir(&disk.dir).unwrap().count(), 0);

    old_file(&file);
    let burnt = bench.ctl(&burn_to(&file));
    bench.failed(&burnt, 1, &words);
    bench.failed(&burnt, 1, &[arg(&file), "has no partition table", "not a valid card"]);
    has_no_table(&file).unwrap();

    disk.resize(200).unwrap();
    bench.failed(&bench.ctl(&burn_to(&file)), 0, &["read back"]);
    is_clean(&file, &disk.dir).unwrap();
    bench.in_order("image-1", "failed", &["the caller could not write it", "No space left on device"]);
    bench.in_order("burn-2", "failed", &["the caller could not write it", "No space left on device"]);
    drop(bench);
    drop(disk);
}

/// A metisctl that was stopped (SIGSTOP) with the file half written: the daemon waits for it to take more.
struct Half(Option<Child>);

impl Half {
    fn begin(bench: &Bench, arguments: &[&str], grows: &Path) -> Self {
        let child = Self(Some(bench.begin(arguments)));
        let written = || fs::metadata(grows).is_ok_and(|file| file.blocks() * 512 > 2 * MIB);
        wait_for("the middle of the file", Duration::from_secs(30), written).unwrap();
        child.signal(Signal::SIGSTOP);
        assert_eq!(bench.last_run()["phase"], "running");
        child
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.as_ref().unwrap().id()).unwrap()), signal).unwrap();
    }

    /// Goes on, with this signal pending; what it said in the end.
    fn ends(mut self, bench: &Bench, pending: Option<Signal>) -> Answer {
        if let Some(signal) = pending {
            self.signal(signal);
        }
        self.signal(Signal::SIGCONT);
        bench.end(self.0.take().unwrap())
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Paths of an image, its partial file, and an old card file.
fn paths(bench: &Bench) -> (PathBuf, PathBuf, PathBuf) {
    let file = bench.daemon.path("pi-1.card");
    old_file(&file);
    (bench.daemon.path("pi-1.img"), bench.daemon.path("pi-1.img.part"), file)
}

#[test]
fn metisctl_ends_in_the_middle() {
    if !able("metisctl ends in the middle") {
        return;
    }
    let mut bench = Bench::start();
    let (image, part, file) = paths(&bench);
    for (run, arguments, grows) in [("image-1", image_to(&image), &part), ("burn-2", burn_to(&file), &file)] {
        let half = Half::begin(&bench, &arguments, grows);
        assert_eq!(half.ends(&bench, Some(Signal::SIGKILL)).code, None);
        let closed = |v: &serde_json::Value| v["run"]["ended"].is_string();
        bench.daemon.until(Duration::from_secs(10), &["run", "get", run], closed).unwrap();
    }
    assert!(!image.exists(), "an image appears complete or not at all");
    assert_eq!(fs::metadata(&part).unwrap().mode() & 0o777, 0o600, "it holds secrets");
    has_no_table(&file).unwrap();

    // What was left behind is taken over.
    for (arguments, made) in [(image_to(&image), &image), (burn_to(&file), &file)] {
        bench.failed(&bench.ctl(&arguments), 0, &["read back"]);
        is_clean(made, bench.daemon.dir.path()).unwrap();
    }
    assert!(!part.exists());

    // Ctrl-C cleans up.
    fs::remove_file(&image).unwrap();
    let half = Half::begin(&bench, &image_to(&image), &part);
    let answer = half.ends(&bench, Some(Signal::SIGINT));
    bench.failed(&answer, 130, &["cancelled by Ctrl-C", arg(&image), "the partial file is removed"]);
    assert!(!image.exists() && !part.exists());
    let gone = ["the caller went away before his copy was finished"];
    bench.in_order("image-1", "failed", &gone);
    bench.in_order("burn-2", "failed", &gone);
    bench.in_order("image-5", "cancelled", &["cancelled by root (uid 0)", "the caller's copy is not finished"]);
}

#[test]
fn the_daemon_ends_in_the_middle() {
    if !able("the daemon ends in the middle of a stream") {
        return;
    }
    let mut bench = Bench::start();
    let (image, part, file) = paths(&bench);

    let half = Half::begin(&bench, &image_to(&image), &part);
    bench.daemon.kill().unwrap();
    let answer = half.ends(&bench, None);
    bench.failed(&answer, 1, &["metisd broke off", arg(&image), "the partial file is removed"]);
    assert!(!image.exists() && !part.exists());
    bench.daemon.start().unwrap();

    let half = Half::begin(&bench, &burn_to(&file), &file);
    bench.daemon.stop().unwrap();
    let answer = half.ends(&bench, None);
    bench.failed(&answer, 1, &["metisd", arg(&file), "has no partition table"]);
    has_no_table(&file).unwrap();
    bench.daemon.start().unwrap();

    bench.failed(&bench.ctl(&burn_to(&file)), 0, &["read back"]);
    is_clean(&file, bench.daemon.dir.path()).unwrap();
    bench.in_order("image-1", "failed", &["interrupted: metisd stopped while step image.stream ran", "is not to be used"]);
    bench.in_order("burn-2", "cancelled", &["metisd was told to stop"]);
}
