//! The command line: one set of definitions for parsing, `--help`, completions and man pages.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

const EXIT_CODES: &str = "Exit codes:
  0    done
  1    failed
  2    wrong usage
  3    refused by a guard or for want of a role; also a dry run that would be refused
  4    metisd cannot be reached: not running, no permission, ssh failed, no answer
  5    done, but degraded
  130  ended by Ctrl-C: a run of the daemon goes on without its watcher; a file that
       metisctl was writing is given up

Environment:
  METIS_SOCKET                socket of metisd, as --socket
  METIS_IMAGE_<CLASS>         image for a class in this request only; the class in
                              upper case with _ for -, e.g. METIS_IMAGE_RPI5_UBUNTU
  METIS_IMAGE_<CLASS>_SHA256  SHA-256 of that image; it stands in for a signature
  NO_COLOR                    no colours

Nothing touches a device, a file, a node or the power without --execute (burn: --yes).
arm and disarm act at once.";

/// Client of metisd: power and recovery cards of the site.
#[derive(Debug, Parser)]
#[command(name = "metisctl", version, after_long_help = EXIT_CODES, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    /// What all commands share.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Format of what is printed on standard output; json and yaml are a stable interface
    #[arg(short = 'o', long = "format", global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,

    /// Socket of metisd (with --host: its path over there)
    #[arg(long, global = true, env = "METIS_SOCKET", default_value = metis_proto::DEFAULT_SOCKET, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: PathBuf,

    /// Talk to the metisd of another host through your own ssh (its config, keys, agent and jump hosts apply)
    #[arg(long, global = true, value_name = "[USER@]HOST", value_hint = ValueHint::Hostname)]
    pub host: Option<String>,

    /// Longest wait for a connection or an answer, in seconds; runs, images and --watch are not limited by it
    #[arg(long, global = true, default_value = "30", value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Duration,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// JSON; one object a line where there is more than one
    Json,
    /// YAML; one document each where there is more than one
    Yaml,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show whether all is well: problems first, then power, runs, journal and configuration
    Status(WatchArgs),
    /// Show the UPSes and power domains: runtime left, shutdown budget, margin, when it would trigger
    #[command(args_conflicts_with_subcommands = true)]
    Ups(UpsArgs),
    /// Show the merged configuration of a node as its card would get it, secrets masked
    Config(NodeArgs),
    /// Show what a burn would do, with the commands a person would type; changes nothing
    Plan(PlanArgs),
    /// Write a finished card image to a file; a dry run without --execute
    ///
    /// The daemon streams the image and this client writes it, with your rights: into OUTPUT.part with mode 0600 (it holds secrets),
    /// sparse, synced, read back against the daemon's SHA-256, and only then renamed to OUTPUT, replacing a file of that name.
    /// On any error and on Ctrl-C the partial file is removed.
    Image(ImageArgs),
    /// Write a recovery card; a dry run without --yes
    ///
    /// A block device is written by the daemon: Ctrl-C detaches, the run goes on. A regular file, or a path that does not exist (except
    /// below /dev), stands in for a card: this client writes it, with your rights. A missing file is made with the image's size and mode
    /// 0600; an existing one must be at least as large as the image, keeps its size, and what the image does not use keeps its old
    /// bytes, as on a real card (but for the first and last MiB, where a partition table may be). On any error and on Ctrl-C the file is left without a partition table.
    Burn(BurnArgs),
    /// List the block devices of metisd's host and why each could not be written
    Device(DeviceArgs),
    /// Stop the cluster, or the whole site; a dry run without --execute
    ///
    /// The dry run prints every step with its predicted time, what the runtime that is left would cut, the command a person would type,
    /// the point of no return, what a cancellation before it would undo, and how each host comes back. It waits for nothing and
    /// changes nothing. With --execute the run is the daemon's: Ctrl-C detaches, the shutdown goes on (`run cancel` ends it).
    Shutdown(ShutdownArgs),
    /// Start the cluster through its gates; a dry run without --execute
    ///
    /// What is so already is only looked at: on a healthy cluster nothing is changed. The dry run prints every step with the command a
    /// person would type; it asks nobody. With --execute the run is the daemon's: Ctrl-C detaches, the start-up goes on.
    Startup(StartupArgs),
    /// Look whether the site is prepared for a bad day: all findings at once, each with its age and what to do
    ///
    /// It looks at what is kept for that day (bundle, repository snapshot, captured objects, golden images, secrets), logs in to every
    /// host, asks the API server for every right that metis needs, and reads NUT's settings and the batteries' last tests. Nothing is
    /// changed. Exit code 0: green; 1: a problem was found. `arm` asks for a green one.
    Prepare,
    /// Draft an inventory from the live cluster
    Inventory(InventoryArgs),
    /// Act upon triggers from now on: a domain that is about to lose power is shut down without asking
    ///
    /// It is refused while something stands against it, e.g. upsmon as primary of a UPS on metisd's host, or no green `prepare` of late; all
    /// of it is listed.
    Arm(ArmArgs),
    /// Only record triggers from now on; a shutdown that is under way goes on
    Disarm,
    /// List, renew and release the cordons that metis holds
    #[command(args_conflicts_with_subcommands = true)]
    Lease(LeaseArgs),
    /// List, show, watch and cancel runs
    #[command(args_conflicts_with_subcommands = true)]
    Run(RunArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write the man pages of metisctl and all its commands into a directory
    Man {
        /// Directory, made if it does not exist
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
}

/// `status`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Print again at every change, until Ctrl-C (which ends it with exit code 0)
    #[arg(short, long)]
    pub watch: bool,
}

