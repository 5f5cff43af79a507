//! One command on a connection.

use std::pin::pin;
use std::time::Duration;

use futures::FutureExt as _;
use russh::client::{Handle, Msg};
use russh::{ChannelMsg, ChannelWriteHalf, Sig};
use tokio::io::{AsyncRead, AsyncWriteExt as _};

use super::super::tail::Tail;
use super::trust::Check;

/// Output that is still on its way when the command has ended is waited for so long; a process that it left behind may hold it open for ever.
const LINGER: Duration = Duration::from_secs(1);

/// What a command reads.
pub type Input<'a> = &'a mut (dyn AsyncRead + Send + Unpin);

/// How a command ended.
#[derive(Debug, Default)]
pub struct Ended {
    /// Its exit status.
    pub status: Option<u32>,
    /// The signal that ended it.
    pub signal: Option<String>,
    /// sshd took it: it has run, or runs still.
    pub taken: bool,
    /// Its input could not be read to the end.
    pub input_failed: Option<String>,
    /// Standard output.
    pub stdout: Tail,
    /// Standard error.
    pub stderr: Tail,
}

/// Ends the channel when the command is no longer waited for, so that it does not stay open as long as the connection does.
struct Close(ChannelWriteHalf<Msg>);

impl Drop for Close {
    fn drop(&mut self) {
        // Both only enqueue; without room in the queue the connection is in trouble and given up as a whole.
        let _ = self.0.signal(Sig::TERM).now_or_never();
        let _ = self.0.close().now_or_never();
    }
}

/// Runs `line`, feeding it `input`. `Err`: no channel could be opened, so nothing ran. A connection that is lost meanwhile shows as neither
/// status nor signal.
pub async fn exec(handle: &Handle<Check>, line: &str, mut input: Option<Input<'_>>) -> Result<Ended, russh::Error> {
    let (mut read, write) = handle.channel_open_session().await?.split();
    let write = Close(write);
    let mut ended = Ended::default();
    if write.0.exec(true, line).await.is_err() {
        return Ok(ended);
    }
    let mut fed = pin!(feed(&write.0, input.take()).fuse());
    let mut linger = pin!(tokio::time::sleep(Duration::MAX));
    let mut over = false;
    loop {
        let message = tokio::select! {
            message = read.wait() => message,
            result = &mut fed, if ended.taken && !over => {
                ended.input_failed = result.err();
                // What is missing would be taken for the end of it.
                if ended.input_failed.is_some() { return Ok(ended) }
                continue;
            }
            () = &mut linger, if over => return Ok(ended),
        };
        match message {
            Some(ChannelMsg::Success) => ended.taken = true,
            Some(ChannelMsg::Data { data }) => ended.stdout.push(&data),
            Some(ChannelMsg::ExtendedData { data, ext: 1 }) => ended.stderr.push(&data),
            Some(ChannelMsg::ExitStatus { exit_status }) => ended.status = Some(exit_status),
            Some(ChannelMsg::ExitSignal { signal_name, .. }) => ended.signal = Some(format!("{signal_name:?}")),
            Some(ChannelMsg::Close | ChannelMsg::Failure) | None => return Ok(ended),
            Some(_) => {}
        }
        if !over && (ended.status.is_some() || ended.signal.is_some()) {
            over = true;
            linger.as_mut().reset(tokio::time::Instant::now() + LINGER);
        }
    }
}

async fn feed(write: &ChannelWriteHalf<Msg>, input: Option<Input<'_>>) -> Result<(), String> {
    if let Some(input) = input {
        let mut writer = write.make_writer();
        let mut buffer = vec![0; 32 << 10];
        loop {
            let count = tokio::io::AsyncReadExt::read(input, &mut buffer).await.map_err(|error| error.to_string())?;
            // A command that has ended reads no more; its status tells.
            if count == 0 || writer.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
    }
    let _ = write.eof().await;
    Ok(())
}
