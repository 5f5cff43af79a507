//! metis' NUT client, monitor and policy against a real upsd, and its simulated upsd against real clients.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, reason = "a test; figures are shown, not asserted")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metis_tests::nut::{Certificates, Nut, available};
use metis_tests::require;
use metisd::host::clock::Clock;
use metisd::power::masters::{self, Evidence};
use metisd::power::nut::{Conn, ErrCode, Held, Holding, Monitor, NutError};
use metisd::power::port::Primary as _;
use metisd::power::{Change, LinkError, NutPrimary, Observation, Settings, Thresholds, TlsSettings, UpsSettings, Watch};
use metisd::sim::{Battery, BatteryModel, Fault, NutServer, SimulatedUps};
use metisd::site::{OnTrigger, PowerDomain, Secret, SecretRef, UpsName, Verdict};
use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const WITHIN: Duration = Duration::from_secs(2);
/// Quotes, a backslash, a space, and what NUT's parser trips over.
const PASSWORD: &str = r#"p w$1'x"y\z#=;"#;
const USERS: &str = r#"
[primary]
 password = "p w$1'x\"y\\z\#=;"
 upsmon primary
 actions = SET
 instcmds = ALL
[secondary]
 password = plain
 upsmon secondary
"#;

fn settings(names: &[String]) -> Settings {
    let names: BTreeSet<UpsName> = names.iter().map(|name| UpsName::from(name.as_str())).collect();
    Settings {
        on_trigger: OnTrigger::Observe,
        poll_interval: Duration::from_millis(500),
        read_timeout: WITHIN,
        thresholds: Thresholds {
            runtime_safety_factor: 1.1,
            charge_floor: 20.0,
            max_on_battery: None,
            debounce_polls: 3,
            comm_lost_after: Duration::from_secs(15),
            off_after: Duration::from_secs(30),
        },
        shutdown_budget: Duration::from_mins(5),
        cut_outlets: false,
        prepared_within: None,
        predecessors: Vec::new(),
        budgets: std::collections::BTreeMap::new(),
        upses: names.iter().map(|name| UpsSettings { name: name.clone(), username: None, password: None, tls: None }).collect(),
        domains: vec![PowerDomain { name: "site".into(), upses: names, nodes: BTreeSet::new() }],
    }
}

/// A monitor and a policy behind it, as the daemon wires them.
struct Watching {
    settings: Settings,
    watch: Watch,
    clock: Clock,
    seen: mpsc::Receiver<Observation>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    changes: Vec<Change>,
    history: Vec<Observation>,
}

impl Watching {
    fn start(settings: Settings, passwords: &BTreeMap<UpsName, Secret>) -> Self {
        Self::holding(settings, passwords, &Holding::default())
    }

    fn holding(settings: Settings, passwords: &BTreeMap<UpsName, Secret>, holding: &Holding) -> Self {
        let (out, seen) = mpsc::channel(64);
        let stop = CancellationToken::new();
        let monitor = Monitor::new(&settings, passwords, holding).unwrap();
        let ended = stop.clone();
        let task = tokio::spawn(async move { monitor.run(out, ended).await.unwrap() });
        let clock = Clock::new().unwrap();
        let watch = Watch::new(&settings, &clock.now());
        Self { settings, watch, clock, seen, stop, task, changes: Vec::new(), history: Vec::new() }
    }

    async fn next(&mut self) -> Observation {
        let observation =
            timeout(Duration::from_secs(30), self.seen.recv()).await.expect("no observation for 30 s").expect("monitor ended");
        let now = self.clock.now();
        self.changes.extend(self.watch.observe(&self.settings, &observation, &now));
        self.history.push(observation.clone());
        observation
    }

    /// The first observation that fits, and how long it took.
    async fn until(&mut self, what: &str, fits: impl Fn(&Observation) -> bool) -> Observation {
        let begun = Instant::now();
        loop {
            let observation = self.next().await;
            if fits(&observation) {
                println!("{what}: after {:.1} s", begun.elapsed().as_secs_f64());
                return observation;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{what}: not seen, last was {observation:?}");
        }
    }

    async fn for_a_while(&mut self, duration: Duration) {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            self.next().await;
        }
    }

    fn verdict(&self) -> Verdict {
        self.watch.snapshot(&self.settings, &self.clock.now()).domains[0].verdict
    }

    async fn end(self) {
        self.stop.cancel();
        drop(self.seen);
        timeout(Duration::from_secs(5), self.task).await.expect("the monitor does not end").unwrap();
    }
}

fn says(token: &str) -> impl Fn(&Observation) -> bool {
    move |observation| observation.result.as_ref().is_ok_and(|reading| reading.status.contains(token))
}

