//! The real prober: one connection for each question, so that nothing of an earlier answer is believed.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::net::SocketAddr;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use rustls::ClientConfig;
use tokio::net::lookup_host;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::port::{Answer, Ask, Page, Place, Prober, Silence, Trust};
use super::{socket, tls};
use crate::site::{Scheme, Target};

/// So much of a body is read.
const BODY: usize = 256 << 10;
/// A CA file that was replaced is read again after this.
const TRUST_AGE: Duration = Duration::from_secs(60);

/// Asks over the network.
#[derive(Default)]
pub struct RealProber {
    trusted: Mutex<BTreeMap<Trust, (Instant, ClientConfig)>>,
}

impl RealProber {
    /// Whose certificates are believed, read from the CA file now and then.
    async fn tls(&self, trust: &Trust) -> Result<ClientConfig, Silence> {
        let mut trusted = self.trusted.lock().await;
        if let Some((_, config)) = trusted.get(trust).filter(|(read, _)| read.elapsed() < TRUST_AGE) {
            return Ok(config.clone());
        }
        let config = tls::config(trust).await.map_err(Silence::CannotTell)?;
        trusted.insert(trust.clone(), (Instant::now(), config.clone()));
        Ok(config)
    }

    async fn exchange(&self, ask: &Ask) -> Result<Answer, Silence> {
        let addresses = addresses(ask).await?;
        match ask.target.scheme {
            Scheme::Http | Scheme::Https => page(&ask.target, &addresses, self.tls(&ask.trust).await?).await.map(Answer::Page),
            Scheme::Tls => {
                let config = self.tls(&ask.trust).await?;
                socket::shake_hands(&ask.target, &addresses, config).await.map(|()| Answer::Open(Vec::new()))
            }
            Scheme::Tcp => socket::listen(&ask.target, &addresses, ask.listen).await.map(Answer::Open),
            Scheme::Postgres => socket::postgres(&ask.target, &addresses).await.map(Answer::Open),
        }
    }
}

#[tonic::async_trait]
impl Prober for RealProber {
    async fn ask(&self, ask: &Ask, within: Duration) -> Result<Answer, Silence> {
        let late = || Err(Silence::NotThere(format!("{} has not answered within {} ms", ask.target, within.as_millis())));
        timeout(within, self.exchange(ask)).await.unwrap_or_else(|_| late())
    }
}

/// Where it is asked. A name that nobody can look up says nothing about the service: the name server may be one of the site's own.
async fn addresses(ask: &Ask) -> Result<Vec<SocketAddr>, Silence> {
    let target = &ask.target;
    let host = match &ask.place {
        Place::At(addresses) => return Ok(addresses.clone()),
        Place::OfHost(host) => host,
        Place::OfTarget => &target.host,
    };
    let found = lookup_host((host.as_str(), target.port())).await;
    let found: Vec<_> = found.map_err(|error| Silence::CannotTell(format!("{target}: {host} cannot be looked up: {error}")))?.collect();
    if found.is_empty() {
        return Err(Silence::CannotTell(format!("{target}: {host} has no address")));
    }
    Ok(found)
}

async fn page(target: &Target, addresses: &[SocketAddr], tls: ClientConfig) -> Result<Page, Silence> {
    let built = Client::builder()
        .tls_backend_preconfigured(tls)
        .http1_only()
        .no_proxy()
        .redirect(Policy::none())
        .pool_max_idle_per_host(0)
        .resolve_to_addrs(&target.host, addresses)
        .user_agent(concat!("metis/", env!("CARGO_PKG_VERSION")))
        .build();
    let client = built.map_err(|error| Silence::CannotTell(format!("{target}: {}", because(&error))))?;
    let gone = |error: reqwest::Error| Silence::NotThere(format!("{target}: {}", because(&error)));
    let response = client.get(target.to_string()).header(reqwest::header::ACCEPT, "*/*").send().await.map_err(gone)?;
    read(response).await.map_err(gone)
}

async fn read(mut response: Response) -> Result<Page, reqwest::Error> {
    let mut page = Page { code: response.status().as_u16(), whole: true, ..Page::default() };
    for (name, value) in response.headers() {
        let value = String::from_utf8_lossy(value.as_bytes());
        let all = page.headers.entry(name.as_str().to_owned()).or_default();
        all.push_str(if all.is_empty() { "" } else { ", " });
        all.push_str(&value);
    }
    while let Some(chunk) = response.chunk().await? {
        let room = BODY - page.body.len();
        page.body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            page.whole = false;
            break;
        }
    }
    Ok(page)
}

/// An error with its causes, which reqwest's own text hides.
fn because(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    let mut text = String::new();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = if text.is_empty() { more } else { format!("{text}: {more}") };
        }
        cause = error.source();
    }
    if text.is_empty() { error.to_string() } else { text }
}
