//! Pure: whether NUT and metis look often enough, from what this host's files say; findings for `prepare`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::Settings;
use super::files::{File, NutFiles, directives, is_local, shell_variable, ups_settings};
use super::nut::Target;

/// NUT's default of MAXAGE (upsd.conf(5)), and the most that metis takes for quick enough.
const MAX_AGE: Duration = Duration::from_secs(15);
/// NUT's default of `pollinterval` (ups.conf(5)).
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// A driver that looks less often than this is slow.
const SLOW_POLL: Duration = Duration::from_secs(5);
/// Default of `pollfreq`, by which usbhid-ups asks for charge and runtime again.
const POLL_FREQ: Duration = Duration::from_secs(30);
/// So much of systemd's 90 s the shutdown hook uses.
const HOOK_PATIENCE: Duration = Duration::from_secs(80);
/// usbhid-ups' default of `offdelay`: from the order to the cut.
const OFF_DELAY: Duration = Duration::from_secs(20);
/// metis itself may make the site blind for so much longer than MAXAGE.
const OWN_DELAY: Duration = Duration::from_secs(3);

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Good,
    /// Not seen from here.
    NotChecked,
    /// Works, but worse than it could.
    Warning,
    /// Will not do what it is meant for.
    Bad,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable name, e.g. `nut.maxage`.
    pub name: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found, on what, and what to do.
    pub message: String,
}

/// All findings about the UPSes of `settings`. `names`: names of this host; `runtime_dir`: `daemon.runtime_dir`.
pub fn findings(settings: &Settings, files: &NutFiles, names: &[String], runtime_dir: &Path) -> Vec<Finding> {
    let targets: Vec<Target> = settings.upses.iter().filter_map(|ups| ups.name.as_str().parse().ok()).collect();
    let (local, remote): (Vec<&Target>, Vec<&Target>) = targets.iter().partition(|target| is_local(target, names));
    let mut all: Vec<Finding> = own(settings).into_iter().collect();
    all.extend(remote.iter().map(|target| {
        let message =
            format!("MAXAGE and poll intervals of {} are in the files of {}: look there with `metisctl prepare`", target.ups, target.host);
        Finding { name: "nut.remote", level: Level::NotChecked, message }
    }));
    if !local.is_empty() {
        all.push(max_age(settings, files));
        all.extend(drivers(files, &local));
        all.extend(nutshutdown(files));
        if settings.cut_outlets {
            all.extend(outlets(files, &local, runtime_dir));
        }
    }
    all
}

fn finding(name: &'static str, level: Level, message: String) -> Finding {
    Finding { name, level, message }
}

fn seconds(value: Duration) -> String {
    format!("{} s", value.as_secs_f64())
}

/// What metis adds by itself: a reading is at most one poll and one answer old.
fn own(settings: &Settings) -> Option<Finding> {
    let worst = settings.poll_interval + Duration::from_secs(1);
    (worst > OWN_DELAY && !settings.upses.is_empty()).then(|| {
        let message = format!(
            "metis asks every {}: with an answer of 1 s it adds up to {} to what NUT takes, more than {}; set power.poll_interval to 2s or less",
            seconds(settings.poll_interval),
            seconds(worst),
            seconds(OWN_DELAY)
        );
        finding("power.poll_interval", Level::Warning, message)
    })
}

/// Seconds as NUT writes them.
fn number(text: &str) -> Option<Duration> {
    text.parse::<u64>().ok().map(Duration::from_secs)
}

fn unread(name: &'static str, files: &NutFiles, file: &str, which: &File) -> Option<Finding> {
    match which {
        File::Text(_) => None,
        File::Absent => Some(finding(name, Level::NotChecked, format!("{} is not there", files.dir.join(file).display()))),
        File::Unreadable(why) => {
            let path = files.dir.join(file);
            let text = format!("{} cannot be read: {why}; `usermod -a -G nut metis`, then restart metisd", path.display());
            Some(finding(name, Level::NotChecked, text))
        }
    }
}

fn configured_max_age(files: &NutFiles) -> Duration {
    let lines = files.upsd.text().map(directives).unwrap_or_default();
    let set = lines.iter().rev().find(|line| line[0] == "MAXAGE").and_then(|line| number(line.get(1)?));
    set.unwrap_or(MAX_AGE)
}

