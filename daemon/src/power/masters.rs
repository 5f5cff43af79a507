//! Guard against another master of the same UPSes on this host: upsmon, or a system that metis replaces.
//!
//! upsmon as primary powers its host off some 20 s after FSD (HOSTSYNC, FINALDELAY), and as secondary as soon as it sees FSD, metis' own
//! included: either way in the middle of a shutdown that metis commands.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::Settings;
use super::files::{File, NutFiles, directives, is_local, is_loopback};
use super::nut::Target;
use crate::site::{Guard, UpsName};

/// The unit of upsmon.
pub const UPSMON_UNIT: &str = "nut-monitor.service";

/// What was found on this host.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Evidence {
    /// NUT's files.
    pub files: NutFiles,
    /// Those of [`units`] that are active or being started.
    pub active: BTreeSet<String>,
    /// Units whose state could not be asked, with the reason.
    pub unknown: BTreeMap<String, String>,
    /// `POWERDOWNFLAG` files of upsmon.conf that exist.
    pub powerdown_flags: BTreeSet<PathBuf>,
    /// Addresses of those who are logged in to a UPS, and how many of them are this daemon's own (`NutPrimary::clients`).
    pub clients: BTreeMap<UpsName, (Vec<String>, u32)>,
    /// Names of this host besides `localhost`.
    pub host_names: Vec<String>,
}

impl Evidence {
    /// Reads NUT's files in `nut_dir` and looks for what they name; units, logins and names are the caller's to find out. Blocks.
    pub fn read(nut_dir: &Path) -> Self {
        let files = NutFiles::read(nut_dir);
        let powerdown_flags = powerdown_flags(&files).into_iter().filter(|path| path.exists()).collect();
        Self { files, powerdown_flags, ..Self::default() }
    }
}

/// Units to ask for.
pub fn units(settings: &Settings) -> BTreeSet<String> {
    settings.predecessors.iter().cloned().chain([UPSMON_UNIT.to_owned()]).collect()
}

/// The files that upsmon's `POWERDOWNFLAG` names, to be looked for.
pub fn powerdown_flags(files: &NutFiles) -> BTreeSet<PathBuf> {
    let lines = files.upsmon.text().map(directives).unwrap_or_default();
    lines.into_iter().filter(|line| line[0] == "POWERDOWNFLAG").filter_map(|line| line.get(1).map(PathBuf::from)).collect()
}

/// Who else would act on the UPSes of `settings`, each with what to do. None: metis is alone, as far as this host tells.
pub fn guards(settings: &Settings, evidence: &Evidence) -> Vec<Guard> {
    let mut found = Vec::new();
    if evidence.active.contains(UPSMON_UNIT) {
        found.extend(upsmon(settings, evidence));
    }
    found.extend(settings.predecessors.iter().filter(|unit| evidence.active.contains(*unit)).map(|unit| {
        guard("power.predecessor", format!("{unit} is active: it would stop and start the same site; `systemctl disable --now {unit}`"))
    }));
    found.extend(
        evidence
            .unknown
            .iter()
            .map(|(unit, why)| guard("power.units", format!("whether {unit} runs cannot be told: {why}; `systemctl is-active {unit}`"))),
    );
    found.extend(evidence.powerdown_flags.iter().map(|path| {
        let text = format!(
            "{0} exists: upsmon left it, and NUT's shutdown hook cuts the outlets at the next power-off, whatever it is for; `rm {0}`",
            path.display()
        );
        guard("power.powerdownflag", text)
    }));
    found.extend(evidence.clients.iter().filter_map(|(ups, (clients, own))| logins(ups, clients, *own, evidence)));
    found
}

fn guard(name: &str, message: String) -> Guard {
    Guard { name: name.to_owned(), message, waiver: None }
}

/// upsmon runs: of which of our UPSes?
fn upsmon(settings: &Settings, evidence: &Evidence) -> Vec<Guard> {
    let file = evidence.files.dir.join("upsmon.conf");
    let why = match &evidence.files.upsmon {
        File::Text(text) => return monitors(text).iter().filter_map(|monitor| conflict(settings, evidence, monitor)).collect(),
        File::Unreadable(why) => format!("{} cannot be read: {why}", file.display()),
        File::Absent => format!("{} is not there", file.display()),
    };
    let message = format!(
        "upsmon runs here, and of which UPSes cannot be told: {why}; metis takes its place: `systemctl disable --now {UPSMON_UNIT}` (or, if it \
         minds other UPSes, let metis read its configuration: `usermod -a -G nut metis`, then restart metisd)"
    );
    vec![guard("power.upsmon", message)]
}

