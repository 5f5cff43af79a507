//! Pure folding in tables; the rest on real files.

use super::fold::fold;
use super::*;

const RAW: Duration = Duration::from_secs(5);

fn now() -> Now {
    Now { wall: "2026-03-01T12:00:00Z".parse().unwrap(), boot: Duration::ZERO, boot_id: "b".into(), synced: true }
}

fn reading(status: &str, charge: f64) -> Reading {
    Reading {
        status: status.split(' ').map(String::from).collect(),
        charge: Some(charge),
        runtime: Some(Duration::from_secs(900)),
        load: Some(20.0),
        ..Reading::default()
    }
}

fn sample(seconds: i64, status: &str, charge: Option<f64>) -> Sample {
    Sample { at: Timestamp::from_second(seconds).unwrap(), name: "u".into(), status: status.into(), charge, runtime: None, load: None }
}

#[test]
fn the_worst_of_an_interval_survives() {
    let samples = [
        sample(0, "OL", Some(100.0)),
        sample(20, "OB DISCHRG", Some(97.0)),
        sample(40, "OL CHRG", None),
        sample(60, "OL", Some(99.0)),
        sample(80, "OL CHRG", Some(99.5)),
    ];
    let minute = 60_000_000_000;
    let folded = fold(samples, Timestamp::UNIX_EPOCH, minute);
    assert_eq!(folded, [sample(0, "OB DISCHRG", Some(97.0)), sample(60, "OL CHRG", Some(99.0))]);
}

#[tokio::test]
async fn readings_and_transitions_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (history, problem) = UpsHistory::open(dir.path(), &now()).unwrap();
    assert_eq!(problem, None);
    let ups = UpsName::from("pyrphoros@localhost");
    history.record(&now(), &ups, &reading("OL", 100.0));
    history.record(&now().later(RAW), &ups, &reading("OB DISCHRG", 99.0));
    let transition =
        Transition { at: now().later(RAW).wall, name: ups.to_string(), from: Verdict::Online, to: Verdict::OnBattery, reason: "OB".into() };
    history.transition(transition.clone());
    history.close();

    let (history, problem) = UpsHistory::open(dir.path(), &now()).unwrap();
    assert_eq!(problem, None);
    let answer = history.query(ups.as_str(), now().wall, now().later(RAW * 2).wall, 10).await.unwrap();
    assert_eq!(answer.samples.iter().map(|sample| sample.status.as_str()).collect::<Vec<_>>(), ["OL", "DISCHRG OB"]);
    assert_eq!(answer.samples[1].runtime, Some(Duration::from_secs(900)));
    assert_eq!(answer.transitions, [transition]);
    assert_eq!(history.query("other", now().wall, now().later(RAW).wall, 10).await.unwrap(), History::default());
    history.close();
}

#[tokio::test]
async fn a_query_is_thinned_to_its_limit_and_keeps_the_outage() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(&dir.path().join("h.db"), &now()).unwrap();
    let start = now();
    let rows: Vec<_> = (0..5000)
        .map(|n| Row::Sample(Sample { at: start.later(RAW * n).wall, ..sample(0, if n == 2500 { "OB" } else { "OL" }, Some(100.0)) }))
        .collect();
    store.write(&rows).unwrap();
    for limit in [1, 7, 100, 4999, 5000, 9000] {
        let answer = store.query("u", Timestamp::MIN, Timestamp::MAX, limit).unwrap();
        assert!(answer.samples.len() <= limit && answer.samples.len() >= limit.min(5000) / 2, "{} of {limit}", answer.samples.len());
        assert_eq!(answer.samples.iter().filter(|sample| sample.status == "OB").count(), 1);
        assert!(answer.samples.is_sorted_by(|a, b| a.at < b.at));
    }
}

#[test]
fn old_samples_become_fewer_and_then_none() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(&dir.path().join("h.db"), &now()).unwrap();
    // Two days of readings every 5 s; one of them on battery.
    let rows: Vec<_> = (0..34_560u32)
        .map(|n| Row::Sample(Sample { at: now().later(RAW * n).wall, ..sample(0, if n == 777 { "OB" } else { "OL" }, Some(100.0)) }))
        .collect();
    store.write(&rows).unwrap();
    let hour = Duration::from_hours(1);
    let settle = |store: &mut Store, after: Duration| {
        let now = now().later(after).wall;
        let mut steps = 0;
        loop {
            store.compact(now).unwrap();
            steps += 1;
            if !store.compacting() {
                break (steps, store.query("u", Timestamp::MIN, Timestamp::MAX, 100_000).unwrap().samples);
            }
        }
    };
    let (steps, samples) = settle(&mut store, 48 * hour);
    assert_eq!(samples.len(), 24 * 60 + 24 * 720);
    assert!(steps > 3, "bounded steps, not {steps}");
    let (_, samples) = settle(&mut store, 40 * 24 * hour);
    assert_eq!(samples.len(), 48 * 4);
    assert_eq!(samples.iter().filter(|sample| sample.status == "OB").count(), 1);
    let (_, samples) = settle(&mut store, 3 * 365 * 24 * hour);
    assert_eq!(samples.len(), 0);
}

#[tokio::test]
async fn a_corrupt_history_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ups-history.db"), b"this is no database, and long enough to be read as one").unwrap();
    let (history, problem) = UpsHistory::open(dir.path(), &now()).unwrap();
    assert!(problem.unwrap().contains("ups-history.db.corrupt-20260301T120000Z"));
    history.record(&now(), &"u".into(), &reading("OL", 100.0));
    assert_eq!(history.query("u", Timestamp::MIN, Timestamp::MAX, 10).await.unwrap().samples.len(), 1);
    history.close();
    assert!(dir.path().join("ups-history.db.corrupt-20260301T120000Z").exists());
}

#[tokio::test]
async fn without_a_directory_history_is_kept_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let (history, problem) = UpsHistory::open(&dir.path().join("missing"), &now()).unwrap();
    assert!(problem.unwrap().contains("memory"));
    history.record(&now(), &"u".into(), &reading("OL", 100.0));
    assert_eq!(history.query("u", Timestamp::MIN, Timestamp::MAX, 10).await.unwrap().samples.len(), 1);
    history.close();
}
