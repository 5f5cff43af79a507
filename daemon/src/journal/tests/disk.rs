//! A full and a read-only file system, really mounted.

use std::fs;

use super::{Mount, Place, now, numbers, record, well};
use crate::journal::{AppendError, KeptIn, Mode};

/// Takes all space that is left.
fn fill(place: &Place) -> std::path::PathBuf {
    let path = place.dir().join("filler");
    let mut file = fs::File::create(&path).unwrap();
    for size in [4096, 1] {
        while std::io::Write::write(&mut file, &vec![0; size]).is_ok_and(|n| n == size) {}
    }
    path
}

#[tokio::test]
async fn a_full_disk_is_survived_and_recovered_from() {
    let place = Place::new();
    let Some(_mount) = Mount::tmpfs(&place.dir(), "2m") else { return };
    let journal = place.open().journal;
    journal.append(vec![record("a", Some("shutdown-1"), 1)], &now()).await.unwrap();
    let filler = fill(&place);
    // What the log has allocated already still fits.
    let mut last = 1;
    let error = loop {
        match journal.append(vec![record("a", Some("shutdown-1"), last + 1)], &now()).await {
            Ok(_) => last += 1,
            Err(error) => break error,
        }
        assert!(last < 5000, "the disk never got full");
    };
    assert!(matches!(&error, AppendError::DiskFull(path) if path.ends_with("journal.db")), "{error}");
    assert!(journal.health().borrow().trouble.as_ref().unwrap().contains("no space left"));
    for n in 1..=3 {
        assert_eq!(journal.keep(vec![record("a", Some("shutdown-1"), last + n)], &now()).await.place, KeptIn::Spill);
    }
    fs::remove_file(filler).unwrap();
    well(&journal).await;
    assert!(journal.append(vec![record("a", Some("shutdown-1"), last + 4)], &now()).await.is_ok());
    journal.close();
    let opened = place.open();
    assert_eq!(numbers(&opened.tail), (1..=last + 4).collect::<Vec<_>>());
    opened.journal.close();
}

#[tokio::test]
async fn a_disk_that_is_full_at_the_start_still_shows_the_history() {
    let place = Place::new();
    let Some(_mount) = Mount::tmpfs(&place.dir(), "2m") else { return };
    let journal = place.open().journal;
    journal.append(vec![record("a", Some("burn-1"), 1)], &now()).await.unwrap();
    journal.close();
    let filler = fill(&place);
    let opened = place.open();
    println!("full at the start: {:?} {:?}", opened.mode, opened.problems);
    assert_eq!(numbers(&opened.tail), [1]);
    assert_eq!(numbers(&opened.journal.reader().of_run(&"burn-1".into(), 0, 10).unwrap()), [1]);
    assert!(opened.journal.health().borrow().trouble.is_some());
    assert!(opened.journal.append(vec![record("a", None, 2)], &now()).await.is_err());
    assert_eq!(opened.journal.keep(vec![record("a", None, 2)], &now()).await.place, KeptIn::Spill);
    opened.journal.close();
    fs::remove_file(filler).unwrap();
    let opened = place.open();
    assert_eq!((opened.mode, numbers(&opened.tail)), (Mode::ReadWrite, vec![1, 2]));
    opened.journal.close();
}

#[tokio::test]
async fn a_first_start_on_a_full_disk_works_in_memory() {
    let place = Place::new();
    let Some(mount) = Mount::tmpfs(&place.dir(), "64k") else { return };
    let filler = fill(&place);
    let opened = place.open();
    assert!(matches!(opened.mode, Mode::Memory { .. }), "{:?}", opened.mode);
    let kept = opened.journal.keep(vec![record("a", Some("shutdown-1"), 1)], &now()).await;
    assert_eq!((kept.last, kept.place), (1, KeptIn::Spill));
    assert_eq!(numbers(&opened.journal.reader().of_run(&"shutdown-1".into(), 0, 10).unwrap()), [1]);
    opened.journal.close();
    // A restart of the daemon in the same trouble still knows.
    let opened = place.open();
    assert_eq!(numbers(&opened.tail), [1]);
    assert_eq!(opened.journal.keep(vec![record("a", Some("shutdown-1"), 2)], &now()).await.last, 2);
    opened.journal.close();
    fs::remove_file(filler).unwrap();
    drop(mount);
    let opened = place.open();
    assert_eq!((opened.mode, numbers(&opened.tail)), (Mode::ReadWrite, vec![1, 2]));
    opened.journal.close();
}

#[tokio::test]
async fn a_read_only_directory_shows_the_history_and_spills() {
    for killed in [false, true] {
        let place = Place::new();
        let Some(mount) = Mount::tmpfs(&place.dir(), "2m") else { return };
        let journal = place.open().journal;
        journal.append(vec![record("a", Some("burn-1"), 1)], &now()).await.unwrap();
        let log = fs::read(place.dir().join("journal.db-wal")).unwrap();
        let index = fs::read(place.dir().join("journal.db-shm")).unwrap();
        journal.close();
        if killed {
            // As a killed daemon leaves it: the facts are in the log alone.
            fs::write(place.dir().join("journal.db-wal"), log).unwrap();
            fs::write(place.dir().join("journal.db-shm"), index).unwrap();
        }
        mount.remount(true);
        let opened = place.open();
        assert!(matches!(&opened.mode, Mode::ReadOnly { why } if why.contains("journal.db")), "{:?}", opened.mode);
        assert_eq!(numbers(&opened.tail), [1]);
        assert!(matches!(opened.journal.append(vec![record("a", None, 2)], &now()).await, Err(AppendError::ReadOnly(_))));
        assert_eq!(opened.journal.keep(vec![record("a", Some("burn-1"), 2)], &now()).await.place, KeptIn::Spill);
        assert_eq!(numbers(&opened.journal.reader().of_run(&"burn-1".into(), 0, 10).unwrap()), [1, 2]);
        // The lock needs no writing.
        assert!(crate::journal::open(place.options(), &now()).is_err());
        opened.journal.close();
        mount.remount(false);
        let opened = place.open();
        assert_eq!((opened.mode, numbers(&opened.tail)), (Mode::ReadWrite, vec![1, 2]));
        opened.journal.close();
    }
}
