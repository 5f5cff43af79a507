//! known_hosts (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"). Own matching: russh's takes `@revoked` keys and knows neither patterns nor tabs.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use russh::keys::{PublicKey, parse_public_key_base64};

/// A key that the file names for a host.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// Line of the file, from 1.
    pub line: usize,
    /// The key.
    pub key: PublicKey,
    /// It is marked `@revoked`: whoever shows it is not the host.
    pub revoked: bool,
}

/// The keys that `text` names for `host` and `port`. Lines that ssh would skip too (another key type, not a key) are left out, and so are
/// authorities: no certificate is asked for.
///
/// As in ssh(1), a host at another port than 22 is looked up as `[host]:port`, and without port where that is not there.
pub fn look_up(text: &str, host: &str, port: u16) -> Vec<Known> {
    let plain = host.to_ascii_lowercase();
    let with_port = if port == 22 { plain.clone() } else { format!("[{plain}]:{port}") };
    let mut exact = Vec::new();
    let mut loose = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let Some(entry) = Entry::parse(line) else { continue };
        let (here, without) = (matches(entry.hosts, &with_port), matches(entry.hosts, &plain));
        if !here && !without {
            continue;
        }
        let Ok(key) = parse_public_key_base64(entry.key) else { continue };
        let known = Known { line: at + 1, key, revoked: entry.revoked };
        // A key that is revoked for the host is so at every port.
        if here || known.revoked { exact.push(known) } else { loose.push(known) }
    }
    if exact.iter().all(|known| known.revoked) {
        exact.extend(loose);
    }
    exact
}

/// A line that names a key.
struct Entry<'a> {
    revoked: bool,
    hosts: &'a str,
    key: &'a str,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
        let first = words.next()?;
        let (revoked, hosts) = match first {
            "@revoked" => (true, words.next()?),
            _ if first.starts_with(['@', '#']) => return None,
            _ => (false, first),
        };
        let (_kind, key) = (words.next()?, words.next()?);
        Some(Self { revoked, hosts, key })
    }
}

/// Whether a list of patterns names `host`: one of them does, and none that starts with `!`.
fn matches(patterns: &str, host: &str) -> bool {
    if let Some(hashed) = patterns.strip_prefix("|1|") {
        return is_hash_of(hashed, host);
    }
    let mut found = false;
    for pattern in patterns.split(',') {
        let (negated, pattern) = pattern.strip_prefix('!').map_or((false, pattern), |rest| (true, rest));
        if glob(pattern.to_ascii_lowercase().as_bytes(), host.as_bytes()) {
            if negated {
                return false;
            }
            found = true;
        }
    }
    found
}

/// `salt|hash`, both base64: HMAC-SHA1 of the host with the salt as key (ssh-keygen -H).
fn is_hash_of(hashed: &str, host: &str) -> bool {
    let Some((salt, hash)) = hashed.split_once('|') else { return false };
    let (Ok(salt), Ok(hash)) = (STANDARD.decode(salt), STANDARD.decode(hash)) else { return false };
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
    hmac::verify(&key, host.as_bytes(), &hash).is_ok()
}

