//! From a kubeconfig to clients, one for each endpoint.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::failure::chain;
use crate::site::Secret;

/// A new connection, TCP and TLS together; kube waits 30 s.
const CONNECT: Duration = Duration::from_secs(3);

/// Why a kubeconfig cannot be used. No message holds any of its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AccessError(String);

impl AccessError {
    /// Of `cluster.ca_file`.
    pub fn of_file(file: &Path, error: &std::io::Error) -> Self {
        Self(format!("cluster.ca_file: {} cannot be read: {error}", file.display()))
    }
}

/// One configuration for each of `endpoints`, or for the server of the kubeconfig where there is none. `ca_pem` replaces the kubeconfig's CA.
///
/// # Errors
/// Where the kubeconfig is not one, or asks for what metis does not do: commands, other files, no verification, a proxy.
pub async fn configs(kubeconfig: &Secret, endpoints: &[String], ca_pem: Option<&[u8]>) -> Result<Vec<Config>, AccessError> {
    let refused = |why: &str| Err(AccessError(format!("the kubeconfig {why}")));
    let Some(mut kubeconfig) = kubeconfig.expose_str().and_then(|text| Kubeconfig::from_yaml(text).ok()) else {
        // The parser's message would quote the line, which may hold a key.
        return refused("is not valid YAML of kind Config");
    };
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        if let Some(pem) = ca_pem {
            cluster.certificate_authority = None;
            cluster.certificate_authority_data = Some(STANDARD.encode(pem));
        }
        if cluster.insecure_skip_tls_verify == Some(true) {
            return refused("says insecure-skip-tls-verify; give certificate-authority-data or cluster.ca_file instead");
        }
        if cluster.certificate_authority.is_some() || cluster.proxy_url.is_some() {
            return refused("names another file or a proxy; give certificate-authority-data (kubectl config view --raw --flatten)");
        }
    }
    for user in kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref()) {
        if user.exec.is_some() || user.auth_provider.is_some() {
            return refused("gets its credentials from a command, which may not work in an outage; use a token or client certificate");
        }
        if user.client_certificate.is_some() || user.client_key.is_some() || user.token_file.is_some() {
            return refused("names other files; put certificate, key and token into it (kubectl config view --raw --flatten)");
        }
    }
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let mut config = config.map_err(|error| AccessError(format!("the kubeconfig cannot be used: {}", chain(&error))))?;
    // kube's own retry would repeat a 429 for minutes.
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = None;
    config.proxy_url = None;
    let at = |url: &String| {
        let cluster_url = url.parse().map_err(|error| AccessError(format!("cluster.endpoints: {url}: {error}")))?;
        let mut config = config.clone();
        config.cluster_url = cluster_url;
        Ok(config)
    };
    if endpoints.is_empty() { Ok(vec![config]) } else { endpoints.iter().map(at).collect() }
}

/// A client; its connections are made when they are needed.
pub fn client(config: &Config) -> Result<Client, AccessError> {
    Client::try_from(config.clone()).map_err(|error| AccessError(format!("{}: {}", config.cluster_url, chain(&error))))
}
