//! Streams that a host opens to what it alone reaches.

use std::net::{IpAddr, Ipv4Addr, TcpListener};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Sends back what it gets, in capitals.
async fn shouter() -> u16 {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            stream.write_all(text.to_uppercase().as_bytes()).await.unwrap();
        }
    });
    port
}

#[tokio::test]
async fn a_stream_carries_bytes_both_ways_on_the_connection_that_stands() {
    let Some(sshd) = Sshd::start() else { return };
    let (ssh, host, port) = (ssh(&sshd), sshd.host("ed25519"), shouter().await);
    for _ in 0..3 {
        let mut stream = ssh.tunnel(&host, HERE, port, LIMIT).await.unwrap();
        stream.write_all(b"hear me").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut said = String::new();
        tokio::time::timeout(LIMIT, stream.read_to_string(&mut said)).await.unwrap().unwrap();
        assert_eq!(said, "HEAR ME");
    }
    ssh.run(&host, &sh("true"), LIMIT).await.unwrap();
    assert_eq!(sshd.logins(), 1);
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    let Some(sshd) = Sshd::start() else { return };
    let (ssh, host) = (ssh(&sshd), sshd.host("ed25519"));
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let error = ssh.tunnel(&host, HERE, closed, LIMIT).await.map(drop).unwrap_err();
    assert!(matches!(&error, HostError::Failed(message) if message.contains("gets no connection")), "{error:?}");
    ssh.run(&host, &sh("true"), LIMIT).await.unwrap();
    let Some(strict) = Sshd::with(&["ed25519"], "AllowTcpForwarding no") else { return };
    let ssh = super::ssh(&strict);
    let error = ssh.tunnel(&strict.host("ed25519"), HERE, shouter().await, LIMIT).await.map(drop).unwrap_err();
    assert!(matches!(&error, HostError::Failed(message) if message.contains("AllowTcpForwarding")), "{error:?}");
}

#[tokio::test]
async fn streams_that_are_dropped_leave_room_for_others() {
    let Some(sshd) = Sshd::start() else { return };
    let (ssh, host, port) = (ssh(&sshd), sshd.host("ed25519"), shouter().await);
    for _ in 0..30 {
        drop(ssh.tunnel(&host, HERE, port, LIMIT).await.unwrap());
    }
    ssh.run(&host, &sh("true"), LIMIT).await.unwrap();
    assert_eq!(sshd.logins(), 1);
}
