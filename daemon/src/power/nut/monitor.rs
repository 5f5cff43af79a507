//! Watches UPSes: one connection to each upsd, one round trip a poll, reconnecting for ever.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::conn::Conn;
use super::error::{ErrCode, NutError};
use super::held::{Held, Holding};
use super::target::{NameError, Target};
use super::ticks::Ticks;
use crate::power::{LinkError, Observation, Settings, TlsSettings, reading_from_vars};
use crate::site::{Reading, Secret, UpsName};

/// First pause before connecting again.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause; together with a poll it stays within the 3 s that metis may add to upsd's own MAXAGE.
const LONGEST_PAUSE: Duration = Duration::from_millis(2500);
/// Longest pause while a UPS was last heard on battery.
const LONGEST_PAUSE_ON_BATTERY: Duration = Duration::from_millis(800);
/// How often refused credentials are tried again.
const RETRY_LOGIN: Duration = Duration::from_mins(1);

/// Watches all configured UPSes.
#[derive(Debug)]
pub struct Monitor {
    upsds: Vec<Upsd>,
}

/// Why a monitor could not be made, or ended.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// A UPS's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// One of its tasks is gone.
    #[error("the task that watches an upsd ended: {0}")]
    Task(#[from] JoinError),
}

/// One upsd and what is watched there.
#[derive(Debug)]
struct Upsd {
    host: String,
    port: u16,
    tls: Option<TlsSettings>,
    upses: Vec<(UpsName, String)>,
    logins: Vec<Login>,
    /// Its one UPS is logged in to on the connection that polls (upsd takes one LOGIN a connection).
    hold: Option<Held>,
    poll_interval: Duration,
    within: Duration,
}

/// Credentials, and one UPS to try them on.
#[derive(Debug, PartialEq)]
struct Login {
    username: String,
    password: Option<Secret>,
    ups: String,
}

impl Monitor {
    /// Groups the UPSes by their upsd; one that is logged in to has a connection of its own. `passwords`: what was found for
    /// `power.upses[].password`; a missing one is shown as a problem.
    pub fn new(settings: &Settings, passwords: &BTreeMap<UpsName, Secret>, holding: &Holding) -> Result<Self, NameError> {
        let mut upsds: Vec<Upsd> = Vec::new();
        for config in &settings.upses {
            let Target { ups, host, port } = config.name.as_str().parse()?;
            let hold = (config.username.is_some() && holding.upses.contains(&config.name)).then(|| holding.held.clone());
            let joins = |upsd: &Upsd| upsd.hold.is_none() && upsd.host == host && upsd.port == port && upsd.tls == config.tls;
            let known = upsds.iter().position(joins).filter(|_| hold.is_none());
            let index = known.unwrap_or_else(|| {
                let (tls, upses, logins) = (config.tls.clone(), Vec::new(), Vec::new());
                let (poll_interval, within) = (settings.poll_interval, settings.read_timeout);
                upsds.push(Upsd { host, port, tls, upses, logins, hold, poll_interval, within });
                upsds.len() - 1
            });
            let upsd = &mut upsds[index];
            if let Some(username) = config.username.clone() {
                let login = Login { username, password: passwords.get(&config.name).cloned(), ups: ups.clone() };
                if !upsd.logins.iter().any(|known| known.username == login.username && known.password == login.password) {
                    upsd.logins.push(login);
                }
            }
            upsd.upses.push((config.name.clone(), ups));
        }
        Ok(Self { upsds })
    }

    /// Polls until `stop` or until nobody receives any more. To be owned: an error means that some upsd is no longer watched.
    pub async fn run(self, out: mpsc::Sender<Observation>, stop: CancellationToken) -> Result<(), MonitorError> {
        let mut tasks = JoinSet::new();
        for upsd in self.upsds {
            let (out, stop) = (out.clone(), stop.clone());
            tasks.spawn(async move {
                let _ = stop.run_until_cancelled(upsd.watch(&out)).await;
            });
        }
        drop(out);
        if tasks.is_empty() {
            // A site without any UPS: there is nothing to watch, which is no reason to end.
            stop.cancelled().await;
        }
        while let Some(ended) = tasks.join_next().await {
            ended?;
        }
        Ok(())
    }
}

