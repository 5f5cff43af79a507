//! Calls to the API servers: several endpoints, a deadline around each call, and our own rule for trying again.

mod access;
mod call;
mod failure;
mod list;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use kube::Client;
use tokio::time::{Instant, sleep, timeout};

pub use access::{AccessError, configs};
pub use call::{Call, path};
pub use failure::Failure;
pub use list::List;

/// All API servers of the cluster, as one.
pub struct Api {
    endpoints: Vec<Endpoint>,
    /// The one that answered last.
    good: AtomicUsize,
    call_timeout: Duration,
}

/// One API server.
struct Endpoint {
    url: String,
    config: kube::Config,
    /// The client, and how many were made before it.
    client: Mutex<(u64, Client)>,
}

/// What an API server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The body.
    pub body: Vec<u8>,
    /// Its clock (header `Date`), to the second.
    pub date: Option<Timestamp>,
}

impl Api {
    /// One client for each configuration; must be called on the runtime that drives them.
    ///
    /// # Errors
    /// Where a certificate or key is not valid; the message holds neither.
    pub fn new(configs: Vec<kube::Config>, call_timeout: Duration) -> Result<Self, AccessError> {
        let endpoints = configs.into_iter().map(Endpoint::new).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { endpoints, good: AtomicUsize::new(0), call_timeout })
    }

    /// The longest a call waits for one API server.
    pub fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    /// Asks until there is an answer that trying again would not change, or until `until`: API servers that do not answer, 429 (after its
    /// Retry-After) and 5xx are tried again, the next endpoint first. Only for calls that may be repeated.
    ///
    /// # Errors
    /// [`Failure::Status`]: an API server refused; [`Failure::Silent`]: none answered in time, or all said 429 or 5xx to the end.
    pub async fn ask(&self, call: &Call, until: Instant) -> Result<Answer, Failure> {
        let mut pause = Duration::from_millis(200);
        loop {
            let failure = match self.once(call, until).await {
                Err(failure) if failure.is_passing() => failure,
                other => return other,
            };
            let wait = failure.retry_after().unwrap_or(pause);
            if Instant::now() + wait >= until {
                return Err(failure.lasting());
            }
            sleep(wait).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    /// Asks each API server at most once until one answers, whatever it says.
    ///
    /// # Errors
    /// As [`Api::ask`]; a 429 or 5xx of the last endpoint is a [`Failure::Status`].
    pub async fn once(&self, call: &Call, until: Instant) -> Result<Answer, Failure> {
        let first = self.good.load(Ordering::Relaxed);
        let mut silent: Vec<String> = Vec::new();
        for turn in 0..self.endpoints.len() {
            let at = (first + turn) % self.endpoints.len();
            let left = until.saturating_duration_since(Instant::now());
            // One that hangs leaves the others their share of the time.
            let share = left / (self.endpoints.len() - turn) as u32;
            let result = self.endpoints[at].attempt(call, share.min(self.call_timeout)).await;
            match result {
                Err(Failure::Silent(why)) => silent.push(why),
                Err(failure) if failure.code() >= Some(500) && turn + 1 < self.endpoints.len() => silent.push(failure.to_string()),
                answered => {
                    self.good.store(at, Ordering::Relaxed);
                    return answered;
                }
            }
        }
        Err(Failure::Silent(silent.join("; ")))
    }
}

impl Endpoint {
    fn new(config: kube::Config) -> Result<Self, AccessError> {
        let client = access::client(&config)?;
        Ok(Self { url: config.cluster_url.to_string(), config, client: Mutex::new((0, client)) })
    }

    fn client(&self) -> (u64, Client) {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connections on which nothing came back are not used again: behind a cable that was pulled they would hang for minutes.
    fn renew(&self, generation: u64) {
        let Ok(client) = access::client(&self.config) else { return };
        let mut current = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 == generation {
            *current = (generation + 1, client);
        }
    }

    async fn attempt(&self, call: &Call, limit: Duration) -> Result<Answer, Failure> {
        let silent = |why: String| Failure::Silent(format!("{}: {why}", self.url.trim_end_matches('/')));
        let (generation, client) = self.client();
        let request = call.request().map_err(|error| silent(error.to_string()))?;
        let exchange = async {
            let response = client.send(request).await?;
            let (head, body) = response.into_parts();
            Ok::<_, kube::Error>((head, body.collect_bytes().await?))
        };
        match timeout(limit, exchange).await {
            Err(_) => {
                self.renew(generation);
                Err(silent(format!("no answer within {} ms", limit.as_millis())))
            }
            Ok(Err(error)) => Err(silent(failure::chain(&error))),
            Ok(Ok((head, body))) if head.status.is_success() => {
                let text = |name| head.headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
                let date = text(http::header::DATE).and_then(|date| rfc2822::parse(date).ok()).map(|date| date.timestamp());
                Ok(Answer { body: body.to_vec(), date })
            }
            Ok(Ok((head, body))) => Err(Failure::of_status(&self.url, &head, &body)),
        }
    }
}
