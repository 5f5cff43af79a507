//! `startup.services`, `startup.ingress` and `startup.critical_endpoints`: what has to serve before a start-up is done.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use crate::cluster::IngressSettings;
use crate::config::cursor::{Cursor, Parsed};
use crate::config::tree::Scalar;
use crate::config::values;
use crate::site::{Scheme, Service, ServiceKind, Target};

/// `startup.services`.
pub fn services(section: &Cursor<'_>) -> Vec<Service> {
    let services = section.slot("services").and_then(|slot| slot.sections(service)).unwrap_or_default();
    let mut seen = BTreeSet::new();
    for service in &services {
        if !seen.insert(&service.name) {
            section.error(format!("two of `services` are called `{}`; give each a name of its own", service.name));
        }
    }
    services
}

fn service(item: &Cursor<'_>) -> Option<Service> {
    let name = item.required("name", "for people, e.g. gitea", values::text);
    let target = item.required("url", "where it is, e.g. https://scm.example", target);
    let said = item.value("kind", values::one_of(&ServiceKind::ALL));
    let draft = Draft::of(item);
    let (name, target) = (name?, target?);
    // One that is not known was reported, and what it needs is not known either.
    if said.is_none() && item.has("kind") {
        return None;
    }
    let kind = said.unwrap_or(match target.scheme {
        Scheme::Http | Scheme::Https => ServiceKind::Http,
        Scheme::Tcp => ServiceKind::Tcp,
        Scheme::Tls => ServiceKind::Tls,
        Scheme::Postgres => ServiceKind::Postgres,
    });
    check(item, kind, &target, &draft);
    let Draft { resolve_to, ca_file, issuer, accepted, json, json_contains, headers, contains } = draft;
    Some(Service {
        name,
        kind,
        target,
        resolve_to,
        ca_file,
        issuer: issuer.unwrap_or_default(),
        accepted: accepted.unwrap_or_else(|| BTreeSet::from([200])),
        json,
        json_contains,
        headers,
        contains: contains.unwrap_or_default(),
    })
}

struct Draft {
    resolve_to: BTreeSet<IpAddr>,
    ca_file: Option<PathBuf>,
    issuer: Option<String>,
    accepted: Option<BTreeSet<u16>>,
    json: BTreeMap<String, String>,
    json_contains: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    contains: Option<String>,
}

impl Draft {
    /// All keys are read whatever the kind, so that each mistake is reported.
    fn of(item: &Cursor<'_>) -> Self {
        Self {
            resolve_to: set(item, "resolve_to", values::ip).unwrap_or_default(),
            ca_file: item.value("ca_file", values::path),
            issuer: item.value("issuer", values::text),
            accepted: set(item, "accepted", code),
            json: item.table("json", pointer, |slot, _| slot.scalar(as_written)),
            json_contains: item.table("json_contains", pointer, |slot, _| slot.scalar(as_written)),
            headers: item.table("headers", header, |slot, _| slot.scalar(as_written)),
            contains: item.value("contains", as_written),
        }
    }
}

