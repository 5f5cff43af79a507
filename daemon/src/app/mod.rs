//! The composition root: wires rooms to real or simulated parts.

mod args;
mod arming;
mod asked;
mod budgets;
mod burn;
mod claims;
mod daemon;
mod datastore;
mod helper;
mod inventory;
mod leases;
mod listen;
mod logging;
mod man;
mod outage;
mod parts;
mod peers;
mod perform;
mod prepare;
mod problems;
mod progress;
mod real;
#[cfg(test)]
mod rehearsal;
mod reload;
mod sandbox;
mod shutdown;
mod simulate;
mod site;
mod source;
mod standalone;
mod startup;
mod stream;
mod this_host;
mod topology;
mod vault;
mod watch;
mod world;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command, DaemonArguments, StandaloneArguments};
use reload::Loaded;

use crate::card::device;
use crate::config;

/// Runs what the arguments ask for. `passed`: the API socket that systemd passed.
pub fn main(arguments: impl IntoIterator<Item = OsString>, passed: Option<UnixListener>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match arguments.command {
        None if arguments.daemon.check_config => check_config(&arguments.daemon),
        None => daemon(&arguments.daemon, passed),
        Some(Command::Sandbox(arguments)) => sandbox(&arguments),
        Some(Command::Shutdown(standalone)) => shutdown(&arguments.daemon, &standalone),
        Some(Command::CardWriter) => card_writer(),
        Some(Command::DatastoreDump) => datastore_dump(&arguments.daemon),
        Some(Command::Man { dir }) => man_pages(&dir),
    }
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn check_config(arguments: &DaemonArguments) -> ExitCode {
    let loaded = config::load(&arguments.config, arguments.inventory.as_deref());
    say(config::check_report(&loaded).trim_end());
    let Ok(settings) = loaded else { return ExitCode::FAILURE };
    let (lines, code) = match datastore::check(&settings, &daemon::host_name()) {
        Ok(remark) => (remark.into_iter().collect(), ExitCode::SUCCESS),
        Err(misfits) => (misfits, ExitCode::FAILURE),
    };
    for line in lines {
        say(&line);
    }
    code
}

fn load(arguments: &DaemonArguments) -> Result<Loaded, ExitCode> {
    reload::load(arguments, &daemon::state_directory()).map_err(|errors| {
        for error in &errors {
            complain(error);
        }
        complain("metisd cannot start: the configuration is wrong and there is no earlier one that was good");
        ExitCode::FAILURE
    })
}

fn shutdown(arguments: &DaemonArguments, standalone: &StandaloneArguments) -> ExitCode {
    let loaded = match load(arguments) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    // What happens is printed; the log is left what nobody would print.
    if let Err(error) = logging::install("error") {
        complain(&format!("metisd shutdown: {error:#}"));
    }
    match standalone::run(standalone, &loaded) {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(error) => {
            complain(&format!("metisd shutdown: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn daemon(arguments: &DaemonArguments, passed: Option<UnixListener>) -> ExitCode {
    let loaded = match load(arguments) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    if let Err(error) = logging::install(loaded.settings.daemon.log_level.as_str()) {
        complain(&format!("metisd: {error:#}"));
        return ExitCode::FAILURE;
    }
    match daemon::run(arguments, loaded, passed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn man_pages(dir: &Path) -> ExitCode {
    match man::write(dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("metisd man: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn sandbox(arguments: &args::SandboxArguments) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let shown = match runtime {
        Ok(runtime) => runtime.block_on(sandbox::run(arguments)),
        Err(error) => Err(error.into()),
    };
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("metisd sandbox: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn datastore_dump(arguments: &DaemonArguments) -> ExitCode {
    if let Err(error) = logging::install("info") {
        complain(&format!("metisd datastore-dump: {error:#}"));
    }
    match datastore::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("metisd datastore-dump: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn card_writer() -> ExitCode {
    if let Err(error) = logging::install("info") {
        complain(&format!("metisd card-writer: {error:#}"));
    }
    match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(socket) => device::serve(socket),
        Err(error) => {
            complain(&format!("metisd card-writer: standard input is no connection: {error}; metisd starts this by itself"));
            ExitCode::FAILURE
        }
    }
}
