//! A real upsd with real dummy-ups drivers on loopback, in a folder of its own; killed when dropped.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

use crate::require;

/// The programs of Debian's nut-server that are used; its `/sbin` ones are wrappers that want a system-wide MODE.
pub const PROGRAMS: [&str; 2] = ["/lib/nut/upsd", "/lib/nut/dummy-ups"];
/// Seconds without news from a driver after which upsd says DATA-STALE.
pub const MAX_AGE: u64 = 3;

/// Whether a real upsd can be started here; says so if not.
pub fn available(test: &str) -> bool {
    require::programs(test, &PROGRAMS)
}

/// NUT's own files on this machine are none of the test's business: whatever this test starts does not see them. Needs root.
///
/// # Errors
/// Where the kernel does not let it.
pub fn hide() -> Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    for folder in ["/etc/nut", "/usr/lib/systemd/system-shutdown"].into_iter().filter(|folder| Path::new(folder).is_dir()) {
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), none)?;
    }
    Ok(())
}

/// upsd and its drivers.
#[derive(Debug)]
pub struct Nut {
    dir: TempDir,
    /// Where upsd listens.
    pub port: u16,
    upsd: Option<Child>,
    drivers: BTreeMap<String, Child>,
    upsmon: Option<Child>,
}

impl Nut {
    /// Starts a UPS for each name, on line, with `users` as upsd.users and `extra` lines in upsd.conf.
    ///
    /// # Errors
    /// Where upsd does not answer within ten seconds.
    pub fn start(upses: &[&str], users: &str, extra: &str) -> Result<Self> {
        let dir = TempDir::new()?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let section = |ups: &&str| format!("[{ups}]\n driver = dummy-ups\n port = {ups}.dev\n desc = \"UPS \\\"{ups}\\\"\"\n");
        let ups_conf = format!("pollinterval = 1\n{}", upses.iter().map(section).collect::<String>());
        std::fs::write(dir.path().join("ups.conf"), ups_conf)?;
        std::fs::write(dir.path().join("upsd.conf"), format!("LISTEN 127.0.0.1 {port}\nMAXAGE {MAX_AGE}\n{extra}"))?;
        std::fs::write(dir.path().join("upsd.users"), users)?;
        let mut nut = Self { dir, port, upsd: None, drivers: BTreeMap::new(), upsmon: None };
        for ups in upses {
            nut.set(ups, &[("ups.status", "OL")])?;
            nut.spawn_driver(ups)?;
        }
        // All at once: each takes its time.
        for ups in upses {
            nut.wait_for_driver(ups)?;
        }
        nut.start_upsd()?;
        for ups in upses {
            // A driver says WAIT until it has read its file for the first time.
            until(Duration::from_secs(10), || nut.status(ups).is_ok_and(|answer| answer.contains("\"OL\"")))
                .with_context(|| format!("{ups} is not on line: {}", nut.log(&format!("{ups}.log"))))?;
        }
        Ok(nut)
    }

