//! One connection to an upsd: lines in and out, each exchange with a deadline, nothing unbounded.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::error::{ErrCode, NutError};
use super::gather::Gather;
use super::line::{MAX_LINE, quote, words};
use super::list::{Fed, List, ListError};
use super::tls;
use crate::power::TlsSettings;

/// Bytes asked of the socket at once: a whole `LIST VAR` mostly comes in one read.
const CHUNK: usize = 16 * 1024;
/// How much of a wrong answer is shown.
const SHOWN: usize = 80;

/// What a connection runs over: TCP, TLS, or a pipe in tests.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A connection to an upsd. After an error other than a refusal it is to be dropped: an answer may still be under way.
pub struct Conn {
    io: Box<dyn Transport>,
    peer: String,
    within: Duration,
    buffer: Vec<u8>,
    start: usize,
    gather: Option<Gather>,
}

impl Conn {
    /// Connects by TCP. `within` is the deadline of this and of every exchange.
    pub async fn connect(host: &str, port: u16, within: Duration) -> Result<Self, NutError> {
        let peer = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let timeout = || NutError::Timeout { peer: peer.clone(), request: "the connection", within };
        let stream = timeout_at(Instant::now() + within, TcpStream::connect((host, port)))
            .await
            .map_err(|_| timeout())?
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            .map_err(|source| NutError::Connect { peer: peer.clone(), source })?;
        let gather = Gather::new(&stream);
        Ok(Self { gather, ..Self::over(Box::new(stream), peer, within) })
    }

    /// Speaks over `io`; `peer` is only for messages.
    pub fn over(io: Box<dyn Transport>, peer: String, within: Duration) -> Self {
        Self { io, peer, within, buffer: Vec::new(), start: 0, gather: None }
    }

    /// `STARTTLS`, as `host` unless the settings name another. There is no falling back to plain text.
    pub async fn starttls(mut self, settings: &TlsSettings, host: &str) -> Result<Self, NutError> {
        self.ask("STARTTLS", &[]).await?;
        // Bytes before the handshake are not protected by it: somebody in between may have put them there.
        if self.start < self.buffer.len() {
            return Err(NutError::Tls { peer: self.peer, reason: "plain text follows the answer to STARTTLS".to_owned() });
        }
        let Self { io, peer, within, gather, .. } = self;
        match timeout_at(Instant::now() + within, tls::wrap(io, settings, host)).await {
            Ok(Ok(io)) => Ok(Self { gather, ..Self::over(io, peer, within) }),
            Ok(Err(reason)) => Err(NutError::Tls { peer, reason }),
            Err(_) => Err(NutError::Timeout { peer, request: "the TLS handshake", within }),
        }
    }

