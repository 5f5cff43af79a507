//! All findings.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::facts::{Facts, UpsSeen};
use super::{Finding, Level, hosts, kept};

/// A battery that was not tested for longer may hold less than it says.
const OLD_TEST: Duration = Duration::from_secs(180 * 24 * 3600);
/// Heard from within this time: the UPS is there.
const HEARD: Duration = Duration::from_secs(60);
/// A driver that looks less often is slow, and the default of `pollfreq` (usbhid-ups(8)), in seconds.
const SLOW_POLL: u64 = 5;
const SLOW_FREQ: u64 = 30;
/// The state directory must hold a journal that grows, reports, and a snapshot.
const LEAST_FREE: u64 = 512 << 20;

/// Everything, problems first, each group in a fixed order.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut all: Vec<Finding> = kept::bundle(facts).into_iter().collect();
    all.extend(kept::copies(facts));
    all.extend(kept::secrets(facts));
    all.extend(kept::images(facts));
    all.push(own_clock(facts));
    all.extend(hosts::hosts(facts));
    all.extend(rights(facts));
    all.extend(facts.upses.iter().flat_map(|ups| upses(facts, ups)));
    all.extend(facts.told.iter().cloned());
    all.extend(installed(facts));
    all.push(disk(facts));
    all.sort_by_key(|finding| finding.level);
    all
}

fn own_clock(facts: &Facts) -> Finding {
    const NAME: &str = "clock";
    if facts.now.synced {
        return Finding::new(NAME, Level::Ok, "this host's clock is synchronised");
    }
    let (level, consequence) = if facts.clocks {
        (Level::Problem, "a start-up waits for that (startup.clocks)")
    } else {
        (Level::Warning, "leases and certificates count on it")
    };
    Finding::new(NAME, level, format!("this host's clock is not synchronised: {consequence}"))
        .fix("timedatectl status; systemctl restart systemd-timesyncd (or chrony)")
}

fn rights(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "kube.rights";
    if !facts.has_cluster {
        let message =
            "no cluster.kubeconfig: only hosts are stopped and started; no pod is evicted, no volume and no Flux object waited for";
        return vec![Finding::new(NAME, Level::Warning, message).fix("apply etc/kubernetes/metis-rbac.yaml and give metis a kubeconfig")];
    }
    let rights = match &facts.rights {
        Ok(rights) => rights,
        Err(why) => return vec![Finding::new(NAME, Level::CannotTell, format!("what metis may do in the cluster: {why}"))],
    };
    let denied: Vec<&str> = rights.iter().filter(|right| !right.allowed).map(|right| right.what.as_str()).collect();
    if denied.is_empty() {
        return vec![Finding::new(NAME, Level::Ok, format!("the API server grants all {} rights that metis needs", rights.len()))];
    }
    let message = format!("the API server does not let metis: {}", denied.join(", "));
    vec![Finding::new(NAME, Level::Problem, message).fix("kubectl apply -f etc/kubernetes/metis-rbac.yaml")]
}

fn upses(facts: &Facts, ups: &UpsSeen) -> Vec<Finding> {
    let mut found = vec![heard(facts, ups)];
    found.extend(login(ups));
    if ups.heard.is_some() {
        found.push(self_test(facts, ups));
        found.extend(polls(ups));
    }
    found
}

fn heard(facts: &Facts, ups: &UpsSeen) -> Finding {
    const NAME: &str = "ups";
    let name = &ups.name;
    let finding = match ups.heard {
        None => Finding::new(NAME, Level::Problem, format!("{name} was never heard from: nothing of it could trigger")).fix("metisctl ups"),
        Some(at) if kept::old(facts, at, HEARD) => Finding::new(NAME, Level::Problem, format!("{name} is silent")).fix("metisctl ups"),
        Some(_) if !ups.in_domain => {
            let message = format!("{name} is heard from, and feeds no power domain: it triggers nothing");
            Finding::new(NAME, Level::Warning, message).fix("power.domains of metis.yaml")
        }
        Some(_) => Finding::new(NAME, Level::Ok, format!("{name} is heard from")),
    };
    Finding { at: ups.heard, ..finding }
}

fn login(ups: &UpsSeen) -> Option<Finding> {
    const NAME: &str = "ups.login";
    match &ups.login {
        None => None,
        Some(Ok(())) => Some(Finding::new(NAME, Level::Ok, format!("{}: upsd takes this host for its primary", ups.name))),
        Some(Err(why)) => Some(Finding::new(NAME, Level::Problem, why.clone())),
    }
}

