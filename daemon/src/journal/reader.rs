//! History queries on read-only connections. Blocking: call within `spawn_blocking`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, ToSql, params_from_iter};

use super::ReadError;
use super::record::{Row, Stored};
use super::schema::{self, COLUMNS};
use super::shared::Shared;
use crate::site::RunId;

/// Connections that are kept open between queries.
const POOL: usize = 4;

/// Reads facts: those of the database and those that still wait for the disk. Clones share connections.
#[derive(Debug, Clone)]
pub struct Reader {
    source: Arc<Source>,
}

#[derive(Debug)]
struct Source {
    /// `None`: there is no database that can be read.
    database: Option<Database>,
    shared: Arc<Shared>,
    pool: Mutex<Vec<Connection>>,
}

/// A database to be read.
#[derive(Debug, Clone)]
pub(super) struct Database {
    pub path: PathBuf,
    /// Nobody writes it, and SQLite may put no files beside it.
    pub immutable: bool,
}

impl Database {
    pub(super) fn open(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        let conn = Connection::open_with_flags(uri(&self.path, self.immutable), flags)?;
        conn.busy_timeout(Duration::from_secs(2))?;
        Ok(conn)
    }
}

/// `file:` URI (sqlite.org/uri.html) with everything escaped that has a meaning there.
fn uri(path: &Path, immutable: bool) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt as _;
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            byte => {
                let _ = write!(uri, "%{byte:02X}");
            }
        }
    }
    uri + if immutable { "?immutable=1" } else { "" }
}

impl Reader {
    pub(super) fn new(database: Option<Database>, shared: Arc<Shared>) -> Self {
        Self { source: Arc::new(Source { database, shared, pool: Mutex::default() }) }
    }

    /// Facts with `seq >= from`, oldest first, at most `limit`.
    pub fn facts(&self, from: u64, limit: usize) -> Result<Vec<Stored>, ReadError> {
        self.select("seq >= ?1 ORDER BY seq LIMIT ?2", &[&(from as i64), &(limit as i64)], |fact| fact.seq >= from, Order::Oldest(limit))
    }

    /// Facts of a run with `seq >= from`, oldest first, at most `limit`.
    pub fn of_run(&self, run: &RunId, from: u64, limit: usize) -> Result<Vec<Stored>, ReadError> {
        self.select(
            "run = ?1 AND seq >= ?2 ORDER BY seq LIMIT ?3",
            &[&run.as_str(), &(from as i64), &(limit as i64)],
            |fact| fact.run.as_ref() == Some(run) && fact.seq >= from,
            Order::Oldest(limit),
        )
    }

    /// Facts of a kind (e.g. audit entries) with `seq < before`, newest first, at most `limit`.
    pub fn of_kind(&self, kind: &str, before: Option<u64>, limit: usize) -> Result<Vec<Stored>, ReadError> {
        let before = before.unwrap_or(i64::MAX as u64);
        self.select(
            "kind = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3",
            &[&kind, &(before as i64), &(limit as i64)],
            |fact| fact.kind == kind && fact.seq < before,
            Order::Newest(limit),
        )
    }

    /// The first fact of each run (its admission) with `seq < before`, newest run first, at most `limit`.
    pub fn runs(&self, before: Option<u64>, limit: usize) -> Result<Vec<Stored>, ReadError> {
        let before = before.unwrap_or(i64::MAX as u64);
        let mut firsts = self.select(
            "seq IN (SELECT min(seq) AS first FROM fact WHERE run IS NOT NULL GROUP BY run HAVING first < ?1
                ORDER BY first DESC LIMIT ?2) ORDER BY seq DESC",
            &[&(before as i64), &(limit as i64)],
            |_| false,
            Order::Newest(limit),
        )?;
        // A run whose facts wait for the disk may have begun in the database, beyond what was asked for.
        let waiting: BTreeSet<_> = self.source.shared.lock().backlog.iter().filter_map(|row| row.fact.run.clone()).collect();
        for run in waiting {
            firsts.retain(|fact| fact.run.as_ref() != Some(&run));
            firsts.extend(self.of_run(&run, 0, 1)?.into_iter().filter(|fact| fact.seq < before));
        }
        firsts.sort_by_key(|fact| std::cmp::Reverse(fact.seq));
        firsts.truncate(limit);
        Ok(firsts)
    }

    /// How many facts there are.
    pub fn count(&self) -> Result<u64, ReadError> {
        let stored = self.with(0, |conn| conn.query_row("SELECT count(*) FROM fact", [], |row| row.get::<_, i64>(0)))?;
        Ok(stored as u64 + self.source.shared.lock().backlog.len() as u64)
    }

    /// The number of the newest fact; 0: none yet.
    pub fn last_seq(&self) -> u64 {
        self.source.shared.lock().next_seq - 1
    }

    /// Rows of the database that match `sql` and waiting ones that match `waiting`.
    fn select(&self, sql: &str, args: &[&dyn ToSql], waiting: impl Fn(&Stored) -> bool, order: Order) -> Result<Vec<Stored>, ReadError> {
        // Before the database is read: what is written in between is then seen twice, not missed.
        let (backlog, retract) = {
            let inner = self.source.shared.lock();
            (inner.backlog.iter().filter(|row| waiting(&row.fact)).cloned().collect::<Vec<_>>(), inner.retract.clone())
        };
        let sql = format!("SELECT {COLUMNS} FROM fact WHERE {sql}");
        let mut rows: Vec<(Row, bool)> =
            self.with(Vec::new(), |conn| conn.prepare_cached(&sql)?.query_map(params_from_iter(args), schema::read)?.collect())?;
        rows.retain(|(row, _)| !retract.iter().any(|range| range.covers(row)));
        if let (Some((row, _)), Some(database)) = (rows.iter().find(|(_, sound)| !sound), &self.source.database) {
            return Err(ReadError::Damaged { path: database.path.clone(), seq: row.fact.seq });
        }
        let mut facts: Vec<_> = rows.into_iter().map(|(row, _)| row).chain(backlog).map(|row| row.fact).collect();
        facts.sort_by_key(|fact| fact.seq);
        facts.dedup_by_key(|fact| fact.seq);
        order.apply(&mut facts);
        Ok(facts)
    }

    /// Runs a query on a connection of the pool; without a database, the answer is `none`.
    fn with<T>(&self, none: T, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, ReadError> {
        let Some(database) = &self.source.database else { return Ok(none) };
        let pool = || self.source.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let pooled = pool().pop();
        let answer = pooled.map_or_else(|| database.open(), Ok).and_then(|conn| query(&conn).map(|answer| (conn, answer)));
        // A connection that failed is not kept.
        let (conn, answer) = answer.map_err(|source| ReadError::Sqlite { path: database.path.clone(), source })?;
        let mut pool = pool();
        if pool.len() < POOL {
            pool.push(conn);
        }
        Ok(answer)
    }
}

/// Order and bound of an answer.
#[derive(Debug, Clone, Copy)]
enum Order {
    Oldest(usize),
    Newest(usize),
}

impl Order {
    fn apply(self, facts: &mut Vec<Stored>) {
        match self {
            Self::Oldest(limit) => facts.truncate(limit),
            Self::Newest(limit) => {
                facts.reverse();
                facts.truncate(limit);
            }
        }
    }
}
