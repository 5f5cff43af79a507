//! SSH: host keys, the daemon's port.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::edit::FileEdit;
use super::{Job, RenderError};
use crate::site::HostKeyAlgorithm;

const DIR: &str = "/etc/ssh";
const INCLUDE: &str = "Include /etc/ssh/sshd_config.d/*.conf";
const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
const MAGIC: &[u8] = b"openssh-key-v1\0";

pub(super) fn render(job: &Job<'_>) -> Result<Vec<FileEdit>, RenderError> {
    let mut edits = host_keys(job)?;
    edits.extend(port(job)?);
    Ok(edits)
}

fn host_keys(job: &Job<'_>) -> Result<Vec<FileEdit>, RenderError> {
    let keys = &job.node.settings.ssh.host_keys;
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut edits = Vec::new();
    for (algorithm, reference) in keys {
        let name = name(*algorithm);
        let key = format!("ssh.host_keys.{name}");
        let secret = job.secret(&key, reference)?;
        let text = secret.secret.expose_str().ok_or_else(|| job.bad_secret(&key, reference, "is not text"))?;
        let public = public_line(text, *algorithm).map_err(|why| job.bad_secret(&key, reference, why))?;
        let comment = format!("root@{}", job.node.hostname);
        edits.push(FileEdit::file(format!("{DIR}/ssh_host_{name}_key"), 0o600, format!("{}\n", text.trim())).secret());
        edits.push(FileEdit::file(format!("{DIR}/ssh_host_{name}_key.pub"), 0o644, format!("{public} {comment}\n")));
    }
    // The golden image's own keys are on every card made from it: none may stay.
    let ours = |name: &String| edits.iter().any(|edit| edit.path == format!("{DIR}/{name}"));
    let foreign: Vec<_> =
        job.facts.host_keys.iter().filter(|name| !ours(name)).map(|name| FileEdit::remove(format!("{DIR}/{name}"))).collect();
    edits.extend(foreign);
    edits.extend(keep_our_keys(job));
    Ok(edits)
}

/// What would replace the host keys at the first boot: Armbian's first run, and Raspberry Pi OS's unit.
fn keep_our_keys(job: &Job<'_>) -> Vec<FileEdit> {
    const NO: &str = "OPENSSHD_REGENERATE_HOST_KEYS=false";
    let mut edits = Vec::new();
    if let Some(file) = &job.facts.armbian_firstrun
        && !file.text.lines().any(|line| line == NO)
    {
        let kept = file.text.lines().filter(|line| !line.trim_start().starts_with("OPENSSHD_REGENERATE_HOST_KEYS="));
        let text = kept.fold(String::new(), |text, line| text + line + "\n") + NO + "\n";
        edits.push(FileEdit::file("/etc/default/armbian-firstrun", file.mode, text).owned(file.uid, file.gid).repair());
    }
    let unit = "multi-user.target.wants/regenerate_ssh_host_keys.service";
    if job.facts.enabled.contains(unit) {
        edits.push(FileEdit::remove(format!("/etc/systemd/system/{unit}")));
    }
    edits
}

fn port(job: &Job<'_>) -> Result<Vec<FileEdit>, RenderError> {
    let Some(port) = job.node.settings.ssh.port else { return Ok(Vec::new()) };
    if port == 0 {
        return Err(job.bad_value("ssh.port", "0", "is not a port: 1 to 65535"));
    }
    let Some(config) = &job.facts.sshd_config else {
        return Err(job.image_lacks("ssh.port", "has no /etc/ssh/sshd_config; install openssh-server in the golden image"));
    };
    let mut edits = vec![FileEdit::file(format!("{DIR}/sshd_config.d/10-metis.conf"), 0o644, format!("Port {port}\n"))];
    let mut text = without_port(&config.text).unwrap_or_else(|| config.text.clone());
    if !includes_drop_ins(&text) {
        text = format!("{INCLUDE}\n{text}");
    }
    if text != config.text {
        edits.push(FileEdit::file(format!("{DIR}/sshd_config"), config.mode, text).owned(config.uid, config.gid).repair());
    }
    for (name, file) in job.facts.sshd_dropins.iter().filter(|(name, _)| *name != "10-metis.conf") {
        if let Some(text) = without_port(&file.text) {
            edits.push(FileEdit::file(format!("{DIR}/sshd_config.d/{name}"), file.mode, text).owned(file.uid, file.gid).repair());
        }
    }
    edits.extend(socket(job, port));
    Ok(edits)
}

/// Where systemd listens for sshd, the port is the socket's; newer Ubuntus take it from sshd_config by themselves.
fn socket(job: &Job<'_>, port: u16) -> Option<FileEdit> {
    let listens = job.facts.enabled.contains("sockets.target.wants/ssh.socket") && !job.facts.ssh_socket_generator;
    let text = format!("[Socket]\nListenStream=\nListenStream={port}\n");
    listens.then(|| FileEdit::file("/etc/systemd/system/ssh.socket.d/10-metis.conf", 0o644, text))
}

