//! Which keys are tried together.

/// Choices that are tried at most: a file with one stale key among good ones is common, one of nothing but stale keys is not to be ground
/// through.
const MOST: usize = 64;

/// Choices of `wanted` keys out of `keys`, the first ones first; none where there are too few.
pub fn combos(keys: usize, wanted: usize) -> Vec<Vec<usize>> {
    let mut all = Vec::new();
    if wanted == 0 || wanted > keys {
        return all;
    }
    let mut choice: Vec<usize> = (0..wanted).collect();
    loop {
        all.push(choice.clone());
        // The last place that can still move on, and all after it close behind.
        let movable = (0..wanted).rev().find(|&at| choice[at] < keys - wanted + at);
        let (Some(at), true) = (movable, all.len() < MOST) else { return all };
        choice[at] += 1;
        for next in at + 1..wanted {
            choice[next] = choice[next - 1] + 1;
        }
    }
}
