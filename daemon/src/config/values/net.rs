//! Addresses, ports and URLs.

use std::net::IpAddr;

use super::names::{dns_name, is_dns_name, split_host};
use super::{absolute, integer, shown};
use crate::config::cursor::Parsed;
use crate::config::tree::Scalar;

/// An IP address.
pub fn ip(scalar: &Scalar) -> Parsed<IpAddr> {
    scalar.text.parse().map_err(|_| format!("{} is not an IP address; write one such as 192.168.22.43 or fd00::43", shown(&scalar.text)))
}

/// An IP address or a DNS name, by which a host is reached.
pub fn ip_or_name(scalar: &Scalar) -> Parsed<String> {
    if let Ok(ip) = scalar.text.parse::<IpAddr>() {
        return Ok(ip.to_string());
    }
    dns_name(scalar).map_err(|message| format!("{message}, or an IP address"))
}

/// An address with the prefix length of its network, where that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressWithPrefix {
    /// The address.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix: Option<u8>,
}

/// `192.168.22.43` or `192.168.22.43/24`: an address that a host can have.
pub fn address_with_prefix(scalar: &Scalar) -> Parsed<AddressWithPrefix> {
    let wrong = || format!("{} is not an address; write one such as 192.168.22.43 or 192.168.22.43/24", shown(&scalar.text));
    let (address, prefix) = match scalar.text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| wrong())?)),
        None => (scalar.text.as_str(), None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    if prefix.is_some_and(|prefix| prefix == 0 || prefix > bits(address)) {
        return Err(format!("{} has a wrong prefix length; write one from 1 to {}", shown(&scalar.text), bits(address)));
    }
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return Err(format!("{} cannot be the address of a host; write one such as 192.168.22.43", shown(&scalar.text)));
    }
    Ok(AddressWithPrefix { address, prefix })
}

/// Length of an address in bits.
pub fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address as a number.
pub fn as_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The MAC address of one interface, as `aa:bb:cc:dd:ee:ff`.
pub fn mac(scalar: &Scalar) -> Parsed<String> {
    let wrong = || format!("{} is not a MAC address of an interface; write one such as 00:1b:21:3a:4f:5e", shown(&scalar.text));
    let text = scalar.text.to_ascii_lowercase().replace('-', ":");
    let is_byte = |byte: &str| byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit());
    // The lowest bit of the first byte is that of a group (IEEE 802): no interface has it.
    let is_group = text.as_bytes().get(1).is_some_and(|digit| b"13579bdf".contains(digit));
    if text.split(':').count() != 6 || !text.split(':').all(is_byte) || is_group || text == "00:00:00:00:00:00" {
        return Err(wrong());
    }
    Ok(text)
}

/// A TCP or UDP port.
pub fn port(scalar: &Scalar) -> Parsed<u16> {
    integer(1..=65535)(scalar).map(|port| port as u16).map_err(|message| message.replace("a whole number", "a port"))
}

/// Where an image is: `file:/path` or `https://host[:port]/path`, without credentials.
pub fn image_url(scalar: &Scalar) -> Parsed<String> {
    let text = &scalar.text;
    let wrong = |why: &str| format!("{} {why}; write file:/path or https://host/path", shown_url(text));
    if let Some(rest) = text.strip_prefix("file:") {
        let path = rest.strip_prefix("//").unwrap_or(rest);
        return if absolute(path).is_some() { Ok(text.clone()) } else { Err(wrong("does not name an absolute path of this host")) };
    }
    let Some(rest) = text.strip_prefix("https://") else { return Err(wrong("is of a kind that is not supported")) };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    check_authority(authority).map_err(wrong)?;
    if path.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '#') {
        return Err(wrong("names no file, or holds a space or `#`"));
    }
    Ok(text.clone())
}

/// A k3s server to join: `https://host:port`.
pub fn server_url(scalar: &Scalar) -> Parsed<String> {
    let text = &scalar.text;
    let wrong = |why: &str| format!("{} {why}; write https://host:port, such as https://192.168.22.7:6443", shown_url(text));
    let rest = text.strip_prefix("https://").ok_or_else(|| wrong("does not start with https://"))?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    check_authority(authority).map_err(wrong)?;
    Ok(text.clone())
}

fn check_authority(authority: &str) -> Result<(), &'static str> {
    if authority.contains('@') {
        return Err("holds a user name or password, which would be shown");
    }
    let host = split_host(authority).map(|(host, _)| host).ok_or("has no valid host or port")?;
    if host.parse::<IpAddr>().is_ok() || is_dns_name(host) { Ok(()) } else { Err("has no valid host") }
}

/// A URL as it is shown: what stands before `@` may be a password.
fn shown_url(text: &str) -> String {
    match text.split_once('@') {
        Some((before, after)) => {
            let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
            shown(&format!("{scheme}://…@{after}"))
        }
        None => shown(text),
    }
}
