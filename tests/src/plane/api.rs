//! The plane's API, spoken without any Kubernetes library: what prepares and checks a test shares no code with what is tested.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde_json::Value;

use crate::process::netns_file;

/// Every call ends within this time.
const LIMIT: Duration = Duration::from_secs(20);

/// A client with somebody's token.
#[derive(Debug)]
pub struct Api {
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    url: String,
    token: String,
    netns: Option<String>,
}

/// Moves the calling thread into a network namespace.
///
/// # Errors
/// Where the kernel refuses.
pub(super) fn enter(netns: &str) -> Result<()> {
    let file = std::fs::File::open(netns_file(netns)).with_context(|| netns.to_owned())?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {netns}"))
}

/// A client configuration that trusts these CA certificates (PEM) and nobody else.
///
/// # Errors
/// Where they are no certificates.
pub(crate) fn trusting(ca: &str) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in rustls::pki_types::pem::PemObject::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.context("CA")?)?;
    }
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

impl Api {
    /// A client of the server at `url`, in a network namespace, that trusts `ca` (PEM).
    ///
    /// # Errors
    /// Where the CA is none.
    pub fn new(url: &str, ca: &str, token: &str, netns: Option<&str>) -> Result<Self> {
        let client = reqwest::Client::builder().tls_backend_preconfigured(trusting(ca)?).no_proxy().timeout(LIMIT).build()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, client, url: url.to_owned(), token: token.to_owned(), netns: netns.map(ToOwned::to_owned) })
    }

    /// Sends a request and gives the status code and the answer (JSON, or its text as a string).
    ///
    /// # Errors
    /// Where there is no answer within 20 s.
    pub fn send(&self, method: &str, path: &str, body: Option<(&str, &Value)>) -> Result<(u16, Value)> {
        let method = Method::from_bytes(method.as_bytes())?;
        let mut request =
            self.client.request(method.clone(), format!("{}{path}", self.url)).header(AUTHORIZATION, format!("Bearer {}", self.token));
        if let Some((kind, body)) = body {
            request = request.header(CONTENT_TYPE, kind).body(body.to_string());
        }
        let asked = || format!("{method} {path}");
        let (code, text) = self.block_on(async {
            let answer = request.send().await.with_context(asked)?;
            anyhow::Ok((answer.status().as_u16(), answer.text().await.with_context(asked)?))
        })?;
        Ok((code, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// On a thread of the plane's network, where it has one of its own: a socket belongs to the namespace of the thread that makes it.
    fn block_on<T: Send>(&self, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let Some(netns) = &self.netns else { return self.runtime.block_on(call) };
        let inside = || {
            enter(netns)?;
            self.runtime.block_on(call)
        };
        let done = std::thread::scope(|scope| scope.spawn(inside).join());
        done.map_err(|_| anyhow::anyhow!("the thread in {netns} panicked"))?
    }

    /// Gets an object or a list.
    ///
    /// # Errors
    /// Where the answer is not 200.
    pub fn get(&self, path: &str) -> Result<Value> {
        let (code, answer) = self.send("GET", path, None)?;
        ensure!(code == 200, "GET {path}: {code} {answer}");
        Ok(answer)
    }

    /// The items of a list.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn list(&self, path: &str) -> Result<Vec<Value>> {
        Ok(self.get(path)?["items"].as_array().cloned().unwrap_or_default())
    }

    /// Creates an object.
    ///
    /// # Errors
    /// Where it is refused.
    pub fn create(&self, path: &str, object: &Value) -> Result<Value> {
        let (code, answer) = self.send("POST", path, Some(("application/json", object)))?;
        ensure!(code < 300, "POST {path}: {code} {answer}");
        Ok(answer)
    }

    /// Changes an object by a JSON merge patch.
    ///
    /// # Errors
    /// Where it is refused.
    pub fn merge(&self, path: &str, patch: &Value) -> Result<Value> {
        let (code, answer) = self.send("PATCH", path, Some(("application/merge-patch+json", patch)))?;
        ensure!(code == 200, "PATCH {path}: {code} {answer}");
        Ok(answer)
    }

    /// Deletes an object; one that is not there is none that could not be deleted.
    ///
    /// # Errors
    /// Where it is refused.
    pub fn delete(&self, path: &str) -> Result<()> {
        let (code, answer) = self.send("DELETE", path, None)?;
        ensure!(matches!(code, 200 | 202 | 404), "DELETE {path}: {code} {answer}");
        Ok(())
    }
}
