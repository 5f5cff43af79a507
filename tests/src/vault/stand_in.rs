//! Vault's two calls about its seal, by its rules: progress and nonce in memory, reset, 400 for keys that do not fit. No cryptography.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use reqwest::Body;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::{Identity, PORT, Server, THRESHOLD, own_address};

/// A stand-in that listens.
#[derive(Debug)]
pub struct StandIn {
    address: SocketAddr,
    identity: Identity,
    keys: Vec<String>,
    model: Arc<Mutex<Model>>,
    _stop: oneshot::Sender<()>,
}

#[derive(Debug, Default)]
struct Model {
    right: BTreeSet<String>,
    initialised: bool,
    open: bool,
    given: BTreeSet<String>,
    attempts: u32,
    received: Vec<String>,
}

impl StandIn {
    /// Starts one with these keys, sealed; without any it is not initialised.
    ///
    /// # Errors
    /// Where it cannot listen.
    pub fn start(identity: &Identity, keys: &[String]) -> Result<Self> {
        let address = SocketAddr::new(own_address()?, PORT);
        let right = keys.iter().cloned().collect();
        let model = Arc::new(Mutex::new(Model { right, initialised: !keys.is_empty(), ..Model::default() }));
        let (stop, stopped) = oneshot::channel();
        let (told, heard) = std::sync::mpsc::channel();
        let (shared, tls) = (Arc::clone(&model), acceptor(identity)?);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                let listener = TcpListener::bind(address).await;
                let Ok(listener) = listener else { return };
                let _ = told.send(());
                tokio::select! {
                    () = serve(&listener, &tls, &shared) => {}
                    _ = stopped => {}
                }
            });
        });
        heard.recv().with_context(|| format!("the stand-in for Vault does not listen on {address}"))?;
        Ok(Self { address, identity: identity.clone(), keys: keys.to_vec(), model, _stop: stop })
    }

    /// Every key that it was ever given.
    pub fn received(&self) -> Vec<String> {
        self.locked().received.clone()
    }

    fn locked(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server for StandIn {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn keys(&self) -> &[String] {
        &self.keys
    }

    fn restart(&mut self) -> Result<()> {
        let mut model = self.locked();
        (model.open, model.given) = (false, BTreeSet::new());
        Ok(())
    }

    fn seal(&self) -> Result<()> {
        self.locked().open = false;
        Ok(())
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }
}

fn acceptor(identity: &Identity) -> Result<TlsAcceptor> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain = CertificateDer::pem_file_iter(identity.certificate())?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(identity.key())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(TlsAcceptor::from(Arc::new(builder.with_no_client_auth().with_single_cert(chain, key)?)))
}

async fn serve(listener: &TcpListener, tls: &TlsAcceptor, model: &Arc<Mutex<Model>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, model) = (tls.clone(), Arc::clone(model));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = hyper::service::service_fn(move |request| answer(request, Arc::clone(&model)));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, model: Arc<Mutex<Model>>) -> Result<Response<Body>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = reqwest::Body::wrap(body);
    let body = read(body).await;
    let mut model = model.lock().unwrap_or_else(PoisonError::into_inner);
    let (status, answer) = match (head.method.as_str(), head.uri.path()) {
        ("GET", "/v1/sys/seal-status") => (200, model.status()),
        ("POST" | "PUT", "/v1/sys/unseal") => model.unseal(&serde_json::from_slice(&body).unwrap_or(Value::Null)),
        _ => (404, json!({ "errors": [] })),
    };
    let mut response = Response::new(Body::from(answer.to_string()));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    Ok(response)
}

async fn read(body: Body) -> Vec<u8> {
    let response = reqwest::Response::from(Response::new(body));
    response.bytes().await.map(|bytes| bytes.to_vec()).unwrap_or_default()
}

impl Model {
    fn status(&self) -> Value {
        let nonce = if self.given.is_empty() { String::new() } else { format!("nonce-{}", self.attempts) };
        json!({
            "type": "shamir", "initialized": self.initialised, "sealed": !self.open, "t": THRESHOLD, "n": 5,
            "progress": self.given.len(), "nonce": nonce, "version": "1.21.0", "storage_type": "file",
        })
    }

    fn unseal(&mut self, asked: &Value) -> (u16, Value) {
        if asked["reset"] == true {
            self.given.clear();
            return (200, self.status());
        }
        let Some(key) = asked["key"].as_str() else {
            return (400, json!({ "errors": ["'key' must be specified in request body as JSON, or 'reset' set to true"] }));
        };
        self.received.push(key.to_owned());
        if !self.initialised || self.open {
            return (200, self.status());
        }
        self.attempts += u32::from(self.given.is_empty());
        self.given.insert(key.to_owned());
        if self.given.len() == THRESHOLD {
            let good = self.given.is_subset(&self.right);
            self.given.clear();
            if !good {
                return (400, json!({ "errors": ["failed to decrypt encrypted stored keys: cipher: message authentication failed"] }));
            }
            self.open = true;
        }
        (200, self.status())
    }
}