/// The longest that a dead driver goes unnoticed, and what that makes of an outage.
fn max_age(settings: &Settings, files: &NutFiles) -> Finding {
    const NAME: &str = "nut.maxage";
    if let Some(finding) = unread(NAME, files, "upsd.conf", &files.upsd) {
        return finding;
    }
    let max_age = configured_max_age(files);
    let blind = max_age + settings.poll_interval + settings.thresholds.comm_lost_after;
    let says = format!(
        "MAXAGE is {}: a UPS that is on battery and goes silent is given up after {} (MAXAGE, power.poll_interval, comm_lost_after)",
        seconds(max_age),
        seconds(blind)
    );
    if max_age > MAX_AGE {
        let fix = format!("; that is slow: set `MAXAGE {}` in {}", MAX_AGE.as_secs(), files.dir.join("upsd.conf").display());
        return finding(NAME, Level::Bad, says + &fix);
    }
    finding(NAME, Level::Good, says)
}

/// Debian's `/sbin/upsmon` does nothing and succeeds with MODE=none, whatever it is asked; nutshutdown asks it whether the outlets shall be
/// cut, at reboots, too (seen with nut-client 2.8.0-7).
fn nutshutdown(files: &NutFiles) -> Option<Finding> {
    let mode = files.nut.text().and_then(|text| shell_variable(text, "MODE"));
    (files.nutshutdown && mode == Some("none")).then(|| {
        let text = format!(
            "{} says MODE=none: NUT's hook {} then cuts the outlets at every shutdown and reboot of this host; set MODE=netserver, and \
             keep upsmon off with `systemctl disable --now nut-monitor.service`",
            files.dir.join("nut.conf").display(),
            super::files::NUTSHUTDOWN
        );
        finding("nut.mode", Level::Bad, text)
    })
}

/// How often the drivers look.
fn drivers(files: &NutFiles, local: &[&Target]) -> Vec<Finding> {
    const NAME: &str = "nut.pollinterval";
    if let Some(finding) = unread(NAME, files, "ups.conf", &files.ups) {
        return vec![finding];
    }
    let all = files.ups.text().map(ups_settings).unwrap_or_default();
    let max_age = configured_max_age(files);
    let mut found = Vec::new();
    for target in local {
        let Some(section) = all.get(&target.ups) else {
            let text = format!(
                "{} has no [{}]: upsd will answer UNKNOWN-UPS; correct the name in power.upses",
                files.dir.join("ups.conf").display(),
                target.ups
            );
            found.push(finding("nut.ups", Level::Bad, text));
            continue;
        };
        let poll = setting(&all, section, "pollinterval").unwrap_or(POLL_INTERVAL);
        let what = format!("the driver of {} looks every {}", target.ups, seconds(poll));
        found.push(if poll >= max_age {
            finding(
                NAME,
                Level::Bad,
                format!("{what}, not more often than MAXAGE ({}): its data is stale in between; lower pollinterval", seconds(max_age)),
            )
        } else if poll > SLOW_POLL {
            finding(NAME, Level::Warning, format!("{what}; set `pollinterval = 2` in ups.conf, so that an outage is seen at once"))
        } else {
            finding(NAME, Level::Good, what)
        });
        if let Some(freq) = setting(&all, section, "pollfreq").filter(|freq| *freq > POLL_FREQ) {
            let text = format!(
                "the driver of {} renews charge and runtime only every {}; lower pollfreq to {} or less",
                target.ups,
                seconds(freq),
                POLL_FREQ.as_secs()
            );
            found.push(finding("nut.pollfreq", Level::Warning, text));
        }
    }
    found
}

/// A setting of a UPS, or of all.
fn setting(all: &BTreeMap<String, BTreeMap<String, String>>, section: &BTreeMap<String, String>, key: &str) -> Option<Duration> {
    section.get(key).or_else(|| all.get("")?.get(key)).and_then(|text| number(text))
}