fn fails_with(error: LinkError) -> impl Fn(&Observation) -> bool {
    move |observation| observation.result.as_ref() == Err(&error)
}

async fn connect(nut: &Nut) -> Conn {
    Conn::connect("127.0.0.1", nut.port, WITHIN).await.unwrap()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, NutError>) -> ErrCode {
    match result {
        Err(NutError::Refused { code, .. }) => code,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn an_outage_is_seen_and_judged_from_on_line_to_low_battery_and_back() {
    if !available("outage") {
        return;
    }
    let nut = Nut::start(&["ups"], USERS, "").unwrap();
    let mut watching = Watching::start(settings(&[nut.name("ups")]), &BTreeMap::new());
    // Each is held for longer than the driver's poll (1 s) and ours (0.5 s).
    let hold = Duration::from_secs(4);
    watching.until("on line", says("OL")).await;
    for (status, runtime) in [("OB DISCHRG", "1800"), ("OB DISCHRG LB", "1700"), ("OL CHRG", "1700")] {
        nut.set("ups", &[("ups.status", status), ("battery.runtime", runtime)]).unwrap();
        watching.for_a_while(hold).await;
    }
    let mut statuses: Vec<String> =
        watching.history.iter().map(|o| o.result.as_ref().unwrap().status.iter().cloned().collect::<Vec<_>>().join(" ")).collect();
    statuses.dedup();
    assert_eq!(statuses, ["OL", "DISCHRG OB", "DISCHRG LB OB", "CHRG OL"]);
    let story: Vec<String> = watching.changes.iter().map(short).collect();
    assert_eq!(
        story,
        [
            "ups Online",
            "domain Online",
            "ups OnBattery",
            "domain OnBattery",
            "ups Critical",
            "domain Critical",
            "TRIGGER",
            "ups Online",
            "domain Online",
            "CLEARED",
        ]
    );
    watching.end().await;
}

fn short(change: &Change) -> String {
    match change {
        Change::Ups { to, .. } => format!("ups {to:?}"),
        Change::Domain { to, .. } => format!("domain {to:?}"),
        Change::FsdLatched { .. } => "FSD latched".to_owned(),
        Change::Trigger { .. } => "TRIGGER".to_owned(),
        Change::TriggerCleared { .. } => "CLEARED".to_owned(),
    }
}

#[tokio::test]
async fn a_frozen_and_a_killed_driver_are_told_apart_and_hide_no_other_ups() {
    if !available("drivers") {
        return;
    }
    let mut nut = Nut::start(&["a", "b"], USERS, "").unwrap();
    let mut watching = Watching::start(settings(&[nut.name("a"), nut.name("b")]), &BTreeMap::new());
    let of_a = UpsName::from(nut.name("a"));
    let a = |fits: Box<dyn Fn(&Observation) -> bool>| {
        let name = of_a.clone();
        move |o: &Observation| o.ups == name && fits(o)
    };
    watching.until("a on line", a(Box::new(says("OL")))).await;

    nut.signal_driver("a", Signal::SIGSTOP).unwrap();
    watching.until("a DATA-STALE", a(Box::new(fails_with(LinkError::DataStale)))).await;
    nut.signal_driver("a", Signal::SIGCONT).unwrap();
    watching.until("a well again", a(Box::new(says("OL")))).await;

    nut.kill_driver("a");
    watching.until("a DRIVER-NOT-CONNECTED", a(Box::new(fails_with(LinkError::DriverNotConnected)))).await;
    nut.start_driver("a").unwrap();
    watching.until("a back", a(Box::new(says("OL")))).await;

    let others: Vec<&Observation> = watching.history.iter().filter(|o| o.ups != of_a).collect();
    assert!(others.len() > 5 && others.iter().all(|o| says("OL")(o)), "b was always heard: {others:?}");
    assert!(!watching.history.iter().any(|o| matches!(o.result, Err(LinkError::Unreachable(_)))), "the connection was kept");
    assert_eq!(watching.verdict(), Verdict::Online);
    watching.end().await;
}

#[tokio::test]
async fn upsd_killed_in_the_middle_of_a_read_is_found_again() {
    if !available("restart") {
        return;
    }
    let mut nut = Nut::start(&["ups"], USERS, "").unwrap();
    let mut watching = Watching::start(settings(&[nut.name("ups")]), &BTreeMap::new());
    watching.until("on line", says("OL")).await;
    // Frozen first: the next request is written, its answer is being read when upsd dies.
    nut.signal_upsd(Signal::SIGSTOP).unwrap();
    tokio::time::sleep(Duration::from_millis(800)).await;
    nut.kill_upsd();
    // A dummy-ups aborts when upsd goes (NUT 2.8.0).
    nut.kill_driver("ups");
    let lost = watching.until("lost", |o| o.result.is_err()).await;
    let Err(LinkError::Unreachable(text)) = &lost.result else { panic!("{lost:?}") };
    assert!(text.contains("closed the connection") || text.contains("reset"), "{text}");
    watching.until("refused", |o| o.result.as_ref().is_err_and(|error| error.to_string().contains("cannot connect"))).await;
    nut.start_driver("ups").unwrap();
    nut.start_upsd().unwrap();
    watching.until("found again", says("OL")).await;
    assert_eq!(watching.verdict(), Verdict::Online);

    // And one that is only frozen: the deadline ends the wait.
    nut.signal_upsd(Signal::SIGSTOP).unwrap();
    watching.until("silent", |o| o.result.as_ref().is_err_and(|error| error.to_string().contains("did not answer"))).await;
    nut.signal_upsd(Signal::SIGCONT).unwrap();
    watching.until("awake", says("OL")).await;
    watching.end().await;
}

#[tokio::test]
async fn credentials_are_tried_and_a_wrong_one_is_said_without_losing_readings() {
    if !available("credentials") {
        return;
    }
    let nut = Nut::start(&["ups"], USERS, "").unwrap();
    let name = UpsName::from(nut.name("ups"));
    for (password, problem) in [
        (Some("wrong"), Some("login as primary was refused: ACCESS-DENIED")),
        (Some(PASSWORD), None),
        (Some("no\u{7}bell"), Some("login as primary: the password cannot be sent to upsd: control characters cannot be sent to upsd")),
        (None, Some("login as primary was not tried: its password could not be read")),
    ] {
        let mut settings = settings(&[nut.name("ups")]);
        settings.upses[0].username = Some("primary".to_owned());
        let passwords = password.map(|text| (name.clone(), Secret::new(text.as_bytes()))).into_iter().collect();
        let mut watching = Watching::start(settings, &passwords);
        for _ in 0..4 {
            assert!(says("OL")(&watching.next().await), "{password:?}");
        }
        assert_eq!(watching.history[3].login_problem.as_deref(), problem, "{password:?}");
        let link = &watching.watch.snapshot(&watching.settings, &watching.clock.now()).upses[0].link;
        assert_eq!(*link, problem.map_or("connected".to_owned(), |problem| format!("connected; {problem}")));
        assert_eq!(connect(&nut).await.num_logins("ups").await.unwrap(), 0, "no LOGIN is held");
        watching.end().await;
    }
}

#[tokio::test]
async fn every_request_and_its_refusals() {
    if !available("requests") {
        return;
    }
    let nut = Nut::start(&["ups"], USERS, "").unwrap();
    nut.set("ups", &[("ups.status", "OL"), ("ups.id", "first")]).unwrap();
    let mut conn = connect(&nut).await;
    assert!(conn.version().await.unwrap().starts_with("Network UPS Tools upsd 2."));
    assert_eq!(conn.protocol_version().await.unwrap(), "1.3");
    let upses = conn.list_ups().await.unwrap();
    assert_eq!((upses[0].name.as_str(), upses[0].description.as_str()), ("ups", "UPS \"ups\""));
    assert_eq!(conn.get_var("ups", "ups.status").await.unwrap(), "OL");
    assert!(conn.list_commands("ups").await.unwrap().contains(&"load.off".to_owned()));
    assert_eq!(conn.list_clients("ups").await.unwrap(), Vec::<String>::new());

    assert_eq!(refused(conn.list_vars("none").await), ErrCode::UnknownUps);
    assert_eq!(refused(conn.get_var("ups", "no.such").await), ErrCode::VarNotSupported);
    assert_eq!(refused(conn.login("ups").await), ErrCode::UsernameRequired);
    assert_eq!(refused(conn.set_var("ups", "ups.id", "x").await), ErrCode::UsernameRequired);
    let tls = TlsSettings { ca_file: "/nonexistent".into(), server_name: None };
    assert_eq!(refused(connect(&nut).await.starttls(&tls, "127.0.0.1").await.map(drop)), ErrCode::FeatureNotConfigured);

    conn.credentials("primary", &Secret::new(format!("{PASSWORD}\n"))).await.unwrap();
    assert_eq!(refused(conn.credentials("again", &Secret::new(*b"x")).await), ErrCode::AlreadySetUsername);
    conn.login("ups").await.unwrap();
    assert_eq!(refused(conn.login("ups").await), ErrCode::AlreadyLoggedIn);
    assert_eq!(conn.num_logins("ups").await.unwrap(), 1);
    assert_eq!(conn.list_clients("ups").await.unwrap(), ["127.0.0.1"]);
    assert_eq!(refused(conn.set_var("ups", "no.such", "1").await), ErrCode::VarNotSupported);
    assert_eq!(refused(conn.instant_command("ups", "no.such", None).await), ErrCode::CmdNotSupported);
    conn.instant_command("ups", "load.off", None).await.unwrap();
    conn.logout().await.unwrap();
}

#[tokio::test]
async fn quotes_and_escapes_survive_in_both_directions() {
    if !available("escapes") {
        return;
    }
    let mut nut = Nut::start(&["ups"], USERS, "").unwrap();
    // Left: as NUT's parser wants it in the file. upsd 2.8.0 says these with \", \\ and \#.
    let values = [
        ("ups.serial", r#""two words \" \\ \= \# end""#, r#"two words " \ = # end"#),
        ("ups.id", r#"a\"b c"#, r#"a"b c"#),
        ("ups.mfr", r"h\#x\=y\\z", r"h#x=y\z"),
    ];
    let in_file: Vec<(&str, &str)> = values.iter().map(|(name, text, _)| (*name, *text)).chain([("ups.status", "OB")]).collect();
    nut.set("ups", &in_file).unwrap();
    // A driver of 2.8.0 escapes what it tells an upsd that connects, not what changes later: so upsd comes after it has read the file.
    nut.kill_upsd();
    nut.kill_driver("ups");
    nut.start_driver("ups").unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    nut.start_upsd().unwrap();
    let mut conn = connect(&nut).await;
    let begun = Instant::now();
    while conn.get_var("ups", "ups.status").await.unwrap() != "OB" {
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", conn.list_vars("ups").await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let vars = conn.list_vars("ups").await.unwrap();
    for (name, _, value) in values {
        assert_eq!((vars[name].as_str(), conn.get_var("ups", name).await.unwrap().as_str()), (value, value), "{name}");
    }

    // The other way upsd's log tells what it understood; upsd 2.8.0 itself breaks some of these on their way to the driver.
    conn.credentials("primary", &Secret::new(PASSWORD.as_bytes())).await.unwrap();
    for value in ["two words", r#"say "hi""#, r"back\slash", "a=b", "hash # tag", "semi;colon", "'single'"] {
        conn.set_var("ups", "ups.status", value).await.unwrap();
        let understood = format!("Set variable: primary@127.0.0.1 set ups.status on ups to {value} (");
        assert!(nut.log("upsd.log").contains(&understood), "{understood}: {}", nut.log("upsd.log"));
    }
}

#[tokio::test]
async fn only_a_primary_forces_a_shutdown_and_it_is_acted_on_at_once() {
    if !available("FSD") {
        return;
    }
    let nut = Nut::start(&["ups"], USERS, "").unwrap();
    let mut watching = Watching::start(settings(&[nut.name("ups")]), &BTreeMap::new());
    watching.until("on line", says("OL")).await;
    let mut secondary = connect(&nut).await;
    secondary.credentials("secondary", &Secret::new(*b"plain")).await.unwrap();
    assert_eq!(refused(secondary.primary("ups").await), ErrCode::AccessDenied);
    assert_eq!(refused(secondary.forced_shutdown("ups").await), ErrCode::AccessDenied);
    let mut primary = connect(&nut).await;
    primary.credentials("primary", &Secret::new(PASSWORD.as_bytes())).await.unwrap();
    primary.primary("ups").await.unwrap();
    primary.forced_shutdown("ups").await.unwrap();
    watching.until("FSD", says("FSD")).await;
    assert_eq!(watching.verdict(), Verdict::Critical);
    assert!(watching.changes.iter().any(|change| short(change) == "TRIGGER"));
    watching.end().await;

    // A daemon that starts now finds it latched: shown, not acted on.
    let mut watching = Watching::start(settings(&[nut.name("ups")]), &BTreeMap::new());
    watching.for_a_while(Duration::from_secs(2)).await;
    let stories: Vec<String> = watching.changes.iter().map(short).collect();
    assert_eq!(stories, ["FSD latched", "ups Online", "domain Online"]);
    watching.end().await;
}

fn primary(nut: &Nut, user: &str, password: &str, tls: Option<TlsSettings>, held: &Held) -> NutPrimary {
    let password = Secret::new(password.as_bytes());
    let reference = SecretRef::Credential("nut".to_owned());
    let settings = UpsSettings { name: nut.name("ups").into(), username: Some(user.to_owned()), password: Some(reference), tls };
    NutPrimary::new(&[settings], Arc::new(move |_: &SecretRef| Ok(password.clone())), held.clone())
}

#[tokio::test]
async fn the_primary_counts_secondaries_sets_fsd_and_tests_itself_without() {
    if !available("primary") {
        return;
    }
    let nut = Nut::start(&["ups"], USERS, "").unwrap();
    let ups = UpsName::from(nut.name("ups"));
    let held = Held::default();
    let ours = primary(&nut, "primary", PASSWORD, None, &held);
    for (user, password) in [("primary", "wrong"), ("secondary", "plain"), ("nobody", "x")] {
        let error = primary(&nut, user, password, None, &held).check(&ups, WITHIN).await.unwrap_err();
        assert!(error.contains("upsd refused PRIMARY: ACCESS-DENIED") && error.contains(&format!("the section [{user}] needs")), "{error}");
        assert!(primary(&nut, user, password, None, &held).set_fsd(&ups, WITHIN).await.is_err());
    }
    ours.check(&ups, WITHIN).await.unwrap();
    let mut reader = connect(&nut).await;
    assert_eq!(reader.get_var("ups", "ups.status").await.unwrap(), "OL", "testing credentials sets nothing");

    // This daemon's own login, as it holds one when armed, and that of a secondary.
    let mut settings = settings(&[nut.name("ups")]);
    settings.upses[0].username = Some("primary".to_owned());
    let passwords = BTreeMap::from([(ups.clone(), Secret::new(PASSWORD.as_bytes()))]);
    let holding = Holding { upses: BTreeSet::from([ups.clone()]), held: held.clone() };
    let mut watching = Watching::holding(settings, &passwords, &holding);
    watching.for_a_while(Duration::from_secs(2)).await;
    assert_eq!((held.count(&ups), reader.num_logins("ups").await.unwrap()), (1, 1));
    let mut secondary = connect(&nut).await;
    secondary.credentials("secondary", &Secret::new(*b"plain")).await.unwrap();
    secondary.login("ups").await.unwrap();
    assert_eq!(ours.secondaries(&ups, WITHIN).await, Ok(1));
    assert_eq!(ours.clients(&ups, WITHIN).await.unwrap(), (vec!["127.0.0.1".to_owned(); 2], 1));

    ours.set_fsd(&ups, WITHIN).await.unwrap();
    watching.until("our FSD", says("FSD")).await;
    assert_eq!(watching.verdict(), Verdict::Critical);
    secondary.logout().await.unwrap();
    assert_eq!(ours.secondaries(&ups, WITHIN).await, Ok(0));
    assert!(watching.history.iter().all(|o| o.login_problem.is_none() && o.result.is_ok()), "{:?}", watching.history);
    watching.end().await;
    assert_eq!((held.count(&ups), reader.num_logins("ups").await.unwrap()), (0, 0));
}

#[tokio::test]
async fn a_real_upsmon_is_guarded_against_and_its_fsd_heard() {
    if !available("upsmon") || !require::root("upsmon") || !require::programs("upsmon", &["/lib/nut/upsmon", "unshare"]) {
        return;
    }
    let users = "[primary]\n password = pw\n upsmon primary\n";
    let mut nut = Nut::start(&["ups"], users, "").unwrap();
    let ups = UpsName::from(nut.name("ups"));
    let settings = settings(&[nut.name("ups")]);
    let mut watching = Watching::start(settings.clone(), &BTreeMap::new());
    watching.until("on line", says("OL")).await;
    let metis = NutPrimary::new(&settings.upses, Arc::new(|_: &SecretRef| Err("not needed".to_owned())), Held::default());
    let names = |evidence: &Evidence| masters::guards(&settings, evidence).into_iter().map(|guard| guard.name).collect::<Vec<_>>();
    assert_eq!(names(&Evidence::read(nut.dir())), Vec::<String>::new());

    let flag = nut.dir().join("killpower");
    let conf = format!(
        "MONITOR {ups} 1 primary pw primary\nMINSUPPLIES 1\nSHUTDOWNCMD \"true\"\nPOLLFREQ 1\nPOLLFREQALERT 1\nHOSTSYNC 1\nFINALDELAY 0\n\
         POWERDOWNFLAG \"{}\"\n",
        flag.display()
    );
    nut.start_upsmon(&conf).unwrap();
    let begun = Instant::now();
    let clients = loop {
        let clients = metis.clients(&ups, WITHIN).await.unwrap();
        if !clients.0.is_empty() {
            break clients;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "upsmon does not log in: {}", nut.log("upsmon.log"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let mut evidence = Evidence::read(nut.dir());
    evidence.active.insert(masters::UPSMON_UNIT.to_owned());
    evidence.clients.insert(ups.clone(), clients);
    assert_eq!(names(&evidence), ["power.upsmon", "power.login"]);

    nut.upsmon_fsd().unwrap();
    watching.until("upsmon's FSD", says("FSD")).await;
    assert_eq!(watching.verdict(), Verdict::Critical);
    assert_eq!(watching.changes.iter().map(short).filter(|change| change == "TRIGGER").count(), 1);
    watching.until("upsmon has gone", |_| flag.exists()).await;
    assert!(names(&Evidence::read(nut.dir())).contains(&"power.powerdownflag".to_owned()));
    watching.end().await;
}

#[tokio::test]
async fn a_login_is_held_again_after_upsd_was_restarted() {
    if !available("held login") {
        return;
    }
    let mut nut = Nut::start(&["ups", "other"], USERS, "").unwrap();
    let ups = UpsName::from(nut.name("ups"));
    let mut settings = settings(&[nut.name("ups"), nut.name("other")]);
    settings.upses[1].username = Some("primary".to_owned());
    assert_eq!(settings.upses[1].name, ups);
    let passwords = BTreeMap::from([(ups.clone(), Secret::new(PASSWORD.as_bytes()))]);
    let holding = Holding { upses: BTreeSet::from([ups.clone(), UpsName::from(nut.name("other"))]), held: Held::default() };
    let mut watching = Watching::holding(settings, &passwords, &holding);
    let logins = async |nut: &Nut, ups: &str| connect(nut).await.num_logins(ups).await.unwrap();
    watching.for_a_while(Duration::from_secs(2)).await;
    assert_eq!((logins(&nut, "ups").await, logins(&nut, "other").await), (1, 0), "one without credentials is not logged in to");
    nut.kill_upsd();
    for name in ["ups", "other"] {
        nut.kill_driver(name);
    }
    watching.until("lost", |o| o.ups == ups && o.result.is_err()).await;
    assert_eq!(holding.held.count(&ups), 0);
    for name in ["ups", "other"] {
        nut.start_driver(name).unwrap();
    }
    nut.start_upsd().unwrap();
    watching.until("found again", |o| o.ups == ups && says("OL")(o)).await;
    watching.for_a_while(Duration::from_secs(2)).await;
    assert_eq!((logins(&nut, "ups").await, holding.held.count(&ups)), (1, 1));
    watching.end().await;
}

#[tokio::test]
async fn starttls_with_an_own_ca_and_with_no_other() {
    if !available("STARTTLS") || !require::programs("STARTTLS", &["openssl", "certutil", "pk12util"]) {
        return;
    }
    let certificates = Certificates::make().unwrap();
    let nut = Nut::start(&["ups"], USERS, &certificates.upsd_conf()).unwrap();
    let with = |ca_file, server_name: Option<&str>| TlsSettings { ca_file, server_name: server_name.map(str::to_owned) };
    let cases = [
        (with(certificates.ca(), None), None),
        (with(certificates.ca(), Some("upsd.test")), None),
        (with(certificates.ca(), Some("elsewhere.test")), Some("not valid for")),
        (with(certificates.other_ca(), None), Some("UnknownIssuer")),
        (with("/nonexistent/ca.pem".into(), None), Some("cannot read tls.ca_file /nonexistent/ca.pem")),
        (with("/dev/null".into(), None), Some("holds no PEM certificate")),
    ];
    for (tls, problem) in cases {
        let mut settings = settings(&[nut.name("ups")]);
        settings.upses[0].tls = Some(tls.clone());
        settings.upses[0].username = Some("primary".to_owned());
        let passwords = BTreeMap::from([(UpsName::from(nut.name("ups")), Secret::new(PASSWORD.as_bytes()))]);
        let mut watching = Watching::start(settings, &passwords);
        let (first, second) = (watching.next().await, watching.next().await);
        match problem {
            None => {
                assert!(says("OL")(&first) && says("OL")(&second) && second.login_problem.is_none(), "{tls:?}: {second:?}");
                let primary = primary(&nut, "primary", PASSWORD, Some(tls.clone()), &Held::default());
                primary.check(&nut.name("ups").into(), WITHIN).await.unwrap();
            }
            Some(text) => {
                let error = first.result.unwrap_err().to_string();
                assert!(error.contains("no TLS with upsd") && error.contains(text), "{tls:?}: {error}");
                let primary = primary(&nut, "primary", PASSWORD, Some(tls.clone()), &Held::default());
                let error = primary.check(&nut.name("ups").into(), WITHIN).await.unwrap_err();
                assert!(error.contains(text), "{tls:?}: {error}");
            }
        }
        watching.end().await;
    }
}

#[tokio::test]
async fn a_second_reader_reads_the_same() {
    if !available("second reader") {
        return;
    }
    let nut = Nut::start(&["ups"], USERS, "").unwrap();
    nut.set("ups", &[("ups.status", "OB DISCHRG"), ("battery.charge", "71"), ("device.model", "Model 5 (230 V)")]).unwrap();
    let mut conn = connect(&nut).await;
    let begun = Instant::now();
    while conn.get_var("ups", "ups.status").await.unwrap() != "OB DISCHRG" {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let ours = conn.list_vars("ups").await.unwrap();
    let commands: BTreeSet<String> = conn.list_commands("ups").await.unwrap().into_iter().collect();
    let port = nut.port;
    let (theirs, their_commands) = tokio::task::spawn_blocking(move || {
        let host = nut_client::Host::try_from(("127.0.0.1".to_owned(), port)).unwrap();
        let config = nut_client::ConfigBuilder::new().with_host(host).with_timeout(WITHIN).build();
        let mut reader = nut_client::blocking::Connection::new(&config).unwrap();
        let vars: BTreeMap<String, String> =
            reader.list_vars("ups").unwrap().into_iter().map(|var| (var.name().to_owned(), var.value())).collect();
        (vars, reader.list_commands("ups").unwrap().into_iter().collect::<BTreeSet<_>>())
    })
    .await
    .unwrap();
    assert_eq!(ours, theirs);
    assert_eq!(commands, their_commands);
    assert_eq!((ours["battery.charge"].as_str(), ours["device.model"].as_str()), ("71", "Model 5 (230 V)"));
}

#[tokio::test]
async fn a_site_without_ups_is_watched_until_told_to_stop() {
    let watching = Watching::start(settings(&[]), &BTreeMap::new());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!watching.task.is_finished());
    watching.end().await;
}

/// Full for 30 min; LB at 3 min.
const MODEL: BatteryModel = BatteryModel { capacity_wh: 150.0, load_w: 300.0, rated_w: 900.0, charger_w: 100.0, low_percent: 10.0 };

async fn simulated(speed: f64) -> NutServer {
    let upses = ["pyrphoros", "statera"].map(|name| SimulatedUps { name: name.to_owned(), battery: Battery::new(MODEL) });
    let users = [("primary", PASSWORD), ("person", "plain")].map(|(user, password)| (user.to_owned(), password.to_owned())).into();
    NutServer::start(upses.into(), users, speed).await.unwrap()
}

#[tokio::test]
async fn a_simulated_outage_triggers_when_the_runtime_is_short_and_mains_clear_it() {
    // A minute a second: 30 min of battery, of which 5.5 are needed, are gone in some 25 s.
    let server = simulated(60.0).await;
    let name = format!("pyrphoros@{}", server.address());
    let mut settings = settings(std::slice::from_ref(&name));
    settings.poll_interval = Duration::from_millis(200);
    settings.thresholds.charge_floor = 5.0;
    settings.upses[0].username = Some("primary".to_owned());
    let passwords = BTreeMap::from([(UpsName::from(name.as_str()), Secret::new(PASSWORD.as_bytes()))]);
    let mut watching = Watching::start(settings, &passwords);
    watching.until("on line", says("OL")).await;
    server.set_mains("pyrphoros", false);
    let begun = Instant::now();
    watching.until("on battery", says("OB")).await;
    watching.for_a_while(Duration::from_secs(12)).await;
    let now = watching.clock.now();
    let predicted = watching.watch.snapshot(&watching.settings, &now).domains[0].would_trigger.expect("an estimate");
    while !watching.changes.iter().any(|change| matches!(change, Change::Trigger { .. })) {
        watching.next().await;
        assert!(begun.elapsed() < Duration::from_secs(60), "no trigger");
    }
    let trigger = watching.watch.snapshot(&watching.settings, &watching.clock.now()).domains[0].trigger.clone().expect("a trigger");
    println!("{}", trigger.disarmed_message(&jiff::tz::TimeZone::UTC));
    assert!(trigger.because.contains("330 s are needed (1.10 x 300 s budget)"), "{}", trigger.because);
    let off = trigger.at.duration_since(predicted).as_secs_f64();
    println!("predicted within {off:.1} s");
    assert!(off.abs() < 5.0, "the estimate was wrong by {off} s");
    server.set_mains("pyrphoros", true);
    watching.until("mains back", says("CHRG")).await;
    watching.for_a_while(Duration::from_secs(1)).await;
    assert_eq!(watching.changes.last().map(short).as_deref(), Some("CLEARED"));
    assert!(watching.history.iter().all(|o| o.login_problem.is_none()));
    watching.end().await;
}

#[tokio::test]
async fn simulated_faults_look_like_real_ones() {
    let server = simulated(1.0).await;
    let names = ["pyrphoros", "statera"].map(|ups| format!("{ups}@{}", server.address()));
    let mut watching = Watching::start(settings(&names), &BTreeMap::new());
    watching.until("on line", says("OL")).await;
    server.set_fault("statera", Fault::Frozen);
    watching.until("frozen", fails_with(LinkError::DataStale)).await;
    server.set_fault("statera", Fault::Dead);
    watching.until("dead", fails_with(LinkError::DriverNotConnected)).await;
    server.set_fault("statera", Fault::None);
    server.force_shutdown("pyrphoros");
    watching.until("FSD", says("FSD")).await;
    assert_eq!(watching.verdict(), Verdict::Online, "statera still feeds it");
    server.clear_forced_shutdown("pyrphoros");
    watching.until("FSD gone", |o| says("OL")(o) && !says("FSD")(o) && o.ups.as_str().starts_with("pyrphoros")).await;

    let mut conn = Conn::connect("127.0.0.1", server.address().port(), WITHIN).await.unwrap();
    assert_eq!(refused(conn.login("statera").await), ErrCode::UsernameRequired);
    conn.credentials("primary", &Secret::new(*b"wrong")).await.unwrap();
    assert_eq!(refused(conn.login("statera").await), ErrCode::AccessDenied);
    let mut conn = Conn::connect("127.0.0.1", server.address().port(), WITHIN).await.unwrap();
    conn.credentials("primary", &Secret::new(PASSWORD.as_bytes())).await.unwrap();
    conn.login("statera").await.unwrap();
    assert_eq!((conn.num_logins("statera").await.unwrap(), refused(conn.login("statera").await)), (1, ErrCode::AlreadyLoggedIn));
    conn.primary("statera").await.unwrap();
    assert_eq!(conn.list_commands("statera").await.unwrap(), ["sim.mains.off", "sim.mains.on"]);
    conn.instant_command("statera", "sim.mains.off", None).await.unwrap();
    assert_eq!(conn.get_var("statera", "ups.status").await.unwrap(), "OB DISCHRG");
    conn.logout().await.unwrap();
    watching.end().await;
}

#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "NUT's own client is the second reader")]
async fn nuts_own_clients_read_the_simulated_upsd() {
    if !require::programs("upsc", &["upsc", "upscmd"]) {
        return;
    }
    let server = simulated(1.0).await;
    let run = async |program: &str, args: &[&str]| {
        let output = timeout(Duration::from_secs(10), tokio::process::Command::new(program).args(args).output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let place = server.address().to_string();
    let ups = format!("pyrphoros@{place}");
    assert_eq!(run("upsc", &["-l", &place]).await, "pyrphoros\nstatera\n");
    assert_eq!(run("upsc", &[&ups, "ups.status"]).await, "OL\n");
    assert!(run("upsc", &[&ups]).await.contains("battery.runtime: 1800\n"));
    assert!(run("upscmd", &["-l", &ups]).await.contains("sim.mains.off"));
    // upscmd sends passwords unquoted: it needs a plain one.
    run("upscmd", &["-u", "person", "-p", "plain", &ups, "sim.mains.off"]).await;
    assert_eq!(run("upsc", &[&ups, "ups.status"]).await, "OB DISCHRG\n");
}

#[tokio::test]
async fn a_poll_wakes_the_watcher_a_few_times() {
    if !available("wake-ups") {
        return;
    }
    let nut = Nut::start(&["a", "b"], USERS, "").unwrap();
    let mut watching = Watching::start(settings(&[nut.name("a"), nut.name("b")]), &BTreeMap::new());
    watching.for_a_while(Duration::from_secs(1)).await;
    let (before, polled) = (voluntary_switches(), watching.history.len());
    watching.for_a_while(Duration::from_secs(8)).await;
    let polls = (watching.history.len() - polled) / 2;
    // Everything runs on this one thread: monitor, channel, policy. Each time it sleeps, something must wake it again.
    let each = (voluntary_switches() - before) as f64 / polls as f64;
    println!("{each:.2} wake-ups a poll of two UPSes, over {polls} polls");
    // Some three are usual; a busy machine lets upsd's lines arrive one by one, a busy loop would be in the hundreds.
    assert!(each < 12.0, "{each} wake-ups a poll");
    watching.end().await;
}

fn voluntary_switches() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap().trim().parse().unwrap()
}
