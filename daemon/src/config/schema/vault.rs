//! Section `startup.vault`.

use std::path::Path;
use std::time::Duration;

use super::secret::secret;
use crate::cluster::vault::{VaultSettings, VaultTls, Via};
use crate::config::cursor::Cursor;
use crate::config::values;

const VIA: [(&str, Via); 2] = [("ssh", Via::Ssh), ("direct", Via::Direct)];

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub fn vault(section: &Cursor<'_>) -> VaultSettings {
    let namespace = section.value("namespace", values::dns_label).unwrap_or_else(|| "vault".to_owned());
    let time = |key: &'static str, default| section.value(key, values::duration(seconds(1)..=seconds(24 * 3600))).unwrap_or(default);
    let via = section.value("via", values::one_of(&VIA)).unwrap_or(Via::Ssh);
    VaultSettings {
        selector: section.value("selector", values::selector).unwrap_or_else(|| "app.kubernetes.io/name=vault,component=server".to_owned()),
        pods: section.value("pods", values::integer(1..=99)).unwrap_or(1) as u32,
        port: section.value("port", values::port).unwrap_or(8200),
        tls: tls(section, &namespace, via),
        via,
        keys: section.slot("keys").as_ref().and_then(secret),
        break_glass: break_glass(section),
        break_glass_timeout: time("break_glass_timeout", seconds(60)),
        timeout: time("timeout", seconds(600)),
        namespace,
    }
}

fn tls(section: &Cursor<'_>, namespace: &str, via: Via) -> Option<VaultTls> {
    let wanted = section.value("tls", values::boolean).unwrap_or(true);
    let ca_file = section.value("ca_file", values::path);
    let server_name = section.value("server_name", values::dns_name);
    if wanted {
        return Some(VaultTls { ca_file, server_name: server_name.unwrap_or_else(|| format!("vault.{namespace}.svc")) });
    }
    for key in ["ca_file", "server_name"] {
        if section.has(key) {
            section.error(format!("`{key}` belongs to `tls: true` alone; say so or remove it"));
        }
    }
    if via == Via::Direct {
        section.error("`tls: false` needs `via: ssh`: by `via: direct` unseal keys would cross the network in the clear");
    }
    None
}

/// Program and arguments; keys do not belong there, but nobody could tell one.
fn break_glass(section: &Cursor<'_>) -> Vec<String> {
    let command = section.list("break_glass", values::text).unwrap_or_default();
    if command.first().is_some_and(|program| !Path::new(program).is_absolute()) {
        section.error(format!(
            "`break_glass` begins with {}; write the absolute path of a program, then its arguments: [/usr/local/sbin/unseal-keys]",
            values::shown(&command[0])
        ));
    }
    command
}