/// Whether `power.cut_outlets` can do what it is meant for.
fn outlets(files: &NutFiles, local: &[&Target], runtime_dir: &Path) -> Vec<Finding> {
    const NAME: &str = "power.cut_outlets";
    let mut found = Vec::new();
    if !Path::new(super::outlets::FLAG).starts_with(runtime_dir) {
        let text = format!(
            "the shutdown hook looks for {}, but daemon.runtime_dir is {}: no outlets would be cut",
            super::outlets::FLAG,
            runtime_dir.display()
        );
        found.push(finding(NAME, Level::Bad, text));
    }
    let all = files.ups.text().map(ups_settings).unwrap_or_default();
    let pause = files.nut.text().and_then(|text| shell_variable(text, "POWEROFF_WAIT")).and_then(sleep_seconds);
    match pause {
        None => found.push(finding(
            NAME,
            Level::Warning,
            "POWEROFF_WAIT is not set in nut.conf: a host whose UPS does not cut, because the mains came back, stays off; set it to a little more \
             than the UPS's ups.delay.shutdown"
                .to_owned(),
        )),
        Some(pause) if pause > HOOK_PATIENCE => {
            let text = format!("POWEROFF_WAIT of {} is longer than systemd waits for a shutdown hook (90 s): it is not waited for; at most {} fit", seconds(pause), seconds(HOOK_PATIENCE));
            found.push(finding(NAME, Level::Bad, text));
        }
        Some(_) => {}
    }
    for target in local {
        let Some(section) = all.get(&target.ups) else { continue };
        if section.get("sdorder").is_some_and(|order| order.starts_with('-')) {
            let text = format!(
                "ups.conf says `sdorder = {}` for {}: it is not to be shut down; metis would; remove one of the two",
                section["sdorder"], target.ups
            );
            found.push(finding(NAME, Level::Bad, text));
        }
        let off = setting(&all, section, "offdelay").unwrap_or(OFF_DELAY);
        if let Some(pause) = pause.filter(|pause| *pause <= off) {
            let text = format!(
                "POWEROFF_WAIT ({}) is not longer than the offdelay of {} ({}): the host would boot and then lose its power",
                seconds(pause),
                target.ups,
                seconds(off)
            );
            found.push(finding(NAME, Level::Bad, text));
        }
    }
    found
}

