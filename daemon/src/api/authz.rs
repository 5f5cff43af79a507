//! Who may call what: one table from RPC to role, applied before any handler sees the call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::http;

use super::errors::role_needed;
use super::{Caller, Role, Settings};

/// Every RPC and the role it needs. `None`: whoever may open the socket.
const RPCS: &[(&str, Option<Role>)] = &[
    ("/metis.v1.Status/Get", Some(Role::Viewer)),
    ("/metis.v1.Status/Watch", Some(Role::Viewer)),
    ("/metis.v1.Ups/List", Some(Role::Viewer)),
    ("/metis.v1.Ups/Watch", Some(Role::Viewer)),
    ("/metis.v1.Ups/History", Some(Role::Viewer)),
    ("/metis.v1.Card/Plan", Some(Role::Viewer)),
    ("/metis.v1.Card/Config", Some(Role::Viewer)),
    ("/metis.v1.Card/Devices", Some(Role::Viewer)),
    ("/metis.v1.Card/Burn", Some(Role::Maintenance)),
    // The stream carries a node's secrets.
    ("/metis.v1.Card/Image", Some(Role::Maintenance)),
    // The plan is for everybody; executing it needs admin, which the handler asks for.
    ("/metis.v1.Power/Shutdown", Some(Role::Viewer)),
    ("/metis.v1.Power/Startup", Some(Role::Viewer)),
    ("/metis.v1.Power/Gates", Some(Role::Viewer)),
    ("/metis.v1.Power/Arm", Some(Role::Viewer)),
    ("/metis.v1.Power/Disarm", Some(Role::Admin)),
    // What it came to is recorded for role maintenance only, which the handler sees to.
    ("/metis.v1.Prepare/Look", Some(Role::Viewer)),
    ("/metis.v1.Prepare/Inventory", Some(Role::Viewer)),
    // Of the other metis host's user alone.
    ("/metis.v1.Peer/Ask", Some(Role::Maintenance)),
    ("/metis.v1.Peer/HandOver", Some(Role::Maintenance)),
    ("/metis.v1.Leases/List", Some(Role::Viewer)),
    // Looking is for everybody; execute needs maintenance, which the handler asks for.
    ("/metis.v1.Leases/Renew", Some(Role::Viewer)),
    ("/metis.v1.Leases/Release", Some(Role::Viewer)),
    ("/metis.v1.Runs/List", Some(Role::Viewer)),
    ("/metis.v1.Runs/Get", Some(Role::Viewer)),
    ("/metis.v1.Runs/Watch", Some(Role::Viewer)),
    ("/metis.v1.Runs/Cancel", Some(Role::Maintenance)),
    ("/grpc.health.v1.Health/Check", None),
    ("/grpc.health.v1.Health/Watch", None),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Some(Role::Viewer)),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Some(Role::Viewer)),
];

/// The role that an RPC needs; an RPC that is not in the table needs admin.
pub fn needed(rpc: &str) -> Option<Role> {
    RPCS.iter().find(|(path, _)| *path == rpc).map_or(Some(Role::Admin), |(_, role)| *role)
}

/// Uid and gid to role, with the names of the settings resolved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoleTable {
    users: BTreeMap<u32, Role>,
    groups: BTreeMap<u32, Role>,
}

impl RoleTable {
    /// Resolves the names; a name that this host does not know is returned, and gives nobody a role.
    pub fn resolve(settings: &Settings) -> (Self, Vec<String>) {
        let mut table = Self::default();
        let mut unknown = Vec::new();
        for rule in &settings.roles {
            for user in &rule.users {
                let uid = user.parse().ok().or_else(|| nix::unistd::User::from_name(user).ok().flatten().map(|u| u.uid.as_raw()));
                table.users.extend(uid.map(|uid| (uid, table.users.get(&uid).copied().unwrap_or(rule.role).max(rule.role))));
                uid.is_none().then(|| unknown.push(format!("api.roles: no user {user} on this host")));
            }
            for group in &rule.groups {
                let gid = group.parse().ok().or_else(|| nix::unistd::Group::from_name(group).ok().flatten().map(|g| g.gid.as_raw()));
                table.groups.extend(gid.map(|gid| (gid, table.groups.get(&gid).copied().unwrap_or(rule.role).max(rule.role))));
                gid.is_none().then(|| unknown.push(format!("api.roles: no group {group} on this host")));
            }
        }
        (table, unknown)
    }

    /// The highest role of all rules that match; root is admin.
    pub fn role(&self, caller: &Caller) -> Option<Role> {
        if caller.uid == 0 {
            return Some(Role::Admin);
        }
        let by_group = caller.groups.iter().filter_map(|gid| self.groups.get(gid));
        self.users.get(&caller.uid).into_iter().chain(by_group).max().copied()
    }
}

