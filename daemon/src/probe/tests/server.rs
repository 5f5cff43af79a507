//! Real servers on loopback that answer as a test wants it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// Ends when dropped.
pub struct Server {
    pub at: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Each connection gets what `serve` makes of it.
pub async fn tcp<F: Future<Output = ()> + Send + 'static>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(stream));
        }
    });
    Server { at, task }
}

/// By host and path: the whole answer, head included. `""` is silence.
pub type Answers = fn(&str, &str) -> String;

/// Plain HTTP.
pub async fn http(answers: Answers) -> Server {
    tcp(move |stream| exchange(stream, answers)).await
}

/// HTTPS as Traefik serves it: the certificate in `dir` for its names, and one that it has made up for all others.
pub async fn https(dir: &Path, answers: Answers) -> Server {
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Certificates { own: key(dir, "own"), made_up: key(dir, "made-up") }));
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tcp(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                exchange(stream, answers).await;
            }
        }
    })
    .await
}

#[derive(Debug)]
struct Certificates {
    own: Arc<CertifiedKey>,
    made_up: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let known = hello.server_name().is_some_and(|name| ["scm.lan", "web.lan", "other.lan"].contains(&name));
        Some(Arc::clone(if known { &self.own } else { &self.made_up }))
    }
}

fn key(dir: &Path, name: &str) -> Arc<CertifiedKey> {
    let chain = CertificateDer::pem_file_iter(dir.join(format!("{name}.pem"))).unwrap().collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(dir.join(format!("{name}.key"))).unwrap();
    Arc::new(CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider()).unwrap())
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, answers: Answers) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or("");
    let host = host.split(':').next().unwrap().to_owned();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let answer = answers(&host, &path);
    if answer.is_empty() {
        std::future::pending::<()>().await;
    }
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

pub fn reply(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

/// `ca.pem`; `own.pem` for scm.lan and web.lan below it; `made-up.pem` as Traefik makes it up.
#[allow(clippy::disallowed_methods, reason = "a test that makes its certificates")]
pub fn certificates(dir: &Path) {
    let script = "
        new='openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
        $new -x509 -days 7 -subj /CN=test-ca -addext keyUsage=keyCertSign -keyout ca.key -out ca.pem
        $new -subj /CN=own -keyout own.key -out own.csr
        printf 'subjectAltName=DNS:scm.lan,DNS:web.lan\\n' >ext
        openssl x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 7 -extfile ext -out own.pem
        $new -x509 -days 7 -subj '/CN=TRAEFIK DEFAULT CERT' -addext subjectAltName=DNS:unknown.lan -keyout made-up.key -out made-up.pem";
    let made = std::process::Command::new("sh").args(["-ec", script]).current_dir(dir).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}
