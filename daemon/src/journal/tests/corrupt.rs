//! Damaged files: never a panic, never a fact that was not written, never a file that is lost.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use rusqlite::Connection;

use super::{Place, now, numbers, record};
use crate::journal::{Mode, ReadError, open};

const NAME: &str = "journal.db";

/// What was set aside.
fn aside(place: &Place) -> Vec<String> {
    let names = fs::read_dir(place.dir()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.contains(".corrupt-")).collect();
    names.sort();
    names
}

/// A journal with some pages, half of it still in the log as after kill -9.
async fn filled() -> (Place, Vec<u8>, Vec<u8>) {
    let place = Place::new();
    let journal = place.open().journal;
    for n in 1..=60 {
        journal.append(vec![record("step.done", Some("burn-1"), n)], &now()).await.unwrap();
    }
    journal.close();
    let journal = place.open().journal;
    for n in 61..=80 {
        journal.append(vec![record("step.done", Some("burn-2"), n)], &now()).await.unwrap();
    }
    let read = |name: &str| fs::read(place.dir().join(name)).unwrap();
    let (database, log) = (read(NAME), read("journal.db-wal"));
    journal.close();
    (place, database, log)
}

fn lay(dir: &Path, database: &[u8], log: &[u8]) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join(NAME), database).unwrap();
    fs::write(dir.join("journal.db-wal"), log).unwrap();
}

/// Opens what was laid out: it can be written; what it still holds was written; else the damaged file is kept.
async fn opens(place: &Place, database: &[u8]) -> Vec<u64> {
    let opened = place.open();
    assert_eq!(opened.mode, Mode::ReadWrite);
    let found = numbers(&opened.tail);
    assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>());
    let kept = aside(place);
    match kept.as_slice() {
        [] => assert_eq!(opened.problems, Vec::<String>::new()),
        kept => {
            assert!(found.is_empty() && opened.problems[0].contains(&kept[0]), "{kept:?} {:?}", opened.problems);
            let name = kept.iter().find(|name| !name.contains("-wal") && !name.contains("-shm"));
            if let Some(name) = name {
                assert_eq!(fs::read(place.dir().join(name)).unwrap(), database);
            }
        }
    }
    let next = found.len() as u64 + 1;
    opened.journal.append(vec![record("a", None, next)], &now()).await.unwrap();
    opened.journal.close();
    let opened = place.open();
    assert_eq!(numbers(&opened.tail).last(), Some(&next));
    opened.journal.close();
    found
}

#[tokio::test]
async fn what_is_no_journal_is_set_aside() {
    let foreign = {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (a);").unwrap();
        fs::read(path).unwrap()
    };
    for bytes in [b"x".to_vec(), vec![0; 100], vec![0xa5; 20_000], foreign] {
        let place = Place::new();
        fs::create_dir(place.dir()).unwrap();
        fs::write(place.dir().join(NAME), &bytes).unwrap();
        assert_eq!(opens(&place, &bytes).await, Vec::<u64>::new());
        assert_eq!(aside(&place)[0], "journal.db.corrupt-20260301T120000Z");
    }
}

#[tokio::test]
async fn a_log_without_its_database_is_not_thrown_away() {
    let (_source, _, log) = filled().await;
    let place = Place::new();
    lay(&place.dir(), b"", &log);
    assert_eq!(opens(&place, b"").await, Vec::<u64>::new());
    assert_eq!(fs::read(place.dir().join("journal.db.corrupt-20260301T120000Z-wal")).unwrap(), log);
}

#[tokio::test]
async fn the_log_of_a_killed_daemon_is_read() {
    let (_source, database, log) = filled().await;
    let place = Place::new();
    lay(&place.dir(), &database, &log);
    assert_eq!(opens(&place, &database).await.len(), 80);
    // A torn log is what a power cut leaves: the facts before the tear are there.
    let place = Place::new();
    lay(&place.dir(), &database, &log[..log.len() * 2 / 3]);
    let found = opens(&place, &database).await.len();
    assert!((60..80).contains(&found) && aside(&place).is_empty(), "{found}");
}

