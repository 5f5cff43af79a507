use std::time::Instant;

use super::super::testing::{arg, ok, with_kernel};
use super::super::{FileImage, FsKind, Layout, ReadAt as _};
use super::*;

/// The unpacked image in a file of its own.
fn unpacked(shape: Shape, dir: &Path) -> (ImageRef, PathBuf) {
    let image = golden(shape, &dir.join("golden.img.zst")).unwrap();
    let path = dir.join("golden.img");
    ok("zstd", &["-q", "-d", "-f", arg(&dir.join("golden.img.zst")), "-o", arg(&path)]);
    (image, path)
}

/// One partition as a file, for the tools that cannot take an offset.
fn partition(image: &Path, number: u32, dir: &Path) -> PathBuf {
    let file = FileImage::open(image).unwrap();
    let layout = Layout::read(&file).unwrap();
    let part = layout.partitions.iter().find(|part| part.number == number).unwrap();
    let mut content = vec![0; part.len as usize];
    file.read_exact_at(&mut content, part.offset).unwrap();
    let path = dir.join(format!("part{number}.img"));
    std::fs::write(&path, content).unwrap();
    path
}

#[test]
fn the_raspberry_pi_image_is_clean_and_has_what_injection_edits() {
    let dir = tempfile::tempdir().unwrap();
    let (_, image) = unpacked(Shape::RaspberryPi, dir.path());
    ok("sfdisk", &["--verify", arg(&image)]);
    let layout = Layout::read(&FileImage::open(&image).unwrap()).unwrap();
    assert_eq!(layout.boot().unwrap().fs.label.as_deref(), Some("system-boot"));
    assert_eq!(layout.root().unwrap().fs.label.as_deref(), Some("writable"));
    let (boot, root) = (partition(&image, 1, dir.path()), partition(&image, 2, dir.path()));
    ok("fsck.vfat", &["-n", arg(&boot)]);
    ok("e2fsck", &["-fn", arg(&root)]);
    assert!(ok("mtype", &["-i", arg(&boot), "::cmdline.txt"]).contains("root=LABEL=writable"));
    assert!(ok("mdir", &["-i", arg(&boot), "-b", "::/"]).contains("overlays"));
    let stat = ok("debugfs", &["-R", "stat /etc/shadow", arg(&root)]);
    assert!(stat.contains("Mode:  0640") && stat.contains("Group:    42"), "{stat}");
    assert!(ok("debugfs", &["-R", "cat /etc/ssh/sshd_config", arg(&root)]).contains("Include /etc/ssh/sshd_config.d/*.conf"));
    assert!(ok("debugfs", &["-R", "stat /bin", arg(&root)]).contains("usr/bin"));
}

#[test]
fn the_armbian_image_has_its_boot_loader_before_the_one_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let (_, image) = unpacked(Shape::Armbian, dir.path());
    let file = FileImage::open(&image).unwrap();
    let layout = Layout::read(&file).unwrap();
    assert_eq!((layout.boot(), layout.root().unwrap().offset), (None, 16 * MIB));
    assert_eq!(layout.root().unwrap().fs.kind, FsKind::Ext4);
    ok("e2fsck", &["-fn", arg(&partition(&image, 1, dir.path()))]);
    let mut loader = vec![0; 200_000];
    file.read_exact_at(&mut loader, 64 * 512).unwrap();
    assert!(loader == files::noise(200_000, 1));
    let extents = super::super::image::extents::allocated(&file, &layout).unwrap();
    assert!(extents[0].offset == 0 && extents[0].len >= 16 * MIB, "the boot loader is copied");
}

#[test]
fn the_kernel_mounts_them() {
    let dir = tempfile::tempdir().unwrap();
    for (shape, number, board) in [(Shape::RaspberryPi, 2, "ubuntu"), (Shape::Armbian, 1, "rockpi-4b")] {
        let (_, image) = unpacked(shape, dir.path());
        let root = partition(&image, number, dir.path());
        let script = "cat etc/hostname; stat -c %a:%g etc/shadow tmp root; readlink bin; wc -c <usr/local/bin/k3s; touch new; sync";
        let Some(seen) = with_kernel(&root, script) else { return };
        assert_eq!(seen, format!("{board}\n640:42\n1777:0\n700:0\nusr/bin\n{}\n", 3 << 20));
        ok("e2fsck", &["-fn", arg(&root)]);
    }
}

#[test]
fn every_build_gives_the_same_bytes_and_says_their_digests() {
    let dir = tempfile::tempdir().unwrap();
    for shape in [Shape::RaspberryPi, Shape::Armbian] {
        let begun = Instant::now();
        let (first, image) = unpacked(shape, dir.path());
        eprintln!("{shape:?}: {:?}, {} bytes packed", begun.elapsed(), std::fs::metadata(dir.path().join("golden.img.zst")).unwrap().len());
        assert!(ok("sha256sum", &[arg(&dir.path().join("golden.img.zst"))]).starts_with(&first.sha256));
        assert!(ok("sha256sum", &[arg(&image)]).starts_with(first.content_sha256.as_deref().unwrap()));
        let (second, _) = unpacked(shape, dir.path());
        assert_eq!(first, second);
        assert_eq!(first.url, format!("file://{}", dir.path().join("golden.img.zst").display()));
    }
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let error = golden(Shape::Armbian, Path::new("/nonexistent/golden.img.zst")).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/golden.img.zst"), "{error}");
}