/// `*` is any run of characters, `?` any one.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                // The last star takes one character more.
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                t = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

    /// Lines of a file for host `titan-13.lan` at a port, and the lines that count; a revoked one is negative.
    const CASES: &[(&str, u16, &[i32])] = &[
        ("titan-13.lan ssh-ed25519 KEY", 22, &[1]),
        ("titan-13.lan ssh-ed25519 KEY comment with words", 22, &[1]),
        ("titan-13.lan\tssh-ed25519\tKEY", 22, &[1]),
        ("  titan-13.lan   ssh-ed25519 KEY", 22, &[1]),
        ("TITAN-13.LAN ssh-ed25519 KEY", 22, &[1]),
        ("192.168.22.43,titan-13.lan ssh-ed25519 KEY", 22, &[1]),
        ("titan-1?.* ssh-ed25519 KEY", 22, &[1]),
        ("*,!titan-13.lan ssh-ed25519 KEY", 22, &[]),
        ("titan-1.lan ssh-ed25519 KEY", 22, &[]),
        ("# titan-13.lan ssh-ed25519 KEY\n\ntitan-13.lan ssh-ed25519 KEY", 22, &[3]),
        ("titan-13.lan ssh-ed25519", 22, &[]),
        ("titan-13.lan ssh-ed25519 AAAA", 22, &[]),
        ("@cert-authority *.lan ssh-ed25519 KEY", 22, &[]),
        ("@revoked * ssh-ed25519 KEY\ntitan-13.lan ssh-ed25519 KEY", 22, &[-1, 2]),
        ("[titan-13.lan]:2277 ssh-ed25519 KEY", 2277, &[1]),
        ("[titan-13.lan]:2277 ssh-ed25519 KEY", 22, &[]),
        ("[titan-13.lan]:22 ssh-ed25519 KEY", 2277, &[]),
        ("titan-13.lan ssh-ed25519 KEY", 2277, &[1]),
        ("titan-13.lan ssh-ed25519 KEY\n[titan-13.lan]:2277 ssh-ed25519 KEY", 2277, &[2]),
        ("@revoked titan-13.lan ssh-ed25519 KEY\n[titan-13.lan]:2277 ssh-ed25519 KEY", 2277, &[-1, 2]),
        ("@revoked titan-13.lan ssh-ed25519 KEY\ntitan-13.lan ssh-ed25519 KEY", 2277, &[-1, 2]),
        // ssh-keygen -H of `titan-13.lan` and of `[titan-13.lan]:2277`.
        ("|1|AAECAwQFBgcICQoLDA0ODxAREhM=|HASH22 ssh-ed25519 KEY", 22, &[1]),
        ("|1|AAECAwQFBgcICQoLDA0ODxAREhM=|HASH22 ssh-ed25519 KEY", 2277, &[1]),
        ("|1|AAECAwQFBgcICQoLDA0ODxAREhM=|HASH2277 ssh-ed25519 KEY", 2277, &[1]),
        ("|1|AAECAwQFBgcICQoLDA0ODxAREhM=|HASH2277 ssh-ed25519 KEY", 22, &[]),
        ("|1|nonsense ssh-ed25519 KEY", 22, &[]),
    ];

    fn hash(host: &str) -> String {
        let salt: Vec<u8> = (0..20).collect();
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
        STANDARD.encode(hmac::sign(&key, host.as_bytes()))
    }

    #[test]
    fn lines_count_as_they_do_for_ssh() {
        for (text, port, expected) in CASES {
            let text = text.replace("KEY", A).replace("HASH2277", &hash("[titan-13.lan]:2277")).replace("HASH22", &hash("titan-13.lan"));
            let found = look_up(&text, "Titan-13.lan", *port);
            let mut found: Vec<i32> = found.iter().map(|known| known.line as i32 * if known.revoked { -1 } else { 1 }).collect();
            found.sort_by_key(|line| line.abs());
            assert_eq!(found, *expected, "{text} at {port}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(?s).{0,200}", host in ".{0,20}", port in any::<u16>()) {
            look_up(&text, &host, port);
        }

        #[test]
        fn a_pattern_of_one_star_matches_what_it_encloses(head in "[a-z.]{0,5}", middle in "[a-z.]{0,9}", tail in "[a-z.]{0,5}") {
            let pattern = format!("{head}*{tail}");
            let whole = format!("{head}{middle}{tail}");
            prop_assert!(glob(pattern.as_bytes(), whole.as_bytes()));
            let inside = format!("x{head}{middle}{tail}");
            prop_assert_eq!(glob(pattern.as_bytes(), inside.as_bytes()), inside.starts_with(&head) && inside.len() >= head.len() + tail.len());
        }
    }
}