/// As sleep(1) and the shutdown hook take it.
fn sleep_seconds(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let each = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    digits.parse::<u64>().ok().and_then(|count| count.checked_mul(each)).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::testing::settings;

    fn found(upsd: &str, ups: &str, nut: &str, cut: bool) -> Vec<(&'static str, Level, String)> {
        let text = |text: &str| File::Text(text.to_owned());
        let files =
            NutFiles { dir: "/etc/nut".into(), upsmon: File::Absent, upsd: text(upsd), ups: text(ups), nut: text(nut), nutshutdown: false };
        let mut settings = settings(&["a@localhost"]);
        settings.cut_outlets = cut;
        findings(&settings, &files, &[], Path::new("/run/metis")).into_iter().map(|f| (f.name, f.level, f.message)).collect()
    }

    fn levels(found: &[(&'static str, Level, String)]) -> Vec<(&'static str, Level)> {
        found.iter().map(|(name, level, _)| (*name, *level)).collect()
    }

    #[test]
    fn max_age_and_poll_intervals() {
        use Level::{Bad, Good, Warning};
        const AGE: &str = "nut.maxage";
        const POLL: &str = "nut.pollinterval";
        const FREQ: &str = "nut.pollfreq";
        type Expected = &'static [(&'static str, Level)];
        let cases: &[(&str, &str, Expected)] = &[
            ("", "[a]\n", &[(AGE, Good), (POLL, Good)]),
            ("MAXAGE 15\n", "pollinterval = 5\n[a]\n", &[(AGE, Good), (POLL, Good)]),
            ("MAXAGE 25\n", "[a]\n", &[(AGE, Bad), (POLL, Good)]),
            ("# MAXAGE 99\nMAXAGE nonsense\n", "[a]\n", &[(AGE, Good), (POLL, Good)]),
            ("MAXAGE 10\n", "pollinterval = 2\n[a]\npollinterval = 10\n", &[(AGE, Good), (POLL, Bad)]),
            ("", "pollinterval = 6\n[a]\n", &[(AGE, Good), (POLL, Warning)]),
            ("", "[a]\npollfreq = 60\n", &[(AGE, Good), (POLL, Good), (FREQ, Warning)]),
            ("", "[b]\n", &[(AGE, Good), ("nut.ups", Bad)]),
        ];
        for (upsd, ups, expected) in cases {
            let found = found(upsd, ups, "", false);
            assert_eq!(levels(&found), *expected, "{upsd:?} {ups:?}: {found:?}");
        }
        let (_, _, message) = &found("MAXAGE 25\n", "[a]\n", "", false)[0];
        assert!(message.contains("given up after 42 s") && message.contains("set `MAXAGE 15` in /etc/nut/upsd.conf"), "{message}");
    }

    #[test]
    fn cutting_outlets_has_to_fit() {
        use Level::{Bad, Warning};
        let outlets = |ups: &str, nut: &str| {
            let found = found("", ups, nut, true);
            found.into_iter().filter(|(name, ..)| *name == "power.cut_outlets").map(|(_, level, text)| (level, text)).collect::<Vec<_>>()
        };
        assert_eq!(outlets("[a]\n", "POWEROFF_WAIT=75s\n"), []);
        for (ups, nut, level, part) in [
            ("[a]\n", "MODE=none\n", Warning, "POWEROFF_WAIT is not set"),
            ("[a]\n", "POWEROFF_WAIT=2m\n", Bad, "of 120 s is longer than systemd waits"),
            ("[a]\noffdelay = 60\n", "POWEROFF_WAIT=45\n", Bad, "not longer than the offdelay of a (60 s)"),
            ("[a]\nsdorder = -1\n", "POWEROFF_WAIT=75\n", Bad, "`sdorder = -1` for a"),
        ] {
            let found = outlets(ups, nut);
            assert!(found.len() == 1 && found[0].0 == level && found[0].1.contains(part), "{found:?}");
        }
        let mut settings = settings(&["a@localhost"]);
        settings.cut_outlets = true;
        let elsewhere = findings(&settings, &NutFiles::default(), &[], Path::new("/srv/run"));
        assert!(elsewhere.iter().any(|f| f.level == Bad && f.message.contains("daemon.runtime_dir is /srv/run")), "{elsewhere:?}");
    }

    #[test]
    fn what_is_not_seen_is_said() {
        let files = NutFiles { dir: "/etc/nut".into(), upsd: File::Unreadable("Permission denied".to_owned()), ..NutFiles::default() };
        let found = findings(&settings(&["a@localhost", "b@nas"]), &files, &[], Path::new("/run/metis"));
        assert!(found.iter().all(|finding| finding.level == Level::NotChecked) && found.len() == 3, "{found:?}");
        let all: String = found.iter().map(|finding| finding.message.as_str()).collect();
        assert!(
            all.contains("of b are in the files of nas")
                && all.contains("usermod -a -G nut metis")
                && all.contains("ups.conf is not there"),
            "{all}"
        );
        assert_eq!(findings(&settings(&[]), &files, &[], Path::new("/run/metis")), []);
    }

    #[test]
    fn nuts_own_hook_with_mode_none_cuts_at_every_reboot() {
        for (mode, hook, bad) in
            [("MODE=none\n", true, true), ("MODE=none\n", false, false), ("MODE=netserver\n", true, false), ("", true, false)]
        {
            let files = NutFiles { nut: File::Text(mode.to_owned()), nutshutdown: hook, ..NutFiles::default() };
            let found = findings(&settings(&["a@localhost"]), &files, &[], Path::new("/run/metis"));
            assert_eq!(found.iter().any(|f| f.name == "nut.mode" && f.level == Level::Bad), bad, "{mode:?} {hook}");
        }
    }

    #[test]
    fn metis_own_interval_counts() {
        let mut slow = settings(&["b@nas"]);
        slow.poll_interval = Duration::from_secs(5);
        let found = findings(&slow, &NutFiles::default(), &[], Path::new("/run/metis"));
        assert!(found[0].name == "power.poll_interval" && found[0].message.contains("adds up to 6 s"), "{found:?}");
    }
}
