//! A small site, its journal as SQLite shows it, and a simulated outage.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use metis_tests::daemon::Daemon;
use metisd::sim::{Battery, BatteryModel, NutServer, SimulatedUps};

pub const MIB: u64 = 1 << 20;
/// Where the root file system of the image begins, and how long it is.
pub const ROOT_AT: u64 = 4 * MIB;
pub const ROOT_LEN: u64 = 16 * MIB;
/// A card is larger than its image.
pub const CARD_LEN: u64 = 24 * MIB;
pub const NODE: &str = "titan-13";

/// A fact as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub seq: u64,
    pub at: i64,
    pub kind: String,
    pub version: u16,
    pub run: Option<String>,
    pub payload: String,
}

impl Row {
    /// A text in its payload; empty where there is none of that name.
    pub fn text(&self, key: &str) -> String {
        let payload: serde_json::Value = serde_json::from_str(&self.payload).unwrap();
        payload[key].as_str().unwrap_or_default().to_owned()
    }
}

/// The facts of a journal that nobody writes to, or that is being written.
pub fn facts(journal: &Path) -> rusqlite::Result<Vec<Row>> {
    let connection = rusqlite::Connection::open_with_flags(journal, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(Duration::from_secs(2))?;
    let mut rows = connection.prepare("SELECT seq, at, kind, version, run, payload FROM fact ORDER BY seq")?;
    let rows = rows.query_map([], |row| {
        Ok(Row {
            seq: row.get::<_, i64>(0)? as u64,
            at: row.get(1)?,
            kind: row.get(2)?,
            version: row.get(3)?,
            run: row.get(4)?,
            payload: row.get(5)?,
        })
    })?;
    rows.collect()
}

/// The facts that a daemon which was just killed left on disk, read from a copy: reading must not repair what recovery is to find.
pub fn facts_left(daemon: &Daemon) -> Vec<Row> {
    static COPIES: AtomicU64 = AtomicU64::new(0);
    let copy = daemon.path(&format!("left-{}", COPIES.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir(&copy).unwrap();
    for name in ["journal.db", "journal.db-wal"] {
        if daemon.path("state").join(name).exists() {
            std::fs::copy(daemon.path("state").join(name), copy.join(name)).unwrap();
        }
    }
    if copy.join("journal.db").exists() && copy.join("journal.db").metadata().unwrap().len() > 0 {
        // The first write of all may not have come to the tables yet.
        facts(&copy.join("journal.db")).unwrap_or_default()
    } else {
        Vec::new()
    }
}

/// Of the running daemon's journal.
pub fn facts_now(daemon: &Daemon) -> Vec<Row> {
    facts(&daemon.path("state/journal.db")).unwrap_or_default()
}

/// Nothing that was there is gone or has changed.
pub fn assert_intact(before: &[Row], after: &[Row], when: &str) {
    assert!(after.len() >= before.len(), "{when}: {} facts were left, {} are there", before.len(), after.len());
    for (left, found) in before.iter().zip(after) {
        assert_eq!(left, found, "{when}");
    }
}

/// Every fact that the daemon told of (it tells only what is on disk) is in the journal, under its number.
pub fn assert_told_is_stored(daemon: &Daemon, stored: &[Row], when: &str) {
    let log = daemon.log();
    let mut told = 0;
    for line in log.lines() {
        let Some((kind, rest)) = line.split_once("metis.fact=\"").and_then(|(_, rest)| rest.split_once("\" metis.seq=")) else { continue };
        let seq: u64 = rest.split(' ').next().unwrap().parse().unwrap();
        let found = stored.iter().find(|fact| fact.seq == seq);
        assert_eq!(found.map(|fact| fact.kind.as_str()), Some(kind), "{when}: fact {seq} was told of\n{log}");
        told += 1;
    }
    assert!(told > 0, "{when}: no fact in the log\n{log}");
}

/// An image of Armbian shape: a gap, then one ext4. Made once.
static IMAGE: LazyLock<(tempfile::TempDir, PathBuf, String)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let (tree, disk) = (dir.path().join("tree"), dir.path().join("card.img"));
    for folder in ["etc/ssh", "etc/systemd/network", "usr/lib/systemd/system", "usr/bin", "var/lib"] {
        std::fs::create_dir_all(tree.join(folder)).unwrap();
    }
    let files = [
        ("etc/hostname", "golden\n"),
        ("etc/hosts", "127.0.0.1 localhost\n"),
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"),
        ("etc/group", "root:x:0:\n"),
        ("etc/shadow", "root:*:0:0:99999:7:::\n"),
        ("usr/lib/systemd/system/systemd-networkd.service", "[Unit]\n"),
    ];
    for (path, text) in files {
        std::fs::write(tree.join(path), text).unwrap();
    }
    // Something that takes a moment to write.
    std::fs::write(tree.join("var/lib/data"), b"data of the golden image ".repeat(8 * MIB as usize / 25)).unwrap();
    std::fs::File::create(&disk).unwrap().set_len(ROOT_AT + ROOT_LEN).unwrap();
    let table = format!("label: dos\nstart={},size={},type=83\n", ROOT_AT / 512, ROOT_LEN / 512);
    sh("sfdisk -q \"$1\" <<<\"$2\"", &[disk.to_str().unwrap(), &table]);
    let ext4 = "mkfs.ext4 -q -F -L root -d \"$1\" -E offset=$2 \"$3\" $4k";
    sh(ext4, &[tree.to_str().unwrap(), &ROOT_AT.to_string(), disk.to_str().unwrap(), &(ROOT_LEN / 1024).to_string()]);
    let sum = sh("sha256sum <\"$1\"", &[disk.to_str().unwrap()]).split_whitespace().next().unwrap().to_owned();
    (dir, disk, sum)
});

/// Runs a line of bash, which has to succeed; what it printed.
pub fn sh(line: &str, arguments: &[&str]) -> String {
    let output = Command::new("bash").args(["-euo", "pipefail", "-c", line, "bash"]).args(arguments).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{line} {arguments:?}: {out}{err}");
    out.into_owned()
}

/// A daemon, not started, with the node of this site.
pub fn site(config: &str) -> Daemon {
    let (_, image, sum) = &*IMAGE;
    let inventory = format!(
        "classes:\n  armbian:\n    arch: arm64\n    image: {{ url: \"file:{}\", sha256: {sum} }}\n    network: {{ renderer: networkd, \
         interface: end0, prefix: 24, gateway: 192.168.22.1 }}\nnodes:\n  {NODE}: {{ class: armbian, network: {{ address: 192.168.22.43 }} }}\n",
        image.display()
    );
    Daemon::new(&configuration(config), &inventory).unwrap()
}

/// The configuration of [`site`].
pub fn configuration(config: &str) -> String {
    format!("inventory: \"@DIR@/inventory.yaml\"\ncard: {{ free_space_floor: 1 MiB }}\n{config}")
}

/// What a card or a file that stands in for one was used for before: a partition table, and data.
static OLD_CARD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut card = b"an old card's data, ".repeat(CARD_LEN as usize / 20 + 1);
    card.truncate(CARD_LEN as usize);
    card[446..512].fill(0);
    card[446 + 4] = 0x0c;
    card[446 + 8..446 + 16].copy_from_slice(&[0, 8, 0, 0, 0, 128, 0, 0]);
    card[510..512].copy_from_slice(&[0x55, 0xaa]);
    card
});

