//! Several polls must agree before a UPS is critical, and several before it is no longer.

use super::ground::Ground;
use crate::power::Thresholds;

/// A leaky count of polls: +1 for a reason to act, -1 for none, so that one wild reading neither triggers nor holds a trigger back for
/// long. Critical from "full" until back at zero.
#[derive(Debug, Clone, Default)]
pub(super) struct Debounce {
    count: u32,
    full: bool,
    ground: Option<Ground>,
}

impl Debounce {
    /// The mains are back, or the UPS only tests itself.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// A poll with a reason to act.
    pub(super) fn agree(&mut self, ground: Ground, thresholds: &Thresholds) {
        let needed = needed(&ground, thresholds);
        self.count = self.count.saturating_add(1).min(needed.max(thresholds.debounce_polls));
        self.full |= self.count >= needed;
        self.ground = Some(ground);
    }

    /// A poll without one.
    pub(super) fn disagree(&mut self) {
        self.count = self.count.saturating_sub(1);
        if self.count == 0 {
            self.reset();
        }
    }

    /// The newest reason to act, whether or not enough polls have agreed.
    pub(super) fn pending(&self) -> Option<&Ground> {
        self.ground.as_ref()
    }

    /// The reason to act that enough polls agreed on.
    pub(super) fn settled(&self) -> Option<&Ground> {
        self.ground.as_ref().filter(|_| self.full)
    }
}

/// The UPS's own LB needs the configured polls; a number never acts alone, whatever is configured.
fn needed(ground: &Ground, thresholds: &Thresholds) -> u32 {
    let least = if matches!(ground, Ground::LowBattery) { 1 } else { 2 };
    thresholds.debounce_polls.max(least)
}
