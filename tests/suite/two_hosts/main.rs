//! Two real metisd that know of each other: linked through a real sshd, and on one real API server.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

mod link;
mod shutdown;

use std::os::unix::fs::PermissionsExt as _;

use metis_tests::daemon::Daemon;

/// The coordinator and its peer: host names, names in the inventory, and addresses of loopback.
const NAMES: [&str; 2] = ["titan-db", "tethys"];
const ADDRESSES: [&str; 2] = ["127.0.0.1", "127.0.0.2"];
const ROLES: [&str; 2] = ["coordinator", "peer"];

/// Their hosts, and the cluster's. `more`: of the hosts' section `host`.
fn inventory(port: u16, more: &str) -> String {
    format!(
        "classes:
  server: {{ arch: arm64, k3s: {{ role: server }}, host: {{ returns: ac-cycle }} }}
  agent: {{ arch: arm64, k3s: {{ role: agent }}, host: {{ returns: ac-cycle }} }}
  outside: {{ arch: amd64, host: {{ returns: ac-cycle, managed: false{more} }} }}
nodes:
  titan-db: {{ class: outside, host: {{ address: 127.0.0.1, port: {port} }} }}
  tethys: {{ class: outside, host: {{ address: 127.0.0.2, port: {port} }} }}
  titan-0a: {{ class: server, host: {{ address: 192.0.2.2 }} }}
  titan-13: {{ class: agent, host: {{ address: 192.0.2.13 }} }}
  titan-15: {{ class: agent, host: {{ address: 192.0.2.15 }} }}
"
    )
}

/// A daemon of that place in [`NAMES`], not started. `rest`: further sections.
fn daemon(at: usize, inventory: &str, rest: &str) -> Daemon {
    let mut daemon = Daemon::new("", inventory).unwrap();
    daemon.host_name = Some(NAMES[at].to_owned());
    let dir = daemon.dir.path().display().to_string();
    // Others have to come as far as its socket.
    std::fs::create_dir(daemon.path("run")).unwrap();
    for folder in [daemon.dir.path().to_owned(), daemon.path("run")] {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let text = format!(
        "daemon: {{ state_dir: \"{dir}/state\", runtime_dir: \"{dir}/run\", log_level: debug, host_role: {} }}
inventory: \"{dir}/inventory.yaml\"
{rest}",
        ROLES[at]
    );
    std::fs::write(daemon.path("metis.yaml"), text).unwrap();
    daemon
}
