//! Processes that end in the middle of a burn: the daemon, the card writer, metisctl; and burns that are told to end.

use std::fs;
use std::path::Path;
use std::time::Duration;

use metis_tests::card::has_no_table;
use metis_tests::medium::{Slow, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bench::{Bench, CARD, Stage, Used, able};

fn ready(test: &str) -> bool {
    able(test) && Slow::able(test)
}

/// The card writer, by its parent.
fn writer_of(daemon: u32) -> Pid {
    let parent = format!("PPid:\t{daemon}\n");
    let children = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok());
    let mut writers = children.filter(|pid| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        read("status").contains(&parent) && read("cmdline").contains("card-writer")
    });
    let writer = writers.next().unwrap();
    assert_eq!(writers.next(), None, "one writer for one burn");
    Pid::from_raw(writer)
}

/// Waits until a process has let go of its device.
fn gone(pid: Pid) {
    let proc = format!("/proc/{pid}");
    // A zombie holds nothing any more.
    let ended = || fs::read_to_string(format!("{proc}/stat")).map_or(true, |stat| stat.contains(") Z ") || stat.contains(") X "));
    wait_for("the card writer to end", Duration::from_secs(30), ended).unwrap();
}

const INTERRUPTED: [&str; 4] =
    ["interrupted: metisd stopped while step card.write ran", "is not to be used", "partition table is written last", "burn it again"];

#[test]
fn the_daemon_is_killed() {
    if !ready("kill -9 of metisd") {
        return;
    }
    let used = Used::new(CARD);
    let mut bench = Bench::start();
    let device = &used.device;
    for (run, stage) in [("burn-1", Stage::Write), ("burn-3", Stage::Verify)] {
        let slow = stage.slow(device);
        let burn = bench.begin_burn(device, stage, 12);
        let writer = writer_of(bench.daemon.pid().unwrap());
        bench.daemon.kill().unwrap();
        drop(slow);
        gone(writer);
        has_no_table(&device.device).unwrap();
        bench.daemon.start().unwrap();
        // metisctl waited for the daemon to come back, and tells how the run ended.
        bench.failed(&bench.end(burn), 1, &INTERRUPTED);
        bench.afterwards(&device.device, run, "failed", &INTERRUPTED);
    }
}

#[test]
fn the_card_writer_is_killed() {
    if !ready("kill -9 of the card writer") {
        return;
    }
    let used = Used::new(CARD);
    let mut bench = Bench::start();
    let device = &used.device;
    let words = ["the card writer died (signal: 9 (SIGKILL))", "the card has no partition table", "burn again"];
    for (run, stage) in [("burn-1", Stage::Write), ("burn-3", Stage::Verify)] {
        let slow = stage.slow(device);
        let burn = bench.begin_burn(device, stage, 12);
        kill(writer_of(bench.daemon.pid().unwrap()), Signal::SIGKILL).unwrap();
        drop(slow);
        bench.failed(&bench.end(burn), 1, &words);
        bench.afterwards(&device.device, run, "failed", &words);
    }
}

/// SIGTERM of metisd in the middle of a burn to a device that takes `rate` bytes a second; what is said of it then and afterwards.
fn told_to_stop(rate: u64, mib: u64, words: &[&str]) {
    let used = Used::new(CARD);
    let mut bench = Bench::start();
    let device = &used.device;
    let slow = Slow::down(device, rate, 0).unwrap();
    let burn = bench.begin_burn(device, Stage::Write, mib);
    let writer = writer_of(bench.daemon.pid().unwrap());
    let took = bench.daemon.stop().unwrap();
    assert!(took < Duration::from_secs(10), "{took:?}");
    // metisctl hears of it before the daemon ends.
    bench.failed(&bench.end(burn), 1, words);
    drop(slow);
    gone(writer);
    has_no_table(&device.device).unwrap();
    bench.daemon.start().unwrap();
    bench.afterwards(&device.device, "burn-1", "cancelled", words);
}

#[test]
fn the_daemon_is_told_to_stop() {
    if ready("SIGTERM of metisd") {
        told_to_stop(4 << 20, 8, &["metisd was told to stop: stopped on request", "without a partition table"]);
    }
}

/// A device that holds the writer in the kernel for longer than a stop may take.
#[test]
fn the_daemon_does_not_wait_for_a_device_that_hangs() {
    if ready("SIGTERM of metisd with a device that hangs") {
        told_to_stop(1 << 20, 3, &["metisd was told to stop", "no longer waited for", "is not to be used", "burn it again"]);
    }
}

#[test]
fn a_run_is_cancelled() {
    if !ready("cancel") {
        return;
    }
    let used = Used::new(CARD);
    let mut bench = Bench::start();
    let device = &used.device;
    for (run, stage) in [("burn-1", Stage::Write), ("burn-3", Stage::Verify)] {
        let slow = stage.slow(device);
        let burn = bench.begin_burn(device, stage, 12);
        let would = bench.ctl(&["run", "cancel", run]);
        bench.failed(&would, 0, &["would mean", "partition table is written last", "DRY RUN"]);
        assert_eq!(bench.last_run()["phase"], "running");
        bench.failed(&bench.ctl(&["run", "cancel", run, "--execute"]), 0, &["is cancelled"]);
        drop(slow);
        let words = ["cancelled by root (uid 0): stopped on request", "without a partition table"];
        bench.failed(&bench.end(burn), 1, &words);
        bench.afterwards(&device.device, run, "cancelled", &words);
    }
    bench.failed(&bench.ctl(&["run", "cancel", "burn-1", "--execute"]), 3, &["burn-1 has ended already"]);
}

#[test]
fn metisctl_is_interrupted_and_the_run_goes_on() {
    if !ready("Ctrl-C of metisctl") {
        return;
    }
    let used = Used::new(CARD);
    let mut bench = Bench::start();
    let device = &used.device;
    for (signal, code) in [(Signal::SIGINT, Some(130)), (Signal::SIGKILL, None)] {
        let slow = Stage::Write.slow(device);
        let burn = bench.begin_burn(device, Stage::Write, 12);
        kill(Pid::from_raw(i32::try_from(burn.id()).unwrap()), signal).unwrap();
        let answer = bench.end(burn);
        assert_eq!(answer.code, code, "{answer:?}");
        if code.is_some() {
            bench.failed(&answer, 130, &["detached: burn-1 goes on in metisd", "run watch burn-1"]);
        }
        assert_eq!(bench.last_run()["phase"], "running");
        drop(slow);
        bench.failed(&bench.ctl(&["run", "watch", "last"]), 0, &["done", "insert the card and power on"]);
        is_finished(&device.device);
    }
    bench.in_order("burn-1", "done", &[]);
    bench.in_order("burn-2", "done", &[]);
}

fn is_finished(device: &Path) {
    assert_eq!(metis_tests::card::tables(device).unwrap(), [true, false, false]);
}
