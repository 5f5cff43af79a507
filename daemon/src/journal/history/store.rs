//! The tables of `ups-history.db`.

use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::fold::{bucket, fold};
use super::{History, Sample, Transition};
use crate::journal::aside;
use crate::journal::database::Refusal;
use crate::journal::record::nanos;
use crate::site::{Now, Verdict};

/// `PRAGMA application_id`: "METU".
const APPLICATION_ID: i32 = 0x4d45_5455;
const VERSION: i32 = 1;
/// Rows that one step of downsampling reads.
const SLICE: usize = 5000;
/// Downsampling is looked at this often.
const COMPACT_EVERY: SignedDuration = SignedDuration::from_mins(15);
/// Everything older is removed.
const KEEP: SignedDuration = SignedDuration::from_hours(2 * 365 * 24);

/// Samples of resolution `from` that are older than `age` become one of resolution `from + 1` per `width`.
struct Level {
    from: u8,
    age: SignedDuration,
    width: SignedDuration,
}

const LEVELS: [Level; 2] = [
    Level { from: 0, age: SignedDuration::from_hours(24), width: SignedDuration::from_mins(1) },
    Level { from: 1, age: SignedDuration::from_hours(30 * 24), width: SignedDuration::from_mins(15) },
];

/// Something to be written.
#[derive(Debug, Clone)]
pub(super) enum Row {
    Sample(Sample),
    Transition(Transition),
}

pub(super) struct Store {
    conn: Connection,
    compacted: Option<Timestamp>,
    /// The last step of downsampling left something.
    more: bool,
}

impl Store {
    /// See [`super::UpsHistory::open`].
    pub(super) fn open(path: &Path, now: &Now) -> rusqlite::Result<(Self, Option<String>)> {
        let (conn, problem) = match open_file(path) {
            Ok(conn) => (conn, None),
            Err(Refusal::Corrupt(why)) => match aside::set_aside(path, now).map_err(|error| error.to_string()) {
                Ok(kept) => match open_file(path) {
                    Ok(conn) => (conn, Some(format!("the UPS history was corrupt ({why}); it is kept as {}", kept.display()))),
                    Err(refusal) => in_memory(&text(refusal))?,
                },
                Err(error) => in_memory(&format!("{why}, and it cannot be set aside: {error}"))?,
            },
            Err(refusal) => in_memory(&text(refusal))?,
        };
        Ok((Self { conn, compacted: None, more: false }, problem))
    }

    pub(super) fn write(&mut self, rows: &[Row]) -> rusqlite::Result<()> {
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for row in rows {
            match row {
                Row::Sample(sample) => insert(&tx, 0, id_of(&tx, &sample.name)?, sample)?,
                Row::Transition(transition) => {
                    tx.prepare_cached("INSERT INTO transition (ups, at, before, after, reason) VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(
                        params![
                            id_of(&tx, &transition.name)?,
                            nanos(transition.at),
                            word(transition.from),
                            word(transition.to),
                            transition.reason
                        ],
                    )?;
                }
            }
        }
        tx.commit()
    }