#[tokio::test]
async fn two_corrupt_files_of_one_second_are_both_kept() {
    let place = Place::new();
    for bytes in [b"first".as_slice(), b"second"] {
        fs::create_dir_all(place.dir()).unwrap();
        fs::write(place.dir().join(NAME), bytes).unwrap();
        place.open().journal.close();
    }
    let read = |name: &str| fs::read(place.dir().join(name)).unwrap();
    assert_eq!(read("journal.db.corrupt-20260301T120000Z"), b"first");
    assert_eq!(read("journal.db.corrupt-20260301T120000Z-2"), b"second");
}

#[tokio::test]
async fn a_changed_value_is_noticed() {
    let place = Place::new();
    let journal = place.open().journal;
    journal.append((1..=9).map(|n| record("a", None, n)).collect(), &now()).await.unwrap();
    let change = |sql: &str| Connection::open(place.dir().join(NAME)).unwrap().execute(sql, []).unwrap();
    change("UPDATE fact SET payload = '{\"n\":8}' WHERE seq = 7");
    assert!(matches!(journal.reader().facts(0, 10), Err(ReadError::Damaged { seq: 7, .. })));
    journal.checkpoint(7, "{\"a\":1}".into(), &now()).await.unwrap();
    journal.checkpoint(8, "{\"a\":2}".into(), &now()).await.unwrap();
    journal.close();
    // Before the checkpoint: recovery does not need it.
    let opened = place.open();
    assert_eq!((opened.checkpoint.unwrap().0, numbers(&opened.tail)), (8, vec![9]));
    opened.journal.close();
    // A damaged checkpoint: the one before.
    change("UPDATE checkpoint SET payload = '{}' WHERE seq = 8");
    let opened = place.open();
    assert_eq!((opened.checkpoint.unwrap().0, numbers(&opened.tail)), (7, vec![8, 9]));
    assert!(opened.problems[0].contains("checkpoint at 8"));
    opened.journal.close();
    // After the checkpoint: the journal cannot be trusted.
    change("UPDATE fact SET run = 'burn-1' WHERE seq = 9");
    let opened = place.open();
    assert!(opened.problems[0].contains("fact 9 is damaged"), "{:?}", opened.problems);
    assert_eq!((opened.checkpoint, opened.tail.len(), aside(&place)[0].len()), (None, 0, "journal.db.corrupt-20260301T120000Z".len()));
    opened.journal.close();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_damage_is_survived(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        page in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        in_log in any::<bool>(),
    ) {
        static FILLED: std::sync::OnceLock<(Vec<u8>, Vec<u8>)> = std::sync::OnceLock::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (database, log) = FILLED.get_or_init(|| { let (_, database, log) = runtime.block_on(filled()); (database, log) });
        let (mut database, mut log) = (database.clone(), log.clone());
        let bytes = if in_log { &mut log } else { &mut database };
        for (at, with) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= with;
        }
        if let Some((at, with)) = page {
            let at = at.index(bytes.len()) / 4096 * 4096;
            let end = (at + 4096).min(bytes.len());
            bytes[at..end].fill(with);
        }
        if let Some(cut) = cut {
            let length = cut.index(bytes.len());
            bytes.truncate(length);
        }
        let place = Place::new();
        lay(&place.dir(), &database, &log);
        let opened = open(place.options(), &now()).unwrap();
        let written = |facts: &[crate::journal::Stored]| facts.iter().zip(numbers(facts)).all(|(fact, n)| fact.seq == n && n <= 80);
        prop_assert!(written(&opened.tail));
        // What is set aside is kept as it was, and said.
        prop_assert_eq!(&opened.mode, &Mode::ReadWrite);
        let kept = aside(&place);
        if !kept.is_empty() {
            prop_assert!(opened.problems[0].contains("corrupt"));
            prop_assert!(opened.tail.is_empty());
            let name = kept.iter().find(|name| name.ends_with('Z')).unwrap();
            prop_assert_eq!(&fs::read(place.dir().join(name)).unwrap(), &database);
            prop_assert_eq!(&fs::read(place.dir().join(format!("{name}-wal"))).unwrap(), &log);
        }
        if let Ok(facts) = opened.journal.reader().facts(0, 1000) {
            prop_assert!(written(&facts));
        }
        let next = opened.journal.last_seq() + 1;
        let _ = runtime.block_on(opened.journal.append(vec![record("a", None, next)], &now()));
        let _ = opened.journal.reader().runs(None, 10);
        opened.journal.close();
    }
}
