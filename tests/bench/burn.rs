//! A burn beside `dd` and bmaptool, all onto the same throttled card.
#![allow(clippy::disallowed_methods, reason = "runs the programs that are compared")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use metis_tests::require;

use crate::card::{Card, READS, WRITES, image, shell};
use crate::process::{Metisd, cpu, machine};
use crate::table;

const RUNS: usize = 3;
const TOOLS: [&str; 8] = ["sfdisk", "mkfs.vfat", "mcopy", "mkfs.ext4", "losetup", "blockdev", "dd", "cmp"];

/// Writing, checking and CPU time of one run.
#[derive(Default)]
struct Times {
    write: Vec<Duration>,
    check: Vec<Duration>,
    total: Vec<Duration>,
    cpu: Vec<Duration>,
}

impl Times {
    fn add(&mut self, write: Duration, check: Duration, cpu: Duration) {
        self.write.push(write);
        self.check.push(check);
        self.total.push(write + check);
        self.cpu.push(cpu);
    }

    fn row(&self, name: &str) -> Vec<String> {
        vec![
            name.to_owned(),
            table::seconds(&self.write),
            table::seconds(&self.check),
            table::seconds(&self.total),
            table::seconds(&self.cpu),
            machine().rsplit(' ').next().unwrap_or_default().to_owned(),
        ]
    }
}

/// Three runs of each.
pub fn measure(binaries: &Path) -> Result<()> {
    if !require::root("bench burn") || !require::programs("bench burn", &TOOLS) {
        return Ok(());
    }
    let cache = std::env::var_os("METIS_CACHE")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/metis"), PathBuf::from);
    let mib = std::env::var("METIS_BENCH_CARD_MIB").ok().and_then(|mib| mib.parse().ok()).unwrap_or(4096);
    let image = image(&cache, mib)?;
    let bytes = mib << 20;
    let card = Card::insert(bytes + (256 << 20))?;
    println!("{}", rates(&card)?);
    println!("limit of the whole image: {:.1} s written, {:.1} s read", bytes as f64 / WRITES as f64, bytes as f64 / READS as f64);
    let mut rows = vec![table::row(["", "write s", "check s", "both s", "CPU s", "load"])];
    rows.push(dd(&image, &card)?.row("dd bs=4M conv=fsync, cmp"));
    if require::programs("bench burn with bmaptool", &["bmaptool"]) {
        rows.push(bmaptool(&image, &card)?.row("bmaptool copy (checks nothing)"));
    }
    let (first, times, told) = metis(binaries, &image, &card)?;
    rows.push(first.row("metisctl burn, image not cached"));
    rows.push(times.row("metisctl burn"));
    println!("medians of {RUNS} (least–most); of metisctl, both is from its start to its end");
    table::print(&rows);
    println!("\n{told}");
    Ok(())
}

/// What the card does by itself.
fn rates(card: &Card) -> Result<String> {
    let device = card.device.path();
    let mut text = String::from("the card by itself, O_DIRECT over 256 MiB:");
    for (what, command) in [
        ("writes", format!("dd if=/dev/zero of={device} bs=1M count=256 oflag=direct status=none")),
        ("reads", format!("dd if={device} of=/dev/null bs=1M count=256 iflag=direct status=none")),
    ] {
        let begun = Instant::now();
        shell(&command)?;
        let rate = 268.435_456 / begun.elapsed().as_secs_f64();
        write!(text, " {what} {rate:.1} MB/s")?;
    }
    Ok(text)
}

fn dd(image: &Path, card: &Card) -> Result<Times> {
    let (image, device) = (image.display(), card.device.path());
    let mut times = Times::default();
    for _ in 0..RUNS {
        card.forget()?;
        let (write, cpu) = timed(|| shell(&format!("dd if={image} of={device} bs=4M conv=fsync status=none")))?;
        card.forget()?;
        let (check, more) = timed(|| shell(&format!("cmp -n $(stat -c %s {image}) {image} {device}")))?;
        times.add(write, check, cpu + more);
    }
    Ok(times)
}

fn bmaptool(image: &Path, card: &Card) -> Result<Times> {
    let map = tempfile::NamedTempFile::new()?;
    let (image, device, map) = (image.display(), card.device.path(), map.path().display());
    shell(&format!("bmaptool -q create -o {map} {image}"))?;
    let mut times = Times::default();
    for _ in 0..RUNS {
        card.forget()?;
        let (write, cpu) = timed(|| shell(&format!("bmaptool -q copy --bmap {map} {image} {device}")))?;
        times.add(write, Duration::ZERO, cpu);
    }
    Ok(times)
}

/// One burn that fetches the image, and then those that find it in the cache; and what the last one says of itself.
fn metis(binaries: &Path, image: &Path, card: &Card) -> Result<(Times, Times, String)> {
    // On the disk of the cache: the image is kept unpacked.
    let folder = tempfile::Builder::new().prefix("bench-burn-").tempdir_in(image.parent().context("the image's folder")?)?;
    let sum = Command::new("sha256sum").arg(image).output()?.stdout;
    let sum = String::from_utf8_lossy(&sum).split_whitespace().next().unwrap_or_default().to_owned();
    let url = image.display();
    let inventory = format!(
        "classes: {{ card: {{ arch: arm64, seed: none, image: {{ url: \"file:{url}\", sha256: {sum} }} }} }}\nnodes: {{ titan-13: {{ class: card }} }}\n"
    );
    fs::write(folder.path().join("inventory.yaml"), inventory)?;
    let metisd = Metisd::start(binaries, folder.path(), "")?;
    let (mut first, mut times) = (Times::default(), Times::default());
    for run in 0..=RUNS {
        card.forget()?;
        let before = metisd.cpu()?;
        let mut command = client(binaries, folder.path());
        command.args(["burn", "--node", "titan-13", "--allow-fixed", "--yes", "--device", card.device.path()]);
        let (took, cpu) = timed(|| {
            let output = command.output()?;
            ensure!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), metisd.log());
            Ok(())
        })?;
        let of = if run == 0 { &mut first } else { &mut times };
        of.total.push(took);
        for (times, what) in [(&mut of.write, " write_ms="), (&mut of.check, " verify_ms=")] {
            times.push(Duration::from_millis(logged(&metisd.log(), what).context("the log does not say how long it took")?));
        }
        of.cpu.push(metisd.cpu()?.saturating_sub(before) + cpu);
    }
    let told = client(binaries, folder.path()).args(["run", "get", "last"]).output()?;
    Ok((first, times, String::from_utf8_lossy(&told.stdout).into_owned()))
}

/// The newest figure of that name in the log.
fn logged(log: &str, name: &str) -> Option<u64> {
    let after = log.rsplit_once(name)?.1;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn client(binaries: &Path, folder: &Path) -> Command {
    let mut command = Command::new(binaries.join("metisctl"));
    command.arg("--socket").arg(folder.join("run/metisd.sock")).stdin(Stdio::null());
    command
}

/// Wall time, and CPU time of the children that were waited for meanwhile.
fn timed(what: impl FnOnce() -> Result<()>) -> Result<(Duration, Duration)> {
    let (begun, before) = (Instant::now(), cpu("self")?);
    what()?;
    Ok((begun.elapsed(), cpu("self")?.saturating_sub(before)))
}
