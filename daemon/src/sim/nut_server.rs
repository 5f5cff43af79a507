//! A small NUT server on loopback, for simulated UPSes: enough of the protocol for metis and for NUT's own `upsc` and `upscmd`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::ups::Battery;

/// Longest request that is read.
const MAX_REQUEST: u64 = 1024;
/// Clients served at once.
const MAX_CLIENTS: usize = 64;
const COMMANDS: [(&str, Command); 2] = [("sim.mains.off", Command::MainsOff), ("sim.mains.on", Command::MainsOn)];

/// How the way to a simulated UPS is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// It is not.
    #[default]
    None,
    /// The driver is frozen: DATA-STALE.
    Frozen,
    /// The driver is dead: DRIVER-NOT-CONNECTED.
    Dead,
}

/// A UPS to be served.
#[derive(Debug, Clone)]
pub struct SimulatedUps {
    /// Name, as in ups.conf.
    pub name: String,
    /// Its battery and mains.
    pub battery: Battery,
}

/// The server. Dropping it closes everything.
#[derive(Debug)]
pub struct NutServer {
    address: SocketAddr,
    site: Arc<Mutex<Site>>,
    tasks: JoinSet<io::Error>,
}

#[derive(Debug, Clone, Copy)]
enum Command {
    MainsOff,
    MainsOn,
}

#[derive(Debug)]
struct Ups {
    battery: Battery,
    fault: Fault,
    forced_shutdown: bool,
    logins: usize,
}

#[derive(Debug)]
struct Site {
    upses: BTreeMap<String, Ups>,
    users: BTreeMap<String, String>,
    speed: f64,
    advanced: Instant,
}

impl NutServer {
    /// Serves `upses` on a free port of 127.0.0.1. Simulated time runs `speed` times as fast as real time; `users` (name → password) may log in
    /// and give commands.
    pub async fn start(upses: Vec<SimulatedUps>, users: BTreeMap<String, String>, speed: f64) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let new = |battery| Ups { battery, fault: Fault::None, forced_shutdown: false, logins: 0 };
        let upses = upses.into_iter().map(|ups| (ups.name, new(ups.battery))).collect();
        let site = Arc::new(Mutex::new(Site { upses, users, speed, advanced: Instant::now() }));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&site)));
        Ok(Self { address, site, tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Mains of that UPS off, or on again. An unknown name changes nothing, here and below.
    pub fn set_mains(&self, ups: &str, on: bool) {
        self.change(ups, |ups| ups.battery.set_mains(on));
    }

    /// Breaks or mends the way to that UPS.
    pub fn set_fault(&self, ups: &str, fault: Fault) {
        self.change(ups, |ups| ups.fault = fault);
    }

    /// FSD, as a primary upsmon sets it; it stays until [`NutServer::clear_forced_shutdown`], upsd's restart.
    pub fn force_shutdown(&self, ups: &str) {
        self.change(ups, |ups| ups.forced_shutdown = true);
    }

    /// What a restart of upsd does to FSD.
    pub fn clear_forced_shutdown(&self, ups: &str) {
        self.change(ups, |ups| ups.forced_shutdown = false);
    }

    /// Waits for the server to fail (it can no longer accept); for its owner.
    pub async fn failed(&mut self) -> io::Error {
        match self.tasks.join_next().await {
            Some(Ok(error)) => error,
            Some(Err(error)) => io::Error::other(error),
            None => io::Error::other("the server's task has ended before"),
        }
    }

    fn change(&self, ups: &str, change: impl FnOnce(&mut Ups)) {
        let mut site = self.site.lock().unwrap_or_else(PoisonError::into_inner);
        site.advance();
        if let Some(ups) = site.upses.get_mut(ups) {
            change(ups);
        }
    }
}

async fn accept(listener: TcpListener, site: Arc<Mutex<Site>>) -> io::Error {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if clients.len() < MAX_CLIENTS => {
                    clients.spawn(serve(stream, Arc::clone(&site)));
                }
                Ok(_) => {}
                Err(error) => return error,
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

/// One client until it goes. That it went without a word is no error.
async fn serve(stream: TcpStream, site: Arc<Mutex<Site>>) {
    let mut stream = BufReader::new(stream);
    let mut session = Session { site, user: None, password: None, login: None };
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut stream).take(MAX_REQUEST).read_until(b'\n', &mut line).await;
        if !matches!(read, Ok(1..)) || line.last() != Some(&b'\n') {
            return;
        }
        let words = words(&String::from_utf8_lossy(&line));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let answer = session.answer(&words).unwrap_or_else(|code| format!("ERR {code}\n"));
        if stream.write_all(answer.as_bytes()).await.is_err() || words == ["LOGOUT"] {
            return;
        }
    }
}

struct Session {
    site: Arc<Mutex<Site>>,
    user: Option<String>,
    password: Option<String>,
    login: Option<String>,
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut site = self.site.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ups) = self.login.take().and_then(|name| site.upses.get_mut(&name)) {
            ups.logins = ups.logins.saturating_sub(1);
        }
    }
}

