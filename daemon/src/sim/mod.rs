//! A simulated site: for `metisd sandbox`, rehearsals and tests.

mod nut_server;
mod ups;

pub use nut_server::{Fault, NutServer, SimulatedUps};
pub use ups::{Battery, BatteryModel};