    /// Sends `request` with quoted `args` and reads the one line of its answer.
    pub(super) async fn ask(&mut self, request: &'static str, args: &[(&'static str, &[u8])]) -> Result<Vec<String>, NutError> {
        let deadline = Instant::now() + self.within;
        let mut line = Zeroizing::new(request.as_bytes().to_vec());
        for (what, value) in args {
            quote(value, &mut line).map_err(|source| NutError::Argument { what, source })?;
        }
        line.push(b'\n');
        self.send(&line, request, deadline).await?;
        let answer = self.read_line(request, deadline).await?;
        let words = words(&answer).map_err(|_| self.unexpected(request, &answer))?;
        match words.first().map(String::as_str) {
            Some("ERR") => Err(NutError::Refused { request, code: ErrCode::parse(words.get(1).map_or("", String::as_str)) }),
            Some(_) => Ok(words),
            None => Err(self.unexpected(request, &answer)),
        }
    }

    /// Asks for several lists in one packet and reads their answers in order: a poll costs one round trip, however many UPSes there are.
    /// The inner error is upsd's refusal of that one list.
    pub(super) async fn lists(
        &mut self,
        request: &'static str,
        kind: &str,
        args: &[&[&str]],
    ) -> Result<Vec<Result<Vec<Vec<String>>, ErrCode>>, NutError> {
        let deadline = Instant::now() + self.within;
        let mut packet = Vec::new();
        for args in args {
            packet.extend_from_slice(format!("LIST {kind}").as_bytes());
            for arg in *args {
                quote(arg.as_bytes(), &mut packet).map_err(|source| NutError::Argument { what: "the name", source })?;
            }
            packet.push(b'\n');
        }
        if let Some(gather) = &self.gather {
            gather.mute();
        }
        self.send(&packet, request, deadline).await?;
        if let Some(gather) = &self.gather {
            gather.wait().await;
        }
        let mut answers = Vec::with_capacity(args.len());
        for args in args {
            answers.push(self.read_list(request, List::new(kind, args), deadline).await?);
        }
        Ok(answers)
    }

    async fn read_list(
        &mut self,
        request: &'static str,
        mut list: List,
        deadline: Instant,
    ) -> Result<Result<Vec<Vec<String>>, ErrCode>, NutError> {
        loop {
            let line = self.read_line(request, deadline).await?;
            match list.feed(&line) {
                Ok(Fed::More) => {}
                Ok(Fed::Done) => return Ok(Ok(list.into_rows())),
                Err(ListError::Refused(code)) => return Ok(Err(code)),
                Err(ListError::TooLong) => return Err(NutError::ListTooLong { peer: self.peer.clone() }),
                Err(ListError::Unexpected) => return Err(self.unexpected(request, &line)),
            }
        }
    }

    /// That `answer` is none to `request`.
    pub(super) fn unexpected(&self, request: &'static str, answer: &[u8]) -> NutError {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(SHOWN)]).into_owned();
        NutError::Unexpected { peer: self.peer.clone(), request, answer: shown }
    }

    async fn send(&mut self, bytes: &[u8], request: &'static str, deadline: Instant) -> Result<(), NutError> {
        let io = &mut self.io;
        let sending = async {
            io.write_all(bytes).await?;
            io.flush().await
        };
        match timeout_at(deadline, sending).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(NutError::Io { peer: self.peer.clone(), source }),
            Err(_) => Err(self.late(request)),
        }
    }

    async fn read_line(&mut self, request: &'static str, deadline: Instant) -> Result<Vec<u8>, NutError> {
        let mut searched = self.start;
        loop {
            if let Some(length) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let end = searched + length;
                let line = self.buffer[self.start..end].to_vec();
                self.start = end + 1;
                if line.len() > MAX_LINE {
                    return Err(NutError::LineTooLong { peer: self.peer.clone() });
                }
                return Ok(line);
            }
            if self.buffer.len() - self.start > MAX_LINE {
                return Err(NutError::LineTooLong { peer: self.peer.clone() });
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            searched = self.buffer.len();
            self.fill(request, deadline).await?;
        }
    }

    async fn fill(&mut self, request: &'static str, deadline: Instant) -> Result<(), NutError> {
        let held = self.buffer.len();
        self.buffer.reserve(CHUNK);
        let read = timeout_at(deadline, self.io.read_buf(&mut self.buffer)).await;
        match read {
            Ok(Ok(0)) => Err(NutError::Closed { peer: self.peer.clone() }),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(source)) => Err(NutError::Io { peer: self.peer.clone(), source }),
            Err(_) => {
                self.buffer.truncate(held);
                Err(self.late(request))
            }
        }
    }

    fn late(&self, request: &'static str) -> NutError {
        NutError::Timeout { peer: self.peer.clone(), request, within: self.within }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::Secret;
    use proptest::prelude::*;
    use tokio::io::DuplexStream;

    const WITHIN: Duration = Duration::from_millis(150);

    fn pair() -> (Conn, DuplexStream) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        (Conn::over(Box::new(near), "test:3493".to_owned(), WITHIN), far)
    }

    /// A connection on which `answer` is already waiting.
    async fn answered(answer: &[u8]) -> (Conn, DuplexStream) {
        let (conn, mut far) = pair();
        far.write_all(answer).await.unwrap();
        (conn, far)
    }

    async fn said(mut far: DuplexStream, conn: Conn) -> String {
        drop(conn);
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn requests_are_said_as_upsd_reads_them() {
        let (mut conn, far) = answered(b"OK\nOK\nOK\nOK\nOK\n").await;
        conn.credentials("me tis", &Secret::new(*b"p w$1'x\"y\\z#=\n")).await.unwrap();
        conn.login("ups").await.unwrap();
        conn.set_var("ups", "ups.id", "a b").await.unwrap();
        conn.instant_command("ups", "load.off", Some("30")).await.unwrap();
        let expected = r#"USERNAME "me tis"
PASSWORD "p w$1'x\"y\\z\#\="
LOGIN "ups"
SET VAR "ups" "ups.id" "a b"
INSTCMD "ups" "load.off" "30"
"#;
        assert_eq!(said(far, conn).await, expected);
    }

    #[tokio::test]
    async fn an_older_upsd_is_asked_for_master() {
        let (mut conn, far) = answered(b"ERR UNKNOWN-COMMAND\nOK MASTER-GRANTED\n").await;
        conn.primary("ups").await.unwrap();
        assert_eq!(said(far, conn).await, "PRIMARY \"ups\"\nMASTER \"ups\"\n");
    }

    #[tokio::test]
    async fn what_cannot_be_said_is_not_sent() {
        let (mut conn, far) = pair();
        let error = conn.credentials("a\nFSD ups", &Secret::new(*b"x")).await.unwrap_err();
        assert_eq!(error.to_string(), "the user name cannot be sent to upsd: control characters cannot be sent to upsd");
        assert_eq!(said(far, conn).await, "");
    }

    #[tokio::test]
    async fn several_lists_come_in_one_round_trip() {
        let answer = "BEGIN LIST VAR a\nVAR a ups.status \"OL\"\nEND LIST VAR a\nERR DATA-STALE\nBEGIN LIST VAR c\nEND LIST VAR c\n";
        let (mut conn, _far) = answered(answer.as_bytes()).await;
        let answers = conn.list_vars_of(&["a", "b", "c"]).await.unwrap();
        assert_eq!(answers[0].as_ref().unwrap()["ups.status"], "OL");
        assert_eq!(answers[1], Err(ErrCode::DataStale));
        assert_eq!(answers[2].as_ref().unwrap().len(), 0);
    }

    #[tokio::test]
    async fn silence_ends_at_the_deadline_even_in_drips() {
        let (mut conn, _far) = pair();
        assert!(matches!(conn.version().await, Err(NutError::Timeout { request: "VER", .. })));

        let (mut conn, mut far) = pair();
        let drip = tokio::spawn(async move {
            while far.write_all(b"x").await.is_ok() {
                tokio::time::sleep(WITHIN / 10).await;
            }
        });
        let begun = Instant::now();
        assert!(matches!(conn.list_vars("ups").await, Err(NutError::Timeout { .. })));
        assert!(begun.elapsed() < 3 * WITHIN);
        drop(conn);
        drip.await.unwrap();
    }

    #[tokio::test]
    async fn a_full_pipe_ends_at_the_deadline() {
        let (near, _far) = tokio::io::duplex(4);
        let mut conn = Conn::over(Box::new(near), "test:3493".to_owned(), WITHIN);
        assert!(matches!(conn.version().await, Err(NutError::Timeout { .. })));
    }

    #[tokio::test]
    async fn hanging_up_and_endless_answers_are_typed() {
        let (mut conn, far) = answered(b"BEGIN LIST VAR ups\nVAR ups a").await;
        drop(far);
        assert!(matches!(conn.list_vars("ups").await, Err(NutError::Closed { .. } | NutError::Io { .. })));

        for answer in [vec![b'x'; MAX_LINE + 2], [vec![b'x'; MAX_LINE + 2], b"\n".to_vec()].concat()] {
            let (mut conn, _far) = answered(&answer).await;
            assert!(matches!(conn.version().await, Err(NutError::LineTooLong { .. })));
        }

        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let mut conn = Conn::over(Box::new(near), "test:3493".to_owned(), Duration::from_secs(20));
        let flood = tokio::spawn(async move {
            far.write_all(b"BEGIN LIST VAR ups\n").await.unwrap();
            while far.write_all(b"VAR ups a \"1\"\n").await.is_ok() {}
        });
        assert!(matches!(conn.list_vars("ups").await, Err(NutError::ListTooLong { .. })));
        drop(conn);
        flood.await.unwrap();
    }

    #[tokio::test]
    async fn nonsense_is_unexpected_and_shown_short() {
        for answer in ["HTTP/1.1 400 Bad Request\n", "\n", "OK\n"] {
            let (mut conn, _far) = answered(answer.as_bytes()).await;
            assert!(matches!(conn.get_var("ups", "ups.status").await, Err(NutError::Unexpected { .. })), "{answer:?}");
        }
        let (mut conn, _far) = answered(&[vec![b'y'; 1000], b"\n".to_vec()].concat()).await;
        assert!(conn.list_vars("ups").await.unwrap_err().to_string().len() < 250);
    }

    #[tokio::test]
    async fn plain_text_before_the_handshake_is_refused() {
        let (conn, _far) = answered(b"OK STARTTLS\nVAR ups ups.status \"OB LB\"\n").await;
        let settings = TlsSettings { ca_file: "/nonexistent".into(), server_name: None };
        assert!(matches!(conn.starttls(&settings, "localhost").await, Err(NutError::Tls { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Whatever an upsd sends, in whatever pieces, every request ends with a value or an error.
        #[test]
        fn any_answer_is_an_answer_or_an_error(pieces in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            Just(b"BEGIN LIST VAR ups\n".to_vec()),
            Just(b"END LIST VAR ups\n".to_vec()),
            Just(b"OK\n".to_vec()),
            "VAR ups [a-z.]{1,9} \"[ -~]{0,20}\"\n".prop_map(String::into_bytes),
        ], 0..20)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (mut conn, mut far) = pair();
                let speak = async {
                    for piece in &pieces {
                        let _ = far.write_all(piece).await;
                        tokio::task::yield_now().await;
                    }
                    drop(far);
                };
                let ask = async {
                    let _ = conn.list_vars("ups").await;
                    let _ = conn.num_logins("ups").await;
                    let _ = conn.list_ups().await;
                };
                tokio::join!(ask, speak);
            });
        }
    }
}
