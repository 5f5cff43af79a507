//! gRPC on the Unix socket: reads the published View and the journal's reader, sends Requests, nothing else.

mod authz;
pub mod errors;
mod peer;
mod settings;

pub use authz::{Admitted, AuthzLayer, RoleTable};
pub use peer::{Caller, PeerStream};
pub use settings::{Role, RoleRule, Settings};