    pub(super) fn query(&self, name: &str, from: Timestamp, to: Timestamp, limit: usize) -> rusqlite::Result<History> {
        let ups: Option<i64> = self.conn.query_row("SELECT id FROM ups WHERE name = ?1", [name], |row| row.get(0)).optional()?;
        let Some(ups) = ups else { return Ok(History::default()) };
        let limit = limit.clamp(1, 100_000);
        let span = params![ups, nanos(from), nanos(to)];
        let (count, first, last): (i64, Option<i64>, Option<i64>) = self.conn.query_row(
            "SELECT count(*), min(at), max(at) FROM sample WHERE res IN (0, 1, 2) AND ups = ?1 AND at >= ?2 AND at < ?3",
            span,
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        let mut select = self.conn.prepare(
            "SELECT at, status, charge, runtime, load FROM sample WHERE res IN (0, 1, 2) AND ups = ?1 AND at >= ?2 AND at < ?3 ORDER BY at",
        )?;
        let mut failed = None;
        let samples = select.query_map(span, |row| read(row, name))?.map_while(|sample| sample.map_err(|error| failed = Some(error)).ok());
        let samples: Vec<_> = if count as usize <= limit {
            samples.collect()
        } else {
            let (first, last) = (first.unwrap_or(0), last.unwrap_or(0));
            let width = (i128::from(last) - i128::from(first)) / limit as i128 + 1;
            fold(samples, time(first), width)
        };
        match failed {
            Some(error) => Err(error),
            None => Ok(History { samples, transitions: self.transitions(ups, name, from, to, limit)? }),
        }
    }

    fn transitions(&self, ups: i64, name: &str, from: Timestamp, to: Timestamp, limit: usize) -> rusqlite::Result<Vec<Transition>> {
        let mut select = self.conn.prepare(
            "SELECT at, before, after, reason FROM transition WHERE ups = ?1 AND at >= ?2 AND at < ?3 ORDER BY at DESC, rowid DESC LIMIT ?4",
        )?;
        let rows = select.query_map(params![ups, nanos(from), nanos(to), limit as i64], |row| {
            Ok(Transition {
                at: time(row.get(0)?),
                name: name.to_owned(),
                from: verdict(&row.get::<_, String>(1)?),
                to: verdict(&row.get::<_, String>(2)?),
                reason: row.get(3)?,
            })
        })?;
        let mut transitions = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        transitions.reverse();
        Ok(transitions)
    }

    /// Whether [`Store::compact`] should be called again soon.
    pub(super) fn compacting(&self) -> bool {
        self.more
    }

    /// One bounded step of downsampling; nothing where the last complete one was just now.
    pub(super) fn compact(&mut self, now: Timestamp) -> rusqlite::Result<()> {
        let due = self.compacted.is_none_or(|at| at.duration_until(now).abs() >= COMPACT_EVERY);
        if !self.more && !due {
            return Ok(());
        }
        // Set again below: a failure waits for the next time.
        self.more = false;
        self.compacted = Some(now);
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let upses = tx
            .prepare("SELECT id, name FROM ups")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<Vec<(i64, String)>, _>>()?;
        let mut more = false;
        let horizon = nanos(now.saturating_sub(KEEP).unwrap_or(Timestamp::MIN));
        for (ups, name) in &upses {
            for level in &LEVELS {
                // A coarser level waits until the finer one is complete, or it would get a part of an interval at a time.
                if downsample(&tx, *ups, name, level, now)? {
                    more = true;
                    break;
                }
            }
            for sql in [
                "DELETE FROM sample WHERE (res, ups, at) IN (
                    SELECT res, ups, at FROM sample WHERE res IN (0, 1, 2) AND ups = ?1 AND at < ?2 LIMIT ?3)",
                "DELETE FROM transition WHERE rowid IN (SELECT rowid FROM transition WHERE ups = ?1 AND at < ?2 LIMIT ?3)",
            ] {
                more |= tx.execute(sql, params![ups, horizon, SLICE as i64])? == SLICE;
            }
        }
        tx.commit()?;
        self.more = more;
        Ok(())
    }
}

fn downsample(tx: &Connection, ups: i64, name: &str, level: &Level, now: Timestamp) -> rusqlite::Result<bool> {
    let width = level.width.as_nanos();
    let epoch = Timestamp::UNIX_EPOCH;
    let cutoff = now.saturating_sub(level.age).unwrap_or(Timestamp::MIN);
    // Whole intervals only.
    let cutoff = nanos(Timestamp::from_nanosecond(bucket(cutoff, epoch, width) * width).unwrap_or(Timestamp::MIN));
    let mut rows = tx
        .prepare_cached(
            "SELECT at, status, charge, runtime, load FROM sample WHERE res = ?1 AND ups = ?2 AND at < ?3 ORDER BY at LIMIT ?4",
        )?
        .query_map(params![level.from, ups, cutoff, SLICE as i64], |row| read(row, name))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let more = rows.len() == SLICE;
    let Some(last) = rows.last().map(|sample| bucket(sample.at, epoch, width)) else { return Ok(false) };
    if more && rows.first().is_some_and(|first| bucket(first.at, epoch, width) != last) {
        // The last interval may go on in the next slice.
        rows.retain(|sample| bucket(sample.at, epoch, width) != last);
    }
    let end = rows.last().map_or(i64::MIN, |sample| nanos(sample.at));
    tx.execute("DELETE FROM sample WHERE res = ?1 AND ups = ?2 AND at <= ?3", params![level.from, ups, end])?;
    for sample in fold(rows, epoch, width) {
        insert(tx, level.from + 1, ups, &sample)?;
    }
    Ok(more)
}