/// Nobody receives any more.
struct Unheard;

/// What a watch keeps from one connection to the next.
#[derive(Default)]
struct Memory {
    on_battery: bool,
    attempts: u32,
    login: LoginState,
    login_tried: Option<Instant>,
}

/// What is known of the credentials.
#[derive(Debug, Default, Clone, PartialEq)]
enum LoginState {
    /// Not tried, or no answer.
    #[default]
    Unclear,
    Works,
    Problem(String),
}

impl Upsd {
    async fn watch(self, out: &mpsc::Sender<Observation>) -> Unheard {
        let mut memory = Memory::default();
        loop {
            let error = match self.connect().await {
                Ok(conn) => match self.converse(conn, &mut memory, out).await {
                    Ok(Unheard) => return Unheard,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if memory.attempts == 0 {
                tracing::warn!("{error}; connecting again until it answers");
            }
            let link = LinkError::Unreachable(error.to_string());
            let missed = self.upses.iter().map(|_| Err(link.clone())).collect();
            if self.report(missed, &memory, out).await.is_err() {
                return Unheard;
            }
            sleep(pause(memory.attempts, memory.on_battery, random_fraction())).await;
            memory.attempts = memory.attempts.saturating_add(1);
        }
    }

    async fn connect(&self) -> Result<Conn, NutError> {
        let conn = Conn::connect(&self.host, self.port, self.within).await?;
        match &self.tls {
            Some(tls) => conn.starttls(tls, &self.host).await,
            None => Ok(conn),
        }
    }

    /// Polls over one connection until it fails.
    async fn converse(&self, mut conn: Conn, memory: &mut Memory, out: &mpsc::Sender<Observation>) -> Result<Unheard, NutError> {
        let names: Vec<&str> = self.upses.iter().map(|(_, ups)| ups.as_str()).collect();
        let mut ticks = Ticks::new(self.poll_interval);
        let mut first = true;
        let mut holds = None;
        loop {
            ticks.tick().await;
            let results: Vec<_> = conn.list_vars_of(&names).await?.into_iter().map(read).collect();
            if std::mem::take(&mut first) {
                tracing::info!(upses = ?names, "watching through upsd at {}:{}", self.host, self.port);
            }
            memory.attempts = 0;
            memory.note_line(&results);
            if self.report(results, memory, out).await.is_err() {
                return Ok(Unheard);
            }
            if memory.login_is_due() {
                // A reading must not wait for it longer than for any other exchange.
                let login = timeout(self.within, self.try_logins()).await.unwrap_or(LoginState::Unclear);
                memory.take_login(login);
            }
            if memory.login == LoginState::Works
                && holds.is_none()
                && let (Some(held), Some(login), Some((name, _))) = (&self.hold, self.logins.first(), self.upses.first())
            {
                match timeout(self.within, self.log_in(login)).await {
                    Ok(Ok(logged_in)) => {
                        conn = logged_in;
                        holds = Some(held.enter(name));
                    }
                    Ok(Err(error)) => memory.take_login(login_state(&login.username, &error)),
                    Err(_) => {}
                }
            }
        }
    }

    async fn report(
        &self,
        results: Vec<Result<Reading, LinkError>>,
        memory: &Memory,
        out: &mpsc::Sender<Observation>,
    ) -> Result<(), Unheard> {
        let login_problem = match &memory.login {
            LoginState::Problem(problem) => Some(problem.clone()),
            LoginState::Unclear | LoginState::Works => None,
        };
        for ((name, _), result) in self.upses.iter().zip(results) {
            let observation = Observation { ups: name.clone(), result, login_problem: login_problem.clone() };
            out.send(observation).await.map_err(|_| Unheard)?;
        }
        Ok(())
    }

    /// Tries each credential on a connection of its own, which is closed again: a LOGIN that is held makes a primary wait for metis, which
    /// only [`Holding`] asks for.
    async fn try_logins(&self) -> LoginState {
        let mut state = LoginState::Works;
        for login in &self.logins {
            if login.password.is_none() {
                return LoginState::Problem(format!("login as {} was not tried: its password could not be read", login.username));
            }
            let tried = async { self.log_in(login).await?.logout().await };
            if let Err(error) = tried.await {
                state = login_state(&login.username, &error);
                if state != LoginState::Unclear {
                    break;
                }
            }
        }
        state
    }

    /// A new connection that is logged in: upsd takes one USERNAME a connection, so that one which was refused is of no further use.
    async fn log_in(&self, login: &Login) -> Result<Conn, NutError> {
        let mut conn = self.connect().await?;
        if let Some(password) = &login.password {
            conn.credentials(&login.username, password).await?;
        }
        conn.login(&login.ups).await?;
        Ok(conn)
    }
}

fn login_state(user: &str, error: &NutError) -> LoginState {
    match error {
        NutError::Refused { code, .. } => LoginState::Problem(format!("login as {user} was refused: {code}")),
        NutError::Argument { .. } => LoginState::Problem(format!("login as {user}: {error}")),
        _ => LoginState::Unclear,
    }
}

impl Memory {
    fn note_line(&mut self, results: &[Result<Reading, LinkError>]) {
        let mut heard = results.iter().filter_map(|result| result.as_ref().ok()).peekable();
        if heard.peek().is_some() {
            self.on_battery = heard.any(|reading| reading.status.contains("OB"));
        }
    }

    /// Until they work, once in a while.
    fn login_is_due(&self) -> bool {
        self.login != LoginState::Works && self.login_tried.is_none_or(|tried| tried.elapsed() >= RETRY_LOGIN)
    }

    fn take_login(&mut self, login: LoginState) {
        self.login_tried = Some(Instant::now());
        match &login {
            LoginState::Problem(problem) if login != self.login => {
                tracing::warn!("{problem}; see upsd.users(5) on its host and power.upses in the configuration");
            }
            _ => {}
        }
        self.login = login;
    }
}

fn read(result: Result<BTreeMap<String, String>, ErrCode>) -> Result<Reading, LinkError> {
    result.map(reading_from_vars).map_err(|code| match code {
        ErrCode::DataStale => LinkError::DataStale,
        ErrCode::DriverNotConnected => LinkError::DriverNotConnected,
        ErrCode::UnknownUps => LinkError::UnknownUps,
        code => LinkError::Refused(code.to_string()),
    })
}

/// Doubling, bounded, give or take a quarter (`fraction` in 0..1) so that many hosts do not come back in step.
fn pause(attempts: u32, on_battery: bool, fraction: f64) -> Duration {
    let longest = if on_battery { LONGEST_PAUSE_ON_BATTERY } else { LONGEST_PAUSE };
    let plain = FIRST_PAUSE.saturating_mul(1 << attempts.min(16)).min(longest);
    plain.mul_f64(0.75 + 0.5 * fraction).min(longest)
}

fn random_fraction() -> f64 {
    // Each RandomState is keyed anew by the standard library: enough for jitter, and no dependency.
    (RandomState::new().hash_one(0u8) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pauses_double_and_stay_bounded() {
        let plain = |attempts, on_battery| pause(attempts, on_battery, 0.5).as_millis();
        assert_eq!([0, 1, 2, 3, 4, 40].map(|n| plain(n, false)), [250, 500, 1000, 2000, 2500, 2500]);
        assert_eq!([0, 1, 2, 40].map(|n| plain(n, true)), [250, 500, 800, 800]);
    }

    proptest! {
        #[test]
        fn jitter_stays_within_a_quarter(attempts in any::<u32>(), on_battery in any::<bool>(), fraction in 0.0..1.0f64) {
            let pause = pause(attempts, on_battery, fraction);
            let longest = if on_battery { LONGEST_PAUSE_ON_BATTERY } else { LONGEST_PAUSE };
            prop_assert!(pause <= longest);
            prop_assert!(pause >= FIRST_PAUSE.mul_f64(0.75));
        }
    }

    #[test]
    fn random_fractions_differ_and_stay_below_one() {
        let drawn: Vec<f64> = (0..100).map(|_| random_fraction()).collect();
        assert!(drawn.iter().all(|f| (0.0..1.0).contains(f)) && drawn.windows(2).any(|pair| pair[0] < pair[1]));
    }
}
