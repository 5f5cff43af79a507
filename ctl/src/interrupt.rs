//! Ctrl-C and SIGTERM.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::errors::CtlError;

/// From its making on these signals no longer end the process: whoever holds it must wait for [`Interrupts::next`].
pub struct Interrupts {
    int: Signal,
    term: Signal,
}

impl Interrupts {
    /// Takes the signals over.
    pub fn listen() -> Result<Self, CtlError> {
        let take = |kind| signal(kind).context("cannot handle signals");
        Ok(Self { int: take(SignalKind::interrupt())?, term: take(SignalKind::terminate())? })
    }

    /// The next of either. Cancel safe.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => (),
            _ = self.term.recv() => (),
        }
    }
}