/// Puts a used card, or a file that stands in for one, there.
pub fn old_card(path: &Path) {
    std::fs::write(path, &*OLD_CARD).unwrap();
}

/// What is found on a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Card {
    /// Not a byte differs from before.
    Untouched,
    /// No partition table, no spare one.
    Cleared,
    /// The node's, sound.
    Complete,
}

/// Looks at a card; anything else than one of [`Card`] fails.
pub fn look_at(path: &Path, when: &str) -> Card {
    let card = std::fs::read(path).unwrap();
    if card == *OLD_CARD {
        return Card::Untouched;
    }
    let spare = &card[card.len() - 512..];
    let table = card[510..512] == [0x55, 0xaa] || &card[512..520] == b"EFI PART" || &spare[..8] == b"EFI PART";
    if !table {
        return Card::Cleared;
    }
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    std::fs::write(&root, &card[ROOT_AT as usize..(ROOT_AT + ROOT_LEN) as usize]).unwrap();
    let fs = ext4_view::Ext4::load(Box::new(std::fs::read(&root).unwrap()))
        .unwrap_or_else(|error| panic!("{when}: a partition table over {error}"));
    assert_eq!(fs.read_to_string("/etc/hostname").unwrap().trim(), NODE, "{when}: a partition table over a card that is not the node's");
    let check = Command::new("e2fsck").arg("-fn").arg(&root).output().unwrap();
    assert!(check.status.success(), "{when}: {}", String::from_utf8_lossy(&check.stdout));
    Card::Complete
}

/// A UPS that is simulated in this process, and the configuration that watches it.
pub struct Outage {
    server: Mutex<NutServer>,
    runtime: tokio::runtime::Runtime,
}

impl Outage {
    pub const UPS: &str = "sim";

    /// Simulated time passes `speed` times as fast. The battery is low after 10 minutes and empty after 200.
    pub fn new(speed: f64) -> Self {
        Self::with(BatteryModel { capacity_wh: 100.0, load_w: 30.0, rated_w: 900.0, charger_w: 5000.0, low_percent: 95.0 }, speed)
    }

    /// With another battery.
    pub fn with(model: BatteryModel, speed: f64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let ups = SimulatedUps { name: Self::UPS.to_owned(), battery: Battery::new(model) };
        let server = runtime.block_on(NutServer::start(vec![ups], BTreeMap::new(), speed)).unwrap();
        Self { server: Mutex::new(server), runtime }
    }

    /// Section `power` for it: every poll counts at once.
    pub fn config(&self) -> String {
        let ups = self.ups();
        format!(
            "power: {{ poll_interval: 500ms, shutdown_budget: 5m, thresholds: {{ debounce_polls: 1 }}, upses: {{ \"{ups}\": {{}} }}, \
             domains: {{ rack: {{ upses: [\"{ups}\"], nodes: [{NODE}] }} }} }}\n"
        )
    }

    /// Its name in the configuration.
    pub fn ups(&self) -> String {
        format!("{}@127.0.0.1:{}", Self::UPS, self.server.lock().unwrap().address().port())
    }

    pub fn mains(&self, on: bool) {
        let _inside = self.runtime.enter();
        self.server.lock().unwrap().set_mains(Self::UPS, on);
    }
}

/// Waits until `ready`.
pub fn until(what: &str, patience: Duration, mut ready: impl FnMut() -> bool) {
    let until = Instant::now() + patience;
    while !ready() {
        assert!(Instant::now() < until, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
