//! Pure: answers of real services, each with the one that looks like it and is not.

use std::collections::{BTreeMap, BTreeSet};

use crate::probe::judge::judge;
use crate::probe::port::{Answer, Page, Place, Silence};
use crate::probe::{NOBODYS_HOST, checks, judge_host, upgraded};
use crate::site::{Judged, Service, ServiceKind, Target};

pub fn service(kind: ServiceKind, url: &str) -> Service {
    Service {
        name: "it".to_owned(),
        kind,
        target: url.parse().unwrap(),
        resolve_to: BTreeSet::new(),
        ca_file: None,
        issuer: String::new(),
        accepted: BTreeSet::from([200]),
        json: BTreeMap::new(),
        json_contains: BTreeMap::new(),
        headers: BTreeMap::new(),
        contains: String::new(),
    }
}

fn page(code: u16, headers: &[(&str, &str)], body: &str) -> Page {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Page { code, headers, body: body.as_bytes().to_vec(), whole: true }
}

#[allow(clippy::unnecessary_wraps, reason = "an answer as the prober gives it")]
fn said(code: u16, headers: &[(&str, &str)], body: &str) -> Result<Answer, Silence> {
    Ok(Answer::Page(page(code, headers, body)))
}

/// Which of a kind's checks, what is answered, whether it is ready, and a word of why not.
type Case = (ServiceKind, usize, u16, &'static [(&'static str, &'static str)], &'static str, bool, &'static str);

const GITEA: &str = r#"{
  "status": "pass",
  "description": "Gitea: Git with a cup of tea",
  "checks": {
    "cache:ping": [{ "status": "pass", "time": "2026-11-21T20:00:00Z" }],
    "database:ping": [{ "status": "pass", "time": "2026-11-21T20:00:00Z" }]
  }
}"#;
const GITEA_INSTALLS: &str = r#"{
  "status": "pass",
  "description": "Gitea: Installation stage"
}"#;
const GITEA_FAILS: &str = r#"{"status":"fail","description":"Gitea: Git with a cup of tea","checks":{"database:ping":[{"status":"fail","time":"2026-11-21T20:00:00Z"}]}}"#;
const BEARER: &str = r#"Bearer realm="https://registry.lan/service/token",service="harbor-registry""#;
const ISSUER: &str =
    r#"{"issuer":"https://it.lan/realms/atlas","authorization_endpoint":"https://it.lan/realms/atlas/protocol/openid-connect/auth"}"#;
const HTML: &[(&str, &str)] = &[("content-type", "text/html")];

