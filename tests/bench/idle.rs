//! What metisd costs while nothing happens: memory, threads, wake-ups, CPU time.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use metis_tests::nut::{Nut, available};

use crate::process::{Counters, Metisd, machine};
use crate::table;

/// The shipped default.
const POLL: Duration = Duration::from_secs(2);
/// Until start-up is over: first polls, first flush of the history.
const SETTLE: Duration = Duration::from_secs(35);
/// A whole number of polls, flushes (30 s) and watchdog periods.
const SPAN: Duration = Duration::from_secs(60);

/// With no, one and two upsds, all on line.
pub fn measure(binaries: &Path) -> Result<()> {
    if !available("bench idle") {
        return Ok(());
    }
    println!("targets: RSS <= 16 MiB; <= 4 wake-ups a poll and upsd; polls every {} s, over {} s", POLL.as_secs(), SPAN.as_secs());
    let mut rows = vec![table::row([
        "upsds",
        "RSS MiB",
        "anonymous",
        "peak",
        "threads",
        "wake-ups/min",
        "a poll and upsd",
        "added by the upsds",
        "CPU ms/min",
        "load",
    ])];
    let mut details = vec![table::row(["upsds", "thread", "number", "wake-ups/min", "CPU ms/min"])];
    let mut without = 0;
    for upsds in 0..3 {
        let nuts = (0..upsds).map(|_| Nut::start(&["ups"], "", "")).collect::<Result<Vec<_>>>()?;
        let folder = tempfile::tempdir()?;
        let metisd = Metisd::start(binaries, folder.path(), &config(&nuts))?;
        std::thread::sleep(SETTLE);
        let (before, begun) = (metisd.counters()?, Instant::now());
        std::thread::sleep(SPAN);
        let after = metisd.counters()?;
        let minutes = begun.elapsed().as_secs_f64() / 60.0;
        let waits: u64 = after.since(&before).values().map(|thread| thread.waits).sum();
        if upsds == 0 {
            without = waits;
        }
        rows.push(line(upsds, &before, &after, minutes, without));
        for (name, thread) in after.since(&before) {
            let (waits, cpu) = (thread.waits as f64 / minutes, thread.cpu.as_secs_f64() * 1e3 / minutes);
            details.push(vec![upsds.to_string(), name, thread.count.to_string(), format!("{waits:.0}"), format!("{cpu:.1}")]);
        }
    }
    table::print(&rows);
    table::print(&details);
    Ok(())
}

fn line(upsds: usize, before: &Counters, after: &Counters, minutes: f64, without: u64) -> Vec<String> {
    let added = after.since(before);
    let waits: u64 = added.values().map(|thread| thread.waits).sum();
    let cpu: Duration = added.values().map(|thread| thread.cpu).sum();
    let threads: usize = after.threads.values().map(|thread| thread.count).sum();
    let polls = upsds as f64 * minutes * 60.0 / POLL.as_secs_f64();
    let of_polls = |waits: u64| if upsds == 0 { "-".to_owned() } else { format!("{:.2}", waits as f64 / polls) };
    vec![
        upsds.to_string(),
        format!("{:.1}", after.rss),
        format!("{:.1}", after.anonymous),
        format!("{:.1}", after.peak),
        threads.to_string(),
        format!("{:.0}", waits as f64 / minutes),
        of_polls(waits),
        of_polls(waits.saturating_sub(without)),
        format!("{:.1}", cpu.as_secs_f64() * 1e3 / minutes),
        machine().rsplit(' ').next().unwrap_or_default().to_owned(),
    ]
}

fn config(nuts: &[Nut]) -> String {
    let names: Vec<String> = nuts.iter().map(|nut| format!("\"{}\"", nut.name("ups"))).collect();
    let upses: Vec<String> = names.iter().map(|name| format!("{name}: {{}}")).collect();
    let domains = if names.is_empty() { String::new() } else { format!("site: {{ upses: [{}], nodes: [] }}", names.join(", ")) };
    format!("power: {{ poll_interval: {}s, upses: {{ {} }}, domains: {{ {domains} }} }}\n", POLL.as_secs(), upses.join(", "))
}
