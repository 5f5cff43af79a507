//! The state of the daemon and its site.

use std::fmt::Write as _;

use jiff::Timestamp;
use metis_proto::v1;
use serde::Serialize;

use super::lease::LeaseView;
use super::run::{self, RunView};
use super::ups::{self, DomainView, UpsView};
use super::{role, secs, text, time};
use crate::human::{self, Look};
use crate::output::{Tone, toned};

/// Answer of `status`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StatusView {
    /// Version of metisd.
    pub version: String,
    /// Its host.
    pub host: String,
    /// coordinator, peer, observer or cards.
    pub host_role: String,
    /// One line, as systemd's STATUS=.
    pub phase: String,
    /// Whether a trigger would be acted on.
    pub armed: bool,
    /// observe, cluster-only or host-poweroff.
    pub on_trigger: String,
    /// When metisd started.
    pub started: Option<Timestamp>,
    /// The kernel's boot id.
    pub boot_id: String,
    /// Whether the clock is synchronised.
    pub clock_synced: bool,
    /// The journal.
    pub journal: JournalView,
    /// The configuration.
    pub config: ConfigView,
    /// Power domains.
    pub domains: Vec<DomainView>,
    /// The newest runs, newest first.
    pub runs: Vec<RunView>,
    /// What is not as it should be, with what to do.
    pub problems: Vec<String>,
    /// The caller's role.
    pub caller_role: &'static str,
    /// The daemon's time.
    pub now: Option<Timestamp>,
    /// The UPS whose state matters most: the worst verdict, then the lowest charge.
    pub ups_host: Option<String>,
    /// Its charge in percent.
    pub ups_battery: Option<f64>,
    /// All UPSes; their variables are in `ups`.
    pub upses: Vec<UpsView>,
    /// Whether Flux reads what it should; null: not known, or no cluster.
    pub flux_source_ready: Option<bool>,
    /// What was seen of it; null: the site has no cluster.
    pub flux_source: Option<String>,
    /// Cordons that metis holds.
    pub leases: Vec<LeaseView>,
    /// The newest look at the preparations.
    pub prepared: Option<PreparedView>,
    /// The other metis host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerView>,
}

/// What a look at the preparations came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PreparedView {
    /// When.
    pub at: Option<Timestamp>,
    /// How long ago.
    pub age_seconds: Option<f64>,
    /// Who asked.
    pub requested_by: String,
    /// No problem was found.
    pub green: bool,
    /// Each problem.
    pub problems: Vec<String>,
    /// How many warnings.
    pub warnings: u32,
    /// How much could not be told.
    pub cannot_tell: u32,
    /// The configuration has changed since.
    pub outdated: bool,
}

/// The other metis host as this one knows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PeerView {
    /// Its name in the inventory.
    pub name: String,
    /// answers, unreachable, silent (its sshd answers, its metisd does not) or denied; null: it was not asked yet.
    pub reach: Option<String>,
    /// Why it does not answer.
    pub why: Option<String>,
    /// When it was asked last.
    pub asked: Option<Timestamp>,
    /// How long ago it reached this host, in seconds; null: never.
    pub heard_seconds: Option<f64>,
    /// Its role.
    pub host_role: Option<String>,
    /// What is under way there.
    pub intents: Vec<IntentView>,
    /// Who holds the Lease.
    pub lease: Option<String>,
}

/// What the other host does to the cluster.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IntentView {
    /// shuts-down or starts-up.
    pub doing: &'static str,
    /// Its run there; null: it is about to begin.
    pub run: Option<String>,
    /// How far it has come.
    pub phase: Option<String>,
    /// For how long, in seconds.
    pub age_seconds: Option<f64>,
}

impl From<v1::PeerIntent> for IntentView {
    fn from(i: v1::PeerIntent) -> Self {
        let doing = if i.doing() == v1::PeerDoing::StartingUp { "starts-up" } else { "shuts-down" };
        Self { doing, run: text(i.run), phase: text(i.phase), age_seconds: secs(i.age) }
    }
}

impl From<v1::PeerStatus> for PeerView {
    fn from(p: v1::PeerStatus) -> Self {
        Self {
            name: p.name,
            reach: text(p.reach),
            why: text(p.why),
            asked: time(p.asked),
            heard_seconds: secs(p.heard),
            host_role: text(p.host_role),
            intents: p.intents.into_iter().map(Into::into).collect(),
            lease: text(p.lease),
        }
    }
}

