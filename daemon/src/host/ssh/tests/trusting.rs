//! Who is taken for whom.

use super::server::keygen;
use super::*;

#[tokio::test]
async fn a_pinned_host_key_and_the_right_user_key_let_a_command_run() {
    let Some(sshd) = Sshd::start() else { return };
    let out = ssh(&sshd).run(&sshd.host("ed25519"), &sh("echo out; echo err >&2; id -un"), LIMIT).await.unwrap();
    assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("out\nroot\n", "err\n"));
}

#[tokio::test]
async fn another_host_key_than_the_pinned_one_is_refused_with_both_named() {
    let Some(sshd) = Sshd::start() else { return };
    let mut host = sshd.host("ed25519");
    let seen = std::mem::replace(&mut host.host_keys[0], sshd.fingerprint("user"));
    let error = ssh(&sshd).run(&host, &sh("touch ran"), LIMIT).await.unwrap_err();
    let HostError::Refused(message) = &error else { panic!("{error:?}") };
    assert!(message.contains(&seen) && message.contains(&sshd.fingerprint("user")) && message.contains("titan-13"), "{message}");
    assert_eq!(sshd.logins(), 0, "nothing is said to a host that is not trusted");
}

#[tokio::test]
async fn a_host_with_several_keys_is_known_by_any_of_them() {
    let Some(sshd) = Sshd::with(&["ed25519", "ecdsa"], "") else { return };
    let ssh = ssh(&sshd);
    for kind in ["ed25519", "ecdsa"] {
        ssh.run(&sshd.host(kind), &sh("true"), LIMIT).await.unwrap();
    }
    assert_eq!(sshd.logins(), 2, "another pin is another connection");
    // known_hosts names the one that would not be shown first.
    std::fs::write(sshd.path("known_hosts"), format!("[127.0.0.1]:{} {}\n", sshd.port, sshd.public("host_ecdsa"))).unwrap();
    let mut host = sshd.host("ecdsa");
    host.host_keys.clear();
    ssh.run(&host, &sh("true"), LIMIT).await.unwrap();
}

#[tokio::test]
async fn without_pins_known_hosts_decides_as_for_ssh() {
    let Some(sshd) = Sshd::start() else { return };
    let mut host = sshd.host("ed25519");
    host.host_keys.clear();
    let key = sshd.public("host_ed25519");
    let port = sshd.port;
    let hashed = || {
        std::fs::write(sshd.path("plain"), format!("[127.0.0.1]:{port} {key}\n")).unwrap();
        let out = std::process::Command::new("ssh-keygen").arg("-Hf").arg(sshd.path("plain")).output().unwrap();
        assert!(out.status.success());
        std::fs::read_to_string(sshd.path("plain")).unwrap()
    };
    let hashed = hashed();
    assert!(hashed.starts_with("|1|"), "{hashed}");
    let other = sshd.public("user");
    let cases = [
        (String::new(), false),
        (format!("[127.0.0.1]:{port} {key}"), true),
        (hashed, true),
        (format!("127.0.0.* {key}"), true),
        (format!("[127.0.0.1]:{port} {other}"), false),
        (format!("[127.0.0.1]:22 {key}"), false),
        (format!("@revoked * {key}\n[127.0.0.1]:{port} {key}"), false),
        (format!("@cert-authority * {key}"), false),
    ];
    for (text, trusted) in cases {
        std::fs::write(sshd.path("known_hosts"), &text).unwrap();
        let ours = ssh(&sshd).run(&host, &sh("true"), LIMIT).await;
        assert_eq!(ours.is_ok(), trusted, "{text}: {ours:?}");
        assert!(ours.is_ok() || matches!(ours, Err(HostError::Refused(_))), "{text}: {ours:?}");
        // The judge.
        let mut openssh = std::process::Command::new("ssh");
        openssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", "-o"]);
        openssh.arg(format!("UserKnownHostsFile={}", sshd.path("known_hosts").display())).args(["-o", "GlobalKnownHostsFile=none"]);
        openssh.arg("-i").arg(sshd.path("user")).args(["-p", &port.to_string(), "root@127.0.0.1", "true"]);
        let theirs = openssh.stdin(std::process::Stdio::null()).output().unwrap();
        assert_eq!(theirs.status.success(), trusted, "{text}: {}", String::from_utf8_lossy(&theirs.stderr));
    }
}

#[tokio::test]
async fn a_host_key_that_changed_is_refused_also_for_a_host_that_was_reached_before() {
    let Some(mut sshd) = Sshd::start() else { return };
    let (ssh, host) = (ssh(&sshd), sshd.host("ed25519"));
    ssh.run(&host, &sh("true"), LIMIT).await.unwrap();
    std::fs::remove_file(sshd.path("host_ed25519.pub")).unwrap();
    sshd.restart_with_new_keys();
    let error = ssh.run(&host, &sh("true"), LIMIT).await.unwrap_err();
    assert!(matches!(&error, HostError::Refused(message) if message.contains(&sshd.fingerprint("host_ed25519"))), "{error:?}");
}

#[tokio::test]
async fn a_user_key_that_the_host_does_not_know_is_refused_with_its_fingerprint() {
    let Some(sshd) = Sshd::start() else { return };
    keygen("ed25519", &sshd.path("stranger"));
    let mut host = sshd.host("ed25519");
    host.key = Some(SecretRef::File(sshd.path("stranger")));
    let error = ssh(&sshd).run(&host, &sh("true"), LIMIT).await.unwrap_err();
    assert!(matches!(&error, HostError::Refused(message) if message.contains(&sshd.fingerprint("stranger"))), "{error:?}");
}

#[tokio::test]
async fn a_user_key_that_cannot_be_used_is_named_and_never_shown() {
    let Some(sshd) = Sshd::start() else { return };
    std::fs::write(sshd.path("broken"), "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n").unwrap();
    keygen("rsa", &sshd.path("rsa"));
    for (key, said) in [
        (Some(SecretRef::File(sshd.path("broken"))), "is no private key that can be used"),
        (Some(SecretRef::File(sshd.path("rsa"))), "is no private key that can be used"),
        (Some(SecretRef::File(sshd.path("absent"))), "absent: No such file"),
        (Some(SecretRef::Credential("ssh-key".to_owned())), "credential ssh-key: there is none"),
        (None, "give `hosts.key`"),
    ] {
        let ssh = Ssh::new(&Settings { key, ..settings(&sshd) }, secrets());
        let error = ssh.run(&sshd.host("ed25519"), &sh("true"), LIMIT).await.unwrap_err();
        assert!(matches!(&error, HostError::Refused(message) if message.contains(said) && !message.contains("hunter2")), "{error:?}");
    }
}
