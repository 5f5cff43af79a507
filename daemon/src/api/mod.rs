//! gRPC on the Unix socket: reads the published View and the journal's reader, sends Requests, nothing else.

mod settings;

pub use settings::{Role, RoleRule, Settings};
