//! The laboratory's UPSes: a battery that drains with what is still on, dummy-ups and upsd on the host at its cable, and outlets that go dead with
//! the battery.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use metisd::sim::{Battery, BatteryModel};

use super::Role;
use super::install::{enable, put};
use crate::nspawn::{Event, History, Host, Moment, State};

/// Where upsd listens, on every address of its host.
pub const NUT_PORT: u16 = 3493;
/// Who may set FSD and give commands: name and password.
pub const PRIMARY: (&str, &str) = ("metis", "primary-secret");
/// Who may only log in: name and password.
pub const SECONDARY: (&str, &str) = ("observer", "secondary-secret");

/// What a UPS draws for itself, in watts.
const OWN_WATTS: f64 = 5.0;
/// How often a UPS looks at its load.
const TICK: Duration = Duration::from_millis(250);
/// The UPS's folder on its host.
const FOLDER: &str = "/var/lib/ups";

/// A UPS to be there.
#[derive(Debug, Clone)]
pub struct UpsPlan {
    /// Its name, as in ups.conf.
    pub name: &'static str,
    /// The host that it is connected to, where its upsd runs.
    pub at: Role,
    /// Whose power it gives.
    pub feeds: Vec<Role>,
    /// How long the full battery carries all of them.
    pub runtime: Duration,
    /// How long the empty battery takes to be full again.
    pub recharge: Duration,
    /// LB at or under this percentage.
    pub low_percent: f64,
    /// From `upsdrvctl shutdown` to dead outlets, and from mains to outlets that are on again.
    pub delays: (Duration, Duration),
}

impl UpsPlan {
    /// The one that powers everything but tethys; connected to the coordinator.
    pub fn pyrphoros(runtime: Duration) -> Self {
        let feeds = Role::ALL.into_iter().filter(|role| *role != Role::Tethys).collect();
        Self::new("pyrphoros", Role::TitanDb, feeds, runtime)
    }

    /// The one that powers tethys.
    pub fn statera(runtime: Duration) -> Self {
        Self::new("statera", Role::Tethys, vec![Role::Tethys], runtime)
    }

    fn new(name: &'static str, at: Role, feeds: Vec<Role>, runtime: Duration) -> Self {
        let delays = (Duration::from_secs(2), Duration::from_secs(3));
        Self { name, at, feeds, runtime, recharge: runtime * 4, low_percent: 20.0, delays }
    }

    fn battery(&self) -> Battery {
        let load_w = OWN_WATTS + self.feeds.iter().map(|role| role.watts()).sum::<f64>();
        let capacity_wh = load_w * self.runtime.as_secs_f64() / 3600.0;
        let charger_w = load_w * self.runtime.as_secs_f64() / self.recharge.as_secs_f64();
        Battery::new(BatteryModel { capacity_wh, load_w, rated_w: 2.0 * load_w, charger_w, low_percent: self.low_percent })
    }
}

/// A UPS that is there. It stops with its hosts.
pub struct Ups {
    shared: Arc<Shared>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    plan: UpsPlan,
    /// Its folder, outside.
    folder: PathBuf,
    /// The disk of the host that it is connected to.
    disk: PathBuf,
    hosts: Vec<(Role, Arc<Host>)>,
    history: History,
    now: Mutex<Now>,
}

struct Now {
    battery: Battery,
    mains: bool,
    outlets: bool,
    /// When they were asked to go dead; when mains came to dead outlets.
    kill: Option<Instant>,
    back: Option<Instant>,
}

impl Ups {
    /// Begins to live. `at`: the host that it is connected to; `hosts`: those that it feeds.
    pub(super) fn start(
        plan: UpsPlan,
        folder: PathBuf,
        at: &Host,
        hosts: Vec<(Role, Arc<Host>)>,
        history: History,
    ) -> anyhow::Result<Self> {
        let now = Mutex::new(Now { battery: plan.battery(), mains: true, outlets: true, kill: None, back: None });
        let shared = Arc::new(Shared { plan, folder, disk: at.disk(), hosts, history, now });
        shared.publish()?;
        let (stop, stopped) = channel();
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(shared.plan.name.to_owned()).spawn(move || {
                let mut before = Instant::now();
                while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    let now = Instant::now();
                    shared.pass(now - before);
                    before = now;
                }
            })?
        };
        Ok(Self { shared, stop: Some(stop), thread: Some(thread) })
    }

    /// What it was made of.
    pub fn plan(&self) -> &UpsPlan {
        &self.shared.plan
    }

    /// The mains of this UPS off, or on again.
    pub fn set_mains(&self, on: bool) {
        let mut now = self.shared.now();
        now.battery.set_mains(on);
        now.mains = on;
        self.shared.note(if on { Event::MainsBack } else { Event::MainsFailed });
    }

    /// Whether it has mains.
    pub fn mains(&self) -> bool {
        self.shared.now().mains
    }

    /// Battery charge in percent.
    pub fn charge(&self) -> f64 {
        self.shared.now().battery.charge()
    }

    /// Puts it at this charge, in percent.
    pub fn set_charge(&self, percent: f64) {
        self.shared.now().battery.set_charge(percent);
    }

    /// Whether its outlets have power.
    pub fn outlets(&self) -> bool {
        self.shared.now().outlets
    }
}

