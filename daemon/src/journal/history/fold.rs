//! Many samples into few: the worst of each interval survives, so that an outage never vanishes from a graph.

use jiff::Timestamp;

use super::Sample;

/// Folds samples (of one UPS, oldest first) of the same interval `[origin + k * width, origin + (k + 1) * width)` into one.
/// `width` in nanoseconds.
pub(super) fn fold(samples: impl IntoIterator<Item = Sample>, origin: Timestamp, width: i128) -> Vec<Sample> {
    let mut folded: Vec<Sample> = Vec::new();
    let mut last = None;
    for sample in samples {
        let bucket = Some(bucket(sample.at, origin, width));
        match folded.last_mut() {
            Some(into) if bucket == last => merge(into, sample),
            _ => folded.push(sample),
        }
        last = bucket;
    }
    folded
}

/// Number of the interval in which `at` lies.
pub(super) fn bucket(at: Timestamp, origin: Timestamp, width: i128) -> i128 {
    (at.as_nanosecond() - origin.as_nanosecond()).div_euclid(width.max(1))
}

fn merge(into: &mut Sample, next: Sample) {
    if urgency(&next.status) >= urgency(&into.status) {
        into.status = next.status;
    }
    into.charge = pick(into.charge, next.charge, f64::min);
    into.runtime = pick(into.runtime, next.runtime, Ord::min);
    into.load = pick(into.load, next.load, f64::max);
}

fn pick<T>(a: Option<T>, b: Option<T>, better: impl Fn(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(better(a, b)),
        (a, b) => a.or(b),
    }
}

/// LB before OB before everything else.
fn urgency(status: &str) -> u8 {
    status
        .split(' ')
        .map(|token| match token {
            "LB" => 2,
            "OB" => 1,
            _ => 0,
        })
        .max()
        .unwrap_or(0)
}
