//! This host as the primary of its UPSes, as upsmon(8) would be: FSD, and who still has to go.
//!
//! metis replaces upsmon on its hosts, so upsd has to take it for a primary: the user of `power.upses` needs `upsmon primary` in
//! upsd.users(5). Every exchange has a connection of its own, under the deadline that the caller gives.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::nut::{Conn, ErrCode, Held, NutError, Target};
use super::{UpsSettings, port};
use crate::site::{Secret, SecretRef, UpsName};

/// Looks up a password; it may block, and its error says what to do.
pub type Resolve = Arc<dyn Fn(&SecretRef) -> Result<Secret, String> + Send + Sync>;

/// The real implementation of [`port::Primary`].
#[derive(Clone)]
pub struct NutPrimary {
    upses: Vec<UpsSettings>,
    resolve: Resolve,
    held: Held,
}

/// A UPS with what is needed to reach its upsd.
struct Reach<'a> {
    settings: &'a UpsSettings,
    target: Target,
}

impl NutPrimary {
    /// For these UPSes. `held`: the logins of this daemon's own monitor, which are nobody's to wait for.
    pub fn new(upses: &[UpsSettings], resolve: Resolve, held: Held) -> Self {
        Self { upses: upses.to_vec(), resolve, held }
    }

    /// Tests that upsd takes this host for a primary of the UPS, and changes nothing: upsd checks passwords only where they are needed,
    /// and a plain LOGIN does not tell a primary from a secondary.
    pub async fn check(&self, ups: &UpsName, within: Duration) -> Result<(), String> {
        let reach = self.reach(ups)?;
        bounded(ups, within, async {
            let conn = self.as_primary(&reach, within).await?;
            conn.logout().await.map_err(|error| reach.explain(&error))
        })
        .await
    }

    /// Addresses of those who hold a login on the UPS (`LIST CLIENT`), with how many of them are this daemon's own.
    pub async fn clients(&self, ups: &UpsName, within: Duration) -> Result<(Vec<String>, u32), String> {
        let reach = self.reach(ups)?;
        bounded(ups, within, async {
            let mut conn = reach.connect(within).await?;
            let clients = conn.list_clients(&reach.target.ups).await.map_err(|error| reach.explain(&error))?;
            Ok((clients, self.held.count(ups)))
        })
        .await
    }

    fn reach(&self, ups: &UpsName) -> Result<Reach<'_>, String> {
        let settings = self.upses.iter().find(|known| known.name == *ups).ok_or_else(|| format!("{ups} is not in power.upses"))?;
        let target = ups.as_str().parse().map_err(|error| format!("{error}"))?;
        Ok(Reach { settings, target })
    }

    /// A connection that upsd has granted PRIMARY on.
    async fn as_primary(&self, reach: &Reach<'_>, within: Duration) -> Result<Conn, String> {
        let ups = &reach.settings.name;
        let (Some(user), Some(reference)) = (&reach.settings.username, &reach.settings.password) else {
            return Err(format!(
                "{ups}: upsd takes FSD only from a primary, and no user is configured; set username and password of power.upses.{ups} to a \
                 user with `upsmon primary` in upsd.users(5)"
            ));
        };
        let (resolve, reference) = (Arc::clone(&self.resolve), reference.clone());
        let password =
            tokio::task::spawn_blocking(move || resolve(&reference)).await.map_err(|error| format!("{ups}: its password: {error}"))?;
        let password = password.map_err(|error| format!("{ups}: its password cannot be read: {error}"))?;
        let mut conn = reach.connect(within).await?;
        conn.credentials(user, &password).await.map_err(|error| reach.explain(&error))?;
        conn.primary(&reach.target.ups).await.map_err(|error| reach.explain(&error))?;
        Ok(conn)
    }
}

#[tonic::async_trait]
impl port::Primary for NutPrimary {
    async fn set_fsd(&self, ups: &UpsName, within: Duration) -> Result<(), String> {
        let reach = self.reach(ups)?;
        bounded(ups, within, async {
            let mut conn = self.as_primary(&reach, within).await?;
            conn.forced_shutdown(&reach.target.ups).await.map_err(|error| reach.explain(&error))
        })
        .await
    }