/// `ups`.
#[derive(Debug, Args)]
pub struct UpsArgs {
    /// Print again at every change, until Ctrl-C (which ends it with exit code 0)
    #[arg(short, long)]
    pub watch: bool,
    /// `history`, or nothing: the list.
    #[command(subcommand)]
    pub command: Option<UpsCommand>,
}

/// Commands of `ups`.
#[derive(Debug, Subcommand)]
pub enum UpsCommand {
    /// Show charge, runtime, load and transitions of one UPS over time
    History {
        /// The UPS as NUT names it, e.g. pyrphoros@localhost
        name: String,
        /// How far back, e.g. 90m, 6h, 7d
        #[arg(long, default_value = "24h", value_parser = span, value_name = "SPAN")]
        since: Duration,
        /// At most this many samples, spread over the time
        #[arg(long, default_value_t = 40, value_name = "N")]
        limit: u32,
    },
}

/// `config`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Node of the inventory, e.g. titan-13
    #[arg(long)]
    pub node: String,
}

/// What every card command says of its card.
#[derive(Debug, Args)]
pub struct CardArgs {
    /// Node of the inventory, e.g. titan-13
    #[arg(long)]
    pub node: String,
    /// Leave the golden image as it is: no identity, no secrets
    #[arg(long)]
    pub no_inject: bool,
}

/// Where a card is written.
#[derive(Debug, Args)]
pub struct TargetArgs {
    /// Block device of metisd's host (best by its stable name below /dev/disk/by-id), or a file of yours
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub device: PathBuf,
    /// Waive the guard against devices that are not removable
    #[arg(long)]
    pub allow_fixed: bool,
}

/// `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The card.
    #[command(flatten)]
    pub card: CardArgs,
    /// Its place.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `image`.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// The card.
    #[command(flatten)]
    pub card: CardArgs,
    /// File to make
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// Do it
    #[arg(long)]
    pub execute: bool,
}

/// `burn`.
#[derive(Debug, Args)]
pub struct BurnArgs {
    /// The card.
    #[command(flatten)]
    pub card: CardArgs,
    /// Its place.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Do it: everything on the device is lost
    #[arg(long)]
    pub yes: bool,
}

/// `lease`.
#[derive(Debug, Args)]
pub struct LeaseArgs {
    /// Which of it; `list` where absent
    #[command(subcommand)]
    pub command: Option<LeaseCommand>,
}

