//! `metisd sandbox`: all of metis on one machine, without root, network or any server: a simulated site, the real daemon on a real socket,
//! the real client, a card burnt into a file, an outage.

mod keys;
mod outage;

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::process::{Child, Command};

use super::args::SandboxArguments;
use super::say;
use crate::card::demo;
use crate::sim::{Battery, BatteryModel, NutServer, SimulatedUps};

/// Simulated seconds a second: an outage of a quarter of an hour is over in seconds.
const SPEED: f64 = 60.0;

/// The card that is burnt.
const NODE: &str = "titan-13";

/// Shows everything, then ends, or stays until Ctrl-C.
///
/// # Errors
/// The first thing that did not work.
pub async fn run(arguments: &SandboxArguments) -> anyhow::Result<()> {
    let begun = Instant::now();
    let temporary = arguments.dir.is_none().then(|| tempfile::Builder::new().prefix("metis-sandbox-").tempdir()).transpose()?;
    let dir = match (&temporary, &arguments.dir) {
        (Some(temporary), _) => temporary.path().to_path_buf(),
        (None, Some(dir)) => fs::create_dir_all(dir).and_then(|()| dir.canonicalize()).with_context(|| dir.display().to_string())?,
        (None, None) => bail!("no folder"),
    };
    heading("A sample site");
    let nut = simulated_upses().await?;
    prepare(&dir, &nut)?;
    let mut daemon = Daemon::start(&dir).await?;
    let shown = show(&dir, &nut, &daemon).await;
    let card = dir.join("titan-13.img");
    if shown.is_ok() && arguments.stay {
        stay(&dir, &daemon).await?;
    }
    daemon.stop().await?;
    let (trigger, facts) = shown?;
    heading("Summary");
    say(&format!("card     {} was written and read back; on a real card the next step is: insert and power on", card.display()));
    say(&format!("outage   {trigger}"));
    say(&format!("journal  {facts} facts, all of them on disk before anything was done"));
    say(&format!("took     {:.1} s; nothing outside {} was touched", begun.elapsed().as_secs_f64(), dir.display()));
    if !arguments.stay {
        heading("Try it yourself");
        say("cargo run -p metisd -- sandbox --stay      # keeps the site up and prints the commands for another terminal, e.g.");
        for line in commands() {
            say(line);
        }
    }
    Ok(())
}

fn heading(text: &str) {
    say(&format!("\n== {text}"));
}

async fn simulated_upses() -> anyhow::Result<NutServer> {
    let ups = |name: &str, load_w: f64| SimulatedUps {
        name: name.to_owned(),
        battery: Battery::new(BatteryModel { capacity_wh: 120.0, load_w, rated_w: 900.0, charger_w: 90.0, low_percent: 10.0 }),
    };
    let upses = vec![ups("pyrphoros", 480.0), ups("statera", 160.0)];
    NutServer::start(upses, std::collections::BTreeMap::new(), SPEED).await.context("starting the simulated UPSes on loopback")
}

/// Golden image, secrets, configuration and inventory.
fn prepare(dir: &Path, nut: &NutServer) -> anyhow::Result<()> {
    let begun = Instant::now();
    let image = demo::golden(demo::Shape::RaspberryPi, &dir.join("golden.img.zst")).context("making the golden image")?;
    say(&format!("golden image  {} (MBR, FAT, ext4), made in {} ms", dir.join("golden.img.zst").display(), begun.elapsed().as_millis()));
    let secrets = dir.join("secrets");
    fs::create_dir_all(&secrets)?;
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o700))?;
    let (host, operator) = (keys::SshKey::generate()?, keys::SshKey::generate()?);
    secret(&secrets.join("titan-13.ed25519"), &host.private_file("root@titan-13"))?;
    secret(&secrets.join("node-token"), &format!("K10{}::server:sandbox\n", image.sha256))?;
    let address = nut.address();
    let (pyrphoros, statera) = (format!("pyrphoros@{address}"), format!("statera@{address}"));
    let fill = |template: &str| {
        template
            .replace("@DIR@", &dir.display().to_string())
            .replace("@UID@", &nix::unistd::getuid().to_string())
            .replace("@SHA256@", &image.sha256)
            .replace("@OPERATOR_KEY@", &operator.public_line("brad@sandbox"))
            .replace("@PYRPHOROS@", &pyrphoros)
            .replace("@STATERA@", &statera)
    };
    fs::write(dir.join("metis.yaml"), fill(include_str!("metis.yaml")))?;
    fs::write(dir.join("inventory.yaml"), fill(include_str!("inventory.yaml")))?;
    say(&format!(
        "configuration {} and inventory.yaml: 11 nodes, 2 power domains, 2 simulated UPSes on {address}",
        dir.join("metis.yaml").display()
    ));
    Ok(())
}

