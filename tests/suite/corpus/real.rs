//! The corpus on real parts: one upsd and one metisd for the cases that can share them, and one each for those that cannot.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use metis_tests::daemon::Daemon;
use metis_tests::nut::Nut;
use nix::sys::signal::Signal;

use super::cases::{CASES, COMM_LOST, Case, DEBOUNCE, MAX_ON_BATTERY, OFF_AFTER, POLL};
use super::replay::{length, variables};

const USERS: &str = "[primary]\n password = pw\n upsmon primary\n";
/// After the last word, for what is late.
const AFTER: Duration = Duration::from_secs(6);

/// When each domain of each case triggered, in seconds of its script.
pub type Decided = BTreeMap<&'static str, Vec<Vec<f64>>>;

/// Runs all cases, in parallel.
pub fn decide() -> anyhow::Result<Decided> {
    let (alone, together): (Vec<&Case>, Vec<&Case>) = CASES.iter().partition(|case| case.alone);
    let decided = Mutex::new(Decided::new());
    let run = |cases: &[&'static Case]| -> anyhow::Result<()> {
        let mut table = Table::start(cases)?;
        table.play()?;
        decided.lock().unwrap().extend(table.decided()?);
        Ok(())
    };
    std::thread::scope(|scope| {
        let groups = alone.chunks(1).chain([together.as_slice()]);
        let threads: Vec<_> = groups.map(|cases| scope.spawn(move || run(cases))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a case panicked"))
    })?;
    Ok(decided.into_inner().unwrap())
}

/// A metisd that watches the cases' UPSes.
struct Table<'a> {
    cases: &'a [&'static Case],
    nut: Nut,
    daemon: Daemon,
    network: Network,
    started: (Instant, f64),
    forced: Vec<String>,
}

fn ups(case: usize, number: usize) -> String {
    format!("c{case}u{number}")
}

impl<'a> Table<'a> {
    /// Every UPS says its first word before metisd hears it for the first time.
    fn start(cases: &'a [&'static Case]) -> anyhow::Result<Self> {
        let upses: Vec<String> =
            cases.iter().enumerate().flat_map(|(case, of)| (0..of.scripts.len()).map(move |number| ups(case, number))).collect();
        let nut = Nut::start(&upses.iter().map(String::as_str).collect::<Vec<_>>(), USERS, "MAXCONN 1024\n")?;
        let network = Network::start(nut.port)?;
        let daemon = Daemon::new(&config(cases, network.port), "")?;
        let mut table = Self { cases, nut, daemon, network, started: (Instant::now(), 0.0), forced: Vec::new() };
        for (case, of) in cases.iter().enumerate() {
            for (number, script) in of.scripts.iter().enumerate() {
                let (ups, word) = (ups(case, number), script[0].1);
                // A driver forgets nothing: one whose UPS has no such number must never have read it.
                let bare = word.ends_with('=');
                if bare {
                    table.nut.kill_driver(&ups);
                }
                table.say(&ups, if bare { "dead" } else { "" }, word)?;
            }
        }
        // The drivers read their files once a second.
        std::thread::sleep(Duration::from_millis(2500));
        table.daemon.start()?;
        table.started = (Instant::now(), jiff::Timestamp::now().as_nanosecond() as f64 / 1e9);
        Ok(table)
    }

    /// Says every other word when its time has come.
    fn play(&mut self) -> anyhow::Result<()> {
        let mut due: Vec<(u64, String, &str, &str)> = Vec::new();
        for (case, of) in self.cases.iter().enumerate() {
            for (number, script) in of.scripts.iter().enumerate() {
                let mut at = 0;
                for pair in script.windows(2) {
                    at += pair[0].0;
                    due.push((at, ups(case, number), pair[0].1, pair[1].1));
                }
            }
        }
        due.sort_by_key(|(at, ..)| *at);
        for (at, ups, before, word) in due {
            self.wait_until(Duration::from_secs(at));
            self.say(&ups, before, word).with_context(|| format!("{ups}: {word}"))?;
        }
        let length = self.cases.iter().map(|case| length(case)).max().unwrap_or(0);
        self.wait_until(Duration::from_secs(length) + AFTER);
        Ok(())
    }

    fn wait_until(&self, at: Duration) {
        std::thread::sleep((self.started.0 + at).saturating_duration_since(Instant::now()));
    }

    fn say(&mut self, ups: &str, before: &str, word: &str) -> anyhow::Result<()> {
        let starts = before == "dead";
        match before {
            "stale" => self.nut.signal_driver(ups, Signal::SIGCONT)?,
            "gone" => self.network.open.store(true, Ordering::SeqCst),
            "upsd" => {
                self.nut.start_driver(ups)?;
                self.nut.start_upsd()?;
            }
            _ => {}
        }
        self.tell(ups, word)?;
        if starts { self.nut.start_driver(ups) } else { Ok(()) }
    }

    fn tell(&mut self, ups: &str, word: &str) -> anyhow::Result<()> {
        match word {
            "dead" => self.nut.kill_driver(ups),
            "stale" => self.nut.signal_driver(ups, Signal::SIGSTOP)?,
            "gone" => self.network.cut(),
            "upsd" => {
                self.nut.kill_upsd();
                // It aborts anyway when upsd goes (NUT 2.8.0).
                self.nut.kill_driver(ups);
            }
            _ => {
                let plain = word.trim_start_matches("FSD ");
                let vars = variables(plain);
                let vars: Vec<_> =
                    vars.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.as_str(), value.as_str())).collect();
                if plain.contains("= ") || plain.ends_with('=') {
                    self.nut.set_exactly(ups, &vars)?;
                } else {
                    self.nut.set(ups, &vars)?;
                }
                if plain != word && !self.forced.iter().any(|forced| forced == ups) {
                    self.force(ups)?;
                    self.forced.push(ups.to_owned());
                }
            }
        }
        Ok(())
    }

    /// FSD, as an upsmon primary sets it; upsd keeps it.
    fn force(&self, ups: &str) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.nut.port))?;
        write!(stream, "USERNAME primary\nPASSWORD pw\nPRIMARY {ups}\nFSD {ups}\nLOGOUT\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        anyhow::ensure!(answer.contains("FSD-SET"), "{answer}");
        Ok(())
    }

    /// What the journal says was decided.
    fn decided(&mut self) -> anyhow::Result<Decided> {
        self.daemon.stop()?;
        let journal = rusqlite::Connection::open(self.daemon.path("state/journal.db"))?;
        let mut rows = journal.prepare("SELECT at, payload FROM fact WHERE kind = 'trigger.decided' ORDER BY seq")?;
        let rows = rows.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
        let mut decided: Decided = self.cases.iter().map(|case| (case.name, vec![Vec::new(); case.domains.len()])).collect();
        for row in rows {
            let (at, payload) = row?;
            let payload: serde_json::Value = serde_json::from_str(&payload)?;
            let domain = payload["domain"].as_str().context("a domain")?;
            let (case, number) = domain.strip_prefix('c').and_then(|rest| rest.split_once('d')).context("its name")?;
            let triggers = decided.get_mut(self.cases[case.parse::<usize>()?].name).context("its case")?;
            triggers[number.parse::<usize>()?].push(at as f64 / 1e9 - self.started.1);
        }
        Ok(decided)
    }
}

