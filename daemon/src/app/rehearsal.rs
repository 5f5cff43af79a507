//! A whole shutdown in virtual time: the real control loop, the real planner and the real interpreter of steps, against a simulated site.

mod adversaries;
mod leases_of_cordons;
mod mains;
mod raised;
mod readied;
mod repairs;
mod scope;
mod second_outage;
mod served;
mod site;
mod startup;
mod two_hosts;
mod vault;
mod woken;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::parts::MakeParts;
use super::problems::Problems;
use super::reload::adopted;
use super::world::World;
use super::{asked, leases, peers, perform, simulate, topology};
use crate::api::HostFacts;
use crate::api::port::ShutdownQuestion;
use crate::cluster::port::Cluster as _;
use crate::cluster::shutdown;
use crate::config::Settings;
use crate::control::{FactLog, Handle, Mailbox, Options, Reply, Request, RunRecord, State, View};
use crate::journal::{AppendError, Health, Kept, KeptIn, Record};
use crate::power::{Observation, reading_from_vars};
use crate::secrets;
use crate::sim::site::Site;
use crate::site::{BootId, Now, OnTrigger};

/// A journal in memory.
struct Memory {
    records: Mutex<u64>,
    health: watch::Sender<Health>,
}

impl Memory {
    fn number(&self, records: &[Record]) -> u64 {
        let mut last = self.records.lock().unwrap();
        *last += records.len() as u64;
        *last
    }
}

impl FactLog for Memory {
    async fn append(&self, records: Vec<Record>, _: &Now) -> Result<u64, AppendError> {
        Ok(self.number(&records))
    }

    async fn keep(&self, records: Vec<Record>, _: &Now) -> Kept {
        Kept { last: self.number(&records), place: KeptIn::Spill }
    }

    async fn checkpoint(&self, _: u64, _: String, _: &Now) -> Result<(), AppendError> {
        Ok(())
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }
}

/// A daemon that has just started, at the beginning of virtual time.
struct Rehearsal {
    site: Site,
    handle: Handle,
    begun: Instant,
    folder: tempfile::TempDir,
    world: Arc<World>,
    problems: Problems,
    settings: Arc<Settings>,
    tasks: Vec<JoinHandle<()>>,
    _settings: watch::Sender<Arc<Settings>>,
}

impl Rehearsal {
    async fn start(site: Site) -> Self {
        Self::with(site, site::settings()).await
    }

    async fn with(site: Site, settings: Settings) -> Self {
        let parts = simulate::parts(site.clone(), "titan-db".to_owned());
        Self::on("titan-db", site, settings, parts).await
    }

    /// On that host, with what it works through.
    async fn on(host: &str, site: Site, mut settings: Settings, parts: Arc<MakeParts>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        settings.daemon.state_dir = folder.path().to_owned();
        settings.daemon.runtime_dir = folder.path().to_owned();
        let settings = Arc::new(settings);
        let begun = Instant::now();
        let clock = move || Now {
            wall: Timestamp::from_second(1_800_000_000).unwrap() + (Instant::now() - begun),
            boot: Duration::from_secs(100) + (Instant::now() - begun),
            boot_id: BootId::new("boot-a"),
            synced: true,
        };
        let log = Memory { records: Mutex::new(0), health: watch::Sender::new(Health::default()) };
        let (mailbox, handle, orders) = Mailbox::new(State::default(), log, clock, Arc::new(settings.power.clone()), Options::default());
        let (sender, receiver) = watch::channel(Arc::clone(&settings));
        let context = secrets::Context { credentials_dir: None };
        let world = Arc::new(World::new(receiver, context, parts, Arc::new(clock), host.to_owned()));
        let adopted = adopted(&settings);
        let problems = Problems::new(HostFacts::default());
        let stop = CancellationToken::new();
        let tasks = vec![
            tokio::spawn(async move { drop(mailbox.run("test".to_owned(), adopted, Vec::new()).await) }),
            tokio::spawn(perform::effects(orders, Arc::clone(&world), handle.clone())),
            tokio::spawn(leases::keep(Arc::clone(&world), handle.clone(), problems.clone(), stop.clone())),
            tokio::spawn(peers::keep::ask_again(Arc::clone(&world), handle.clone(), problems.clone(), stop.clone())),
            tokio::spawn(peers::keep::hold_lease(Arc::clone(&world), handle.clone(), stop)),
        ];
        let rehearsal = Self { site, handle, world, problems, begun, folder, settings, tasks, _settings: sender };
        rehearsal.read("OL", 100.0, 3000).await;
        rehearsal
    }

    /// A person's request, planned as the API plans it.
    async fn ask(&self, question: &ShutdownQuestion) -> Reply {
        let settings = &self.settings;
        let facts = self.site.collect(Duration::from_secs(5)).await.unwrap_or_default();
        let (order, topology) = (asked::order(settings, question), topology::of(settings, "titan-db"));
        let runbook = shutdown::plan(&settings.cluster, &topology, &facts, &self.handle.view().learned, &order);
        self.handle.request(Request::admit("ada (uid 1000)", runbook)).await.unwrap()
    }

    /// Waits until nothing is under way any more.
    async fn settled(&self) {
        let mut views = self.handle.views();
        let wait = views.wait_for(|view| ended(view));
        tokio::time::timeout(Duration::from_secs(7200), wait).await.expect("it did not end").unwrap();
        // The report is written after that.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    async fn arm(&self, mode: OnTrigger) {
        let reply = self.handle.request(Request::Arm { requester: "ada".to_owned(), mode }).await;
        assert_eq!(reply, Ok(Reply::Noted));
    }

    /// One poll of every UPS.
    async fn read(&self, status: &str, charge: f64, runtime: u64) {
        let vars = [("ups.status", status.to_owned()), ("battery.charge", charge.to_string()), ("battery.runtime", runtime.to_string())];
        let vars: BTreeMap<String, String> = vars.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let reading = reading_from_vars(vars);
        self.handle.observe(Observation { ups: "pyrphoros@localhost".into(), result: Ok(reading), login_problem: None }).await;
    }

    /// Polls every 2 s: on battery from now on with that runtime, which runs down, until `end` says that it is enough; on the mains again
    /// from `mains` on.
    async fn outage(&self, runtime: u64, mains: Option<Duration>, end: impl Fn(&View) -> bool) {
        let begun = Instant::now();
        loop {
            let gone = begun.elapsed();
            if mains.is_some_and(|mains| gone >= mains) {
                self.read("OL CHRG", 60.0, 2000).await;
            } else {
                let left = runtime.saturating_sub(gone.as_secs());
                self.read(if left == 0 { "OB LB DISCHRG" } else { "OB DISCHRG" }, 50.0, left).await;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
            if end(&self.handle.view()) {
                return;
            }
            assert!(gone < Duration::from_secs(7200), "it did not end: {}", self.handle.view().phase);
        }
    }

    /// The newest run, which has ended.
    fn record(&self) -> Arc<RunRecord> {
        let view = self.handle.view();
        let record = view.runs.first().expect("a run");
        assert!(record.run.outcome.is_some(), "{}", view.phase);
        Arc::clone(record)
    }

    fn report(&self) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(self.folder.path().join("last-shutdown-report.json")).unwrap()).unwrap()
    }

    fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// Whether nothing is under way, and something was.
fn ended(view: &View) -> bool {
    view.runs.first().is_some_and(|record| record.run.outcome.is_some()) && view.unanswered().is_empty()
}
