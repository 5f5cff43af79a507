//! One exchange with one pod: HTTP/1.1 on a stream that somebody else has opened, inside of TLS where it has that.

use std::path::Path;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::SealStatus;
use crate::site::Secret;

/// An answer is not longer, in bytes.
const LONGEST: usize = 64 << 10;
/// So much of what Vault says is shown.
const SHOWN: usize = 300;
/// This host's CAs, of Debian and of Fedora.
const HOST_CAS: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What is asked of a pod.
#[derive(Clone, Copy)]
pub enum Ask<'a> {
    /// How its seal stands.
    Status,
    /// To take a key.
    Key(&'a Secret),
    /// To forget the keys that it was given.
    Reset,
}

/// Why there is no answer that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Vault said no.
    Refused(String),
    /// It did not answer, or it is not Vault that answers.
    Silent(String),
}

/// Trust in the CAs of `file`, or in this host's. Blocks.
///
/// # Errors
/// There is none, or the file cannot be read.
pub fn trusting(file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let read = |path: &Path| -> Result<Vec<CertificateDer<'static>>, String> {
        let pem = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
        pem.collect::<Result<_, _>>().map_err(|error| error.to_string())
    };
    let mut roots = rustls::RootCertStore::empty();
    match file {
        Some(path) => {
            roots.add_parsable_certificates(read(path).map_err(|why| format!("startup.vault.ca_file {}: {why}", path.display()))?)
        }
        None => roots.add_parsable_certificates(HOST_CAS.iter().find_map(|path| read(Path::new(path)).ok()).unwrap_or_default()),
    };
    if roots.is_empty() {
        return Err("there is no CA certificate; set startup.vault.ca_file or install ca-certificates".to_owned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// Asks on `stream`. The caller bounds the time.
///
/// # Errors
/// [`Trouble`]; its text holds no key.
pub async fn ask(stream: Box<dyn Stream>, tls: Option<(Arc<ClientConfig>, &str)>, ask: Ask<'_>) -> Result<SealStatus, Trouble> {
    let Some((config, name)) = tls else { return exchange(stream, "vault", ask).await };
    let server = ServerName::try_from(name.to_owned()).map_err(|_| Trouble::Silent(format!("{name} is no name of a server")))?;
    let secured = TlsConnector::from(config).connect(server, stream).await;
    exchange(secured.map_err(|error| Trouble::Silent(format!("TLS: {error}")))?, name, ask).await
}

async fn exchange(stream: impl Stream + 'static, host: &str, ask: Ask<'_>) -> Result<SealStatus, Trouble> {
    let silent = |error: &dyn std::fmt::Display| Trouble::Silent(format!("HTTP: {error}"));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| silent(&error))?;
    let request = request(host, ask).map_err(|error| silent(&error))?;
    let talking = async {
        let (head, body) = sender.send_request(request).await.map_err(|error| silent(&error))?.into_parts();
        let body = Limited::new(body, LONGEST).collect().await.map_err(|error| Trouble::Silent(format!("HTTP: {error}")))?;
        read(head.status.as_u16(), &body.to_bytes(), ask)
    };
    tokio::pin!(talking, connection);
    let mut over = false;
    loop {
        tokio::select! {
            biased;
            answer = &mut talking => return answer,
            _ = &mut connection, if !over => over = true,
        }
    }
}

fn request(host: &str, ask: Ask<'_>) -> http::Result<http::Request<Full<Bytes>>> {
    let (method, path, body) = match ask {
        Ask::Status => (http::Method::GET, "/v1/sys/seal-status", Bytes::new()),
        Ask::Reset => (http::Method::POST, "/v1/sys/unseal", Bytes::from_static(br#"{"reset":true}"#)),
        Ask::Key(key) => (http::Method::POST, "/v1/sys/unseal", with_key(key)),
    };
    http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, host)
        .header(http::header::CONNECTION, "close")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
}

/// The body is wiped when it has been sent. A key needs no escaping: `keys` lets only such characters in.
fn with_key(key: &Secret) -> Bytes {
    const HEAD: &[u8] = br#"{"key":""#;
    const TAIL: &[u8] = br#""}"#;
    let mut body = Zeroizing::new(Vec::with_capacity(HEAD.len() + key.expose().len() + TAIL.len()));
    for part in [HEAD, key.expose(), TAIL] {
        body.extend_from_slice(part);
    }
    Bytes::from_owner(body)
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Errors {
    errors: Vec<String>,
}

/// Wrong keys are answered with 400, or with 500 where it is what they decrypt that is wrong (sys_seal.go).
fn read(status: u16, body: &[u8], ask: Ask<'_>) -> Result<SealStatus, Trouble> {
    let said = || {
        let errors = serde_json::from_slice::<Errors>(body).unwrap_or_default().errors.join("; ");
        let text: String = errors.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
        // Whatever it is that answers, it must not make us tell the key.
        let echoed = matches!(ask, Ask::Key(key) if key.expose_str().is_some_and(|key| text.contains(key)));
        if echoed { "…".to_owned() } else { text }
    };
    match status {
        200 => {
            // A page of somebody else's is no status: what is always in one has to be there.
            let is_status = serde_json::from_slice::<serde_json::Value>(body)
                .is_ok_and(|value| value["sealed"].is_boolean() && value["initialized"].is_boolean());
            let parsed = is_status.then(|| serde_json::from_slice(body).ok()).flatten();
            parsed.ok_or_else(|| Trouble::Silent("what answers there is not Vault: its answer is no seal status".to_owned()))
        }
        400 | 500 if matches!(ask, Ask::Key(_)) => Err(Trouble::Refused(said())),
        other => Err(Trouble::Silent(format!("it answers {other} {}", said()).trim_end().to_owned())),
    }
}
