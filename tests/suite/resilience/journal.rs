//! Journals that cannot be used: of a newer metis, and damaged ones.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use metis_tests::daemon::Daemon;

use super::lab::{self, NODE, Outage};

/// The steps of a journal of schema 99, each with its row.
const NEWER: &str = "WITH RECURSIVE step(n) AS (SELECT 3 UNION ALL SELECT n + 1 FROM step WHERE n < 99) \
                     INSERT INTO schema_version SELECT n, 0 FROM step";

/// A daemon, stopped, whose journal holds a complete burn.
fn burnt(outage: &Outage) -> Daemon {
    let mut daemon = lab::site(&outage.config());
    daemon.start().unwrap();
    burn(&daemon, Some(0));
    daemon.stop().unwrap();
    daemon
}

/// Burns to a file; what was said.
fn burn(daemon: &Daemon, code: Option<i32>) -> String {
    let card = daemon.path("card.img");
    let burnt = daemon.ctl(&["burn", "--node", NODE, "--device", card.to_str().unwrap(), "--yes"]).unwrap();
    assert_eq!(burnt.code, code, "{burnt:?}\n{}", daemon.log());
    burnt.text()
}

/// The UPS is watched: an outage that begins now leads to a trigger, which is shown; and it is over.
pub fn assert_an_outage_is_seen(daemon: &Daemon, outage: &Outage) {
    outage.mains(false);
    let shown = daemon.until(Duration::from_secs(20), &["ups"], |ups| !ups["domains"][0]["trigger"].is_null()).unwrap();
    assert_eq!(shown["domains"][0]["verdict"], "critical", "{shown:#}");
    assert_eq!(shown["domains"][0]["trigger"]["acted"], false, "{shown:#}");
    outage.mains(true);
    daemon.until(Duration::from_secs(20), &["ups"], |ups| ups["domains"][0]["verdict"] == "online").unwrap();
}

/// What `metisctl status` tells a person first.
pub fn problems(daemon: &Daemon) -> String {
    let answer = daemon.ctl(&["status"]).unwrap();
    assert_eq!(answer.code, Some(0), "{answer:?}");
    answer.out.lines().take_while(|line| line.starts_with("PROBLEM")).collect::<Vec<_>>().join("\n")
}

fn alter(daemon: &Daemon, statement: &str) {
    rusqlite::Connection::open(daemon.path("state/journal.db")).unwrap().execute_batch(statement).unwrap();
}

#[test]
fn a_journal_of_a_newer_metis_is_read_and_left_alone_while_the_ups_is_watched() {
    let newer = [
        (NEWER, "schema 99"),
        ("INSERT INTO kind (kind, version) VALUES ('run.admitted', 9)", "fact run.admitted version 9"),
        ("INSERT INTO kind (kind, version) VALUES ('shutdown.rehearsed', 1)", "fact shutdown.rehearsed version 1"),
    ];
    for (statement, named) in newer {
        let outage = Outage::new(600.0);
        let mut daemon = burnt(&outage);
        alter(&daemon, statement);
        let before = fs::read(daemon.path("state/journal.db")).unwrap();
        daemon.start().unwrap();

        let said = problems(&daemon);
        assert!(said.contains("was written by a newer metis") && said.contains(named), "{said}");
        assert!(said.contains("install that metis again, or move the file away"), "{said}");
        let status = daemon.json(&["status"]).unwrap();
        assert_eq!(status["journal"]["writable"], false, "{status:#}");
        let runs = daemon.json(&["run", "list"]).unwrap();
        assert_eq!(runs["runs"][0]["phase"], "done", "{runs:#}");
        let story = daemon.ctl(&["run", "watch", "burn-1"]).unwrap();
        assert!(story.code == Some(0) && story.text().contains("read back by the caller"), "{story:?}");
        assert_an_outage_is_seen(&daemon, &outage);
        let refused = burn(&daemon, Some(3));
        assert!(refused.contains("needs the journal") && refused.contains(named), "{refused}");
        daemon.stop().unwrap();
        assert!(fs::read(daemon.path("state/journal.db")).unwrap() == before, "{named}: the journal was written to");

        // The metis that wrote it is installed again: what happened meanwhile is not lost.
        alter(&daemon, "DELETE FROM schema_version WHERE version > 2; DELETE FROM kind WHERE version = 9 OR kind = 'shutdown.rehearsed'");
        daemon.start().unwrap();
        assert_eq!(problems(&daemon), "");
        let history = lab::facts_now(&daemon);
        assert!(history.iter().any(|fact| fact.kind == "trigger.decided"), "{named}: {history:#?}");
        assert_eq!(history.iter().filter(|fact| fact.kind == "trigger.cleared").count(), 1, "{named}: {history:#?}");
        daemon.stop().unwrap();
    }
}

#[test]
fn a_damaged_journal_is_set_aside_and_said_and_a_fresh_one_begun() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("a changed fact", |_| {}),
        ("not a database", |bytes| bytes.iter_mut().enumerate().for_each(|(i, byte)| *byte = ((i * 31) >> 3) as u8)),
        ("cut short", |bytes| bytes.truncate(bytes.len() / 2)),
        ("a page of noise", |bytes| bytes[4096..8192].iter_mut().enumerate().for_each(|(i, byte)| *byte ^= (i % 251) as u8)),
    ];
    let outage = Outage::new(600.0);
    let first = burnt(&outage);
    // Everything is in the one file then; what stands in the log as well would be restored from it.
    alter(&first, "PRAGMA wal_checkpoint(TRUNCATE)");
    for (what, damage) in damages {
        let mut daemon = lab::site(&outage.config());
        lab::sh("cp -a \"$1\" \"$2\"", &[first.path("state").to_str().unwrap(), daemon.path("state").to_str().unwrap()]);
        if what == "a changed fact" {
            alter(&daemon, "UPDATE fact SET payload = replace(payload, 'root', 'ruth') WHERE kind = 'run.admitted'");
        }
        let mut bytes = fs::read(daemon.path("state/journal.db")).unwrap();
        damage(&mut bytes);
        fs::write(daemon.path("state/journal.db"), &bytes).unwrap();

        daemon.start().unwrap();
        let said = problems(&daemon);
        let names: Vec<_> = fs::read_dir(daemon.path("state")).unwrap().map(|entry| entry.unwrap().path()).collect();
        let corrupt = |path: &&PathBuf| {
            let name = path.to_str().unwrap();
            name.contains("journal.db.corrupt-") && !name.ends_with("-wal") && !name.ends_with("-shm")
        };
        let kept = names.iter().find(corrupt);
        let kept = kept.unwrap_or_else(|| panic!("{what}: nothing was set aside: {names:?}\n{said}"));
        assert!(said.contains("the journal was corrupt") && said.contains(kept.to_str().unwrap()), "{what}: {said}");
        assert!(fs::read(kept).unwrap() == bytes, "{what}: what was set aside was changed");
        let status = daemon.json(&["status"]).unwrap();
        assert_eq!(status["journal"]["writable"], true, "{what}: {status:#}");
        burn(&daemon, Some(0));
        assert_an_outage_is_seen(&daemon, &outage);
        daemon.stop().unwrap();

        daemon.start().unwrap();
        assert_eq!(problems(&daemon), "", "{what}: a journal that was set aside is said once");
        let runs = daemon.json(&["run", "list"]).unwrap();
        assert_eq!(runs["runs"].as_array().map(Vec::len), Some(1), "{what}: {runs:#}");
        daemon.stop().unwrap();
    }
}
