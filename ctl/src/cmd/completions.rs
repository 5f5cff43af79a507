//! `completions`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Context;
use crate::args::Cli;
use crate::errors::CtlError;
use crate::exit::Exit;

/// Prints the script.
pub fn run(shell: Shell, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "metisctl", &mut script);
    cx.console.say(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Exit::Done)
}