    async fn secondaries(&self, ups: &UpsName, within: Duration) -> Result<u32, String> {
        let reach = self.reach(ups)?;
        bounded(ups, within, async {
            let mut conn = reach.connect(within).await?;
            let all = conn.num_logins(&reach.target.ups).await.map_err(|error| reach.explain(&error))?;
            Ok(all.saturating_sub(self.held.count(ups)))
        })
        .await
    }

    async fn check(&self, ups: &UpsName, within: Duration) -> Result<(), String> {
        Self::check(self, ups, within).await
    }
}

impl Reach<'_> {
    async fn connect(&self, within: Duration) -> Result<Conn, String> {
        let connected = async {
            let conn = Conn::connect(&self.target.host, self.target.port, within).await?;
            match &self.settings.tls {
                Some(tls) => conn.starttls(tls, &self.target.host).await,
                None => Ok(conn),
            }
        };
        connected.await.map_err(|error| self.explain(&error))
    }

    /// What went wrong, with what to change where.
    fn explain(&self, error: &NutError) -> String {
        let (name, host) = (&self.settings.name, &self.target.host);
        let advice = match error {
            NutError::Refused { code: ErrCode::AccessDenied, .. } => {
                let user = self.settings.username.as_deref().unwrap_or_default();
                format!(
                    "; in upsd.users(5) on {host} the section [{user}] needs the password that power.upses.{name} refers to, and `upsmon \
                     primary` (`upsmon master` before NUT 2.8); then `upsd -c reload` there"
                )
            }
            NutError::Refused { code: ErrCode::UnknownUps, .. } => {
                format!("; ups.conf(5) on {host} has no [{}]: correct the name in power.upses", self.target.ups)
            }
            NutError::Refused { code: ErrCode::DataStale | ErrCode::DriverNotConnected, .. } => {
                format!(
                    "; upsd does that for no UPS whose driver is gone: `upsdrvctl start {}` on {host}. Its secondaries stop by their own \
                     DEADTIME where it was on battery",
                    self.target.ups
                )
            }
            NutError::Refused { code: ErrCode::FeatureNotConfigured | ErrCode::FeatureNotSupported, request: "STARTTLS" } => {
                format!(
                    "; upsd.conf(5) on {host} has no certificate (CERTFILE, or CERTPATH and CERTIDENT): give it one or remove power.upses.{name}.tls"
                )
            }
            _ => String::new(),
        };
        format!("{name}: {error}{advice}")
    }
}