/// What is done with leases.
#[derive(Debug, Subcommand)]
pub enum LeaseCommand {
    /// Show the cordons that metis holds: which run placed them, and when they expire
    List,
    /// Give a cordon more time; a dry run without --execute
    Renew {
        /// The node, by its Kubernetes name
        node: String,
        /// From now on, e.g. 2h; cluster.cordon_lease of metis.yaml where absent
        #[arg(long = "for", value_parser = ceiling, value_name = "SPAN")]
        span: Option<Duration>,
        /// Do it
        #[arg(long)]
        execute: bool,
    },
    /// Uncordon a node that metis cordoned; a dry run without --execute
    Release {
        /// The node, by its Kubernetes name
        node: String,
        /// Do it
        #[arg(long)]
        execute: bool,
    },
}

/// `inventory`.
#[derive(Debug, Args)]
pub struct InventoryArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: InventoryCommand,
}

/// Commands of `inventory`.
#[derive(Debug, Subcommand)]
pub enum InventoryCommand {
    /// Print a draft of inventory.yaml: nodes, roles, labels, taints and versions as the cluster has them, SSH host keys as the hosts show them
    ///
    /// Nothing is changed and nobody is logged in to. What could not be known stands as a comment. The host keys prove nothing until you have
    /// compared each once on its host. Example: metisctl inventory import --network-prefix 24 > inventory.yaml
    Import {
        /// Where the hosts' sshd listen; as the present inventory's defaults say where absent, else 22
        #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "PORT")]
        ssh_port: u16,
        /// Prefix length of the nodes' network, which Kubernetes does not know; with it cards have their addresses
        #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "BITS", value_parser = clap::value_parser!(u8).range(0..=128))]
        network_prefix: u8,
    },
}

/// `startup`.
#[derive(Debug, Args)]
pub struct StartupArgs {
    /// Show what a start-up waits for and what refuses one, as tables
    #[arg(long, conflicts_with_all = ["execute", "ignore", "allow_on_battery", "min_startup_battery", "startup_stability_window", "allow_peer_startup", "auto_peer_failover"])]
    pub list: bool,
    /// Why, for the record and the reports
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub reason: String,
    /// Do not wait for this host; the run ends degraded (exit code 5) where it is not back at the end; may be given more than once
    #[arg(long = "ignore-node", value_name = "NODE")]
    pub ignore: Vec<String>,
    /// Go on while a UPS runs on battery
    #[arg(long)]
    pub allow_on_battery: bool,
    /// Every UPS holds at least so much, in percent; startup.min_battery where absent (35 as shipped)
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub min_startup_battery: Option<u32>,
    /// Refuse unless a UPS was heard from
    #[arg(long)]
    pub require_ups_battery: bool,
    /// Go on where the other metis host cannot be asked what it does
    #[arg(long)]
    pub allow_peer_startup: bool,
    /// On the peer: take the start-up over where the coordinator is reached neither by SSH nor seen by the Lease
    #[arg(long)]
    pub auto_peer_failover: bool,
    /// So long nothing may regress at the end, e.g. 180 (seconds) or 3m; startup.stability_window where absent
    #[arg(long, value_parser = ceiling, value_name = "SPAN")]
    pub startup_stability_window: Option<Duration>,
    /// Do not look for the packages that storage needs on its hosts (startup.packages)
    #[arg(long)]
    pub skip_package_check: bool,
    /// That window is waited for so long; startup.stability_timeout where absent
    #[arg(long, value_parser = ceiling, value_name = "SPAN")]
    pub startup_stability_timeout: Option<Duration>,
    /// Ingress, services and endpoints are waited for so long without progress; startup.checklist_timeout where absent
    #[arg(long, value_parser = ceiling, value_name = "SPAN")]
    pub startup_checklist_timeout: Option<Duration>,
    /// Do it
    #[arg(long)]
    pub execute: bool,
}

