//! What each section holds: its keys, what they may be, and their defaults.

mod cluster;
mod cross;
mod hosts;
mod inventory;
mod network;
mod peer;
mod power;
mod repairs;
mod rooms;
mod secret;
mod services;
mod startup;
mod vault;

pub use cluster::ClusterDraft;
pub use cross::check as cross_check;
pub use hosts::HostsDraft;
pub use inventory::{InventoryDraft, inventory};
pub use peer::PeerDraft;
pub use power::PowerDraft;

use std::path::{Path, PathBuf};

use super::cursor::Cursor;
use super::settings::DaemonSettings;
use super::values;
use crate::api::Settings as ApiSettings;
use crate::card::Settings as CardSettings;

/// The main files, read but not yet checked against the inventory.
pub struct MainDraft {
    /// Section `daemon`.
    pub daemon: DaemonSettings,
    /// Section `api`.
    pub api: ApiSettings,
    /// Section `power`, with the places of the names in it.
    pub power: PowerDraft,
    /// Sections `cluster`, `shutdown` and `startup`, with the places of the names in them.
    pub cluster: ClusterDraft,
    /// Section `card`.
    pub card: CardSettings,
    /// Section `hosts`, with the places of the names in it.
    pub hosts: HostsDraft,
    /// Section `peer`, with the place of the name in it.
    pub peer: PeerDraft,
    /// Key `inventory`: where the inventory is.
    pub inventory: Option<PathBuf>,
}

/// Reads `metis.yaml` with its drop-ins.
pub fn main(cursor: &Cursor<'_>) -> MainDraft {
    let daemon = cursor.section("daemon", rooms::daemon);
    let (state, runtime): (&Path, &Path) = (&daemon.state_dir, &daemon.runtime_dir);
    let api = cursor.section("api", |section| rooms::api(section, runtime));
    let power = cursor.section("power", power::power);
    let mut cluster = cursor.section("cluster", |cluster| cursor.section("shutdown", |shutdown| cluster::cluster(cluster, shutdown)));
    cluster.settings.startup = cursor.section("startup", startup::startup);
    let card = cursor.section("card", |section| rooms::card(section, state));
    let hosts = cursor.section("hosts", hosts::hosts);
    let peer = cursor.section("peer", peer::peer);
    MainDraft { api, power, cluster, card, hosts, peer, inventory: cursor.value("inventory", values::path), daemon }
}
