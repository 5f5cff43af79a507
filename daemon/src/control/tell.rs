//! Facts in people's words: one line each, for the log and for the API.

use tracing::Level;

use super::{Fact, Prepared, Told};
use crate::runbook::{Mode, Outcome, Status};
use crate::site::{Change, OnTrigger, Verdict};

/// MESSAGE_ID of the report of a run that has ended.
pub const RUN_REPORT: &str = "93d6b0f4a7e8412f8c50e1d92b6a7f3c";

impl Fact {
    /// One line.
    pub fn message(&self) -> String {
        match self {
            Self::DaemonStarted { version, .. } => format!("metisd {version} started"),
            Self::DaemonStopping => "metisd was told to stop".to_owned(),
            Self::DaemonStopped => "metisd stopped".to_owned(),
            Self::SettingsAdopted { settings } => {
                format!("settings {} in force, from {}", short(settings.digest.as_str()), settings.files.join(", "))
            }
            Self::SettingsRejected { errors } => format!("settings refused, the ones before stay in force: {}", errors.join("; ")),
            Self::UpsChanged { ups, from, to, reason } => format!("UPS {ups}: {} after {}: {reason}", verdict(*to), verdict(*from)),
            Self::FsdLatched { ups } => {
                format!("UPS {ups}: FSD stands since before it was first heard, while on line: not acted on; restart its upsd to clear it")
            }
            Self::DomainChanged { domain, from, to, reason } => {
                format!("power domain {domain}: {} after {}: {reason}", verdict(*to), verdict(*from))
            }
            Self::TriggerDecided { domain, because, would_act: OnTrigger::Observe, .. } => {
                format!("power domain {domain}: DISARMED: would have acted: because {because}")
            }
            Self::TriggerDecided { domain, because, .. } => format!("power domain {domain} is about to lose power: {because}"),
            Self::TriggerCleared { domain, because } => format!("power domain {domain}: trigger cleared: {because}"),
            Self::RunAdmitted { runbook, requester, .. } => format!("{}, asked for by {requester}", runbook.title),
            Self::RunRaised { runbook, requester, .. } => format!("raised by {requester}: {}", runbook.title),
            Self::RunLowered { because, title, .. } => format!("{because}: {title}, and nothing beyond that"),
            Self::LimitsCut { limits, .. } => format!("the time that is left was shared out anew among {} steps", limits.len()),
            Self::Claimed { claims, .. } => {
                format!("about to change {}", join(claims.iter().map(|claim| format!("{} ({})", claim.object, change(claim.change)))))
            }
            Self::Released { objects, because, .. } => format!("{because}: {}", join(objects.iter().map(ToString::to_string))),
            Self::LeaseRenewed { object, expires, requester, .. } => {
                format!("{requester} renewed the lease on {object} until {expires:.0}")
            }
            Self::LeaseMarked { object, because, .. } => format!("{object} needs a person: {because}"),
            Self::Collected { blob, .. } => format!("state of the cluster recorded as blob {}", short(blob)),
            Self::StartupWanted { because } => format!("the cluster is to be started: {because}"),
            Self::StartupSettled { because } => format!("the cluster need not be started from here any more: {because}"),
            Self::FarewellOrdered { trouble: None, .. } => "recorded; this host took the order to power off".to_owned(),
            Self::FarewellOrdered { trouble: Some(why), .. } => {
                format!("recorded; this host stays on, it did not take the order to power off: {why}")
            }
            Self::Prepared { prepared: Prepared { requester, problems, warnings, .. } } if problems.is_empty() => {
                format!("{requester} had all preparations looked at: green, {warnings} warnings")
            }
            Self::Prepared { prepared: Prepared { requester, problems, .. } } => {
                format!("{requester} had all preparations looked at: {} problems: {}", problems.len(), problems.join("; "))
            }
            Self::Armed { requester, mode } => format!("armed by {requester}: a trigger leads to {}", on_trigger(*mode)),
            Self::Disarmed { requester } => format!("disarmed by {requester}: a trigger is only recorded"),
            Self::RunHeld { because, .. } => format!("nothing new is started {because}"),
            Self::RunReleased { .. } => "goes on".to_owned(),
            Self::StepStarted { mode, attempt, .. } => started(*mode, *attempt),
            Self::StepAborted { because, .. } => format!("told to end: {because}"),
            Self::StepWaits { detail, then, .. } => format!("{}; next: {}", or(detail, "ended"), next(*then)),
            Self::StepEnded { status, detail, .. } if detail.is_empty() => ended(*status).to_owned(),
            Self::StepEnded { status, detail, .. } => format!("{}: {detail}", ended(*status)),
            Self::Milestone { message, .. } => message.clone(),
            Self::RepairBegun { case, .. } => format!("repair {}: about to mend {}", case.repair.name(), case.cause),
            Self::RepairEnded { case, end, .. } => {
                format!("repair {} {}: {}", case.repair.name(), if end.done { "done" } else { "not done" }, end.detail)
            }
            Self::CancelRequested { because, .. } => because.clone(),
            Self::RunEnded { outcome, reason, .. } if reason.is_empty() => outcome.name().to_owned(),
            Self::RunEnded { outcome, reason, .. } => format!("{}: {reason}", outcome.name()),
            Self::CallAudited { audit } => {
                let (verdict, role) =
                    (if audit.allowed { "allowed" } else { "refused" }, if audit.role.is_empty() { "none" } else { &audit.role });
                format!("{} {} by uid {} (role {role}): {verdict}", audit.method, audit.target, audit.uid)
            }
            Self::JournalDegraded { reason } => format!("journal degraded, cards are not burnt until it is well: {reason}"),
            Self::JournalRestored => "journal well again".to_owned(),
            Self::HostGoesDown { by: Some(run), .. } => format!("this host goes down, as {run} ordered"),
            Self::HostGoesDown { by: None, runs } => {
                let under_way = if runs.is_empty() {
                    "nothing is under way".to_owned()
                } else {
                    format!("{} under way: it is held up as long as logind lets it be", join(runs.iter().map(ToString::to_string)))
                };
                format!("this host is powered off or rebooted by somebody else; nothing of the site is stopped for it; {under_way}")
            }
            Self::HostStays => "this host stays on: its power-off or reboot was called off".to_owned(),
            Self::ClockJumped { seconds } => format!("the wall clock jumped by {seconds} s"),
        }
    }

