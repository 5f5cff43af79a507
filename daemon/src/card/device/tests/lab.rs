//! Real loop devices, made for one test each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs a program; its output where it succeeded.
#[allow(clippy::disallowed_methods, reason = "tests start the programs that they need")]
pub fn run(program: &str, args: &[&str]) -> Result<Output, String> {
    let output = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() { Ok(output) } else { Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr))) }
}

/// Says in one line what did not run; under CI=true that is a failure.
pub fn missing(what: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "missing under CI: {what}");
    eprintln!("did not run: {what}");
}

/// A loop device over a file; detached when dropped.
pub struct Loop {
    pub path: PathBuf,
    pub backing: PathBuf,
}

impl Loop {
    /// Attaches `backing`; `None`, said in one line, where this host has no loop devices for us.
    pub fn attach(backing: &Path) -> Option<Self> {
        Self::attach_with(backing, &[])
    }

    /// As [`Self::attach`], with more options of losetup(8).
    pub fn attach_with(backing: &Path, options: &[&str]) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
            missing("loop devices (needs root and /dev/loop-control)");
            return None;
        }
        let first = 140 + std::process::id() % 50;
        let mut said = String::new();
        for number in first..first + 40 {
            let path = PathBuf::from(format!("/dev/loop{number}"));
            if !path.exists()
                && run("mknod", &["-m660", &path.display().to_string(), "b", "7", &number.to_string()]).is_err()
                && !path.exists()
            {
                continue;
            }
            let (node, file) = (path.display().to_string(), backing.display().to_string());
            match run("losetup", &[options, &[&node, &file]].concat()) {
                Ok(_) => return Some(Self { path, backing: backing.to_owned() }),
                Err(error) => said = error,
            }
        }
        missing(&format!("loop devices ({said})"));
        None
    }

    /// What is on the device, past every cache of it.
    pub fn content(&self) -> Vec<u8> {
        run("blockdev", &["--flushbufs", &self.path.display().to_string()]).unwrap();
        fs::read(&self.backing).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = run("losetup", &["-d", &self.path.display().to_string()]);
    }
}
