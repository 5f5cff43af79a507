//! Devices that fail.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::*;

/// A card behind nbdkit.
struct Failing {
    dir: tempfile::TempDir,
    device: Option<Loop>,
    servers: Vec<Child>,
}

#[allow(clippy::disallowed_methods, reason = "tests start the programs that they need")]
fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl Failing {
    /// Writes fail while the file `broken` exists.
    fn on_request(size: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let disk = format!("file={}", stale(dir.path(), size).display());
        let broken = format!("error-pwrite-file={}", dir.path().join("broken").display());
        Self::start(dir, &["--filter=error", "file", &disk, "error-pwrite=EIO", "error-pwrite-rate=100%", &broken])
    }

    /// Writes succeed and nothing is kept.
    fn forgetful(size: u64) -> Option<Self> {
        Self::start(tempfile::tempdir().unwrap(), &["null", &format!("size={size}")])
    }

    fn start(dir: tempfile::TempDir, plugin: &[&str]) -> Option<Self> {
        let (socket, mount) = (dir.path().join("nbd.sock"), dir.path().join("nbd"));
        fs::create_dir(&mount).unwrap();
        let Ok(nbdkit) = quiet("nbdkit").args(["-f", "-U"]).arg(&socket).args(plugin).spawn() else {
            lab::missing("failing devices (needs nbdkit)");
            return None;
        };
        let mut failing = Self { dir, device: None, servers: vec![nbdkit] };
        wait_for(|| socket.exists());
        let Ok(fuse) = quiet("nbdfuse").arg(mount.join("disk")).arg("--unix").arg(&socket).spawn() else {
            lab::missing("failing devices (needs nbdfuse)");
            return None;
        };
        failing.servers.push(fuse);
        wait_for(|| mount.join("disk").exists());
        // Else the page cache of the file below would remember what the device forgets.
        failing.device = Some(Loop::attach_with(&mount.join("disk"), &["--direct-io=on"])?);
        Some(failing)
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        self.device = None;
        let _ = lab::run("umount", &["-l", &self.dir.path().join("nbd").display().to_string()]);
        for server in self.servers.iter_mut().rev() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

pub(super) fn wait_for(mut done: impl FnMut() -> bool) {
    for _ in 0..600 {
        if done() {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("waited 30 s in vain");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_medium_that_fails_in_the_middle_is_named_with_the_place() {
    let Some(failing) = Failing::on_request(48 * MIB) else { return };
    let Some(device) = &failing.device else { return };
    let broken = failing.dir.path().join("broken");
    let card = watched(48 * MIB, move |offset| if offset == 24 * MIB { fs::write(&broken, "") } else { Ok(()) });
    let (_dir, writer) = in_process(on_device(&device.path), |_| {});
    let (result, events) = burn(&writer, &card, &target(&device.path)).await;
    let Err(WriteError::Fault(fault)) = result else { panic!("{result:?}") };
    assert_eq!(fault.kind, FaultKind::Medium, "{fault}");
    assert!(fault.offset.is_some_and(|offset| (MIB..48 * MIB).contains(&offset)), "{fault}");
    assert!(fault.message.contains("Input/output error") && fault.message.contains("the card has no partition table"), "{fault}");
    assert_eq!(milestones(&events), []);
    // What could not be cleared again had not been written either.
    assert_cleared(&fs::read(failing.dir.path().join("card.img")).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_smaller_than_it_says_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let mount = dir.path().join("small");
    fs::create_dir(&mount).unwrap();
    if lab::run("mount", &["-t", "tmpfs", "-o", "size=24m", "tmpfs", &mount.display().to_string()]).is_err() {
        return lab::missing("mounting a tmpfs (needs root)");
    }
    let backing = mount.join("card.img");
    fs::File::create(&backing).unwrap().set_len(64 * MIB).unwrap();
    if let Some(device) = Loop::attach(&backing) {
        let (_dir, writer) = in_process(on_device(&device.path), |_| {});
        let result = burn(&writer, &full(64 * MIB), &target(&device.path)).await.0;
        let Err(WriteError::Fault(fault)) = result else { panic!("{result:?}") };
        assert!(matches!(fault.kind, FaultKind::Medium | FaultKind::Full), "{fault}");
        assert!(fault.offset.is_some() && fault.message.contains("without a partition table"), "{fault}");
        assert_cleared(&device.content());
    }
    lab::run("umount", &[&mount.display().to_string()]).unwrap();
}

/// A card that holds nothing: three tries, then the first place is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_that_never_hold_end_the_burn() {
    let Some(failing) = Failing::forgetful(16 * MIB) else { return };
    let Some(device) = &failing.device else { return };
    let (_dir, writer) = in_process(on_device(&device.path), |_| {});
    let (result, events) = burn(&writer, &full(16 * MIB), &target(&device.path)).await;
    let Err(WriteError::Fault(fault)) = result else { panic!("{result:?}") };
    assert_eq!((fault.kind, fault.offset), (FaultKind::Verify, Some(MIB)), "{fault}");
    assert!(fault.message.contains("tried 3 time(s), 4 bad place(s)"), "{fault}");
    assert_eq!(milestones(&events), [Milestone::BodyWritten]);
}

/// A fake card loses everything past its real size: no point in trying a thousand times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_that_lost_much_is_not_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = stale(dir.path(), 128 * MIB);
    let backing = path.clone();
    let (_dir, writer) = in_process(on_file(&path, false), move |milestone| {
        if milestone == Milestone::BodyWritten {
            fs::OpenOptions::new().write(true).open(&backing).unwrap().write_all_at(&vec![0; 100 << 20], 20 * MIB).unwrap();
        }
    });
    let result = burn(&writer, &full(128 * MIB), &target(&path)).await.0;
    let Err(WriteError::Fault(fault)) = result else { panic!("{result:?}") };
    assert_eq!(fault.kind, FaultKind::Verify, "{fault}");
    assert!(fault.message.contains("tried 1 time(s)"), "{fault}");
    assert_cleared(&fs::read(&path).unwrap());
}
