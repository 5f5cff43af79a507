//! A wall clock that is set while metisd runs: said, and nothing that is due by elapsed time comes earlier or later.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::journal::{assert_an_outage_is_seen, problems};
use super::lab::{self, NODE, Outage};

fn set(offset: &Path, seconds: i64) {
    std::fs::write(offset, seconds.to_string()).unwrap();
}

/// Seconds of the jumps that were recorded.
fn jumps(daemon: &metis_tests::daemon::Daemon) -> Vec<i64> {
    let facts = lab::facts_now(daemon).into_iter().filter(|fact| fact.kind == "clock.jumped");
    facts.map(|fact| serde_json::from_str::<serde_json::Value>(&fact.payload).unwrap()["seconds"].as_i64().unwrap()).collect()
}

#[test]
fn a_clock_that_is_set_while_a_card_is_burnt_and_a_ups_is_watched() {
    let outage = Outage::new(600.0);
    let mut daemon = lab::site(&outage.config());
    let offset = daemon.path("offset");
    set(&offset, 0);
    daemon.start_with(&[("METIS_WALL_OFFSET", offset.to_str().unwrap())]).unwrap();
    daemon.until(Duration::from_secs(10), &["ups"], |ups| ups["domains"][0]["verdict"] == "online").unwrap();
    assert!(jumps(&daemon).is_empty());

    // 1970 and next year are what a board without a battery and a wrong NTP server say.
    for (number, seconds) in [-1_500_000_000, 31_536_000, 0].into_iter().enumerate() {
        let card = daemon.path(&format!("card-{number}.img"));
        let mut burn = daemon.ctl_command(&["burn", "--node", NODE, "--device", card.to_str().unwrap(), "--yes"]);
        let burnt = burn.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        set(&offset, seconds);
        lab::until("the jump is recorded", Duration::from_secs(15), || jumps(&daemon).len() == number + 1);
        let burnt = burnt.wait_with_output().unwrap();
        assert!(burnt.status.success(), "{}\n{}", String::from_utf8_lossy(&burnt.stderr), daemon.log());
        assert_an_outage_is_seen(&daemon, &outage);
        assert_eq!(problems(&daemon), "");
    }
    let found = jumps(&daemon);
    let expected = [-1_500_000_000, 1_531_536_000, -31_536_000];
    assert!(found.iter().zip(expected).all(|(found, expected)| found.abs_diff(expected) <= 1), "{found:?}");
    assert!(daemon.log().contains("the wall clock jumped by"), "{}", daemon.log());
    daemon.stop().unwrap();

    // The history of three clocks is in the order in which it happened, and is replayed.
    daemon.start().unwrap();
    assert_eq!(problems(&daemon), "");
    let runs = daemon.json(&["run", "list"]).unwrap();
    let ids: Vec<_> = runs["runs"].as_array().unwrap().iter().map(|run| (run["id"].clone(), run["phase"].clone())).collect();
    assert_eq!(ids, ["burn-3", "burn-2", "burn-1"].map(|id| (id.into(), "done".into())), "{runs:#}");
    daemon.stop().unwrap();
}
