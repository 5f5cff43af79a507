use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::super::super::testing::run;
use super::entry::{CHUNK, HEADER};
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn rot_in_the_cache_is_noticed_and_healed() {
    let bench = bench();
    let image = plain_image();
    let reference = bench.publish("image.img", &image);
    let path = bench.path(&reference, "img");
    let flip = |at: u64| {
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    };
    let len = {
        let verified = fetch(&bench.store(), &reference).await.unwrap();
        flip(HEADER + 100_000);
        let mut buf = vec![0; image.len()];
        let error = verified.data().read_exact_at(&mut buf, 0).unwrap_err().to_string();
        assert!(error.contains("damaged at byte") && error.contains("removed"), "{error}");
        assert!(!path.exists(), "given up");
        let verified = fetch(&bench.store(), &reference).await.unwrap();
        assert!(bytes_of(&verified) == image, "fetched anew");
        std::fs::metadata(&path).unwrap().len()
    };
    for at in [0, 9, 20, 50, 120, len - 1, len - 40] {
        flip(at);
        assert!(!bench.store().is_cached(&reference), "byte {at}");
        assert!(bytes_of(&fetch(&bench.store(), &reference).await.unwrap()) == image, "byte {at}");
    }
    std::fs::File::options().write(true).open(&path).unwrap().set_len(len / 2).unwrap();
    assert!(bytes_of(&fetch(&bench.store(), &reference).await.unwrap()) == image, "truncated");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_range_reads_as_the_image_does() {
    let bench = bench();
    let image = plain_image();
    let verified = fetch(&bench.store(), &bench.publish("image.img", &image)).await.unwrap();
    let size = image.len() as u64;
    let ranges = (0..size, prop_oneof![0usize..70_000, 3_900_000usize..9_000_000]);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(64));
    runner
        .run(&ranges, |(offset, len)| {
            let mut buf = vec![0xEE; len];
            let outcome = verified.data().read_exact_at(&mut buf, offset);
            if offset + len as u64 > size {
                prop_assert!(outcome.is_err());
            } else {
                prop_assert!(outcome.is_ok() && buf == image[offset as usize..][..len]);
            }
            Ok(())
        })
        .unwrap();
    assert!(verified.data().read_exact_at(&mut [0], u64::MAX).is_err());
    assert!(CHUNK < size, "more than one chunk");
}

/// A file system of its own and of that size; `None` where the machine cannot mount.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        if !run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "metis-test", arg(dir.path())]).status.success() {
            assert!(std::env::var("CI").is_err(), "CI must be able to mount a tmpfs");
            eprintln!("not run: a full cache disk (needs the right to mount a tmpfs)");
            return None;
        }
        Some(Self(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        run("umount", &[arg(self.0.path())]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_cleaned_up() {
    let Some(tmpfs) = Tmpfs::new("12M") else { return };
    let mut bench = bench();
    bench.settings.cache_dir = tmpfs.0.path().join("cache");
    let image = plain_image();
    for (name, content) in [("image.img", image.clone()), ("image.img.xz", pack("xz", &["-0"], &image))] {
        let error = fetch(&bench.store(), &bench.publish(name, &content)).await.unwrap_err();
        assert!(matches!(error, ImageError::NoSpace { .. }), "{error}");
        assert_eq!(bench.cached(), [] as [String; 0]);
    }
    let used = ok("du", &["-s", arg(tmpfs.0.path())]);
    let kib: u64 = used.split_whitespace().next().unwrap().parse().unwrap();
    assert!(kib < 100, "{kib} KiB are left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_fills_the_disk_is_removed() {
    let Some(tmpfs) = Tmpfs::new("12M") else { return };
    let mut bench = bench();
    server::certificates(bench.dir.path());
    bench.settings.ca_file = Some(bench.dir.path().join("ca.pem"));
    bench.settings.cache_dir = tmpfs.0.path().join("cache");
    let content = plain_image();
    for announced in [true, false] {
        let content = content.clone();
        let server = server::serve(bench.dir.path(), move |_, _| {
            if announced { server::full(&content, "x") } else { server::reply("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", &content) }
        })
        .await;
        let error = fetch(&bench.store(), &reference(&server.url, &plain_image())).await.unwrap_err();
        assert!(matches!(error, ImageError::NoSpace { .. }), "announced {announced}: {error}");
        assert_eq!(bench.cached(), [] as [String; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_unused_image_makes_room_and_never_one_in_use() {
    let Some(tmpfs) = Tmpfs::new("40M") else { return };
    let mut bench = bench();
    bench.settings.cache_dir = tmpfs.0.path().join("cache");
    bench.settings.free_space_floor = 14 * MIB;
    let images: Vec<ImageRef> = (0..4).map(|n| bench.publish(&format!("{n}.img"), &noise(7 * MIB as usize, 50 + n))).collect();
    let store = bench.store();
    let cached = |n: usize| store.is_cached(&images[n]);
    drop(fetch(&store, &images[0]).await.unwrap());
    drop(fetch(&store, &images[1]).await.unwrap());
    // File times have the grain of the kernel's tick.
    tokio::time::sleep(Duration::from_millis(30)).await;
    drop(fetch(&store, &images[0]).await.unwrap());
    std::fs::write(bench.settings.cache_dir.join(format!("{}.part", "e".repeat(64))), noise(1000, 1)).unwrap();
    let held = fetch(&store, &images[2]).await.unwrap();
    assert_eq!([cached(0), cached(1), cached(2)], [true, false, true], "1 was not used for longest");
    let (error, third) = (fetch(&store, &images[3]).await, bytes_of(&held));
    assert_eq!([cached(0), cached(2)], [false, true], "2 is in use");
    assert!(third == noise(7 * MIB as usize, 52));
    assert!(matches!(error, Err(ImageError::NoSpace { .. })) || cached(3));
}
