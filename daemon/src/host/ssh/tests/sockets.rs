//! A Unix socket behind an sshd.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use super::*;

/// Gives back what it is told, and the uid of who told it.
fn echo(path: &std::path::Path) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let uid = stream.peer_cred().unwrap().uid();
            let mut buffer = [0; 64];
            let count = stream.read(&mut buffer).await.unwrap();
            stream.write_all(&buffer[..count]).await.unwrap();
            stream.write_all(format!(" from {uid}").as_bytes()).await.unwrap();
        }
    })
}

#[tokio::test]
async fn a_socket_is_reached_and_says_who_is_there() {
    let Some(sshd) = Sshd::start() else { return };
    let path = sshd.path("socket");
    let task = echo(&path);
    let (ssh, host) = (ssh(&sshd), sshd.host("ed25519"));
    for _ in 0..2 {
        let mut stream = ssh.socket(&host, path.to_str().unwrap(), LIMIT).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut said = String::new();
        tokio::time::timeout(LIMIT, stream.read_to_string(&mut said)).await.unwrap().unwrap();
        assert_eq!(said, "hello from 0");
    }
    assert_eq!(sshd.logins(), 1, "one connection serves both, and commands too");
    ssh.run(&host, &sh("true"), LIMIT).await.unwrap();
    // A connection that broke unseen is made anew.
    sshd.signal_sessions(nix::sys::signal::Signal::SIGKILL);
    ssh.socket(&host, path.to_str().unwrap(), LIMIT).await.unwrap();
    task.abort();
}

#[tokio::test]
async fn where_nobody_listens_it_is_the_daemon_and_not_the_host() {
    let Some(sshd) = Sshd::start() else { return };
    let path = sshd.path("nobody");
    let error = ssh(&sshd).socket(&sshd.host("ed25519"), path.to_str().unwrap(), LIMIT).await.err().unwrap();
    assert!(matches!(&error, HostError::Failed(why) if why.contains("nobody listens there")), "{error:?}");
    let mut elsewhere = sshd.host("ed25519");
    elsewhere.host_keys = vec![sshd.fingerprint("user")];
    let error = ssh(&sshd).socket(&elsewhere, "/run/x", LIMIT).await.err().unwrap();
    assert!(matches!(error, HostError::Refused(_)), "another host key is another host: {error:?}");
}

#[tokio::test]
async fn an_sshd_that_hangs_costs_the_deadline() {
    let Some(sshd) = Sshd::start() else { return };
    let (ssh, host) = (ssh(&sshd), sshd.host("ed25519"));
    ssh.run(&host, &sh("true"), LIMIT).await.unwrap();
    sshd.signal_all(nix::sys::signal::Signal::SIGSTOP);
    let error = ssh.socket(&host, "/run/x", Duration::from_secs(1)).await.err().unwrap();
    assert!(matches!(error, HostError::TimedOut(_)), "{error:?}");
    sshd.signal_all(nix::sys::signal::Signal::SIGCONT);
}
