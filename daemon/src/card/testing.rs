//! What tests of this room share: the tools that judge its work.

use std::path::Path;
use std::process::{Command, Output};

/// Runs a tool of the test machine and returns its output whatever its exit code.
#[allow(clippy::disallowed_methods, reason = "tests let e2fsprogs, dosfstools and util-linux judge")]
pub(super) fn run(program: &str, args: &[&str]) -> Output {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    Command::new(program)
        .args(args)
        .env("PATH", path)
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|e| panic!("{program} cannot run ({e}): install e2fsprogs, dosfstools, mtools, fdisk and util-linux"))
}

/// Runs a tool that must succeed; returns what it printed.
pub(super) fn ok(program: &str, args: &[&str]) -> String {
    let output = run(program, args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A path as an argument.
pub(super) fn arg(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// Makes a sparse file of that size.
pub(super) fn sparse(path: &Path, size: u64) {
    std::fs::File::create(path).and_then(|file| file.set_len(size)).expect("a sparse file");
}

/// Partitions a file with an sfdisk(8) script.
#[allow(clippy::disallowed_methods, reason = "sfdisk reads its script from stdin")]
pub(super) fn sfdisk(path: &Path, script: &str) {
    use std::io::Write as _;
    let mut child = Command::new("/sbin/sfdisk")
        .args(["--quiet", "--no-reread", "--no-tell-kernel", arg(path)])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("sfdisk of the Debian package fdisk");
    child.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("sfdisk reads");
    assert!(child.wait().expect("sfdisk ends").success(), "sfdisk refused {script}");
}
