//! The other metis host: who commands (pure), what is known of the Lease (pure), and the link to its daemon.

mod desk;
pub mod lease;
mod link;
pub mod port;
pub mod rule;
mod settings;
pub mod words;

pub use desk::Desk;
pub use link::{Broken, Bytes, Connect, SshLink};
pub use settings::Settings;