/// `ups.test.result` is the driver's own words (NUT: new-names.txt), `ups.test.date` a date as the UPS writes it.
fn self_test(facts: &Facts, ups: &UpsSeen) -> Finding {
    const NAME: &str = "ups.self-test";
    let name = &ups.name;
    let fix = format!("upscmd -u USER {name} test.battery.start.quick, on the mains");
    let result = ups.vars.get("ups.test.result").map(|text| text.trim()).filter(|text| !text.is_empty());
    let at = ups.vars.get("ups.test.date").and_then(|text| date(text));
    let lower = result.unwrap_or_default().to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let (bad, doubtful, never) =
        (says(&["fail", "error", "bad", "replace"]), says(&["warning", "abort"]), says(&["no test", "not initiated", "never"]));
    let finding = match (result, at) {
        (Some(result), _) if bad => Finding::new(NAME, Level::Problem, format!("{name}: its last battery test: {result}")).fix(fix),
        (Some(result), _) if doubtful => Finding::new(NAME, Level::Warning, format!("{name}: its last battery test: {result}")).fix(fix),
        (Some(_), _) if never => {
            Finding::new(NAME, Level::Warning, format!("{name}: its battery was not tested since its driver started")).fix(fix)
        }
        (_, Some(at)) if kept::old(facts, at, OLD_TEST) => {
            Finding::new(NAME, Level::Warning, format!("{name}: its battery was not tested for long")).fix(fix)
        }
        (result, Some(_)) => {
            Finding::new(NAME, Level::Ok, format!("{name}: its last battery test: {}", result.unwrap_or("no result is told")))
        }
        (Some(result), None) => Finding::new(NAME, Level::Ok, format!("{name}: its last battery test: {result}; when, it does not say")),
        (None, None) => {
            Finding::new(NAME, Level::CannotTell, format!("{name} says nothing of a battery test (ups.test.result, ups.test.date)"))
        }
    };
    Finding { at, ..finding }
}

/// Dates as drivers write them: `2026/11/03`, `2026-11-03`, `11/03/26` and `11/03/2026` (APC and the like: month first).
fn date(text: &str) -> Option<Timestamp> {
    let day = text.split_whitespace().next()?;
    let parts: Vec<i16> = day.split(['/', '-', '.']).map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let (year, month, day) = match *parts.as_slice() {
        [year @ 1990..=9999, month, day] | [month, day, year @ 1990..=9999] => (year, month, day),
        [month, day, year @ 0..=99] => (2000 + year, month, day),
        _ => return None,
    };
    let (month, day) = if month > 12 { (day, month) } else { (month, day) };
    let date = Date::new(year, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
    Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// What the driver says of its own settings; the files of another host are not read from here.
fn polls(ups: &UpsSeen) -> Vec<Finding> {
    let number = |key: &str| ups.vars.get(key).and_then(|text| text.trim().parse::<u64>().ok());
    let slow = |key: &str, most: u64, name: &str, what: &str| {
        let seconds = number(key).filter(|seconds| *seconds > most)?;
        let message = format!("the driver of {} {what} only every {seconds} s ({key})", ups.name);
        let setting = key.rsplit('.').next().unwrap_or(key);
        Some(Finding::new(name, Level::Warning, message).fix(format!("set `{setting} = {most}` or less in ups.conf on its host")))
    };
    let poll = slow("driver.parameter.pollinterval", SLOW_POLL, "nut.pollinterval", "looks at it");
    let freq = slow("driver.parameter.pollfreq", SLOW_FREQ, "nut.pollfreq", "renews charge and runtime");
    poll.into_iter().chain(freq).collect()
}

fn installed(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "installed";
    let files = match &facts.installed {
        Ok(files) => files,
        Err(why) => return vec![Finding::new(NAME, Level::CannotTell, format!("what is installed on this host: {why}"))],
    };
    let missing = files.iter().filter(|file| !file.present).map(|file| {
        let message = format!("{} is not there: {}", file.path.display(), file.purpose);
        Finding::new(NAME, Level::Problem, message).fix("systemd/install, or the package of metis again")
    });
    let mut found: Vec<Finding> = missing.collect();
    if found.is_empty() && !files.is_empty() {
        found.push(Finding::new(NAME, Level::Ok, format!("{} files of metis that this host needs are there", files.len())));
    }
    found
}

fn disk(facts: &Facts) -> Finding {
    const NAME: &str = "disk";
    let mb = |bytes: u64| format!("{} MB", bytes / 1_000_000);
    match &facts.disk {
        Err(why) => Finding::new(NAME, Level::CannotTell, format!("the state directory: {why}")),
        Ok(disk) => {
            let says = format!("the state directory has {} free of {}", mb(disk.free), mb(disk.total));
            let fix = "free space on its file system, or move daemon.state_dir";
            if disk.free < LEAST_FREE {
                Finding::new(NAME, Level::Problem, says).fix(fix)
            } else if disk.free < disk.floor {
                Finding::new(NAME, Level::Warning, format!("{says}, less than card.free_space_floor")).fix(fix)
            } else {
                Finding::new(NAME, Level::Ok, says)
            }
        }
    }
}
