//! Reasons to act, and what one reading says about them.

use std::fmt;
use std::time::Duration;

use crate::power::Settings;
use crate::power::budget::required_runtime;
use crate::site::Reading;

/// Why a UPS is critical.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ground {
    /// FSD appeared, or stands together with OB (upsmon(8): forced shutdown).
    Fsd,
    /// OB and LB.
    LowBattery,
    /// Runtime at or under factor x budget.
    Runtime { left: Duration, required: Duration, factor: f64, budget: Duration },
    /// Charge at or under the floor.
    Charge { left: f64, floor: f64 },
    /// On battery for longer than allowed.
    TooLong { limit: Duration },
    /// Not heard from while on battery (upsmon's DEADTIME: counts as low battery).
    Silent { limit: Duration },
    /// OFF for long (upsmon's OFFDURATION).
    Off { limit: Duration },
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fsd => write!(f, "forced shutdown (FSD) was announced"),
            Self::LowBattery => write!(f, "on battery and the battery is low (OB LB)"),
            Self::Runtime { left, required, factor, budget } => write!(
                f,
                "on battery with {} of runtime left, {} are needed ({factor:.2} x {} budget)",
                seconds(*left),
                seconds(*required),
                seconds(*budget)
            ),
            Self::Charge { left, floor } => write!(f, "on battery with {left:.0} % of charge left, the floor is {floor:.0} %"),
            Self::TooLong { limit } => write!(f, "on battery for longer than {}", seconds(*limit)),
            Self::Silent { limit } => write!(f, "not heard from for more than {} while on battery", seconds(*limit)),
            Self::Off { limit } => write!(f, "its output is off (OFF) for more than {}", seconds(*limit)),
        }
    }
}

/// Whole seconds, for people.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs())
}

/// What a reading on battery says.
pub(super) enum Judged {
    /// Act (once enough polls agree).
    Act(Ground),
    /// No reason to act.
    Fine,
    /// The number that a pending reason rests on is missing from this reading: neither agrees nor disagrees.
    CannotTell,
}

/// Judges a reading that was taken on battery. `budget` is what a shutdown needs, `runtime` is the runtime as far as it can be believed.
pub(super) fn judge(
    settings: &Settings,
    budget: Duration,
    reading: &Reading,
    runtime: Option<Duration>,
    battery_for: Duration,
    pending: Option<&Ground>,
) -> Judged {
    let thresholds = &settings.thresholds;
    if reading.status.contains("LB") {
        return Judged::Act(Ground::LowBattery);
    }
    if let Some(left) = reading.charge.filter(|charge| *charge <= thresholds.charge_floor) {
        return Judged::Act(Ground::Charge { left, floor: thresholds.charge_floor });
    }
    let required = required_runtime(settings, budget);
    if let Some(left) = runtime.filter(|runtime| *runtime <= required) {
        let factor = thresholds.runtime_safety_factor;
        return Judged::Act(Ground::Runtime { left, required, factor, budget });
    }
    if let Some(limit) = thresholds.max_on_battery.filter(|limit| battery_for > *limit) {
        return Judged::Act(Ground::TooLong { limit });
    }
    match pending {
        Some(Ground::Runtime { .. }) if runtime.is_none() => Judged::CannotTell,
        Some(Ground::Charge { .. }) if reading.charge.is_none() => Judged::CannotTell,
        _ => Judged::Fine,
    }
}
