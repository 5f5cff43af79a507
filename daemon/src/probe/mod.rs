//! Probes of what the site serves: HTTP, TLS and plain sockets, with checks of what is said there. A code alone proves little, and an
//! open port nothing.

mod client;
mod ingress;
mod judge;
mod kinds;
pub mod port;
mod postgres;
mod socket;
#[cfg(test)]
mod tests;
mod tls;

pub use client::RealProber;
pub use ingress::{NOBODYS_HOST, judge_host, upgraded};
pub use judge::{Check, Expect, Test, judge};
pub use kinds::checks;
