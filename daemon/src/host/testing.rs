//! What tests of this room share.

use crate::site::{Access, Host, Returns};

/// A host that is reached over SSH as `metis`, with sudo.
pub fn ssh_host(address: &str, port: u16) -> Host {
    Host {
        name: "titan-13".into(),
        node_name: "titan-13".to_owned(),
        access: Access::Ssh,
        address: address.to_owned(),
        port,
        user: "metis".to_owned(),
        key: None,
        host_keys: Vec::new(),
        sudo: true,
        returns: Returns::ByHand,
        mac: None,
        wake: None,
        k3s: None,
        this_host: false,
        domains: std::collections::BTreeSet::new(),
    }
}

/// Says in one line what did not run; under CI=true that is a failure.
pub fn missing(what: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "missing under CI: {what}");
    eprintln!("did not run: {what}");
}
