//! What an earlier instance spilled; what is pruned; how long 10^5 facts take.

use std::time::{Duration, Instant};

use super::{Place, now, numbers, record};
use crate::journal::record::{Row, Stored, Withdrawn};
use crate::journal::spill::Line;
use crate::journal::{Options, Retention, open};

fn spilled(origin: i64, seq: u64, n: u64) -> Line {
    Line::Fact(Row { origin, proposed: None, fact: Stored::new(seq, record("a", None, n), &now()) })
}

fn write_spill(place: &Place, lines: &[Line], torn: &str) {
    let mut text: String = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
    text += torn;
    std::fs::write(place.spill(), text).unwrap();
}

#[tokio::test]
async fn a_spill_file_is_merged_once_however_often_it_is_found() {
    let place = Place::new();
    let journal = place.open().journal;
    journal.append(vec![record("a", None, 1), record("a", None, 2)], &now()).await.unwrap();
    journal.close();
    // The first continues the sequence; the others come from an instance that could not read the journal and counted from 1.
    let lines = [spilled(7, 5, 3), spilled(8, 1, 4), spilled(8, 2, 5)];
    for _ in 0..3 {
        write_spill(&place, &lines, "");
        let opened = place.open();
        assert_eq!(numbers(&opened.tail), [1, 2, 3, 4, 5]);
        assert_eq!(opened.tail.iter().map(|fact| fact.seq).collect::<Vec<_>>(), [1, 2, 5, 6, 7]);
        assert_eq!((opened.journal.last_seq(), opened.problems), (7, vec![]));
        assert!(!place.spill().exists());
        opened.journal.close();
    }
}

#[tokio::test]
async fn what_was_withdrawn_is_taken_out_at_the_next_start() {
    let place = Place::new();
    let journal = place.open().journal;
    journal.append(vec![record("a", None, 1), record("a", None, 2), record("a", None, 3)], &now()).await.unwrap();
    let origin = journal.parts.shared.origin;
    journal.close();
    let withdrawn = Line::Withdrawn(Withdrawn { origin, first: 2, last: 3 });
    let foreign = Line::Withdrawn(Withdrawn { origin: origin ^ 1, first: 1, last: 9 });
    write_spill(&place, &[withdrawn, foreign, spilled(origin, 4, 4)], "");
    for _ in 0..2 {
        let opened = place.open();
        assert_eq!(numbers(&opened.tail), [1, 4]);
        opened.journal.close();
    }
}

#[tokio::test]
async fn a_torn_line_is_kept_aside_and_said() {
    let place = Place::new();
    write_spill(&place, &[spilled(7, 1, 1)], "{\"fact\":{\"origin\":7,\"se");
    let opened = place.open();
    assert_eq!(numbers(&opened.tail), [1]);
    assert!(opened.problems[0].contains("1 lines") && opened.problems[0].contains("spill.jsonl.kept-"), "{:?}", opened.problems);
    assert!(place.spill().with_file_name("spill.jsonl.kept-20260301T120000Z").exists());
    opened.journal.close();
}

#[tokio::test]
async fn old_runs_are_pruned_behind_two_checkpoints() {
    let place = Place::new();
    let retention = Retention { runs: 2, loose: Duration::from_hours(1) };
    let options = Options { retention, ..place.options() };
    let journal = open(options, &now()).unwrap().journal;
    let mut n = 0;
    for run in ["burn-1", "burn-2", "burn-3", "burn-4"] {
        for _ in 0..300 {
            n += 1;
            journal.append(vec![record("step", Some(run), n)], &now()).await.unwrap();
        }
    }
    journal.append(vec![record("verdict", None, n + 1)], &now()).await.unwrap();
    let later = now().later(Duration::from_hours(2));
    journal.append(vec![record("verdict", None, n + 2)], &later).await.unwrap();
    let reader = journal.reader();
    let runs = || reader.runs(None, 10).unwrap().iter().map(|fact| fact.run.clone().unwrap().to_string()).collect::<Vec<_>>();
    let pruned = async |count: u64| {
        for _ in 0..200 {
            if reader.count().unwrap() == count {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    };
    let last = journal.last_seq();
    journal.checkpoint(last - 1, "{}".into(), &later).await.unwrap();
    journal.append(vec![record("verdict", None, n + 3)], &later).await.unwrap();
    assert_eq!((reader.count().unwrap(), runs().len()), (1203, 4), "one checkpoint alone may turn out damaged");
    // An unsynchronised clock prunes runs, not by age.
    let unsynced = crate::site::Now { synced: false, ..later.clone() };
    journal.checkpoint(last, "{}".into(), &unsynced).await.unwrap();
    assert!(pruned(603).await, "{}", reader.count().unwrap());
    assert_eq!(runs(), ["burn-4", "burn-3"]);
    journal.checkpoint(last + 1, "{}".into(), &later).await.unwrap();
    assert!(pruned(602).await, "{}", reader.count().unwrap());
    journal.close();
    let opened = place.open();
    assert_eq!((opened.checkpoint, opened.tail.len()), (Some((last + 1, "{}".into())), 0));
    assert_eq!(opened.journal.last_seq(), last + 1);
    opened.journal.close();
}

#[tokio::test]
async fn a_hundred_thousand_facts() {
    let place = Place::new();
    let journal = place.open().journal;
    let payload = format!("{{\"step\":\"card.write\",\"outcome\":\"{}\"}}", "x".repeat(160));
    let records = |n: u64| {
        let one = |_| crate::journal::Record { payload: payload.clone(), ..record("step.done", Some(&format!("burn-{n}")), 0) };
        (0..500).map(one).collect::<Vec<_>>()
    };
    let began = Instant::now();
    for n in 0..200 {
        journal.append(records(n), &now()).await.unwrap();
    }
    println!("10^5 facts appended in {:?}", began.elapsed());
    let began = Instant::now();
    let count = 200;
    for _ in 0..count {
        journal.append(vec![record("a", None, 1)], &now()).await.unwrap();
    }
    println!("one append takes {:?}", began.elapsed() / count);
    journal.close();
    let began = Instant::now();
    let opened = place.open();
    println!("opened without a checkpoint in {:?}, tail of {}", began.elapsed(), opened.tail.len());
    assert_eq!(opened.tail.len(), 100_200);
    let reader = opened.journal.reader();
    for (what, answer) in [("newest 20 runs", &|| reader.runs(None, 20)), ("one run", &|| reader.of_run(&"burn-7".into(), 0, 1000))]
        as [(&str, &dyn Fn() -> Result<Vec<Stored>, crate::journal::ReadError>); 2]
    {
        let began = Instant::now();
        let facts = answer().unwrap();
        println!("{what}: {} facts in {:?}", facts.len(), began.elapsed());
    }
    opened.journal.checkpoint(100_000, "{}".into(), &now()).await.unwrap();
    opened.journal.close();
    let began = Instant::now();
    let opened = place.open();
    println!("opened with a checkpoint in {:?}", began.elapsed());
    assert_eq!(opened.tail.len(), 200);
    opened.journal.close();
}