/// A call that may be served: who calls, and as what. Handlers take it from the request's extensions.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// The calling process.
    pub caller: Caller,
    /// Its role.
    pub role: Option<Role>,
}

impl Admitted {
    /// What the layer noted of a request.
    ///
    /// # Errors
    /// Where the request came past the layer.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Self, tonic::Status> {
        request.extensions().get::<Self>().cloned().ok_or_else(|| tonic::Status::unauthenticated("the call was not checked"))
    }
}

/// Told of every refused call, for the audit log: caller, RPC, role needed.
pub type OnRefused = Arc<dyn Fn(&Caller, &str, Role) + Send + Sync>;

/// Puts the table before a gRPC server.
#[derive(Clone)]
pub struct AuthzLayer {
    table: watch::Receiver<Arc<RoleTable>>,
    on_refused: OnRefused,
}

impl AuthzLayer {
    /// The table may change while the server runs.
    pub fn new(table: watch::Receiver<Arc<RoleTable>>, on_refused: OnRefused) -> Self {
        Self { table, on_refused }
    }
}

impl<S> tower::Layer<S> for AuthzLayer {
    type Service = Authz<S>;

    fn layer(&self, inner: S) -> Authz<S> {
        Authz { inner, layer: self.clone() }
    }
}

/// See [`AuthzLayer`].
#[derive(Clone)]
pub struct Authz<S> {
    inner: S,
    layer: AuthzLayer,
}

impl<S> Authz<S> {
    fn admit(&self, request: &http::Request<Body>) -> Result<Admitted, Box<tonic::Status>> {
        let rpc = request.uri().path();
        let Some(caller) = request.extensions().get::<Caller>().cloned() else {
            return Err(Box::new(tonic::Status::unauthenticated("the kernel does not say who calls")));
        };
        let role = self.layer.table.borrow().role(&caller);
        match needed(rpc) {
            Some(needed) if role < Some(needed) => {
                (self.layer.on_refused)(&caller, rpc, needed);
                Err(Box::new(role_needed(&caller, role, needed, rpc)))
            }
            _ => Ok(Admitted { caller, role }),
        }
    }
}

impl<S> tower::Service<http::Request<Body>> for Authz<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = futures::future::BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        match self.admit(&request) {
            Ok(admitted) => {
                request.extensions_mut().insert(admitted);
                Box::pin(self.inner.call(request))
            }
            Err(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::RoleRule;

    fn caller(uid: u32, groups: &[u32]) -> Caller {
        Caller { uid, name: None, pid: None, groups: groups.to_vec() }
    }

    fn table() -> RoleTable {
        let rule = |role, users: &[&str], groups: &[&str]| RoleRule {
            role,
            users: users.iter().map(ToString::to_string).collect(),
            groups: groups.iter().map(ToString::to_string).collect(),
        };
        let roles = vec![
            rule(Role::Viewer, &["1000", "1001"], &["50"]),
            rule(Role::Admin, &["1001"], &["no-such-group"]),
            rule(Role::Maintenance, &[], &["51"]),
        ];
        let (table, unknown) = RoleTable::resolve(&Settings { socket: "/s".into(), group: None, roles });
        assert_eq!(unknown, ["api.roles: no group no-such-group on this host"]);
        table
    }

    #[test]
    fn the_highest_matching_rule_counts() {
        let table = table();
        for (who, role) in [
            (caller(0, &[]), Some(Role::Admin)),
            (caller(1000, &[]), Some(Role::Viewer)),
            (caller(1001, &[50]), Some(Role::Admin)),
            (caller(1000, &[7, 51]), Some(Role::Maintenance)),
            (caller(2000, &[50]), Some(Role::Viewer)),
            (caller(2000, &[7]), None),
        ] {
            assert_eq!(table.role(&who), role, "{who:?}");
        }
    }

    #[test]
    fn every_rpc_of_the_protos_is_in_the_table() {
        use prost::Message as _;
        let set = prost_types::FileDescriptorSet::decode(metis_proto::DESCRIPTOR_SET).unwrap();
        for file in set.file.iter().filter(|f| f.package() == "metis.v1") {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/metis.v1.{}/{}", service.name(), method.name());
                    assert!(RPCS.iter().any(|(known, _)| *known == path), "{path} has no role in the table");
                }
            }
        }
    }

    #[test]
    fn what_is_not_in_the_table_needs_admin() {
        assert_eq!(needed("/metis.v1.Card/Nuke"), Some(Role::Admin));
    }
}
