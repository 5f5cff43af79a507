//! metisctl: parse, call, print. It owns no logic of its own, but it writes, with its caller's rights, the files that the daemon streams.
//!
//! [`main`] is the program; [`run`] is the same for a caller in process, e.g. `metisd sandbox`.

pub mod args;
mod card_stream;
mod clock;
mod cmd;
mod errors;
mod exit;
mod follow;
mod human;
mod image_env;
mod image_file;
mod interrupt;
mod output;
mod progress;
mod session;
mod ssh;
mod target;
pub mod view;
mod watch;
mod writer;

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write};
use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::cmd::Context;
use crate::errors::CtlError;
pub use crate::exit::Exit;
pub use crate::output::Console;

/// Runs one command line (`args[0]` is the program's name) and returns its exit code, as listed at [`Exit`]. Results go to `out`,
/// progress, notes and errors to `err`, without colours or bars.
///
/// A command that waits (burn, image, run watch, --watch) takes Ctrl-C and SIGTERM over for this process.
pub async fn run(args: impl IntoIterator<Item = OsString>, out: &mut (dyn Write + Send), err: &mut (dyn Write + Send)) -> u8 {
    run_on(args, &mut Console::plain(out, err)).await.code()
}

/// As [`run`], on any console.
pub async fn run_on(args: impl IntoIterator<Item = OsString>, console: &mut Console<'_>) -> Exit {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => return usage(&e, console),
    };
    match dispatch(&cli, console).await {
        Ok(exit) => exit,
        Err(CtlError::Closed) => CtlError::Closed.exit(),
        Err(e) => {
            console.note(&format!("metisctl: {e}"));
            e.exit()
        }
    }
}

/// The program.
pub fn main() -> ExitCode {
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let (tty, bars) = (out.is_terminal(), err.is_terminal());
    let mut console = Console::plain(&mut out, &mut err);
    console.bars = bars;
    console.redraws = tty;
    console.color = tty && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    if let (true, Some(columns)) = (tty, output::terminal_columns()) {
        console.columns = columns;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            console.note(&format!("metisctl: cannot start: {e}"));
            return ExitCode::from(Exit::Failed.code());
        }
    };
    let exit = runtime.block_on(run_on(std::env::args_os(), &mut console));
    // A second Ctrl-C must not wait for a disk.
    runtime.shutdown_background();
    ExitCode::from(exit.code())
}

async fn dispatch(cli: &Cli, console: &mut Console<'_>) -> Result<Exit, CtlError> {
    let cx = &mut Context { global: &cli.global, env: std::env::vars_os().collect(), console };
    match &cli.command {
        Command::Status(args) => cmd::status::run(args, cx).await,
        Command::Ups(args) => cmd::ups::run(args, cx).await,
        Command::Config(args) => cmd::config::run(args, cx).await,
        Command::Plan(args) => cmd::plan::run(args, cx).await,
        Command::Image(args) => cmd::image::run(args, cx).await,
        Command::Burn(args) => cmd::burn::run(args, cx).await,
        Command::Shutdown(args) => cmd::shutdown::run(args, cx).await,
        Command::Lease(args) => cmd::lease::run(args, cx).await,
        Command::Startup(args) => cmd::startup::run(args, cx).await,
        Command::Inventory(args) => cmd::inventory::run(args, cx).await,
        Command::Prepare => cmd::prepare::run(cx).await,
        Command::Arm(args) => cmd::arm::arm(args, cx).await,
        Command::Disarm => cmd::arm::disarm(cx).await,
        Command::Device(args) => cmd::device::run(args, cx).await,
        Command::Run(args) => cmd::run::run(args, cx).await,
        Command::Completions { shell } => cmd::completions::run(*shell, cx),
        Command::Man { dir } => cmd::man::run(dir, cx),
    }
}

/// `--help` and `--version` are results; anything else clap says is a usage error.
fn usage(e: &clap::Error, console: &mut Console<'_>) -> Exit {
    let text = e.render();
    let text = if console.color { text.ansi().to_string() } else { text.to_string() };
    if e.use_stderr() {
        console.note(text.trim_end());
        return Exit::Usage;
    }
    match console.say(text.trim_end()) {
        Ok(()) => Exit::Done,
        Err(_) => Exit::Failed,
    }
}
