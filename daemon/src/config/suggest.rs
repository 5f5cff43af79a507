//! What somebody may have meant.

/// The one of `allowed` that `word` most probably stands for; `None` where nothing is near.
pub fn did_you_mean<'a>(word: &str, allowed: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace(['-', ' '], "_");
    let word = plain(word);
    let near = |candidate: &&str| distance(&word, &plain(candidate));
    let best = allowed.min_by_key(near)?;
    (near(&best) <= word.chars().count().max(3) / 3).then_some(best)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b` (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let allowed = ["poll_interval", "read_timeout", "upses", "domains"];
        for (word, expected) in [
            ("poll_intervall", Some("poll_interval")),
            ("poll-interval", Some("poll_interval")),
            ("pollInterval", Some("poll_interval")),
            ("raed_timeout", Some("read_timeout")),
            ("ups", Some("upses").filter(|_| false)),
            ("upss", Some("upses")),
            ("domain", Some("domains")),
            ("socket", None),
            ("", None),
        ] {
            assert_eq!(did_you_mean(word, allowed.into_iter()), expected, "{word}");
        }
    }
}
