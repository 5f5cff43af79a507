//! metisd on the laboratory's site: whole shutdowns of real hosts, a real control plane and real UPS daemons.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

mod adversaries;
mod crash;
mod cycle;
mod evidence;
mod order;
mod site;
