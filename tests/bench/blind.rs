//! How much later than upsd itself metisd knows what a UPS says, and decides.
#![allow(clippy::disallowed_methods, reason = "compares its own clock with that of the journal")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use metis_tests::nut::{MAX_AGE, Nut, available};
use nix::sys::signal::Signal;

use crate::process::Metisd;
use crate::table;

const OUTAGES: u32 = 10;
const SILENCES: u32 = 3;
/// Shipped defaults.
const POLL: Duration = Duration::from_secs(2);
const COMM_LOST: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(60);

/// A metisd on a real upsd.
struct Site {
    nut: Nut,
    _metisd: Metisd,
    folder: tempfile::TempDir,
    seen: i64,
}

/// Prints the table.
pub fn measure(binaries: &Path) -> Result<()> {
    if !available("bench blind") {
        return Ok(());
    }
    let nut = Nut::start(&["ups"], "", "")?;
    let folder = tempfile::tempdir()?;
    let config = format!("power: {{ upses: {{ \"{0}\": {{}} }}, domains: {{ d: {{ upses: [\"{0}\"], nodes: [] }} }} }}\n", nut.name("ups"));
    let metisd = Metisd::start(binaries, folder.path(), &config)?;
    let mut site = Site { nut, _metisd: metisd, folder, seen: 0 };
    site.fact("ups.changed", "online")?;
    let (mut on_battery, mut low, mut back) = (Vec::new(), Vec::new(), Vec::new());
    for outage in 0..OUTAGES {
        // Somewhere between two polls.
        std::thread::sleep(POLL.mul_f64(f64::from(outage) / f64::from(OUTAGES)));
        on_battery.push(site.changes("OB DISCHRG", "ups.changed", "on_battery")?);
        low.push(site.changes("OB DISCHRG LB", "trigger.decided", "")?);
        back.push(site.changes("OL CHRG", "ups.changed", "online")?);
        site.fact("trigger.cleared", "")?;
    }
    let (mut silent, mut restarted) = (Vec::new(), Vec::new());
    for silence in 0..SILENCES {
        std::thread::sleep(POLL.mul_f64(f64::from(silence) / f64::from(SILENCES)));
        site.changes("OB DISCHRG", "ups.changed", "on_battery")?;
        silent.push(site.silence()?);
        site.changes("OL CHRG", "ups.changed", "online")?;
        site.fact("trigger.cleared", "")?;
        restarted.push(site.restart()?);
    }
    println!(
        "target: metis adds <= 3 s to upsd's own MAXAGE (here {MAX_AGE} s); polls every {} s; least and most in brackets",
        POLL.as_secs()
    );
    let line = |what: &str, count: usize, spread: String| vec![what.to_owned(), count.to_string(), spread];
    table::print(&[
        table::row(["from upsd's first word to metisd's fact", "times", "s"]),
        line("OL -> OB: on battery", on_battery.len(), table::seconds(&on_battery)),
        line("OB -> OB LB: trigger, three polls agreeing", low.len(), table::seconds(&low)),
        line("OB LB -> OL: on line", back.len(), table::seconds(&back)),
        line("DATA-STALE on battery: trigger, over comm_lost_after (15 s)", silent.len(), table::seconds(&silent)),
        line("upsd back after 20 s: on line", restarted.len(), table::seconds(&restarted)),
    ]);
    Ok(())
}

impl Site {
    /// From the moment at which upsd says `status` to that of the fact.
    fn changes(&mut self, status: &str, kind: &str, to: &str) -> Result<Duration> {
        self.nut.set("ups", &[("ups.status", status)])?;
        let said = self.says(&format!("\"{status}\""))?;
        Ok(between(said, self.fact(kind, to)?))
    }

    /// A frozen driver on battery: the trigger comes `comm_lost_after` after metis has heard nothing more.
    fn silence(&mut self) -> Result<Duration> {
        self.nut.signal_driver("ups", Signal::SIGSTOP)?;
        let said = self.says("ERR DATA-STALE")?;
        let decided = self.fact("trigger.decided", "")?;
        self.nut.signal_driver("ups", Signal::SIGCONT)?;
        Ok(between(said, decided).saturating_sub(COMM_LOST))
    }

    /// upsd gone for long enough that the UPS is unknown, then back.
    fn restart(&mut self) -> Result<Duration> {
        self.nut.kill_upsd();
        self.nut.kill_driver("ups");
        self.fact("ups.changed", "unknown")?;
        self.nut.start_driver("ups")?;
        self.nut.start_upsd()?;
        let said = self.says("\"OL CHRG\"")?;
        Ok(between(said, self.fact("ups.changed", "online")?))
    }

    /// When upsd first answers so, asked over and over.
    fn says(&self, wanted: &str) -> Result<jiff::Timestamp> {
        let begun = Instant::now();
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", self.nut.port))?);
        while begun.elapsed() < PATIENCE {
            stream.get_mut().write_all(b"GET VAR ups ups.status\n")?;
            let mut answer = String::new();
            stream.read_line(&mut answer)?;
            if answer.contains(wanted) {
                return Ok(jiff::Timestamp::now());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("upsd does not say {wanted}")
    }

    /// When the next fact of that kind was recorded.
    fn fact(&mut self, kind: &str, to: &str) -> Result<jiff::Timestamp> {
        let begun = Instant::now();
        let journal = rusqlite::Connection::open(self.folder.path().join("state/journal.db"))?;
        journal.busy_timeout(Duration::from_secs(2))?;
        loop {
            let mut rows = journal.prepare("SELECT seq, at, payload FROM fact WHERE seq > ?1 AND kind = ?2 ORDER BY seq")?;
            let found =
                rows.query_map((self.seen, kind), |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?)))?;
            for row in found {
                let (seq, at, payload) = row?;
                if to.is_empty() || serde_json::from_str::<serde_json::Value>(&payload)?["to"] == to {
                    self.seen = seq;
                    return Ok(jiff::Timestamp::from_nanosecond(i128::from(at))?);
                }
            }
            ensure!(begun.elapsed() < PATIENCE, "no {kind} {to}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Zero where the fact came first: metisd had asked between two questions of ours.
fn between(said: jiff::Timestamp, recorded: jiff::Timestamp) -> Duration {
    recorded.duration_since(said).try_into().unwrap_or_default()
}
