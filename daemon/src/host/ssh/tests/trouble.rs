//! Hosts that hang, go away and refuse.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Instant;

use nix::sys::signal::Signal;

use super::*;
use crate::host::testing::ssh_host;

fn limit_kept(since: Instant, limit: Duration) {
    // Generous: machines are busy. What matters is that it ends by its deadline and not by somebody else's.
    assert!(since.elapsed() < limit + Duration::from_secs(10), "{:?} instead of {limit:?}", since.elapsed());
}

#[tokio::test]
async fn a_port_where_nothing_listens_is_unreachable() {
    let Some(sshd) = Sshd::start() else { return };
    let mut host = sshd.host("ed25519");
    host.port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let error = ssh(&sshd).run(&host, &sh("true"), LIMIT).await.unwrap_err();
    assert!(matches!(&error, HostError::Unreachable(message) if message.contains("titan-13: no connection to 127.0.0.1")), "{error:?}");
    host.address = "no-such-host.invalid".to_owned();
    let error = ssh(&sshd).run(&host, &sh("true"), LIMIT).await.unwrap_err();
    assert!(matches!(error, HostError::Unreachable(_)), "{error:?}");
}

#[tokio::test]
async fn what_listens_but_is_no_sshd_is_told_apart() {
    let Some(sshd) = Sshd::start() else { return };
    // Takes connections (the kernel does) and says nothing.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut host = sshd.host("ed25519");
    host.port = silent.local_addr().unwrap().port();
    let since = Instant::now();
    let error = ssh(&sshd).run(&host, &sh("true"), LIMIT).await.unwrap_err();
    assert!(matches!(&error, HostError::TimedOut(message) if message.contains("its sshd did not answer")), "{error:?}");
    limit_kept(since, Duration::from_secs(3));
    let since = Instant::now();
    let error = ssh(&sshd).run(&host, &sh("true"), Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(error, HostError::TimedOut(_)), "{error:?}");
    limit_kept(since, Duration::from_millis(300));
    drop(silent);

    let liar = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    host.port = liar.local_addr().unwrap().port();
    let answer = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        while let Ok((mut stream, _)) = liar.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let error = ssh(&sshd).run(&host, &sh("true"), LIMIT).await.unwrap_err();
    assert!(matches!(error, HostError::Unreachable(_)), "{error:?}");
    answer.abort();
}

#[tokio::test]
async fn a_hung_sshd_costs_its_deadline_and_a_new_connection_afterwards() {
    let Some(sshd) = Sshd::start() else { return };
    let (ssh, host) = (ssh(&sshd), sshd.host("ed25519"));
    ssh.run(&host, &sh("true"), LIMIT).await.unwrap();
    sshd.signal_all(Signal::SIGSTOP);
    let since = Instant::now();
    // On the connection that stands, and then on a new one that the kernel takes for sshd.
    for _ in 0..2 {
        let error = ssh.run(&host, &sh("true"), Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(error, HostError::TimedOut(_)), "{error:?}");
    }
    limit_kept(since, Duration::from_secs(2));
    sshd.signal_all(Signal::SIGCONT);
    ssh.run(&host, &sh("true"), LIMIT).await.unwrap();
    assert!(sshd.logins() >= 2);
}

