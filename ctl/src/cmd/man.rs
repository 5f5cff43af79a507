//! `man`.

use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory as _;

use super::Context;
use crate::args::Cli;
use crate::errors::CtlError;
use crate::exit::Exit;

/// Writes metisctl.1 and a page for each command.
pub fn run(dir: &Path, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    clap_mangen::generate_to(Cli::command(), dir).with_context(|| format!("cannot write man pages to {}", dir.display()))?;
    cx.console.note(&format!("look at them with `man -l {}`", dir.join("metisctl.1").display()));
    Ok(Exit::Done)
}
