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

/// Mounts `image` with the kernel (read-write ext4 by loop device, in a mount namespace of its own), runs a shell script in its root and
/// unmounts. Returns what it printed; `None` where this machine cannot (said on stderr; a failure where `CI=true`).
pub(super) fn with_kernel(image: &Path, script: &str) -> Option<String> {
    let Some(device) = attach(image) else {
        assert!(std::env::var("CI").is_err(), "CI must be able to attach loop devices");
        eprintln!("not run: the kernel's view of {} (needs root and loop devices)", image.display());
        return None;
    };
    let dir = tempfile::tempdir().expect("a mount point");
    let inner =
        format!("mount -t ext4 {device} {dir} && cd {dir} && {{ {script}\n}}; rc=$?; cd /; umount {dir}; exit $rc", dir = arg(dir.path()));
    let output = run("unshare", &["-m", "sh", "-ec", &inner]);
    ok("losetup", &["-d", &device]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&output.stderr));
    Some(text)
}

/// Attaches `image` to a loop device that nobody has, by number: `losetup -f` races with every other test of the machine.
fn attach(image: &Path) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let first = 100 + std::process::id() % 400;
    (first..first + 40).find_map(|number| {
        let device = format!("/dev/loop{number}");
        if !Path::new(&device).exists() {
            run("mknod", &["-m", "660", &device, "b", "7", &number.to_string()]);
        }
        run("losetup", &[&device, arg(image)]).status.success().then_some(device)
    })
}
