//! Burns on real loop devices, with the card writer as a process of its own where that matters.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use super::super::{Extent, Prepared, ReadAt};
use super::client::{Event, Target, WriteError, Writer, write};
use super::fault::FaultKind;
use super::list::{Roots, find};
use super::medium::{Guarded, Medium};
use super::protocol::{Milestone, Summary};
use super::serve::{Opener, serve_on};

mod faults;
mod lab;
mod process;

use lab::Loop;

const MIB: u64 = 1 << 20;

/// An image whose sectors all differ, but for allocated blocks of zeros, which have to reach the card as well.
struct Pattern(u64);

impl ReadAt for Pattern {
    fn size(&self) -> u64 {
        self.0
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if offset + buf.len() as u64 > self.0 || !offset.is_multiple_of(512) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (index, part) in buf.chunks_mut(512).enumerate() {
            let number = offset / 512 + index as u64;
            let zero = number / 8 % 7 == 3;
            part.fill(if zero { 0 } else { (number % 251) as u8 + 1 });
            if let Some(start) = part.get_mut(..8).filter(|_| !zero) {
                start.copy_from_slice(&number.to_le_bytes());
            }
        }
        Ok(())
    }
}

/// An image of which `at` sees every read before it happens.
struct Watched<F>(u64, F);

impl<F: Fn(u64) -> io::Result<()> + Send + Sync> ReadAt for Watched<F> {
    fn size(&self) -> u64 {
        self.0
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.1(offset)?;
        Pattern(self.0).read_exact_at(buf, offset)
    }
}

fn watched(size: u64, at: impl Fn(u64) -> io::Result<()> + Send + Sync + 'static) -> Prepared {
    Prepared { data: Arc::new(Watched(size, at)), ..full(size) }
}

fn card(size: u64, extents: &[(u64, u64)]) -> Prepared {
    Prepared {
        data: Arc::new(Pattern(size)),
        extents: extents.iter().map(|(offset, len)| Extent { offset: *offset, len: *len }).collect(),
        files: Vec::new(),
        instance_id: "test".to_owned(),
        image_sha256: String::new(),
    }
}

fn full(size: u64) -> Prepared {
    card(size, &[(0, size)])
}

/// A used card: no byte of it is zero.
fn stale(dir: &Path, size: u64) -> std::path::PathBuf {
    let path = dir.join("card.img");
    fs::write(&path, vec![0xee; size as usize]).unwrap();
    path
}

fn target(device: &Path) -> Target {
    Target { device: device.to_owned(), diskseq: find(&Roots::host(), device).map_or(0, |device| device.diskseq), allow_fixed: true }
}

/// A writer on a thread of this process, where a test can look between its steps.
fn in_process(
    opener: impl Fn() -> Guarded + Send + 'static,
    watch: impl Fn(Milestone) + Send + Sync + 'static,
) -> (tempfile::TempDir, Writer) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("writer.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let opener: Opener<'_> = &|_| Ok(opener());
        serve_on(socket, opener, &watch).unwrap();
    });
    (dir, Writer::Socket(path))
}

fn on_device(device: &Path) -> impl Fn() -> Guarded + Send + 'static {
    let device = device.to_owned();
    move || super::medium::open(&Roots::host(), &device, &super::Want { allow_fixed: true, ..super::Want::default() }).unwrap()
}

fn on_file(path: &Path, direct: bool) -> impl Fn() -> Guarded + Send + 'static {
    let path = path.to_owned();
    move || Guarded { device: super::Device::default(), medium: Medium::file(&path, direct).unwrap() }
}

async fn burn(writer: &Writer, card: &Prepared, target: &Target) -> (Result<Summary, WriteError>, Vec<Event>) {
    burn_until(writer, card, target, CancellationToken::new()).await
}

async fn burn_until(
    writer: &Writer,
    card: &Prepared,
    target: &Target,
    cancel: CancellationToken,
) -> (Result<Summary, WriteError>, Vec<Event>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    let result = write(writer, card, target, cancel, move |event| {
        sink.lock().unwrap().push(event);
    })
    .await;
    let events = events.lock().unwrap().clone();
    (result, events)
}

