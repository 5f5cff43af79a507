//! The daemon: opens what there is, wires the rooms, serves until it is told to stop.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::args::DaemonArguments;
use super::problems::Problems;
use super::reload::{self, Loaded, Reload, adopted};
use super::site::RealSite;
use super::source::Source;
use super::watch::{self as ups_watch, PowerWatch};
use super::world::{World, credentials_directory};
use super::{budgets, leases, listen, peers, perform, progress, real, this_host};
use crate::api::{self, HostFacts, RoleTable};
use crate::config::Settings;
use crate::control::{self, Fact, Handle, Mailbox, Request};
use crate::host::clock::Clock;
use crate::host::{memory, service_manager};
use crate::journal::{self, Journal, Mode, Opened, UpsHistory};
use crate::power::nut::Held;
use crate::secrets;

/// How long calls under way, and the control loop with the runs that it cancels, may take to end when the daemon stops; with twice the
/// grace for the tasks and what `run` waits for they stay below 10 s. Longer than an attempt that was told to end is waited for.
const GRACE: Duration = Duration::from_secs(1);
const STOP_WITHIN: Duration = Duration::from_secs(6);
/// Everything that a start touches has been touched by then.
const SETTLED: Duration = Duration::from_secs(20);
/// Into so many parts the watchdog's interval is cut: one passes between two words to it, another until the loop turns, one is spare.
const WATCHDOG_PARTS: u32 = 3;

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// Where another instance holds the state directory, or something that it needs ends by itself.
pub fn run(arguments: &DaemonArguments, loaded: Loaded, passed: Option<UnixListener>) -> anyhow::Result<()> {
    let clock = Clock::new().context("reading the boot id from /proc")?;
    let settings = Arc::clone(&loaded.settings);
    let opened = open_journal(&settings, &clock)?;
    let (history, history_problem) = UpsHistory::open(&settings.daemon.state_dir, &clock.now()).context("opening the UPS history")?;
    let listener = listen::listener(&settings.api, passed)?;
    // One thread: a poll then wakes nobody but it. Whatever computes or blocks for longer has a thread of its own (spawn_blocking).
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let journal = opened.journal.clone();
    let result = runtime.block_on(async {
        let daemon = Daemon { arguments: arguments.clone(), clock, loaded, history: history.clone() };
        daemon.serve(opened, listener, history_problem).await
    });
    // What hangs in the kernel must not hold the end: its threads end with the process.
    runtime.shutdown_timeout(Duration::from_millis(500));
    close(move || journal.close());
    close(move || history.close());
    result
}

/// Closing writes what is pending; a disk that hangs must not hold the end of the process.
pub(super) fn close(how: impl FnOnce() + Send + 'static) {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        how();
        let _ = done.send(());
    });
    if ended.recv_timeout(Duration::from_millis(500)).is_err() {
        tracing::warn!("the state directory does not answer: ending without waiting for it");
    }
}

pub(super) fn open_journal(settings: &Settings, clock: &Clock) -> anyhow::Result<Opened> {
    let mut options = journal::Options::new(&settings.daemon.state_dir, settings.daemon.runtime_dir.join("spill.jsonl"));
    options.understands = Fact::understands;
    #[cfg(debug_assertions)]
    {
        options.hook = journal::failpoint::from_env();
    }
    Ok(journal::open(options, &clock.now())?)
}

struct Daemon {
    arguments: DaemonArguments,
    clock: Clock,
    loaded: Loaded,
    history: UpsHistory,
}

