//! An answer of upsd is gathered before it is read: upsd sends one line at a time, and each would wake the process.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{SetSockOpt, setsockopt};
use tokio::net::TcpStream;
use tokio::time::sleep;

/// upsd on this host or its neighbour has answered by then.
const GATHER: Duration = Duration::from_millis(5);
/// No answer is that long: the socket rings for none of its lines.
const MUTE: i32 = 64 * 1024;

/// The socket below a connection, below its TLS too.
pub(super) struct Gather(OwnedFd);

impl Gather {
    /// `None` where the kernel has no descriptor left: everything works without it.
    pub(super) fn new(stream: &TcpStream) -> Option<Self> {
        stream.as_fd().try_clone_to_owned().ok().map(Self)
    }

    /// Nothing rings from now on, but the end of the connection. To be called before the question is sent.
    pub(super) fn mute(&self) {
        let _ = setsockopt(&self.0, LowWaterMark, &MUTE);
    }

    /// Gives the answer time to come. From then on everything rings again, what is there already too (tcp_set_rcvlowat of the kernel).
    pub(super) async fn wait(&self) {
        sleep(GATHER).await;
        let _ = setsockopt(&self.0, LowWaterMark, &1);
    }
}

/// `SO_RCVLOWAT` of socket(7).
#[derive(Clone)]
struct LowWaterMark;

impl SetSockOpt for LowWaterMark {
    type Val = i32;

    #[allow(unsafe_code, reason = "nix has no SO_RCVLOWAT")]
    fn set<F: AsFd>(&self, socket: &F, bytes: &i32) -> nix::Result<()> {
        use std::os::fd::AsRawFd as _;
        let (value, length) = (std::ptr::from_ref(bytes).cast(), size_of::<i32>() as libc::socklen_t);
        // SAFETY: the descriptor is borrowed for the call, and the kernel reads `length` bytes at `value`, an i32.
        let result = unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, length) };
        Errno::result(result).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::nut::conn::Conn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    const WITHIN: Duration = Duration::from_secs(2);

    /// What a poll sees of an upsd that sends these pieces, with that pause before each.
    async fn polled(pieces: &'static [&str], pause: Duration) -> Vec<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let upsd = tokio::spawn(async move {
            let (mut far, _) = listener.accept().await.unwrap();
            let mut asked = [0; 64];
            while far.read(&mut asked).await.unwrap_or(0) > 0 {
                for piece in pieces {
                    sleep(pause).await;
                    far.write_all(piece.as_bytes()).await.unwrap();
                }
            }
        });
        let mut conn = Conn::connect("127.0.0.1", port, WITHIN).await.unwrap();
        let mut seen = Vec::new();
        // The second of them finds the socket as the first has left it.
        for _ in 0..2 {
            let answer = conn.list_vars_of(&["ups"]).await.unwrap().remove(0);
            seen.push(answer.map_or_else(|code| code.to_string(), |vars| vars.into_values().collect::<Vec<_>>().join(" ")));
        }
        drop(conn);
        upsd.await.unwrap();
        seen
    }

    #[tokio::test]
    async fn an_answer_is_read_whether_it_comes_at_once_late_or_in_pieces() {
        const PIECES: &[&str] = &["BEGIN LIST VAR ups\n", "VAR ups a \"1\"\nVAR ups b", " \"2\"\n", "END LIST VAR ups\n"];
        for pause in [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(3), 4 * GATHER] {
            assert_eq!(polled(PIECES, pause).await, ["1 2", "1 2"], "{pause:?}");
            let refused = polled(&["ERR DATA-STALE\n"], pause).await;
            assert!(refused.iter().all(|text| text.contains("DATA-STALE") || text.contains("stale")), "{refused:?}");
        }
    }

    #[tokio::test]
    async fn who_hangs_up_meanwhile_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let upsd = tokio::spawn(async move { drop(listener.accept().await.unwrap()) });
        let mut conn = Conn::connect("127.0.0.1", port, Duration::from_secs(60)).await.unwrap();
        upsd.await.unwrap();
        assert!(tokio::time::timeout(WITHIN, conn.list_vars_of(&["ups"])).await.unwrap().is_err());
    }
}
