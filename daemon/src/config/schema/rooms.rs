//! Sections `daemon`, `api` and `card`.

use std::path::{Path, PathBuf};

use crate::api::Role;
use crate::api::RoleRule;
use crate::api::Settings as ApiSettings;
use crate::card::Settings as CardSettings;
use crate::config::cursor::Cursor;
use crate::config::settings::{DaemonSettings, HostRole, LogLevel};
use crate::config::values;

const ROLES: [(&str, Role); 3] = [("viewer", Role::Viewer), ("maintenance", Role::Maintenance), ("admin", Role::Admin)];

const GIB: u64 = 1 << 30;

/// Section `daemon`.
pub fn daemon(section: &Cursor<'_>) -> DaemonSettings {
    DaemonSettings {
        host_role: section.value("host_role", values::one_of(&HostRole::ALL)).unwrap_or_default(),
        state_dir: section.value("state_dir", values::path).unwrap_or_else(|| PathBuf::from("/var/lib/metis")),
        runtime_dir: section.value("runtime_dir", values::path).unwrap_or_else(|| PathBuf::from("/run/metis")),
        log_level: section.value("log_level", values::one_of(&LogLevel::ALL)).unwrap_or_default(),
    }
}

/// Section `api`.
pub fn api(section: &Cursor<'_>, runtime_dir: &Path) -> ApiSettings {
    let roles = section.table(
        "roles",
        |key| values::word(&ROLES, key),
        |slot, role| {
            Some(slot.section(|rule| {
                let users = rule.list("users", values::or_number).unwrap_or_default();
                let groups = rule.list("groups", values::or_number).unwrap_or_default();
                if rule.is_readable() && !rule.has("users") && !rule.has("groups") {
                    rule.error("gives the role to nobody; name `users` or `groups`, or remove it");
                }
                RoleRule { role: *role, users, groups }
            }))
        },
    );
    ApiSettings {
        socket: section.value("socket", values::path).unwrap_or_else(|| runtime_dir.join("metisd.sock")),
        group: section.value("group", values::or_number),
        roles: roles.into_values().collect(),
    }
}

/// Section `card`.
pub fn card(section: &Cursor<'_>, state_dir: &Path) -> CardSettings {
    CardSettings {
        cache_dir: section.value("cache_dir", values::path).unwrap_or_else(|| state_dir.join("images")),
        free_space_floor: section.value("free_space_floor", values::size(0)).unwrap_or(2 * GIB),
        max_image_size: section.value("max_image_size", values::size(1 << 20)).unwrap_or(64 * GIB),
        ca_file: section.value("ca_file", values::path),
        writer_socket: section.value("writer_socket", values::path),
    }
}
