//! `k3s server` and `k3s agent`: the units' main process.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::{LIB, node, pods};

/// What the laboratory shows to every host: kubeconfigs, and on the server the socket of the control plane.
const SHARED: &str = "/var/lib/k3s-lab";
/// Told to the commands that need the server: where etcd answers.
const SERVER: &str = "/run/k3s/server";
const RETRY: Duration = Duration::from_secs(1);

/// The flags that it was started with.
pub struct Options {
    /// Whether it is the server too.
    pub server: bool,
    /// `--node-name`
    pub node: String,
    /// `--node-ip`
    pub address: String,
    /// `--node-arch`: what the node says it is.
    pub arch: String,
}

/// `--key value` and `--key=value`; what belongs to no key is under "".
pub fn pairs(words: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let (key, value) = match word.strip_prefix("--").map(|key| (key, key.split_once('='))) {
            None => ("", word.clone()),
            Some((_, Some((key, value)))) => (key, value.to_owned()),
            Some((key, None)) => (key, words.next().with_context(|| format!("flag needs an argument: --{key}"))?.clone()),
        };
        found.insert(key.to_owned(), value);
    }
    Ok(found)
}

impl Options {
    /// From the words after `server` or `agent`.
    pub fn parse(server: bool, words: &[String]) -> anyhow::Result<Self> {
        let mut found = pairs(words)?;
        let mut take = |key: &str| found.remove(key).with_context(|| format!("--{key} is missing"));
        Ok(Self { server, node: take("node-name")?, address: take("node-ip")?, arch: take("node-arch")? })
    }
}

/// Runs until SIGTERM, or until a part has ended, which is an error.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stop = signal(SignalKind::terminate())?;
        tokio::select! {
            ended = live(options) => ended,
            _ = stop.recv() => Ok(()),
        }
    })
}

async fn live(options: &Options) -> anyhow::Result<()> {
    let mut plane = if options.server { Some(plane(options).await?) } else { None };
    let client = client().await;
    node::register(&client, options).await;
    let mut kwok = kwok(options)?;
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).context("READY")?;
    println!("k3s is up and running as node {}", options.node);
    tokio::select! {
        ended = kwok.wait() => bail!("the kubelet ended: {}", ended?),
        ended = gone(plane.as_mut()) => ended,
        ended = pods::play(&client, options) => ended,
    }
}

/// The laboratory's control plane: it runs as long as this connection stands.
async fn plane(options: &Options) -> anyhow::Result<BufReader<UnixStream>> {
    let socket = Path::new(SHARED).join("plane.sock");
    let mut stream = BufReader::new(UnixStream::connect(&socket).await.with_context(|| socket.display().to_string())?);
    let mut answer = String::new();
    stream.read_line(&mut answer).await?;
    ensure!(answer.trim() == "ready", "the control plane: {}", answer.trim());
    std::fs::create_dir_all("/run/k3s")?;
    std::fs::write(SERVER, format!("http://{}:2379\n", options.address))?;
    Ok(stream)
}

/// Waits until the control plane has ended; for ever where it is not this host's.
async fn gone(plane: Option<&mut BufReader<UnixStream>>) -> anyhow::Result<()> {
    let Some(stream) = plane else { return std::future::pending().await };
    let _ = stream.read(&mut [0; 1]).await;
    bail!("the control plane has ended")
}

/// A client of the API server, once there is one that answers.
async fn client() -> Client {
    loop {
        match try_client().await {
            Ok(client) => return client,
            Err(error) => println!("waiting for the API server: {error:#}"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn try_client() -> anyhow::Result<Client> {
    let kubeconfig = Kubeconfig::read_from(Path::new(SHARED).join("kubelet.kubeconfig"))?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.connect_timeout = Some(Duration::from_secs(3));
    config.default_retry = false;
    let client = Client::try_from(config)?;
    tokio::time::timeout(Duration::from_secs(5), client.apiserver_version()).await??;
    Ok(client)
}

/// The kubelet of this node. Part of this process as far as anybody can see: it ends with it, however that ends.
fn kwok(options: &Options) -> anyhow::Result<Child> {
    let mut kwok = Command::new("setpriv");
    kwok.args(["--pdeathsig", "KILL", "--"]).arg(Path::new(LIB).join("kwok"));
    kwok.arg(format!("--kubeconfig={SHARED}/kubelet.kubeconfig")).arg(format!("--manage-single-node={}", options.node));
    kwok.arg(format!("--config={LIB}/stages.yaml")).arg("--node-lease-duration-seconds=40").env("HOME", "/root").kill_on_drop(true);
    kwok.spawn().context("kwok")
}
