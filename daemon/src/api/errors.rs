//! Errors as google.rpc.Status with typed details.

use metis_proto::details::{self, Detail};
use metis_proto::v1;
use tonic::{Code, Status};

use super::{Caller, Role};
use crate::site::Guard;

/// The proto's value of a role.
pub fn role_to_proto(role: Option<Role>) -> v1::Role {
    match role {
        None => v1::Role::Unspecified,
        Some(Role::Viewer) => v1::Role::Viewer,
        Some(Role::Maintenance) => v1::Role::Maintenance,
        Some(Role::Admin) => v1::Role::Admin,
    }
}

/// The role as users see it; empty for none.
pub fn role_name(role: Option<Role>) -> &'static str {
    match role {
        None => "",
        Some(Role::Viewer) => "viewer",
        Some(Role::Maintenance) => "maintenance",
        Some(Role::Admin) => "admin",
    }
}

/// The caller lacks the role that the call needs.
pub fn role_needed(caller: &Caller, role: Option<Role>, needed: Role, rpc: &str) -> Status {
    let call = rpc.trim_start_matches("/metis.v1.").replace('/', ".");
    let message = format!(
        "{call} needs role {}; {} has {}: an admin can grant it in api.roles of metis.yaml",
        role_name(Some(needed)),
        caller.label(),
        role.map_or("no role", |role| role_name(Some(role))),
    );
    let detail = v1::RoleNeeded { needed: role_to_proto(Some(needed)).into(), caller: role_to_proto(role).into(), uid: caller.uid };
    details::status(Code::PermissionDenied, message, &Detail::RoleNeeded(detail))
}

/// All guards that refuse a request, at once.
pub fn refused(guards: &[Guard]) -> Status {
    let list: Vec<_> = guards.iter().map(|g| g.message.as_str()).collect();
    let detail = v1::Refusal { guards: guards.iter().map(guard_to_proto).collect() };
    details::status(Code::FailedPrecondition, format!("refused: {}", list.join("; ")), &Detail::Refusal(detail))
}

/// The proto's form of a guard.
pub fn guard_to_proto(guard: &Guard) -> v1::Guard {
    v1::Guard { name: guard.name.clone(), message: guard.message.clone(), waiver: guard.waiver.clone().unwrap_or_default() }
}
