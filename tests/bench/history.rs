//! A journal of a long life: what metis' own `decide` says of years of mains failures, burns and restarts, appended through its journal.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use jiff::Timestamp;
use metisd::card::device::{Device, Kind};
use metisd::card::plan::{CardOrder, Target, plan};
use metisd::control::{Adopted, Audit, Event, Fact, Order, Request, Stamp, State, apply, decide};
use metisd::journal::{self, Journal, Record, Retention};
use metisd::runbook::{Runbook, StepResult};
use metisd::site::{Arch, BootId, DomainName, ImageRef, MergedNode, NodeSettings, Now, OnTrigger, SettingsDigest, Step, UpsName, Verdict};

/// Facts per transaction; the daemon's own are smaller, which only takes longer.
const BATCH: usize = 200;
const UPSES: [&str; 2] = ["pyrphoros@localhost", "statera@tethys.lan"];
const NODES: [&str; 5] = ["titan-0a", "titan-13", "titan-15", "titan-22", "titan-jh"];

/// Writes `<dir>/journal.db` with at least `facts` facts; answers how many. `checkpoint_every`: as the daemon does; `None`: never.
///
/// # Errors
/// Where the journal cannot be written.
pub async fn write(dir: &Path, facts: u64, checkpoint_every: Option<u64>) -> Result<u64> {
    std::fs::create_dir_all(dir)?;
    let mut options = journal::Options::new(dir, dir.join("spill.jsonl"));
    options.deadline = Duration::from_secs(30);
    // Pruning behind a checkpoint would make the journal smaller than what is asked for.
    options.retention = Retention { runs: u32::MAX, ..Retention::default() };
    let mut life = Life { now: moment(), state: State::default(), records: Vec::new(), journal: None, checkpoint_every, since: 0 };
    life.journal = Some(journal::open(options, &life.now)?.journal);
    life.start().await?;
    let mut day = 0_u64;
    while life.state.facts < facts {
        day += 1;
        life.pass(Duration::from_hours(6));
        life.mains_failure(UPSES[day as usize % UPSES.len()], day.is_multiple_of(3)).await?;
        if day.is_multiple_of(2) {
            life.burn(NODES[day as usize % NODES.len()], !day.is_multiple_of(10)).await?;
        }
        if day.is_multiple_of(20) {
            life.restart().await?;
        }
    }
    life.flush().await?;
    if let Some(journal) = life.journal.take() {
        tokio::task::spawn_blocking(move || journal.close()).await?;
    }
    Ok(life.state.facts)
}

struct Life {
    now: Now,
    state: State,
    records: Vec<Record>,
    journal: Option<Journal>,
    checkpoint_every: Option<u64>,
    since: u64,
}

impl Life {
    fn pass(&mut self, time: Duration) {
        self.now.wall += jiff::SignedDuration::try_from(time).unwrap_or_default();
        self.now.boot += time;
    }

    /// As the mailbox does, but for the orders: they are answered to the caller.
    async fn feed(&mut self, event: Event) -> Result<Vec<Order>> {
        self.pass(Duration::from_millis(700));
        let decision = decide(&self.state, &event, &self.now);
        for fact in &decision.facts {
            let stamp = Stamp { seq: self.state.last_seq + 1, now: self.now.clone() };
            apply(&mut self.state, fact, &stamp);
            self.records.push(Fact::record(fact)?);
        }
        if self.records.len() >= BATCH {
            self.flush().await?;
        }
        Ok(decision.orders)
    }

    async fn flush(&mut self) -> Result<()> {
        let Some(journal) = &self.journal else { bail!("the journal is closed") };
        if self.records.is_empty() {
            return Ok(());
        }
        self.since += self.records.len() as u64;
        let last = journal.append(std::mem::take(&mut self.records), &self.now).await?;
        if last != self.state.last_seq {
            bail!("the journal numbered its facts up to {last}, the state up to {}", self.state.last_seq);
        }
        if self.checkpoint_every.is_some_and(|every| self.since >= every) {
            self.since = 0;
            journal.checkpoint(self.state.last_seq, serde_json::to_string(&self.state)?, &self.now).await?;
        }
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        let settings = Adopted {
            digest: SettingsDigest::new("5d41402a"),
            files: vec!["/etc/metis/metis.yaml".into()],
            on_trigger: OnTrigger::Observe,
            on_boot: metisd::site::OnBoot::Never,
        };
        self.feed(Event::Recovered { version: "0.1.0".into(), settings, rejected: Vec::new() }).await?;
        Ok(())
    }

