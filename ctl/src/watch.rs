//! `--watch`: a stream of states, each printed; Ctrl-C is its normal end.

use tonic::Streaming;

use crate::args::Format;
use crate::cmd::Context;
use crate::errors::CtlError;
use crate::exit::Exit;
use crate::interrupt::Interrupts;
use crate::output::Console;

/// Home, and clear what is below: the screen shows the newest state.
const REDRAW: &str = "\x1b[H\x1b[J";

/// Prints each message until Ctrl-C.
pub async fn show<M>(
    mut messages: Streaming<M>,
    what: &str,
    cx: &mut Context<'_, '_>,
    print: impl Fn(M, Format, &mut Console<'_>) -> Result<(), CtlError>,
) -> Result<Exit, CtlError> {
    let mut interrupts = Interrupts::listen()?;
    let redraw = cx.global.format == Format::Table && cx.console.redraws;
    loop {
        let message = tokio::select! {
            () = interrupts.next() => return Ok(Exit::Done),
            message = messages.message() => message.map_err(|s| CtlError::rpc(what, s))?,
        };
        let Some(message) = message else {
            return Err(CtlError::Lost(format!("{what}: metisd ended the stream; look at `systemctl status metisd`")));
        };
        if redraw {
            cx.console.say(REDRAW)?;
        }
        print(message, cx.global.format, cx.console)?;
        if !redraw && cx.global.format == Format::Table {
            cx.console.say("")?;
        }
    }
}
