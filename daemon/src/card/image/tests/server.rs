//! A small HTTPS server on loopback that answers as a test wants it.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::*;

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// First byte of `Range`.
    pub(super) from: Option<u64>,
    pub(super) if_range: Option<String>,
}

/// What it gets: these bytes, head included, and then the end or silence.
pub(super) struct Reply {
    pub(super) bytes: Vec<u8>,
    pub(super) stall: bool,
}

/// A server; ends when dropped.
pub(super) struct Server {
    pub(super) url: String,
    pub(super) requests: Arc<Mutex<Vec<Request>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A CA and a certificate for 127.0.0.1 below it, in `dir`: `ca.pem`, `cert.pem`, `key.pem`.
pub(super) fn certificates(dir: &Path) {
    let dir = arg(dir);
    let script = format!(
        "cd {dir}
         new='openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
         $new -x509 -days 7 -subj /CN=test-ca -addext keyUsage=keyCertSign -keyout ca.key -out ca.pem
         $new -subj /CN=server -keyout key.pem -out server.csr
         printf 'subjectAltName=IP:127.0.0.1\\n' >ext
         openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 7 -extfile ext -out cert.pem"
    );
    ok("sh", &["-ec", &script]);
}

/// Serves with the certificate in `dir`; `answer` gets the request's number, from 0.
pub(super) async fn serve(dir: &Path, answer: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static) -> Server {
    let chain = CertificateDer::pem_file_iter(dir.join("cert.pem")).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(dir.join("key.pem")).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://127.0.0.1:{}/card.img", listener.local_addr().unwrap().port());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (seen, answer) = (requests.clone(), Arc::new(answer));
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, seen, answer) = (acceptor.clone(), seen.clone(), answer.clone());
            connections.spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let request = parse(&String::from_utf8(head).unwrap());
                let number = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(request.clone());
                    seen.len() - 1
                };
                let reply = answer(number, &request);
                let _ = stream.write_all(&reply.bytes).await;
                let _ = stream.flush().await;
                if reply.stall {
                    std::future::pending::<()>().await;
                }
                let _ = stream.shutdown().await;
            });
        }
    });
    Server { url, requests, task }
}

fn parse(head: &str) -> Request {
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let from = header("range").map(|range| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
    Request { from, if_range: header("if-range") }
}

/// A full answer of a well-behaved server.
pub(super) fn full(content: &[u8], etag: &str) -> Reply {
    reply(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: {etag}\r\nConnection: close\r\n\r\n", content.len()), content)
}

/// The rest from `from`.
pub(super) fn rest(content: &[u8], from: u64, etag: &str) -> Reply {
    let (last, len) = (content.len() - 1, content.len());
    let body = &content[from as usize..];
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{last}/{len}\r\nETag: {etag}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    reply(&head, body)
}

pub(super) fn reply(head: &str, body: &[u8]) -> Reply {
    Reply { bytes: [head.as_bytes(), body].concat(), stall: false }
}

impl Reply {
    /// Only the first `len` bytes of the answer's body, then the connection ends.
    pub(super) fn cut(mut self, body: usize) -> Self {
        let head = self.bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        self.bytes.truncate(head + body);
        self
    }

    /// After its bytes: silence.
    pub(super) fn stalling(self) -> Self {
        Self { stall: true, ..self }
    }
}
