//! Tables of figures.

use std::time::Duration;

/// Prints rows below their heading, columns aligned.
pub fn print(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    println!();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("  {}", cells.join("  ").trim_end());
    }
}

/// A row of text.
pub fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(|&cell| cell.to_owned()).collect()
}

/// `median (least–most)` in seconds.
pub fn seconds(times: &[Duration]) -> String {
    spread(times, 1.0, 1)
}

/// `median (least–most)` in milliseconds.
pub fn millis(times: &[Duration]) -> String {
    spread(times, 1e3, 0)
}

fn spread(times: &[Duration], scale: f64, digits: usize) -> String {
    let mut sorted: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * scale).collect();
    sorted.sort_by(f64::total_cmp);
    match (sorted.first(), sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(least), Some(median), Some(most)) => format!("{median:.digits$} ({least:.digits$}–{most:.digits$})"),
        _ => "-".to_owned(),
    }
}
