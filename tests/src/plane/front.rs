//! A front before an API server that fails on demand: it answers 429 or 500, hangs, delays, breaks off. What no rule names goes through, watches too.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use reqwest::Body;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::{Plane, api};

/// What a request meets instead of the API server.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This status code, with the Status object that the API server sends with it, and Retry-After in seconds.
    Status(u16, Option<u32>),
    /// No answer, ever.
    Hang,
    /// The connection ends without an answer.
    Reset,
    /// The API server's answer, so much later.
    Slow(Duration),
    /// The request reaches the API server and is done; its answer is lost.
    LostAnswer,
    /// 200 with something that is no JSON.
    Garbage,
}

/// Which requests meet a fault.
#[derive(Debug, Clone)]
pub struct Rule {
    /// GET, POST, …; empty for any.
    pub method: &'static str,
    /// What the path and query contain.
    pub path: String,
    /// How often; without it for ever.
    pub times: Option<u32>,
    /// What they meet.
    pub fault: Fault,
}

impl Rule {
    /// Every request whose path contains this.
    pub fn any(path: &str, fault: Fault) -> Self {
        Self { method: "", path: path.to_owned(), times: None, fault }
    }
}

/// A running front.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    /// Metis' kubeconfig with the front's address.
    kubeconfig: PathBuf,
    shared: Arc<Shared>,
    _stop: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    client: reqwest::Client,
    rules: Mutex<Vec<Rule>>,
    met: Mutex<Vec<String>>,
}

impl Plane {
    /// A front before the first API server, on a port of its own, with a kubeconfig of metis that names it.
    ///
    /// # Errors
    /// Where it cannot listen.
    pub fn front(&self) -> Result<Front> {
        let client =
            reqwest::Client::builder().tls_backend_preconfigured(api::trusting(&self.identity.ca)?).no_proxy().http1_only().build()?;
        let shared = Arc::new(Shared { upstream: self.url(), client, rules: Mutex::default(), met: Mutex::default() });
        let tls = acceptor(self.dir())?;
        let (stop, stopped) = oneshot::channel();
        let (told, heard) = std::sync::mpsc::channel();
        let (host, server, netns) = (self.address, Arc::clone(&shared), self.netns.clone());
        std::thread::spawn(move || told.clone().send(serve(host, netns.as_deref(), tls, &server, stopped, &told)));
        let address = match heard.recv().context("the front's thread")? {
            Ok(Some(address)) => address,
            Ok(None) => anyhow::bail!("the front ended before it listened"),
            Err(e) => return Err(e),
        };
        let kubeconfig = self.dir().join(format!("front-{}.kubeconfig", address.port()));
        self.identity.write_kubeconfig(&kubeconfig, "metis", &format!("https://{address}"), &self.metis_token)?;
        Ok(Front { address, kubeconfig, shared, _stop: stop })
    }
}

impl Front {
    /// `https://address:port`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Metis' kubeconfig with the front's address.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// From now on these rules hold, the first that fits; none: everything goes through.
    pub fn rules(&self, rules: Vec<Rule>) {
        *self.shared.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// The requests that met a fault, `METHOD path`.
    pub fn met(&self) -> Vec<String> {
        self.shared.met.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Tells the address once it listens; serves until the front is dropped.
fn serve(
    host: IpAddr,
    netns: Option<&str>,
    tls: TlsAcceptor,
    shared: &Arc<Shared>,
    mut stopped: oneshot::Receiver<()>,
    told: &std::sync::mpsc::Sender<Result<Option<SocketAddr>>>,
) -> Result<Option<SocketAddr>> {
    if let Some(netns) = netns {
        api::enter(netns)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((host, 0)).await?;
        let _ = told.send(Ok(Some(listener.local_addr()?)));
        loop {
            let (stream, _) = tokio::select! {
                accepted = listener.accept() => accepted?,
                _ = &mut stopped => return Ok(None),
            };
            let (tls, shared) = (tls.clone(), Arc::clone(shared));
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let service = hyper::service::service_fn(|request| answer(Arc::clone(&shared), request));
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>> {
    let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    match shared.fault(request.method().as_str(), &path) {
        None => shared.pass(request, &path).await,
        Some(Fault::Slow(by)) => {
            tokio::time::sleep(by).await;
            shared.pass(request, &path).await
        }
        Some(Fault::Status(code, retry_after)) => {
            let mut answer = Response::builder().status(code).header("content-type", "application/json");
            if let Some(seconds) = retry_after {
                answer = answer.header("retry-after", seconds);
            }
            let status = serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "a fault of the lab", "reason": reason(code)});
            Ok(answer.body(Body::from(status.to_string()))?)
        }
        Some(Fault::Garbage) => Ok(Response::builder().header("content-type", "application/json").body(Body::from("<html>"))?),
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Reset) => anyhow::bail!("a fault of the lab"),
        Some(Fault::LostAnswer) => {
            shared.pass(request, &path).await?;
            anyhow::bail!("a fault of the lab")
        }
    }
}

fn reason(code: u16) -> &'static str {
    match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "",
    }
}

impl Shared {
    /// The fault of the first rule that fits, which is used up by it.
    fn fault(&self, method: &str, path: &str) -> Option<Fault> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let fits =
            |rule: &&mut Rule| (rule.method.is_empty() || rule.method == method) && path.contains(&rule.path) && rule.times != Some(0);
        let rule = rules.iter_mut().find(fits)?;
        rule.times = rule.times.map(|times| times - 1);
        self.met.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{method} {path}"));
        Some(rule.fault.clone())
    }

    async fn pass(&self, request: Request<Incoming>, path: &str) -> Result<Response<Body>> {
        let (head, body) = request.into_parts();
        let mut headers = head.headers;
        headers.remove("host");
        let onward = self.client.request(head.method, format!("{}{path}", self.upstream)).headers(headers).body(Body::wrap(body));
        Ok(onward.send().await?.into())
    }
}

/// TLS with the API server's own certificate.
fn acceptor(dir: &Path) -> Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(dir.join("server.pem"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(dir.join("server.key"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(TlsAcceptor::from(Arc::new(builder.with_no_client_auth().with_single_cert(chain, key)?)))
}
