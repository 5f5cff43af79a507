//! Pure: a UPS with a battery that drains and recharges as time is let pass.

use std::collections::BTreeMap;
use std::time::Duration;

/// Data of a UPS that do not change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatteryModel {
    /// Energy of the full battery in watt-hours.
    pub capacity_wh: f64,
    /// What the load draws, in watts.
    pub load_w: f64,
    /// What the inverter can give, in watts; `ups.load` is relative to it.
    pub rated_w: f64,
    /// What the charger puts back, in watts.
    pub charger_w: f64,
    /// LB at or under this percentage (`battery.charge.low`).
    pub low_percent: f64,
}

/// A battery and the mains before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Battery {
    model: BatteryModel,
    energy_wh: f64,
    mains: bool,
}

impl Battery {
    /// Full, on line.
    pub fn new(model: BatteryModel) -> Self {
        Self { model, energy_wh: model.capacity_wh, mains: true }
    }

    /// Lets `elapsed` pass: drains on battery, recharges on line.
    pub fn advance(&mut self, elapsed: Duration) {
        let hours = elapsed.as_secs_f64() / 3600.0;
        let power = if self.mains { self.model.charger_w } else { -self.model.load_w };
        self.energy_wh = (self.energy_wh + power * hours).clamp(0.0, self.model.capacity_wh);
    }

    /// Mains off or on again.
    pub fn set_mains(&mut self, on: bool) {
        self.mains = on;
    }

    /// From now on the load draws this, in watts.
    pub fn set_load(&mut self, watts: f64) {
        self.model.load_w = watts;
    }

    /// The battery is charged to this, in percent.
    pub fn set_charge(&mut self, percent: f64) {
        self.energy_wh = self.model.capacity_wh * percent.clamp(0.0, 100.0) / 100.0;
    }

    /// Percent.
    pub fn charge(&self) -> f64 {
        100.0 * self.energy_wh / self.model.capacity_wh
    }

    /// How long the load would run on what is in the battery.
    pub fn runtime(&self) -> Duration {
        Duration::try_from_secs_f64(self.energy_wh / self.model.load_w * 3600.0).unwrap_or(Duration::MAX)
    }

    /// `ups.status`, FSD apart: OL (CHRG), OB DISCHRG (LB), OFF.
    pub fn status(&self) -> &'static str {
        match (self.mains, self.energy_wh > 0.0, self.charge() <= self.model.low_percent) {
            (true, _, _) if self.energy_wh < self.model.capacity_wh => "OL CHRG",
            (true, _, _) => "OL",
            (false, true, false) => "OB DISCHRG",
            (false, true, true) => "OB DISCHRG LB",
            (false, false, _) => "OFF",
        }
    }

    /// The variables that a NUT driver would publish.
    pub fn vars(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("battery.charge", format!("{:.0}", self.charge())),
            ("battery.charge.low", format!("{:.0}", self.model.low_percent)),
            ("battery.runtime", self.runtime().as_secs().to_string()),
            ("device.mfr", "metis".to_owned()),
            ("device.model", "Simulated UPS".to_owned()),
            ("driver.name", "metis-sim".to_owned()),
            ("input.voltage", if self.mains { "230.0" } else { "0.0" }.to_owned()),
            ("ups.load", format!("{:.0}", 100.0 * self.model.load_w / self.model.rated_w)),
            ("ups.realpower.nominal", format!("{:.0}", self.model.rated_w)),
            ("ups.status", self.status().to_owned()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MODEL: BatteryModel = BatteryModel { capacity_wh: 100.0, load_w: 300.0, rated_w: 900.0, charger_w: 50.0, low_percent: 20.0 };

    #[test]
    fn it_drains_warns_dies_and_recharges() {
        let mut battery = Battery::new(MODEL);
        assert_eq!((battery.status(), battery.runtime().as_secs()), ("OL", 1200));
        battery.set_mains(false);
        battery.advance(Duration::from_mins(10));
        assert_eq!((battery.status(), battery.runtime().as_secs(), battery.charge().round() as u32), ("OB DISCHRG", 600, 50));
        battery.advance(Duration::from_mins(6));
        assert_eq!(battery.status(), "OB DISCHRG LB");
        battery.advance(Duration::from_hours(1));
        assert_eq!((battery.status(), battery.runtime()), ("OFF", Duration::ZERO));
        battery.set_mains(true);
        battery.advance(Duration::from_hours(1));
        assert_eq!((battery.status(), battery.charge().round() as u32), ("OL CHRG", 50));
        battery.advance(Duration::from_hours(1));
        assert_eq!(battery.status(), "OL");
        assert_eq!(battery.vars()["ups.load"], "33");
    }

    #[test]
    fn it_lasts_longer_where_less_is_on() {
        let mut battery = Battery::new(MODEL);
        battery.set_mains(false);
        battery.set_charge(50.0);
        assert_eq!(battery.runtime().as_secs(), 600);
        battery.set_load(100.0);
        assert_eq!(battery.runtime().as_secs(), 1800);
        battery.advance(Duration::from_mins(15));
        assert_eq!((battery.charge().round() as u32, battery.vars()["ups.load"].as_str()), (25, "11"));
        battery.set_charge(200.0);
        assert!(battery.charge() <= 100.0);
    }

    proptest! {
        #[test]
        fn charge_stays_in_bounds_whatever_happens(steps in prop::collection::vec((any::<bool>(), 0u64..1_000_000), 0..50)) {
            let mut battery = Battery::new(MODEL);
            for (mains, seconds) in steps {
                battery.set_mains(mains);
                battery.advance(Duration::from_secs(seconds));
                prop_assert!((0.0..=100.0).contains(&battery.charge()));
                prop_assert!(battery.runtime() <= Duration::from_mins(20));
            }
        }
    }
}
