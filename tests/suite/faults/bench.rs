//! A daemon with the golden image and a node with secrets, a used card, and what every fault must leave behind.

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use metis_tests::card::{self, Golden, MIB, golden, has_no_table, ok, tables, used_card};
use metis_tests::daemon::{Answer, Daemon};
use metis_tests::loopdev::Loop;
use metis_tests::medium::{Slow, moved, wait_for};
use metis_tests::require;
use serde_json::Value;

const TOKEN: &str = "K10abc::server:a-token-that-must-not-be-told";
const HASH: &str = "$y$j9T$abcdefgh$0123456789abcdefghijklmnopqrstuvwxyzABCDE";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1gDqmxJ4VNAYcd5LzEpN4B7w2Gfi2qLT3VqfyYbvWk brad@desk";
/// Larger than the image, as cards are.
pub const CARD: u64 = card::SIZE + 16 * MIB;

/// Whether burns to loop devices can be tested here; says so if not.
pub fn able(test: &str) -> bool {
    require::root(test)
        && require::programs(
            test,
            &["zstd", "xz", "ssh-keygen", "/sbin/mkfs.vfat", "/sbin/mkfs.ext4", "mcopy", "/sbin/sfdisk", "/sbin/losetup"],
        )
}

/// A daemon on a site with one class and one node.
pub struct Bench {
    pub daemon: Daemon,
    pub golden: Golden,
    said: RefCell<String>,
    secrets: Vec<String>,
}

/// What a burn spends its time with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Write,
    Verify,
}

impl Stage {
    /// Makes this stage last for seconds.
    pub fn slow(self, device: &Loop) -> Slow {
        match self {
            Self::Write => Slow::down(device, 12 * MIB, 0),
            Self::Verify => Slow::down(device, 0, 12 * MIB),
        }
        .unwrap()
    }
}

/// A used card in a loop device.
pub struct Used {
    pub device: Loop,
    pub dir: tempfile::TempDir,
}

impl Used {
    pub fn new(size: u64) -> Self {
        let dir = tempfile::Builder::new().prefix("metis-card-").tempdir().unwrap();
        let file = dir.path().join("card");
        used_card(&file, size).unwrap();
        Self { device: Loop::attach(&file).unwrap(), dir }
    }

    /// That nothing of it was overwritten.
    pub fn is_untouched(&self) {
        assert_eq!(tables(&self.device.device).unwrap(), [true; 3], "the card keeps its old table");
    }
}

impl Bench {
    /// Runs, with the golden image as published.
    pub fn start() -> Self {
        let golden = golden().unwrap();
        let bench = Self::with(&golden.published, &golden.sha256, "card: { free_space_floor: 1 MiB, cache_dir: \"@DIR@/cache\" }\n");
        bench.started()
    }

    pub fn started(mut self) -> Self {
        self.daemon.start().unwrap();
        self
    }

