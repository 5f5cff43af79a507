//! One request.

use std::fmt::Write;

use http::Method;
use kube::client::Body;
use serde_json::Value;

/// One request, which may be sent more than once.
#[derive(Debug, Clone)]
pub struct Call {
    method: Method,
    uri: String,
    content_type: &'static str,
    body: Vec<u8>,
}

impl Call {
    /// GET with query parameters, which are escaped here.
    pub fn get(path: &str, query: &[(&str, &str)]) -> Self {
        Self { method: Method::GET, uri: with_query(path, query), content_type: "application/json", body: Vec::new() }
    }

    /// JSON merge patch (RFC 7396) as field manager `metis`. Flux takes back what managers whose names start with `kubectl` own.
    pub fn patch(path: &str, body: &Value) -> Self {
        Self::with_body(Method::PATCH, &with_query(path, &[("fieldManager", "metis")]), "application/merge-patch+json", body)
    }

    /// POST.
    pub fn post(path: &str, body: &Value) -> Self {
        Self::with_body(Method::POST, &with_query(path, &[("fieldManager", "metis")]), "application/json", body)
    }

    /// DELETE with DeleteOptions.
    pub fn delete(path: &str, options: &Value) -> Self {
        Self::with_body(Method::DELETE, path, "application/json", options)
    }

    fn with_body(method: Method, uri: &str, content_type: &'static str, body: &Value) -> Self {
        Self { method, uri: uri.to_owned(), content_type, body: body.to_string().into_bytes() }
    }

    /// The request; path and query only, the client adds the rest.
    pub fn request(&self) -> http::Result<http::Request<Body>> {
        http::Request::builder()
            .method(self.method.clone())
            .uri(&self.uri)
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::CONTENT_TYPE, self.content_type)
            .body(Body::from(self.body.clone()))
    }

    /// `GET /api/v1/nodes`, for messages.
    pub fn name(&self) -> String {
        format!("{} {}", self.method, self.uri.split('?').next().unwrap_or(""))
    }
}

/// Path of a resource: `group_version` is `v1` or `apps/v1`, an empty namespace or name is left out.
pub fn path(group_version: &str, namespace: &str, resource: &str, name: &str) -> String {
    let mut path = format!("{}/{group_version}", if group_version.contains('/') { "/apis" } else { "/api" });
    if !namespace.is_empty() {
        let _ = write!(path, "/namespaces/{}", escape(namespace));
    }
    let _ = write!(path, "/{resource}");
    if !name.is_empty() {
        let _ = write!(path, "/{}", escape(name));
    }
    path
}

fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    let mut uri = path.to_owned();
    for (at, (key, value)) in query.iter().enumerate() {
        let _ = write!(uri, "{}{key}={}", if at == 0 { '?' } else { '&' }, escape(value));
    }
    uri
}

/// RFC 3986: all but unreserved characters.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
