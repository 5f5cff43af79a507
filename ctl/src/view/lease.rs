//! Cordons that metis holds.

use jiff::Timestamp;
use metis_proto::v1;
use serde::Serialize;

use super::{text, time};
use crate::human::{self, Look};
use crate::output::{Tone, cell, table};

/// Answer of `lease list`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeasesView {
    /// Each a cordon.
    pub leases: Vec<LeaseView>,
}

/// A cordon of metis'.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeaseView {
    /// The node, by its Kubernetes name.
    pub node: String,
    /// The run that placed it.
    pub run: String,
    /// In which step.
    pub step: String,
    /// What the run was for.
    pub reason: Option<String>,
    /// When.
    pub placed: Option<Timestamp>,
    /// null: it ends with its run.
    pub expires: Option<Timestamp>,
    /// Why a person has to look; null: nobody has to.
    pub manual_action: Option<String>,
}

/// Answer of `lease renew` and `lease release`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeaseDone {
    /// Nothing was changed.
    pub dry_run: bool,
    /// What was done, or would be.
    pub done: String,
}

impl From<v1::Lease> for LeaseView {
    fn from(lease: v1::Lease) -> Self {
        Self {
            node: lease.node,
            run: lease.run,
            step: lease.step,
            reason: text(lease.reason),
            placed: time(lease.placed),
            expires: time(lease.expires),
            manual_action: text(lease.manual_action),
        }
    }
}

impl From<v1::ListLeasesResponse> for LeasesView {
    fn from(r: v1::ListLeasesResponse) -> Self {
        Self { leases: r.leases.into_iter().map(Into::into).collect() }
    }
}

impl LeasesView {
    /// One row each.
    pub fn table(&self, look: &Look) -> String {
        if self.leases.is_empty() {
            return "metis holds no cordon\n".to_owned();
        }
        let plain = |text: &str| cell(text, Tone::Plain);
        let rows = self.leases.iter().map(|lease| {
            let because = lease.manual_action.as_deref().map_or_else(|| plain("-"), |because| cell(because, Tone::Bad));
            vec![
                plain(&lease.node),
                plain(&lease.run),
                plain(&lease.placed.map_or_else(|| "-".to_owned(), |at| human::when(at, look))),
                plain(&lease.expires.map_or_else(|| "with its run".to_owned(), |at| human::when(at, look))),
                because,
            ]
        });
        let table = table(&["NODE", "RUN", "PLACED", "EXPIRES", "NEEDS A PERSON"], &[], rows.collect(), look);
        format!("{table}\n")
    }
}