/// A MONITOR line of upsmon.conf(5), without its password.
struct Monitor {
    target: Target,
    power_value: u32,
    kind: String,
}

fn monitors(text: &str) -> Vec<Monitor> {
    let read = |line: Vec<String>| match line.as_slice() {
        [word, system, power_value, _user, _password, kind, ..] if word == "MONITOR" => {
            // Without a host it is this one's.
            let system = if system.contains('@') { system.clone() } else { format!("{system}@localhost") };
            Some(Monitor { target: system.parse().ok()?, power_value: power_value.parse().ok()?, kind: kind.clone() })
        }
        _ => None,
    };
    directives(text).into_iter().filter_map(read).collect()
}

fn conflict(settings: &Settings, evidence: &Evidence, monitor: &Monitor) -> Option<Guard> {
    let same = |ours: &Target| {
        let local = |target: &Target| is_local(target, &evidence.host_names);
        let same_host = ours.host.eq_ignore_ascii_case(&monitor.target.host) || (local(ours) && local(&monitor.target));
        ours.ups == monitor.target.ups && ours.port == monitor.target.port && same_host
    };
    let ups = settings.upses.iter().find(|ups| ups.name.as_str().parse::<Target>().is_ok_and(|ours| same(&ours)))?;
    // A power value of 0: it only tells, and never shuts down for that UPS.
    if monitor.power_value == 0 {
        return None;
    }
    let what = if matches!(monitor.kind.as_str(), "primary" | "master") {
        "as primary: it would power this host off some 20 s after FSD, in the middle of what metis does"
    } else {
        "as secondary: it powers this host off as soon as FSD is set, metis' own FSD included"
    };
    let message = format!("upsmon runs here and minds {} {what}; metis takes its place: `systemctl disable --now {UPSMON_UNIT}`", ups.name);
    Some(guard("power.upsmon", message))
}

