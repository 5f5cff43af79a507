//! metisd: watches the UPSes, stops and starts the cluster, burns recovery cards. HOUSE rules: rooms do not import each other;
//! `app` wires them.

pub mod api;
pub mod app;
pub mod card;
pub mod cluster;
pub mod config;
pub mod control;
pub mod host;
pub mod journal;
pub mod peer;
pub mod power;
pub mod prepare;
pub mod probe;
pub mod report;
pub mod runbook;
pub mod secrets;
pub mod sim;
pub mod site;
