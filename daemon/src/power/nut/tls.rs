//! STARTTLS towards upsd: trusted are the CA certificates of one file and no others.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::conn::Transport;
use crate::power::TlsSettings;

/// Shakes hands over `io`, as `host` unless the settings name another.
pub(super) async fn wrap(io: Box<dyn Transport>, settings: &TlsSettings, host: &str) -> Result<Box<dyn Transport>, String> {
    let config = client_config(&settings.ca_file).await?;
    let name = settings.server_name.as_deref().unwrap_or(host);
    let server = ServerName::try_from(name.to_owned()).map_err(|_| format!("{name:?} is no host name or address; set tls.server_name"))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(server, io).await.map_err(|error| error.to_string())?;
    Ok(Box::new(stream))
}

async fn client_config(ca_file: &Path) -> Result<ClientConfig, String> {
    let pem = tokio::fs::read(ca_file).await.map_err(|error| format!("cannot read tls.ca_file {}: {error}", ca_file.display()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        certificate
            .map_err(|error| error.to_string())
            .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()))
            .map_err(|error| format!("tls.ca_file {} holds a bad certificate: {error}", ca_file.display()))?;
    }
    if roots.is_empty() {
        return Err(format!("tls.ca_file {} holds no PEM certificate", ca_file.display()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
