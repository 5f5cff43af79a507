//! Where an image comes from.

use std::path::PathBuf;

use super::error::ImageError;
use crate::site::ImageRef;

/// A checked reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    File(PathBuf),
    Https(reqwest::Url),
}

/// A reference as it may be shown: a query may carry a token.
pub(super) fn shown(url: &str) -> String {
    match url.split_once('?') {
        Some((head, _)) => format!("{head}?…"),
        None => url.to_owned(),
    }
}

/// Checks the reference and says where to read from. The digests come back in lower case.
///
/// # Errors
/// Says what is wrong and what is allowed.
pub(super) fn parse(image: &ImageRef) -> Result<(Source, ImageRef), ImageError> {
    let wrong = |why: String| ImageError::Reference { image: shown(&image.url), why };
    let digest = |name: &str, hex: &str| {
        let right = hex.len() == 64 && hex.bytes().all(|c| c.is_ascii_hexdigit());
        if right { Ok(hex.to_ascii_lowercase()) } else { Err(wrong(format!("its {name} must be 64 hexadecimal digits"))) }
    };
    let checked = ImageRef {
        url: image.url.clone(),
        sha256: digest("sha256", &image.sha256)?,
        content_sha256: image.content_sha256.as_deref().map(|hex| digest("content_sha256", hex)).transpose()?,
    };
    Ok((place(&image.url).map_err(wrong)?, checked))
}

fn place(url: &str) -> Result<Source, String> {
    if url.starts_with('/') {
        return Ok(Source::File(PathBuf::from(url)));
    }
    let parsed = reqwest::Url::parse(url).map_err(|e| format!("it is no URL ({e}); use file:///path or https://"))?;
    match parsed.scheme() {
        "file" => parsed.to_file_path().map(Source::File).map_err(|()| "a file: URL needs an absolute path of this host".to_owned()),
        "https" if !parsed.username().is_empty() || parsed.password().is_some() => {
            Err("a URL must not carry a user name or password: it is shown in logs".to_owned())
        }
        "https" => Ok(Source::Https(parsed)),
        "http" => Err("http: is not allowed, because anybody on the way could see and stall it; use https:".to_owned()),
        other => Err(format!("{other}: is not supported; use file: or https:")),
    }
}
