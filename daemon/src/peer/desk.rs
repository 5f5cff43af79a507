//! What this host knows of the other one between two questions. Times are boot times of this host.

use std::collections::BTreeSet;
use std::time::Duration;

use super::lease::Watch;
use crate::site::{Answer, BootId, Doing, Intent, LeaseView, Word};

/// What was decided is under way by then, or never will be.
const DECIDED_FOR: Duration = Duration::from_secs(20);

/// See the module. Decisions and what the other host is told of them are made under one lock, so that of two hosts that decide at the same
/// moment one hears of the other.
#[derive(Debug, Default)]
pub struct Desk {
    /// The Lease as observed.
    pub lease: Watch,
    view: Option<(LeaseView, Duration)>,
    answer: Option<(Answer, Duration)>,
    unreachable_since: Option<Duration>,
    heard: Option<(Word, Duration)>,
    decided: Option<Duration>,
    names: BTreeSet<String>,
}

impl Desk {
    /// The other host was asked.
    pub fn asked(&mut self, answer: &Answer, now: Duration) {
        if let Answer::Said(word) = answer {
            self.names.insert(word.host.clone());
        }
        self.unreachable_since = match answer {
            Answer::Unreachable(_) => self.unreachable_since.or(Some(now)),
            Answer::Said(_) | Answer::Silent(_) | Answer::Denied(_) => None,
        };
        self.answer = Some((answer.clone(), now));
    }

    /// The other host reached us.
    pub fn told(&mut self, word: Word, now: Duration) {
        self.names.insert(word.host.clone());
        (self.heard, self.unreachable_since) = (Some((word, now)), None);
    }

    /// What it said when it reached us, at most so long ago.
    pub fn told_lately(&self, age: Duration, now: Duration) -> Option<&Word> {
        self.heard.as_ref().filter(|(_, at)| now.saturating_sub(*at) <= age).map(|(word, _)| word)
    }

    /// How the Lease stands.
    pub fn looked(&mut self, view: &LeaseView, now: Duration) {
        self.view = Some((view.clone(), now));
    }

    /// This host begins a start-up in a moment.
    pub fn decide(&mut self, now: Duration) {
        self.decided = Some(now);
    }

    /// What is about to begin, where that was decided a moment ago.
    pub fn intent(&self, boot_id: &BootId, now: Duration) -> Option<Intent> {
        let age = now.saturating_sub(self.decided?);
        (age < DECIDED_FOR).then(|| Intent {
            doing: Doing::StartingUp,
            run: String::new(),
            boot_id: boot_id.clone(),
            phase: String::new(),
            age,
        })
    }

    /// What it said last, and how long ago.
    pub fn answer(&self, now: Duration) -> Option<(&Answer, Duration)> {
        self.answer.as_ref().map(|(answer, at)| (answer, now.saturating_sub(*at)))
    }

    /// For how long it has not been reached, without a break.
    pub fn unreachable_for(&self, now: Duration) -> Duration {
        self.unreachable_since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// Since it reached us.
    pub fn heard(&self, now: Duration) -> Option<Duration> {
        self.heard.as_ref().map(|(_, at)| now.saturating_sub(*at))
    }

    /// The Lease as it stood at most so long ago.
    pub fn lease_view(&self, age: Duration, now: Duration) -> Option<&LeaseView> {
        self.view.as_ref().filter(|(_, at)| now.saturating_sub(*at) <= age).map(|(view, _)| view)
    }

    /// Host names under which it placed marks, as far as it said them.
    pub fn names(&self) -> &BTreeSet<String> {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn word() -> Word {
        Word { host: "tethys".into(), role: "peer".into(), boot_id: BootId::new("b"), intents: Vec::new(), ended: None }
    }

    #[test]
    fn it_counts_only_while_nothing_is_heard_without_a_break() {
        let mut desk = Desk::default();
        let gone = Answer::Unreachable("no route".into());
        desk.asked(&gone, s(10));
        desk.asked(&gone, s(40));
        assert_eq!(desk.unreachable_for(s(50)), s(40));
        desk.told(word(), s(55));
        assert_eq!((desk.unreachable_for(s(60)), desk.heard(s(60))), (Duration::ZERO, Some(s(5))));
        desk.asked(&gone, s(70));
        desk.asked(&Answer::Silent("refused".into()), s(80));
        assert_eq!(desk.unreachable_for(s(90)), Duration::ZERO, "its host is on");
        assert_eq!(desk.names(), &BTreeSet::from(["tethys".to_owned()]));
    }

    #[test]
    fn a_decision_that_led_to_nothing_is_forgotten() {
        let (mut desk, boot) = (Desk::default(), BootId::new("b"));
        assert_eq!(desk.intent(&boot, s(1)), None);
        desk.decide(s(10));
        assert!(desk.intent(&boot, s(12)).is_some_and(|intent| intent.age == s(2) && intent.run.is_empty()));
        assert_eq!(desk.intent(&boot, s(31)), None);
    }
}
