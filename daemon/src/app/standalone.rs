//! `metisd shutdown --standalone`: stops the site without a running daemon. Same plan, same steps, an own control loop; what is known of
//! the run is printed in lines.

mod ground;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use metisctl::view::run::{EventView, RunView};
use metisctl::view::shutdown::ShutdownView;
use metisctl::{Console, Exit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use ground::{Ground, Refusal};

use super::args::StandaloneArguments;
use super::problems::Problems;
use super::reload::{Loaded, adopted};
use super::site::RealSite;
use super::source::Source;
use super::watch::PowerWatch;
use super::world::credentials_directory;
use super::{complain, daemon, outage, perform, real, say};
use crate::api::port::{PlanError, Power as _, ShutdownQuestion};
use crate::api::{self, HostFacts};
use crate::config::Settings;
use crate::control::{Fact, Handle, Reply, Request, RunRecord, Told};
use crate::host::clock::Clock;
use crate::journal::{Opened, UpsHistory};
use crate::power::nut::Held;
use crate::runbook::Status;
use crate::secrets;
use crate::site::{Cause, RunId, Step};

/// UPSes are waited for no longer than this before the plan is made.
const HEARD_WITHIN: Duration = Duration::from_secs(3);
/// This host's power-off is tried so long, and then takes its time; the system's SIGTERM ends the wait.
const POWER_OFF_WITHIN: Duration = Duration::from_secs(120);
/// The loop has this long to end.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Plans, and with `--execute` does it. The exit code is metisctl's.
///
/// # Errors
/// Where nothing could be begun; what is to be done is in the message.
pub fn run(arguments: &StandaloneArguments, loaded: &Loaded) -> anyhow::Result<Exit> {
    let mut settings = Settings::clone(&loaded.settings);
    ensure!(may_run(&settings), "a standalone shutdown needs root, or the user that owns {}", settings.daemon.state_dir.display());
    for error in &loaded.rejected {
        complain(&format!("the configuration on disk is wrong, the last good one is used: {error}"));
    }
    let clock = Clock::new().context("reading the boot id from /proc")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let ground = match Ground::find(arguments, &mut settings, &clock, &runtime) {
        Ok(ground) => ground,
        Err(Refusal::Failed(error)) => return Err(error),
        Err(Refusal::Refused(why)) => {
            complain(&why);
            return Ok(Exit::Refused);
        }
    };
    let Ground { opened, history, _temporary } = ground;
    let (journal, closing) = (opened.journal.clone(), history.clone());
    let standalone = Standalone { settings: Arc::new(settings), clock, arguments: arguments.clone() };
    let exit = runtime.block_on(standalone.serve(opened, history, loaded));
    runtime.shutdown_timeout(Duration::from_millis(500));
    daemon::close(move || journal.close());
    daemon::close(move || closing.close());
    exit
}

/// Root, or whoever the daemon runs as.
fn may_run(settings: &Settings) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let own = nix::unistd::geteuid();
    own.is_root() || std::fs::metadata(&settings.daemon.state_dir).is_ok_and(|dir| dir.uid() == own.as_raw())
}

struct Standalone {
    settings: Arc<Settings>,
    clock: Clock,
    arguments: StandaloneArguments,
}

/// The parts that run while the site is stopped.
struct Parts {
    handle: Handle,
    site: RealSite,
    control: JoinHandle<()>,
    effects: JoinHandle<()>,
    watch: JoinHandle<()>,
    stop: CancellationToken,
}

impl Standalone {
    async fn serve(self, opened: Opened, history: UpsHistory, loaded: &Loaded) -> anyhow::Result<Exit> {
        // First: a terminal that goes away must not end it.
        let mut signals = Signals::new()?;
        let parts = self.start(opened, history, loaded).await?;
        heard(&parts.handle).await;
        let exit = self.act(&parts, &mut signals).await;
        parts.end().await;
        exit
    }

