//! One shutdown, start-up or change of a lease on a simulated site, whose daemon is killed where it is told to be, and what each death may
//! leave behind.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime};

use metis_tests::daemon::Daemon;
use metisd::sim::site::Model;
use nix::sys::signal::Signal;

use super::ended::Ended;
use super::lab::{self, Outage, Row};
use super::site::{self, SERVER, THIS, WORKERS};

/// It takes some 5 s, and as long again where it is killed.
const PATIENCE: Duration = Duration::from_secs(60);

/// What happens to the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Story {
    /// The battery of an armed metis runs down.
    Outage,
    /// The same, and the mains are back before the point of no return.
    MainsBack,
    /// A person stops the cluster, and the hosts stay on.
    Asked,
    /// The same, and the person cancels it before the point of no return.
    Cancelled,
    /// A person starts what he had stopped.
    StartUp,
    /// A person gives the cordon that a shutdown left on a node more time.
    LeaseRenewed,
    /// A person releases it.
    LeaseReleased,
    /// It expires, while somebody has started the node by hand.
    LeaseExpired,
}

pub const SHUTDOWNS: [Story; 4] = [Story::Outage, Story::MainsBack, Story::Asked, Story::Cancelled];
pub const RETURNS: [Story; 4] = [Story::StartUp, Story::LeaseRenewed, Story::LeaseReleased, Story::LeaseExpired];
/// Longer than the lease of a cordon.
const LATER: i64 = 2 * 3600;

impl Story {
    fn armed(self) -> bool {
        matches!(self, Self::Outage | Self::MainsBack)
    }

    pub fn undone(self) -> bool {
        matches!(self, Self::MainsBack | Self::Cancelled)
    }

    /// It begins on a site that was stopped.
    pub fn follows(self) -> bool {
        matches!(self, Self::StartUp | Self::LeaseRenewed | Self::LeaseReleased | Self::LeaseExpired)
    }

    /// What a person types.
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Asked | Self::Cancelled => &["shutdown", "--mode", "cluster-only", "--execute"],
            Self::StartUp => &["startup", "--execute"],
            Self::LeaseRenewed => &["lease", "renew", WORKERS[0], "--for", "5h", "--execute"],
            Self::LeaseReleased => &["lease", "release", WORKERS[0], "--execute"],
            Self::Outage | Self::MainsBack | Self::LeaseExpired => &[],
        }
    }
}

/// One story, in which the daemon is killed at each of these places, the n-th life at the n-th.
pub struct Case {
    pub story: Story,
    /// For messages.
    pub when: String,
    places: VecDeque<String>,
    pub daemon: Daemon,
    outage: Outage,
    file: PathBuf,
    /// The site before anything happened.
    pub before: Model,
    client: Option<Child>,
    asked: Instant,
    /// What each killed daemon left in its journal.
    pub left: Vec<Row>,
    /// Facts of what was before the story.
    pub prepared: usize,
    pub kills: usize,
    spawned: SystemTime,
    pub resumed: Vec<Resumed>,
}

/// How long it took from the start of the next daemon.
#[derive(Debug, Clone, Copy)]
pub struct Resumed {
    /// Until the run that was under way was taken up, on disk.
    pub taken_up: Option<Duration>,
    /// Until it was ready to serve.
    pub ready: Duration,
}

impl Case {
    pub fn new(story: Story, places: &[String]) -> Self {
        let outage = site::outage();
        let before = site::model(&outage, story.undone());
        let daemon = site::daemon(&outage, story.armed(), &before);
        outage.mains(!story.armed());
        let mut case = Self {
            story,
            when: format!("{story:?} {places:?}"),
            places: VecDeque::new(),
            file: daemon.path("site.json"),
            daemon,
            outage,
            before,
            client: None,
            asked: Instant::now(),
            left: Vec::new(),
            prepared: 0,
            kills: 0,
            spawned: SystemTime::UNIX_EPOCH,
            resumed: Vec::new(),
        };
        if story.follows() {
            case.prepare();
        }
        case.places = places.iter().cloned().collect();
        case
    }

