//! `tests/lab/up`, `down` and `status`: the lab for a person to try things on.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command of the tests: it starts itself in the background and prints"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use metis_tests::actors::{self, Volumes, storage_plane};
use metis_tests::plane::{Flux, Options, Plane, tool};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The nodes without hosts.
const NODES: [&str; 4] = ["titan-0a", "titan-05", "titan-13", "titan-15"];

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("tests/lab: {error:#}");
        ExitCode::FAILURE
    })
}

fn run() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let dir = std::env::var_os("METIS_LAB")
        .map_or_else(|| std::env::temp_dir().join(format!("metis-lab-{}", nix::unistd::getuid())), PathBuf::from);
    match arguments.first().map(String::as_str) {
        Some("up") => up(&dir)?,
        Some("down") => down(&dir)?,
        Some("status") => return status(&dir),
        Some("serve") => serve(&dir)?,
        _ => bail!("usage: tests/lab/up | down | status"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The process that holds the lab, if it lives.
fn holder(dir: &Path) -> Option<Pid> {
    let pid: i32 = std::fs::read_to_string(dir.join("pid")).ok()?.trim().parse().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    command.split(|byte| *byte == 0).any(|word| word == b"serve").then(|| Pid::from_raw(pid))
}

fn up(dir: &Path) -> Result<()> {
    ensure!(holder(dir).is_none(), "the lab is up already; tests/lab/status shows it, tests/lab/down ends it");
    let _ = std::fs::remove_dir_all(dir);
    std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
        .create(dir)
        .with_context(|| dir.display().to_string())?;
    let log = std::fs::File::create(dir.join("log"))?;
    let mut serve = Command::new("setsid");
    serve.arg(std::env::current_exe()?).arg("serve").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = serve.spawn().context("setsid")?;
    let begun = Instant::now();
    // The first time everything is built; the log says what.
    while !dir.join("ready").exists() {
        if let Some(status) = child.try_wait()? {
            bail!("the lab did not come up ({status}):\n{}", std::fs::read_to_string(dir.join("log"))?);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("up after {:.1} s", begun.elapsed().as_secs_f32());
    print!("{}", std::fs::read_to_string(dir.join("ready"))?);
    Ok(())
}

fn down(dir: &Path) -> Result<()> {
    let Some(pid) = holder(dir) else {
        println!("the lab is not up");
        return Ok(());
    };
    kill(pid, Signal::SIGTERM)?;
    let begun = Instant::now();
    while holder(dir).is_some() {
        ensure!(begun.elapsed() < Duration::from_secs(30), "process {pid} does not end");
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("down");
    Ok(())
}

fn status(dir: &Path) -> Result<ExitCode> {
    if holder(dir).is_none() {
        println!("the lab is not up");
        return Ok(ExitCode::FAILURE);
    }
    print!("{}", std::fs::read_to_string(dir.join("ready")).context("the lab is coming up")?);
    let mut kubectl = Command::new(tool("kubectl")?);
    kubectl.arg("--kubeconfig").arg(dir.join("admin.kubeconfig")).args(["get", "nodes,kustomizations,helmreleases", "-A"]);
    let shown = kubectl.status()?;
    Ok(if shown.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Holds the lab until SIGTERM or SIGINT.
fn serve(dir: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut end = runtime.block_on(async { tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) })?;
    std::fs::write(dir.join("pid"), std::process::id().to_string())?;
    let mut plane = Plane::start(&Options { longhorn: true, flux: Flux::Running, ..Options::default() })?;
    plane.kwok(&NODES)?;
    storage_plane(&plane, &NODES)?;
    let core = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: core, namespace: default}\ndata: {from: git}\n";
    plane.flux()?.git.commit(&[("core/core.yaml", Some(core))])?;
    plane.kustomizations(&[("core", "./core", &[])])?;
    let _actors = [Volumes::default().start(&plane)?, actors::releases(&plane)?];
    for (name, from) in [("admin", plane.kubeconfig()), ("metis", plane.metis_kubeconfig())] {
        std::fs::copy(from, dir.join(format!("{name}.kubeconfig")))?;
    }
    let lines = [
        format!("API server       {}", plane.url()),
        format!("etcd             {}", plane.etcd_endpoint()),
        format!("Git              {}", plane.flux()?.git.url),
        format!("audit log        {}", plane.dir().join("audit.log").display()),
        format!("as administrator export KUBECONFIG={}", dir.join("admin.kubeconfig").display()),
        format!("as metis         export KUBECONFIG={}", dir.join("metis.kubeconfig").display()),
        format!("kubectl          {}", tool("kubectl")?.display()),
    ];
    std::fs::write(dir.join("ready.new"), lines.join("\n") + "\n")?;
    std::fs::rename(dir.join("ready.new"), dir.join("ready"))?;
    runtime.block_on(end.recv());
    drop(plane);
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
