//! What a scalar may mean. Each function takes it as written and says what is wrong and what is allowed; nothing is coerced silently.

mod kube;
mod names;
mod net;
mod ssh;
mod units;

use std::fmt::Display;
use std::path::{Component, PathBuf};

pub use kube::{container_image, k3s_version, label_key, label_value, node_name, selector, taint, taint_identity};
pub use names::{dns_label, dns_name, group_name, interface, is_dns_name, name, or_number, split_host, unit_name, ups_name, user_name};
pub use net::{address_with_prefix, as_bits, bits, image_url, ip, ip_or_name, mac, port, server_url};
pub use ssh::{authorized_key, fingerprint};
pub use units::{duration, duration_or_never, journal_size, show_duration, size, time_span};

use super::cursor::Parsed;
use super::suggest::did_you_mean;
use super::tree::{Scalar, shortened};

/// A value as it is shown in a message: bounded, without control characters.
pub fn shown(text: &str) -> String {
    let mut out = String::from("`");
    for c in shortened(text).chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out.push('`');
    out
}

/// `true` or `false`.
pub fn boolean(scalar: &Scalar) -> Parsed<bool> {
    match (scalar.text.as_str(), scalar.quoted) {
        ("true", false) => Ok(true),
        ("false", false) => Ok(false),
        ("true" | "false", true) => Err("is quoted text; write true or false without quotes".to_owned()),
        (text, _) => Err(format!("{} is not a boolean; write true or false", shown(text))),
    }
}

/// Text. What YAML would read as a number or boolean must be quoted, so that nobody wonders.
pub fn text(scalar: &Scalar) -> Parsed<String> {
    if scalar.text.is_empty() {
        return Err("is empty; give it a value or remove the key".to_owned());
    }
    if !scalar.quoted && is_other_than_text(&scalar.text) {
        return Err(format!("{} is a number or boolean to YAML, but text is wanted here; write \"{}\"", shown(&scalar.text), scalar.text));
    }
    if scalar.text.chars().any(char::is_control) {
        return Err("holds a control character (perhaps a line end); write it on one line".to_owned());
    }
    Ok(scalar.text.clone())
}

/// Whether YAML 1.2.2 §10.3.2 (core schema) resolves a plain scalar to something else than a string.
fn is_other_than_text(text: &str) -> bool {
    if matches!(text.to_ascii_lowercase().as_str(), "true" | "false" | "null" | "~" | ".nan" | ".inf" | "+.inf" | "-.inf") {
        return true;
    }
    let digits = text.trim_start_matches(['+', '-']);
    let radix = |prefix: &str, radix: u32| {
        digits.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_digit(radix)))
    };
    let starts_as_number = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    radix("0x", 16) || radix("0o", 8) || (starts_as_number && digits.parse::<f64>().is_ok())
}

/// A whole number within `allowed`.
pub fn integer(allowed: std::ops::RangeInclusive<u64>) -> impl Fn(&Scalar) -> Parsed<u64> {
    move |scalar| {
        let range = format!("a whole number from {} to {}", allowed.start(), allowed.end());
        let number = plain_number(scalar, &range)?;
        if number.len() > 1 && number.starts_with('0') {
            return Err(format!("{} starts with 0, which some read as octal; write it without", shown(number)));
        }
        match number.parse::<u64>() {
            Ok(value) if number.chars().all(|c| c.is_ascii_digit()) && allowed.contains(&value) => Ok(value),
            _ => Err(format!("{} is not allowed; write {range}", shown(number))),
        }
    }
}

/// A number, possibly with a fraction, within `allowed`.
pub fn number(allowed: std::ops::RangeInclusive<f64>) -> impl Fn(&Scalar) -> Parsed<f64> {
    move |scalar| {
        let range = format!("a number from {} to {}", allowed.start(), allowed.end());
        fraction(plain_number(scalar, &range)?, &allowed, &range)
    }
}

/// Percent, with or without the sign, from 0 to 100.
pub fn percent(scalar: &Scalar) -> Parsed<f64> {
    let bare = scalar.text.strip_suffix('%').map_or(scalar.text.as_str(), str::trim_end);
    let scalar = Scalar { text: bare.to_owned(), quoted: scalar.quoted };
    let range = "percent from 0 to 100, such as 20";
    fraction(plain_number(&scalar, range)?, &(0.0..=100.0), range)
}

fn fraction(text: &str, allowed: &std::ops::RangeInclusive<f64>, range: &str) -> Parsed<f64> {
    let plain = text.chars().all(|c| c.is_ascii_digit() || c == '.') && text.starts_with(|c: char| c.is_ascii_digit());
    match text.parse::<f64>() {
        Ok(value) if plain && allowed.contains(&value) => Ok(value),
        _ => Err(format!("{} is not allowed; write {range}", shown(text))),
    }
}

fn plain_number<'a>(scalar: &'a Scalar, range: &str) -> Parsed<&'a str> {
    if scalar.quoted { Err(format!("is quoted text; write {range} without quotes")) } else { Ok(&scalar.text) }
}

/// One of some words.
pub fn one_of<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&Scalar) -> Parsed<T> {
    move |scalar| word(words, &scalar.text)
}

/// As [`one_of`], of a key.
pub fn word<T: Copy>(words: &[(&'static str, T)], text: &str) -> Parsed<T> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let hint = did_you_mean(text, words.iter().map(|(word, _)| *word)).map(|word| format!("; did you mean `{word}`?")).unwrap_or_default();
    Err(format!("{} is not allowed{hint} (allowed: {})", shown(text), list(words.iter().map(|(word, _)| word))))
}

/// Items as they are listed in a message.
pub fn list(items: impl Iterator<Item = impl Display>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// An absolute path without `..`.
pub fn path(scalar: &Scalar) -> Parsed<PathBuf> {
    absolute(&scalar.text)
        .ok_or_else(|| format!("{} is not allowed; write an absolute path without `..`, such as /var/lib/metis", shown(&scalar.text)))
}

/// The path where it is absolute and has neither `..` nor control characters.
pub fn absolute(text: &str) -> Option<PathBuf> {
    let path = PathBuf::from(text);
    let good = path.is_absolute() && !path.components().any(|part| part == Component::ParentDir) && !text.chars().any(char::is_control);
    good.then_some(path)
}

/// SHA-256 in hex, in lower case.
pub fn sha256(scalar: &Scalar) -> Parsed<String> {
    let text = &scalar.text;
    if text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!(
        "{} is not a SHA-256; write its 64 hexadecimal digits, as `sha256sum` prints them (here are {} characters)",
        shown(text),
        text.chars().count()
    ))
}