impl Daemon {
    async fn serve(self, opened: Opened, listener: UnixListener, history_problem: Option<String>) -> anyhow::Result<()> {
        // First: until it is listened to, SIGHUP ends a process (signal(7)).
        let signals = Signals::new()?;
        let settings = Arc::clone(&self.loaded.settings);
        let problems =
            Problems::new(HostFacts { host: host_name(), host_role: settings.daemon.host_role.to_string(), problems: Vec::new() });
        problems.set("history", history_problem.into_iter().collect());
        let journal = opened.journal.clone();
        let (mailbox, handle, orders) = mailbox(&self.clock, opened, &settings);
        let (settings_sender, settings_receiver) = watch::channel(Arc::clone(&settings));
        let secrets = secrets::Context { credentials_dir: credentials_directory() };
        let held = Held::default();
        let world = Arc::new(real::world(settings_receiver.clone(), secrets.clone(), held.clone(), &self.clock)?);
        let (roles, role_receiver) = watch::channel(resolve_roles(&settings, &problems).await);

        let stop = CancellationToken::new();
        let mut tasks = Tasks::default();
        let (version, adopted, rejected) = (env!("CARGO_PKG_VERSION").to_owned(), adopted(&settings), self.loaded.rejected.clone());
        tasks.spawn("control loop", async move { drop(mailbox.run(version, adopted, rejected).await) });
        tasks.spawn("effects", perform::effects(orders, Arc::clone(&world), handle.clone()));
        tasks.spawn("UPS transitions", ups_watch::transitions(handle.clone(), self.history.clone()));
        tasks.spawn("budgets", budgets::keep(Arc::clone(&world), handle.clone(), settings_receiver.clone(), stop.clone()));
        tasks.spawn("cordon leases", leases::keep(Arc::clone(&world), handle.clone(), problems.clone(), stop.clone()));
        tasks.spawn("progress of a start-up", progress::keep(Arc::clone(&world), handle.clone(), stop.clone()));
        tasks.spawn("watch of the other host", peers::keep::ask_again(Arc::clone(&world), handle.clone(), problems.clone(), stop.clone()));
        tasks.spawn("Lease", peers::keep::hold_lease(Arc::clone(&world), handle.clone(), stop.clone()));
        let (history, clock) = (self.history.clone(), self.clock.clone());
        let power =
            PowerWatch { settings: settings_receiver, handle: handle.clone(), history, secrets, problems: problems.clone(), clock, held };
        tasks.spawn("UPS watch", power.run(stop.clone()));
        tasks.spawn("watch of this host's end", this_host::watch(handle.clone(), stop.clone()));
        tasks.spawn("start-up's pages", let_go_of_startup_code(stop.clone()));
        tasks.spawn("service manager", tell_service_manager(handle.clone(), self.clock.clone(), stop.clone()));

        let context = self.context(handle.clone(), journal.reader(), Arc::clone(&world), &problems, role_receiver);
        // A caller who is served earlier would see a site without history; until then he waits in the socket's backlog.
        wait_for_first_view(&handle).await;
        let api_stop = CancellationToken::new();
        tasks.spawn("API", serve_api(listener, context, api_stop.clone()));
        if self.loaded.rejected.is_empty() {
            reload::keep(&settings, &problems).await;
        }
        service_manager::ready();
        tracing::info!("ready on {}", settings.api.socket.display());

        let reload = Reload { arguments: self.arguments, settings: settings_sender, roles, world, handle: handle.clone(), problems };
        let ended = until_told(signals, reload, &mut tasks).await;
        service_manager::stopping();
        stop.cancel();
        stop_control(&handle).await;
        api_stop.cancel();
        drop(handle);
        tasks.join(GRACE * 2).await;
        ended
    }

    /// What the API answers with.
    fn context(
        &self,
        handle: Handle,
        reader: journal::Reader,
        world: Arc<World>,
        problems: &Problems,
        roles: watch::Receiver<Arc<RoleTable>>,
    ) -> api::Context {
        let clock = self.clock.clone();
        let site = Arc::new(RealSite { world, history: self.history.clone(), handle: handle.clone(), source: Source::default() });
        let now = Arc::new(move || clock.now());
        api::Context {
            handle,
            reader,
            site: Arc::clone(&site) as _,
            power: Arc::clone(&site) as _,
            prepare: Arc::clone(&site) as _,
            peers: site,
            facts: problems.facts(),
            roles,
            now,
        }
    }
}

/// The control loop over what was opened, the way into it, and what it orders.
pub(super) fn mailbox(
    clock: &Clock,
    opened: Opened,
    settings: &Settings,
) -> (Mailbox<Journal, impl Fn() -> crate::site::Now + Send + 'static>, Handle, tokio::sync::mpsc::UnboundedReceiver<control::Effect>) {
    let (state, mut notes) = control::fold(opened.checkpoint.as_ref(), &opened.tail);
    notes.extend(opened.problems);
    if let Mode::ReadOnly { why } | Mode::Memory { why } = &opened.mode {
        tracing::error!("journal degraded: {why}");
    }
    for note in &notes {
        tracing::warn!("{note}");
    }
    let calm = control::Options::default().tick;
    let tick = service_manager::watchdog_interval().map_or(calm, |interval| calm.min(interval / WATCHDOG_PARTS));
    let options = control::Options { tick, replayed: opened.tail.len() as u64, notes, ..control::Options::default() };
    let clock = clock.clone();
    Mailbox::new(state, opened.journal, move || clock.now(), Arc::new(settings.power.clone()), options)
}

