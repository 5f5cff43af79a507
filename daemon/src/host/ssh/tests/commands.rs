//! What commands get and give.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, ReadBuf};

use super::*;

#[tokio::test]
async fn arguments_arrive_as_they_were_given() {
    let Some(sshd) = Sshd::start() else { return };
    let argv = ["printf", "[%s]", "a b", "", "$HOME", "`id`", "it's", "\"", "\\", "*", "\n", "ü", "-n", "!x", "a;b"];
    let command = Command { argv: argv.into_iter().map(str::to_owned).collect(), root: false };
    let out = ssh(&sshd).run(&sshd.host("ed25519"), &command, LIMIT).await.unwrap();
    assert_eq!(out.stdout, format!("[{}]", argv[2..].join("][")));
}

#[tokio::test]
async fn a_failure_carries_the_status_and_the_last_lines() {
    let Some(sshd) = Sshd::start() else { return };
    let (ssh, host) = (ssh(&sshd), sshd.host("ed25519"));
    let error = ssh.run(&host, &sh("seq 100 >&2; echo the reason >&2; exit 7"), LIMIT).await.unwrap_err();
    let HostError::Failed(message) = &error else { panic!("{error:?}") };
    assert!(message.contains("status 7") && message.ends_with("97; 98; 99; 100; the reason"), "{message}");
    let error = ssh.run(&host, &sh("kill -9 $$"), LIMIT).await.unwrap_err();
    assert!(matches!(&error, HostError::Failed(message) if message.contains("signal KILL")), "{error:?}");
    let error = ssh.run(&host, &Command { argv: vec!["/no/such/program".to_owned()], root: false }, LIMIT).await.unwrap_err();
    assert!(matches!(&error, HostError::Failed(message) if message.contains("status 127")), "{error:?}");
}

#[tokio::test]
async fn of_a_big_output_the_last_64_kib_are_kept() {
    let Some(sshd) = Sshd::start() else { return };
    let script = "yes out | head -c 30000000; echo END; yes err | head -c 3000000 >&2; echo END >&2";
    let out = ssh(&sshd).run(&sshd.host("ed25519"), &sh(script), LIMIT).await.unwrap();
    for (text, word) in [(&out.stdout, "out"), (&out.stderr, "err")] {
        assert_eq!(text.len(), 64 << 10);
        assert!(text.ends_with(&format!("{word}\nEND\n")) && text.contains(&format!("{word}\n{word}\n")), "{}", &text[text.len() - 20..]);
    }
}

/// So many bytes of a pattern, then perhaps an error.
struct Bytes {
    left: usize,
    then: Option<io::Error>,
    hash: Sha256,
}

impl Bytes {
    fn new(left: usize) -> Self {
        Self { left, then: None, hash: Sha256::new() }
    }
}

impl AsyncRead for Bytes {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = self.left.min(buffer.remaining()).min(10_007);
        if count == 0 {
            return Poll::Ready(self.then.take().map_or(Ok(()), Err));
        }
        let from = self.left;
        let bytes: Vec<u8> = (0..count).map(|at| ((from - at) % 251) as u8).collect();
        self.hash.update(&bytes);
        buffer.put_slice(&bytes);
        self.left -= count;
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn fifty_megabytes_of_input_are_streamed() {
    let Some(sshd) = Sshd::start() else { return };
    let hex = |digest: &[u8]| digest.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let mut input = Bytes::new(50_000_000);
    let out = ssh(&sshd).run_with_input(&sshd.host("ed25519"), &sh("sha256sum"), &mut input, LIMIT * 3).await.unwrap();
    assert_eq!(out.stdout, format!("{}  -\n", hex(&input.hash.finalize())));
}

#[tokio::test]
async fn input_that_breaks_off_is_no_end_of_input() {
    let Some(sshd) = Sshd::start() else { return };
    let (ssh, host) = (ssh(&sshd), sshd.host("ed25519"));
    let mut input = Bytes::new(100_000);
    input.then = Some(io::Error::other("the file shrank"));
    let done = sshd.path("done");
    let script = format!("cat >/dev/null && touch {}", done.display());
    let error = ssh.run_with_input(&host, &sh(&script), &mut input, LIMIT).await.unwrap_err();
    assert!(matches!(&error, HostError::Failed(message) if message.contains("the file shrank")), "{error:?}");
    // A command that stops reading does not stall, and neither does the next.
    let out = ssh.run_with_input(&host, &sh("head -c 5 >/dev/null; echo enough"), &mut Bytes::new(9_000_000), LIMIT).await.unwrap();
    assert_eq!(out.stdout, "enough\n");
    ssh.run(&host, &sh("true"), LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_command_without_input_reads_an_end_at_once() {
    let Some(sshd) = Sshd::start() else { return };
    assert_eq!(ssh(&sshd).run(&sshd.host("ed25519"), &sh("cat; echo over"), LIMIT).await.unwrap().stdout, "over\n");
}

#[tokio::test]
async fn a_process_that_is_left_behind_does_not_hold_the_result() {
    let Some(sshd) = Sshd::start() else { return };
    let (ssh, host) = (ssh(&sshd), sshd.host("ed25519"));
    let out = ssh.run(&host, &sh("sleep 30 & echo $!"), Duration::from_secs(10)).await.unwrap();
    ssh.run(&host, &sh(&format!("kill {}", out.stdout.trim())), LIMIT).await.unwrap();
}

#[tokio::test]
async fn commands_share_a_connection_and_run_side_by_side() {
    let Some(sshd) = Sshd::start() else { return };
    let (ssh, host) = (ssh(&sshd), sshd.host("ed25519"));
    // Each waits for all: they end only if eight run at once.
    let meeting = sshd.path("meeting");
    std::fs::create_dir(&meeting).unwrap();
    let meet = format!("cd {} && touch $$ && until [ $(ls | wc -l) -ge 8 ]; do sleep 0.05; done; echo met", meeting.display());
    let meet: Vec<_> = (0..8).map(|_| sh(&meet)).collect();
    let all = futures::future::join_all(meet.iter().map(|command| ssh.run(&host, command, LIMIT))).await;
    assert!(all.iter().all(|out| out.as_ref().unwrap().stdout == "met\n"), "{all:?}");
    assert_eq!(sshd.logins(), 1);
    // More than one connection takes wait for their turn.
    let many: Vec<_> = (0..20).map(|n| sh(&format!("echo {n}"))).collect();
    let all = futures::future::join_all(many.iter().map(|command| ssh.run(&host, command, LIMIT))).await;
    assert!(all.iter().enumerate().all(|(n, out)| out.as_ref().unwrap().stdout == format!("{n}\n")), "{all:?}");
    assert_eq!(sshd.logins(), 1);
}

#[tokio::test]
async fn no_more_than_at_once_run() {
    let Some(sshd) = Sshd::start() else { return };
    let ssh = Ssh::new(&Settings { at_once: 2, ..settings(&sshd) }, secrets());
    let host = sshd.host("ed25519");
    let count = sshd.path("count");
    std::fs::create_dir(&count).unwrap();
    let script = format!("cd {} && touch $$ && ls | wc -l && sleep 0.2; rm $$", count.display());
    let commands: Vec<_> = (0..6).map(|_| sh(&script)).collect();
    let all = futures::future::join_all(commands.iter().map(|command| ssh.run(&host, command, LIMIT))).await;
    let seen: Vec<u32> = all.into_iter().map(|out| out.unwrap().stdout.trim().parse().unwrap()).collect();
    assert!(seen.iter().all(|count| *count <= 2), "{seen:?}");
}
