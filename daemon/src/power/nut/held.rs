//! Logins that the monitor holds, so that they can be told from those of others.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::site::UpsName;

/// UPSes on which this process holds a LOGIN right now. Clones are one register.
#[derive(Debug, Clone, Default)]
pub struct Held(Arc<Mutex<BTreeSet<UpsName>>>);

/// A LOGIN that is held; dropped with its connection.
#[derive(Debug)]
pub(in crate::power) struct Holds {
    register: Held,
    ups: UpsName,
}

impl Held {
    /// How many of a UPS's logins are our own: 0 or 1.
    pub fn count(&self, ups: &UpsName) -> u32 {
        u32::from(self.lock().contains(ups))
    }

    pub(in crate::power) fn enter(&self, ups: &UpsName) -> Holds {
        self.lock().insert(ups.clone());
        Holds { register: self.clone(), ups: ups.clone() }
    }

    /// No holder of the lock can panic.
    fn lock(&self) -> MutexGuard<'_, BTreeSet<UpsName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Holds {
    fn drop(&mut self) {
        self.register.lock().remove(&self.ups);
    }
}

/// What the monitor is to log in to for as long as it watches (LOGIN of RFC 9271): the UPSes that feed this host, once metis is armed.
///
/// upsmon does so, too: a primary elsewhere then counts this host among those it waits for (HOSTSYNC) before the outlets are cut, and the
/// kernel closes the connection only when this host is going down for good. A UPS that is only watched is not logged in to: its primary
/// would wait for a host that it does not feed. Disarmed metis holds none, because it answers no FSD.
#[derive(Debug, Clone, Default)]
pub struct Holding {
    /// The UPSes; those without credentials in the configuration are left out.
    pub upses: BTreeSet<UpsName>,
    /// Where it is entered that a login is held.
    pub held: Held,
}