    /// The cluster is stopped as a person stops it.
    fn prepare(&mut self) {
        self.spawn();
        lab::until("ready", PATIENCE, || self.ready());
        let stopped = self.daemon.ctl(Story::Asked.words()).unwrap();
        assert_eq!(stopped.code, Some(0), "{stopped:?}\n{}", self.daemon.log());
        self.daemon.signal(Signal::SIGTERM).unwrap();
        assert!(self.daemon.wait(Duration::from_secs(20)).unwrap().success(), "{}", self.daemon.log());
        self.left = lab::facts_left(&self.daemon);
        self.prepared = self.left.len();
        if self.story != Story::StartUp {
            self.start_by_hand();
        }
    }

    /// Somebody starts the server and one of the agents without metis.
    fn start_by_hand(&self) {
        let mut model = site::read(&self.file);
        for (name, unit) in [(SERVER, "k3s.service"), (WORKERS[0], "k3s-agent.service")] {
            model.hosts.get_mut(name).unwrap().units.insert(unit.to_owned());
        }
        std::fs::write(&self.file, serde_json::to_vec(&model).unwrap()).unwrap();
        if self.story == Story::LeaseExpired {
            std::fs::write(self.daemon.path("offset"), LATER.to_string()).unwrap();
        }
    }

    /// Facts of the story so far.
    fn facts(&self) -> Vec<Row> {
        lab::facts_now(&self.daemon).into_iter().skip(self.prepared).collect()
    }

    /// From the first start until it is over; how it stands then.
    pub fn play(mut self) -> Ended {
        self.spawn();
        let until = Instant::now() + PATIENCE;
        while !self.over() {
            assert!(
                Instant::now() < until,
                "{}: not over within {PATIENCE:?}\n{:#?}\n{}",
                self.when,
                site::read(&self.file).log,
                self.daemon.log()
            );
            self.revive();
            self.nudge();
            std::thread::sleep(Duration::from_millis(30));
        }
        self.stop();
        if let Some(mut client) = self.client.take() {
            client.wait().unwrap();
        }
        let history = lab::facts_left(&self.daemon);
        let ended = Ended { history, model: site::read(&self.file), ill: self.daemon.log().contains("journal degraded"), case: self };
        if !ended.ill {
            ended.check();
        }
        ended
    }

    fn spawn(&mut self) {
        let file = self.file.to_str().unwrap().to_owned();
        let place = self.places.pop_front();
        let offset = self.daemon.path("offset");
        let mut environment = vec![("METIS_SIMULATE", file.as_str()), ("METIS_CLOCK_SYNCED", "1")];
        environment.push(("METIS_WALL_OFFSET", offset.to_str().unwrap()));
        environment.extend(place.as_deref().map(|place| ("METIS_FAILPOINT", place)));
        self.spawned = SystemTime::now();
        self.daemon.spawn(&environment).unwrap();
    }

    /// Where it died: what it left is looked at, and it runs again.
    fn revive(&mut self) {
        if let Ok(status) = self.daemon.wait(Duration::ZERO) {
            assert_eq!(status.signal(), Some(9), "{}: {status}\n{}", self.when, self.daemon.log());
            self.died();
            self.spawn();
        }
    }

    fn died(&mut self) {
        self.measure();
        self.kills += 1;
        let left = lab::facts_left(&self.daemon);
        lab::assert_intact(&self.left, &left, &self.when);
        self.left = left;
        let model = site::read(&self.file);
        let (changed, claimed) = (site::changed(&model, &self.before), site::claimed(&self.left));
        assert!(
            self.daemon.log().contains("journal degraded") || changed.is_subset(&claimed),
            "{}: the journal does not know of {:?}",
            self.when,
            changed.difference(&claimed).collect::<Vec<_>>()
        );
        if !model.hosts[THIS].on {
            assert!(self.left.iter().any(|fact| fact.kind == "run.ended"), "{}: off before the end was recorded", self.when);
        }
    }

    /// What the mains and people do.
    fn nudge(&mut self) {
        let site = site::read(&self.file);
        let held = site.log.iter().any(|act| act == &format!("stop k3s-agent.service {}", WORKERS[0]));
        match self.story {
            Story::Outage | Story::LeaseExpired => {}
            Story::MainsBack => {
                if held {
                    self.outage.mains(true);
                }
            }
            Story::Asked | Story::Cancelled | Story::StartUp | Story::LeaseRenewed | Story::LeaseReleased => {
                let facts = self.facts();
                let has = |kind: &str| facts.iter().any(|fact| fact.kind == kind);
                let idle = self.client.as_mut().is_none_or(|client| client.try_wait().unwrap().is_some());
                let asked = ["run.admitted", "lease.renewed", "run.released-claims"].into_iter().any(has);
                if idle && !asked {
                    self.ask(self.story.words());
                } else if self.story == Story::Cancelled && held && !has("run.cancel-requested") && self.asked.elapsed().as_millis() > 300 {
                    self.ask(&["run", "cancel", "last", "--execute"]);
                }
            }
        }
    }

