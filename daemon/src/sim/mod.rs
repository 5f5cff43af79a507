//! A simulated site: for `metisd sandbox`, rehearsals and tests.

mod cluster;
mod command;
mod hosts;
pub mod ills;
mod nut_server;
mod platform;
mod served;
pub mod site;
mod ups;
mod vault;

pub use nut_server::{Fault, NutServer, SimulatedUps};
pub use ups::{Battery, BatteryModel};