    /// upsd's own answer, read without metis.
    fn status(&self, ups: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        writeln!(stream, "GET VAR {ups} ups.status")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer)
    }

    /// `ups@127.0.0.1:port`.
    pub fn name(&self, ups: &str) -> String {
        format!("{ups}@127.0.0.1:{}", self.port)
    }

    /// Gives the UPS these variables, and a charge and runtime unless they are among them. The driver reads them within a second or two.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn set(&self, ups: &str, vars: &[(&str, &str)]) -> Result<()> {
        let mut all = BTreeMap::from([("battery.charge", "100"), ("battery.runtime", "3600"), ("ups.load", "20")]);
        all.extend(vars.iter().copied());
        self.set_exactly(ups, &all.into_iter().collect::<Vec<_>>())
    }

    /// Gives the UPS these variables and no others. A running driver keeps what it read before: dummy-ups forgets nothing.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn set_exactly(&self, ups: &str, vars: &[(&str, &str)]) -> Result<()> {
        let lines: Vec<String> = vars.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let text = lines.join("\n") + "\n";
        let place = self.dir.path().join(format!("{ups}.dev"));
        let beside = self.dir.path().join(format!("{ups}.new"));
        std::fs::write(&beside, text)?;
        // dummy-ups reads it again when its time of change is another second: two changes within one would be one.
        if let (Ok(before), Ok(now)) = (std::fs::metadata(&place).and_then(|about| about.modified()), beside.metadata()?.modified()) {
            std::fs::File::options().write(true).open(&beside)?.set_modified(now.max(before + Duration::from_secs(1)))?;
        }
        // In one go: the driver must not read half of it.
        std::fs::rename(beside, place)?;
        Ok(())
    }

    /// Starts the UPS's driver.
    ///
    /// # Errors
    /// Where it does not come up.
    pub fn start_driver(&mut self, ups: &str) -> Result<()> {
        self.spawn_driver(ups)?;
        self.wait_for_driver(ups)
    }

    fn driver_socket(&self, ups: &str) -> PathBuf {
        self.dir.path().join(format!("dummy-ups-{ups}"))
    }

    fn spawn_driver(&mut self, ups: &str) -> Result<()> {
        // What a killed driver leaves behind would pass for a running one.
        let _ = std::fs::remove_file(self.driver_socket(ups));
        let child = self.spawn("/lib/nut/dummy-ups", &["-a", ups, "-F"], &format!("{ups}.log"))?;
        self.drivers.insert(ups.to_owned(), child);
        Ok(())
    }

    fn wait_for_driver(&self, ups: &str) -> Result<()> {
        let socket = self.driver_socket(ups);
        until(Duration::from_secs(20), || socket.exists()).with_context(|| format!("driver of {ups}: {}", self.log(&format!("{ups}.log"))))
    }

    /// Starts upsd and waits until it answers.
    ///
    /// # Errors
    /// Where it does not within ten seconds.
    pub fn start_upsd(&mut self) -> Result<()> {
        ensure!(self.upsd.is_none(), "upsd runs already");
        self.upsd = Some(self.spawn("/lib/nut/upsd", &["-F"], "upsd.log")?);
        let port = self.port;
        until(Duration::from_secs(10), || TcpStream::connect(("127.0.0.1", port)).is_ok())
            .with_context(|| format!("upsd: {}", self.log("upsd.log")))
    }

    /// SIGSTOP, SIGCONT to the UPS's driver.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn signal_driver(&self, ups: &str, signal: Signal) -> Result<()> {
        signal_child(self.drivers.get(ups).context("no such driver")?, signal)
    }

    /// Kills the UPS's driver.
    pub fn kill_driver(&mut self, ups: &str) {
        end(self.drivers.remove(ups));
    }

    /// SIGSTOP, SIGCONT to upsd.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn signal_upsd(&self, signal: Signal) -> Result<()> {
        signal_child(self.upsd.as_ref().context("upsd does not run")?, signal)
    }

    /// Kills upsd.
    pub fn kill_upsd(&mut self) {
        end(self.upsd.take());
    }

    /// The folder with its configuration.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts NUT's own upsmon with this configuration; as root, because its file with the pid is the host's and has to be hidden.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start_upsmon(&mut self, conf: &str) -> Result<()> {
        std::fs::write(self.dir.path().join("upsmon.conf"), conf)?;
        // One process (-p): the privileged one of two does not take signals.
        let hidden = "mount -t tmpfs tmpfs /run && mkdir /run/nut && exec /lib/nut/upsmon -p -F";
        self.upsmon = Some(self.spawn_plain("unshare", &["--mount", "sh", "-c", hidden], "upsmon.log")?);
        Ok(())
    }

    /// `upsmon -c fsd`, as a person types it.
    ///
    /// # Errors
    /// Where upsmon does not run or does not take it.
    pub fn upsmon_fsd(&self) -> Result<()> {
        let pid = self.upsmon.as_ref().context("upsmon does not run")?.id().to_string();
        let status = self.spawn_plain("/lib/nut/upsmon", &["-c", "fsd", "-P", &pid], "upsmon-fsd.log")?.wait()?;
        ensure!(status.success(), "upsmon -c fsd: {status} {}", self.log("upsmon-fsd.log"));
        Ok(())
    }

    /// What a program wrote: `upsd.log`, or `<ups>.log` of its driver.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    fn spawn(&self, program: &str, args: &[&str], log: &str) -> Result<Child> {
        // As root it would become a user who cannot enter the folder.
        let user: &[&str] = if geteuid().is_root() { &["-u", "root"] } else { &[] };
        self.spawn_plain(program, &[user, args].concat(), log)
    }

    #[allow(clippy::disallowed_methods, reason = "starts the real server under test")]
    fn spawn_plain(&self, program: &str, args: &[&str], log: &str) -> Result<Child> {
        let out = std::fs::File::options().create(true).append(true).open(self.dir.path().join(log))?;
        let mut command = Command::new(program);
        for name in ["NUT_CONFPATH", "NUT_STATEPATH", "NUT_ALTPIDPATH"] {
            command.env(name, self.dir.path());
        }
        command.args(args).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        command.spawn().with_context(|| format!("cannot start {program}"))
    }
}

