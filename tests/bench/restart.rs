//! From exec to `READY=1`, by what is in the journal.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tokio::runtime::Builder;

use crate::history;
use crate::process::{Metisd, machine};
use crate::table;

const FACTS: u64 = 100_000;
/// As the daemon does by default.
const CHECKPOINT_EVERY: u64 = 5_000;
const RUNS: usize = 5;

/// An empty journal, and 10⁵ facts with and without checkpoints: started on a copy, killed with SIGKILL, started again.
pub fn measure(binaries: &Path) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut rows = vec![table::row(["journal", "facts", "journal.db MB", "exec to READY ms", "after kill -9 ms", "peak RSS MiB", "load"])];
    for (name, facts, every) in
        [("empty", 0, None), ("no checkpoint", FACTS, None), ("checkpoint every 5000", FACTS, Some(CHECKPOINT_EVERY))]
    {
        let made = tempfile::tempdir()?;
        let facts = if facts == 0 { 0 } else { runtime.block_on(history::write(&made.path().join("state"), facts, every))? };
        let size = fs::metadata(made.path().join("state/journal.db")).map_or(0, |meta| meta.len());
        let (mut first, mut second, mut peak) = (Vec::new(), Vec::new(), 0_f64);
        for _ in 0..RUNS {
            let folder = tempfile::tempdir()?;
            copy(&made.path().join("state"), &folder.path().join("state"))?;
            first.push(start_and_kill(binaries, folder.path(), &mut peak)?);
            second.push(start_and_kill(binaries, folder.path(), &mut peak)?);
        }
        rows.push(vec![
            name.to_owned(),
            facts.to_string(),
            format!("{:.1}", size as f64 / 1e6),
            table::millis(&first),
            table::millis(&second),
            format!("{peak:.1}"),
            machine().rsplit(' ').next().unwrap_or_default().to_owned(),
        ]);
    }
    println!("medians of {RUNS} (least–most); files are in the page cache, as after a restart of the daemon alone");
    table::print(&rows);
    Ok(())
}

fn start_and_kill(binaries: &Path, folder: &Path, peak: &mut f64) -> Result<Duration> {
    let metisd = Metisd::start(binaries, folder, "")?;
    let took = metisd.ready_after;
    *peak = peak.max(metisd.counters()?.peak);
    metisd.kill()?;
    Ok(took)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let Ok(files) = fs::read_dir(from) else { return Ok(()) };
    for file in files {
        let file = file?;
        fs::copy(file.path(), to.join(file.file_name()))?;
    }
    Ok(())
}
