//! What is asked whether it serves, and where.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;

/// One entry of `startup.services`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Service {
    /// For people.
    pub name: String,
    /// What it is: what counts as healthy follows from that.
    pub kind: ServiceKind,
    /// Where it is.
    pub target: Target,
    /// It is asked at each of these addresses, whatever DNS says; empty: where DNS says.
    pub resolve_to: BTreeSet<IpAddr>,
    /// PEM of the CAs that may have signed its certificate; absent: this host's.
    pub ca_file: Option<PathBuf>,
    /// Of [`ServiceKind::Keycloak`]: the issuer that it must name; empty: the URL itself.
    pub issuer: String,
    /// Of [`ServiceKind::Http`]: codes that are accepted.
    pub accepted: BTreeSet<u16>,
    /// Of [`ServiceKind::Http`]: the value at a JSON pointer (RFC 6901) of the body, as text, is this.
    pub json: BTreeMap<String, String>,
    /// Of [`ServiceKind::Http`]: the text at a JSON pointer holds this.
    pub json_contains: BTreeMap<String, String>,
    /// Of [`ServiceKind::Http`]: the header of that name holds this.
    pub headers: BTreeMap<String, String>,
    /// Of [`ServiceKind::Http`] the body, of [`ServiceKind::Tcp`] its first words, hold this; empty: not asked for.
    pub contains: String,
}

/// What a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceKind {
    /// What its settings say.
    Http,
    /// `/api/healthz` with its checks: its installer says `pass` without any.
    Gitea,
    /// `/api/health`.
    Grafana,
    /// `/v2/` asks for a token, and `/api/v2.0/health` says healthy.
    Harbor,
    /// `/health`, and its set-up is finished.
    Jellyfin,
    /// The OpenID configuration of a realm names its issuer.
    Keycloak,
    /// It leads whoever is not logged in to a login.
    Longhorn,
    /// Initialised and unsealed.
    Vault,
    /// It takes connections (the first answer to a start-up message, as pg_isready(1)).
    Postgres,
    /// It accepts a connection, and says what is expected.
    Tcp,
    /// It shows a certificate of its name.
    Tls,
}

impl ServiceKind {
    /// All kinds with the words that the files use.
    pub const ALL: [(&'static str, Self); 11] = [
        ("http", Self::Http),
        ("gitea", Self::Gitea),
        ("grafana", Self::Grafana),
        ("harbor", Self::Harbor),
        ("jellyfin", Self::Jellyfin),
        ("keycloak", Self::Keycloak),
        ("longhorn", Self::Longhorn),
        ("vault", Self::Vault),
        ("postgres", Self::Postgres),
        ("tcp", Self::Tcp),
        ("tls", Self::Tls),
    ];
}

/// How it is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// HTTP.
    Http,
    /// HTTP over TLS.
    Https,
    /// A plain connection.
    Tcp,
    /// A TLS handshake.
    Tls,
    /// PostgreSQL's protocol.
    Postgres,
}

impl Scheme {
    const ALL: [(&'static str, Self, Option<u16>); 5] = [
        ("http", Self::Http, Some(80)),
        ("https", Self::Https, Some(443)),
        ("tcp", Self::Tcp, None),
        ("tls", Self::Tls, None),
        ("postgres", Self::Postgres, Some(5432)),
    ];

    fn row(self) -> (&'static str, Self, Option<u16>) {
        let at = Self::ALL.iter().position(|(_, scheme, _)| *scheme == self);
        Self::ALL[at.unwrap_or(0)]
    }
}

/// A place: `scheme://host[:port][/path]`, without user and password.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Name or address (IPv6 without brackets), in lower case.
    pub host: String,
    /// As written.
    pub port: Option<u16>,
    /// Begins with `/` where it is not empty, and does not end with one; may have a query.
    pub path: String,
}

impl Target {
    /// The port that is connected to.
    pub fn port(&self) -> u16 {
        self.port.or(self.scheme.row().2).unwrap_or(0)
    }

    /// The host where it is an address.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Another path at the same place, below its own: `path` begins with `/`.
    pub fn below(&self, path: &str) -> Self {
        Self { path: format!("{}{path}", self.path), ..self.clone() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        write!(f, "{}://{host}", self.scheme.row().0)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&self.path)
    }
}

impl Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Target {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once("://").ok_or("has no scheme")?;
        let known = Scheme::ALL.iter().find(|(word, ..)| scheme.eq_ignore_ascii_case(word));
        let (_, scheme, port_of_scheme) = *known.ok_or("is of a kind that is not supported")?;
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("holds a user name or password, which would be shown");
        }
        if path.contains('#') || path.starts_with('?') || path.chars().any(|c| !c.is_ascii_graphic()) {
            return Err("holds a space, `#`, a character that is not ASCII, or a query without a path");
        }
        let (host, port) = host_and_port(authority).ok_or("has no valid host or port")?;
        if port.or(port_of_scheme).is_none() {
            return Err("has no port");
        }
        let speaks_http = matches!(scheme, Scheme::Http | Scheme::Https);
        let path = path.trim_end_matches('/').to_owned();
        if !speaks_http && !path.is_empty() {
            return Err("has a path, which means nothing here");
        }
        Ok(Self { scheme, host, port, path })
    }
}

fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(inner) => {
            let (host, rest) = inner.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, rest)
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = match rest {
        "" => None,
        rest => Some(rest.strip_prefix(':')?.parse::<u16>().ok().filter(|port| *port != 0)?),
    };
    let host = host.to_ascii_lowercase();
    (host.contains(':') || host.parse::<IpAddr>().is_ok() || is_name(&host)).then_some((host, port))
}

/// A DNS name (RFC 1123), in lower case.
fn is_name(host: &str) -> bool {
    let label = |label: &str| {
        let inner = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        (1..=63).contains(&label.len()) && inner && !label.starts_with('-') && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_shown_as_it_was_written() {
        for text in
            ["https://scm.lan", "http://10.0.0.1:3000/base", "https://[fd00::9]:8443/x?y=z", "tcp://h:22", "tls://h:443", "postgres://db"]
        {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        let target: Target = "HTTPS://SCM.lan/".parse().unwrap();
        assert_eq!((target.host.as_str(), target.path.as_str(), target.port()), ("scm.lan", "", 443));
        assert_eq!(target.below("/api/healthz").to_string(), "https://scm.lan/api/healthz");
        assert_eq!("postgres://db".parse::<Target>().unwrap().port(), 5432);
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in [
            "scm.lan",
            "ftp://scm.lan",
            "https://",
            "https://a b",
            "https://u:p@h",
            "https://h:0",
            "https://h:99999",
            "https://h/#x",
            "https://h?x",
            "tcp://h",
            "tcp://h:1/x",
            "https://[::1",
            "https://-a.lan",
            "https://a..b",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
