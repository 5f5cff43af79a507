//! The real prober against real servers.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::answers::service;
use super::server::{certificates, http, https, reply, tcp};
use crate::probe::port::{Answer, Ask, Page, Place, Prober as _, Silence, Trust, Verify};
use crate::probe::{NOBODYS_HOST, RealProber, checks, judge, judge_host};
use crate::site::{Judged, Service, ServiceKind};

const WITHIN: Duration = Duration::from_secs(20);
const GITEA: &str = r#"{"status":"pass","checks":{"database:ping":[{"status":"pass"}]}}"#;
const TRAEFIK: &str = "Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n";

fn site(host: &str, path: &str) -> String {
    match (host, path) {
        ("scm.lan", "/api/healthz") => reply("200 OK", "Content-Type: application/json\r\n", GITEA),
        ("web.lan", "/") => reply("200 OK", "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n", "<html>"),
        ("web.lan", "/moved") => reply("302 Found", "Location: https://web.lan/\r\n", ""),
        ("web.lan", "/hangs") => String::new(),
        ("web.lan", "/long") => reply("200 OK", "", &"x".repeat(1 << 20)),
        ("web.lan", "/endless") => "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort".to_owned(),
        _ => reply("404 Not Found", TRAEFIK, "404 page not found\n"),
    }
}

fn ask(url: &str, at: std::net::SocketAddr, trust: &Trust) -> Ask {
    Ask { target: url.parse().unwrap(), place: Place::At(vec![at]), trust: trust.clone(), listen: false }
}

async fn page(ask: &Ask) -> Page {
    match RealProber::default().ask(ask, WITHIN).await {
        Ok(Answer::Page(page)) => page,
        other => panic!("{}: {other:?}", ask.target),
    }
}

async fn silence(ask: &Ask) -> String {
    match RealProber::default().ask(ask, WITHIN).await {
        Err(Silence::NotThere(why)) => why,
        other => panic!("{}: {other:?}", ask.target),
    }
}

#[tokio::test]
async fn a_host_is_asked_at_an_address_under_its_own_name() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let server = https(dir.path(), site).await;
    let own = Trust { ca_file: Some(dir.path().join("ca.pem")), verify: Verify::Full };
    let web = page(&ask("https://web.lan", server.at, &own)).await;
    assert_eq!((web.code, web.headers["set-cookie"].as_str(), web.whole), (200, "a=1, b=2", true));
    let moved = page(&ask("https://web.lan/moved", server.at, &own)).await;
    assert_eq!((moved.code, moved.headers["location"].as_str()), (302, "https://web.lan/"));
    let long = page(&ask("https://web.lan/long", server.at, &own)).await;
    assert_eq!((long.code, long.whole, long.body.len()), (200, false, 256 << 10));
    // As it is configured: the name, an address, and the port of the URL.
    let port = server.at.port();
    let git = Service {
        resolve_to: std::iter::once(server.at.ip()).collect(),
        ca_file: own.ca_file.clone(),
        ..service(ServiceKind::Gitea, &format!("https://scm.lan:{port}"))
    };
    let check = checks(&git).remove(0);
    let answer = RealProber::default().ask(&check.ask, WITHIN).await;
    assert!(matches!(judge(&check, &answer), Judged::Ready(_)), "{answer:?}");
}

#[tokio::test]
async fn a_certificate_that_is_not_its_own_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let server = https(dir.path(), site).await;
    let trust = |verify: Verify| Trust { ca_file: Some(dir.path().join("ca.pem")), verify };
    let (full, name, nothing) = (trust(Verify::Full), trust(Verify::Name), trust(Verify::Nothing));
    // unknown.lan gets Traefik's made-up certificate, in the name of unknown.lan even.
    for trust in [&full, &name] {
        let why = silence(&ask("https://unknown.lan", server.at, trust)).await;
        assert!(why.contains("TRAEFIK DEFAULT CERT"), "{why}");
        let why = silence(&ask("https://other.lan", server.at, trust)).await;
        assert!(why.contains("not valid for name"), "{why}");
    }
    let hosts = Trust::default();
    let why = silence(&ask("https://web.lan", server.at, &hosts)).await;
    assert!(why.contains("UnknownIssuer"), "{why}");
    assert_eq!(page(&ask("https://web.lan", server.at, &name)).await.code, 200, "who signed it is not looked at");
    assert_eq!(page(&ask("https://unknown.lan", server.at, &nothing)).await.code, 404);
    let tls = |url: &str, trust: &Trust| ask(url, server.at, trust);
    let shaken = RealProber::default().ask(&tls("tls://web.lan:443", &full), WITHIN).await;
    assert_eq!(shaken, Ok(Answer::Open(Vec::new())));
    assert!(silence(&tls("tls://other.lan:443", &full)).await.contains("not valid for name"));
    let gone = Trust { ca_file: Some(dir.path().join("none.pem")), verify: Verify::Full };
    let unread = RealProber::default().ask(&ask("https://web.lan", server.at, &gone), WITHIN).await;
    assert!(matches!(&unread, Err(Silence::CannotTell(why)) if why.contains("none.pem")), "{unread:?}");
}