/// sshd listens at *every* port it is told (sshd_config(5)), so those of the image must go. `None`: there is none.
fn without_port(text: &str) -> Option<String> {
    let is_port = |line: &str| keyword(line).is_some_and(|word| word.eq_ignore_ascii_case("port"));
    text.lines().any(is_port).then(|| {
        text.lines().fold(String::new(), |text, line| {
            if is_port(line) { text + "# replaced by 10-metis.conf: " + line.trim() + "\n" } else { text + line + "\n" }
        })
    })
}

/// Whether the drop-ins are read outside any `Match` block.
fn includes_drop_ins(text: &str) -> bool {
    let global = text.lines().take_while(|line| !keyword(line).is_some_and(|word| word.eq_ignore_ascii_case("match")));
    global.filter(|line| keyword(line).is_some_and(|word| word.eq_ignore_ascii_case("include"))).any(|line| {
        line.split_whitespace()
            .skip(1)
            .any(|path| matches!(path.trim_matches('"'), "/etc/ssh/sshd_config.d/*.conf" | "sshd_config.d/*.conf"))
    })
}

fn keyword(line: &str) -> Option<&str> {
    let word = line.trim_start().split([' ', '\t', '=']).next()?;
    (!word.is_empty() && !word.starts_with('#')).then_some(word)
}

fn name(algorithm: HostKeyAlgorithm) -> &'static str {
    match algorithm {
        HostKeyAlgorithm::Ed25519 => "ed25519",
        HostKeyAlgorithm::Ecdsa => "ecdsa",
        HostKeyAlgorithm::Rsa => "rsa",
    }
}

/// `type base64` of the public half that an OpenSSH private key carries in clear (OpenSSH's PROTOCOL.key).
fn public_line(private: &str, algorithm: HostKeyAlgorithm) -> Result<String, &'static str> {
    const NO_KEY: &str = "is not an OpenSSH private key (`ssh-keygen -p -f KEY` turns older formats into one)";
    const CUT: &str = "is an OpenSSH private key cut short";
    let body = private.trim().strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END)).ok_or(NO_KEY)?;
    let packed: String = body.split_whitespace().collect();
    let bytes = zeroize::Zeroizing::new(BASE64.decode(&*zeroize::Zeroizing::new(packed)).map_err(|_| NO_KEY)?);
    let mut rest = bytes.strip_prefix(MAGIC).ok_or(NO_KEY)?;
    let cipher = string(&mut rest).ok_or(CUT)?;
    if cipher != b"none" {
        return Err("is protected by a passphrase; sshd cannot ask for one");
    }
    let _kdf = string(&mut rest).ok_or(CUT)?;
    let _kdf_options = string(&mut rest).ok_or(CUT)?;
    let count = rest.split_off(..4).ok_or(CUT)?;
    if count != [0, 0, 0, 1] {
        return Err("holds more than one key");
    }
    let public = string(&mut rest).ok_or(CUT)?;
    let _private = string(&mut rest).ok_or(CUT)?;
    let kind = string(&mut &*public).and_then(|kind| std::str::from_utf8(kind).ok()).ok_or(CUT)?;
    let right = match algorithm {
        HostKeyAlgorithm::Ed25519 => kind == "ssh-ed25519",
        HostKeyAlgorithm::Ecdsa => matches!(kind, "ecdsa-sha2-nistp256" | "ecdsa-sha2-nistp384" | "ecdsa-sha2-nistp521"),
        HostKeyAlgorithm::Rsa => kind == "ssh-rsa",
    };
    if right { Ok(format!("{kind} {}", BASE64.encode(public))) } else { Err("is a key of another algorithm than the inventory says") }
}

/// An SSH string: length (32 bits), bytes.
fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = rest.split_off(..4)?;
    let len = u32::from_be_bytes(len.try_into().ok()?) as usize;
    if rest.len() < len { None } else { rest.split_off(..len) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_port_of_the_image_is_taken_out_and_only_once() {
        let text = "Include /etc/ssh/sshd_config.d/*.conf\n#Port 22\nPort 22\n  port = 2222\nPermitRootLogin no\n";
        let once = without_port(text).unwrap();
        assert!(!once.lines().any(|line| keyword(line).is_some_and(|word| word.eq_ignore_ascii_case("port"))), "{once}");
        assert!(once.contains("\nPermitRootLogin no\n") && once.contains("\n#Port 22\n"));
        assert_eq!(without_port(&once), None);
    }

    #[test]
    fn drop_ins_count_only_where_they_are_read_for_everybody() {
        assert!(includes_drop_ins("# x\nInclude /etc/ssh/sshd_config.d/*.conf\n"));
        assert!(!includes_drop_ins("#Include /etc/ssh/sshd_config.d/*.conf\n"));
        assert!(!includes_drop_ins("Match User git\n  Include /etc/ssh/sshd_config.d/*.conf\n"));
        assert!(!includes_drop_ins("Include /etc/ssh/other/*.conf\n"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_key_parser_panic(body in "[A-Za-z0-9+/=\n]{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = public_line(&format!("{BEGIN}\n{body}\n{END}\n"), HostKeyAlgorithm::Rsa);
            let packed = BASE64.encode([MAGIC, &bytes].concat());
            let _ = public_line(&format!("{BEGIN}\n{packed}\n{END}\n"), HostKeyAlgorithm::Rsa);
        }
    }
}
