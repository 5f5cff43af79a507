//! Media that are slow, that fail, or that are full.
#![allow(clippy::disallowed_methods, reason = "tests start the servers behind their devices")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::card::{arg, ok};
use crate::loopdev::Loop;
use crate::require;

const BLKIO: &str = "/sys/fs/cgroup/blkio";

/// Waits until `done`.
///
/// # Errors
/// After `patience`.
pub fn wait_for(what: &str, patience: Duration, mut done: impl FnMut() -> bool) -> anyhow::Result<()> {
    let until = Instant::now() + patience;
    while !done() {
        ensure!(Instant::now() < until, "waited {patience:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A block device that takes no more than so many bytes a second, until dropped. The root group also counts what the kernel writes back.
#[derive(Debug)]
pub struct Slow {
    number: String,
}

impl Slow {
    /// Whether this kernel can slow a device down; says so if not.
    pub fn able(test: &str) -> bool {
        let able = Path::new(BLKIO).join("blkio.throttle.write_bps_device").exists();
        if !able {
            require::not_run(test, &format!("needs the cgroup v1 controller blkio below {BLKIO}"));
        }
        able
    }

    /// Limits writes and reads.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn down(device: &Loop, write: u64, read: u64) -> anyhow::Result<Self> {
        let name = device.device.file_name().context("a name")?;
        let number = fs::read_to_string(Path::new("/sys/block").join(name).join("dev"))?.trim().to_owned();
        let slow = Self { number };
        slow.limit("write", write)?;
        slow.limit("read", read)?;
        Ok(slow)
    }

    fn limit(&self, direction: &str, rate: u64) -> anyhow::Result<()> {
        let file = format!("{BLKIO}/blkio.throttle.{direction}_bps_device");
        fs::write(&file, format!("{} {rate}", self.number)).with_context(|| file.clone())
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let _ = self.limit("write", 0);
        let _ = self.limit("read", 0);
    }
}

/// Bytes that a device was asked to read, and to write, since it exists.
///
/// # Errors
/// Where sysfs has no such device.
pub fn moved(device: &Loop) -> anyhow::Result<(u64, u64)> {
    let name = device.device.file_name().context("a name")?;
    let stat = fs::read_to_string(Path::new("/sys/block").join(name).join("stat"))?;
    let fields: Vec<u64> = stat.split_whitespace().filter_map(|f| f.parse().ok()).collect();
    Ok((fields[2] * 512, fields[6] * 512))
}

/// A file system of that size in memory, on `dir`.
pub struct Small {
    /// Where it is mounted.
    pub dir: PathBuf,
}

impl Small {
    /// Mounts it.
    ///
    /// # Errors
    /// Where not root.
    pub fn mount(dir: &Path, mib: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        ok("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs", arg(dir)])?;
        Ok(Self { dir: dir.to_path_buf() })
    }

    /// Another size.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn resize(&self, mib: u64) -> anyhow::Result<()> {
        ok("mount", &["-o", &format!("remount,size={mib}m"), arg(&self.dir)]).map(drop)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = ok("umount", &["-l", arg(&self.dir)]);
    }
}

/// A card whose writes or reads fail while a file exists: nbdkit with its error filter, nbdfuse, a loop device.
pub struct Failing {
    dir: tempfile::TempDir,
    /// `None` only while it is dropped.
    device: Option<Loop>,
    servers: Vec<Child>,
}

impl Failing {
    /// Over the file `disk`.
    ///
    /// # Errors
    /// Where a server does not start.
    pub fn over(disk: &Path) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("metis-nbd-").tempdir()?;
        let (socket, mount) = (dir.path().join("nbd.sock"), dir.path().join("nbd"));
        fs::create_dir(&mount)?;
        let quiet = |program: &str| {
            let mut command = Command::new(program);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let mut failing = Self { device: None, servers: Vec::new(), dir };
        let nbdkit = quiet("nbdkit")
            .args(["-f", "--filter=error", "-U"])
            .arg(&socket)
            .arg("file")
            .arg(disk)
            .args(["error-pwrite=EIO", "error-pwrite-rate=100%", &file_of(&failing.dir, "pwrite")])
            .args(["error-pread=EIO", "error-pread-rate=100%", &file_of(&failing.dir, "pread")])
            .spawn()
            .context("nbdkit")?;
        failing.servers.push(nbdkit);
        let patience = Duration::from_secs(10);
        wait_for("nbdkit's socket", patience, || socket.exists())?;
        failing.servers.push(quiet("nbdfuse").arg(mount.join("disk")).arg("--unix").arg(&socket).spawn().context("nbdfuse")?);
        wait_for("nbdfuse's file", patience, || mount.join("disk").exists())?;
        failing.device = Some(Loop::attach(&mount.join("disk"))?);
        Ok(failing)
    }

    /// The card.
    ///
    /// # Errors
    /// Never while it is in use.
    pub fn card(&self) -> anyhow::Result<&Loop> {
        self.device.as_ref().context("a device")
    }

    /// From now on every `pwrite` or `pread` fails, or none.
    ///
    /// # Errors
    /// Where the switch cannot be set.
    pub fn fail(&self, what: &str, fails: bool) -> anyhow::Result<()> {
        let switch = self.dir.path().join(what);
        if fails {
            fs::write(switch, "")?;
        } else {
            fs::remove_file(switch)?;
        }
        Ok(())
    }

    /// The card is gone: nbdkit is killed.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn pull(&mut self) -> anyhow::Result<()> {
        let nbdkit = self.servers.first_mut().context("nbdkit")?;
        nbdkit.kill()?;
        nbdkit.wait()?;
        Ok(())
    }
}

fn file_of(dir: &tempfile::TempDir, name: &str) -> String {
    format!("error-{name}-file={}", dir.path().join(name).display())
}

impl Drop for Failing {
    fn drop(&mut self) {
        for name in ["pwrite", "pread"] {
            let _ = fs::remove_file(self.dir.path().join(name));
        }
        self.device = None;
        let _ = ok("umount", &["-l", arg(&self.dir.path().join("nbd"))]);
        for server in self.servers.iter_mut().rev() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}