impl Drop for Ups {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, event: Event) {
        let moment = Moment { at: Instant::now(), host: self.plan.name.to_owned(), event };
        self.history.lock().unwrap_or_else(PoisonError::into_inner).push(moment);
    }

    /// What is on at its outlets, in watts, itself included.
    fn load(&self) -> f64 {
        let on = self.hosts.iter().filter(|(_, host)| !matches!(host.state(), State::Off(_)));
        OWN_WATTS + on.map(|(role, _)| role.watts()).sum::<f64>()
    }

    fn pass(&self, time: Duration) {
        let load = self.load();
        let kill = format!("{}.kill", self.plan.name);
        // At the end of a shutdown the folder is unmounted, and its mount point is a folder of the disk.
        let places = [self.folder.join(&kill), self.disk.join(FOLDER.trim_start_matches('/')).join(&kill)];
        let killed = places.map(std::fs::remove_file).iter().any(Result::is_ok);
        let outlets = {
            let mut now = self.now();
            now.battery.set_load(load);
            now.battery.advance(time);
            now.switch(killed, &self.plan)
        };
        match outlets {
            Some(false) => {
                self.note(Event::OutletsOff);
                for (_, host) in &self.hosts {
                    let _ = host.cut_power();
                }
            }
            Some(true) => {
                self.note(Event::OutletsOn);
                for (_, host) in &self.hosts {
                    let _ = host.restore_power();
                }
            }
            None => {}
        }
        // A reading that could not be written is one that is old: upsd says so.
        let _ = self.publish();
    }

    /// The file that dummy-ups reads, in one go.
    fn publish(&self) -> std::io::Result<()> {
        let vars = self.now().battery.vars();
        let mut text = String::new();
        for (name, value) in vars.iter().filter(|(name, _)| **name != "driver.name") {
            let _ = writeln!(text, "{name}: {value}");
        }
        // Not one name for all: the UPSes of a site share the folder.
        let (new, place) = (self.folder.join(format!("{}.new", self.plan.name)), self.folder.join(format!("{}.dev", self.plan.name)));
        std::fs::write(&new, text)?;
        std::fs::rename(new, place)
    }
}

impl Now {
    /// Whether the outlets go dead or get power now.
    fn switch(&mut self, killed: bool, plan: &UpsPlan) -> Option<bool> {
        let now = Instant::now();
        if killed && self.outlets {
            self.kill.get_or_insert(now);
        }
        let (off, on) = plan.delays;
        let due = |since: Option<Instant>, delay| since.is_some_and(|since| now - since >= delay);
        if self.outlets && (due(self.kill, off) || self.battery.status() == "OFF") {
            (self.outlets, self.kill, self.back) = (false, None, None);
            return Some(false);
        }
        self.back = if self.mains && !self.outlets { Some(self.back.unwrap_or(now)) } else { None };
        if due(self.back, on) {
            (self.outlets, self.back) = (true, None);
            return Some(true);
        }
        None
    }
}

/// upsd and the drivers on the host that these UPSes are connected to.
pub(super) fn install(host: &Host, upses: &[&UpsPlan]) -> anyhow::Result<()> {
    let disk = host.disk();
    // The lab's own program before NUT's: it takes `-k`, which dummy-ups refuses.
    let mut ups_conf = "driverpath = /usr/local/lib/nut\npollinterval = 1\n".to_owned();
    for ups in upses {
        let _ = write!(ups_conf, "[{}]\n  driver = dummy-ups\n  port = {FOLDER}/{}.dev\n", ups.name, ups.name);
    }
    let user = |(name, password): (&str, &str), rights: &str| format!("[{name}]\n  password = {password}\n{rights}");
    let users =
        user(PRIMARY, "  actions = SET\n  actions = FSD\n  instcmds = ALL\n  upsmon primary\n") + &user(SECONDARY, "  upsmon secondary\n");
    put(&disk, "etc/nut/nut.conf", "MODE=netserver\n")?;
    put(&disk, "etc/nut/ups.conf", &ups_conf)?;
    put(&disk, "etc/nut/upsd.conf", &format!("LISTEN 0.0.0.0 {NUT_PORT}\nMAXAGE 5\n"))?;
    put(&disk, "etc/nut/upsd.users", &users)?;
    let driver = format!("#!/bin/sh\ncase \" $* \" in *' -k '*) exec touch {FOLDER}/\"$2\".kill ;; esac\nexec /lib/nut/dummy-ups \"$@\"\n");
    let driver = put(&disk, "usr/local/lib/nut/dummy-ups", &driver)?;
    std::fs::set_permissions(driver, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let service = |lines: &str| {
        format!(
            "[Service]\nRuntimeDirectory=nut\nRuntimeDirectoryPreserve=yes\nEnvironment=NUT_STATEPATH=/run/nut NUT_ALTPIDPATH=/run/nut\n{lines}Restart=always\n[Install]\nWantedBy=multi-user.target\n"
        )
    };
    put(&disk, "etc/systemd/system/ups-driver@.service", &service("ExecStart=/usr/local/lib/nut/dummy-ups -a %i -u root -F\n"))?;
    let upsd = "ExecStartPre=/bin/sleep 0.3\nExecStart=/lib/nut/upsd -u root -F\n";
    put(&disk, "etc/systemd/system/upsd.service", &service(upsd))?;
    for ups in upses {
        enable(&disk, &format!("ups-driver@{}.service", ups.name), "multi-user.target")?;
    }
    enable(&disk, "upsd.service", "multi-user.target")
}

/// The option of nspawn that shows a host the folder of its UPSes.
pub(super) fn bind(folder: &std::path::Path) -> String {
    format!("--bind={}:{FOLDER}", folder.display())
}
