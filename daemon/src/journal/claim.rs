//! Who has the last word on a batch: the caller whose deadline passed, or the writer that committed. Exactly one of them.

use std::sync::atomic::{AtomicU8, Ordering};

const WAITING: u8 = 0;
const WRITING: u8 = 1;
const DONE: u8 = 2;
const WITHDRAWN: u8 = 3;

/// State of one batch between caller and writer.
#[derive(Debug, Default)]
pub(super) struct Claim(AtomicU8);

impl Claim {
    /// Writer: may it be written at all?
    pub(super) fn begin(&self) -> bool {
        self.swap(WAITING, WRITING)
    }

    /// Writer, after the commit: does it stand? Else it must be taken out again.
    pub(super) fn finish(&self) -> bool {
        self.swap(WRITING, DONE)
    }

    /// Caller, at its deadline: `true` where the batch will not stand; `false` where it is already durable.
    pub(super) fn withdraw(&self) -> bool {
        self.swap(WAITING, WITHDRAWN) || self.swap(WRITING, WITHDRAWN)
    }

    fn swap(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_side_has_the_last_word() {
        let withdrawn_early = Claim::default();
        assert!(withdrawn_early.withdraw());
        assert!(!withdrawn_early.begin());

        let withdrawn_late = Claim::default();
        assert!(withdrawn_late.begin() && withdrawn_late.withdraw());
        assert!(!withdrawn_late.finish());

        let done = Claim::default();
        assert!(done.begin() && done.finish());
        assert!(!done.withdraw());
    }

    #[test]
    fn the_two_sides_race_and_agree() {
        for _ in 0..200 {
            let claim = std::sync::Arc::new(Claim::default());
            let writer = {
                let claim = claim.clone();
                std::thread::spawn(move || claim.begin() && claim.finish())
            };
            let withdrawn = claim.withdraw();
            assert_ne!(writer.join().unwrap(), withdrawn);
        }
    }
}
