#![allow(clippy::disallowed_methods, reason = "tests start the processes they talk to")]
//! Where a plane lives: its programs, its folder, its address.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::{PORT, identity};

/// Where a program of the lab is; builds it first if need be (`tests/lab/tool`).
///
/// # Errors
/// Where it cannot be built.
pub fn tool(name: &str) -> Result<PathBuf> {
    let script = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/lab/tool"));
    let out = Command::new(script).arg(name).stdin(Stdio::null()).output().context("tests/lab/tool")?;
    ensure!(out.status.success(), "tests/lab/tool {name}: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
    Ok(PathBuf::from(String::from_utf8(out.stdout)?.trim()))
}

/// A file of `tests/lab/plane`.
pub(crate) fn lab_file(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/lab/plane")).join(name)
}

/// Runs a line of bash in `dir`; gives what it printed.
pub(crate) fn sh(line: &str, dir: &Path) -> Result<String> {
    let out = Command::new("bash").args(["-euc", line]).current_dir(dir).stdin(Stdio::null()).output()?;
    ensure!(out.status.success(), "{line}\n{}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8(out.stdout)?)
}

const PREFIX: &str = "metis-plane-";

/// What the name of this process' planes' folders begins with.
pub(super) fn prefix() -> String {
    format!("{PREFIX}{}-", std::process::id())
}

/// Removes the folders of planes whose test was killed: they hold memory.
pub(super) fn sweep() -> Result<()> {
    for entry in std::fs::read_dir("/dev/shm")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// A loopback address that nobody has yet: the plane's ports are the usual ones there, and none can be taken by a passing connection.
pub(super) fn own_loopback() -> Result<IpAddr> {
    for _ in 0..20 {
        let random = u32::from_str_radix(&identity::random_hex(3)?, 16)?;
        let [_, b, c, d] = random.to_be_bytes();
        let address = Ipv4Addr::new(127, b | 0x40, c, d.clamp(1, 254));
        if TcpListener::bind((address, PORT)).is_ok() {
            return Ok(address.into());
        }
    }
    bail!("no loopback address is free")
}
