//! The card writer as a process of its own, and what is left when it, or the daemon, is killed.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::faults::wait_for;
use super::*;

/// For the child that plays the daemon: the device, and a file that it makes when it is in the middle.
const DEVICE: &str = "METIS_TEST_DEVICE";
const MARK: &str = "METIS_TEST_MARK";

/// This very test program, running one of the roles below.
fn child_args(role: &str) -> Vec<std::ffi::OsString> {
    ["--exact", &format!("card::device::tests::process::{role}")].map(Into::into).to_vec()
}

#[allow(clippy::disallowed_methods, reason = "tests start the programs that they need")]
fn child(role: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(child_args(role)).stdout(Stdio::null());
    command
}

/// The card writer of the tests beside it, where file descriptor 0 is a connection; by itself it does nothing.
#[test]
fn card_writer() {
    if !fs::metadata("/proc/self/fd/0").is_ok_and(|stdin| std::os::unix::fs::FileTypeExt::is_socket(&stdin.file_type())) {
        return;
    }
    let socket = io::stdin().as_fd().try_clone_to_owned().unwrap();
    super::super::serve(socket);
}

/// The daemon of the test beside it; by itself, without its variables, it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon() {
    let (Some(device), Some(mark)) = (std::env::var_os(DEVICE).map(PathBuf::from), std::env::var_os(MARK)) else { return };
    let card = watched(64 * MIB, move |offset| {
        if offset == 32 * MIB {
            fs::write(&mark, "").unwrap();
            thread::sleep(Duration::from_mins(1));
        }
        Ok(())
    });
    let writer = Writer::Child { program: "/proc/self/exe".into(), args: child_args("card_writer") };
    burn(&writer, &card, &target(&device)).await.0.unwrap();
}

/// What systemd does for a socket with `Accept=yes`: one writer, its connection on file descriptor 0.
fn socket_activated(pid: Arc<AtomicU32>) -> (tempfile::TempDir, Writer, thread::JoinHandle<Child>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("writer.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let child = child("card_writer").stdin(Stdio::from(OwnedFd::from(socket))).spawn().unwrap();
        pid.store(child.id(), Ordering::SeqCst);
        child
    });
    (dir, Writer::Socket(path), server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_process_writes_a_card() {
    let dir = tempfile::tempdir().unwrap();
    let Some(device) = Loop::attach(&stale(dir.path(), 24 * MIB)) else { return };
    let writer = Writer::Child { program: "/proc/self/exe".into(), args: child_args("card_writer") };
    let card = full(20 * MIB);
    let summary = burn(&writer, &card, &target(&device.path)).await.0.unwrap();
    assert!(summary.direct && summary.write_rate() > 0.0 && summary.verify_rate() > 0.0, "{summary:?}");
    assert_burnt(&device.content(), &card);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_writer_runs_its_own_guards() {
    let dir = tempfile::tempdir().unwrap();
    let Some(device) = Loop::attach(&stale(dir.path(), 24 * MIB)) else { return };
    let card = full(25 * MIB);
    let wanted = Target { device: device.path.clone(), diskseq: u64::MAX, allow_fixed: false };
    let (_dir, writer, server) = socket_activated(Arc::default());
    let result = burn(&writer, &card, &wanted).await.0;
    let Err(WriteError::Refused(guards)) = result else { panic!("{result:?}") };
    let names: Vec<_> = guards.iter().map(|guard| guard.name.as_str()).collect();
    assert_eq!(names, ["device.too_small", "device.changed", "device.fixed"]);
    assert!(server.join().unwrap().wait().unwrap().success());
    assert!(device.content().iter().all(|byte| *byte == 0xee), "a refused device was written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_writer_is_noticed_and_leaves_no_table() {
    let dir = tempfile::tempdir().unwrap();
    let Some(device) = Loop::attach(&stale(dir.path(), 64 * MIB)) else { return };
    let pid = Arc::new(AtomicU32::new(0));
    let victim = Arc::clone(&pid);
    let card = watched(64 * MIB, move |offset| {
        if offset == 32 * MIB {
            kill(Pid::from_raw(victim.load(Ordering::SeqCst) as i32), Signal::SIGKILL).map_err(io::Error::from)?;
        }
        Ok(())
    });
    let (_dir, writer, server) = socket_activated(pid);
    let (result, events) = burn(&writer, &card, &target(&device.path)).await;
    let Err(error @ WriteError::Died { .. }) = result else { panic!("{result:?}") };
    assert!(error.to_string().contains("the card writer died (its socket was closed); the card has no partition table"), "{error}");
    assert!(matches!(events[0], Event::Ready { .. }));
    server.join().unwrap().wait().unwrap();
    assert_cleared(&device.content());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_ends_at_once_is_reported_with_its_status() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::Child { program: "/bin/false".into(), args: Vec::new() };
    let error = burn(&writer, &full(4 * MIB), &target(dir.path())).await.0.unwrap_err();
    assert!(error.to_string().contains("exit status: 1"), "{error}");
    let nowhere = Writer::Socket(dir.path().join("no.sock"));
    let error = burn(&nowhere, &full(4 * MIB), &target(dir.path())).await.0.unwrap_err();
    assert!(matches!(error, WriteError::Unreachable { .. }) && error.to_string().contains("no.sock"), "{error}");
}

#[test]
fn a_killed_daemon_takes_its_writer_along_and_leaves_no_table() {
    let dir = tempfile::tempdir().unwrap();
    let Some(device) = Loop::attach(&stale(dir.path(), 64 * MIB)) else { return };
    let mark = dir.path().join("in-the-middle");
    let mut daemon = child("daemon").env(DEVICE, &device.path).env(MARK, &mark).stdin(Stdio::null()).spawn().unwrap();
    wait_for(|| mark.exists());
    let busy = super::super::medium::open(&Roots::host(), &device.path, &super::super::Want { allow_fixed: true, ..Default::default() });
    assert!(busy.is_err(), "the writer does not hold the device");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    // The writer clears the card and lets it go.
    wait_for(|| {
        super::super::medium::open(&Roots::host(), &device.path, &super::super::Want { allow_fixed: true, ..Default::default() }).is_ok()
    });
    assert_cleared(&device.content());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_burn_hangs_up_and_the_card_is_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let Some(device) = Loop::attach(&stale(dir.path(), 32 * MIB)) else { return };
    let (_dir, writer, server) = socket_activated(Arc::default());
    let reached = CancellationToken::new();
    let here = reached.clone();
    let card = watched(32 * MIB, move |offset| {
        if offset == 16 * MIB {
            here.cancel();
            thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    });
    let wanted = target(&device.path);
    let burning = tokio::spawn(async move { burn(&writer, &card, &wanted).await.0.map(drop) });
    reached.cancelled().await;
    burning.abort();
    assert!(burning.await.unwrap_err().is_cancelled());
    let mut child = tokio::task::spawn_blocking(move || server.join().unwrap()).await.unwrap();
    child.wait().unwrap();
    assert_cleared(&device.content());
}