impl PeerView {
    /// One line.
    fn line(&self, look: &Look) -> String {
        let asked = self.asked.map(|t| format!(", asked {}", human::when(t, look))).unwrap_or_default();
        let role = self.host_role.as_deref().map(|role| format!(" ({role})")).unwrap_or_default();
        let state = match (self.reach.as_deref(), self.intents.first()) {
            (None, _) => "was not asked yet".to_owned(),
            (Some("answers"), None) => "does nothing to the cluster".to_owned(),
            (Some("answers"), Some(intent)) => {
                let doing = if intent.doing == "starts-up" { "starts the cluster" } else { "shuts the site down" };
                let phase = intent.phase.as_deref().map(|phase| format!(", {phase}")).unwrap_or_default();
                let age = intent.age_seconds.map(|age| format!(", for {}", human::seconds(age))).unwrap_or_default();
                format!("{doing} ({}{phase}{age})", intent.run.as_deref().unwrap_or("about to begin"))
            }
            (Some(reach), _) => format!("{reach}: {}", self.why.as_deref().unwrap_or_default()),
        };
        let lease = self.lease.as_deref().map(|lease| format!("; {lease}")).unwrap_or_default();
        format!("{}{role} {state}{asked}{lease}", self.name)
    }
}

/// The journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct JournalView {
    /// Whether facts can be stored.
    pub writable: bool,
    /// Why not.
    pub degraded: Option<String>,
    /// Newest position.
    pub last_seq: u64,
    /// Facts stored.
    pub facts: u64,
}

/// The configuration in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ConfigView {
    /// Files it was read from.
    pub files: Vec<String>,
    /// Its digest.
    pub digest: Option<String>,
    /// When it was read.
    pub loaded: Option<Timestamp>,
    /// Errors of a newer one that was refused.
    pub rejected: Vec<String>,
}

impl From<v1::GetStatusResponse> for StatusView {
    fn from(s: v1::GetStatusResponse) -> Self {
        let journal =
            |j: v1::JournalStatus| JournalView { writable: j.writable, degraded: text(j.degraded), last_seq: j.last_seq, facts: j.facts };
        let config =
            |c: v1::ConfigStatus| ConfigView { files: c.files, digest: text(c.digest), loaded: time(c.loaded), rejected: c.rejected };
        let now = time(s.now);
        let prepared = |p: v1::PreparedStatus| {
            let at = time(p.at);
            let age_seconds = at.zip(now).map(|(at, now)| now.duration_since(at).as_secs_f64());
            let v1::PreparedStatus { requested_by, green, problems, warnings, cannot_tell, outdated, .. } = p;
            PreparedView { at, age_seconds, requested_by, green, problems, warnings, cannot_tell, outdated }
        };
        Self {
            version: s.version,
            host: s.host,
            host_role: s.host_role,
            phase: s.phase,
            armed: s.armed,
            on_trigger: s.on_trigger,
            started: time(s.started),
            boot_id: s.boot_id,
            clock_synced: s.clock_synced,
            journal: s.journal.map(journal).unwrap_or_default(),
            config: s.config.map(config).unwrap_or_default(),
            domains: s.domains.into_iter().map(Into::into).collect(),
            runs: s.runs.into_iter().map(Into::into).collect(),
            problems: s.problems,
            caller_role: role(s.caller_role),
            now: time(s.now),
            ups_host: text(s.ups_host),
            ups_battery: s.ups_battery,
            upses: s.upses.into_iter().map(Into::into).collect(),
            flux_source_ready: s.flux_source.as_ref().and_then(|source| source.ready),
            flux_source: s.flux_source.map(|source| source.detail),
            leases: s.leases.into_iter().map(Into::into).collect(),
            prepared: s.prepared.map(prepared),
            peer: s.peer.map(Into::into),
        }
    }
}

impl StatusView {
    /// One screen, problems first.
    pub fn table(&self, look: &Look) -> String {
        let look = &Look { now: self.now.unwrap_or(look.now), ..look.clone() };
        let mut s = self.problems(look);
        self.headline(look, &mut s);
        self.readiness(look, &mut s);
        if self.domains.is_empty() {
            s.push_str("no power domain is configured\n");
        } else {
            let _ = writeln!(s, "\n{}", ups::domains(&self.domains, look));
        }
        let _ = writeln!(s, "\n{}\n", run::list(&self.runs, look));
        self.footer(look, &mut s);
        s
    }

