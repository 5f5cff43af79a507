//! `network` of the inventory: what is written, and whether it fits together once merged.

use std::net::IpAddr;

use crate::config::cursor::Cursor;
use crate::config::values::{self, as_bits, bits};
use crate::site::{NetworkRenderer, NetworkSettings};

const RENDERERS: [(&str, NetworkRenderer); 2] = [("netplan", NetworkRenderer::Netplan), ("networkd", NetworkRenderer::Networkd)];

/// Section `network`.
pub fn network(section: &Cursor<'_>) -> NetworkSettings {
    let given = section.value("address", values::address_with_prefix);
    let prefix = section.value("prefix", values::integer(1..=128)).map(|prefix| prefix as u8);
    let within = given.and_then(|given| given.prefix);
    if let (Some(prefix), Some(within)) = (prefix, within) {
        section.error(format!("gives the prefix length twice: {within} with `address` and {prefix} as `prefix`; remove one of them"));
    }
    NetworkSettings {
        renderer: section.value("renderer", values::one_of(&RENDERERS)),
        interface: section.value("interface", values::interface),
        address: given.map(|given| given.address),
        prefix: within.or(prefix),
        gateway: section.value("gateway", values::ip),
        nameservers: section.list("nameservers", values::ip),
        search: section.list("search", values::dns_name),
    }
}

/// What is wrong with an address within its network, and with its gateway.
pub fn misfits(address: IpAddr, prefix: u8, gateway: Option<IpAddr>) -> Option<String> {
    if prefix > bits(address) {
        return Some(format!("the prefix length {prefix} is too long for {address}; at most {}", bits(address)));
    }
    let host_bits = u32::from(bits(address) - prefix);
    let host_mask = if host_bits == 128 { u128::MAX } else { (1u128 << host_bits) - 1 };
    let host = as_bits(address) & host_mask;
    // RFC 3021: a /31 has neither a network nor a broadcast address; IPv6 has no broadcast.
    if address.is_ipv4() && host_bits >= 2 && (host == 0 || host == host_mask) {
        let what = if host == 0 { "the network's own address" } else { "the network's broadcast address" };
        return Some(format!("{address}/{prefix} is {what}, which no host can have"));
    }
    let gateway = gateway?;
    // A gateway outside is legal for IPv6 (link-local) only.
    if gateway.is_ipv4() != address.is_ipv4() {
        return Some(format!("the gateway {gateway} and the address {address} are of different kinds (IPv4 and IPv6)"));
    }
    let outside = as_bits(gateway) & !host_mask != as_bits(address) & !host_mask;
    if gateway.is_ipv4() && outside {
        return Some(format!("the gateway {gateway} is not in the network of {address}/{prefix}"));
    }
    (gateway == address).then(|| format!("the gateway {gateway} is the node itself"))
}