async fn bounded<T>(ups: &UpsName, within: Duration, exchange: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    timeout(within, exchange).await.unwrap_or_else(|_| Err(format!("{ups}: its upsd did not answer within {within:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::port::Primary as _;
    use std::time::Instant;
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;

    const WITHIN: Duration = Duration::from_millis(400);

    fn primary(
        name: &str,
        username: Option<&str>,
        resolve: impl Fn(&SecretRef) -> Result<Secret, String> + Send + Sync + 'static,
    ) -> NutPrimary {
        let password = username.map(|_| SecretRef::Credential("nut".to_owned()));
        let ups = UpsSettings { name: name.into(), username: username.map(str::to_owned), password, tls: None };
        NutPrimary::new(&[ups], Arc::new(resolve), Held::default())
    }

    /// An upsd that gives these answers, line by line, then none; what it was told.
    async fn upsd(answers: &'static [&'static str]) -> (String, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = format!("ups@{}", listener.local_addr().unwrap());
        let told = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let (mut told, mut answers) = (Vec::new(), answers.iter());
            let mut line = String::new();
            while stream.read_line(&mut line).await.unwrap_or(0) > 0 {
                told.push(line.trim_end().to_owned());
                line.clear();
                if let Some(answer) = answers.next() {
                    stream.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
                }
            }
            told
        });
        (name, told)
    }

    #[tokio::test]
    async fn fsd_is_asked_for_as_upsmon_does() {
        let (name, told) = upsd(&["OK", "OK", "OK PRIMARY-GRANTED", "OK FSD-SET"]).await;
        primary(&name, Some("metis"), |_| Ok(Secret::new(*b"pw\n"))).set_fsd(&name.as_str().into(), WITHIN).await.unwrap();
        assert_eq!(told.await.unwrap(), ["USERNAME \"metis\"", "PASSWORD \"pw\"", "PRIMARY \"ups\"", "FSD \"ups\""]);
    }

    #[tokio::test]
    async fn refusals_say_what_to_change_and_no_secret() {
        type Case = (&'static [&'static str], &'static [&'static str]);
        let cases: &[Case] = &[
            (
                &["OK", "OK", "ERR ACCESS-DENIED"],
                &["upsd refused PRIMARY: ACCESS-DENIED; in upsd.users(5) on 127.0.0.1", "[metis]", "`upsmon primary`"],
            ),
            (&["OK", "OK", "ERR UNKNOWN-UPS"], &["ups.conf(5) on 127.0.0.1 has no [ups]"]),
            (&["OK", "OK", "OK", "ERR DRIVER-NOT-CONNECTED"], &["upsd refused FSD: DRIVER-NOT-CONNECTED", "`upsdrvctl start ups`"]),
            (&["OK", "OK", "OK", "ERR DATA-STALE"], &["upsd refused FSD: DATA-STALE"]),
            (&["OK", "OK", "OK", "ERR NEW-CODE"], &["upsd refused FSD: NEW-CODE"]),
            (&["OK", "OK", "HTTP/1.1 400"], &["answered PRIMARY with \"HTTP/1.1 400\""]),
        ];
        for (answers, parts) in cases {
            let (name, _told) = upsd(answers).await;
            let error =
                primary(&name, Some("metis"), |_| Ok(Secret::new(*b"s3cret"))).set_fsd(&name.as_str().into(), WITHIN).await.unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)) && error.starts_with(&name), "{answers:?}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[tokio::test]
    async fn what_is_missing_here_is_said_before_anybody_is_asked() {
        let ups: UpsName = "ups@127.0.0.1:1".into();
        let none = primary(ups.as_str(), None, |_| panic!("no password to look up"));
        assert!(
            none.set_fsd(&ups, WITHIN)
                .await
                .unwrap_err()
                .contains("no user is configured; set username and password of power.upses.ups@127.0.0.1:1")
        );
        let unread = primary(ups.as_str(), Some("m"), |_| Err("secret /x: there is no such file".to_owned()));
        assert_eq!(
            unread.check(&ups, WITHIN).await.unwrap_err(),
            "ups@127.0.0.1:1: its password cannot be read: secret /x: there is no such file"
        );
        assert_eq!(none.secondaries(&"v@h".into(), WITHIN).await.unwrap_err(), "v@h is not in power.upses");
        assert!(none.secondaries(&ups, WITHIN).await.unwrap_err().contains("cannot connect to upsd at 127.0.0.1:1"));
    }

    #[tokio::test]
    async fn a_silent_upsd_and_a_slow_password_end_at_the_deadline() {
        let (name, _told) = upsd(&["OK"]).await;
        let slow = |_: &SecretRef| {
            std::thread::sleep(2 * WITHIN);
            Ok(Secret::new(*b"x"))
        };
        for primary in [primary(&name, Some("m"), |_| Ok(Secret::new(*b"x"))), primary(&name, Some("m"), slow)] {
            let begun = Instant::now();
            let error = primary.set_fsd(&name.as_str().into(), WITHIN).await.unwrap_err();
            assert!(error.contains("within 400ms"), "{error}");
            assert!(begun.elapsed() < 2 * WITHIN + WITHIN, "{:?}", begun.elapsed());
        }
    }

    #[tokio::test]
    async fn our_own_login_is_no_secondary() {
        let (name, _told) = upsd(&["NUMLOGINS ups 3"]).await;
        let ups = UpsName::from(name.as_str());
        let primary = primary(&name, None, |_| panic!("no password is needed"));
        let held = primary.held.enter(&ups);
        assert_eq!(primary.secondaries(&ups, WITHIN).await, Ok(2));
        drop(held);
        let (name, _told) = upsd(&["NUMLOGINS ups 3"]).await;
        let without = super::tests::primary(&name, None, |_| panic!("no password is needed"));
        assert_eq!(without.secondaries(&name.as_str().into(), WITHIN).await, Ok(3));
    }
}
