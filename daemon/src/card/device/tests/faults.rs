//! Devices that fail.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::*;

/// A card behind nbdkit whose writes fail while the file `broken` exists.
struct Failing {
    dir: tempfile::TempDir,
    device: Option<Loop>,
    servers: Vec<Child>,
}

impl Failing {
    #[allow(clippy::disallowed_methods, reason = "tests start the programs that they need")]
    fn start(size: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let disk = stale(dir.path(), size);
        let (socket, mount) = (dir.path().join("nbd.sock"), dir.path().join("nbd"));
        fs::create_dir(&mount).unwrap();
        let quiet = |program: &str| {
            let mut command = Command::new(program);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let broken = format!("error-pwrite-file={}", dir.path().join("broken").display());
        let nbdkit = quiet("nbdkit")
            .args(["-f", "--filter=error", "-U"])
            .arg(&socket)
            .arg("file")
            .arg(&disk)
            .args(["error-pwrite=EIO", "error-pwrite-rate=100%", &broken])
            .spawn();
        let Ok(nbdkit) = nbdkit else {
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
        failing.device = Some(Loop::attach(&mount.join("disk"))?);
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
    let Some(failing) = Failing::start(48 * MIB) else { return };
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

/// A cell that does not hold what is written to it: three tries, then the place is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_never_holds_ends_the_burn() {
    let dir = tempfile::tempdir().unwrap();
    let Some(device) = Loop::attach(&stale(dir.path(), 32 * MIB)) else { return };
    let (backing, done) = (device.backing.clone(), Arc::new(AtomicBool::new(false)));
    let over = Arc::clone(&done);
    let rot = thread::spawn(move || {
        let file = fs::OpenOptions::new().write(true).open(backing).unwrap();
        while !over.load(Ordering::SeqCst) {
            file.write_all_at(b"rot", 9 * MIB).unwrap();
        }
    });
    let (_dir, writer) = in_process(on_device(&device.path), |_| {});
    let (result, events) = burn(&writer, &full(32 * MIB), &target(&device.path)).await;
    done.store(true, Ordering::SeqCst);
    rot.join().unwrap();
    let Err(WriteError::Fault(fault)) = result else { panic!("{result:?}") };
    assert_eq!((fault.kind, fault.offset), (FaultKind::Verify, Some(8 * MIB)), "{fault}");
    assert!(fault.message.contains("tried 3 time(s)"), "{fault}");
    assert_eq!(milestones(&events), [Milestone::BodyWritten]);
    assert_cleared(&device.content());
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
