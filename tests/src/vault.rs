//! Pods of Vault for tests: a stand-in that keeps its rules of sealing without its cryptography, since the real one takes too long to build.

mod stand_in;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::plane::api::trusting;
use crate::plane::sh;
pub use stand_in::StandIn;

/// Where every pod listens, at an address of its own.
pub const PORT: u16 = 8200;
/// The name in its certificate.
pub const NAME: &str = "vault.vault.svc";
/// Keys that unseal one, of five.
pub const THRESHOLD: usize = 3;

/// One pod's Vault.
pub trait Server {
    /// Where it listens.
    fn address(&self) -> SocketAddr;
    /// Its unseal keys, base64.
    fn keys(&self) -> &[String];
    /// Starts it again: it is sealed then.
    ///
    /// # Errors
    /// Where it does not come up.
    fn restart(&mut self) -> Result<()>;
    /// Seals it, as a person does.
    ///
    /// # Errors
    /// Where it does not.
    fn seal(&self) -> Result<()>;
    /// Who signed its certificate.
    fn identity(&self) -> &Identity;

    /// `GET /v1/sys/seal-status`.
    ///
    /// # Errors
    /// Where it does not answer.
    fn status(&self) -> Result<Value> {
        Ok(call(self.identity(), self.address(), "GET", "/v1/sys/seal-status", None)?.1)
    }

    /// Gives it a key, as somebody else would.
    ///
    /// # Errors
    /// Where it does not answer.
    fn give(&self, key: &str) -> Result<()> {
        call(self.identity(), self.address(), "POST", "/v1/sys/unseal", Some(&json!({ "key": key }))).map(drop)
    }
}

/// A CA, and a certificate for [`NAME`].
#[derive(Debug, Clone)]
pub struct Identity {
    dir: PathBuf,
}

impl Identity {
    /// Makes both in `dir`.
    ///
    /// # Errors
    /// Where openssl fails.
    pub fn make(dir: &Path) -> Result<Self> {
        let script = "
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=vault-ca -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign 2>/dev/null
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout vault.key -out vault.csr -subj /CN=vault 2>/dev/null
            printf 'subjectAltName=DNS:NAME\\nextendedKeyUsage=serverAuth\\n' >ext
            openssl x509 -req -in vault.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out vault.pem 2>/dev/null
        ";
        sh(&script.replace("NAME", NAME), dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// PEM of the CA.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    fn certificate(&self) -> PathBuf {
        self.dir.join("vault.pem")
    }

    fn key(&self) -> PathBuf {
        self.dir.join("vault.key")
    }
}

/// A loopback address whose [`PORT`] nobody has.
///
/// # Errors
/// Where none is found.
fn own_address() -> Result<IpAddr> {
    let mut random = [0; 2];
    for _ in 0..20 {
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut random)?;
        let address = Ipv4Addr::new(127, 66, random[0], random[1].clamp(1, 254));
        if TcpListener::bind((address, PORT)).is_ok() {
            return Ok(address.into());
        }
    }
    anyhow::bail!("no loopback address is free")
}

/// One call, as a person's `vault` command makes it.
fn call(identity: &Identity, at: SocketAddr, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
    let ca = std::fs::read_to_string(identity.ca())?;
    let client = reqwest::Client::builder().tls_backend_preconfigured(trusting(&ca)?).no_proxy();
    let client = client.resolve(NAME, at).timeout(Duration::from_secs(20)).build()?;
    let mut request = client.request(method.parse()?, format!("https://{NAME}:{}{path}", at.port()));
    if let Some(body) = body {
        request = request.header("Content-Type", "application/json").body(body.to_string());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        Ok((status, serde_json::from_slice(&answer.bytes().await?).unwrap_or(Value::Null)))
    })
}