#[tokio::test]
async fn the_ingress_knows_a_host_or_answers_as_for_nobody() {
    let server = http(site).await;
    let trust = Trust::default();
    let prober = RealProber::default();
    let accepted = [200, 404].into_iter().collect();
    let nobody = prober.ask(&ask(&format!("http://{NOBODYS_HOST}"), server.at, &trust), WITHIN).await;
    let mut judged = Vec::new();
    for host in ["web.lan", "gone.lan"] {
        let question = ask(&format!("http://{host}"), server.at, &trust);
        judged.push(judge_host(&question.target, &prober.ask(&question, WITHIN).await, Some(&nobody), &accepted));
    }
    assert_eq!(judged[0], Judged::Ready("http://web.lan answers 200".to_owned()));
    assert!(matches!(&judged[1], Judged::NotReady { why, .. } if why.contains("nobody has a rule")), "{judged:?}");
}

#[tokio::test]
async fn everything_ends_in_time() {
    let server = http(site).await;
    let prober = RealProber::default();
    for path in ["hangs", "endless"] {
        let begun = Instant::now();
        let ask = ask(&format!("http://web.lan/{path}"), server.at, &Trust::default());
        let answer = prober.ask(&ask, Duration::from_millis(700)).await;
        assert!(matches!(answer, Err(Silence::NotThere(_))), "{path}: {answer:?}");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    let silent = tcp(|stream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    })
    .await;
    for url in ["postgres://db.lan", "tls://db.lan:1", "https://db.lan"] {
        let trust = Trust { verify: Verify::Nothing, ..Trust::default() };
        let answer = prober.ask(&ask(url, silent.at, &trust), Duration::from_millis(500)).await;
        assert!(matches!(&answer, Err(Silence::NotThere(why)) if why.contains("500 ms")), "{url}: {answer:?}");
    }
}

#[tokio::test]
async fn an_open_port_proves_nothing() {
    let prober = RealProber::default();
    let trust = Trust::default();
    // A load balancer with nobody behind it.
    let closes = tcp(|stream| async move { drop(stream) }).await;
    let question = |at, listen| Ask { listen, ..ask("tcp://h.lan:22", at, &trust) };
    for listen in [false, true] {
        let answer = prober.ask(&question(closes.at, listen), WITHIN).await;
        assert!(matches!(answer, Err(Silence::NotThere(_))), "{answer:?}");
    }
    let waits = tcp(|mut stream| async move { drop(stream.read_u8().await) }).await;
    assert_eq!(prober.ask(&question(waits.at, false), WITHIN).await, Ok(Answer::Open(Vec::new())));
    let speaks = tcp(|mut stream| async move {
        let _ = stream.write_all(b"SSH-2.0-").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let _ = stream.write_all(b"OpenSSH_10.0\r\n").await;
        drop(stream.read_u8().await);
    })
    .await;
    let ssh = Service { contains: "SSH-2.0-OpenSSH".to_owned(), ..service(ServiceKind::Tcp, "tcp://h.lan:22") };
    let mut check = checks(&ssh).remove(0);
    check.ask.place = Place::At(vec![speaks.at]);
    let answer = prober.ask(&check.ask, WITHIN).await;
    assert!(matches!(judge(&check, &answer), Judged::Ready(_)), "{answer:?}");
    let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(silence(&question(refused, false)).await.contains("refused"));
    // Nobody can look this up, and that is no word about what it is the name of.
    let unknown = Ask { place: Place::OfTarget, ..ask("tcp://metis-asks.invalid:1", refused, &trust) };
    let answer = prober.ask(&unknown, WITHIN).await;
    assert!(matches!(answer, Err(Silence::CannotTell(_))), "{answer:?}");
}

#[tokio::test]
async fn postgres_is_asked_in_its_own_words() {
    let prober = RealProber::default();
    let server = tcp(|mut stream| async move {
        let length = stream.read_u32().await.unwrap();
        let mut message = vec![0; length as usize - 4];
        stream.read_exact(&mut message).await.unwrap();
        assert_eq!(message, b"\x00\x03\x00\x00user\0metis\0database\0postgres\0\0");
        // In two pieces, as a recovering server says it.
        let error = b"E\x00\x00\x00\x3eSFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0";
        let _ = stream.write_all(&error[..9]).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let _ = stream.write_all(&error[9..]).await;
    })
    .await;
    let check = checks(&service(ServiceKind::Postgres, "postgres://db.lan")).remove(0);
    let question = Ask { place: Place::At(vec![server.at]), ..check.ask.clone() };
    let answer = prober.ask(&question, WITHIN).await;
    let judged = judge(&check, &answer);
    assert!(matches!(&judged, Judged::NotReady { why, .. } if why.contains("starting up")), "{judged:?} {answer:?}");
}
