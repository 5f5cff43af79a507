//! Pure: what is known of the Lease by which one of two hosts commands, and what is written into it.
//!
//! As client-go's leaderelection does it: the times in the record are its holder's, and nobody else counts on them. Whoever looks notes *on
//! his own monotonic clock* when he saw the record change last; unchanged for as long as it lasts, it is free.

use std::time::Duration;

use jiff::Timestamp;

use crate::site::{LeaseRecord, LeaseView, is_shutdown};

/// Unrenewed for so long it is free.
pub const LASTS: Duration = Duration::from_secs(15);
/// Its holder renews it so often.
pub const RENEW_EVERY: Duration = Duration::from_secs(5);
/// Who does not hold it tries so often.
pub const TRY_EVERY: Duration = Duration::from_secs(2);
/// Whatever a record says, it does not last longer.
const LONGEST: Duration = Duration::from_secs(120);

/// What was observed of it.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    seen: Option<Seen>,
}

#[derive(Debug, Clone)]
struct Seen {
    record: LeaseRecord,
    /// On our own clock: when it was seen to be so first.
    at: Duration,
    /// It changed before our eyes: it is not what a dead holder left.
    changed: bool,
}

impl Watch {
    /// Notes how it stands at `now`, boot time of this host, and says whose it is.
    pub fn observe(&mut self, record: Option<&LeaseRecord>, me: &str, now: Duration) -> LeaseView {
        let Some(record) = record.filter(|record| !record.holder.is_empty()) else {
            self.seen = None;
            return LeaseView::Free;
        };
        let same = self.seen.as_ref().is_some_and(|seen| seen.record.version == record.version);
        if !same {
            self.seen = Some(Seen { record: record.clone(), at: now, changed: self.seen.is_some() });
        }
        if record.holder == me {
            return LeaseView::Ours;
        }
        let (since, changed) = self.seen.as_ref().map_or((now, false), |seen| (seen.at, seen.changed));
        let left = record.duration.min(LONGEST).saturating_sub(now.saturating_sub(since));
        let (holder, run) = (record.holder.clone(), record.run.clone());
        match (left.is_zero(), changed) {
            (true, _) => LeaseView::Free,
            (false, true) => LeaseView::Theirs { holder, run },
            (false, false) => LeaseView::Unsure { holder, run, left },
        }
    }
}

/// What `me` writes for its `run` into a Lease that stands so; `None`: nothing. A shutdown takes it from a start-up, whose host steps back
/// then; it never waits for it.
pub fn claim(view: &LeaseView, record: Option<&LeaseRecord>, me: &str, run: &str, wall: Timestamp) -> Option<LeaseRecord> {
    let takes = match view {
        LeaseView::Free | LeaseView::Ours => true,
        LeaseView::Theirs { run: theirs, .. } | LeaseView::Unsure { run: theirs, .. } => is_shutdown(run) && !is_shutdown(theirs),
        LeaseView::Silent(_) => false,
    };
    let before = record.cloned().unwrap_or_default();
    let ours = before.holder == me;
    takes.then(|| LeaseRecord {
        holder: me.to_owned(),
        run: run.to_owned(),
        duration: LASTS,
        acquired: if ours { before.acquired.or(Some(wall)) } else { Some(wall) },
        renewed: Some(wall),
        transitions: before.transitions + u64::from(!ours),
        version: before.version,
    })
}

