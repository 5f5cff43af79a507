//! Names of hosts, users, UPSes, interfaces and metis' own things.

use super::{shown, text};
use crate::config::cursor::Parsed;
use crate::config::tree::Scalar;

/// A DNS label (RFC 1123), which is also what Kubernetes and hostname(7) take: up to 63 of a-z, 0-9 and `-`.
pub fn dns_label(scalar: &Scalar) -> Parsed<String> {
    let text = text(scalar)?;
    if is_label(&text) { Ok(text) } else { Err(not_a_label(&text)) }
}

fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.len() <= 63 && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn not_a_label(text: &str) -> String {
    format!("{} is not a host name; write up to 63 of a-z, 0-9 and `-`, neither first nor last a `-`", shown(text))
}

/// A key that is a name of metis' own (node, class, domain): by the rule of DNS labels.
pub fn name<T: From<String>>(key: &str) -> Parsed<T> {
    if is_label(key) { Ok(T::from(key.to_owned())) } else { Err(not_a_label(key)) }
}

/// A DNS name: labels joined by dots, at most 253 characters.
pub fn dns_name(scalar: &Scalar) -> Parsed<String> {
    let text = text(scalar)?;
    if is_dns_name(&text) { Ok(text) } else { Err(format!("{} is not a DNS name; write one such as titan-db.lan", shown(&text))) }
}

/// Whether it is labels joined by dots; upper case counts as lower case.
pub fn is_dns_name(text: &str) -> bool {
    text.len() <= 253 && text.to_ascii_lowercase().split('.').all(is_label)
}

/// A user name (useradd(8)).
pub fn user_name(text: &str) -> Parsed<String> {
    let inner = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let start = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if start && text.len() <= 32 && text.chars().all(inner) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{} is not a user or group name; write up to 32 of letters, digits, `_`, `-` and `.`, the first a letter or `_`",
        shown(text)
    ))
}

/// A group name (groupadd(8)).
pub fn group_name(scalar: &Scalar) -> Parsed<String> {
    user_name(&scalar.text)
}

/// A user or group by name or number.
pub fn or_number(scalar: &Scalar) -> Parsed<String> {
    let digits = !scalar.text.is_empty() && scalar.text.chars().all(|c| c.is_ascii_digit());
    // 4294967295 is "no user" to the kernel (chown(2)).
    if digits && scalar.text.parse::<u32>().is_ok_and(|id| id != u32::MAX) {
        return Ok(scalar.text.clone());
    }
    user_name(&scalar.text).map_err(|message| format!("{message}, or its number"))
}

/// A network interface: up to 15 characters (IFNAMSIZ).
pub fn interface(scalar: &Scalar) -> Parsed<String> {
    let text = text(scalar)?;
    let inner = |c: char| c.is_ascii_graphic() && !"/:\"'\\".contains(c);
    let good = text.len() <= 15 && text.chars().all(inner) && !matches!(text.as_str(), "." | ".." | "all" | "default");
    if good { Ok(text) } else { Err(format!("{} is not an interface name; write up to 15 characters, such as end0", shown(&text))) }
}

/// Name of a unit of systemd, with its type (systemd.unit(5)).
pub fn unit_name(scalar: &Scalar) -> Parsed<String> {
    let known = |(name, kind): &(&str, &str)| !name.is_empty() && ["service", "socket", "timer", "path", "target"].contains(kind);
    let plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    let text = &scalar.text;
    if text.len() <= 255 && text.chars().all(plain) && text.rsplit_once('.').is_some_and(|parts| known(&parts)) {
        Ok(text.clone())
    } else {
        Err(format!("{} is not a unit; write its whole name, such as nut-monitor.service", shown(text)))
    }
}

/// A UPS as NUT names it, `ups@host[:port]` (upsc(8)).
pub fn ups_name<T: From<String>>(text: &str) -> Parsed<T> {
    let wrong = || format!("{} is not a UPS; write ups@host or ups@host:port, such as pyrphoros@localhost", shown(text));
    let (ups, host) = text.split_once('@').ok_or_else(wrong)?;
    let name = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if ups.is_empty() || !ups.chars().all(name) || split_host(host).is_none() {
        return Err(wrong());
    }
    Ok(T::from(text.to_owned()))
}

/// Host and port of `host[:port]`; a bare IPv6 address stands in brackets.
pub fn split_host(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, tail) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (host, tail)
    } else {
        let (host, tail) = text.split_at(text.find(':').unwrap_or(text.len()));
        is_dns_name(host).then_some((host, tail))?
    };
    if port.is_empty() {
        return Some((host, None));
    }
    let port: u16 = port.strip_prefix(':')?.parse().ok()?;
    (port != 0).then_some((host, Some(port)))
}
