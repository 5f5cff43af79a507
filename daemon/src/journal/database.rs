//! The database file: opened, judged, read for recovery.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, params};

use super::aside::{sync_parent, with_suffix};
use super::reader::Database;
use super::record::{Row, Withdrawn, nanos};
use super::schema::{self, COLUMNS, Found, MIGRATIONS};
use super::spill::Spilled;
use super::writer::{checkpoint_crc, take_out};
use crate::site::Now;

/// How every SQLite file begins (sqlite.org/fileformat2.html, 1.3).
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Why a file is not written to.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It is damaged, or no journal.
    Corrupt(String),
    /// A newer metis wrote it.
    Newer(String),
    /// It cannot be reached at present: rights, space, I/O.
    Unreachable(String),
}

/// What recovery reads.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub checkpoint: Option<(u64, String)>,
    pub tail: Vec<Row>,
    pub last_seq: u64,
    /// Spilled facts that are in the database: origin and number at spilling.
    pub known: HashSet<(i64, u64)>,
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        /// SQLITE_IOERR_SHORT_READ: a file shorter than its own header says.
        const SHORT_READ: i32 = 522;
        /// SQLITE_IOERR_SHMSIZE: no space for the index of the log.
        const NO_INDEX: i32 = 4874;
        let text = error.to_string();
        match error.sqlite_error() {
            Some(code) if code.extended_code == SHORT_READ => Self::Corrupt(text),
            Some(code) if code.extended_code == NO_INDEX => Self::Unreachable("no space left on its file system".into()),
            Some(code) => match code.code {
                ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::OutOfMemory => Self::Unreachable(text),
                _ => Self::Corrupt(text),
            },
            None => Self::Corrupt(text),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Unreachable(error.to_string())
    }
}

/// A database that is written to, what recovery reads from it, and a problem that did not prevent it.
pub(super) type Writable = (Connection, Loaded, Option<String>);

/// Opens for writing: creates or migrates, checks, reads.
pub(super) fn open(path: &Path, understands: fn(&str, u16) -> bool, spilled: &Spilled, now: &Now) -> Result<Writable, Refusal> {
    ensure_file(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(Duration::from_secs(1))?;
    // Until it is accepted: closing would write the log into a file that is to be kept as it is.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    if conn.is_readonly("main")? {
        return Err(Refusal::Unreachable("its file or file system is read-only".into()));
    }
    let version = match schema::identify(&conn)? {
        Found::Empty => 0,
        Found::Version(version) => version,
        Found::Foreign => return Err(Refusal::Corrupt("it is a database, but not a journal of metis".into())),
    };
    refuse_newer(&conn, path, version, understands)?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    // After a burst the log shrinks again.
    conn.pragma_update(None, "journal_size_limit", 4 << 20)?;
    let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Refusal::Unreachable(format!("its file system has no write-ahead log (journal_mode is {mode})")));
    }
    check(&conn)?;
    schema::migrate(&mut conn, version, MIGRATIONS, now)?;
    let (loaded, problem) = load(&conn, spilled)?;
    if version == 0 {
        sync_parent(path)?;
    }
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok((conn, loaded, problem))
}

/// Opens for reading alone.
pub(super) fn open_read_only(path: &Path, spilled: &Spilled) -> Result<(Database, Loaded), Refusal> {
    if !path.exists() {
        return Err(Refusal::Unreachable("there is none yet".into()));
    }
    let plain = Database { path: path.to_owned(), immutable: false };
    let attempt = |database: Database| -> Result<_, Refusal> {
        let (loaded, _) = load(&database.open()?, spilled)?;
        Ok((database, loaded))
    };
    attempt(plain).or_else(|refusal| {
        // A read-only directory: SQLite cannot make its index of the log. Without a log there is nothing to index.
        let log = fs::metadata(with_suffix(path, "-wal")).map_or(0, |meta| meta.len());
        if log == 0 { attempt(Database { path: path.to_owned(), immutable: true }) } else { Err(refusal) }
    })
}

/// Creates the file, readable for its owner alone (SQLite gives its companions the same rights), and makes its entry durable.
fn ensure_file(path: &Path) -> Result<(), Refusal> {
    let length = match fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error.into()),
    };
    // SQLite deletes the log of an empty database: what is in it would be lost.
    if length == 0 && fs::metadata(with_suffix(path, "-wal")).is_ok_and(|meta| meta.len() > 0) {
        return Err(Refusal::Corrupt("the database is empty or missing, its write-ahead log is not".into()));
    }
    if length > 0 {
        let mut magic = Vec::new();
        File::open(path)?.take(MAGIC.len() as u64).read_to_end(&mut magic)?;
        return if magic == MAGIC { Ok(()) } else { Err(Refusal::Corrupt("it is no SQLite database".into())) };
    }
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    sync_parent(path)?;
    Ok(())
}