    /// MESSAGE_ID of its entry in the message catalog (journalctl -x); facts without one explain themselves.
    pub fn message_id(&self) -> Option<&'static str> {
        match self {
            Self::TriggerDecided { .. } => Some("5f0e3b6c1d2a4e07a9b8c64f1e7d3a51"),
            Self::UpsChanged { to: Verdict::OnBattery | Verdict::Critical, .. } => Some("8c41d7e09b3f4c5aa2d6f0b17e94c3d8"),
            Self::UpsChanged { to: Verdict::Unknown, .. } => Some("d2b7604e8f1c4a93b5e0c97a3f6d18e4"),
            Self::RunEnded { outcome: Outcome::Done, .. } => Some("1a9f52c7e6d04b38803b7c5de2f4a960"),
            Self::RunEnded { .. } => Some("e37c90a45b1d4f6e9c82d05f7ab3614e"),
            Self::JournalDegraded { .. } => Some("70b6e1d9c4a84f25b3f79e0a8d5c2164"),
            Self::SettingsRejected { .. } => Some("b94d2f7ae1c3456c8fa05d6e37b1c082"),
            Self::HostGoesDown { by: None, .. } => Some("c05d3e9871b64f2d9a7e4b1fd8326c50"),
            Self::FsdLatched { .. } => Some("46e8a3c5d7f94b10ae62c1f80d9b5737"),
            _ => None,
        }
    }
}

fn join(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

fn change(change: Change) -> &'static str {
    match change {
        Change::Suspended => "suspended",
        Change::Cordoned => "cordoned",
        Change::Stopped => "stopped",
        Change::PoweredOff => "powered off",
    }
}

/// The word of `power.on_trigger`.
pub(super) fn on_trigger(mode: OnTrigger) -> &'static str {
    match mode {
        OnTrigger::Observe => "observe",
        OnTrigger::ClusterOnly => "cluster-only",
        OnTrigger::HostPoweroff => "host-poweroff",
    }
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// A verdict in words.
fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Online => "online",
        Verdict::Unknown => "unknown",
        Verdict::OnBattery => "on battery",
        Verdict::Critical => "critical",
    }
}

