//! systemd and logind of this host over D-Bus (org.freedesktop.systemd1(5), org.freedesktop.login1(5)). metisd runs as its own user; what it may
//! do here is in polkit's rules (`systemd/polkit-1/rules.d/metis.rules`).

mod watch;

use std::future::Future;
use std::time::Duration;

use futures::StreamExt as _;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};
use zbus::{Connection, DynamicType, MatchRule, MessageStream, OwnedFd, OwnedObjectPath, Type, fdo};

pub use watch::{ShutdownEvent, ShutdownWatch};

use super::port::{HostError, Stopped};
use super::systemctl::{self, Inhibitor, UnitState, blocker};

/// A service on the bus.
#[derive(Debug, Clone, Copy)]
struct Service {
    name: &'static str,
    path: &'static str,
    interface: &'static str,
}

const SYSTEMD: Service =
    Service { name: "org.freedesktop.systemd1", path: "/org/freedesktop/systemd1", interface: "org.freedesktop.systemd1.Manager" };
const LOGIND: Service =
    Service { name: "org.freedesktop.login1", path: "/org/freedesktop/login1", interface: "org.freedesktop.login1.Manager" };

/// `SD_LOGIND_SKIP_INHIBITORS` of org.freedesktop.login1(5), from systemd 257 on.
const SKIP_INHIBITORS: u64 = 1 << 4;

const SIGKILL: i32 = 9;

/// As ListUnitsByNames answers: name, description, load, active, sub, following, path, job, job's type and path.
type Unit = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// This host's service manager.
#[derive(Debug, Default)]
pub struct Systemd {
    address: Option<String>,
    connection: tokio::sync::Mutex<Option<Connection>>,
}

impl Systemd {
    /// On the system bus, connected to when it is first needed.
    pub fn new() -> Self {
        Self::default()
    }

    /// On the bus at this D-Bus address, such as `unix:path=/run/dbus/system_bus_socket`.
    pub fn at(address: impl Into<String>) -> Self {
        Self { address: Some(address.into()), ..Self::default() }
    }

    /// Whether this user may power this host off.
    ///
    /// # Errors
    /// Denied where it may not; Unreachable without a bus.
    pub async fn probe(&self, within: Duration) -> Result<(), HostError> {
        let what = "asking logind whether this host may be powered off";
        let answer: String = limited(what, within, self.call(LOGIND, "CanPowerOff", &(), what)).await?;
        match answer.as_str() {
            // A lock that is held now may be gone when it matters, and is passed over if not.
            "yes" | "inhibited" | "inhibitor-blocked" => Ok(()),
            _ => Err(HostError::Denied(format!("this user may not power this host off (logind: {answer}); {RULES}"))),
        }
    }

    /// Stops a unit and sees it inactive; one that is not there or not active is done.
    ///
    /// # Errors
    /// See [`HostError`].
    pub async fn stop_unit(&self, unit: &str, within: Duration) -> Result<(), HostError> {
        let what = format!("stopping {unit} on this host");
        limited(&what, within, async {
            if self.state(unit, &what).await?.is_stopped() {
                return Ok(());
            }
            match self.job("StopUnit", unit, &what).await {
                Ok(()) => {}
                // It went meanwhile.
                Err(HostError::Failed(_)) if self.state(unit, &what).await?.is_stopped() => return Ok(()),
                Err(error) => return Err(error),
            }
            let state = self.state(unit, &what).await?;
            if state.is_stopped() { Ok(()) } else { Err(HostError::Failed(format!("{what}: it is {} again", state.active))) }
        })
        .await
    }

    /// As [`Systemd::stop_unit`]; one that has not stopped in most of that time is killed.
    ///
    /// # Errors
    /// See [`HostError`].
    pub async fn stop_or_kill(&self, unit: &str, within: Duration) -> Result<Stopped, HostError> {
        let until = Instant::now() + within;
        let left = || until.saturating_duration_since(Instant::now());
        let asked = self.stop_unit(unit, systemctl::patience(within)).await;
        let Err(HostError::TimedOut(_)) = asked else { return asked.map(|()| Stopped::Asked) };
        let what = format!("killing {unit} on this host, which does not stop");
        let order = (unit, "main", SIGKILL);
        let kill = self.call::<_, ()>(SYSTEMD, "KillUnit", &order, &what);
        let killed = limited(&what, left(), kill).await;
        if let Err(error) = &killed {
            tracing::warn!(%error, "{unit} of this host does not stop and cannot be killed");
        }
        self.stop_unit(unit, left()).await.map(|()| if killed.is_ok() { Stopped::Killed } else { Stopped::Asked })
    }

    /// Starts a unit without waiting for it to be up.
    ///
    /// # Errors
    /// See [`HostError`].
    pub async fn start_unit(&self, unit: &str, within: Duration) -> Result<(), HostError> {
        let what = format!("starting {unit} on this host");
        let order = (unit, "replace");
        limited(&what, within, self.call::<_, OwnedObjectPath>(SYSTEMD, "StartUnit", &order, &what)).await.map(drop)
    }