impl Drop for Nut {
    fn drop(&mut self) {
        end(self.upsmon.take());
        end(self.upsd.take());
        for (_, driver) in std::mem::take(&mut self.drivers) {
            end(Some(driver));
        }
    }
}

/// A CA, and what upsd (an NSS build on Debian) needs for STARTTLS with a certificate for 127.0.0.1 of that CA.
#[derive(Debug)]
pub struct Certificates {
    dir: TempDir,
}

impl Certificates {
    /// Makes all of it with openssl and NSS's own tools.
    ///
    /// # Errors
    /// Where one of them fails.
    pub fn make() -> Result<Self> {
        let dir = TempDir::new()?;
        let script = r#"
            set -e
            new() { openssl req -newkey rsa:2048 -nodes -days 2 "$@" 2>/dev/null; }
            for ca in ca other; do
                new -x509 -keyout $ca.key -out $ca.pem -subj "/CN=metis test $ca" -addext basicConstraints=critical,CA:TRUE
            done
            new -keyout upsd.key -out upsd.csr -subj /CN=upsd.test
            printf 'subjectAltName=IP:127.0.0.1,DNS:upsd.test\n' >ext
            openssl x509 -req -in upsd.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out upsd.pem 2>/dev/null
            openssl pkcs12 -export -in upsd.pem -inkey upsd.key -certfile ca.pem -name upsd -passout pass:secret -out upsd.p12
            mkdir nss && echo secret >pw
            certutil -N -d nss -f pw
            pk12util -i upsd.p12 -d nss -k pw -w pw >/dev/null
            certutil -A -d nss -f pw -n ca -t C,, -i ca.pem
        "#;
        shell(script, dir.path())?;
        Ok(Self { dir })
    }

    /// Lines for upsd.conf.
    pub fn upsd_conf(&self) -> String {
        format!("CERTPATH {}/nss\nCERTIDENT \"upsd\" \"secret\"\n", self.dir.path().display())
    }

    /// The CA that signed upsd's certificate.
    pub fn ca(&self) -> std::path::PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A CA that did not.
    pub fn other_ca(&self) -> std::path::PathBuf {
        self.dir.path().join("other.pem")
    }
}

#[allow(clippy::disallowed_methods, reason = "makes certificates for the real server under test")]
fn shell(script: &str, dir: &Path) -> Result<()> {
    let output = Command::new("bash").args(["-c", script]).current_dir(dir).output()?;
    ensure!(output.status.success(), "certificates: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn signal_child(child: &Child, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(child.id())?), signal)?)
}

/// Ends exactly this child.
fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn until(limit: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !done() {
        if begun.elapsed() > limit {
            bail!("not up within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