/// What does not belong to its kind would do nothing.
fn check(item: &Cursor<'_>, kind: ServiceKind, target: &Target, draft: &Draft) {
    let speaks_http = matches!(target.scheme, Scheme::Http | Scheme::Https);
    let fits = match kind {
        ServiceKind::Postgres => target.scheme == Scheme::Postgres,
        ServiceKind::Tcp => target.scheme == Scheme::Tcp,
        ServiceKind::Tls => target.scheme == Scheme::Tls,
        _ => speaks_http,
    };
    if !fits {
        item.error("`url` is not of this `kind`: http:// or https:// for most, tcp://, tls:// or postgres:// for the kinds of that name");
    }
    let belongs = |key: &'static str, to: &[ServiceKind], words: &str| {
        if !to.contains(&kind) && item.has(key) {
            item.error(format!("`{key}` belongs to {words} alone; other kinds know themselves what is healthy"));
        }
    };
    for key in ["accepted", "json", "json_contains", "headers"] {
        belongs(key, &[ServiceKind::Http], "`kind: http`");
    }
    belongs("contains", &[ServiceKind::Http, ServiceKind::Tcp], "`kind: http` and `kind: tcp`");
    belongs("issuer", &[ServiceKind::Keycloak], "`kind: keycloak`");
    let bare = draft.contains.is_none() && draft.json.is_empty() && draft.json_contains.is_empty() && draft.headers.is_empty();
    if kind == ServiceKind::Http && bare && draft.accepted.is_none() {
        item.error("asks for nothing but 200, which an error page may be too; say `json`, `contains`, `headers` or `accepted`");
    }
    if !draft.resolve_to.is_empty() && target.ip().is_some() {
        item.error("`resolve_to` says where a name is, and `url` holds an address; write that one alone");
    }
    if kind == ServiceKind::Keycloak && !target.path.contains("/realms/") {
        item.error("`url` of a Keycloak is that of a realm, e.g. https://sso.example/realms/atlas");
    }
}

/// `startup.ingress`.
pub fn ingress(section: &Cursor<'_>) -> IngressSettings {
    let defaults = IngressSettings::default();
    IngressSettings {
        check: section.value("check", values::boolean).unwrap_or(defaults.check),
        ignore: set(section, "ignore", host).unwrap_or_default(),
        accepted: set(section, "accepted", code).unwrap_or(defaults.accepted),
        address: section.value("address", values::ip),
        http_port: section.value("http_port", values::port).unwrap_or(defaults.http_port),
        https_port: section.value("https_port", values::port).unwrap_or(defaults.https_port),
        ca_file: section.value("ca_file", values::path),
        verify: section.value("verify", values::boolean).unwrap_or(defaults.verify),
    }
}

fn set<T: Ord + Clone>(section: &Cursor<'_>, key: &'static str, parse: impl Fn(&Scalar) -> Parsed<T>) -> Option<BTreeSet<T>> {
    let mentions = section.slot(key)?.set(parse)?;
    Some(mentions.into_iter().map(|mention| mention.name).collect())
}

fn target(scalar: &Scalar) -> Parsed<Target> {
    scalar.text.parse().map_err(|why| {
        // What stands before `@` may be a password.
        let text = if scalar.text.contains('@') { "it".to_owned() } else { values::shown(&scalar.text) };
        format!("{text} {why}; write https://host[:port][/path], tcp://host:port, tls://host:port or postgres://host[:port]")
    })
}

fn code(scalar: &Scalar) -> Parsed<u16> {
    values::integer(100..=599)(scalar).map(|code| code as u16)
}

/// Text, number or boolean: it is compared as text.
fn as_written(scalar: &Scalar) -> Parsed<String> {
    if scalar.text.is_empty() { Err("is empty; give it a value or remove the key".to_owned()) } else { Ok(scalar.text.clone()) }
}

/// JSON pointer (RFC 6901).
fn pointer(key: &str) -> Parsed<String> {
    if key.starts_with('/') { Ok(key.to_owned()) } else { Err(format!("{} is no JSON pointer; write e.g. /status", values::shown(key))) }
}

fn header(key: &str) -> Parsed<String> {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if plain { Ok(key.to_ascii_lowercase()) } else { Err(format!("{} is no header; write e.g. www-authenticate", values::shown(key))) }
}

/// A host as an Ingress names it, `*.apps.example` included.
fn host(scalar: &Scalar) -> Parsed<String> {
    let text = scalar.text.to_ascii_lowercase();
    if values::is_dns_name(text.strip_prefix("*.").unwrap_or(&text)) {
        return Ok(text);
    }
    Err(format!("{} is not a host of an Ingress; write one such as scm.example or *.apps.example", values::shown(&scalar.text)))
}
