//! `k3s` as the laboratory's hosts have it: the same commands, units and processes, around parts that run here. `server` asks the laboratory for its
//! real control plane; `agent` runs one kwok as the kubelet of this node and, beside it, real processes for chosen pods.
#![allow(clippy::disallowed_methods, reason = "it starts processes and tells Kubernetes the time, as k3s does")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line and a unit's log")]

mod container;
mod etcd;
mod local;
mod node;
mod pods;
mod probe;
mod report;
mod service;

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};

/// Where its parts are on a host.
const LIB: &str = "/usr/local/lib/k3s";
/// What is shown by `--version` and by the node.
const VERSION: &str = "v1.33.3+k3s1";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("time=\"{}\" level=fatal msg=\"{error:#}\"", jiff::Timestamp::now());
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> anyhow::Result<()> {
    let rest = arguments.get(2..).unwrap_or_default();
    if arguments.first().is_some_and(|name| name.ends_with("containerd-shim-runc-v2")) {
        return container::shim(arguments);
    }
    match arguments.get(1).map(String::as_str) {
        Some("server") => service::run(&service::Options::parse(true, rest)?),
        Some("agent") => service::run(&service::Options::parse(false, rest)?),
        Some("etcd-snapshot") => etcd::run(rest),
        Some("kubectl") => {
            let mut kubectl = Command::new(Path::new(LIB).join("kubectl"));
            Err(kubectl.arg("--kubeconfig=/etc/rancher/k3s/k3s.yaml").args(rest).exec()).context("kubectl")
        }
        Some("ctr") if rest.iter().any(|word| word.starts_with("container") || word.starts_with("task")) => {
            println!("CONTAINER    PID");
            for pod in local::all()? {
                println!("{}    {}", pod.uid, pod.pid().map_or("-".to_owned(), |pid| pid.to_string()));
            }
            Ok(())
        }
        Some("ctr") => bail!("these hosts have no images: containers and tasks can be listed"),
        Some("--version") => {
            println!("k3s version {VERSION} (laboratory)");
            Ok(())
        }
        other => bail!("no command {other:?}; there are: server, agent, etcd-snapshot, kubectl, ctr"),
    }
}
