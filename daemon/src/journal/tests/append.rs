//! Appending, reading, recovery of a healthy journal.

use super::{Place, now, numbers, record};
use crate::journal::{Mode, OpenError, open};

#[tokio::test]
async fn what_was_appended_is_there_at_the_next_start() {
    let place = Place::new();
    let opened = place.open();
    assert_eq!((opened.mode, opened.checkpoint, opened.tail.len(), opened.problems), (Mode::ReadWrite, None, 0, vec![]));
    let journal = opened.journal;
    assert_eq!(journal.append(vec![record("a", None, 1), record("b", Some("burn-1"), 2)], &now()).await.unwrap(), 2);
    assert_eq!(journal.append(vec![record("c", Some("burn-1"), 3)], &now()).await.unwrap(), 3);
    assert_eq!((journal.last_seq(), journal.health().borrow().trouble.clone()), (3, None));
    journal.close();

    let opened = place.open();
    assert_eq!(numbers(&opened.tail), [1, 2, 3]);
    let fact = &opened.tail[1];
    assert_eq!((fact.seq, fact.kind.as_str(), fact.version, fact.run.clone(), fact.now()), (2, "b", 1, Some("burn-1".into()), now()));
    assert_eq!(opened.journal.append(vec![record("d", None, 4)], &now()).await.unwrap(), 4);
    opened.journal.close();
}

#[tokio::test]
async fn a_checkpoint_bounds_the_tail() {
    let place = Place::new();
    let journal = place.open().journal;
    for n in 1..=5 {
        journal.append(vec![record("a", None, n)], &now()).await.unwrap();
    }
    journal.checkpoint(3, "{\"state\":3}".into(), &now()).await.unwrap();
    journal.close();
    let opened = place.open();
    assert_eq!(opened.checkpoint, Some((3, "{\"state\":3}".into())));
    assert_eq!(numbers(&opened.tail), [4, 5]);
    opened.journal.close();
}

#[tokio::test]
async fn a_second_instance_is_refused_by_pid() {
    let place = Place::new();
    let first = place.open();
    let error = open(place.options(), &now()).unwrap_err();
    assert!(matches!(&error, OpenError::Held { pid: Some(pid), .. } if *pid == std::process::id()), "{error}");
    first.journal.close();
    place.open().journal.close();
}

#[tokio::test]
async fn the_reader_answers_by_run_and_kind() {
    let place = Place::new();
    let journal = place.open().journal;
    let records = vec![
        record("run.admitted", Some("burn-1"), 1),
        record("audit", None, 2),
        record("run.admitted", Some("burn-2"), 3),
        record("step.done", Some("burn-1"), 4),
        record("audit", None, 5),
    ];
    journal.append(records, &now()).await.unwrap();
    let reader = journal.reader();
    let burn = "burn-1".into();
    assert_eq!(numbers(&reader.facts(2, 3).unwrap()), [2, 3, 4]);
    assert_eq!(numbers(&reader.of_run(&burn, 0, 10).unwrap()), [1, 4]);
    assert_eq!(numbers(&reader.of_run(&burn, 2, 10).unwrap()), [4]);
    assert_eq!(numbers(&reader.of_kind("audit", None, 10).unwrap()), [5, 2]);
    assert_eq!(numbers(&reader.of_kind("audit", Some(5), 10).unwrap()), [2]);
    assert_eq!(numbers(&reader.runs(None, 10).unwrap()), [3, 1]);
    assert_eq!(numbers(&reader.runs(Some(3), 10).unwrap()), [1]);
    assert_eq!(numbers(&reader.runs(None, 1).unwrap()), [3]);
    assert_eq!((reader.count().unwrap(), reader.last_seq()), (5, 5));
    journal.close();
}
