//! When to poll: by a timer of the kernel (timerfd_create(2)), because tokio's own wakes the process up to three times for one wait of
//! more than 64 ms, once for each level of its wheel.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

/// Ticks, the first at once.
pub(super) struct Ticks {
    every: Duration,
    due: Instant,
    timer: Option<AsyncFd<Timer>>,
}

struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Ticks {
    /// Where the kernel has no timer to give, tokio's must do.
    pub(super) fn new(every: Duration) -> Self {
        Self { every, due: Instant::now(), timer: timer() }
    }

    /// Waits for the next. Who comes late for one shifts those after it, and gets none twice.
    pub(super) async fn tick(&mut self) {
        let left = self.due.saturating_duration_since(Instant::now());
        if !left.is_zero() && self.wait(left).await.is_err() {
            self.timer = None;
            sleep_until(self.due).await;
        }
        self.due = Instant::now() + self.every;
    }

    async fn wait(&self, left: Duration) -> io::Result<()> {
        let timer = self.timer.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        timer.get_ref().0.set(Expiration::OneShot(TimeSpec::from_duration(left)), TimerSetTimeFlags::empty())?;
        loop {
            let mut ready = timer.readable().await?;
            // Readiness may be of an earlier expiry; only reading tells.
            if let Ok(read) = ready.try_io(|timer| Ok(timer.get_ref().0.wait()?)) {
                return read;
            }
        }
    }
}

#[allow(unsafe_code, reason = "tokio lends the reactor a descriptor by its number")]
fn timer() -> Option<AsyncFd<Timer>> {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC).ok()?;
    // SAFETY: Timer owns the one descriptor that it answers, which stays open until it is dropped, with the AsyncFd around it.
    unsafe { AsyncFd::register(Timer(timer)) }.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(400);
    /// Between the tick and the clock that is read after it.
    const SLACK: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn ticks_come_at_once_and_then_regularly_with_either_timer() {
        for of_tokio in [false, true] {
            let begun = Instant::now();
            let mut ticks = Ticks::new(EVERY);
            assert!(ticks.timer.is_some());
            if of_tokio {
                ticks.timer = None;
            }
            ticks.tick().await;
            let first = Instant::now();
            for _ in 0..3 {
                ticks.tick().await;
            }
            assert!(first.elapsed() + SLACK >= 3 * EVERY, "{:?}", first.elapsed());
            assert!(first.duration_since(begun) < EVERY, "the first was late");
        }
    }

    #[tokio::test]
    async fn who_comes_late_gets_one_tick_at_once_and_the_next_in_full() {
        let mut ticks = Ticks::new(EVERY);
        ticks.tick().await;
        tokio::time::sleep(2 * EVERY).await;
        ticks.tick().await;
        let begun = Instant::now();
        ticks.tick().await;
        assert!(begun.elapsed() + SLACK >= EVERY, "{:?}", begun.elapsed());
    }
}