    async fn restart(&mut self) -> Result<()> {
        self.feed(Event::Asked(Request::Stop)).await?;
        self.pass(Duration::from_secs(2));
        self.start().await
    }

    async fn mains_failure(&mut self, ups: &str, long: bool) -> Result<()> {
        let (name, domain) = (UpsName::from(ups), DomainName::from(ups.split('@').next().unwrap_or(ups)));
        let mut judge = vec![(Verdict::OnBattery, "on battery, 100 % charge, 3600 s of runtime are left")];
        if long {
            judge.push((Verdict::Critical, "the UPS says LB"));
        }
        judge.push((Verdict::Online, "on line for 3 polls"));
        for (verdict, reason) in judge {
            self.feed(Event::UpsVerdict { ups: name.clone(), verdict, reason: reason.into() }).await?;
            self.feed(Event::DomainVerdict { domain: domain.clone(), verdict, reason: format!("{ups}: {reason}") }).await?;
            let (domain, because) = (domain.clone(), format!("{ups}: {reason}"));
            if verdict == Verdict::Critical {
                let (budget, runtime) = (Duration::from_mins(5), Some(Duration::from_secs(310)));
                self.feed(Event::Trigger { domain, because, budget, runtime }).await?;
            } else {
                self.feed(Event::TriggerGone { domain, because }).await?;
            }
        }
        Ok(())
    }

    async fn burn(&mut self, node: &str, succeeds: bool) -> Result<()> {
        let target = format!("{node} to /dev/sdz");
        let audit = Audit { uid: 1000, role: "maintenance".into(), method: "Card.Burn".into(), target, allowed: true };
        self.feed(Event::Asked(Request::Audit(audit))).await?;
        let request = Request::admit("erika (uid 1000)", runbook(node));
        let mut orders = self.feed(Event::Asked(request)).await?;
        while let Some(Order::Start { run, step, attempt, .. }) = orders.into_iter().find(|order| matches!(order, Order::Start { .. })) {
            let writes = step.as_str() == "card.write";
            self.pass(Duration::from_secs(if writes { 90 } else { 3 }));
            if writes {
                for message in ["writing 1.83 GB of 4.29 GB", "written and synced", "read back: equal", "partition table written"] {
                    self.feed(Event::Milestone { run: run.clone(), step: step.clone(), message: message.into() }).await?;
                }
            }
            let result = if writes && !succeeds {
                StepResult::Failed { detail: "reading back at 1073741824: Input/output error (os error 5)".into(), permanent: false }
            } else {
                StepResult::Done { detail: String::new() }
            };
            orders = self.feed(Event::StepFinished { run, step, attempt, result }).await?;
        }
        Ok(())
    }
}

fn runbook(node: &str) -> Runbook<Step> {
    let image = ImageRef { url: "https://images.lan/rpi5-ubuntu-24.04.img.xz".into(), sha256: "a1".repeat(32), content_sha256: None };
    let node = MergedNode {
        name: node.into(),
        hostname: node.to_owned(),
        class: "rpi5-ubuntu".into(),
        arch: Arch::Arm64,
        image: Some(image.clone()),
        settings: NodeSettings::default(),
    };
    let order = CardOrder { node, image: Some(image), cached_size: Some(4_294_967_296), no_inject: false, warnings: Vec::new() };
    let device = Device {
        kind: Kind::Disk,
        path: "/dev/sdz".into(),
        size: 32_000_000_000,
        sector_size: 512,
        transport: "usb",
        removable: true,
        ..Device::default()
    };
    plan(&order, &Target::Device { device: Box::new(device), allow_fixed: false })
}

fn moment() -> Now {
    let wall = Timestamp::from_second(1_760_000_000).unwrap_or_default();
    Now { wall, boot: Duration::from_secs(60), boot_id: BootId::new("3f7a2c5e-0000-4000-8000-000000000001"), synced: true }
}
