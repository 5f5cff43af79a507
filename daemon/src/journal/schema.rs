//! Tables of `journal.db`, and how an older database becomes a present one. Forward only.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::record::{Row, Stored, nanos};
use crate::site::{BootId, Now, RunId};

/// `PRAGMA application_id`: "METI".
pub(super) const APPLICATION_ID: i32 = 0x4d45_5449;

/// One step of the schema, within its own transaction.
pub(super) type Migration = fn(&Transaction<'_>) -> rusqlite::Result<()>;

/// Migration `n` makes version `n + 1`. Only ever appended to.
pub(super) const MIGRATIONS: &[Migration] = &[facts, openings];

fn facts(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch(
        "CREATE TABLE fact (
            seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, since_boot INTEGER NOT NULL, boot TEXT NOT NULL, synced INTEGER NOT NULL,
            kind TEXT NOT NULL, version INTEGER NOT NULL, run TEXT, payload TEXT NOT NULL,
            origin INTEGER NOT NULL, proposed INTEGER, crc INTEGER NOT NULL) STRICT;
         CREATE INDEX fact_run ON fact (run, seq) WHERE run IS NOT NULL;
         CREATE INDEX fact_kind ON fact (kind, seq);
         CREATE INDEX fact_proposed ON fact (origin, proposed) WHERE proposed IS NOT NULL;
         CREATE TABLE kind (kind TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (kind, version)) STRICT, WITHOUT ROWID;
         CREATE TABLE checkpoint (seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, payload TEXT NOT NULL, crc INTEGER NOT NULL) STRICT;",
    )
}

/// Who wrote: one row per opening for writing. Writing it proves at the start that the journal can be written.
fn openings(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch(
        "CREATE TABLE opening (origin INTEGER PRIMARY KEY, at INTEGER NOT NULL, boot TEXT NOT NULL,
            probes INTEGER NOT NULL DEFAULT 0) STRICT;",
    )
}

/// What a file turns out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing in it yet.
    Empty,
    /// A journal of this version.
    Version(usize),
    /// A database, but no journal.
    Foreign,
}

/// Looks without writing.
pub(super) fn identify(conn: &Connection) -> rusqlite::Result<Found> {
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let id: i32 = conn.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    match (tables, id) {
        (0, 0 | APPLICATION_ID) => Ok(Found::Empty),
        (_, APPLICATION_ID) => {
            let select = "SELECT max(version), count(*) FROM schema_version";
            let (version, steps): (Option<i64>, i64) = conn.query_row(select, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
            // Every step leaves its row: a number beyond them is no newer metis, but damage.
            let version = version.filter(|version| *version == steps).and_then(|version| usize::try_from(version).ok());
            Ok(version.map_or(Found::Foreign, Found::Version))
        }
        _ => Ok(Found::Foreign),
    }
}

/// Brings a database from version `from` to the newest, each step in its own transaction.
pub(super) fn migrate(conn: &mut Connection, from: usize, migrations: &[Migration], now: &Now) -> rusqlite::Result<()> {
    for (index, migration) in migrations.iter().enumerate().skip(from) {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if index == 0 {
            tx.pragma_update(None, "application_id", APPLICATION_ID)?;
            tx.execute_batch("CREATE TABLE schema_version (version INTEGER PRIMARY KEY, at INTEGER NOT NULL) STRICT;")?;
        }
        migration(&tx)?;
        tx.execute("INSERT INTO schema_version (version, at) VALUES (?1, ?2)", params![index as i64 + 1, nanos(now.wall)])?;
        tx.commit()?;
    }
    Ok(())
}

/// Columns in the order that [`read`] expects.
pub(super) const COLUMNS: &str = "seq, at, since_boot, boot, synced, kind, version, run, payload, origin, crc";

/// A row and whether its checksum is right.
pub(super) fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<(Row, bool)> {
    let fact = Stored {
        seq: row.get::<_, i64>(0)? as u64,
        at: jiff::Timestamp::from_nanosecond(i128::from(row.get::<_, i64>(1)?)).unwrap_or_default(),
        since_boot: std::time::Duration::from_nanos(row.get::<_, i64>(2)? as u64),
        boot_id: BootId::new(row.get::<_, String>(3)?),
        synced: row.get(4)?,
        kind: row.get(5)?,
        version: row.get::<_, i64>(6)? as u16,
        run: row.get::<_, Option<String>>(7)?.map(RunId::new),
        payload: row.get(8)?,
    };
    let sound = i64::from(fact.checksum()) == row.get::<_, i64>(10)?;
    Ok((Row { origin: row.get(9)?, proposed: None, fact }, sound))
}

/// Inserts a fact; one that is there already (same place, same origin) stays as it is.
pub(super) fn insert(tx: &Transaction<'_>, row: &Row) -> rusqlite::Result<()> {
    if is_stored(tx, row)? {
        return Ok(());
    }
    let fact = &row.fact;
    tx.prepare_cached("INSERT OR IGNORE INTO kind (kind, version) VALUES (?1, ?2)")?.execute(params![fact.kind, fact.version])?;
    tx.prepare_cached(
        "INSERT INTO fact (seq, at, since_boot, boot, synced, kind, version, run, payload, origin, proposed, crc)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?
    .execute(params![
        fact.seq as i64,
        nanos(fact.at),
        fact.since_boot.as_nanos() as i64,
        fact.boot_id.as_str(),
        fact.synced,
        fact.kind,
        fact.version,
        fact.run.as_ref().map(RunId::as_str),
        fact.payload,
        row.origin,
        row.proposed.map(|seq| seq as i64),
        i64::from(fact.checksum()),
    ])?;
    Ok(())
}

/// Whether this very fact is in the database, under its own number or under a later one.
pub(super) fn is_stored(conn: &Connection, row: &Row) -> rusqlite::Result<bool> {
    let (origin, number) = row.id();
    conn.prepare_cached(
        "SELECT 1 FROM fact WHERE seq = ?2 AND origin = ?1 AND proposed IS NULL
         UNION ALL SELECT 1 FROM fact WHERE origin = ?1 AND proposed = ?2 LIMIT 1",
    )?
    .query_row(params![origin, number as i64], |_| Ok(()))
    .optional()
    .map(|found| found.is_some())
}