    /// Starts a unit and waits for it: of `Type=oneshot` that is until it has done its work.
    ///
    /// # Errors
    /// See [`HostError`]; Failed where it fails.
    pub async fn run_unit(&self, unit: &str, within: Duration) -> Result<(), HostError> {
        let what = format!("running {unit} on this host");
        limited(&what, within, self.job("StartUnit", unit, &what)).await
    }

    /// A unit's state; one that is not there is `not-found` and `inactive`.
    ///
    /// # Errors
    /// See [`HostError`].
    pub async fn unit_state(&self, unit: &str, within: Duration) -> Result<UnitState, HostError> {
        let what = format!("looking at {unit} on this host");
        limited(&what, within, self.state(unit, &what)).await
    }

    /// Inhibitor locks that are held.
    ///
    /// # Errors
    /// See [`HostError`].
    pub async fn inhibitors(&self, within: Duration) -> Result<Vec<Inhibitor>, HostError> {
        let what = "listing inhibitor locks of this host";
        type Lock = (String, String, String, String, u32, u32);
        let locks: Vec<Lock> = limited(what, within, self.call(LOGIND, "ListInhibitors", &(), what)).await?;
        let inhibitor = |(what, who, why, mode, uid, pid)| Inhibitor { what, who, why, mode, uid, pid };
        Ok(locks.into_iter().map(inhibitor).collect())
    }

    /// Who holds a lock against this host's power-off, for people.
    ///
    /// # Errors
    /// See [`HostError`].
    pub async fn blockers(&self, within: Duration) -> Result<Vec<String>, HostError> {
        let locks = self.inhibitors(within).await?;
        Ok(locks.iter().filter(|lock| lock.blocks_shutdown()).map(blocker).collect())
    }

    /// Powers this host off after `delay`, past any lock. Done once logind took it.
    ///
    /// # Errors
    /// See [`HostError`].
    pub async fn power_off(&self, delay: Duration, within: Duration) -> Result<(), HostError> {
        let what = "powering this host off";
        limited(what, within, async {
            if !delay.is_zero() {
                // From systemd 257 on a lock refuses this, whoever asks.
                match self.schedule_at("poweroff", delay, what).await {
                    Err(HostError::Failed(why)) => tracing::warn!(%why, "the power-off cannot be scheduled, so it is waited for"),
                    other => return other,
                }
                tokio::time::sleep(delay).await;
            }
            self.power_off_now(what).await
        })
        .await
    }

    async fn power_off_now(&self, what: &str) -> Result<(), HostError> {
        let flagged = self.call::<_, ()>(LOGIND, "PowerOffWithFlags", &(SKIP_INHIBITORS,), what).await;
        // systemd before 257 knows no such flag, and needs none: polkit's power-off-ignore-inhibit decides.
        let Err(HostError::Failed(_)) = flagged else { return flagged };
        self.call::<_, ()>(LOGIND, "PowerOff", &(false,), what).await
    }

    /// Schedules a power-off, or with `dry` one that is only played through.
    ///
    /// # Errors
    /// See [`HostError`].
    pub async fn schedule_power_off(&self, delay: Duration, dry: bool, within: Duration) -> Result<(), HostError> {
        let what = "scheduling a power-off of this host";
        limited(what, within, self.schedule_at(if dry { "dry-poweroff" } else { "poweroff" }, delay, what)).await
    }

    /// Calls a scheduled shutdown off; whether there was one.
    ///
    /// # Errors
    /// See [`HostError`].
    pub async fn cancel_scheduled(&self, within: Duration) -> Result<bool, HostError> {
        let what = "calling the scheduled shutdown of this host off";
        limited(what, within, self.call(LOGIND, "CancelScheduledShutdown", &(), what)).await
    }

    /// Hears of shutdowns of this host that anybody orders, holding each up until it was heard of.
    ///
    /// # Errors
    /// See [`HostError`].
    pub async fn watch_shutdown(&self, within: Duration) -> Result<ShutdownWatch, HostError> {
        let what = "listening for shutdowns of this host";
        limited(what, within, async { ShutdownWatch::start(self.connection(what).await?).await }).await
    }

    /// logind counts on the wall clock, so a clock that is set meanwhile moves it; delays are a few seconds.
    async fn schedule_at(&self, kind: &str, delay: Duration, what: &str) -> Result<(), HostError> {
        let now = clock_gettime(ClockId::CLOCK_REALTIME).map_or(Duration::ZERO, Duration::from);
        let at = u64::try_from((now + delay).as_micros()).unwrap_or(u64::MAX);
        self.call(LOGIND, "ScheduleShutdown", &(kind, at), what).await
    }