/// What must be on the device: the card in its extents, zeros at both ends elsewhere, the old content where nothing was written.
fn assert_burnt(content: &[u8], card: &Prepared) {
    let size = content.len() as u64;
    let mut expected = vec![0xee; content.len()];
    expected[..MIB as usize].fill(0);
    expected[(size - MIB) as usize..].fill(0);
    for extent in super::chunk::coalesce(card.extents()) {
        let part = &mut expected[extent.offset as usize..(extent.offset + extent.len) as usize];
        card.data().read_exact_at(part, extent.offset).unwrap();
    }
    if content != expected {
        let at = content.iter().zip(&expected).position(|(is, should)| is != should).unwrap();
        panic!("byte {at} is {:#04x}, not {:#04x}", content[at], expected[at]);
    }
}

/// No partition table, no spare GPT.
fn assert_cleared(content: &[u8]) {
    assert!(content[..MIB as usize].iter().all(|byte| *byte == 0), "the first MiB is not zero");
    assert!(content[content.len() - MIB as usize..].iter().all(|byte| *byte == 0), "the last MiB is not zero");
}

fn milestones(events: &[Event]) -> Vec<Milestone> {
    events.iter().filter_map(|event| if let Event::Milestone(milestone) = event { Some(*milestone) } else { None }).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_is_written_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let Some(device) = Loop::attach(&stale(dir.path(), 64 * MIB)) else { return };
    // Gaps short and long, odd ends, a table phase in pieces, the image smaller than the card.
    let card = card(41 * MIB + 512, &[(0, 8192), (32768, 4096), (2 * MIB, 9 * MIB), (20 * MIB + 4096, 12288), (39 * MIB, 2 * MIB + 512)]);
    let (_dir, writer) = in_process(on_device(&device.path), |_| {});
    let (result, events) = burn(&writer, &card, &target(&device.path)).await;
    let summary = result.unwrap();
    assert!(summary.direct, "{summary:?}");
    assert_eq!((summary.device.as_path(), summary.rewritten), (device.path.as_path(), 0));
    assert_eq!(summary.bytes, 36864 + 9 * MIB + 12288 + 2 * MIB + 512);
    assert_eq!(milestones(&events), [Milestone::BodyWritten, Milestone::BodyVerified, Milestone::TableWritten]);
    assert!(matches!(&events[0], Event::Ready { device: path, .. } if *path == device.path), "{events:?}");
    let last = events.iter().rev().find_map(|event| if let Event::Progress(progress) = event { Some(*progress) } else { None }).unwrap();
    assert_eq!((last.stage, last.done, last.total), ("verify", summary.bytes, summary.bytes));
    assert_burnt(&device.content(), &card);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_as_large_as_the_card_keeps_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let Some(device) = Loop::attach(&stale(dir.path(), 16 * MIB)) else { return };
    let card = full(16 * MIB);
    let (_dir, writer) = in_process(on_device(&device.path), |_| {});
    burn(&writer, &card, &target(&device.path)).await.0.unwrap();
    assert_burnt(&device.content(), &card);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn until_the_body_is_verified_neither_end_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let Some(device) = Loop::attach(&stale(dir.path(), 16 * MIB)) else { return };
    let (backing, seen) = (device.backing.clone(), Arc::new(Mutex::new(Vec::new())));
    let sink = Arc::clone(&seen);
    let (_dir, writer) = in_process(on_device(&device.path), move |milestone| {
        let content = fs::read(&backing).unwrap();
        let blank = |part: &[u8]| part.iter().all(|byte| *byte == 0);
        sink.lock().unwrap().push((milestone, blank(&content[..MIB as usize]), blank(&content[15 * MIB as usize..])));
    });
    burn(&writer, &full(16 * MIB), &target(&device.path)).await.0.unwrap();
    assert_eq!(
        *seen.lock().unwrap(),
        [(Milestone::BodyWritten, true, true), (Milestone::BodyVerified, true, true), (Milestone::TableWritten, false, false)]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_medium_lost_is_found_and_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let Some(device) = Loop::attach(&stale(dir.path(), 32 * MIB)) else { return };
    let backing = device.backing.clone();
    let (_dir, writer) = in_process(on_device(&device.path), move |milestone| {
        if milestone == Milestone::BodyWritten {
            fs::OpenOptions::new().write(true).open(&backing).unwrap().write_all_at(b"rot", 13 * MIB + 77).unwrap();
        }
    });
    let card = full(32 * MIB);
    let summary = burn(&writer, &card, &target(&device.path)).await.0.unwrap();
    assert_eq!(summary.rewritten, 1);
    assert_burnt(&device.content(), &card);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_without_direct_access_is_flushed_and_says_so() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = stale(dir.path(), 24 * MIB);
    let backing = path.clone();
    let (_dir, writer) = in_process(on_file(&path, false), move |milestone| {
        if milestone == Milestone::BodyWritten {
            fs::OpenOptions::new().write(true).open(&backing).unwrap().write_all_at(b"rot", 5 * MIB).unwrap();
        }
    });
    let card = card(20 * MIB + 100, &[(0, 6 * MIB), (18 * MIB, 2 * MIB + 100)]);
    let summary = burn(&writer, &card, &target(&path)).await.0.unwrap();
    assert_eq!((summary.direct, summary.rewritten), (false, 1));
    assert!(summary.warnings.iter().any(|warning| warning.contains("no direct access")), "{:?}", summary.warnings);
    // The last sector is filled up with zeros.
    let mut content = fs::read(&path).unwrap();
    assert_eq!(content[20 * MIB as usize + 100..][..412], [0; 412]);
    content[20 * MIB as usize + 100..][..412].fill(0xee);
    assert_burnt(&content, &card);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_regular_file_can_be_written_directly() {
    let dir = tempfile::tempdir().unwrap();
    let path = stale(dir.path(), 16 * MIB);
    let direct = Medium::file(&path, true).unwrap().direct;
    let (_dir, writer) = in_process(on_file(&path, true), |_| {});
    let card = full(12 * MIB);
    assert_eq!(burn(&writer, &card, &target(&path)).await.0.unwrap().direct, direct);
    assert_burnt(&fs::read(&path).unwrap(), &card);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_fails_is_named_as_the_cause() {
    // The first page is read last: by then the spare table and the boot loader are on the card and have to go again.
    for torn in [12 * MIB, 0] {
        let dir = tempfile::tempdir().unwrap();
        let path = stale(dir.path(), 24 * MIB);
        let (_dir, writer) = in_process(on_file(&path, false), |_| {});
        let card = watched(24 * MIB, move |offset| if offset == torn { Err(io::Error::other("torn frame")) } else { Ok(()) });
        let error = burn(&writer, &card, &target(&path)).await.0.unwrap_err();
        assert!(matches!(&error, WriteError::Source { offset, .. } if *offset == torn), "{error}");
        assert_cleared(&fs::read(&path).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_leaves_no_table() {
    let dir = tempfile::tempdir().unwrap();
    let path = stale(dir.path(), 32 * MIB);
    for when in [Milestone::BodyWritten, Milestone::BodyVerified, Milestone::TableWritten] {
        let (cancel, told) = (CancellationToken::new(), CancellationToken::new());
        let (stop, heard) = (cancel.clone(), told.clone());
        let (_dir, writer) = in_process(on_file(&path, false), move |milestone| {
            if milestone == when {
                stop.cancel();
                // Until the abort is on its way.
                std::thread::sleep(std::time::Duration::from_secs(1));
                heard.cancel();
            }
        });
        let (result, _) = burn_until(&writer, &full(32 * MIB), &target(&path), cancel).await;
        let error = result.unwrap_err();
        assert!(matches!(&error, WriteError::Cancelled(message) if message.contains("without a partition table")), "{error}");
        assert!(told.is_cancelled());
        assert_cleared(&fs::read(&path).unwrap());
    }
}

#[test]
fn a_second_writer_and_a_mount_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let Some(device) = Loop::attach(&stale(dir.path(), 16 * MIB)) else { return };
    let refused = |want: &super::Want| match super::medium::open(&Roots::host(), &device.path, want) {
        Err(super::medium::OpenError::Refused(guards)) => guards.into_iter().map(|guard| guard.name).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let want = super::Want { allow_fixed: true, ..super::Want::default() };
    assert_eq!(refused(&super::Want::default()), ["device.fixed"]);
    assert_eq!(refused(&super::Want { size: 17 * MIB, ..want }), ["device.too_small"]);
    assert_eq!(refused(&super::Want { diskseq: u64::MAX, ..want }), ["device.changed"]);
    {
        let _first = on_device(&device.path)();
        assert_eq!(refused(&want), ["device.busy"]);
    }
    {
        let plain = fs::File::open(&device.path).unwrap();
        let _lock = nix::fcntl::Flock::lock(plain, nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
        assert_eq!(refused(&want), ["device.locked"]);
    }
    lab::run("mkfs.ext4", &["-q", "-F", &device.path.display().to_string()]).unwrap();
    let mountpoint = dir.path().join("mnt");
    fs::create_dir(&mountpoint).unwrap();
    lab::run("mount", &[&device.path.display().to_string(), &mountpoint.display().to_string()]).unwrap();
    let names = refused(&want);
    let shown = find(&Roots::host(), &device.path).unwrap().mounts;
    lab::run("umount", &[&mountpoint.display().to_string()]).unwrap();
    assert_eq!(names, ["device.mounted"]);
    assert_eq!(shown, [mountpoint.display().to_string()]);
    on_device(&device.path)();
}

#[test]
fn a_partition_is_no_target_and_its_mount_holds_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let image = stale(dir.path(), 16 * MIB);
    // One partition from 1 MiB on, type Linux.
    let mut sector = [0; 512];
    sector[446..462].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0x60, 0, 0]);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    fs::OpenOptions::new().write(true).open(&image).unwrap().write_all_at(&sector, 0).unwrap();
    let Some(device) = Loop::attach(&image) else { return };
    lab::run("partx", &["-a", &device.path.display().to_string()]).unwrap();
    let partition = std::path::PathBuf::from(format!("{}p1", device.path.display()));
    assert_eq!(find(&Roots::host(), &partition).unwrap().kind, super::Kind::Partition(device.path.clone()));
    lab::run("mkfs.ext4", &["-q", "-F", &partition.display().to_string()]).unwrap();
    let mountpoint = dir.path().join("a mount");
    fs::create_dir(&mountpoint).unwrap();
    lab::run("mount", &[&partition.display().to_string(), &mountpoint.display().to_string()]).unwrap();
    let found = find(&Roots::host(), &device.path).unwrap();
    lab::run("umount", &[&mountpoint.display().to_string()]).unwrap();
    lab::run("partx", &["-d", &device.path.display().to_string()]).unwrap();
    assert_eq!((found.kind, found.mounts), (super::Kind::Disk, vec![mountpoint.display().to_string()]));
}

#[test]
fn sectors_of_4096_bytes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let Some(device) = Loop::attach_with(&stale(dir.path(), 16 * MIB), &["-b", "4096"]) else { return };
    let found = super::guards(&find(&Roots::host(), &device.path).unwrap(), &super::Want { allow_fixed: true, ..super::Want::default() });
    assert_eq!(found.iter().map(|guard| guard.name.as_str()).collect::<Vec<_>>(), ["device.sector_size"]);
}

#[test]
fn the_disk_that_this_host_runs_from_is_never_opened() {
    let system: Vec<_> = super::list(&Roots::host()).unwrap().into_iter().filter(|device| !device.system.is_empty()).collect();
    if system.is_empty() {
        return lab::missing("a system disk that shows in /sys/block");
    }
    for device in system {
        // Through guards alone: nothing here may open it.
        let found = super::guards(&device, &super::Want { allow_fixed: true, ..super::Want::default() });
        assert!(found.iter().any(|guard| guard.name == "device.system" && guard.waiver.is_none()), "{device:?}");
    }
}

#[test]
fn a_loop_device_is_listed_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let Some(device) = Loop::attach(&stale(dir.path(), 16 * MIB)) else { return };
    let listed = super::list(&Roots::host()).unwrap();
    let found = listed.iter().find(|one| one.path == device.path).unwrap();
    assert_eq!((found.transport, found.size, found.removable), ("loop", 16 * MIB, false));
    assert_eq!(found.model, device.backing.display().to_string());
    let medium = on_device(&device.path)().medium;
    assert_eq!(super::ioctl::diskseq(fs::File::open(&medium.path).unwrap().as_fd()), Some(found.diskseq));
}

#[test]
fn hostile_beginnings_end_the_writer_without_opening_anything() {
    use proptest::prelude::*;
    let opener: Opener<'_> = &|_| panic!("nothing may be opened");
    proptest!(ProptestConfig::with_cases(64), |(wire in prop::collection::vec(any::<u8>(), 0..300), control: bool)| {
        use io::Write;
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        if control {
            ours.write_all(&[b'C', wire.len() as u8, (wire.len() >> 8) as u8, 0, 0]).unwrap();
        }
        ours.write_all(&wire).unwrap();
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = serve_on(theirs, opener, &|_| {});
    });
}

type Abuse<'a> = &'a dyn Fn(&mut UnixStream);

/// A chunk that was not asked for, a wrong length, a second beginning, half a frame: the burn ends and the card has no table.
#[test]
fn hostile_frames_in_mid_burn_leave_no_table() {
    use super::protocol::{Begin, Frame, Reply, Request, VERSION, read_control, read_frame, write_control, write_data};
    use io::Write;
    let begin = Request::Begin(Begin {
        version: VERSION,
        device: "/dev/null".into(),
        diskseq: 0,
        allow_fixed: true,
        size: 16 * MIB,
        extents: vec![(0, 16 * MIB)],
    });
    let abuses: [(&str, Abuse<'_>); 6] = [
        ("not asked for", &|socket| write_data(socket, 6, &vec![0; 4096]).unwrap()),
        ("not on the list", &|socket| write_data(socket, 0, &[1; 100]).unwrap()),
        ("not on the list", &|socket| write_data(socket, 99, &[1; 100]).unwrap()),
        ("second begin", &|socket| write_control(socket, &begin).unwrap()),
        ("not known", &|socket| socket.write_all(b"GET / HTTP/1.0\r\n").unwrap()),
        ("went away", &|socket| {
            socket.write_all(&[b'D', 4, 0, 48, 0, 0, 0, 0, 0, 7]).unwrap();
            socket.shutdown(std::net::Shutdown::Write).unwrap();
        }),
    ];
    for (word, abuse) in abuses {
        let dir = tempfile::tempdir().unwrap();
        let path = stale(dir.path(), 16 * MIB);
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let open = on_file(&path, false);
        let writer = std::thread::spawn(move || serve_on(theirs, &|_| Ok(open()), &|_| {}));
        write_control(&mut ours, &begin).unwrap();
        let fault = loop {
            let Some(Frame::Control(len)) = read_frame(&mut ours).unwrap() else { panic!("no control frame") };
            match read_control::<Reply>(&mut ours, len).unwrap() {
                Reply::Send { .. } => abuse(&mut ours),
                Reply::Failed(fault) => break fault,
                Reply::Done(_) => panic!("a card was made of {word}"),
                _ => {}
            }
        };
        assert!(fault.message.contains(word), "{word}: {fault}");
        assert!(matches!(fault.kind, FaultKind::Protocol | FaultKind::Aborted));
        writer.join().unwrap().unwrap();
        assert_cleared(&fs::read(&path).unwrap());
    }
}