fn or<'a>(text: &'a str, instead: &'a str) -> &'a str {
    if text.is_empty() { instead } else { text }
}

fn next(mode: Mode) -> String {
    match mode {
        Mode::Probe => "look again".to_owned(),
        Mode::Act => "do it".to_owned(),
        Mode::Remedy(index) => format!("remedy {}", index + 1),
    }
}

fn started(mode: Mode, attempt: u32) -> String {
    let what = match mode {
        Mode::Probe => "looks".to_owned(),
        Mode::Act => "begins".to_owned(),
        Mode::Remedy(index) => format!("tries remedy {}", index + 1),
    };
    if attempt > 1 { format!("{what} (attempt {attempt})") } else { what }
}

fn ended(status: Status) -> &'static str {
    match status {
        Status::Pending => "pending",
        Status::Running { .. } => "running",
        Status::Waiting { .. } => "waiting",
        Status::Done => "done",
        Status::Skipped => "skipped",
        Status::Failed => "failed",
        Status::Cancelled => "cancelled",
        Status::Abandoned => "abandoned",
        Status::UnknownOutcome => "outcome unknown",
    }
}

fn level(told: &Told) -> Level {
    match &told.fact {
        Fact::TriggerDecided { .. } | Fact::JournalDegraded { .. } | Fact::FarewellOrdered { trouble: Some(_), .. } => Level::ERROR,
        Fact::RunEnded { outcome, .. } => match outcome {
            Outcome::Done | Outcome::Cancelled => Level::INFO,
            Outcome::Degraded | Outcome::Interrupted => Level::WARN,
            Outcome::Failed | Outcome::UnknownOutcome => Level::ERROR,
        },
        Fact::UpsChanged { to, .. } | Fact::DomainChanged { to, .. } => match to {
            Verdict::Online => Level::INFO,
            Verdict::Unknown | Verdict::OnBattery => Level::WARN,
            Verdict::Critical => Level::ERROR,
        },
        Fact::StepEnded { status, .. } if status.failed() => Level::WARN,
        Fact::CallAudited { audit } if !audit.allowed => Level::WARN,
        Fact::SettingsRejected { .. }
        | Fact::FsdLatched { .. }
        | Fact::HostGoesDown { by: None, .. }
        | Fact::ClockJumped { .. }
        | Fact::RunHeld { .. }
        | Fact::RunRaised { .. }
        | Fact::RepairBegun { .. }
        | Fact::StepAborted { .. } => Level::WARN,
        // What goes on at once was a look, not a failure.
        Fact::StepWaits { until, .. } if *until > told.stamp.now.boot => Level::WARN,
        _ => Level::INFO,
    }
}

/// With run and step in front: `journalctl -o cat METIS_RUN=…` shows the message alone.
fn headed(fact: &Fact) -> String {
    match (fact.run(), fact.step()) {
        (Some(run), Some(step)) => format!("{run} {step}: {}", fact.message()),
        (Some(run), None) => format!("{run}: {}", fact.message()),
        _ => fact.message(),
    }
}

/// Writes a recorded fact to the log, with the fields by which one run's story is found (`journalctl METIS_RUN=…`).
pub(super) fn log(told: &Told) {
    let fact = &told.fact;
    let (run, step) = (fact.run().map(tracing::field::display), fact.step().map(tracing::field::display));
    let ups = match fact {
        Fact::UpsChanged { ups, .. } | Fact::FsdLatched { ups } => Some(tracing::field::display(ups)),
        _ => None,
    };
    let (kind, seq, id, message) = (fact.kind(), told.stamp.seq, fact.message_id(), headed(fact));
    macro_rules! tell {
        ($level:ident) => {
            tracing::$level!(
                metis.run = run,
                metis.step = step,
                metis.ups = ups,
                metis.fact = kind,
                metis.seq = seq,
                message_id = id,
                "{message}"
            )
        };
    }
    match level(told) {
        Level::ERROR => tell!(error),
        Level::WARN => tell!(warn),
        _ => tell!(info),
    }
}
