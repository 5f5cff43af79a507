//! Section `peer`: the other metis host.

use std::path::PathBuf;
use std::time::Duration;

use super::secret::secret;
use crate::config::cursor::{Cursor, Mention};
use crate::config::values;
use crate::peer::Settings;
use crate::site::NodeName;

/// Section `peer` with the place that the cross checks need.
pub struct PeerDraft {
    /// What was read; `None`: no host is named.
    pub settings: Option<Settings>,
    /// `peer.host`.
    pub host: Option<Mention<NodeName>>,
}

/// Section `peer`.
pub fn peer(section: &Cursor<'_>) -> PeerDraft {
    let host = section.slot("host").and_then(|slot| {
        let name: NodeName = slot.scalar(|scalar| values::name(&scalar.text))?;
        Some(Mention { name, place: slot.node.place.clone(), path: slot.path })
    });
    let timeout = values::duration(Duration::from_secs(1)..=Duration::from_secs(60));
    let patience = values::duration(Duration::from_secs(20)..=Duration::from_secs(3600));
    let user = section.value("user", |scalar| values::user_name(&scalar.text));
    let key = section.slot("key").as_ref().and_then(secret);
    let socket = section.value("socket", values::path).unwrap_or_else(|| PathBuf::from(metis_proto::DEFAULT_SOCKET));
    let ask_timeout = section.value("ask_timeout", timeout).unwrap_or(Duration::from_secs(10));
    let lease_namespace = section.value("lease_namespace", values::dns_label).unwrap_or_else(|| "kube-system".to_owned());
    let allow_peer_startup = section.value("allow_peer_startup", values::boolean).unwrap_or_default();
    let auto_peer_failover = section.value("auto_peer_failover", values::boolean).unwrap_or_default();
    let takeover_after = section.value("takeover_after", patience).unwrap_or(Duration::from_secs(60));
    let settings = host.as_ref().map(|host| Settings {
        host: host.name.clone(),
        user,
        key,
        socket,
        ask_timeout,
        lease_namespace,
        allow_peer_startup,
        auto_peer_failover,
        takeover_after,
    });
    PeerDraft { settings, host }
}

#[cfg(test)]
mod tests {
    use crate::config::from_strs;

    const INVENTORY: &str = "classes: { host: { arch: amd64 } }\nnodes: { titan-db: { class: host }, titan-24: { class: host } }\n";

    #[test]
    fn without_a_host_there_is_no_peer() {
        assert_eq!(from_strs("peer: { ask_timeout: 3s }", INVENTORY).unwrap().peer, None);
        let settings = from_strs("peer: { host: titan-24, auto_peer_failover: true }", INVENTORY).unwrap().peer.unwrap();
        assert_eq!((settings.host.as_str(), settings.auto_peer_failover, settings.user), ("titan-24", true, None));
        assert_eq!(settings.socket.to_str(), Some("/run/metis/metisd.sock"));
    }

    #[test]
    fn what_cannot_be_is_said_with_its_place() {
        let wrong = |main: &str| {
            let all = from_strs(main, INVENTORY).unwrap_err();
            all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        assert!(wrong("peer: { host: titan-42 }").contains("`titan-42` is not a node of the inventory"));
        let itself = wrong("hosts: { this_host: titan-db }\npeer: { host: titan-db }");
        assert!(itself.contains("`titan-db` is this very host"), "{itself}");
        assert!(wrong("peer: { host: titan-24, takeover_after: 1s }").contains("takeover_after"));
    }
}
