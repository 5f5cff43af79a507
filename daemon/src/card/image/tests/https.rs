use super::server::{Reply, Request, certificates, full, reply, rest, serve};
use super::*;

const ETAG: &str = "\"v1\"";

/// A bench that trusts the test's own CA.
fn tls_bench() -> Bench {
    let mut bench = bench();
    certificates(bench.dir.path());
    bench.settings.ca_file = Some(bench.dir.path().join("ca.pem"));
    bench
}

/// A well-behaved server: ranges, and everything anew where `If-Range` does not match.
fn behaved(content: Vec<u8>) -> impl Fn(usize, &Request) -> Reply {
    move |_, request| match request {
        Request { from: Some(from), if_range } if if_range.as_deref().is_none_or(|tag| tag == ETAG) => rest(&content, *from, ETAG),
        _ => full(&content, ETAG),
    }
}

fn range(from: u64) -> Request {
    Request { from: Some(from), if_range: Some(ETAG.to_owned()) }
}

const WHOLE: Request = Request { from: None, if_range: None };

#[tokio::test(flavor = "multi_thread")]
async fn the_second_fetch_needs_no_network() {
    let bench = tls_bench();
    let image = plain_image();
    let content = zstd::encode_all(&image[..], 1).unwrap();
    let server = serve(bench.dir.path(), behaved(content.clone())).await;
    let reference = reference(&server.url, &content);
    assert!(!bench.store().is_cached(&reference));
    let verified = fetch(&bench.store(), &reference).await.unwrap();
    assert!(bytes_of(&verified) == image);
    assert_eq!(server.requests.lock().unwrap().as_slice(), [WHOLE]);
    drop(server);
    assert!(bench.store().is_cached(&reference));
    assert!(bytes_of(&fetch(&bench.store(), &reference).await.unwrap()) == image);
    assert_eq!(bench.cached(), [format!("{}.img", reference.sha256)], "the published file is not kept twice");
}