fn refuse_newer(conn: &Connection, path: &Path, version: usize, understands: fn(&str, u16) -> bool) -> Result<(), Refusal> {
    let newer = |what: String| {
        Refusal::Newer(format!(
            "the journal {} was written by a newer metis ({what}): it is only read; install that metis again, or move the file away",
            path.display()
        ))
    };
    if version > MIGRATIONS.len() {
        return Err(newer(format!("schema {version}, this one knows {}", MIGRATIONS.len())));
    }
    if version == 0 {
        return Ok(());
    }
    let mut kinds = conn.prepare("SELECT kind, version FROM kind")?;
    let mut kinds = kinds.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)? as u16)))?;
    kinds.try_for_each(|kind| {
        let (kind, version) = kind?;
        if understands(&kind, version) { Ok(()) } else { Err(newer(format!("fact {kind} version {version}"))) }
    })
}

/// Structure of every page; values are checked by their own checksums when they are read.
fn check(conn: &Connection) -> Result<(), Refusal> {
    let answer: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if answer == "ok" { Ok(()) } else { Err(Refusal::Corrupt(answer)) }
}

/// Checkpoint and tail; a damaged checkpoint is passed over for the one before, a damaged fact refuses the file.
fn load(conn: &Connection, spilled: &Spilled) -> Result<(Loaded, Option<String>), Refusal> {
    let mut problem = None;
    let mut checkpoint = None;
    let mut checkpoints = conn.prepare("SELECT seq, payload, crc FROM checkpoint ORDER BY seq DESC")?;
    let mut checkpoints = checkpoints.query([])?;
    let mut oldest = 0;
    while let Some(row) = checkpoints.next()? {
        let (seq, payload, crc): (i64, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        oldest = seq;
        if checkpoint.is_none() && checkpoint_crc(seq as u64, &payload) == crc {
            checkpoint = Some((seq as u64, payload));
        } else if checkpoint.is_none() {
            problem = Some(format!("the checkpoint at {seq} was damaged; replayed from the one before"));
        }
    }
    if problem.is_some() && checkpoint.is_none() {
        return Err(Refusal::Corrupt("every checkpoint is damaged".into()));
    }
    let after = checkpoint.as_ref().map_or(0, |(seq, _)| *seq);
    let mut tail = Vec::new();
    let mut facts = conn.prepare(&format!("SELECT {COLUMNS} FROM fact WHERE seq > ?1 ORDER BY seq"))?;
    for row in facts.query_map([after as i64], schema::read)? {
        let (row, sound) = row?;
        if !sound {
            return Err(Refusal::Corrupt(format!("fact {} is damaged (its checksum is wrong)", row.fact.seq)));
        }
        tail.push(row);
    }
    let mut known = HashSet::new();
    for row in &spilled.rows {
        if schema::is_stored(conn, row)? {
            known.insert(row.id());
        }
    }
    let stored: Option<i64> = conn.query_row("SELECT max(seq) FROM fact", [], |row| row.get(0))?;
    let last_seq = stored.unwrap_or(0).max(oldest).max(after as i64) as u64;
    Ok((Loaded { checkpoint, tail, last_seq, known }, problem))
}

/// Gives spilled facts their place behind what the database holds; those it holds already are left out.
pub(super) fn place(loaded: &Loaded, spilled: &Spilled) -> Vec<Row> {
    let mut last = loaded.last_seq;
    let mut rows = Vec::new();
    for row in &spilled.rows {
        if loaded.known.contains(&row.id()) {
            continue;
        }
        let mut row = row.clone();
        if row.fact.seq <= last {
            row.proposed = Some(row.id().1);
            row.fact.seq = last + 1;
        }
        last = row.fact.seq;
        rows.push(row);
    }
    rows
}

/// Records this opening and what an earlier instance owed, in one transaction.
pub(super) fn merge(conn: &mut Connection, origin: i64, rows: &[Row], withdrawn: &[Withdrawn], now: &Now) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute("INSERT INTO opening (origin, at, boot) VALUES (?1, ?2, ?3)", params![origin, nanos(now.wall), now.boot_id.as_str()])?;
    tx.execute("DELETE FROM opening WHERE origin NOT IN (SELECT origin FROM opening ORDER BY at DESC LIMIT 100)", [])?;
    for range in withdrawn {
        take_out(&tx, range)?;
    }
    for row in rows {
        schema::insert(&tx, row)?;
    }
    tx.commit()
}