fn open_file(path: &Path) -> Result<Connection, Refusal> {
    let conn = Connection::open(path)?;
    conn.busy_timeout(Duration::from_secs(1))?;
    let id: i32 = conn.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let version: i32 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match (id, version) {
        (0, 0) | (APPLICATION_ID, VERSION) => {}
        (APPLICATION_ID, _) => return Err(Refusal::Newer(format!("{} was written by a newer metis", path.display()))),
        _ => return Err(Refusal::Corrupt("it is a database, but not a UPS history of metis".into())),
    }
    let answer: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if answer != "ok" {
        return Err(Refusal::Corrupt(answer));
    }
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "NORMAL")?;
    set_up(&conn)?;
    Ok(conn)
}

fn set_up(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "BEGIN IMMEDIATE;
         CREATE TABLE IF NOT EXISTS ups (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
         CREATE TABLE IF NOT EXISTS sample (
            res INTEGER NOT NULL, ups INTEGER NOT NULL, at INTEGER NOT NULL, status TEXT NOT NULL, charge REAL, runtime REAL, load REAL,
            PRIMARY KEY (res, ups, at)) STRICT, WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS transition (
            ups INTEGER NOT NULL, at INTEGER NOT NULL, before TEXT NOT NULL, after TEXT NOT NULL, reason TEXT NOT NULL) STRICT;
         CREATE INDEX IF NOT EXISTS transition_at ON transition (ups, at);",
    )?;
    conn.pragma_update(None, "application_id", APPLICATION_ID)?;
    conn.pragma_update(None, "user_version", VERSION)?;
    conn.execute_batch("COMMIT")
}

fn in_memory(why: &str) -> rusqlite::Result<(Connection, Option<String>)> {
    let conn = Connection::open_in_memory()?;
    set_up(&conn)?;
    Ok((conn, Some(format!("UPS history is kept in memory alone: {why} (restart metisd once that is mended)"))))
}

fn text(refusal: Refusal) -> String {
    match refusal {
        Refusal::Corrupt(why) | Refusal::Newer(why) | Refusal::Unreachable(why) => why,
    }
}

fn id_of(conn: &Connection, name: &str) -> rusqlite::Result<i64> {
    let found = conn.prepare_cached("SELECT id FROM ups WHERE name = ?1")?.query_row([name], |row| row.get(0)).optional()?;
    match found {
        Some(id) => Ok(id),
        None => conn.query_row("INSERT INTO ups (name) VALUES (?1) RETURNING id", [name], |row| row.get(0)),
    }
}

fn insert(conn: &Connection, res: u8, ups: i64, sample: &Sample) -> rusqlite::Result<()> {
    // Two readings of one instant: the wall clock was set back.
    conn.prepare_cached("INSERT OR REPLACE INTO sample (res, ups, at, status, charge, runtime, load) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
        .execute(params![
            res,
            ups,
            nanos(sample.at),
            sample.status,
            sample.charge,
            sample.runtime.map(|runtime| runtime.as_secs_f64()),
            sample.load
        ])
        .map(|_| ())
}

fn read(row: &rusqlite::Row<'_>, name: &str) -> rusqlite::Result<Sample> {
    Ok(Sample {
        at: time(row.get(0)?),
        name: name.to_owned(),
        status: row.get(1)?,
        charge: row.get(2)?,
        runtime: row.get::<_, Option<f64>>(3)?.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        load: row.get(4)?,
    })
}

fn time(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_default()
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Online => "online",
        Verdict::Unknown => "unknown",
        Verdict::OnBattery => "on_battery",
        Verdict::Critical => "critical",
    }
}

fn verdict(word: &str) -> Verdict {
    [Verdict::Online, Verdict::OnBattery, Verdict::Critical]
        .into_iter()
        .find(|verdict| self::word(*verdict) == word)
        .unwrap_or(Verdict::Unknown)
}
