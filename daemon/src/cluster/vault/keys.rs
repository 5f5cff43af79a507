//! A file or an output → unseal keys.

use crate::site::Secret;

/// A file holds no more keys.
const MOST: usize = 32;
/// Length of a key: Vault's own have 44 characters in base64, 64 to 66 in hex.
const LENGTH: std::ops::RangeInclusive<usize> = 8..=256;

/// One key a line, base64 or hex as `vault operator init` prints them; empty lines and those that begin with `#` are none.
///
/// # Errors
/// Where there is none, or a line is none; the message holds no content.
pub fn keys(text: &Secret) -> Result<Vec<Secret>, String> {
    let Some(text) = text.expose_str() else { return Err("it is not text; one key a line is expected".to_owned()) };
    let mut keys: Vec<Secret> = Vec::new();
    for (at, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=-_".contains(&byte);
        if !LENGTH.contains(&line.len()) || !line.bytes().all(plain) {
            return Err(format!("line {} is no unseal key; one key a line is expected, base64 or hex, and nothing else", at + 1));
        }
        let key = Secret::new(line);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    match keys.len() {
        0 => Err("it holds no key".to_owned()),
        1..=MOST => Ok(keys),
        more => Err(format!("it holds {more} keys; more than {MOST} are not tried")),
    }
}