    fn problems(&self, look: &Look) -> String {
        let mut lines: Vec<String> = self.problems.clone();
        lines.extend(self.config.rejected.iter().map(|e| format!("refused configuration: {e}")));
        if let Some(why) = &self.journal.degraded {
            lines.push(format!("journal: {why}"));
        }
        lines.dedup();
        let mut s = String::new();
        for line in &lines {
            let _ = writeln!(s, "{} {line}", toned("PROBLEM", Tone::Bad, look));
        }
        if !lines.is_empty() {
            s.push('\n');
        }
        s
    }

    fn headline(&self, look: &Look, s: &mut String) {
        let armed = if self.armed { toned("ARMED", Tone::Good, look) } else { toned("DISARMED", Tone::Warn, look) };
        let meaning = match (self.armed, self.on_trigger.as_str()) {
            (true, mode) => format!("a trigger leads to {mode}"),
            (false, _) => "a trigger is recorded and shown, not acted on".to_owned(),
        };
        let up = self.started.map(|t| format!(", up {}", human::seconds(look.now.duration_since(t).as_secs_f64()))).unwrap_or_default();
        let _ = writeln!(s, "metisd {} on {} ({}){up}; you are {}", self.version, self.host, self.host_role, self.caller_role);
        let _ = writeln!(s, "{armed}: {meaning}");
        for run in self.runs.iter().filter(|run| run.kind == "shutdown" && run.ended.is_none()) {
            let undo = if run.committed { "past its point of no return" } else { "can still be cancelled" };
            let _ = writeln!(s, "{}: {} ({}), {undo}", toned("SHUTTING DOWN", Tone::Bad, look), run.id, run.title);
        }
        let _ = writeln!(s, "{}", self.phase);
    }

    /// Batteries, Flux' source, preparations, cordons: a line each.
    fn readiness(&self, look: &Look, s: &mut String) {
        s.push('\n');
        let battery = |ups: &UpsView| {
            let charge = ups.charge_percent.map_or_else(|| "charge unknown".to_owned(), |charge| format!("{charge:.0} %"));
            let tone = if ups.verdict == "online" { Tone::Plain } else { Tone::Bad };
            toned(&format!("{} {charge} ({})", ups.name, ups.verdict), tone, look)
        };
        if !self.upses.is_empty() {
            let _ = writeln!(s, "battery   {}", self.upses.iter().map(battery).collect::<Vec<_>>().join(", "));
        }
        if let Some(detail) = &self.flux_source {
            let (word, tone) = match self.flux_source_ready {
                Some(true) => ("ready", Tone::Good),
                Some(false) => ("NOT READY", Tone::Bad),
                None => ("cannot tell", Tone::Warn),
            };
            let _ = writeln!(s, "flux      source {}: {detail}", toned(word, tone, look));
        }
        let _ = writeln!(s, "prepared  {}", self.prepared(look));
        for lease in &self.leases {
            let until = lease.expires.map_or_else(|| "until its run ends".to_owned(), |at| format!("expires {}", human::when(at, look)));
            let person = lease
                .manual_action
                .as_ref()
                .map(|why| format!("; {} {why}", toned("NEEDS A PERSON:", Tone::Bad, look)))
                .unwrap_or_default();
            let _ = writeln!(s, "cordon    {} by {}, {until}{person}", lease.node, lease.run);
        }
    }

    fn prepared(&self, look: &Look) -> String {
        let Some(prepared) = &self.prepared else {
            return format!("{}: nobody has looked yet: `metisctl prepare`", toned("not known", Tone::Warn, look));
        };
        let verdict = if prepared.green {
            toned("green", Tone::Good, look)
        } else {
            toned(&format!("{} PROBLEMS", prepared.problems.len()), Tone::Bad, look)
        };
        let at = prepared.at.map(|at| human::when(at, look)).unwrap_or_default();
        let outdated = if prepared.outdated { "; the configuration has changed since: `metisctl prepare`" } else { "" };
        format!("{verdict}, {} warnings, {} cannot be told, {at}{outdated}", prepared.warnings, prepared.cannot_tell)
    }

    fn footer(&self, look: &Look, s: &mut String) {
        let journal = if self.journal.writable { "writable" } else { "NOT WRITABLE" };
        let clock = if self.clock_synced { "synchronised" } else { "NOT SYNCHRONISED" };
        let loaded = self.config.loaded.map(|t| format!(", read {}", human::when(t, look))).unwrap_or_default();
        let _ = writeln!(s, "journal  {journal}, {} facts", self.journal.facts);
        let _ = writeln!(s, "config   {}{loaded}", self.config.files.join(" "));
        let _ = writeln!(s, "clock    {clock}");
        if let Some(peer) = &self.peer {
            let _ = writeln!(s, "peer     {}", peer.line(look));
        }
    }
}