fn config(cases: &[&Case], port: u16) -> String {
    let max = if cases.iter().all(|case| case.alone) { format!("{}s", MAX_ON_BATTERY.as_secs()) } else { "never".to_owned() };
    let (mut upses, mut domains) = (String::new(), String::new());
    for (case, of) in cases.iter().enumerate() {
        let name = |number: usize| format!("\"{}@127.0.0.1:{port}\"", ups(case, number));
        upses.extend((0..of.scripts.len()).map(|number| format!("    {}: {{ }}\n", name(number))));
        for (number, (feeds, _)) in of.domains.iter().enumerate() {
            let feeds: Vec<String> = feeds.iter().map(|feed| name(*feed)).collect();
            let _ = writeln!(domains, "    c{case}d{number}: {{ upses: [{}], nodes: [] }}", feeds.join(", "));
        }
    }
    format!(
        "power:\n  poll_interval: {}ms\n  read_timeout: 2s\n  thresholds: {{ charge_floor: 20, debounce_polls: {DEBOUNCE}, comm_lost_after: {}s, \
         off_after: {}s, max_on_battery: {max} }}\n  upses:\n{upses}  domains:\n{domains}",
        POLL.as_millis(),
        COMM_LOST.as_secs(),
        OFF_AFTER.as_secs(),
    )
}

/// The network between metisd and upsd, which can be cut.
struct Network {
    port: u16,
    open: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Network {
    fn start(upsd: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let network = Self { port: listener.local_addr()?.port(), open: Arc::new(AtomicBool::new(true)), streams: Arc::default() };
        let (open, streams) = (Arc::clone(&network.open), Arc::clone(&network.streams));
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if open.load(Ordering::SeqCst)
                    && let Ok(far) = TcpStream::connect(("127.0.0.1", upsd))
                {
                    let both = [near.try_clone().unwrap(), far.try_clone().unwrap()];
                    streams.lock().unwrap().extend(both);
                    let (back_from, back_to) = (far.try_clone().unwrap(), near.try_clone().unwrap());
                    std::thread::spawn(move || pipe(near, far));
                    std::thread::spawn(move || pipe(back_from, back_to));
                }
            }
        });
        Ok(network)
    }

    fn cut(&self) {
        self.open.store(false, Ordering::SeqCst);
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pipe(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}
