//! A metisd under measurement, and what the kernel counts of it (proc(5)).
#![allow(clippy::disallowed_methods, reason = "starts the daemon under measurement")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long it may take to say READY.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// A metisd with its own folder; killed when dropped.
pub struct Metisd {
    child: Child,
    folder: PathBuf,
    /// From exec to `READY=1`.
    pub ready_after: Duration,
}

impl Metisd {
    /// Starts it as systemd would, watchdog included, and waits for `READY=1`. `folder` gets its state, log and sockets; `config` is what
    /// its metis.yaml says besides.
    ///
    /// # Errors
    /// Where it ends or does not become ready; its log is in the message.
    pub fn start(binaries: &Path, folder: &Path, config: &str) -> Result<Self> {
        let at = folder.display();
        let daemon = format!("daemon: {{ state_dir: {at}/state, runtime_dir: {at}/run }}\n");
        fs::write(folder.join("metis.yaml"), daemon + config)?;
        if !folder.join("inventory.yaml").exists() {
            fs::write(folder.join("inventory.yaml"), "")?;
        }
        let socket = folder.join("notify");
        let _ = fs::remove_file(&socket);
        let notify = UnixDatagram::bind(&socket).context("binding the notification socket")?;
        let log = fs::File::options().create(true).append(true).open(folder.join("log"))?;
        let mut command = Command::new(binaries.join("metisd"));
        command.arg("--config").arg(folder.join("metis.yaml")).env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "20000000");
        command.env("STATE_DIRECTORY", folder.join("state")).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let begun = Instant::now();
        let child = command.spawn().context("starting metisd")?;
        let mut metisd = Self { child, folder: folder.to_owned(), ready_after: Duration::ZERO };
        metisd.wait_for_ready(&notify)?;
        metisd.ready_after = begun.elapsed();
        // Somebody has to take what it says later, or its next word waits for ever (unix(7), a full queue).
        notify.set_read_timeout(None)?;
        std::thread::spawn(move || while notify.recv(&mut [0; 4096]).is_ok() {});
        Ok(metisd)
    }

    fn wait_for_ready(&mut self, notify: &UnixDatagram) -> Result<()> {
        notify.set_read_timeout(Some(Duration::from_millis(500)))?;
        let begun = Instant::now();
        let mut buffer = [0; 4096];
        loop {
            if let Ok(length) = notify.recv(&mut buffer)
                && String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == "READY=1")
            {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("metisd ended: {status}\n{}", self.log());
            }
            ensure!(begun.elapsed() < READY_WITHIN, "metisd is not ready\n{}", self.log());
        }
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// CPU time so far, see [`cpu`].
    ///
    /// # Errors
    /// Where it is gone.
    pub fn cpu(&self) -> Result<Duration> {
        cpu(&self.child.id().to_string())
    }

    /// kill -9.
    ///
    /// # Errors
    /// Where it is gone already.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Its counters now.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn counters(&self) -> Result<Counters> {
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let path = task?.path();
            let (Ok(status), Ok(schedule)) = (fs::read_to_string(path.join("status")), fs::read_to_string(path.join("schedstat"))) else {
                // It has ended meanwhile.
                continue;
            };
            let name = field(&status, "Name").unwrap_or("?").to_owned();
            let thread: &mut Thread = threads.entry(name).or_default();
            thread.count += 1;
            thread.waits += field(&status, "voluntary_ctxt_switches").and_then(|count| count.parse().ok()).unwrap_or(0u64);
            let nanos = schedule.split_whitespace().next().and_then(|count| count.parse().ok()).unwrap_or(0);
            thread.cpu += Duration::from_nanos(nanos);
        }
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let mib = |name: &str| {
            let kib: f64 = field(&status, name).and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(f64::NAN);
            kib / 1024.0
        };
        Ok(Counters { threads, rss: mib("VmRSS"), anonymous: mib("RssAnon"), peak: mib("VmHWM") })
    }
}

impl Drop for Metisd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the kernel counted.
pub struct Counters {
    /// By name.
    pub threads: BTreeMap<String, Thread>,
    /// MiB, file-backed pages of the program included.
    pub rss: f64,
    /// MiB of heap and stacks.
    pub anonymous: f64,
    /// MiB at most so far.
    pub peak: f64,
}

/// Threads of one name.
#[derive(Default, Clone, Copy)]
pub struct Thread {
    /// How many there are.
    pub count: usize,
    /// How often one of them waited, and so how often it was woken.
    pub waits: u64,
    /// CPU time.
    pub cpu: Duration,
}

impl Counters {
    /// What was added since `before`, by thread name.
    pub fn since(&self, before: &Self) -> BTreeMap<String, Thread> {
        let added = |(name, thread): (&String, &Thread)| {
            let was = before.threads.get(name).copied().unwrap_or_default();
            let (waits, cpu) = (thread.waits.saturating_sub(was.waits), thread.cpu.saturating_sub(was.cpu));
            (name.clone(), Thread { count: thread.count, waits, cpu })
        };
        self.threads.iter().map(added).collect()
    }
}

/// CPU time of a process and of the children that it has waited for, to the kernel's tick.
///
/// # Errors
/// Where it is gone.
pub fn cpu(pid: &str) -> Result<Duration> {
    const TICKS: u64 = 100;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Fields 14 to 17 of proc(5); the name before them may hold anything.
    let after = stat.rsplit_once(") ").context("/proc/PID/stat")?.1;
    let ticks: u64 = after.split_whitespace().skip(11).take(4).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Cores and load: figures of a busy machine are upper bounds.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!("{cores} cores, load {}", load.split_whitespace().next().unwrap_or("?"))
}
