//! Who calls: the credentials of the process at the other end of the socket (unix(7): SO_PEERCRED, SO_PEERGROUPS).

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::libc;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::Connected;

/// How long a user's name is waited for; his number serves as well.
const NAME_WITHIN: Duration = Duration::from_secs(1);

/// A calling process, as the kernel knew it when it connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// The user's name, where this host told it in time.
    pub name: Option<String>,
    /// Process, where the kernel tells.
    pub pid: Option<i32>,
    /// Primary and supplementary groups.
    pub groups: Vec<u32>,
}

impl Caller {
    /// For the record: name and number of the user.
    pub fn label(&self) -> String {
        self.name.as_ref().map_or_else(|| format!("uid {}", self.uid), |name| format!("{name} (uid {})", self.uid))
    }
}

/// An accepted connection that knows its caller.
pub struct PeerStream {
    stream: UnixStream,
    caller: Caller,
}

impl PeerStream {
    /// Asks the kernel who is at the other end, and this host for his name.
    ///
    /// # Errors
    /// Where the kernel does not tell: such a caller is not served.
    pub async fn of(stream: UnixStream) -> io::Result<Self> {
        let cred = stream.peer_cred()?;
        let mut groups = peer_groups(&stream)?;
        if !groups.contains(&cred.gid()) {
            groups.push(cred.gid());
        }
        let name = name_of(cred.uid()).await;
        Ok(Self { caller: Caller { uid: cred.uid(), name, pid: cred.pid(), groups }, stream })
    }
}

/// Looking a user up may ask the network (nsswitch.conf(5)): it is neither done on the runtime nor waited for long.
async fn name_of(uid: u32) -> Option<String> {
    let lookup = tokio::task::spawn_blocking(move || nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.name));
    tokio::time::timeout(NAME_WITHIN, lookup).await.ok()?.ok()?
}

/// Supplementary groups of the peer. Grows the buffer once: the kernel answers ERANGE with the size it needs.
#[allow(unsafe_code, reason = "nix has no SO_PEERGROUPS")]
fn peer_groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut bytes = libc::socklen_t::try_from(groups.len() * size_of::<libc::gid_t>()).map_err(io::Error::other)?;
        // SAFETY: the buffer holds `bytes` bytes and outlives the call; the kernel writes at most that much and stores the length.
        let status = unsafe {
            libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERGROUPS, groups.as_mut_ptr().cast(), &raw mut bytes)
        };
        let count = bytes as usize / size_of::<libc::gid_t>();
        if status == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

impl Connected for PeerStream {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_names_this_process() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = PeerStream::of(ours).await.unwrap();
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap();
        assert_eq!(peer.caller.name, user.map(|user| user.name));
        assert_eq!(peer.caller.uid, nix::unistd::geteuid().as_raw());
        let mut expected: Vec<u32> = nix::unistd::getgroups().unwrap().iter().map(|g| g.as_raw()).collect();
        expected.push(nix::unistd::getegid().as_raw());
        expected.sort_unstable();
        expected.dedup();
        let mut got = peer.caller.groups;
        got.sort_unstable();
        got.dedup();
        assert_eq!(got, expected);
    }
}
