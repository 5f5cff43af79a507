//! kill -9 before and after every journal write of shutdowns, start-ups and changes of leases: the real daemon, its socket, its client and its journal, on a simulated site
//! that outlives it.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::case::{Case, RETURNS, Resumed, SHUTDOWNS, Story};

/// Daemons at once: they mostly wait.
const AT_ONCE: usize = 8;
/// Figures of a machine whose disk took too long are no figures: such a case is repeated, so often.
const REPEATS: usize = 3;

/// A story that is killed at these places, on a disk that is quick enough; whether it was killed at each, and how it was resumed.
fn killed(story: Story, places: &[String]) -> (bool, Vec<Resumed>) {
    for _ in 0..REPEATS {
        let played = Case::new(story, places).play();
        if !played.ill {
            return (played.case.kills == places.len(), played.case.resumed);
        }
    }
    panic!("{story:?} {places:?}: the journal was degraded {REPEATS} times: this disk takes longer than a second for a write");
}

/// Journal writes of a story from the daemon's start on; the writes of its stop are none of it.
fn writes(story: Story) -> usize {
    let played = Case::new(story, &[]).play();
    let facts = played.history.iter().skip(played.case.prepared).take_while(|fact| fact.kind != "daemon.stopping");
    let moments: BTreeSet<_> = facts.filter(|fact| fact.kind != "daemon.armed").map(|fact| fact.at).collect();
    moments.len()
}

/// Does all of them, some at once.
fn all<T: Sync, R: Send>(jobs: &[T], job: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(jobs.len()) {
            scope.spawn(|| {
                while let Some(input) = jobs.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let result = job(input);
                    results.lock().unwrap().push(result);
                }
            });
        }
    });
    results.into_inner().unwrap()
}

/// `wanted` of the places before and after each of so many writes, spread evenly.
fn places(writes: usize, wanted: usize) -> Vec<String> {
    let all: Vec<_> = (1..=writes).flat_map(|n| [format!("journal.before:{n}"), format!("journal.after:{n}")]).collect();
    let wanted = wanted.min(all.len());
    (0..wanted).map(|i| all[(2 * i + 1) * all.len() / (2 * wanted)].clone()).collect()
}

/// Kills each story at that many places; `twice`: the next daemon again, at one of its first writes.
#[allow(clippy::print_stdout, reason = "figures for whoever asks for them")]
fn kill_everywhere(stories: &[Story], wanted: usize, twice: bool) {
    let counted: Vec<_> = all(stories, |story| (*story, writes(*story)));
    let mut jobs = Vec::new();
    for (story, writes) in &counted {
        let least = if matches!(story, Story::LeaseRenewed | Story::LeaseReleased | Story::LeaseExpired) { 2 } else { 15 };
        assert!(*writes >= least, "{story:?}: only {writes} writes");
        for (number, place) in places(*writes, wanted).into_iter().enumerate() {
            let again = twice.then(|| format!("journal.{}:{}", ["before", "after"][number % 2], 1 + number % 5));
            jobs.push((*story, [place].into_iter().chain(again).collect::<Vec<_>>()));
        }
    }
    let played = all(&jobs, |(story, places)| killed(*story, places));
    let kills = played.iter().filter(|(killed, _)| *killed).count();
    let mut figures: Vec<_> = played.iter().flat_map(|(_, resumed)| resumed).copied().collect();
    let writes: Vec<_> = counted.iter().map(|(story, writes)| format!("{story:?} {writes}")).collect();
    println!("{kills} of {} places were come to; journal writes: {}", jobs.len(), writes.join(", "));
    figures.sort_by_key(|resumed| resumed.ready);
    let ready: Vec<_> = figures.iter().map(|resumed| resumed.ready).collect();
    let mut taken_up: Vec<_> = figures.iter().filter_map(|resumed| resumed.taken_up).collect();
    taken_up.sort();
    println!("from restart until the run goes on: {}; until ready: {}", spread(&taken_up), spread(&ready));
    // The number of writes is not the same each time: readings come in between.
    assert!(kills * 20 >= jobs.len() * 17, "only {kills} of {} places were come to", jobs.len());
}

fn spread(sorted: &[Duration]) -> String {
    match sorted {
        [] => "never".to_owned(),
        [least, .., most] => format!("{least:.0?} to {most:.0?}, median {:.0?} ({} times)", sorted[sorted.len() / 2], sorted.len()),
        [one] => format!("{one:.0?} (once)"),
    }
}

#[test]
fn kill_9_before_and_after_journal_writes_of_shutdowns() {
    kill_everywhere(&SHUTDOWNS, 8, false);
}

#[test]
fn kill_9_again_while_a_shutdown_is_resumed() {
    kill_everywhere(&SHUTDOWNS, 4, true);
}

#[test]
fn kill_9_before_and_after_journal_writes_of_start_ups_and_leases() {
    kill_everywhere(&RETURNS, 4, false);
}

#[test]
fn full_kill_9_before_and_after_every_journal_write_of_shutdowns() {
    kill_everywhere(&SHUTDOWNS, usize::MAX, false);
}

#[test]
fn full_kill_9_again_while_a_shutdown_is_resumed_at_many_places() {
    kill_everywhere(&SHUTDOWNS, 40, true);
}

#[test]
fn full_kill_9_before_and_after_every_journal_write_of_start_ups_and_leases() {
    kill_everywhere(&RETURNS, usize::MAX, false);
}

#[test]
fn full_kill_9_again_while_a_start_up_or_a_change_of_a_lease_is_resumed() {
    kill_everywhere(&RETURNS, 40, true);
}
