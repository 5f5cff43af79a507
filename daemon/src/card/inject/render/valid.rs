//! What values may be, where a wrong one would end up in a file of another format.

use std::net::IpAddr;

/// A host name (RFC 1123; hostname(7): at most 64 bytes).
pub(super) fn hostname(name: &str) -> Result<(), &'static str> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 64 && name.split('.').all(label) {
        Ok(())
    } else {
        Err("is not a host name: letters, digits and inner hyphens, parts joined by dots, at most 64 bytes")
    }
}

/// A domain for the resolver's search list.
pub(super) fn domain(name: &str) -> Result<(), &'static str> {
    let plain = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if name.len() <= 253 && name.split('.').all(plain) { Ok(()) } else { Err("is not a domain name") }
}

/// A Kubernetes node name (RFC 1123 subdomain).
pub(super) fn node_name(name: &str) -> Result<(), &'static str> {
    let dns = name.len() <= 253 && hostname_labels(name) && !name.bytes().any(|b| b.is_ascii_uppercase());
    if dns { Ok(()) } else { Err("is not a node name: lower-case letters, digits, inner hyphens and dots") }
}

fn hostname_labels(name: &str) -> bool {
    name.split('.').all(|label| hostname(label).is_ok())
}

/// A network interface (dev_valid_name() of Linux, and a plain file name).
pub(super) fn interface(name: &str) -> Result<(), &'static str> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if (1..=15).contains(&name.len()) && plain && name != "." && name != ".." {
        Ok(())
    } else {
        Err("is not an interface name: 1 to 15 letters, digits, `.`, `_`, `-`")
    }
}

/// A user or group (useradd(8)).
pub(super) fn account(name: &str) -> Result<(), &'static str> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    let rest = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
    if first && rest && name.len() <= 32 {
        Ok(())
    } else {
        Err("is not an account name: lower-case letters, digits, `_` and `-`, not beginning with a digit, at most 32 bytes")
    }
}

/// A line of `authorized_keys` (sshd(8)).
pub(super) fn authorized_key(line: &str) -> Result<(), &'static str> {
    if line.chars().any(char::is_control) {
        return Err("has control characters; one key is one line");
    }
    let line = line.trim();
    if line.starts_with('#') || line.split_whitespace().count() >= 2 {
        Ok(())
    } else {
        Err("is not a line of authorized_keys: type and key, as in a .pub file")
    }
}

/// A Kubernetes label key: `[prefix/]name`.
pub(super) fn label_key(key: &str) -> Result<(), &'static str> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let prefix_ok = prefix.is_none_or(|prefix| node_name(prefix).is_ok());
    if prefix_ok && !name.is_empty() && label_value(name).is_ok() {
        Ok(())
    } else {
        Err("is not a label key: [domain/]name with letters, digits, `-`, `_`, `.`, at most 63 bytes")
    }
}

/// A Kubernetes label value.
pub(super) fn label_value(value: &str) -> Result<(), &'static str> {
    let plain = value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    let ends = [value.bytes().next(), value.bytes().last()].into_iter().flatten().all(|b| b.is_ascii_alphanumeric());
    if value.len() <= 63 && plain && ends {
        Ok(())
    } else {
        Err("is not a label value: at most 63 letters, digits, `-`, `_`, `.`, with a letter or digit at both ends")
    }
}

/// A Kubernetes taint: `key[=value]:Effect`.
pub(super) fn taint(taint: &str) -> Result<(), &'static str> {
    const WHY: &str = "is not a taint: key[=value]:NoSchedule, :PreferNoSchedule or :NoExecute";
    let Some((rest, effect)) = taint.rsplit_once(':') else { return Err(WHY) };
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    let ok = label_key(key).is_ok() && label_value(value).is_ok() && matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute");
    if ok { Ok(()) } else { Err(WHY) }
}

/// An https URL without blanks.
pub(super) fn https_url(url: &str) -> Result<(), &'static str> {
    let rest = url.strip_prefix("https://").unwrap_or_default();
    let plain = rest.bytes().all(|b| b.is_ascii_graphic());
    if !rest.is_empty() && !rest.starts_with('/') && plain { Ok(()) } else { Err("is not an https:// URL") }
}

/// A value of journald.conf(5): a word, a size or a time span.
pub(super) fn journald(value: &str) -> Result<(), &'static str> {
    let plain = value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'%' | b'-' | b' '));
    if !value.trim().is_empty() && plain { Ok(()) } else { Err("is not a word, size or time span of journald.conf(5)") }
}

/// Whether the prefix length is one of the address's family.
pub(super) fn prefix(address: IpAddr, prefix: u8) -> Result<(), &'static str> {
    match address {
        IpAddr::V4(_) if (1..=32).contains(&prefix) => Ok(()),
        IpAddr::V6(_) if (1..=128).contains(&prefix) => Ok(()),
        IpAddr::V4(_) => Err("is not a prefix length of IPv4: 1 to 32"),
        IpAddr::V6(_) => Err("is not a prefix length of IPv6: 1 to 128"),
    }
}

/// Whether both are in one network.
pub(super) fn same_network(one: IpAddr, other: IpAddr, prefix: u8) -> bool {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            one.to_bits() & mask == other.to_bits() & mask
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            other.is_unicast_link_local() || one.to_bits() & mask == other.to_bits() & mask
        }
        _ => false,
    }
}