#[tokio::test]
async fn a_server_that_the_ca_did_not_sign_is_refused() {
    let mut bench = tls_bench();
    let server = serve(bench.dir.path(), behaved(plain_image())).await;
    let other = tempfile::tempdir().unwrap();
    certificates(other.path());
    bench.settings.ca_file = Some(other.path().join("ca.pem"));
    let image = reference(&server.url, &plain_image());
    let error = fetch(&bench.store(), &image).await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    bench.settings.ca_file = None;
    let error = fetch(&bench.store(), &image).await.unwrap_err().to_string();
    assert!(error.contains("ertificate"), "{error}");
    bench.settings.ca_file = Some("/nonexistent".into());
    let error = fetch(&bench.store(), &image).await.unwrap_err().to_string();
    assert!(error.contains("card.ca_file /nonexistent"), "{error}");
    assert_eq!(server.requests.lock().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_resumed_where_it_broke() {
    let bench = tls_bench();
    let image = plain_image();
    let content = image.clone();
    let server = serve(bench.dir.path(), move |number, request| match (number, request.from) {
        (0, _) => full(&content, ETAG).cut(5_000_000),
        (1, Some(from)) => rest(&content, from, ETAG).cut(3_000_000),
        (_, Some(from)) => rest(&content, from, ETAG),
        _ => full(&content, ETAG),
    })
    .await;
    let verified = fetch(&bench.store(), &reference(&server.url, &image)).await.unwrap();
    assert!(bytes_of(&verified) == image);
    assert_eq!(server.requests.lock().unwrap().as_slice(), [WHOLE, range(5_000_000), range(8_000_000)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_download_resumes_after_a_restart() {
    let bench = tls_bench();
    let image = plain_image();
    let content = image.clone();
    let server = serve(bench.dir.path(), move |_, request| match request.from {
        None => full(&content, ETAG).cut(6_000_000).stalling(),
        Some(from) => rest(&content, from, ETAG),
    })
    .await;
    let reference = reference(&server.url, &image);
    let part = bench.path(&reference, "part");
    let (store, wanted) = (bench.store().with_patience(Patience::default()), reference.clone());
    let running = tokio::spawn(async move { fetch(&store, &wanted).await.map(drop) });
    while std::fs::metadata(&part).map_or(0, |meta| meta.len()) < 6_000_000 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    // Another process would find the same: the part, and no lock held.
    let verified = fetch(&bench.store(), &reference).await.unwrap();
    assert!(bytes_of(&verified) == image);
    assert_eq!(server.requests.lock().unwrap().as_slice(), [WHOLE, range(6_000_000)]);
    assert_eq!(bench.cached(), [format!("{}.img", reference.sha256)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_meanwhile_is_fetched_anew() {
    let bench = tls_bench();
    let image = plain_image();
    for honours_if_range in [true, false] {
        let (old, new) = (noise(9_000_000, 9), image.clone());
        let server = serve(bench.dir.path(), move |number, request| match (number, request.from) {
            (0, _) => full(&old, ETAG).cut(2_000_000),
            (1, Some(from)) if !honours_if_range => rest(&new, from, "\"v2\""),
            _ => full(&new, "\"v2\""),
        })
        .await;
        let verified = fetch(&bench.store(), &reference(&server.url, &image)).await.unwrap();
        assert!(bytes_of(&verified) == image);
        assert_eq!(server.requests.lock().unwrap().len(), if honours_if_range { 2 } else { 3 });
        drop(verified);
        std::fs::remove_file(bench.path(&reference("", &image), "img")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_part_of_a_killed_daemon_is_used() {
    let bench = tls_bench();
    let image = plain_image();
    let len = image.len();
    let server = serve(bench.dir.path(), move |_, _| {
        reply(
            &format!(
                "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{len}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            ),
            b"",
        )
    })
    .await;
    let reference = reference(&server.url, &image);
    std::fs::create_dir_all(&bench.settings.cache_dir).unwrap();
    std::fs::write(bench.path(&reference, "part"), &image).unwrap();
    std::fs::write(bench.path(&reference, "part.json"), format!("{{\"url\":\"{}\",\"validator\":null}}", server.url)).unwrap();
    assert!(bytes_of(&fetch(&bench.store(), &reference).await.unwrap()) == image);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_stall_or_lie_or_fail_are_given_up() {
    let bench = tls_bench();
    let image = plain_image();
    let wanted = |server: &server::Server| reference(&server.url, &plain_image());

    let server = serve(bench.dir.path(), |_, _| Reply { bytes: Vec::new(), stall: true }).await;
    let error = fetch(&bench.store(), &wanted(&server)).await.unwrap_err().to_string();
    assert!(error.contains("3 attempts") && error.contains("timed out"), "silence: {error}");
    assert_eq!(server.requests.lock().unwrap().len(), 3);

    let content = image.clone();
    let server = serve(bench.dir.path(), move |_, request| match request.from {
        Some(from) => rest(&content, from, ETAG).cut(10).stalling(),
        None => full(&content, ETAG).cut(100).stalling(),
    })
    .await;
    let error = fetch(&bench.store(), &wanted(&server)).await.unwrap_err().to_string();
    assert!(error.contains("120 bytes are kept"), "a trickle: {error}");

    let content = image.clone();
    let server = serve(bench.dir.path(), move |_, request| match request.from {
        None => reply("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\nConnection: close\r\n\r\n", &content),
        Some(_) => {
            reply("HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nContent-Range: bytes 0-4/9\r\nConnection: close\r\n\r\n", b"lies!")
        }
    })
    .await;
    let error = fetch(&bench.store(), &wanted(&server)).await.unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { .. } | ImageError::Download { .. }), "a length too long: {error}");

    let content = image.clone();
    let server = serve(bench.dir.path(), move |_, _| {
        reply("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n", &content[..1000])
    })
    .await;
    let error = fetch(&bench.store(), &wanted(&server)).await.unwrap_err();
    assert!(matches!(error, ImageError::Digest { .. }), "a length too short: {error}");

    let endless = vec![7; 70 * MIB as usize];
    let server = serve(bench.dir.path(), move |_, _| reply("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", &endless)).await;
    let error = fetch(&bench.store(), &wanted(&server)).await.unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { .. }), "no length and no end: {error}");

    for (status, attempts) in [("404 Not Found", 1), ("403 Forbidden", 1), ("503 Busy", 3), ("429 Slow Down", 3)] {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let server = serve(bench.dir.path(), move |_, _| reply(&head, b"")).await;
        let error = fetch(&bench.store(), &wanted(&server)).await.unwrap_err().to_string();
        assert!(error.contains(&status[..3]), "{error}");
        assert_eq!(server.requests.lock().unwrap().len(), attempts, "{status}");
    }

    let redirect = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/x.img\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let server = serve(bench.dir.path(), move |_, _| reply(redirect, b"")).await;
    let error = fetch(&bench.store(), &wanted(&server)).await.unwrap_err();
    assert!(matches!(error, ImageError::Download { .. }), "a redirect to http: {error}");
    assert!(bench.cached().iter().all(|name| !name.contains(".img")), "{:?}", bench.cached());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_digest_is_not_kept() {
    let bench = tls_bench();
    let server = serve(bench.dir.path(), behaved(plain_image())).await;
    let image = ImageRef { sha256: "7".repeat(64), ..reference(&server.url, b"") };
    let error = fetch(&bench.store(), &image).await.unwrap_err().to_string();
    assert!(error.contains(&"7".repeat(64)) && error.contains(&sha256(&plain_image())), "{error}");
    assert_eq!(bench.cached(), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn fetches_of_one_image_share_one_download() {
    let bench = tls_bench();
    let image = plain_image();
    let server = serve(bench.dir.path(), behaved(image.clone())).await;
    let reference = reference(&server.url, &image);
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let (store, reference) = (bench.store(), reference.clone());
            tokio::spawn(async move { fetch(&store, &reference).await.map(|image| sha256(&bytes_of(&image))) })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), sha256(&image));
    }
    assert_eq!(server.requests.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_stops_a_download_at_once_and_keeps_the_part() {
    let bench = tls_bench();
    let image = plain_image();
    let content = image.clone();
    let server = serve(bench.dir.path(), move |_, _| full(&content, ETAG).cut(4_000_000).stalling()).await;
    let (reference, cancel) = (reference(&server.url, &image), CancellationToken::new());
    let stop = cancel.clone();
    let progress = move |now: Progress| {
        if now.done >= 4_000_000 {
            stop.cancel();
        }
    };
    let store = bench.store().with_patience(Patience::default());
    let outcome = store.fetch(&reference, &progress, &cancel).await;
    assert!(matches!(outcome, Err(ImageError::Cancelled)));
    assert_eq!(std::fs::metadata(bench.path(&reference, "part")).unwrap().len(), 4_000_000);
}
