//! gRPC on the Unix socket: reads the published View and the journal's reader, sends Requests, nothing else.

mod authz;
mod card;
mod convert;
mod errors;
mod leases;
mod peer;
pub mod port;
mod power;
mod prepare;
mod runs;
mod server;
mod settings;
mod status;
mod two_hosts;
mod ups;

pub use authz::{Admitted, AuthzLayer, RoleTable};
pub use convert::{run as run_message, told as event_message};
pub use peer::{Caller, PeerStream};
pub use power::answer as shutdown_message;
pub use server::{Context, HostFacts, serve};
pub use settings::{Role, RoleRule, Settings};
