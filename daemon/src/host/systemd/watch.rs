//! Shutdowns of this host that others order.

use std::time::Duration;

use futures::StreamExt as _;
use zbus::{Connection, MessageStream, OwnedFd, OwnedVariant};

use super::{LOGIND, delay_lock, failed, signals};
use crate::host::port::HostError;

/// What logind says of a shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownEvent {
    /// One begins; it goes on once [`ShutdownWatch::release`] is called, or after `InhibitDelayMaxSec` of logind.conf(5) (5 s).
    Coming,
    /// It was called off.
    CalledOff,
}

/// Hears of shutdowns, and holds a lock that delays them.
pub struct ShutdownWatch {
    connection: Connection,
    signals: MessageStream,
    lock: Option<OwnedFd>,
    /// It had begun before anybody listened.
    begun: bool,
    limit: Duration,
}

/// Of logind.conf(5), where logind does not say it.
const DEFAULT_LIMIT: Duration = Duration::from_secs(5);
const WHAT: &str = "listening for shutdowns of this host";

impl ShutdownWatch {
    pub(super) async fn start(connection: Connection) -> Result<Self, HostError> {
        // In this order nothing is missed: what begins after the signal is heard shows there, what began before the lock shows in the property.
        let signals = signals(&connection, LOGIND, "PrepareForShutdown", WHAT).await?;
        let lock = delay_lock(&connection, WHAT).await;
        let begun = property::<bool>(&connection, "PreparingForShutdown").await?;
        let limit = property::<u64>(&connection, "InhibitDelayMaxUSec").await.map_or(DEFAULT_LIMIT, Duration::from_micros);
        let lock = match lock {
            Ok(lock) => Some(lock),
            // logind grants none while it shuts down.
            Err(_) if begun => None,
            // Hearing of it late is better than not at all.
            Err(HostError::Denied(why)) => {
                tracing::warn!("shutdowns of this host are heard of, but not held up: {why}");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self { connection, signals, lock, begun, limit })
    }

    /// Whether one had begun before anybody listened; the next event says so too.
    pub fn begun(&self) -> bool {
        self.begun
    }

    /// For so long logind waits (`InhibitDelayMaxSec`).
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Waits for the next one. `None`: the bus is gone; start anew.
    pub async fn next(&mut self) -> Option<ShutdownEvent> {
        if std::mem::take(&mut self.begun) {
            return Some(ShutdownEvent::Coming);
        }
        loop {
            let message = self.signals.next().await?.ok()?;
            match message.body().deserialize::<bool>() {
                Ok(true) => return Some(ShutdownEvent::Coming),
                Ok(false) => {
                    if self.lock.is_none() {
                        self.lock = delay_lock(&self.connection, WHAT).await.ok();
                    }
                    return Some(ShutdownEvent::CalledOff);
                }
                Err(_) => {}
            }
        }
    }

    /// Lets the shutdown go on.
    pub fn release(&mut self) {
        self.lock = None;
    }
}

async fn property<T: TryFrom<OwnedVariant>>(connection: &Connection, name: &str) -> Result<T, HostError>
where
    T::Error: std::fmt::Display,
{
    let body = (LOGIND.interface, name);
    let reply = connection.call_method(Some(LOGIND.name), LOGIND.path, Some("org.freedesktop.DBus.Properties"), "Get", &body).await;
    let reply = reply.map_err(|error| failed(WHAT, &error))?;
    let value: OwnedVariant = reply.body().deserialize().map_err(|error| failed(WHAT, &error))?;
    T::try_from(value).map_err(|error| HostError::Failed(format!("{WHAT}: {error}")))
}
