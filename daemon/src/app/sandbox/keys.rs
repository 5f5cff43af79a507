//! SSH keys of the sample site, made anew every time.

use aws_lc_rs::encoding::{AsBigEndian, Curve25519SeedBin};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A fresh ed25519 key pair.
pub struct SshKey {
    public: Vec<u8>,
    seed: Vec<u8>,
}

impl SshKey {
    /// From the system's randomness.
    ///
    /// # Errors
    /// Where there is none.
    pub fn generate() -> anyhow::Result<Self> {
        let pair = Ed25519KeyPair::generate().map_err(|_| anyhow::anyhow!("no ed25519 key could be made"))?;
        let missing = |_| anyhow::anyhow!("no ed25519 key could be read out");
        let seed = pair.seed().map_err(missing)?;
        let seed: Curve25519SeedBin<'_> = seed.as_be_bytes().map_err(missing)?;
        let seed = seed.as_ref().to_vec();
        Ok(Self { public: pair.public_key().as_ref().to_vec(), seed })
    }

    /// The public key as a line of `authorized_keys`.
    pub fn public_line(&self, comment: &str) -> String {
        format!("ssh-ed25519 {} {comment}", STANDARD.encode(self.blob()))
    }

    /// The private key file, format `openssh-key-v1` (PROTOCOL.key of OpenSSH), not encrypted.
    pub fn private_file(&self, comment: &str) -> String {
        let mut secret = Vec::new();
        // Twice the same number: with encryption it would show that the passphrase was right.
        secret.extend([0x6d, 0x65, 0x74, 0x69, 0x6d, 0x65, 0x74, 0x69]);
        put(&mut secret, b"ssh-ed25519");
        put(&mut secret, &self.public);
        put(&mut secret, &[self.seed.as_slice(), &self.public].concat());
        put(&mut secret, comment.as_bytes());
        let padding = (8 - secret.len() % 8) % 8;
        secret.extend((1..).take(padding));

        let mut file = b"openssh-key-v1\0".to_vec();
        put(&mut file, b"none");
        put(&mut file, b"none");
        put(&mut file, b"");
        file.extend(1_u32.to_be_bytes());
        put(&mut file, &self.blob());
        put(&mut file, &secret);
        let text = STANDARD.encode(&file);
        let lines: Vec<_> = text.as_bytes().chunks(70).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----\n", lines.join("\n"))
    }

    fn blob(&self) -> Vec<u8> {
        let mut blob = Vec::new();
        put(&mut blob, b"ssh-ed25519");
        put(&mut blob, &self.public);
        blob
    }
}

/// A string of the SSH protocols: length, then bytes (RFC 4251).
fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend((bytes.len() as u32).to_be_bytes());
    to.extend(bytes);
}