/// What is written when `me` is done with it; `None`: it is not his.
pub fn release(record: Option<&LeaseRecord>, me: &str, wall: Timestamp) -> Option<LeaseRecord> {
    let ours = record.filter(|record| record.holder == me)?;
    let free = LeaseRecord { holder: String::new(), run: String::new(), duration: Duration::from_secs(1), ..ours.clone() };
    Some(LeaseRecord { renewed: Some(wall), ..free })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The API server's part: a write counts only on the version that it was decided on.
    #[derive(Default)]
    struct Server {
        record: Option<LeaseRecord>,
        writes: u64,
    }

    impl Server {
        fn write(&mut self, record: LeaseRecord) -> bool {
            let stands = self.record.as_ref().map_or("", |record| record.version.as_str());
            if stands != record.version {
                return false;
            }
            self.writes += 1;
            self.record = Some(LeaseRecord { version: self.writes.to_string(), ..record });
            true
        }

        /// One turn of a host: whether it holds it then. `skew`: how wrong its wall clock is.
        fn turn(&mut self, watch: &mut Watch, me: &str, run: &str, now: u64, skew: i64) -> LeaseView {
            let view = watch.observe(self.record.as_ref(), me, s(now));
            let wanted = claim(&view, self.record.as_ref(), me, run, at(now as i64 + skew));
            match wanted {
                Some(record) if self.write(record.clone()) => watch.observe(self.record.as_ref(), me, s(now)),
                _ => view,
            }
        }
    }

    #[test]
    fn it_is_taken_over_when_its_holder_is_silent_and_not_before_whatever_the_clocks_say() {
        for skew in [-300, 0, 300] {
            let (mut server, mut db, mut tethys) = (Server::default(), Watch::default(), Watch::default());
            for now in (0..=60).step_by(5) {
                assert_eq!(server.turn(&mut db, "titan-db", "startup-1", now, 0), LeaseView::Ours);
                let seen = server.turn(&mut tethys, "tethys", "startup-9", now + 1, skew);
                assert_eq!(seen.other(), Some(("titan-db", "startup-1")), "{skew}");
            }
            // titan-db is gone from now on.
            let mut taken = None;
            for now in 61..90 {
                if server.turn(&mut tethys, "tethys", "startup-9", now, skew) == LeaseView::Ours && taken.is_none() {
                    taken = Some(now);
                }
            }
            assert_eq!(taken, Some(76), "{skew}: 15 s after the change that was seen last");
            assert_eq!(server.record.as_ref().map(|record| record.transitions), Some(2));
            assert_eq!(server.turn(&mut db, "titan-db", "startup-1", 91, 0).other(), Some(("tethys", "startup-9")), "it steps back");
        }
    }

    #[test]
    fn one_that_was_left_behind_is_not_believed_for_ever_and_not_ignored_at_first_sight() {
        let mut server = Server::default();
        server.turn(&mut Watch::default(), "titan-db", "startup-1", 0, 0);
        let mut watch = Watch::default();
        assert!(matches!(watch.observe(server.record.as_ref(), "tethys", s(5000)), LeaseView::Unsure { left, .. } if left == LASTS));
        assert!(matches!(watch.observe(server.record.as_ref(), "tethys", s(5010)), LeaseView::Unsure { left, .. } if left == s(5)));
        assert_eq!(watch.observe(server.record.as_ref(), "tethys", s(5015)), LeaseView::Free);
        assert_eq!(watch.observe(server.record.as_ref(), "titan-db", s(5015)), LeaseView::Ours, "its own, after a restart");
    }

    #[test]
    fn a_record_that_wants_to_last_for_ever_does_not() {
        let record = LeaseRecord { holder: "x".into(), duration: s(1 << 40), version: "1".into(), ..LeaseRecord::default() };
        let mut watch = Watch::default();
        watch.observe(Some(&record), "tethys", s(0));
        assert_eq!(watch.observe(Some(&record), "tethys", LONGEST), LeaseView::Free);
    }

    #[test]
    fn of_two_who_take_it_at_once_one_gets_it() {
        let mut server = Server::default();
        let (mut a, mut b) = (Watch::default(), Watch::default());
        let (seen_a, seen_b) = (a.observe(None, "a", s(0)), b.observe(None, "b", s(0)));
        let wanted = |view: &LeaseView, me: &str| claim(view, None, me, "startup-1", at(0)).unwrap();
        let (first, second) = (wanted(&seen_a, "a"), wanted(&seen_b, "b"));
        assert_eq!((server.write(first), server.write(second)), (true, false));
    }

    #[test]
    fn a_shutdown_takes_it_from_a_start_up_and_two_shutdowns_do_not_fight() {
        let theirs = |run: &str| LeaseView::Theirs { holder: "titan-db".into(), run: run.into() };
        let takes = |theirs: &LeaseView, run: &str| claim(theirs, None, "tethys", run, at(0)).is_some();
        assert!(takes(&theirs("startup-1"), "shutdown-2"));
        assert!(!takes(&theirs("shutdown-1"), "shutdown-2"));
        assert!(!takes(&theirs("startup-1"), "startup-2") && !takes(&theirs("shutdown-1"), "startup-2"));
    }

    #[test]
    fn what_is_given_back_is_free_at_once() {
        let mut server = Server::default();
        let (mut a, mut b) = (Watch::default(), Watch::default());
        server.turn(&mut a, "a", "startup-1", 0, 0);
        assert_eq!(release(server.record.as_ref(), "b", at(0)), None, "not his");
        let free = release(server.record.as_ref(), "a", at(1)).unwrap();
        assert!(server.write(free));
        assert_eq!(server.turn(&mut b, "b", "startup-2", 2, 300), LeaseView::Ours);
    }
}
