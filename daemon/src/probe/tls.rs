//! Whose certificate is believed.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::port::{Trust, Verify};

/// Where Debian and Fedora keep the host's CAs.
const HOSTS: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];
/// The name in the certificate that Traefik makes up where it has none for a host (its `generate.DefaultDomain`).
const TRAEFIK: &[u8] = b"TRAEFIK DEFAULT CERT";

/// A client's configuration; reads the CA file.
///
/// # Errors
/// There is no CA certificate to be had.
pub async fn config(trust: &Trust) -> Result<ClientConfig, String> {
    let roots = if trust.verify == Verify::Full { roots(trust.ca_file.as_deref()).await? } else { RootCertStore::empty() };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = match trust.verify {
        Verify::Full => Some(
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(|error| error.to_string())?,
        ),
        Verify::Name | Verify::Nothing => None,
    };
    let verifier = Verifier { chain, provider: Arc::clone(&provider), verify: trust.verify };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

async fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(file) => {
            roots.add_parsable_certificates(certificates(file).await.map_err(|why| format!("{}: {why}", file.display()))?);
        }
        None => {
            for file in HOSTS {
                roots.add_parsable_certificates(certificates(Path::new(file)).await.unwrap_or_default());
            }
        }
    }
    if roots.is_empty() {
        let place =
            ca_file.map_or("/etc/ssl/certs; install ca-certificates or name a ca_file".to_owned(), |file| file.display().to_string());
        return Err(format!("there is no CA certificate in {place}"));
    }
    Ok(roots)
}

async fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = tokio::fs::read(file).await.map_err(|error| error.to_string())?;
    CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

#[derive(Debug)]
struct Verifier {
    /// Chain and name; absent where the chain is not looked at.
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
    verify: Verify,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.verify == Verify::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        if holds(end_entity, TRAEFIK) {
            let why = "it shows the certificate that Traefik makes up where it has none for that name (TRAEFIK DEFAULT CERT)";
            return Err(Error::General(why.to_owned()));
        }
        if let Some(chain) = &self.chain {
            return chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        }
        let certificate = ParsedCertificate::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        rustls::client::verify_server_name(&certificate, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether the certificate's DER holds these bytes: names stand in it as they are.
fn holds(certificate: &CertificateDer<'_>, words: &[u8]) -> bool {
    certificate.windows(words.len()).any(|window| window == words)
}
