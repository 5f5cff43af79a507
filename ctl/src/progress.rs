//! Byte progress: a bar on a terminal, a line now and then elsewhere.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::human;
use crate::output::Console;

/// Without a terminal: a line after this time, or this share of the whole.
const LINE_EVERY: Duration = Duration::from_secs(5);
const LINE_SHARE: f64 = 0.10;
/// Before this much time a rate means nothing.
const RATE_AFTER: Duration = Duration::from_millis(500);

/// The progress of what a command waits for. Bytes are those that the device or file has, not those in a cache.
pub struct Meter {
    bar: Option<ProgressBar>,
    stage: Option<Stage>,
}

/// One stage, e.g. "write".
#[derive(Debug, Clone)]
struct Stage {
    name: String,
    began: Instant,
    first: u64,
    printed_at: Instant,
    printed: u64,
}

impl Meter {
    /// Draws where `console` can.
    pub fn new(console: &Console<'_>) -> Self {
        let bar = console.bars.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        Self { bar, stage: None }
    }

    /// `done` of `total` bytes (0: not known) of a stage.
    pub fn update(&mut self, console: &mut Console<'_>, stage: &str, done: u64, total: u64) {
        let now = Instant::now();
        let fresh = self.stage.as_ref().is_none_or(|s| s.name != stage || done < s.first);
        if fresh {
            self.stage = Some(Stage { name: stage.to_owned(), began: now, first: done, printed_at: now, printed: done });
        }
        let Some(current) = &mut self.stage else { return };
        let text = line(stage, done, total, done.saturating_sub(current.first), now - current.began);
        if let Some(bar) = &self.bar {
            bar.set_length(total.max(done).max(1));
            bar.set_position(done);
            bar.set_message(text);
        } else if due(current, done, total, now) {
            (current.printed_at, current.printed) = (now, done);
            console.note(&text);
        }
    }

    /// Prints something else without spoiling the bar.
    pub fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn due(stage: &Stage, done: u64, total: u64, now: Instant) -> bool {
    if done == stage.printed {
        return false;
    }
    let step = done.abs_diff(stage.printed) as f64;
    now - stage.printed_at >= LINE_EVERY || done == total || (total > 0 && step >= total as f64 * LINE_SHARE)
}

/// "write   1.20 GB of 1.83 GB, 65 %, 88.1 MB/s, 7 s left".
fn line(stage: &str, done: u64, total: u64, moved: u64, elapsed: Duration) -> String {
    let mut text = format!("{stage:8}{}", human::bytes(done));
    if total > 0 {
        let _ = write!(text, " of {}, {} %", human::bytes(total), (done as f64 / total as f64 * 100.0).floor());
    }
    if elapsed < RATE_AFTER || moved == 0 {
        return text;
    }
    let rate = moved as f64 / elapsed.as_secs_f64();
    let _ = write!(text, ", {}/s", human::bytes(rate as u64));
    if total > done {
        let _ = write!(text, ", {} left", human::seconds((total - done) as f64 / rate));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_rate_and_time_left() {
        let s = Duration::from_secs;
        assert_eq!(line("write", 600_000_000, 1_800_000_000, 600_000_000, s(6)), "write   600 MB of 1.80 GB, 33 %, 100 MB/s, 12 s left");
        assert_eq!(line("fetch", 5_000, 0, 5_000, s(1)), "fetch   5.00 kB, 5.00 kB/s");
        assert_eq!(line("verify", 10, 10, 10, Duration::ZERO), "verify  10 B of 10 B, 100 %");
    }

    #[test]
    fn lines_come_every_five_seconds_or_tenth() {
        let began = Instant::now();
        let stage = Stage { name: "write".into(), began, first: 0, printed_at: began, printed: 100 };
        let at = |s| began + Duration::from_secs(s);
        assert!(!due(&stage, 150, 1_000, at(1)), "too early, too little");
        assert!(due(&stage, 200, 1_000, at(1)), "a tenth");
        assert!(due(&stage, 150, 1_000, at(5)), "five seconds");
        assert!(!due(&stage, 100, 1_000, at(60)), "nothing moved");
        assert!(due(&stage, 101, 101, at(1)), "the end");
    }

    #[test]
    fn no_terminal_no_bar() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console::plain(&mut out, &mut err);
        let mut meter = Meter::new(&console);
        for done in [0, 5, 50, 100] {
            meter.update(&mut console, "write", done, 100);
        }
        let text = String::from_utf8(err).unwrap();
        assert_eq!(text, "write   50 B of 100 B, 50 %\nwrite   100 B of 100 B, 100 %\n");
    }
}
