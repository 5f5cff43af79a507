//! Loop devices of our own, with explicit numbers.
#![allow(clippy::disallowed_methods, reason = "tests start the processes they talk to")]

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// A file as a block device; detached when dropped.
pub struct Loop {
    /// e.g. `/dev/loop137`.
    pub device: PathBuf,
    /// The file behind it.
    pub file: PathBuf,
}

impl Loop {
    /// Attaches `file` to a loop device that nobody uses, numbered from 130.
    ///
    /// # Errors
    /// Where there is none, or not root.
    pub fn attach(file: &Path) -> anyhow::Result<Self> {
        Self::with(file, &["--direct-io=on"])
    }

    /// A part of `file` as a read-only device: `len` bytes from `offset`.
    ///
    /// # Errors
    /// As [`Loop::attach`].
    pub fn slice(file: &Path, offset: u64, len: u64) -> anyhow::Result<Self> {
        Self::with(file, &["--read-only", "--offset", &offset.to_string(), "--sizelimit", &len.to_string()])
    }

    fn with(file: &Path, options: &[&str]) -> anyhow::Result<Self> {
        let begin = 130 + std::process::id() % 400;
        for number in begin..begin + 64 {
            let device = PathBuf::from(format!("/dev/loop{number}"));
            if !device.exists() {
                let made = Command::new("mknod").args(["-m", "660"]).arg(&device).args(["b", "7", &number.to_string()]).output()?;
                ensure!(made.status.success() || device.exists(), "mknod {}: {}", device.display(), String::from_utf8_lossy(&made.stderr));
            }
            // Two tests that run at once may make the same node; losetup lets only one of them in.
            let attached = Command::new("losetup").args(options).arg(&device).arg(file).output().context("losetup")?;
            if attached.status.success() {
                // The node may be older than this test, of whoever made it; the card writer opens it as a member of `disk`.
                let shared = Command::new("chown").arg("root:disk").arg(&device).output()?;
                ensure!(shared.status.success(), "chown {}: {}", device.display(), String::from_utf8_lossy(&shared.stderr));
                return Ok(Self { device, file: file.to_path_buf() });
            }
        }
        anyhow::bail!("no free loop device from /dev/loop{begin} on")
    }

    /// Its path as text.
    pub fn path(&self) -> &str {
        self.device.to_str().unwrap_or_default()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.device).output();
    }
}