/// `shutdown`.
#[derive(Debug, Clone, Args)]
pub struct ShutdownArgs {
    /// What becomes of the hosts; as shutdown.mode of metis.yaml says where absent (cluster-only as shipped)
    #[arg(long, visible_alias = "shutdown-mode", value_enum, value_name = "MODE")]
    pub mode: Option<Mode>,
    /// Why, for the record and the reports
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub reason: String,
    /// Cordon the workers but evict nothing: what runs there is ended with its host
    #[arg(long)]
    pub skip_drain: bool,
    /// Take neither a snapshot of etcd nor the configured dump of the datastore
    #[arg(long)]
    pub skip_etcd_snapshot: bool,
    /// Longest drain of a worker, e.g. 180 (seconds) or 3m; shutdown.drain_timeout where absent; the runtime that is left may cut it
    #[arg(long, value_parser = ceiling, value_name = "SPAN")]
    pub drain_timeout: Option<Duration>,
    /// The same where a UPS reading, and not a person, is the cause; shutdown.emergency_drain_timeout where absent
    #[arg(long, value_parser = ceiling, value_name = "SPAN")]
    pub emergency_drain_timeout: Option<Duration>,
    /// Refuse unless a UPS was heard from; never holds back an emergency
    #[arg(long)]
    pub require_ups_battery: bool,
    /// The UPS that --require-ups-battery asks for, as NUT names it (ups@host), or the host of its upsd; any where absent
    #[arg(long, default_value = "", hide_default_value = true, value_name = "UPS")]
    pub ups_host: String,
    /// Stop only what this power domain feeds; may be given more than once
    #[arg(long = "domain", value_name = "DOMAIN")]
    pub domains: Vec<String>,
    /// Do it
    #[arg(long)]
    pub execute: bool,
}

/// `arm`.
#[derive(Debug, Args)]
pub struct ArmArgs {
    /// What a trigger leads to; as power.on_trigger of metis.yaml says where absent, and cluster-only where that is observe
    #[arg(long, value_enum, value_name = "MODE")]
    pub mode: Option<Mode>,
    /// Only say what stands against it; change nothing
    #[arg(long)]
    pub check: bool,
}

/// What becomes of the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Stop k3s on all hosts; hosts stay on
    ClusterOnly,
    /// Stop k3s, then power the hosts off, metisd's own last
    HostPoweroff,
}

/// `device`.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// `list`, or nothing, which is the same.
    #[command(subcommand)]
    pub command: Option<DeviceCommand>,
}

/// Commands of `device`.
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// List the block devices of metisd's host (also without this word)
    List,
}

/// `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The list's flags, when no command follows.
    #[command(flatten)]
    pub list: RunListArgs,
    /// What to do with runs.
    #[command(subcommand)]
    pub command: Option<RunCommand>,
}

/// `run list`.
#[derive(Debug, Args)]
pub struct RunListArgs {
    /// At most this many runs
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub limit: u32,
    /// Only runs of this kind, e.g. burn
    #[arg(long, default_value = "", hide_default_value = true)]
    pub kind: String,
}

/// Commands of `run`.
#[derive(Debug, Subcommand)]
pub enum RunCommand {
    /// List runs, newest first (also without this word)
    List(RunListArgs),
    /// Show one run: its steps, time line and events
    #[command(visible_alias = "show")]
    Get {
        /// Run, e.g. burn-17, or last
        id: String,
    },
    /// Follow a run until it ends; the exit code is the run's. Ctrl-C detaches, the run goes on
    Watch {
        /// Run, e.g. burn-17, or last
        id: String,
        /// Only events after this journal position
        #[arg(long, default_value_t = 0, value_name = "SEQ")]
        from_seq: u64,
    },
    /// Say what cancelling a run would unwind, and until when it can be; with --execute cancel it
    Cancel {
        /// Run, e.g. burn-17, or last
        id: String,
        /// Do it
        #[arg(long)]
        execute: bool,
    },
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(s) if s > 0.0 && s <= 86_400.0 => Ok(Duration::from_secs_f64(s)),
        _ => Err("allowed: seconds above 0, up to 86400".into()),
    }
}

/// Whole seconds, or a span.
fn ceiling(text: &str) -> Result<Duration, String> {
    let parsed = text.parse().map(Duration::from_secs).or_else(|_| span(text));
    match parsed {
        Ok(d) if !d.is_zero() && d <= Duration::from_hours(24) => Ok(d),
        _ => Err("allowed: seconds, or a whole number and s, m or h, e.g. 180 or 3m; above 0, up to 24h".into()),
    }
}

/// A whole number with one unit: s, m, h or d.
fn span(text: &str) -> Result<Duration, String> {
    let wrong = || "allowed: a whole number and s, m, h or d, e.g. 90m, 6h, 7d".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(number) * factor))
}