/// upsd tells the addresses of logins, not who they are: from this host there should be none but ours.
fn logins(ups: &UpsName, clients: &[String], own: u32, evidence: &Evidence) -> Option<Guard> {
    let target = ups.as_str().parse::<Target>().ok().filter(|target| is_local(target, &evidence.host_names))?;
    let from_here = clients.iter().filter(|client| is_loopback(client) || evidence.host_names.contains(client)).count();
    let others = from_here.saturating_sub(own as usize);
    (others > 0).then(|| {
        let message = format!(
            "{others} other client of this host is logged in to {ups} as if it minded it, such as an upsmon outside of {UPSMON_UNIT}; find it with \
             `ss -tnp dport = :{}` and end it",
            target.port
        );
        guard("power.login", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::files::File;
    use crate::power::testing::settings;

    const MONITOR: &str = "MONITOR pyrphoros@localhost 1 upsmon s3cret primary\nMINSUPPLIES 1\nPOWERDOWNFLAG \"/etc/kill power\"\n";

    fn with(upsmon: File, active: &[&str]) -> Evidence {
        let files = NutFiles { dir: "/etc/nut".into(), upsmon, ..NutFiles::default() };
        let active = active.iter().map(|unit| (*unit).to_owned()).collect();
        Evidence { files, active, host_names: vec!["titan-db".to_owned(), "192.168.22.9".to_owned()], ..Evidence::default() }
    }

    fn text(text: &str) -> File {
        File::Text(text.to_owned())
    }

    /// What was found, by name and message.
    fn found(evidence: &Evidence) -> Vec<(String, String)> {
        let mut settings = settings(&["pyrphoros@localhost", "statera@tethys.lan:13493"]);
        settings.predecessors = vec!["ananke.service".to_owned(), "hecate.service".to_owned()];
        guards(&settings, evidence).into_iter().map(|guard| (guard.name, guard.message)).collect()
    }

    #[test]
    fn upsmon_of_a_ups_that_metis_minds() {
        let cases: &[(&str, &[&str])] = &[
            (MONITOR, &["minds pyrphoros@localhost as primary"]),
            ("MONITOR pyrphoros@127.0.0.1:3493 1 u p master", &["as primary"]),
            ("MONITOR pyrphoros@TITAN-DB 1 u p master", &["as primary"]),
            ("MONITOR pyrphoros 1 u p primary", &["as primary"]),
            ("MONITOR \"statera@tethys.lan:13493\" 1 u p secondary", &["minds statera@tethys.lan:13493 as secondary"]),
            ("MONITOR pyrphoros@[::1] 1 u p slave\nMONITOR statera@tethys.lan:13493 1 u p slave", &["pyrphoros", "statera"]),
            ("MONITOR statera@tethys.lan 1 u p secondary", &[]),
            ("MONITOR pyrphoros@localhost 0 u p primary", &[]),
            ("MONITOR other@localhost 1 u p primary", &[]),
            ("MONITOR pyrphoros@localhost:4000 1 u p primary", &[]),
            ("# MONITOR pyrphoros@localhost 1 u p primary", &[]),
            ("MONITOR pyrphoros@localhost 1 u", &[]),
            ("", &[]),
        ];
        for (conf, expected) in cases {
            let found = found(&with(text(conf), &[UPSMON_UNIT]));
            assert_eq!(found.len(), expected.len(), "{conf}: {found:?}");
            for ((name, message), part) in found.iter().zip(*expected) {
                assert!(
                    name == "power.upsmon" && message.contains(part) && message.contains("`systemctl disable --now nut-monitor.service`"),
                    "{message}"
                );
                assert!(!message.contains("s3cret"), "{message}");
            }
        }
        assert_eq!(found(&with(text(MONITOR), &[])), [], "it does not run");
    }

    #[test]
    fn what_cannot_be_seen_is_no_all_clear() {
        let unreadable = found(&with(File::Unreadable("Permission denied".to_owned()), &[UPSMON_UNIT]));
        assert!(unreadable[0].1.contains("/etc/nut/upsmon.conf cannot be read: Permission denied"), "{unreadable:?}");
        assert_eq!(found(&with(File::Absent, &[UPSMON_UNIT])).len(), 1);
        assert_eq!(found(&with(File::Unreadable("Permission denied".to_owned()), &[])), []);
        let mut evidence = with(File::Absent, &[]);
        evidence.unknown.insert(UPSMON_UNIT.to_owned(), "no bus".to_owned());
        assert_eq!(
            found(&evidence),
            [(
                "power.units".to_owned(),
                "whether nut-monitor.service runs cannot be told: no bus; `systemctl is-active nut-monitor.service`".to_owned()
            )]
        );
    }

    #[test]
    fn predecessors_and_a_powerdown_flag() {
        let mut evidence = with(text(MONITOR), &["hecate.service", "unrelated.service"]);
        evidence.powerdown_flags = powerdown_flags(&evidence.files);
        let found = found(&evidence);
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["power.predecessor", "power.powerdownflag"], "{found:?}");
        assert!(
            found[0].1.contains("`systemctl disable --now hecate.service`") && found[1].1.contains("`rm /etc/kill power`"),
            "{found:?}"
        );
        let mut settings = settings(&[]);
        settings.predecessors = vec!["x.service".to_owned()];
        assert_eq!(units(&settings), BTreeSet::from([UPSMON_UNIT.to_owned(), "x.service".to_owned()]));
    }

    #[test]
    fn files_and_flags_are_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let flag = dir.path().join("killpower");
        let conf = format!("{MONITOR}POWERDOWNFLAG {}\n", flag.display());
        std::fs::write(dir.path().join("upsmon.conf"), conf).unwrap();
        assert_eq!(Evidence::read(dir.path()).powerdown_flags, BTreeSet::new());
        std::fs::write(&flag, "").unwrap();
        assert_eq!(Evidence::read(dir.path()).powerdown_flags, BTreeSet::from([flag]));
    }

    #[test]
    fn logins_of_this_host_that_are_not_ours() {
        for (ups, clients, own, guarded) in [
            ("pyrphoros@localhost", &["127.0.0.1"][..], 1, false),
            ("pyrphoros@localhost", &["127.0.0.1", "192.168.22.24"], 1, false),
            ("pyrphoros@localhost", &["127.0.0.1", "::1"], 1, true),
            ("pyrphoros@localhost", &["127.0.0.1"], 0, true),
            ("pyrphoros@titan-db", &["192.168.22.9"], 0, true),
            ("pyrphoros@localhost", &["192.168.22.24"], 0, false),
            // Elsewhere a loopback address is that host's own.
            ("statera@tethys.lan", &["127.0.0.1"], 0, false),
        ] {
            let mut evidence = with(File::Absent, &[]);
            evidence.clients.insert(ups.into(), (clients.iter().map(|client| (*client).to_owned()).collect(), own));
            assert_eq!(found(&evidence).len(), usize::from(guarded), "{ups} {clients:?} {own}");
        }
    }
}
