//! Readiness of a pod with a process: it runs, and its readiness probe, where it has one, succeeds.

use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// The probe of one pod.
#[derive(Default)]
pub struct Readiness {
    ready: bool,
    due: Option<Instant>,
    running: Option<JoinHandle<bool>>,
}

impl Readiness {
    /// Whether the pod, whose process is `pid`, was ready when it was last asked; asks again when it is time.
    pub async fn look(&mut self, pod: &Pod, pid: i32) -> bool {
        let Some(probe) = pod.spec.as_ref().and_then(|spec| spec.containers.first()?.readiness_probe.clone()) else { return true };
        if let Some(running) = self.running.take_if(|running| running.is_finished()) {
            self.ready = running.await.unwrap_or(false);
        }
        let period = Duration::from_secs(probe.period_seconds.unwrap_or(10).max(1) as u64);
        let delay = Duration::from_secs(probe.initial_delay_seconds.unwrap_or(0).max(0) as u64);
        let due = *self.due.get_or_insert_with(|| Instant::now() + delay);
        if self.running.is_none() && Instant::now() >= due {
            self.due = Some(Instant::now() + period);
            self.running = Some(tokio::spawn(ask(probe, pid)));
        }
        self.ready
    }
}

async fn ask(probe: Probe, pid: i32) -> bool {
    let limit = Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1) as u64);
    let asked = async {
        if let Some(words) = probe.exec.and_then(|exec| exec.command) {
            let mut command = Command::new("nsenter");
            command.args(["-t", &pid.to_string(), "-m", "--"]).args(words).kill_on_drop(true);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            return command.status().await.is_ok_and(|status| status.success());
        }
        if let Some(http) = probe.http_get {
            return get(port(&http.port), http.path.as_deref().unwrap_or("/")).await.unwrap_or(false);
        }
        match probe.tcp_socket {
            Some(tcp) => TcpStream::connect(("127.0.0.1", port(&tcp.port))).await.is_ok(),
            None => false,
        }
    };
    timeout(limit, asked).await.unwrap_or(false)
}

fn port(port: &IntOrString) -> u16 {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).unwrap_or_default(),
        IntOrString::String(text) => text.parse().unwrap_or_default(),
    }
}

/// Whether that page is there, as the kubelet counts: 200 to 399.
async fn get(port: u16, path: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nUser-Agent: kube-probe/1.33\r\n\r\n").as_bytes()).await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    let code = String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
    Ok(code.is_some_and(|code| (200..400).contains(&code)))
}
