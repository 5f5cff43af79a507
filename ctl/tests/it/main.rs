//! metisctl as a process against a scripted daemon: exit codes, messages, files, signals.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::format_push_string,
    clippy::format_collect,
    reason = "a test may panic, and need not be fast"
)]

mod cli;
mod fake;
mod files;
mod lease;
mod prepare;
mod sample;
mod shutdown;
mod signals;
mod startup;
mod tunnel;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// The built program, with an environment of its own.
pub fn metisctl(socket: &Path, args: &[&str]) -> Command {
    program(Path::new(env!("CARGO_BIN_EXE_metisctl")), socket, args)
}

#[allow(clippy::disallowed_methods, reason = "the tests start the program they test")]
pub fn program(program: &Path, socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).env_clear().env("TZ", "UTC").env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("METIS_SOCKET", socket).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(o: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: o.status.code().unwrap_or(-1), out: text(o.stdout), err: text(o.stderr) }
    }
}

pub fn run(socket: &Path, args: &[&str]) -> Ran {
    metisctl(socket, args).output().unwrap().into()
}

pub fn spawn(socket: &Path, args: &[&str]) -> Child {
    metisctl(socket, args).spawn().unwrap()
}

pub fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Says what cannot be tested here; under CI=true that is a failure.
pub fn cannot(what: &str, why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{what} was not tested: {why}");
    eprintln!("NOT TESTED: {what}: {why}");
}
