//! Ctrl-C.

use std::process::Child;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fake::{Fake, Fault};
use crate::{Ran, spawn, str};

fn interrupt(child: &Child) {
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
}

fn ended(child: Child) -> Ran {
    child.wait_with_output().unwrap().into()
}

#[test]
fn a_burn_goes_on_and_the_way_back_is_printed() {
    let fake = Fake::start(Fault::Endless);
    let child = spawn(&fake.socket(), &["burn", "--yes", "--node", "titan-13", "--device", "/dev/metis-no-such-disk"]);
    fake.until("watched", |h| h.watches == [0]);
    std::thread::sleep(Duration::from_millis(500));
    interrupt(&child);
    let ran = ended(child);
    assert_eq!(ran.code, 130, "{ran:?}");
    let again = format!("attach again with `metisctl --socket {} run watch burn-17 --from-seq 2`", str(&fake.socket()));
    assert!(ran.err.contains("detached: burn-17 goes on in metisd") && ran.err.contains(&again), "{}", ran.err);
}

#[test]
fn an_image_is_cancelled_and_removed() {
    let fake = Fake::start(Fault::StallAfter(3));
    let file = fake.path("x.img");
    let child = spawn(&fake.socket(), &["image", "--execute", "--node", "titan-13", "--output", str(&file)]);
    fake.until("began to write", |h| h.progress.len() > 1);
    interrupt(&child);
    let ran = ended(child);
    assert_eq!(ran.code, 130, "{ran:?}");
    assert!(ran.err.contains("cancelled by Ctrl-C") && ran.err.contains("the partial file is removed"), "{}", ran.err);
    assert!(!file.exists() && !fake.path("x.img.part").exists());
    let result = fake.heard().result.unwrap();
    assert!(!result.ok && result.error.contains("cancelled"), "{result:?}");
}

#[test]
fn a_second_ctrl_c_leaves_at_once() {
    let fake = Fake::start(Fault::Deaf);
    let file = fake.path("x.img");
    let child = spawn(&fake.socket(), &["image", "--execute", "--node", "titan-13", "--output", str(&file)]);
    fake.until("began to write", |h| h.progress.len() > 1);
    interrupt(&child);
    std::thread::sleep(Duration::from_millis(500));
    let asked = std::time::Instant::now();
    interrupt(&child);
    let ran = ended(child);
    assert_eq!(ran.code, 130, "{ran:?}");
    assert!(asked.elapsed() < Duration::from_secs(3), "it waited for a daemon that does not listen: {:?}", asked.elapsed());
    assert!(!file.exists() && !fake.path("x.img.part").exists());
}

#[test]
fn a_card_file_that_is_cancelled_has_no_table() {
    let fake = Fake::start(Fault::StallAfter(3));
    let card = fake.path("card.img");
    std::fs::write(&card, vec![0xaa; 8 << 20]).unwrap();
    let child = spawn(&fake.socket(), &["burn", "--yes", "--node", "titan-13", "--device", str(&card)]);
    fake.until("began to write", |h| h.progress.len() > 1);
    interrupt(&child);
    let ran = ended(child);
    assert_eq!(ran.code, 130, "{ran:?}");
    assert!(ran.err.contains("has no partition table"), "{}", ran.err);
    assert!(std::fs::read(&card).unwrap()[..1 << 20].iter().all(|b| *b == 0));
}

#[test]
fn a_watch_ends_well() {
    let fake = Fake::start(Fault::None);
    for command in ["status", "ups"] {
        let child = spawn(&fake.socket(), &[command, "--watch", "-o", "json"]);
        std::thread::sleep(Duration::from_millis(700));
        interrupt(&child);
        let ran = ended(child);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(!ran.out.is_empty());
        for line in ran.out.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }
}