    /// By the real client, which may find nobody, or lose him.
    fn ask(&mut self, arguments: &[&str]) {
        self.asked = Instant::now();
        if let Some(mut client) = self.client.take() {
            let _ = client.kill();
            client.wait().unwrap();
        }
        let mut command = self.daemon.ctl_command(arguments);
        self.client = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }

    /// Recorded, reported, and this host told to go where that was the plan.
    fn over(&self) -> bool {
        let facts = self.facts();
        let has = |kind: &str| facts.iter().any(|fact| fact.kind == kind);
        match self.story {
            Story::Outage => has("run.farewell-ordered") && self.report().is_some(),
            Story::MainsBack | Story::Asked | Story::Cancelled | Story::StartUp => has("run.ended") && self.report().is_some(),
            Story::LeaseRenewed => has("lease.renewed") && self.annotation_follows(),
            Story::LeaseReleased | Story::LeaseExpired => has("run.released-claims"),
        }
    }

    /// What stands on the node is what the journal says of its lease.
    fn annotation_follows(&self) -> bool {
        let renewed = self.facts().into_iter().rfind(|fact| fact.kind == "lease.renewed").map(|fact| fact.text("expires"));
        let renewed = renewed.map(|at| at.parse::<jiff::Timestamp>().unwrap());
        let mark = site::read(&self.file).nodes[WORKERS[0]].mark.clone();
        mark.and_then(|mark| mark.expires) == renewed
    }

    pub fn report(&self) -> Option<serde_json::Value> {
        let name = if self.story == Story::StartUp { "startup" } else { "shutdown" };
        let text = std::fs::read(self.daemon.path(&format!("state/last-{name}-report.json"))).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    /// In order, unless that is where it is killed.
    fn stop(&mut self) {
        loop {
            let until = Instant::now() + PATIENCE;
            let mut ended = None;
            while ended.is_none() && !self.ready() {
                assert!(Instant::now() < until, "{}: metisd was not ready within {PATIENCE:?}\n{}", self.when, self.daemon.log());
                ended = self.daemon.wait(Duration::from_millis(20)).ok();
            }
            let status = ended.unwrap_or_else(|| {
                self.daemon.signal(Signal::SIGTERM).unwrap();
                self.daemon.wait(Duration::from_secs(20)).unwrap()
            });
            if status.signal() == Some(9) {
                self.died();
                self.spawn();
                continue;
            }
            assert!(status.success(), "{}: {status}\n{}", self.when, self.daemon.log());
            return self.measure();
        }
    }

    /// One that was just started does not listen to SIGTERM yet.
    fn ready(&self) -> bool {
        ready_at(&self.daemon.log()).is_some_and(|at| at > self.spawned)
    }

    /// Times of the life that has just ended, where it followed another.
    fn measure(&mut self) {
        let log = self.daemon.log();
        let Some(ready) = ready_at(&log).filter(|at| *at > self.spawned && self.kills > 0) else { return };
        let after = |at: SystemTime| at.duration_since(self.spawned).unwrap_or_default();
        let (known, facts) = (self.left.len(), lab::facts_left(&self.daemon));
        let started = facts.iter().skip(known).find(|fact| fact.kind == "daemon.started").map(|fact| fact.at);
        let count = |kind: &str| self.left.iter().filter(|fact| fact.kind == kind).count();
        let under_way = count("run.admitted") > count("run.ended");
        let taken_up = started.filter(|_| under_way).map(|at| after(SystemTime::UNIX_EPOCH + Duration::from_nanos(at as u64)));
        self.resumed.push(Resumed { taken_up, ready: after(ready) });
    }
}

/// When metisd said so last.
fn ready_at(log: &str) -> Option<SystemTime> {
    let line = log.lines().rfind(|line| line.contains("ready on "))?;
    line.split_whitespace().next()?.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}
