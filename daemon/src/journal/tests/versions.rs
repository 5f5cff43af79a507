//! Older and newer journals.

use rusqlite::Connection;

use super::{Place, now, numbers, record};
use crate::journal::schema::{self, Found, MIGRATIONS};
use crate::journal::{AppendError, KeptIn, Mode, Options, open};

fn database(place: &Place) -> Connection {
    Connection::open(place.dir().join("journal.db")).unwrap()
}

async fn filled() -> Place {
    let place = Place::new();
    let journal = place.open().journal;
    journal.append(vec![record("a", None, 1), record("b", Some("burn-1"), 2)], &now()).await.unwrap();
    journal.close();
    place
}

/// The steps of a journal of schema 99, each with its row.
const NEWER: &str = "WITH RECURSIVE step(n) AS (SELECT 3 UNION ALL SELECT n + 1 FROM step WHERE n < 99) \
                     INSERT INTO schema_version SELECT n, 0 FROM step";

#[tokio::test]
async fn every_older_version_becomes_the_present_one() {
    for version in 0..=MIGRATIONS.len() {
        let place = Place::new();
        std::fs::create_dir(place.dir()).unwrap();
        let mut old = database(&place);
        schema::migrate(&mut old, 0, &MIGRATIONS[..version], &now()).unwrap();
        let before = if version > 0 {
            let tx = old.transaction().unwrap();
            let fact = crate::journal::Stored::new(1, record("a", None, 1), &now());
            schema::insert(&tx, &crate::journal::record::Row { origin: 1, proposed: None, fact }).unwrap();
            tx.commit().unwrap();
            vec![1]
        } else {
            vec![]
        };
        drop(old);
        let opened = place.open();
        assert_eq!((&opened.mode, numbers(&opened.tail), opened.problems.len()), (&Mode::ReadWrite, before.clone(), 0), "from {version}");
        opened.journal.append(vec![record("a", None, 2)], &now()).await.unwrap();
        opened.journal.close();
        assert_eq!(schema::identify(&database(&place)).unwrap(), Found::Version(MIGRATIONS.len()));
        let opened = place.open();
        assert_eq!(numbers(&opened.tail), [before, vec![2]].concat());
        opened.journal.close();
    }
}

#[test]
fn a_migration_that_fails_changes_nothing() {
    let mut conn = Connection::open_in_memory().unwrap();
    let broken: schema::Migration = |tx| tx.execute_batch("CREATE TABLE half (a); INSERT INTO nowhere VALUES (1);");
    let migrations = [MIGRATIONS, &[broken]].concat();
    assert!(schema::migrate(&mut conn, 0, &migrations, &now()).is_err());
    assert_eq!(schema::identify(&conn).unwrap(), Found::Version(MIGRATIONS.len()));
    let half: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'half'", [], |row| row.get(0)).unwrap();
    assert_eq!(half, 0);
}

/// Read-only: history is there, nothing is appended, what is kept goes to the spill file and is merged once it can be.
async fn reads_and_spills(place: &Place, options: Options, why: &str) {
    let file = place.dir().join("journal.db");
    let before = std::fs::read(&file).unwrap();
    let opened = open(options, &now()).unwrap();
    assert!(matches!(&opened.mode, Mode::ReadOnly { why: said } if said.contains(why)), "{:?}", opened.mode);
    assert_eq!(numbers(&opened.tail), [1, 2]);
    let journal = opened.journal;
    assert!(journal.health().borrow().trouble.as_ref().unwrap().contains(why));
    assert!(matches!(journal.append(vec![record("a", None, 3)], &now()).await, Err(AppendError::ReadOnly(_))));
    assert!(matches!(journal.checkpoint(2, "{}".into(), &now()).await, Err(AppendError::ReadOnly(_))));
    let kept = journal.keep(vec![record("b", Some("burn-1"), 3)], &now()).await;
    assert_eq!((kept.last, kept.place), (3, KeptIn::Spill));
    let reader = journal.reader();
    assert_eq!(numbers(&reader.of_run(&"burn-1".into(), 0, 10).unwrap()), [2, 3]);
    assert_eq!((reader.count().unwrap(), reader.last_seq()), (3, 3));
    assert_eq!(numbers(&reader.runs(None, 10).unwrap()), [2]);
    drop(reader);
    journal.close();
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

#[tokio::test]
async fn a_newer_schema_is_only_read() {
    let place = filled().await;
    database(&place).execute(NEWER, []).unwrap();
    reads_and_spills(&place, place.options(), "newer metis (schema 99").await;
    database(&place).execute("DELETE FROM schema_version WHERE version > 2", []).unwrap();
    let opened = place.open();
    assert_eq!(numbers(&opened.tail), [1, 2, 3]);
    opened.journal.close();
}

#[tokio::test]
async fn a_fact_that_is_not_understood_makes_it_read_only() {
    let place = filled().await;
    let options = Options { understands: |kind, version| kind != "b" || version == 0, ..place.options() };
    reads_and_spills(&place, options, "fact b version 1").await;
    let opened = place.open();
    assert_eq!((opened.mode, numbers(&opened.tail)), (Mode::ReadWrite, vec![1, 2, 3]));
    opened.journal.close();
}
