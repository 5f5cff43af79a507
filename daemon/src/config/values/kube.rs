//! Labels, taints and versions, by the rules of Kubernetes and k3s.

use super::names::{is_dns_name, split_host};
use super::{shown, text};
use crate::config::cursor::Parsed;
use crate::config::tree::Scalar;

/// A name segment or label value: up to 63 characters, alphanumeric at both ends, `-`, `_` and `.` between.
fn is_qualified(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63 && text.chars().all(inner) && end(text.chars().next()) && end(text.chars().next_back())
}

/// Whether it is `[prefix/]name` with a DNS name as prefix.
fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_name(prefix) && !prefix.chars().any(|c| c.is_ascii_uppercase()) && is_qualified(name),
        None => is_qualified(text),
    }
}

/// Labels of the kubernetes.io namespace that a kubelet may give to its own node (kubelet `--node-labels`; NodeRestriction).
const OWN_LABELS: [&str; 10] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
];

/// The key of a node label.
pub fn label_key(key: &str) -> Parsed<String> {
    if !is_qualified_name(key) {
        return Err(format!("{} is not a label key of Kubernetes; write [prefix/]name, such as longhorn or example.net/rack", shown(key)));
    }
    let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
    let within = |domain: &str| prefix == domain || prefix.ends_with(&format!(".{domain}"));
    let reserved = within("kubernetes.io") || within("k8s.io");
    let own = within("node.kubernetes.io") || within("kubelet.kubernetes.io") || OWN_LABELS.contains(&key);
    if reserved && !own {
        return Err(format!(
            "{} is refused by the kubelet, which would not start (a node may not give itself this label); \
             set it with kubectl, or use a prefix of your own or node.kubernetes.io/",
            shown(key)
        ));
    }
    Ok(key.to_owned())
}

/// The value of a node label; may be empty.
pub fn label_value(scalar: &Scalar) -> Parsed<String> {
    if scalar.text.is_empty() {
        return Ok(String::new());
    }
    let value = text(scalar)?;
    if is_qualified(&value) {
        return Ok(value);
    }
    Err(format!(
        "{} is not a label value of Kubernetes; write up to 63 of letters, digits, `-`, `_` and `.`, a letter or digit first and last",
        shown(&value)
    ))
}

/// An equality selector of labels, `key=value,…`.
pub fn selector(scalar: &Scalar) -> Parsed<String> {
    let text = text(scalar)?;
    let term =
        |term: &str| term.split_once('=').is_some_and(|(key, value)| is_qualified_name(key) && (value.is_empty() || is_qualified(value)));
    if text.split(',').all(term) {
        return Ok(text);
    }
    Err(format!("{} is not a selector; write key=value or key=value,key=value, such as k8s-app=kube-dns", shown(&text)))
}

/// A taint, `key=value:Effect` or `key:Effect`.
pub fn taint(scalar: &Scalar) -> Parsed<String> {
    let text = text(scalar)?;
    let effects = "NoSchedule, PreferNoSchedule, NoExecute";
    let wrong = || format!("{} is not a taint; write key=value:Effect or key:Effect (effects: {effects})", shown(&text));
    let (subject, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        return Err(format!("{} has no effect that Kubernetes knows (allowed: {effects})", shown(&text)));
    }
    let (key, value) = subject.split_once('=').unwrap_or((subject, ""));
    if is_qualified_name(key) && (value.is_empty() || is_qualified(value)) { Ok(text) } else { Err(wrong()) }
}

/// Key and effect: what makes two taints the same to Kubernetes.
pub fn taint_identity(taint: &str) -> (&str, &str) {
    let (subject, effect) = taint.rsplit_once(':').unwrap_or((taint, ""));
    (subject.split_once('=').map_or(subject, |(key, _)| key), effect)
}

/// A release of k3s, such as `v1.31.5+k3s1`.
pub fn k3s_version(scalar: &Scalar) -> Parsed<String> {
    let wrong = || format!("{} is not a k3s version; write the whole of it, such as v1.31.5+k3s1", shown(&scalar.text));
    let (kubernetes, build) = scalar.text.strip_prefix('v').and_then(|rest| rest.split_once("+k3s")).ok_or_else(wrong)?;
    let number = |part: &str| !part.is_empty() && part.len() <= 6 && part.chars().all(|c| c.is_ascii_digit());
    let (release, candidate) = kubernetes.split_once("-rc").map_or((kubernetes, None), |(release, rc)| (release, Some(rc)));
    let good =
        release.split('.').count() == 3 && release.split('.').all(number) && candidate.is_none_or(|rc| number(rc.trim_start_matches('.')));
    if good && number(build) { Ok(scalar.text.clone()) } else { Err(wrong()) }
}

/// The name of a node of Kubernetes: a DNS name in lower case.
pub fn node_name(scalar: &Scalar) -> Parsed<String> {
    let text = text(scalar)?;
    let good = is_dns_name(&text) && !text.chars().any(|c| c.is_ascii_uppercase());
    if good {
        Ok(text)
    } else {
        Err(format!("{} is not the name of a node of Kubernetes; write it as `kubectl get nodes` shows it", shown(&text)))
    }
}

/// A container image: `[host[:port]/]path[:tag][@sha256:…]` (reference grammar of the OCI distribution).
pub fn container_image(scalar: &Scalar) -> Parsed<String> {
    let text = text(scalar)?;
    let wrong = || format!("{} is not a container image; write one such as registry.lan/tools/busybox:1.37", shown(&text));
    let (name, digest) = text.split_once('@').map_or((text.as_str(), None), |(name, digest)| (name, Some(digest)));
    let hex = |hash: &str| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if digest.is_some_and(|digest| !digest.strip_prefix("sha256:").is_some_and(hex)) {
        return Err(wrong());
    }
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    let is_tag = |tag: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        (1..=128).contains(&tag.len()) && tag.chars().all(inner) && !tag.starts_with(['.', '-'])
    };
    let segment = |part: &str| {
        let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        end(part.chars().next()) && end(part.chars().next_back()) && part.chars().all(|c| end(Some(c)) || "_.-".contains(c))
    };
    let (host, rest) = match path.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (Some(host), rest),
        _ => (None, path),
    };
    let good = host.is_none_or(|host| split_host(host).is_some()) && rest.split('/').all(segment) && tag.is_none_or(is_tag);
    if good && text.len() <= 512 { Ok(text) } else { Err(wrong()) }
}