#[tokio::test]
async fn a_command_that_hangs_is_given_up_and_the_next_one_runs() {
    let Some(sshd) = Sshd::start() else { return };
    let (ssh, host) = (ssh(&sshd), sshd.host("ed25519"));
    let pid = sshd.path("pid");
    // sshd sends no signals to root's commands; this one ends because nobody reads it any more.
    let script = format!("echo $$ >{}; while echo; do sleep 0.1; done", pid.display());
    let error = ssh.run(&host, &sh(&script), Duration::from_secs(2)).await.unwrap_err();
    assert!(matches!(&error, HostError::TimedOut(message) if message.contains("may still run there")), "{error:?}");
    ssh.run(&host, &sh("true"), LIMIT).await.unwrap();
    let pid = std::fs::read_to_string(pid).unwrap();
    let process = std::path::PathBuf::from(format!("/proc/{}", pid.trim()));
    let until = Instant::now() + Duration::from_secs(10);
    while process.exists() {
        assert!(Instant::now() < until, "its channel is still open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_in_mid_command_is_said_and_made_anew() {
    let Some(sshd) = Sshd::start() else { return };
    let (ssh, host) = (ssh(&sshd), sshd.host("ed25519"));
    let started = sshd.path("started");
    let command = sh(&format!("touch {}; sleep 30", started.display()));
    let running = ssh.run(&host, &command, LIMIT);
    let cut = async {
        while !started.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        sshd.signal_sessions(Signal::SIGKILL);
    };
    let (result, ()) = futures::future::join(running, cut).await;
    assert!(matches!(&result, Err(HostError::Unreachable(message)) if message.contains("was lost while")), "{result:?}");
    ssh.run(&host, &sh("true"), LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_ended_unseen_is_made_anew_before_the_command_runs() {
    let Some(sshd) = Sshd::start() else { return };
    let (ssh, host) = (ssh(&sshd), sshd.host("ed25519"));
    for _ in 0..3 {
        ssh.run(&host, &sh("true"), LIMIT).await.unwrap();
        sshd.signal_sessions(Signal::SIGKILL);
    }
    assert_eq!(sshd.logins(), 3);
}

#[tokio::test]
async fn a_power_off_that_takes_the_connection_with_it_was_taken() {
    let Some(sshd) = Sshd::start() else { return };
    let (ssh, host) = (ssh(&sshd), sshd.host("ed25519"));
    // What a host does that powers off: the server of this connection is killed.
    let order = ssh.order(&host, &sh("kill -9 $PPID; sleep 5"), LIMIT).await;
    assert_eq!(order, Ok(Order::TakenThenLost));
    assert_eq!(ssh.order(&host, &sh("kill -TERM $$"), LIMIT).await, Ok(Order::TakenThenLost));
    assert_eq!(ssh.order(&host, &sh("true"), LIMIT).await, Ok(Order::Done));
    assert!(matches!(ssh.order(&host, &sh("exit 1"), LIMIT).await, Err(HostError::Failed(_))));
    // A host that is not there took nothing.
    let gone = ssh_host("127.0.0.1", 1);
    assert!(matches!(ssh.order(&gone, &sh("true"), LIMIT).await, Err(HostError::Unreachable(_))));
}

#[tokio::test]
async fn commands_that_sshd_forbids_are_no_lost_connection() {
    let Some(sshd) = Sshd::with(&["ed25519"], "ForceCommand /bin/false\nMaxSessions 1\n") else { return };
    let error = ssh(&sshd).run(&sshd.host("ed25519"), &sh("true"), LIMIT).await.unwrap_err();
    assert!(matches!(&error, HostError::Failed(message) if message.contains("status 1")), "{error:?}");
}

#[test]
fn only_sudos_own_words_mean_that_it_refused() {
    let (host, command) = (ssh_host("h", 22), Command { argv: vec!["systemctl".to_owned(), "stop".to_owned()], root: true });
    let ended = |status: u32, stderr: &str| {
        let mut ended = Ended { status: Some(status), taken: true, ..Ended::default() };
        ended.stderr = super::super::super::tail::Tail::of(stderr);
        judged(&host, &command, ended)
    };
    for (status, stderr) in [
        (1, "sudo: a password is required\n"),
        (1, "banner\nsudo: a terminal is required to read the password; either use the -S option\n"),
        (1, "metis is not in the sudoers file.\n"),
        (1, "Sorry, user metis is not allowed to execute '/usr/bin/systemctl stop' as root on h.\n"),
        (127, "env: 'sudo': No such file or directory\n"),
    ] {
        assert!(matches!(ended(status, stderr), Err(HostError::Denied(_))), "{stderr}");
    }
    for (status, stderr) in
        [(1, "Failed to stop k3s.service: Access denied\n"), (5, "sudo: a password is required\n"), (127, "sh: x: not found\n")]
    {
        assert!(matches!(ended(status, stderr), Err(HostError::Failed(_))), "{stderr}");
    }
}
