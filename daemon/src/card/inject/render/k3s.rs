//! k3s: `config.yaml.d` (docs.k3s.io; key = name of the flag).

use std::net::IpAddr;

use serde::Serialize;

use super::edit::FileEdit;
use super::{Job, RenderError, valid};
use crate::site::K3sRole;

const CONFIG: &str = "/etc/rancher/k3s/config.yaml.d/10-metis.yaml";
/// A file of its own, so that the configuration itself is not secret and the instance-id follows every change of it.
const TOKEN: &str = "/etc/rancher/k3s/metis.token";

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Config<'a> {
    node_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_file: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    node_label: Vec<String>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    node_taint: &'a [String],
}

pub(super) fn render(job: &Job<'_>) -> Result<Vec<FileEdit>, RenderError> {
    let k3s = &job.node.settings.k3s;
    let Some(role) = k3s.role else { return Ok(Vec::new()) };
    if role == K3sRole::Agent {
        let because = "k3s.role is agent: an agent joins a server with a token";
        k3s.server.as_ref().ok_or_else(|| job.missing("k3s.server", because))?;
        k3s.token.as_ref().ok_or_else(|| job.missing("k3s.token", because))?;
    } else if k3s.server.is_some() && k3s.token.is_none() {
        return Err(job.missing("k3s.token", "k3s.server is set: a server joins another with its token"));
    }
    if let Some(url) = &k3s.server {
        valid::https_url(url).map_err(|why| job.bad_value("k3s.server", url, why))?;
    }
    for (key, value) in &k3s.labels {
        valid::label_key(key).map_err(|why| job.bad_value("k3s.labels", key, why))?;
        valid::label_value(value).map_err(|why| job.bad_value(&format!("k3s.labels.{key}"), value, why))?;
    }
    let taints = k3s.taints.as_deref().unwrap_or_default();
    for taint in taints {
        valid::taint(taint).map_err(|why| job.bad_value("k3s.taints", taint, why))?;
    }
    let config = Config {
        node_name: job.node.name.as_str(),
        node_ip: k3s.node_ip.or(job.node.settings.network.address),
        server: k3s.server.as_deref(),
        token_file: k3s.token.as_ref().map(|_| TOKEN),
        node_label: k3s.labels.iter().map(|(key, value)| format!("{key}={value}")).collect(),
        node_taint: taints,
    };
    let yaml = serde_yaml::to_string(&config).map_err(|e| job.bad_value("k3s", "", format!("cannot be written as YAML: {e}")))?;
    let mut edits = vec![FileEdit::file(CONFIG, 0o600, yaml)];
    if let Some(token) = &k3s.token {
        let token = job.secret_line("k3s.token", token)?;
        edits.push(FileEdit::file(TOKEN, 0o600, format!("{token}\n")).secret());
    }
    Ok(edits)
}
