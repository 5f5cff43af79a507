//! The HTTPS client: own CAs or the host's, deadlines, no plain HTTP even behind a redirect.

use std::path::Path;
use std::sync::Arc;

use reqwest::Client;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::download::Patience;

/// A client that trusts the CAs in `ca_file`, or this host's.
pub(super) fn client(ca_file: Option<&Path>, patience: &Patience) -> Result<Client, String> {
    let mut roots = rustls::RootCertStore::empty();
    let found = match ca_file {
        Some(path) => certificates(path).map_err(|e| format!("card.ca_file {}: {e}", path.display()))?,
        None => host_certificates(),
    };
    roots.add_parsable_certificates(found);
    if roots.is_empty() {
        let place = ca_file.map_or("/etc/ssl/certs; install ca-certificates or set card.ca_file".to_owned(), |p| p.display().to_string());
        return Err(format!("there is no CA certificate in {place}"));
    }
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .https_only(true)
        .http1_only()
        .connect_timeout(patience.connect)
        .read_timeout(patience.read)
        .user_agent(concat!("metis/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| because(&e))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = CertificateDer::pem_file_iter(path).map_err(|e| e.to_string())?;
    pem.collect::<Result<_, _>>().map_err(|e| e.to_string())
}

fn host_certificates() -> Vec<CertificateDer<'static>> {
    certificates(Path::new("/etc/ssl/certs/ca-certificates.crt"))
        .or_else(|_| certificates(Path::new("/etc/pki/tls/certs/ca-bundle.crt")))
        .unwrap_or_default()
}

/// An error with all of its causes: reqwest's own text hides them. Without the URL, which may carry a token.
pub(super) fn because(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
