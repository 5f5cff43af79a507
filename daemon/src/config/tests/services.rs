//! `startup.services`, `startup.ingress` and what belongs to them.

use std::collections::BTreeSet;

use super::*;
use crate::cluster::Clocks;
use crate::site::ServiceKind;

const GOOD: &str = "
startup:
  clocks: quorum
  packages: []
  checklist_timeout: 5m
  critical_endpoints: [vault/vault]
  ingress: { ignore: [old.lan, '*.dev.lan'], accepted: [200, 404], address: 192.168.22.9, https_port: 8443, verify: false }
  services:
    - { name: git, kind: gitea, url: 'https://scm.lan', resolve_to: [192.168.22.9, 'fd00::9'], ca_file: /etc/metis/ca.pem }
    - { name: sso, kind: keycloak, url: 'https://sso.lan/realms/atlas/' }
    - { name: db, url: 'postgres://db.lan' }
    - { name: ssh, url: 'tcp://scm.lan:2242', contains: SSH-2.0 }
    - { name: web, url: 'https://web.lan/ping', json: { /ok: true, /n: 3 }, headers: { Server: it } }
";

#[test]
fn what_is_written_is_what_is_asked() {
    let settings = from_strs(GOOD, "").unwrap_or_else(|all| panic!("{}", check_report(&Err(all))));
    let startup = &settings.cluster.startup;
    let kinds: Vec<_> = startup.services.iter().map(|service| (service.name.as_str(), service.kind)).collect();
    let expected = [
        ("git", ServiceKind::Gitea),
        ("sso", ServiceKind::Keycloak),
        ("db", ServiceKind::Postgres),
        ("ssh", ServiceKind::Tcp),
        ("web", ServiceKind::Http),
    ];
    assert_eq!(kinds, expected);
    assert_eq!((startup.services[0].resolve_to.len(), startup.services[0].target.port()), (2, 443));
    assert_eq!(startup.services[1].target.to_string(), "https://sso.lan/realms/atlas");
    let web = &startup.services[4];
    assert_eq!((web.json["/ok"].as_str(), web.json["/n"].as_str(), web.headers["server"].as_str()), ("true", "3", "it"));
    assert_eq!(web.accepted, BTreeSet::from([200]));
    let ingress = &startup.ingress;
    assert_eq!((ingress.https_port, ingress.http_port, ingress.verify, ingress.check), (8443, 80, false, true));
    assert!(ingress.ignore.contains("*.dev.lan") && ingress.accepted == BTreeSet::from([200, 404]));
    assert_eq!((startup.clocks, startup.packages.len(), startup.endpoints.len()), (Clocks::Quorum, 0, 1));
    assert_eq!(from_strs("startup: { clocks: false }", "").unwrap().cluster.startup.clocks, Clocks::Off);
    assert_eq!(from_strs("startup: { clocks: true }", "").unwrap().cluster.startup.clocks, Clocks::Strict);
}

#[test]
fn what_would_ask_for_nothing_or_for_something_else_is_refused() {
    for (service, word) in [
        ("name: a", "`url` is missing"),
        ("name: a, url: 'scm.lan'", "has no scheme"),
        ("name: a, url: 'https://u:secret@scm.lan'", "it holds a user name or password"),
        ("name: a, url: 'https://scm.lan'", "asks for nothing but 200"),
        ("name: a, kind: gitea, url: 'postgres://scm.lan'", "not of this `kind`"),
        ("name: a, kind: gitea, url: 'https://scm.lan', json: { /a: b }", "`json` belongs to `kind: http` alone"),
        ("name: a, kind: gitea, url: 'https://scm.lan', issuer: x", "`issuer` belongs to"),
        ("name: a, kind: keycloak, url: 'https://sso.lan'", "that of a realm"),
        ("name: a, kind: git, url: 'https://scm.lan'", "`git` is not allowed (allowed: http, gitea"),
        ("name: a, url: 'https://10.0.0.1', contains: x, resolve_to: [10.0.0.2]", "holds an address"),
        ("name: a, url: 'https://scm.lan', json: { status: pass }", "no JSON pointer"),
        ("name: a, url: 'https://scm.lan', accepted: [99]", "whole number from 100 to 599"),
        ("name: a, url: 'https://scm.lan', acepted: [200]", "unknown key"),
    ] {
        let mistakes = mistakes_of(&format!("startup: {{ services: [{{ {service} }}] }}"), "");
        assert!(mistakes.contains(word) && !mistakes.contains("secret@"), "{service}: {mistakes}");
    }
    let twice = "startup: { services: [{ name: a, kind: gitea, url: 'https://a.lan' }, { name: a, kind: gitea, url: 'https://b.lan' }] }";
    assert!(mistakes_of(twice, "").contains("are called `a`"));
    for (section, word) in [
        ("ingress: { ignore: ['a b'] }", "not a host of an Ingress"),
        ("ingress: { accepted: [ok] }", "whole number"),
        ("critical_endpoints: [vault]", "namespace/name"),
        ("packages: [Open_iSCSI]", "no name of a Debian package"),
        ("clocks: maybe", "strict, quorum, false, true"),
    ] {
        let mistakes = mistakes_of(&format!("startup: {{ {section} }}"), "");
        assert!(mistakes.contains(word), "{section}: {mistakes}");
    }
}
