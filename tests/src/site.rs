//! A sample site for tests: demo images, an inventory with secrets, configuration.
#![allow(clippy::disallowed_methods, reason = "tests start the processes they talk to")]

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use metisd::card::demo::{self, Shape};

use crate::daemon::Daemon;

/// Configuration without UPSes.
pub const PLAIN: &str = "card: { free_space_floor: 16 MiB }\n";

/// The k3s token of the sample site; nothing may show it.
pub const TOKEN: &str = "K10abc::server:not-a-secret-of-anybody";

/// Makes the demo images below `dir` and gives an inventory whose classes use them: nodes `pi-1` (FAT and ext4), `armbian-1` (one ext4
/// after a raw gap).
///
/// # Errors
/// Where an image cannot be made.
pub fn inventory(dir: &Path) -> anyhow::Result<String> {
    let class = |name: &str, shape: Shape, renderer: &str, extra: &str| -> anyhow::Result<String> {
        let image = demo::golden(shape, &dir.join(format!("{name}.img.zst"))).with_context(|| format!("demo image {name}"))?;
        Ok(format!(
            "  {name}:\n    arch: arm64\n    image: {{ url: \"{}\", sha256: \"{}\" }}\n    network: {{ renderer: {renderer}, interface: end0 }}\n    {extra}\n",
            image.url, image.sha256
        ))
    };
    let k3s = "k3s: { role: agent, version: v1.31.5+k3s1, server: \"https://192.168.22.2:6443\", token: { file: \"@DIR@/secrets/token\" }, labels: { longhorn: \"true\" }, taints: [\"dedicated=media:NoSchedule\"] }";
    Ok(format!(
        "defaults:\n  network: {{ prefix: 24, gateway: 192.168.22.1, nameservers: [192.168.22.1] }}\n  ssh:\n    port: 2277\n    users: {{ brad: {{ keys: [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1gDqmxJ4VNAYcd5LzEpN4B7w2Gfi2qLT3VqfyYbvWk brad@desk\"], groups: [sudo], sudo: true }} }}\n  journald: {{ storage: persistent, system_max_use: 200M }}\nclasses:\n{}{}nodes:\n  pi-1: {{ class: pi, network: {{ address: 192.168.22.11 }}, ssh: {{ host_keys: {{ ed25519: {{ file: \"@DIR@/secrets/host_key\" }} }} }} }}\n  armbian-1: {{ class: armbian, network: {{ address: 192.168.22.12 }}, ssh: {{ host_keys: {{ ed25519: {{ file: \"@DIR@/secrets/host_key\" }} }} }} }}\n  pi-2: {{ class: pi, network: {{ address: 192.168.22.13 }} }}\n",
        class("pi", Shape::RaspberryPi, "netplan", k3s)?,
        class("armbian", Shape::Armbian, "networkd", k3s)?,
    ))
}

/// A daemon, not started, on the sample site.
///
/// # Errors
/// Where its folder cannot be made.
pub fn daemon(config: &str) -> anyhow::Result<Daemon> {
    let daemon = Daemon::new(config, "")?;
    let inventory = inventory(daemon.dir.path())?.replace("@DIR@", &daemon.dir.path().display().to_string());
    std::fs::write(daemon.path("inventory.yaml"), inventory)?;
    secrets(&daemon)?;
    Ok(daemon)
}

/// Makes what inventories of tests refer to: `secrets/token` and `secrets/host_key`.
///
/// # Errors
/// Where they cannot be written.
pub fn secrets(daemon: &Daemon) -> anyhow::Result<()> {
    daemon.secret("secrets/token", &format!("{TOKEN}\n"))?;
    let key = daemon.path("secrets/host_key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "metis-test", "-f"]).arg(&key).output();
    ensure!(made.context("ssh-keygen")?.status.success(), "ssh-keygen failed");
    Ok(())
}