    async fn state(&self, unit: &str, what: &str) -> Result<UnitState, HostError> {
        let units: Vec<Unit> = self.call(SYSTEMD, "ListUnitsByNames", &(vec![unit],), what).await?;
        let first = units.into_iter().next();
        let (_, _, load, active, ..) = first.ok_or_else(|| HostError::Failed(format!("{what}: systemd says nothing of it")))?;
        Ok(UnitState { load, active })
    }

    /// Orders a job and waits until it is removed.
    async fn job(&self, method: &str, unit: &str, what: &str) -> Result<(), HostError> {
        let connection = self.connection(what).await?;
        // Before the job, which may be over at once.
        let mut removed = signals(&connection, SYSTEMD, "JobRemoved", what).await?;
        self.call::<_, ()>(SYSTEMD, "Subscribe", &(), what).await.or_else(|error| match error {
            // This connection has subscribed already.
            HostError::Failed(_) => Ok(()),
            error => Err(error),
        })?;
        let job: OwnedObjectPath = self.call(SYSTEMD, method, &(unit, "replace"), what).await?;
        while let Some(message) = removed.next().await {
            let message = message.map_err(|error| failed(what, &error))?;
            let Ok((_, path, _, result)) = message.body().deserialize::<(u32, OwnedObjectPath, String, String)>() else { continue };
            if path != job {
                continue;
            }
            return match result.as_str() {
                "done" | "skipped" => Ok(()),
                result => Err(HostError::Failed(format!("{what}: its job ended with `{result}`; see journalctl -u {unit}"))),
            };
        }
        Err(HostError::Unreachable(format!("{what}: the connection to the system bus was lost")))
    }

    async fn call<B, R>(&self, service: Service, method: &str, body: &B, what: &str) -> Result<R, HostError>
    where
        B: Serialize + DynamicType + Sync,
        R: DeserializeOwned + Type,
    {
        let connection = self.connection(what).await?;
        call(&connection, service, method, body, what).await
    }

    /// The connection, made anew where it was lost (dbus-daemon was restarted).
    async fn connection(&self, what: &str) -> Result<Connection, HostError> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = connection.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let builder = match &self.address {
            Some(address) => zbus::connection::Builder::address(address.as_str()),
            None => zbus::connection::Builder::system(),
        };
        let made = builder.build().await;
        let made = made.map_err(|error| HostError::Unreachable(format!("{what}: the system bus cannot be reached: {error}")))?;
        *connection = Some(made.clone());
        Ok(made)
    }
}

/// Where rights come from, for messages.
const RULES: &str = "see /usr/share/polkit-1/rules.d/metis.rules (polkitd must be installed)";

async fn call<B, R>(connection: &Connection, service: Service, method: &str, body: &B, what: &str) -> Result<R, HostError>
where
    B: Serialize + DynamicType + Sync,
    R: DeserializeOwned + Type,
{
    let reply = connection.call_method(Some(service.name), service.path, Some(service.interface), method, body).await;
    let reply = reply.map_err(|error| failed(what, &error))?;
    reply.body().deserialize().map_err(|error| failed(what, &error))
}

/// A signal of a service, from now on.
async fn signals(connection: &Connection, service: Service, member: &str, what: &str) -> Result<MessageStream, HostError> {
    let rule = MatchRule::builder().msg_type(zbus::message::Type::Signal).sender(service.name).interface(service.interface).member(member);
    let rule = rule.build().map_err(|error| failed(what, &error))?;
    MessageStream::for_match_rule(rule, connection, None).await.map_err(|error| failed(what, &error))
}

/// Takes a delay lock (org.freedesktop.login1(5), Inhibit); it is held as long as the descriptor is open.
async fn delay_lock(connection: &Connection, what: &str) -> Result<OwnedFd, HostError> {
    let body = ("shutdown", "metis", "to record that this host goes down", "delay");
    call(connection, LOGIND, "Inhibit", &body, what).await
}

async fn limited<T>(what: &str, within: Duration, work: impl Future<Output = Result<T, HostError>>) -> Result<T, HostError> {
    let until = Instant::now() + within;
    timeout_at(until, work).await.map_err(|_| HostError::TimedOut(format!("{what}: no answer within {within:?}")))?
}

fn failed(what: &str, error: &zbus::Error) -> HostError {
    match error {
        zbus::Error::FDO(inner) => match &**inner {
            fdo::Error::AccessDenied(why) | fdo::Error::AuthFailed(why) | fdo::Error::InteractiveAuthorizationRequired(why) => {
                HostError::Denied(format!("{what}: this user may not: {why}; {RULES}"))
            }
            fdo::Error::ServiceUnknown(_) | fdo::Error::NameHasNoOwner(_) | fdo::Error::Disconnected(_) | fdo::Error::NoReply(_) => {
                HostError::Unreachable(format!("{what}: {inner}"))
            }
            other => HostError::Failed(format!("{what}: {other}")),
        },
        zbus::Error::InputOutput(_) | zbus::Error::Connection(..) => HostError::Unreachable(format!("{what}: {error}")),
        other => HostError::Failed(format!("{what}: {other}")),
    }
}
