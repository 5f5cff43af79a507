//! Against a real sshd on loopback.
#![allow(clippy::disallowed_methods, reason = "tests start the programs that they need")]

mod commands;
mod server;
mod sockets;
mod streams;
mod trouble;
mod trusting;

use std::sync::Arc;
use std::time::Duration;

use server::Sshd;

use super::*;
use crate::site::Secret;

const LIMIT: Duration = Duration::from_secs(20);

fn settings(sshd: &Sshd) -> Settings {
    Settings {
        this_host: None,
        user: "root".to_owned(),
        key: Some(SecretRef::File(sshd.path("user"))),
        known_hosts: sshd.path("known_hosts"),
        connect_timeout: Duration::from_secs(3),
        at_once: 8,
        helper_image: None,
        helper_namespace: "kube-system".to_owned(),
    }
}

fn secrets() -> Secrets {
    Arc::new(|reference| match reference {
        SecretRef::File(path) => std::fs::read(path).map(Secret::new).map_err(|e| format!("{}: {e}", path.display())),
        SecretRef::Credential(name) => Err(format!("credential {name}: there is none")),
    })
}

fn ssh(sshd: &Sshd) -> Ssh {
    Ssh::new(&settings(sshd), secrets())
}

fn sh(script: &str) -> Command {
    Command { argv: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()], root: false }
}
