//! Arguments of `metisd`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Watches the UPSes, stops and starts the cluster, burns recovery cards. Harmless until it is armed.
#[derive(Debug, Parser)]
#[command(name = "metisd", version)]
pub struct Arguments {
    /// How the daemon runs.
    #[command(flatten)]
    pub daemon: DaemonArguments,
    /// Something else than the daemon.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// How the daemon runs.
#[derive(Debug, Clone, Args)]
pub struct DaemonArguments {
    /// Configuration; the files of metis.d/ beside it are merged into it.
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/metis/metis.yaml")]
    pub config: PathBuf,
    /// Inventory, instead of the one that the configuration names.
    #[arg(long, global = true, value_name = "FILE")]
    pub inventory: Option<PathBuf>,
    /// Check configuration and inventory, report every mistake, and end: 0 when there is none.
    #[arg(long)]
    pub check_config: bool,
}

/// What `metisd` can do besides being the daemon.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show all of it on this machine: a simulated site, the real daemon on a real socket, a card burnt into a file, an outage.
    Sandbox(SandboxArguments),
    /// Stop the cluster, or the whole site, without a running metisd; a dry run without --execute.
    ///
    /// For when metisd cannot be started or hangs: this process makes the same plan and does it, prints what happens, and ends with the
    /// exit codes of metisctl(1). It holds the state directory meanwhile, so that no metisd starts beside it. Where one runs, it refuses
    /// and says what to do. It needs root or the user that metisd runs as. A terminal that goes away does not end it.
    Shutdown(StandaloneArguments),
    /// Write one card; started by the daemon or by metis-card-writer.socket, with the connection as standard input.
    #[command(hide = true)]
    CardWriter,
    /// Save the datastore of this host as root, by what the configuration says of it; started by metis-datastore-dump.service.
    #[command(hide = true)]
    DatastoreDump,
    /// Write metisd(8) and the pages of its commands into a directory.
    #[command(hide = true)]
    Man {
        /// Made if it does not exist.
        dir: PathBuf,
    },
}

/// How the sandbox runs.
#[derive(Debug, Clone, Args)]
pub struct SandboxArguments {
    /// Keep the site and the daemon until Ctrl-C, to try commands on them.
    #[arg(long)]
    pub stay: bool,
    /// Where to put it, instead of a temporary folder.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// How a shutdown without a daemon runs.
#[derive(Debug, Clone, Args)]
pub struct StandaloneArguments {
    /// Say that no metisd shall do it (with one that answers: `metisctl shutdown`).
    #[arg(long, required = true)]
    pub standalone: bool,
    /// Go on beside a metisd that holds the state directory and does not answer, or where the disk of the state directory hangs: the run
    /// is recorded in the runtime directory only.
    #[arg(long)]
    pub beside: bool,
    /// What metisctl shutdown takes.
    #[command(flatten)]
    pub shutdown: metisctl::args::ShutdownArgs,
}