    async fn start(&self, opened: Opened, history: UpsHistory, loaded: &Loaded) -> anyhow::Result<Parts> {
        let (mailbox, handle, orders) = daemon::mailbox(&self.clock, opened, &self.settings);
        let (_, settings) = watch::channel(Arc::clone(&self.settings));
        let secrets = secrets::Context { credentials_dir: credentials_directory() };
        let held = Held::default();
        let world = Arc::new(real::world(settings.clone(), secrets.clone(), held.clone(), &self.clock)?);
        let (version, adopted, rejected) = (env!("CARGO_PKG_VERSION").to_owned(), adopted(&self.settings), loaded.rejected.clone());
        let control = tokio::spawn(async move { drop(mailbox.run(version, adopted, rejected).await) });
        let effects = tokio::spawn(perform::effects(orders, Arc::clone(&world), handle.clone()));
        let stop = CancellationToken::new();
        let power = PowerWatch {
            settings,
            handle: handle.clone(),
            history: history.clone(),
            secrets,
            problems: Problems::new(HostFacts::default()),
            clock: self.clock.clone(),
            held,
        };
        let watch = tokio::spawn(power.run(stop.clone()));
        daemon::wait_for_first_view(&handle).await;
        Ok(Parts {
            site: RealSite { world, history, handle: handle.clone(), source: Source::default() },
            handle,
            control,
            effects,
            watch,
            stop,
        })
    }

    async fn act(&self, parts: &Parts, signals: &mut Signals) -> anyhow::Result<Exit> {
        // Heard from the beginning, so that no line of the run is missing.
        let told = parts.handle.subscribe();
        let left = parts.handle.view().runs.iter().find(|r| r.run.outcome.is_none() && r.run.book.kind == "shutdown").cloned();
        if let Some(record) = left {
            say(&format!("{} ({}) was under way when metisd ended: it goes on", record.id, record.run.book.title));
            return self.follow(parts, &record.id, told, signals).await;
        }
        let plan = match parts.site.plan_shutdown(self.question()).await {
            Ok(plan) => plan,
            Err(PlanError::Refused(guards)) => {
                bail!("refused: {}", guards.iter().map(|g| g.message.as_str()).collect::<Vec<_>>().join("; "))
            }
            Err(error) => bail!("no plan can be made: {error}"),
        };
        let view = ShutdownView::from(api::shutdown_message(String::new(), &plan));
        print(|console| view.table(&console.look(None)));
        if !self.arguments.shutdown.execute {
            let refused = !plan.runbook.refusals.is_empty();
            say(if refused {
                "\nDRY RUN: nothing was changed; it would be refused"
            } else {
                "\nDRY RUN: nothing was changed, add --execute"
            });
            return Ok(if refused { Exit::Refused } else { Exit::Done });
        }
        let asked = Request::Admit { requester: requester(), runbook: plan.runbook, cause: Cause::Person, within: plan.remaining };
        match parts.handle.request(asked).await? {
            Reply::Admitted { run } => self.follow(parts, &run, told, signals).await,
            Reply::Refused { guards } => {
                complain("refused:");
                for guard in guards {
                    complain(&format!("  {}: {}", guard.name, guard.message));
                }
                Ok(Exit::Refused)
            }
            other => bail!("unexpected answer of the control loop: {other:?}"),
        }
    }

    fn question(&self) -> ShutdownQuestion {
        let asked = &self.arguments.shutdown;
        ShutdownQuestion {
            mode: asked.mode.map(|mode| match mode {
                metisctl::args::Mode::ClusterOnly => crate::cluster::ShutdownMode::ClusterOnly,
                metisctl::args::Mode::HostPoweroff => crate::cluster::ShutdownMode::HostPoweroff,
            }),
            reason: asked.reason.clone(),
            domains: (!asked.domains.is_empty()).then(|| asked.domains.iter().map(|domain| domain.as_str().into()).collect()),
            skip_drain: asked.skip_drain,
            skip_etcd_snapshot: asked.skip_etcd_snapshot,
            drain_timeout: asked.drain_timeout,
            emergency_drain_timeout: asked.emergency_drain_timeout,
            require_ups_battery: asked.require_ups_battery,
            ups_host: (!asked.ups_host.is_empty()).then(|| asked.ups_host.clone()),
            execute: asked.execute,
        }
    }