const CASES: &[Case] = &[
    (ServiceKind::Gitea, 0, 200, &[], GITEA, true, ""),
    (ServiceKind::Gitea, 0, 200, &[], GITEA_INSTALLS, false, "database:ping"),
    (ServiceKind::Gitea, 0, 424, &[], GITEA_FAILS, false, "answers 424"),
    (ServiceKind::Gitea, 0, 200, HTML, "<html>Gitea</html>", false, "no JSON"),
    (ServiceKind::Grafana, 0, 200, &[], r#"{"database":"ok","version":"12.1.0","commit":"x"}"#, true, ""),
    (ServiceKind::Grafana, 0, 503, &[], r#"{"database":"failing"}"#, false, "503"),
    (ServiceKind::Grafana, 0, 200, &[], r#"{"database":"failing"}"#, false, "failing"),
    (ServiceKind::Harbor, 0, 401, &[("www-authenticate", BEARER)], "{}", true, ""),
    (ServiceKind::Harbor, 0, 200, &[("docker-distribution-api-version", "registry/2.0")], "{}", true, ""),
    (ServiceKind::Harbor, 0, 200, HTML, "<html>Harbor</html>", false, "docker-distribution-api-version"),
    (ServiceKind::Harbor, 0, 401, &[("www-authenticate", "Basic realm=\"traefik\"")], "401 Unauthorized", false, "Basic realm"),
    (ServiceKind::Harbor, 0, 502, &[], "Bad Gateway", false, "502"),
    (ServiceKind::Harbor, 1, 200, &[], r#"{"status":"healthy","components":[{"name":"core","status":"healthy"}]}"#, true, ""),
    (
        ServiceKind::Harbor,
        1,
        200,
        &[],
        r#"{"status":"unhealthy","components":[{"name":"jobservice","status":"unhealthy"}]}"#,
        false,
        "unhealthy",
    ),
    (ServiceKind::Jellyfin, 0, 200, &[], "Healthy", true, ""),
    (ServiceKind::Jellyfin, 0, 200, &[], "Degraded", false, "Degraded"),
    (ServiceKind::Jellyfin, 1, 200, &[], r#"{"StartupWizardCompleted":true}"#, true, ""),
    (ServiceKind::Jellyfin, 1, 200, &[], r#"{"StartupWizardCompleted":false}"#, false, "\"false\""),
    (ServiceKind::Keycloak, 0, 200, &[], ISSUER, true, ""),
    (ServiceKind::Keycloak, 0, 200, &[], r#"{"issuer":"http://keycloak:8080/realms/atlas"}"#, false, "keycloak:8080"),
    (ServiceKind::Keycloak, 0, 404, &[], r#"{"error":"Realm does not exist"}"#, false, "404"),
    (ServiceKind::Longhorn, 0, 302, &[("location", "https://auth.lan/oauth2/start?rd=https%3A%2F%2Fit.lan")], "", true, ""),
    (ServiceKind::Longhorn, 0, 302, &[("location", "https://sso.lan/?client_id=longhorn")], "", true, ""),
    (ServiceKind::Longhorn, 0, 401, &[("www-authenticate", "Basic realm=\"traefik\"")], "", true, ""),
    (ServiceKind::Longhorn, 0, 302, &[("location", "https://it.lan/")], "", false, "no login"),
    (ServiceKind::Longhorn, 0, 401, &[], "", false, "www-authenticate"),
    (ServiceKind::Longhorn, 0, 200, HTML, "<html>Longhorn</html>", false, "200"),
    (ServiceKind::Vault, 0, 200, &[], r#"{"initialized":true,"sealed":false,"standby":true}"#, true, ""),
    (ServiceKind::Vault, 0, 503, &[], r#"{"initialized":true,"sealed":true,"standby":true}"#, false, "503"),
    (ServiceKind::Vault, 0, 501, &[], r#"{"initialized":false,"sealed":true}"#, false, "501"),
    (ServiceKind::Vault, 0, 200, &[], r#"{"initialized":true,"sealed":true}"#, false, "sealed"),
];

#[test]
fn a_kind_knows_its_own_from_what_looks_like_it() {
    for (kind, at, code, headers, body, ready, word) in CASES {
        let service = service(*kind, "https://it.lan/realms/atlas");
        let judged = judge(&checks(&service)[*at], &said(*code, headers, body));
        assert_eq!(matches!(judged, Judged::Ready(_)), *ready, "{kind:?} {code} {body}: {judged:?}");
        assert!(
            *ready || (matches!(judged, Judged::NotReady { .. }) && judged.text().contains(word)),
            "{kind:?} {code} {body}: {judged:?}"
        );
    }
    for (word, kind) in ServiceKind::ALL {
        let has_twin = CASES.iter().any(|case| case.0 == kind && !case.5);
        let plain = matches!(kind, ServiceKind::Http | ServiceKind::Postgres | ServiceKind::Tcp | ServiceKind::Tls);
        assert!(has_twin || plain, "{word} has no false green in the table");
    }
}

#[test]
fn an_answer_of_ones_own_is_asked_for_as_it_is_written() {
    let mut service = service(ServiceKind::Http, "https://it.lan/ping");
    service.accepted = BTreeSet::from([200, 204]);
    service.json.insert("/ok".to_owned(), "true".to_owned());
    service.json_contains.insert("/text".to_owned(), "ell".to_owned());
    service.headers.insert("server".to_owned(), "it".to_owned());
    service.contains = "hello".to_owned();
    let check = &checks(&service)[0];
    let good = (200, vec![("server", "with it")], r#"{"ok":true,"text":"hello"}"#);
    assert!(matches!(judge(check, &said(good.0, &good.1, good.2)), Judged::Ready(_)));
    for (code, headers, body, word) in [
        (500, good.1.clone(), good.2, "answers 500"),
        (200, vec![], good.2, "has no header server"),
        (200, vec![("server", "other")], good.2, "does not hold \"it\""),
        (200, good.1.clone(), r#"{"ok":false,"text":"hello"}"#, "/ok in its JSON \"false\", not \"true\""),
        (200, good.1.clone(), r#"{"ok":true,"text":"hullo"}"#, "/text in its JSON \"hullo\""),
        (200, good.1.clone(), r#"{"ok":true}"#, "has no /text in its JSON"),
        (204, good.1.clone(), "", "no JSON"),
        (200, good.1.clone(), r#"{"ok":true,"text":"ell"}"#, "does not hold \"hello\""),
    ] {
        let judged = judge(check, &said(code, &headers, body));
        assert!(matches!(&judged, Judged::NotReady { why, .. } if why.contains(word)), "{word}: {judged:?}");
    }
    let cut = Page { whole: false, ..page(200, &good.1, good.2) };
    assert!(judge(check, &Ok(Answer::Page(cut))).text().contains("too long"));
    let unknown = judge(check, &Err(Silence::CannotTell("no DNS".to_owned())));
    assert_eq!(unknown, Judged::CannotTell("no DNS".to_owned()));
    assert!(matches!(judge(check, &Err(Silence::NotThere("refused".to_owned()))), Judged::NotReady { .. }));
}

#[test]
fn each_address_is_asked() {
    let mut service = service(ServiceKind::Vault, "https://vault.lan:8200");
    service.resolve_to = ["10.0.0.1", "10.0.0.2"].iter().map(|ip| ip.parse().unwrap()).collect();
    let places: Vec<_> = checks(&service).into_iter().map(|check| (check.ask.target.to_string(), check.ask.place)).collect();
    let url = "https://vault.lan:8200/v1/sys/health?standbyok=true&perfstandbyok=true".to_owned();
    let at = |ip: &str| Place::At(vec![format!("{ip}:8200").parse().unwrap()]);
    assert_eq!(places, [(url.clone(), at("10.0.0.1")), (url, at("10.0.0.2"))]);
}

fn error(code: &str) -> Vec<u8> {
    let fields = format!("SFATAL\0C{code}\0Mthe database system is starting up\0\0");
    let length = u32::try_from(fields.len() + 4).unwrap();
    [b"E".as_slice(), &length.to_be_bytes(), fields.as_bytes()].concat()
}

#[test]
fn postgres_takes_connections_or_does_not() {
    let service = service(ServiceKind::Postgres, "postgres://db.lan");
    let check = &checks(&service)[0];
    let ready = |words: &[u8]| judge(check, &Ok(Answer::Open(words.to_vec())));
    // AuthenticationSASL; no entry in pg_hba.conf; a database that is not there.
    for good in [b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0".to_vec(), error("28000"), error("3D000")] {
        assert!(matches!(ready(&good), Judged::Ready(_)), "{good:?}");
    }
    for (bad, word) in [
        (error("57P03"), "57P03: the database system is starting up"),
        (error("53300"), "53300"),
        (error("1"), "not PostgreSQL's"),
        (Vec::new(), "without a word"),
        (b"HTTP/1.1 400 Bad Request".to_vec(), "does not speak"),
        (b"R\0\0".to_vec(), "does not speak"),
        (b"E\xff\xff\xff\xff".to_vec(), "does not speak"),
    ] {
        let judged = ready(&bad);
        assert!(matches!(&judged, Judged::NotReady { why, .. } if why.contains(word)), "{bad:?}: {judged:?}");
    }
}

fn accepted() -> BTreeSet<u16> {
    BTreeSet::from([200, 301, 302, 307, 308, 401, 403, 404])
}

const TRAEFIK: &[(&str, &str)] = &[("content-type", "text/plain; charset=utf-8"), ("x-content-type-options", "nosniff")];

#[test]
fn a_host_is_answered_for_by_its_backend_or_by_somebody_else() {
    let target: Target = "https://web.lan".parse().unwrap();
    let traefik = || said(404, TRAEFIK, "404 page not found\n");
    let judge = |answer: Result<Answer, Silence>, nobody: Option<Result<Answer, Silence>>| {
        judge_host(&target, &answer, nobody.as_ref(), &accepted())
    };
    for (good, nobody) in [
        (said(200, HTML, "<html>"), Some(traefik())),
        (said(404, HTML, "<html>no such page"), Some(traefik())),
        (said(404, &[], "404 page not found, says the backend"), Some(traefik())),
        (said(401, &[("www-authenticate", "Basic realm=\"x\"")], ""), Some(traefik())),
        (said(302, &[("location", "https://sso.lan/?rd=web.lan")], ""), Some(said(302, &[("location", "/")], ""))),
        (said(200, HTML, "<html>"), Some(Err(Silence::NotThere("TLS".to_owned())))),
        (said(200, HTML, "<html>"), None),
    ] {
        let judged = judge(good.clone(), nobody);
        assert!(matches!(judged, Judged::Ready(_)), "{good:?}: {judged:?}");
    }
    let mirror = |host: &str| said(200, HTML, &format!("<html>{host} is parked here"));
    let login = |host: &str| said(302, &[("location", &format!("https://sso.lan/?rd=https://{host}"))], "");
    for (bad, nobody, word) in [
        (traefik(), Some(traefik()), "nobody has a rule"),
        (traefik(), None, "Traefik's own 404"),
        (traefik(), Some(Err(Silence::NotThere("TLS".to_owned()))), "Traefik's own 404"),
        (mirror("web.lan"), Some(mirror(NOBODYS_HOST)), "not its backend"),
        (login("web.lan"), Some(login(NOBODYS_HOST)), "not its backend"),
        (said(503, TRAEFIK, "no available server\n"), Some(traefik()), "answers 503"),
        (said(502, &[], "Bad Gateway"), Some(traefik()), "answers 502"),
        (Err(Silence::NotThere("TRAEFIK DEFAULT CERT".to_owned())), Some(traefik()), "DEFAULT CERT"),
    ] {
        let judged = judge(bad.clone(), nobody);
        assert!(matches!(&judged, Judged::NotReady { why, .. } if why.contains(word)), "{bad:?}: {judged:?}");
    }
    assert!(matches!(judge(Err(Silence::CannotTell("no DNS".to_owned())), None), Judged::CannotTell(_)));
}

#[test]
fn only_the_same_place_over_tls_is_an_upgrade() {
    let target: Target = "http://web.lan/x".parse().unwrap();
    let to = |code: u16, location: &str| upgraded(&target, &page(code, &[("location", location)], "")).map(|to| to.to_string());
    assert_eq!(to(308, "https://web.lan/x").as_deref(), Some("https://web.lan/x"));
    assert_eq!(to(301, "https://web.lan:443/x").as_deref(), Some("https://web.lan/x"));
    for (code, location) in
        [(200, "https://web.lan/x"), (302, "https://sso.lan/x"), (302, "https://web.lan/login"), (302, "/x"), (302, "http://web.lan/x")]
    {
        assert_eq!(to(code, location), None, "{code} {location}");
    }
}

#[test]
fn what_a_server_says_is_bounded_and_on_one_line() {
    let service = service(ServiceKind::Grafana, "https://it.lan");
    let long = format!("<html>\n{}", "x".repeat(5000));
    let judged = judge(&checks(&service)[0], &said(500, &[], &long));
    assert!(judged.text().len() < 300 && !judged.text().contains('\n'), "{judged:?}");
}
