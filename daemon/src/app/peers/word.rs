//! Pure: what is under way here → what this host says of itself.

use std::time::Duration;

use crate::cluster::{shutdown, startup};
use crate::control::{RunRecord, View};
use crate::site::{BootId, Doing, DomainName, Ended, Intent, Now, Word};

/// `decided`: what is about to begin.
pub fn of(view: &View, host: &str, role: &str, decided: Option<Intent>, now: &Now) -> Word {
    let active = view.runs.iter().filter(|record| record.run.outcome.is_none());
    let mut intents: Vec<Intent> = active.filter_map(|record| intent(record, now)).collect();
    let starts = intents.iter().any(|intent| intent.doing == Doing::StartingUp);
    intents.extend(decided.filter(|_| !starts));
    intents.extend(wanted(view, &now.boot_id));
    let ended = view.runs.iter().filter(|record| record.run.book.kind == startup::KIND);
    let ended = ended.filter_map(|record| Some((record, record.run.outcome?)));
    let ended = ended.map(|(record, outcome)| Ended { run: record.id.to_string(), outcome: outcome.name().to_owned() }).next();
    Word { host: host.to_owned(), role: role.to_owned(), boot_id: now.boot_id.clone(), intents, ended }
}

fn intent(record: &RunRecord, now: &Now) -> Option<Intent> {
    let doing = match record.run.book.kind.as_str() {
        shutdown::KIND => Doing::ShuttingDown,
        startup::KIND => Doing::StartingUp,
        _ => return None,
    };
    let phase = record.run.phase().map(|phase| phase.name.clone()).unwrap_or_default();
    let age = Duration::try_from(now.wall.duration_since(record.started)).unwrap_or_default();
    Some(Intent { doing, run: record.id.to_string(), boot_id: record.boot_id.clone(), phase, age })
}

/// A shutdown that a trigger wants and that is being planned.
fn wanted(view: &View, boot_id: &BootId) -> Option<Intent> {
    let domains: Vec<_> = view.unanswered().iter().map(DomainName::as_str).collect();
    (!domains.is_empty()).then(|| Intent {
        doing: Doing::ShuttingDown,
        run: String::new(),
        boot_id: boot_id.clone(),
        phase: format!("{} is about to lose power", domains.join(", ")),
        age: Duration::ZERO,
    })
}
