//! Section `api` of the configuration, validated.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Section `api`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// `api.socket`: where the daemon listens when systemd passes no socket.
    pub socket: PathBuf,
    /// `api.group`: group of the socket, mode 0660; `None`: the daemon's own.
    pub group: Option<String>,
    /// `api.roles`, in order; a caller has the highest role of all rules that match. Root is admin.
    pub roles: Vec<RoleRule>,
}

/// Who gets a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RoleRule {
    /// The role.
    pub role: Role,
    /// User names or numbers.
    pub users: Vec<String>,
    /// Group names or numbers; supplementary groups count.
    pub groups: Vec<String>,
}

/// What a caller may do; each role includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees everything, changes nothing.
    Viewer,
    /// Burns cards.
    Maintenance,
    /// Everything.
    Admin,
}
