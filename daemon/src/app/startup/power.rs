//! Pure: what the UPSes say → whether a start-up may begin.

use crate::power::{Snapshot, UpsState};
use crate::site::{Judged, UpsName, Verdict};

fn joined<'a>(names: impl IntoIterator<Item = &'a UpsName>) -> String {
    names.into_iter().map(UpsName::as_str).collect::<Vec<_>>().join(", ")
}

/// On its battery, or about to lose that.
pub fn fails(ups: &UpsState) -> bool {
    matches!(ups.verdict, Verdict::OnBattery | Verdict::Critical)
}

/// No UPS runs on battery. One that is not heard from says nothing about the mains, and holds nothing up unless `required`.
pub fn mains(power: &Snapshot, required: bool) -> Judged {
    let on_battery = joined(power.upses.iter().filter(|ups| fails(ups)).map(|ups| &ups.name));
    if !on_battery.is_empty() {
        return Judged::NotReady { why: format!("on battery: {on_battery}"), done: 0 };
    }
    let silent = joined(power.upses.iter().filter(|ups| ups.verdict == Verdict::Unknown).map(|ups| &ups.name));
    match (silent.is_empty(), required) {
        (true, _) => Judged::Ready("all UPSes are on the mains".to_owned()),
        (false, true) => Judged::CannotTell(format!("not heard from: {silent}")),
        (false, false) => Judged::Ready(format!("no UPS says that it runs on battery; not heard from: {silent}")),
    }
}

/// Every UPS that says its charge holds at least so much, in percent.
pub fn charge(power: &Snapshot, minimum: u8) -> Judged {
    let charges = power.upses.iter().filter_map(|ups| Some((&ups.name, ups.charge?)));
    let low: Vec<_> = charges.filter(|(_, charge)| *charge < f64::from(minimum)).collect();
    let Some(least) = low.iter().map(|(_, charge)| *charge).reduce(f64::min) else {
        return Judged::Ready(format!("no UPS holds less than {minimum} %"));
    };
    let low = low.iter().map(|(name, charge)| format!("{name} holds {charge:.0} % of the {minimum} % that are asked for"));
    Judged::NotReady { why: low.collect::<Vec<_>>().join(", "), done: least.max(0.0) as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::startup::ask::tests::power;

    #[test]
    fn the_table() {
        let ready = |judged: Judged| matches!(judged, Judged::Ready(_));
        assert!(ready(mains(&power(Verdict::Online, None), true)));
        assert!(ready(mains(&power(Verdict::Unknown, None), false)));
        assert!(matches!(mains(&power(Verdict::Unknown, None), true), Judged::CannotTell(_)));
        for verdict in [Verdict::OnBattery, Verdict::Critical] {
            assert!(matches!(mains(&power(verdict, Some(90.0)), false), Judged::NotReady { .. }));
        }
        assert!(ready(charge(&power(Verdict::Online, Some(35.0)), 35)));
        assert!(ready(charge(&power(Verdict::Online, None), 35)), "one that says no number is not waited for");
        assert!(matches!(charge(&power(Verdict::Online, Some(34.0)), 35), Judged::NotReady { done: 34, .. }));
    }
}
