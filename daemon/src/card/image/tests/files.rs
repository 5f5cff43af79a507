use super::*;

fn packed(content: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("image.img.xz", pack("xz", &["-0", "-T2", "--block-size=4MiB"], content)),
        ("image.img.zst", zstd::encode_all(content, 1).unwrap()),
        ("image.img.gz", pack("gzip", &["-1"], content)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_packing_gives_the_same_image() {
    let bench = bench();
    let image = plain_image();
    let mut published = packed(&image);
    published.push(("image.img", image.clone()));
    for (name, content) in published {
        let reference = ImageRef { content_sha256: Some(sha256(&image).to_uppercase()), ..bench.publish(name, &content) };
        let verified = fetch(&bench.store(), &reference).await.unwrap();
        assert!(bytes_of(&verified) == image, "{name}");
        assert_eq!(verified.sha256(), sha256(&content));
    }
    assert_eq!(bench.cached().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn concatenated_members_and_padding_are_one_image() {
    let bench = bench();
    let (first, second) = (noise(5_000_000, 1), noise(3_000_000, 2));
    let image = [first.clone(), second.clone()].concat();
    let (one, two) = (packed(&first), packed(&second));
    for ((name, head), (_, tail)) in one.into_iter().zip(two) {
        let padding: &[u8] = if name.contains(".xz") { &[0; 8] } else { &[] };
        let content = [&head, padding, &tail, padding].concat();
        let verified = fetch(&bench.store(), &bench.publish(name, &content)).await.unwrap();
        assert!(bytes_of(&verified) == image, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_and_extended_files_are_errors() {
    let bench = bench();
    let image = noise(5_000_000, 1);
    for (name, content) in packed(&image) {
        for cut in [content.len() - 1, content.len() - 6, content.len() / 2, 20] {
            let error = fetch(&bench.store(), &bench.publish(name, &content[..cut])).await.unwrap_err();
            assert!(matches!(error, ImageError::Unpack { .. }), "{name} cut to {cut}: {error}");
        }
        for garbage in [&b"x"[..], b"<html>not found</html>", &[0x1f, 0x8b, 0, 0]] {
            let error = fetch(&bench.store(), &bench.publish(name, &[&content, garbage].concat())).await.unwrap_err();
            assert!(matches!(error, ImageError::Unpack { .. }), "{name} with {garbage:?}: {error}");
        }
        if name.ends_with("zst") {
            continue; // zstd's checksum is optional and off by default in its library
        }
        let mut flipped = content.clone();
        flipped[content.len() / 2] ^= 0x40;
        assert!(fetch(&bench.store(), &bench.publish(name, &flipped)).await.is_err(), "{name}: a flipped bit");
    }
    assert_eq!(bench.cached(), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_file_than_the_inventory_says_is_refused_with_both_digests() {
    let bench = bench();
    let image = plain_image();
    let mut published = packed(&image);
    published.push(("image.img", image));
    for (name, content) in published {
        let wanted = "0123456789abcdef".repeat(4);
        let reference = ImageRef { sha256: wanted.clone(), ..bench.publish(name, &content) };
        let error = fetch(&bench.store(), &reference).await.unwrap_err().to_string();
        assert!(error.contains(&wanted) && error.contains(&sha256(&content)), "{error}");
    }
    assert_eq!(bench.cached(), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_content_digest_is_refused() {
    let bench = bench();
    let reference = ImageRef { content_sha256: Some("0".repeat(64)), ..bench.publish("image.img", &plain_image()) };
    assert!(matches!(fetch(&bench.store(), &reference).await, Err(ImageError::ContentDigest { .. })));
    assert_eq!(bench.cached(), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_stops_at_the_limit() {
    let bench = bench();
    let zeros = vec![0; 80 * MIB as usize];
    for (name, content) in packed(&zeros) {
        assert!(content.len() < 1 << 20);
        let error = fetch(&bench.store(), &bench.publish(name, &content)).await.unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { limit, .. } if limit == 64 * MIB), "{name}: {error}");
    }
    assert_eq!(bench.cached(), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_file_system_uses_is_stored_as_zeros() {
    let bench = bench();
    let image = card_image(bench.dir.path());
    let verified = fetch(&bench.store(), &bench.publish("card.img", &image)).await.unwrap();
    let stored = bytes_of(&verified);
    let layout = Layout::read(verified.data().as_ref()).unwrap();
    let used = extents::allocated(verified.data().as_ref(), &layout).unwrap();
    let mut at = 0;
    for extent in used.into_iter().chain([super::super::super::Extent { offset: image.len() as u64, len: 0 }]) {
        let (start, end) = (extent.offset as usize, (extent.offset + extent.len) as usize);
        assert!(stored[at..start].iter().all(|&byte| byte == 0), "free bytes from {at}");
        assert!(stored[start..end] == image[start..end], "used bytes from {start}");
        at = end;
    }
    let path = bench.dir.path().join("stored.img");
    std::fs::write(&path, &stored).unwrap();
    ok("e2fsck", &["-fn", &format!("{}?offset={}", arg(&path), 4 * MIB)]);
    let entry = std::fs::metadata(bench.path(&reference("", &image), "img")).unwrap().len();
    assert!(entry < 6 * MIB, "{entry} bytes for 3 MB of files");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_partition_table_is_refused() {
    let bench = bench();
    let mut image = card_image(bench.dir.path());
    image[446 + 12..446 + 16].copy_from_slice(&200_000u32.to_le_bytes());
    let error = fetch(&bench.store(), &bench.publish("card.img", &image)).await.unwrap_err().to_string();
    assert!(error.contains("partition 1") && error.contains("truncated"), "{error}");
    assert_eq!(bench.cached(), [] as [String; 0]);
}

#[tokio::test]
async fn wrong_references_say_what_is_allowed() {
    let bench = bench();
    let good = "ab".repeat(32);
    let cases = [
        ("http://example.org/x.img", good.as_str(), "use https:"),
        ("ftp://example.org/x.img", &good, "use file: or https:"),
        ("x.img", &good, "no URL"),
        ("https://user:hunter2@example.org/x.img", &good, "user name or password"),
        ("/x.img", "abc", "64 hexadecimal digits"),
        ("/x.img", &format!("../{}", &good[3..]), "64 hexadecimal digits"),
    ];
    for (url, sha256, reason) in cases {
        let image = ImageRef { url: url.to_owned(), sha256: sha256.to_owned(), content_sha256: None };
        let error = fetch(&bench.store(), &image).await.unwrap_err();
        assert!(matches!(error, ImageError::Reference { .. }) && error.to_string().contains(reason), "{url}: {error}");
    }
    let token = reference("https://127.0.0.1:1/x.img?token=hunter2", b"");
    let error = fetch(&bench.store(), &token).await.unwrap_err().to_string();
    assert!(!error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn sources_that_are_no_plain_file_are_refused() {
    let bench = bench();
    let pipe = bench.dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [pipe.as_path(), bench.dir.path(), Path::new("/nonexistent")] {
        let error = fetch(&bench.store(), &reference(arg(path), b"")).await.unwrap_err();
        assert!(matches!(error, ImageError::Source { .. }), "{error}");
    }
    for (name, content) in [("x.img.xz", &b"no xz"[..]), ("x.img", b"PK\x03\x04zip"), ("x.img", b"")] {
        let error = fetch(&bench.store(), &bench.publish(name, content)).await.unwrap_err();
        assert!(matches!(error, ImageError::Unpack { .. }), "{name}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_reaches_the_end_of_every_stage() {
    let bench = bench();
    let image = pack("xz", &["-0"], &plain_image());
    let seen = std::sync::Mutex::new(Vec::new());
    let reference = bench.publish("image.img.xz", &image);
    let record = |now: Progress| seen.lock().unwrap().push(now);
    bench.store().fetch(&reference, &record, &CancellationToken::new()).await.unwrap();
    let seen = seen.into_inner().unwrap();
    assert!(seen.iter().any(|now| now.stage == "unpack" || now.stage == "check"), "{seen:?}");
    assert!(seen.iter().all(|now| now.done <= now.total), "{seen:?}");
}