    /// Does not run yet.
    pub fn with(published: &Path, sha256: &str, config: &str) -> Self {
        let inventory = format!(
            "classes:\n  pi:\n    arch: arm64\n    image: {{ url: \"file:{}\", sha256: \"{sha256}\" }}\n    \
             network: {{ renderer: netplan, interface: end0, prefix: 24, gateway: 192.168.22.1, nameservers: [192.168.22.1] }}\n    \
             k3s: {{ role: agent, version: v1.31.5+k3s1, server: \"https://192.168.22.2:6443\", token: {{ file: \"@DIR@/secrets/token\" }} }}\n    \
             ssh:\n      users: {{ brad: {{ keys: [\"{KEY}\"], groups: [sudo], sudo: true, password_hash: {{ file: \"@DIR@/secrets/hash\" }} }} }}\n\
             nodes:\n  pi-1:\n    class: pi\n    network: {{ address: 192.168.22.11 }}\n    \
             ssh: {{ host_keys: {{ ed25519: {{ file: \"@DIR@/secrets/host_key\" }} }} }}\n",
            published.display()
        );
        let daemon = Daemon::new(config, &inventory).unwrap();
        daemon.secret("secrets/token", TOKEN).unwrap();
        daemon.secret("secrets/hash", HASH).unwrap();
        let key = daemon.path("secrets/host_key");
        ok("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", card::arg(&key)]).unwrap();
        let key = fs::read_to_string(key).unwrap().lines().nth(3).unwrap().to_owned();
        let secrets = vec!["a-token-that-must-not-be-told".to_owned(), HASH.to_owned(), key];
        Self { daemon, golden: golden().unwrap(), said: RefCell::default(), secrets }
    }

    /// Runs metisctl and keeps what it said.
    pub fn ctl(&self, arguments: &[&str]) -> Answer {
        self.heard(self.daemon.ctl(arguments).unwrap())
    }

    fn heard(&self, answer: Answer) -> Answer {
        self.said.borrow_mut().push_str(&answer.text());
        answer
    }

    pub fn burn(&self, device: &Path) -> Answer {
        self.ctl(&burn_of(device))
    }

    /// Starts metisctl and does not wait for it.
    pub fn begin(&self, arguments: &[&str]) -> Child {
        self.daemon.ctl_command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Starts a burn and waits until so many MiB were written to the device, or read back from it.
    pub fn begin_burn(&self, device: &Loop, stage: Stage, mib: u64) -> Child {
        let before = moved(device).unwrap();
        let mut child = self.begin(&burn_of(&device.device));
        let there = || {
            let (read, written) = moved(device).unwrap();
            let enough = (if stage == Stage::Verify { read - before.0 } else { written - before.1 }) > mib * MIB;
            enough || child.try_wait().unwrap().is_some()
        };
        let waited = wait_for("the middle of the burn", Duration::from_secs(30), there);
        if waited.is_err() || child.try_wait().unwrap().is_some() {
            let _ = child.kill();
            panic!("the burn is not in its middle: {waited:?}, {:?}", self.end(child));
        }
        child
    }

    /// What metisctl said in the end.
    pub fn end(&self, child: Child) -> Answer {
        self.heard(child.wait_with_output().unwrap().into())
    }

    /// That metisctl failed so: exit code, and these words on standard error.
    pub fn failed(&self, answer: &Answer, code: i32, words: &[&str]) {
        assert_eq!(answer.code, Some(code), "{answer:#?}\n{}", self.daemon.log());
        for word in words {
            assert!(answer.text().contains(word), "{word:?} is missing in {answer:#?}");
        }
    }

    pub fn last_run(&self) -> Value {
        self.daemon.json(&["run", "get", "last"]).unwrap()["run"].clone()
    }

    /// A burn of the same card, which must succeed.
    pub fn burns(&self, device: &Path) {
        let answer = self.burn(device);
        assert_eq!(answer.code, Some(0), "{answer:#?}\n{}", self.daemon.log());
        assert!(answer.text().contains("insert the card and power on"), "{answer:#?}");
        assert_eq!(tables(device).unwrap(), [true, false, false], "the new table, and no spare GPT of the old one");
    }

    /// What every fault must leave: a card without table, a daemon that burns it, history, cache and logs in order.
    pub fn afterwards(&mut self, device: &Path, run: &str, phase: &str, words: &[&str]) {
        has_no_table(device).unwrap();
        self.burns(device);
        self.in_order(run, phase, words);
    }

    /// The run is closed, also after a restart; the cache holds verified images only; no secret was told.
    pub fn in_order(&mut self, run: &str, phase: &str, words: &[&str]) {
        let before = self.closed(run, phase, words);
        self.daemon.stop().unwrap();
        self.daemon.start().unwrap();
        assert_eq!(self.closed(run, phase, words), before);
        self.cache_is_verified();
        self.tells_no_secret();
    }

    fn closed(&self, run: &str, phase: &str, words: &[&str]) -> Value {
        let record = self.daemon.json(&["run", "get", run]).unwrap();
        let found = &record["run"];
        assert_eq!(found["phase"], phase, "{found:#}\n{}", self.daemon.log());
        assert!(found["ended"].is_string(), "{found:#}");
        for word in words {
            assert!(found["reason"].as_str().unwrap_or_default().contains(word), "{word:?} is missing in the reason of {found:#}");
        }
        record
    }

    /// Finished images of the right digest, and locks; nothing half done.
    pub fn cache_is_verified(&self) {
        let Ok(entries) = fs::read_dir(self.daemon.path("cache")) else { return };
        for name in entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()) {
            let whole = name == format!("{}.img", self.golden.sha256);
            assert!(whole || Path::new(&name).extension().is_some_and(|e| e == "lock"), "{name} in the cache");
        }
    }

    pub fn tells_no_secret(&self) {
        let mut told =
            vec![("the log".to_owned(), self.daemon.log().into_bytes()), ("metisctl".to_owned(), self.said.borrow().clone().into_bytes())];
        for dir in ["state", "run"] {
            for entry in fs::read_dir(self.daemon.path(dir)).unwrap().map(Result::unwrap).filter(|e| e.path().is_file()) {
                told.push((entry.path().display().to_string(), fs::read(entry.path()).unwrap()));
            }
        }
        for (place, bytes) in &told {
            for secret in &self.secrets {
                assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()), "a secret is in {place}");
            }
        }
    }
}

pub fn burn_of(device: &Path) -> [&str; 8] {
    ["burn", "--node", "pi-1", "--device", device.to_str().unwrap(), "--allow-fixed", "--yes", "--timeout=10"]
}
