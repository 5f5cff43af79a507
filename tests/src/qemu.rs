//! A machine that boots a card: QEMU without hardware acceleration, the card in an emulated SD reader.
#![allow(clippy::disallowed_methods, reason = "tests start the processes they talk to")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// A running guest; killed when dropped.
pub struct Guest {
    qemu: Child,
    lines: mpsc::Receiver<String>,
    log: String,
}

impl Guest {
    /// Boots the card in `disk` with kernel and initrd of the golden image in `golden`. The guest's writes are thrown away.
    ///
    /// # Errors
    /// Where QEMU cannot be started.
    pub fn boot(disk: &Path, golden: &Path) -> anyhow::Result<Self> {
        let card = format!("if=none,id=card,file={},format=raw,snapshot=on", disk.display());
        Self::start(golden, &["-device", "sdhci-pci", "-drive", &card, "-device", "sd-card,drive=card"])
    }

    /// Boots kernel and initrd of `golden` with further devices.
    ///
    /// # Errors
    /// Where QEMU cannot be started.
    pub fn start(golden: &Path, devices: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "1024",
            "-nographic",
            "-no-reboot",
            "-nodefaults",
            "-serial",
            "stdio",
        ]);
        command.arg("-kernel").arg(golden.join("vmlinuz")).arg("-initrd").arg(golden.join("initrd.img"));
        command.args(["-append", "root=LABEL=root ro console=ttyS0 net.ifnames=0 quiet systemd.show_status=0 panic=-1"]);
        command.args(["-netdev", "user,id=n0,restrict=on", "-device", "virtio-net-pci,netdev=n0"]);
        let mut qemu = command
            .args(devices)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("qemu-system-x86_64")?;
        let stdout = qemu.stdout.take().context("stdout is piped")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { qemu, lines, log: String::new() })
    }

    /// Waits for a console line with `marker` and gives what follows it.
    ///
    /// # Errors
    /// Where it does not come within `patience`; the console's last lines are in the message.
    pub fn line_after(&mut self, marker: &str, patience: Duration) -> anyhow::Result<String> {
        let until = Instant::now() + patience;
        loop {
            if let Ok(line) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                if let Some(at) = line.find(marker) {
                    return Ok(line[at + marker.len()..].to_owned());
                }
                self.log.push_str(&line);
                self.log.push('\n');
            } else {
                let tail: Vec<_> = self.log.lines().rev().take(30).collect();
                bail!("no {marker} within {patience:?}; console:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
