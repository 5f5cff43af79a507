//! `tests/lab/up`, `down` and `status`: the lab for a person to try things on.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command of the tests: it starts itself in the background and prints"
)]

mod switches;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use metis_tests::actors::{self, Actor, Volumes, storage_plane};
use metis_tests::hosts::{Hosts, OPERATOR, Plan, Role, SSH_PORT, UpsPlan};
use metis_tests::plane::{Flux, Options, Plane};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long the UPSes last with everything on.
const RUNTIME: Duration = Duration::from_secs(600);
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
        Some("up") => up(&dir, arguments.get(1).map_or("site", String::as_str))?,
        Some("down") => down(&dir)?,
        Some("status") => return status(&dir),
        Some("serve") => serve(&dir, arguments.get(1).map_or("plane", String::as_str))?,
        _ => bail!("usage: tests/lab/up [plane] | down | status"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The process that holds the lab, if it lives.
fn holder(dir: &Path) -> Option<Pid> {
    let pid: i32 = std::fs::read_to_string(dir.join("pid")).ok()?.trim().parse().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    command.split(|byte| *byte == 0).any(|word| word == b"serve").then(|| Pid::from_raw(pid))
}

fn up(dir: &Path, what: &str) -> Result<()> {
    ensure!(matches!(what, "site" | "plane"), "usage: tests/lab/up [plane]");
    ensure!(what == "plane" || nix::unistd::geteuid().is_root(), "hosts need root; `tests/lab/up plane` is a control plane without hosts");
    ensure!(holder(dir).is_none(), "the lab is up already; tests/lab/status shows it, tests/lab/down ends it");
    let _ = std::fs::remove_dir_all(dir);
    std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
        .create(dir)
        .with_context(|| dir.display().to_string())?;
    let log = std::fs::File::create(dir.join("log"))?;
    let mut serve = Command::new("setsid");
    serve.arg(std::env::current_exe()?).args(["serve", what]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
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
    let mut kubectl = Command::new(dir.join("kubectl"));
    let shown = kubectl.args(["get", "nodes,kustomizations,helmreleases", "-A", "--request-timeout=5s"]).status()?;
    Ok(if shown.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Holds the lab until SIGTERM.
fn serve(dir: &Path, what: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut end = runtime.block_on(async { tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) })?;
    std::fs::write(dir.join("pid"), std::process::id().to_string())?;
    let options = Options { longhorn: true, flux: Flux::Running, ..Options::default() };
    if what == "plane" {
        let mut plane = Plane::start(&options)?;
        plane.kwok(&NODES)?;
        let _actors = furnish(&mut plane, &NODES)?;
        ready(dir, tell(dir, &mut plane)?)?;
        runtime.block_on(end.recv());
    } else {
        let upses = [UpsPlan::pyrphoros(RUNTIME), UpsPlan::statera(RUNTIME)];
        let site = upses.into_iter().fold(Plan::new(&Role::ALL).k3s(options), Plan::ups).start()?;
        site.cluster().wait(true, Duration::from_secs(60))?;
        let nodes: Vec<&str> = Role::ALL.into_iter().filter_map(Role::node).collect();
        let (_actors, mut lines) = site.cluster().with(|plane| {
            let joined = || plane.kubectl(&[&["wait", "--for=condition=Ready", "--timeout=5s", "node"], &nodes[..]].concat());
            plane.wait(60, "the nodes", joined)?;
            Ok((furnish(plane, &nodes)?, tell(dir, plane)?))
        })?;
        lines.push(tell_hosts(dir, &site)?);
        lines.push(switches::tell(dir));
        ready(dir, lines)?;
        let pause = Duration::from_millis(300);
        while runtime.block_on(async { tokio::time::timeout(pause, end.recv()).await }).is_err() {
            switches::obey(dir, &site);
        }
    }
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

/// Flux, Longhorn and who plays their controllers.
fn furnish(plane: &mut Plane, nodes: &[&str]) -> Result<[Actor; 2]> {
    storage_plane(plane, nodes)?;
    let core = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: core, namespace: default}\ndata: {from: git}\n";
    plane.flux()?.git.commit(&[("core/core.yaml", Some(core))])?;
    plane.kustomizations(&[("core", "./core", &[])])?;
    Ok([Volumes::default().start(plane)?, actors::releases(plane)?])
}

/// How to talk to the control plane.
fn tell(dir: &Path, plane: &mut Plane) -> Result<Vec<String>> {
    script(&dir.join("kubectl"), &format!("exec {} \"$@\"", plane.kubectl_line()))?;
    std::fs::copy(plane.metis_kubeconfig(), dir.join("metis.kubeconfig"))?;
    Ok(vec![
        format!("API server       {}", plane.url()),
        format!("etcd             {}", plane.etcd_endpoint()),
        format!("Git              {}", plane.flux()?.git.url),
        format!("audit log        {}", plane.dir().join("audit.log").display()),
        format!("kubeconfig       {} (metis' account)", dir.join("metis.kubeconfig").display()),
        format!("as administrator {} ...", dir.join("kubectl").display()),
    ])
}

/// How to talk to the hosts.
fn tell_hosts(dir: &Path, site: &Hosts) -> Result<String> {
    let mut ssh = site.lab().command("ssh");
    ssh.arg("-i").arg(&site.key().path).args(["-p", &SSH_PORT.to_string(), "-F", "none", "-o", "IdentitiesOnly=yes", "-o"]);
    ssh.arg(format!("UserKnownHostsFile={}", site.known_hosts()?.display()));
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy().replace('\'', "'\\''"));
    let words: Vec<String> = std::iter::once(ssh.get_program()).chain(ssh.get_args()).map(quoted).collect();
    let cases: Vec<String> = site.all().map(|(role, _)| format!("{}) address={} ;;", role.name(), role.address())).collect();
    let hosts: Vec<&str> = site.all().map(|(role, _)| role.name()).collect();
    let cases = format!("case $1 in\n{}\n*) echo \"no host $1\" >&2; exit 2 ;;\nesac\nshift", cases.join("\n"));
    script(&dir.join("ssh"), &format!("{cases}\nexec {} \"{OPERATOR}@$address\" \"$@\"", words.join(" ")))?;
    Ok(format!("on a host        {} {} ...", dir.join("ssh").display(), hosts.join("|")))
}

fn script(path: &Path, line: &str) -> Result<()> {
    std::fs::write(path, format!("#!/bin/sh\n{line}\n"))?;
    Ok(std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?)
}

/// Whoever waits for the lab sees all of the text or nothing.
fn ready(dir: &Path, lines: Vec<String>) -> Result<()> {
    std::fs::write(dir.join("ready.new"), lines.join("\n") + "\n")?;
    Ok(std::fs::rename(dir.join("ready.new"), dir.join("ready"))?)
}
