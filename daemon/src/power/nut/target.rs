//! `ups@host[:port]`, as NUT's own tools write it.

use std::str::FromStr;

/// TCP port of upsd.
pub const DEFAULT_PORT: u16 = 3493;

/// Where a UPS is to be found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Name in ups.conf of the upsd's host.
    pub ups: String,
    /// Name or address of that host, an IPv6 address without its brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// The text is not `ups@host[:port]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no UPS: write ups@host, ups@host:port or ups@[IPv6]:port")]
pub struct NameError(pub String);

impl FromStr for Target {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError(text.to_owned());
        let (ups, place) = text.split_once('@').ok_or_else(wrong)?;
        let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':').or(if port.is_empty() { Some("") } else { None })),
            None => place.split_once(':').map_or((place, Some("")), |(host, port)| (host, Some(port).filter(|port| !port.is_empty()))),
        };
        let port = match port.ok_or_else(wrong)? {
            "" => DEFAULT_PORT,
            digits => digits.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?,
        };
        let plain = |word: &str| !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c.is_control() || "@\"\\[]".contains(c));
        if !plain(ups) || !plain(host) {
            return Err(wrong());
        }
        Ok(Self { ups: ups.to_owned(), host: host.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_upses() {
        for (text, ups, host, port) in [
            ("pyrphoros@localhost", "pyrphoros", "localhost", 3493),
            ("statera@192.168.22.24:13493", "statera", "192.168.22.24", 13493),
            ("u@[::1]", "u", "::1", 3493),
            ("u@[fe80::1]:99", "u", "fe80::1", 99),
        ] {
            assert_eq!(text.parse(), Ok(Target { ups: ups.to_owned(), host: host.to_owned(), port }));
        }
        for text in
            ["", "ups", "@host", "ups@", "ups@host:", "ups@host:0", "ups@host:70000", "ups@::1", "ups@[::1]x", "u s@h", "u@h\n", "a@b@c"]
        {
            assert_eq!(text.parse::<Target>(), Err(NameError(text.to_owned())));
        }
    }
}
