//! Media that fail in the middle: nbdkit answers EIO, or is gone.

use metis_tests::card::{has_no_table, used_card};
use metis_tests::medium::{Failing, Slow};
use metis_tests::require;

use crate::bench::{Bench, CARD, Stage, able};

fn ready(test: &str) -> bool {
    able(test) && Slow::able(test) && require::programs(test, &["nbdkit", "nbdfuse"])
}

#[test]
fn writes_and_reads_fail_in_the_middle() {
    if !ready("EIO in the middle") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    used_card(&disk, CARD).unwrap();
    let failing = Failing::over(&disk).unwrap();
    let mut bench = Bench::start();
    let card = failing.card().unwrap();
    let device = card.device.to_str().unwrap().to_owned();
    let cases = [("burn-1", Stage::Write, "pwrite", "writing"), ("burn-3", Stage::Verify, "pread", "reading back")];
    for (run, stage, what, doing) in cases {
        let slow = stage.slow(card);
        let burn = bench.begin_burn(card, stage, 12);
        failing.fail(what, true).unwrap();
        drop(slow);
        let words = [&format!("{doing} {device} at offset "), "Input/output error", "try another card", "partition table"];
        bench.failed(&bench.end(burn), 1, &words);
        failing.fail(what, false).unwrap();
        bench.afterwards(&card.device, run, "failed", &words);
    }
}

#[test]
fn the_card_is_pulled_out() {
    if !ready("card pulled out") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    used_card(&disk, CARD).unwrap();
    let mut failing = Failing::over(&disk).unwrap();
    let mut bench = Bench::start();
    let slow = Stage::Write.slow(failing.card().unwrap());
    let burn = bench.begin_burn(failing.card().unwrap(), Stage::Write, 12);
    failing.pull().unwrap();
    drop(slow);
    let words = ["writing /dev/loop", "Input/output error", "the card has no partition table"];
    bench.failed(&bench.end(burn), 1, &words);
    drop(failing);
    has_no_table(&disk).unwrap();
    // Plugged in again.
    let again = Failing::over(&disk).unwrap();
    bench.afterwards(&again.card().unwrap().device, "burn-1", "failed", &words);
}
