//! Public keys.

use super::shown;
use crate::config::cursor::Parsed;
use crate::config::tree::Scalar;

/// Key types of sshd(8), "AUTHORIZED_KEYS FILE FORMAT".
const TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// A line of `authorized_keys`: `[options] type base64 [comment]`. The line is not shown: it may be a private key by mistake.
pub fn authorized_key(scalar: &Scalar) -> Parsed<String> {
    let line = &scalar.text;
    if line.contains("PRIVATE KEY") {
        return Err(
            "is a private key; only the public one (the file that ends in .pub) belongs here, and this one should be replaced".to_owned()
        );
    }
    let wrong = || {
        format!(
            "is not a line of authorized_keys; write `type base64 comment`, as in the file that ends in .pub (types: {})",
            TYPES.join(", ")
        )
    };
    if line.chars().any(char::is_control) {
        return Err(wrong());
    }
    let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    let at = words.iter().position(|word| TYPES.contains(word)).ok_or_else(wrong)?;
    let (Some(kind), Some(blob)) = (words.get(at), words.get(at + 1)) else { return Err(wrong()) };
    if names_its_type(kind, blob) { Ok(line.clone()) } else { Err(wrong()) }
}

/// Fingerprint of a public key as `ssh-keygen -l` prints it: `SHA256:` and 43 characters of unpadded base64 (RFC 4648 §4).
pub fn fingerprint(scalar: &Scalar) -> Parsed<String> {
    let text = &scalar.text;
    let digest = text.strip_prefix("SHA256:").and_then(|hash| decode(&format!("{hash}=")));
    if digest.is_some_and(|bytes| bytes.len() == 32) && text.len() == 50 {
        return Ok(text.clone());
    }
    Err(format!(
        "{} is not a fingerprint; write SHA256: and 43 characters, as `ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub` prints it on that host",
        shown(text)
    ))
}

/// RFC 4253 §6.6: the blob starts with the length and name of its type.
fn names_its_type(kind: &str, blob: &str) -> bool {
    let expected: Vec<u8> = (kind.len() as u32).to_be_bytes().into_iter().chain(kind.bytes()).collect();
    decode(blob).is_some_and(|bytes| bytes.len() > expected.len() && bytes.starts_with(&expected))
}

/// Base64 (RFC 4648 §4).
fn decode(text: &str) -> Option<Vec<u8>> {
    let body = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - body.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(body.len() * 3 / 4);
    let (mut buffer, mut bits) = (0u32, 0u32);
    for c in body.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        buffer = (buffer << 6 | u32::from(value)) & 0xff_ffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((buffer >> bits) as u8);
        }
    }
    Some(bytes)
}