/// Once everything has begun.
async fn let_go_of_startup_code(stop: CancellationToken) {
    if stop.run_until_cancelled(tokio::time::sleep(SETTLED)).await.is_none() {
        return;
    }
    match tokio::task::spawn_blocking(memory::let_go_of_startup_code).await {
        Ok(Ok(bytes)) => tracing::debug!(bytes, "pages that starting has touched were let go"),
        Ok(Err(error)) => tracing::debug!(%error, "pages that starting has touched stay"),
        Err(error) => tracing::warn!(%error, "letting go of pages"),
    }
    stop.cancelled().await;
}

async fn serve_api(listener: UnixListener, context: api::Context, stop: CancellationToken) {
    if let Err(error) = api::serve(listener, context, stop, GRACE).await {
        tracing::error!("{error:#}");
    }
}

/// Names of this host's users and groups are looked up; that may ask the network (nsswitch.conf(5)).
pub(super) async fn resolve_roles(settings: &Arc<Settings>, problems: &Problems) -> Arc<RoleTable> {
    let settings = Arc::clone(settings);
    let resolved = tokio::task::spawn_blocking(move || RoleTable::resolve(&settings.api)).await;
    let (table, unknown) = resolved.unwrap_or_else(|error| (RoleTable::default(), vec![format!("api.roles: {error}")]));
    problems.set("roles", unknown);
    Arc::new(table)
}

pub(super) fn host_name() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Tasks that live as long as the daemon. One that ends by itself is a fault.
#[derive(Default)]
struct Tasks {
    set: JoinSet<&'static str>,
}

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.set.spawn(async move {
            task.await;
            name
        });
    }

    async fn one_ended(&mut self) -> anyhow::Error {
        match self.set.join_next().await {
            Some(Ok(name)) => anyhow!("the {name} ended by itself"),
            Some(Err(error)) => anyhow!("a task of metisd was lost: {error}"),
            None => anyhow!("nothing runs any more"),
        }
    }

    /// Waits for all, then ends what is left.
    async fn join(mut self, within: Duration) {
        let all = async { while self.set.join_next().await.is_some() {} };
        if tokio::time::timeout(within, all).await.is_err() {
            tracing::warn!("ending although {} tasks are still under way", self.set.len());
        }
    }
}

/// Serves signals until one says stop, or until a task ends that must not.
async fn until_told(mut listen: Signals, reload: Reload, tasks: &mut Tasks) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            _ = listen.terminate.recv() => return Ok(()),
            _ = listen.interrupt.recv() => return Ok(()),
            _ = listen.hangup.recv() => reload.reload().await,
            fault = tasks.one_ended() => return Err(fault),
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listening to signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }
}

pub(super) async fn wait_for_first_view(handle: &Handle) {
    let mut views = handle.views();
    let _ = tokio::time::timeout(Duration::from_secs(5), views.wait_for(|view| view.started.is_some())).await;
}

/// Lets the loop end runs that cannot be resumed and write its last fact: it only notes the request, and goes once they have ended.
async fn stop_control(handle: &Handle) {
    let stopped = async {
        handle.request(Request::Stop).await?;
        let mut views = handle.views();
        while views.changed().await.is_ok() {}
        Ok::<_, control::HandleError>(())
    };
    match tokio::time::timeout(STOP_WITHIN, stopped).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "stopping"),
        Err(_) => tracing::warn!("the control loop did not stop within {} s", STOP_WITHIN.as_secs()),
    }
}

/// Keeps `STATUS=` at the phase, and the watchdog quiet. It has no clock of its own: it is woken by the control loop, which publishes a
/// view at every turn, so a loop that hangs is a watchdog that is not reassured.
async fn tell_service_manager(handle: Handle, clock: Clock, stop: CancellationToken) {
    let mut views = handle.views();
    let every = service_manager::watchdog_interval().map(|interval| interval / WATCHDOG_PARTS);
    let (mut told, mut reassured) = (String::new(), None);
    loop {
        let phase = views.borrow_and_update().phase.clone();
        if phase != told {
            service_manager::status(&phase);
            told = phase;
        }
        let now = clock.now().boot;
        if every.is_some_and(|every| reassured.is_none_or(|at| now.saturating_sub(at) >= every)) {
            service_manager::watchdog();
            reassured = Some(now);
        }
        if views.changed().await.is_err() {
            return stop.cancelled().await;
        }
    }
}

/// Where the last settings that were good are kept: systemd says where the state is even when the configuration cannot.
pub fn state_directory() -> std::path::PathBuf {
    std::env::var_os("STATE_DIRECTORY").map_or_else(|| Path::new("/var/lib/metis").to_path_buf(), Into::into)
}