impl Session {
    fn answer(&mut self, words: &[&str]) -> Result<String, &'static str> {
        let shared = Arc::clone(&self.site);
        let mut site = shared.lock().unwrap_or_else(PoisonError::into_inner);
        site.advance();
        match words {
            ["VER"] => Ok(format!("metis simulated upsd {}\n", env!("CARGO_PKG_VERSION"))),
            ["NETVER" | "PROTVER"] => Ok("1.3\n".to_owned()),
            ["LOGOUT"] => Ok("OK Goodbye\n".to_owned()),
            ["STARTTLS"] => Err("FEATURE-NOT-CONFIGURED"),
            ["USERNAME", _] if self.user.is_some() => Err("ALREADY-SET-USERNAME"),
            ["PASSWORD", _] if self.password.is_some() => Err("ALREADY-SET-PASSWORD"),
            ["USERNAME", user] => Ok(accept_word(&mut self.user, user)),
            ["PASSWORD", password] => Ok(accept_word(&mut self.password, password)),
            ["LIST", "UPS"] => Ok(site.list_upses()),
            ["LIST", kind @ ("VAR" | "CMD" | "RW" | "CLIENT"), ups] => site.list(kind, ups),
            ["GET", "VAR", ups, name] => {
                let vars = site.ups(ups)?.vars()?;
                vars.get(name).map(|value| format!("VAR {ups} {name} {}\n", quoted(value))).ok_or("VAR-NOT-SUPPORTED")
            }
            ["GET", "NUMLOGINS", ups] => Ok(format!("NUMLOGINS {ups} {}\n", site.ups(ups)?.logins)),
            ["LOGIN" | "PRIMARY" | "MASTER" | "FSD", ups] | ["INSTCMD", ups, ..] => {
                site.ups(ups)?;
                self.permit(&site)?;
                self.order(&mut site, words, ups)
            }
            ["SET", "VAR", ups, ..] => site.ups(ups).and(Err("READONLY")),
            ["LIST" | "GET" | "SET" | "USERNAME" | "PASSWORD" | "LOGIN" | "PRIMARY" | "MASTER" | "FSD" | "INSTCMD", ..] => {
                Err("INVALID-ARGUMENT")
            }
            _ => Err("UNKNOWN-COMMAND"),
        }
    }

    fn permit(&self, site: &Site) -> Result<(), &'static str> {
        let user = self.user.as_ref().ok_or("USERNAME-REQUIRED")?;
        let password = self.password.as_ref().ok_or("PASSWORD-REQUIRED")?;
        if site.users.get(user) == Some(password) { Ok(()) } else { Err("ACCESS-DENIED") }
    }

    fn order(&mut self, site: &mut Site, words: &[&str], name: &str) -> Result<String, &'static str> {
        let ups = site.upses.get_mut(name).ok_or("UNKNOWN-UPS")?;
        match words {
            ["LOGIN", _] if self.login.is_some() => Err("ALREADY-LOGGED-IN"),
            ["LOGIN", _] => {
                ups.logins += 1;
                self.login = Some(name.to_owned());
                Ok("OK\n".to_owned())
            }
            ["PRIMARY", _] => Ok("OK PRIMARY-GRANTED\n".to_owned()),
            ["MASTER", _] => Ok("OK MASTER-GRANTED\n".to_owned()),
            ["FSD", _] => {
                ups.forced_shutdown = true;
                Ok("OK FSD-SET\n".to_owned())
            }
            ["INSTCMD", _, command, ..] => {
                let (_, command) = COMMANDS.iter().find(|(name, _)| name == command).ok_or("CMD-NOT-SUPPORTED")?;
                ups.battery.set_mains(matches!(command, Command::MainsOn));
                Ok("OK\n".to_owned())
            }
            _ => Err("INVALID-ARGUMENT"),
        }
    }
}

impl Site {
    fn advance(&mut self) {
        let now = Instant::now();
        let elapsed = now.duration_since(self.advanced).mul_f64(self.speed);
        self.advanced = now;
        for ups in self.upses.values_mut() {
            ups.battery.advance(elapsed);
        }
    }

    fn ups(&self, name: &str) -> Result<&Ups, &'static str> {
        self.upses.get(name).ok_or("UNKNOWN-UPS")
    }

    fn list_upses(&self) -> String {
        let mut answer = "BEGIN LIST UPS\n".to_owned();
        for name in self.upses.keys() {
            let _ = writeln!(answer, "UPS {name} {}", quoted("Simulated UPS"));
        }
        answer + "END LIST UPS\n"
    }

    fn list(&self, kind: &str, name: &str) -> Result<String, &'static str> {
        let ups = self.ups(name)?;
        let mut answer = format!("BEGIN LIST {kind} {name}\n");
        match kind {
            "VAR" => ups.vars()?.iter().for_each(|(var, value)| {
                let _ = writeln!(answer, "VAR {name} {var} {}", quoted(value));
            }),
            "CMD" => COMMANDS.iter().for_each(|(command, _)| {
                let _ = writeln!(answer, "CMD {name} {command}");
            }),
            "CLIENT" => (0..ups.logins).for_each(|_| {
                let _ = writeln!(answer, "CLIENT {name} 127.0.0.1");
            }),
            _ => {}
        }
        let _ = writeln!(answer, "END LIST {kind} {name}");
        Ok(answer)
    }
}

impl Ups {
    fn vars(&self) -> Result<BTreeMap<&'static str, String>, &'static str> {
        match self.fault {
            Fault::Frozen => return Err("DATA-STALE"),
            Fault::Dead => return Err("DRIVER-NOT-CONNECTED"),
            Fault::None => {}
        }
        let mut vars = self.battery.vars();
        if self.forced_shutdown {
            vars.entry("ups.status").and_modify(|status| status.insert_str(0, "FSD "));
        }
        Ok(vars)
    }
}

fn accept_word(place: &mut Option<String>, word: &str) -> String {
    *place = Some(word.to_owned());
    "OK\n".to_owned()
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Words of a request; a backslash takes the next character as it is, quotes hold a word together.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut in_quotes = false;
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => word.get_or_insert_default().extend(chars.next()),
            '"' => {
                in_quotes = !in_quotes;
                word.get_or_insert_default();
            }
            _ if char.is_whitespace() && !in_quotes => words.extend(word.take()),
            _ => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    words
}
