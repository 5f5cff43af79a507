//! Symptoms that stand: seen by ourselves, again and again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Due;
use crate::site::RepairCase;

/// A symptom that was not seen for so long is gone; a container that crashes runs for a moment in between.
const GONE_AFTER: Duration = Duration::from_secs(90);

/// Since when each case has been seen, on this host's boot clock.
#[derive(Debug, Default)]
pub struct Standing(BTreeMap<RepairCase, Seen>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    first: Duration,
    last: Duration,
}

impl Standing {
    /// Takes a look's cases in; those that have stood long enough.
    pub fn note(&mut self, due: Vec<Due>, now: Duration) -> Vec<Due> {
        self.0.retain(|_, seen| now.saturating_sub(seen.last) <= GONE_AFTER);
        let mut standing = Vec::new();
        for due in due {
            let seen = self.0.entry(due.case.clone()).or_insert(Seen { first: now, last: now });
            seen.last = now;
            if now.saturating_sub(seen.first) >= due.stands {
                standing.push(due);
            }
        }
        standing
    }
}