    /// Prints what happens until the run has ended.
    async fn follow(
        &self,
        parts: &Parts,
        run: &RunId,
        mut told: broadcast::Receiver<Arc<Told>>,
        signals: &mut Signals,
    ) -> anyhow::Result<Exit> {
        say(&format!("\n{run} goes on even if this terminal goes away; Ctrl-C twice cancels it"));
        let mut pressed = 0;
        loop {
            tokio::select! {
                fact = told.recv() => match fact {
                    Ok(told) if told.fact.run() == Some(run) => {
                        print(|console| EventView::from(api::event_message(run, &told)).line(&console.look(None)));
                        if matches!(told.fact, Fact::RunEnded { .. }) {
                            break;
                        }
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(missed)) => say(&format!("… {missed} lines are left out")),
                    Err(RecvError::Closed) => bail!("the control loop ended before {run} did"),
                },
                () = signals.next() => {
                    pressed += 1;
                    interrupted(&parts.handle, run, pressed).await;
                }
            }
            if pressed > 0 && ended(&parts.handle, run) {
                break;
            }
        }
        self.report(parts, run, signals).await
    }

    async fn report(&self, parts: &Parts, run: &RunId, signals: &mut Signals) -> anyhow::Result<Exit> {
        let mut views = parts.handle.views();
        let has_ended = |view: &Arc<crate::control::View>| view.run(run.as_str()).is_some_and(|record| record.run.outcome.is_some());
        let _ = tokio::time::timeout(Duration::from_secs(2), views.wait_for(has_ended)).await;
        let record = parts.handle.view().run(run.as_str()).cloned().context("the run is gone")?;
        let message = api::run_message(&record, &self.clock.now());
        let exit = metisctl::view::run::exit(message.phase).unwrap_or(Exit::Failed);
        print(|console| format!("\n{}", RunView::from(message).story(&console.look(None))));
        if powers_off(&record) {
            // Whoever orders it lives in this process.
            say("this host is powered off now");
            if tokio::time::timeout(POWER_OFF_WITHIN, signals.next()).await.is_err() {
                complain("this host is still on");
                outage::withdraw_outlets(&parts.site.world, run).await;
            }
        }
        Ok(exit)
    }
}

impl Parts {
    /// Lets the loop end, and what it ordered last be carried out.
    async fn end(self) {
        let _ = self.handle.request(Request::Stop).await;
        self.stop.cancel();
        drop(self.handle);
        let rest = async {
            let _ = self.control.await;
            let _ = self.effects.await;
            let _ = self.watch.await;
        };
        if tokio::time::timeout(END_WITHIN, rest).await.is_err() {
            complain("something of metis did not end in time; it ends with this process");
        }
    }
}

/// Waits until every UPS was heard from, or cannot be.
async fn heard(handle: &Handle) {
    let mut views = handle.views();
    let all = views.wait_for(|view| view.power.iter().flat_map(|power| &power.upses).all(|ups| ups.last_heard.is_some()));
    let _ = tokio::time::timeout(HEARD_WITHIN, all).await;
}

/// Whether the run ended with the order to power this host off.
fn powers_off(record: &RunRecord) -> bool {
    let mut last = record.run.book.steps().filter(|step| matches!(step.action, Step::PowerOffThisHost { .. }));
    last.any(|step| record.run.status(&step.id) == Status::Done)
}

fn ended(handle: &Handle, run: &RunId) -> bool {
    handle.view().run(run.as_str()).is_some_and(|record| record.run.outcome.is_some())
}

/// The first Ctrl-C explains, the second cancels where that is still possible.
async fn interrupted(handle: &Handle, run: &RunId, pressed: u32) {
    let asked = Request::Cancel { requester: requester(), run: run.clone(), execute: pressed > 1 };
    match handle.request(asked).await {
        Ok(Reply::Cancel { consequences, cancelled }) => {
            say(match (pressed, cancelled) {
                (1, _) => "Ctrl-C again cancels it, which means:",
                (_, true) => "it is cancelled:",
                (_, false) => "it cannot be cancelled:",
            });
            for line in consequences {
                say(&format!("  {line}"));
            }
        }
        Ok(_) => {}
        Err(error) => complain(&error.to_string()),
    }
}

fn requester() -> String {
    let own = nix::unistd::getuid();
    let name = nix::unistd::User::from_uid(own).ok().flatten().map_or_else(|| "somebody".to_owned(), |user| user.name);
    format!("{name} (uid {own}), standalone")
}

/// One result, rendered as metisctl does; a terminal that is gone changes nothing.
fn print(render: impl FnOnce(&Console<'_>) -> String) {
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let text = render(&Console::plain(&mut out, &mut err));
    say(text.trim_end());
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    _hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listening to signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            _hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
