//! Connections that are kept and shared, and how many commands run at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use russh::Disconnect;
use russh::client::Handle;
use tokio::sync::{MutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::trust::Check;
use crate::site::{Host, SecretRef};

/// A connection that nobody used for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// Commands on one connection at once; sshd takes 10 (MaxSessions of sshd_config(5)).
const PER_CONNECTION: usize = 8;

/// A connection that stands.
pub type Live = Handle<Check>;

/// All that makes two connections the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct To {
    address: String,
    port: u16,
    user: String,
    key: Option<SecretRef>,
    host_keys: Vec<String>,
}

/// Connections by host.
pub struct Pool {
    slots: Mutex<HashMap<To, Arc<Slot>>>,
    at_once: Arc<Semaphore>,
}

struct Slot {
    live: tokio::sync::Mutex<Option<Arc<Live>>>,
    sessions: Arc<Semaphore>,
    /// Closes it after [`IDLE`]; dropping it calls that off.
    closing: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// The right to run one command on a host.
pub struct Session {
    slot: Arc<Slot>,
    here: Option<OwnedSemaphorePermit>,
    _at_once: OwnedSemaphorePermit,
}

impl Pool {
    /// At most so many commands at once, over all hosts.
    pub fn new(at_once: usize) -> Self {
        Self { slots: Mutex::default(), at_once: Arc::new(Semaphore::new(at_once.max(1))) }
    }

    /// Waits for a turn.
    pub async fn session(&self, host: &Host, key: Option<&SecretRef>) -> Session {
        let slot = self.slot(host, key);
        // The host's own turn first: who waits for a busy host holds nobody else back.
        let here = acquire(&slot.sessions).await;
        let at_once = acquire(&self.at_once).await;
        slot.closing.lock().unwrap_or_else(PoisonError::into_inner).take();
        Session { slot, here: Some(here), _at_once: at_once }
    }

    fn slot(&self, host: &Host, key: Option<&SecretRef>) -> Arc<Slot> {
        let to = To {
            address: host.address.clone(),
            port: host.port,
            user: host.user.clone(),
            key: host.key.as_ref().or(key).cloned(),
            host_keys: host.host_keys.clone(),
        };
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(to).or_insert_with(|| {
            Arc::new(Slot {
                live: tokio::sync::Mutex::default(),
                sessions: Arc::new(Semaphore::new(PER_CONNECTION)),
                closing: Mutex::default(),
            })
        }))
    }
}

async fn acquire(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    match Arc::clone(semaphore).acquire_owned().await {
        Ok(permit) => permit,
        // Nobody closes these semaphores.
        Err(_) => std::future::pending().await,
    }
}

impl Session {
    /// The host's connection; whoever holds this is the only one who makes a new one.
    pub async fn live(&self) -> MutexGuard<'_, Option<Arc<Live>>> {
        self.slot.live.lock().await
    }

    /// Nobody uses this connection for anything new; commands that run on it may end.
    pub async fn give_up(&self, handle: &Arc<Live>) {
        let mut live = self.live().await;
        if live.as_ref().is_some_and(|current| Arc::ptr_eq(current, handle)) {
            *live = None;
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.here = None;
        let unused = self.slot.sessions.available_permits() == PER_CONNECTION;
        // Outside of a runtime there is no connection to close either.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if unused {
            let task = runtime.spawn(close_idle(Arc::downgrade(&self.slot)));
            *self.slot.closing.lock().unwrap_or_else(PoisonError::into_inner) = Some(AbortOnDropHandle::new(task));
        }
    }
}

async fn close_idle(slot: Weak<Slot>) {
    tokio::time::sleep(IDLE).await;
    let Some(slot) = slot.upgrade() else { return };
    let live = slot.live.lock().await.take();
    if let Some(handle) = live {
        let _ = tokio::time::timeout(Duration::from_secs(1), handle.disconnect(Disconnect::ByApplication, "idle", "")).await;
    }
}