fn secret(path: &Path, content: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let _ = fs::remove_file(path);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content.as_bytes()).with_context(|| path.display().to_string())
}

/// The real daemon, as a child process.
struct Daemon {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    #[allow(clippy::disallowed_methods, reason = "the sandbox runs the daemon as its child")]
    async fn start(dir: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        let (socket, log) = (dir.join("run/metisd.sock"), dir.join("metisd.log"));
        let child = Command::new(program)
            .arg("--config")
            .arg(dir.join("metis.yaml"))
            .env_remove("METIS_FAILPOINT")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .kill_on_drop(true)
            .spawn()
            .context("starting metisd")?;
        let mut daemon = Self { child, socket, log };
        let begun = Instant::now();
        while metis_proto::connect(&daemon.socket, Duration::from_secs(1)).await.is_err() {
            if let Some(status) = daemon.child.try_wait()? {
                bail!("metisd ended at once ({status}):\n{}", fs::read_to_string(&daemon.log).unwrap_or_default());
            }
            ensure!(begun.elapsed() < Duration::from_secs(20), "metisd does not answer; see {}", daemon.log.display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        say(&format!(
            "metisd        answers on {} after {} ms; its log: {}",
            daemon.socket.display(),
            begun.elapsed().as_millis(),
            daemon.log.display()
        ));
        Ok(daemon)
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(pid) = self.child.id() else { return Ok(()) };
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGTERM)?;
        let status =
            tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await.context("metisd did not stop within 10 s")??;
        ensure!(status.success(), "metisd ended with {status}; see {}", self.log.display());
        Ok(())
    }
}

/// Everything that is shown; what became of the outage, and how many facts the journal has.
async fn show(dir: &Path, nut: &NutServer, daemon: &Daemon) -> anyhow::Result<(String, u64)> {
    let card = dir.join("titan-13.img");
    let card = card.to_str().context("the folder's name is not UTF-8")?;
    outage::heard(&daemon.socket).await?;
    heading("The site as metis sees it");
    ctl(&daemon.socket, &["status"]).await?;
    heading("A recovery card for titan-13, burnt into a file");
    ctl(&daemon.socket, &["config", "--node", NODE]).await?;
    ctl(&daemon.socket, &["burn", "--node", NODE, "--device", card]).await?;
    ctl(&daemon.socket, &["burn", "--node", NODE, "--device", card, "--yes"]).await?;
    ctl(&daemon.socket, &["run", "get", "last"]).await?;
    heading(&format!("The mains of pyrphoros fail (a minute passes every {:.0} s)", 60.0 / SPEED));
    let trigger = outage::play(nut, &daemon.socket).await?;
    ctl(&daemon.socket, &["ups"]).await?;
    ctl(&daemon.socket, &["status"]).await?;
    let facts = outage::facts(&daemon.socket).await?;
    Ok((trigger, facts))
}

/// Runs metisctl in this process, as a user would type it.
async fn ctl(socket: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    say(&format!("\n$ metisctl {}", arguments.join(" ")));
    let socket = socket.to_str().context("the socket's name is not UTF-8")?;
    let line: Vec<_> = ["metisctl", "--socket", socket].iter().chain(arguments).map(std::ffi::OsString::from).collect();
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let code = metisctl::run(line, &mut out, &mut err).await;
    ensure!(code == 0, "`metisctl {}` ended with exit code {code}", arguments.join(" "));
    Ok(())
}

/// What there is to try while the sandbox stays.
fn commands() -> [&'static str; 5] {
    [
        "cargo run -q -p metisctl -- ups --watch",
        "cargo run -q -p metisctl -- image --node titan-05 --output titan-05.img --execute",
        "cargo run -q -p metisctl -- plan --node titan-13 --device /dev/sdz",
        "cargo run -q -p metisctl -- device",
        "cargo run -q -p metisctl -- run get last -o yaml",
    ]
}

async fn stay(dir: &Path, daemon: &Daemon) -> anyhow::Result<()> {
    heading("Yours to try, in another terminal; Ctrl-C here ends it");
    say(&format!("export METIS_SOCKET={}", daemon.socket.display()));
    for line in commands() {
        say(line);
    }
    if let Some(pid) = daemon.child.id() {
        say(&format!("edit {}, then reload: kill -HUP {pid}", dir.join("metis.yaml").display()));
    }
    tokio::signal::ctrl_c().await.context("waiting for Ctrl-C")
}
