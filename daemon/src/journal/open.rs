//! Opens the journal, whatever is found: only a second instance is refused.

use std::fs;
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::database::{self, Loaded, Refusal};
use super::handle::{Journal, Parts, Sink};
use super::lock::{self, Lock};
use super::reader::{Database, Reader};
use super::record::{Row, Stored};
use super::shared::Shared;
use super::spill::{self, Spill, Spilled};
use super::writer::{Hook, Retention, Writer, identity_of};
use super::{OpenError, aside};
use crate::site::Now;

/// What the journal is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The state directory; created where it is missing.
    pub dir: PathBuf,
    /// The spill file, on tmpfs (`/run/metis/spill.jsonl`). It must survive a restart of the daemon (`RuntimeDirectoryPreserve=`).
    pub spill: PathBuf,
    /// Whether this metis understands facts of a kind and version. A journal with others opens read-only.
    pub understands: fn(&str, u16) -> bool,
    /// How long an append may take.
    pub deadline: Duration,
    /// How many appends may wait.
    pub queue: usize,
    /// What is pruned.
    pub retention: Retention,
    /// For tests of what a disk does.
    pub hook: Option<Hook>,
}

impl Options {
    /// The defaults: every fact is understood, 1 s, 256 appends.
    pub fn new(dir: impl Into<PathBuf>, spill: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            spill: spill.into(),
            understands: |_, _| true,
            deadline: Duration::from_secs(1),
            queue: 256,
            retention: Retention::default(),
            hook: None,
        }
    }
}

/// What can be done with the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// All is well, or the disk is full: the next append tells.
    ReadWrite,
    /// History can be read; nothing is appended (newer metis wrote it, or the directory cannot be written).
    ReadOnly {
        /// Why, and what to do.
        why: String,
    },
    /// No history, and nothing is appended.
    Memory {
        /// Why, and what to do.
        why: String,
    },
}

/// An open journal and what recovery needs.
#[derive(Debug)]
pub struct Opened {
    /// The handle.
    pub journal: Journal,
    /// What can be done with it.
    pub mode: Mode,
    /// The newest checkpoint: sequence number and payload.
    pub checkpoint: Option<(u64, String)>,
    /// Every fact after the checkpoint, in order; those that an earlier instance could only spill included.
    pub tail: Vec<Stored>,
    /// What a person should know: a journal that was set aside, a missing lock, lines of the spill file that were not understood.
    pub problems: Vec<String>,
}

/// What opening found so far.
struct Ground {
    writer: Option<rusqlite::Connection>,
    reader: Option<Database>,
    mode: Mode,
    loaded: Loaded,
}

/// Opens `<dir>/journal.db`. Blocks; a hung disk holds it.
///
/// - A corrupt journal is renamed to `journal.db.corrupt-<utc>` and a fresh one begun.
/// - One that a newer metis wrote, or that cannot be written, opens read-only.
/// - Where neither works, facts go to memory and to the spill file.
///
/// # Errors
/// Where another instance holds the state directory, or no thread can be started.
pub fn open(options: Options, now: &Now) -> Result<Opened, OpenError> {
    let mut problems = Vec::new();
    if let Err(error) = make_dir(&options.dir) {
        problems.push(format!("the state directory {} cannot be made: {error}", options.dir.display()));
    }
    let (lock, problem) = lock::acquire(&options.dir, options.spill.parent())?;
    problems.extend(problem);
    let spilled = read_spill(&options.spill, now, &mut problems);
    let origin = new_origin(now);
    let mut ground = prepare(&options, &spilled, now, &mut problems);
    let rows = database::place(&ground.loaded, &spilled);
    let mut trouble = match &ground.mode {
        Mode::ReadWrite => None,
        Mode::ReadOnly { why } | Mode::Memory { why } => Some(why.clone()),
    };
    let mut backlog = rows.clone();
    let mut retract = spilled.withdrawn.clone();
    if let Some(conn) = &mut ground.writer {
        match database::merge(conn, origin, &rows, &retract, now) {
            Ok(()) => {
                backlog.clear();
                retract.clear();
                if let Err(error) = spill::remove(&options.spill) {
                    problems.push(format!("the spill file {} was merged but not removed: {error}", options.spill.display()));
                }
            }
            Err(error) => {
                // No problem of the start alone: it goes when the disk is back.
                trouble = Some(format!("the journal cannot be written at present: {error}"));
            }
        }
    }
    let Loaded { checkpoint, mut tail, last_seq, .. } = ground.loaded;
    tail.retain(|row| !spilled.withdrawn.iter().any(|range| range.covers(row)));
    let next_seq = rows.last().map_or(last_seq, |row| row.fact.seq) + 1;
    tail.extend(rows);
    let shared = Arc::new(Shared::new(origin, next_seq, backlog, retract, trouble));
    let journal = start(options, ground.writer, ground.reader, &ground.mode, shared, lock).map_err(OpenError::Thread)?;
    let tail = tail.into_iter().map(|row: Row| row.fact).collect();
    Ok(Opened { journal, mode: ground.mode, checkpoint, tail, problems })
}

/// Finds the best ground there is.
fn prepare(options: &Options, spilled: &Spilled, now: &Now, problems: &mut Vec<String>) -> Ground {
    let path = super::handle::database(&options.dir);
    let mut refusal = match database::open(&path, options.understands, spilled, now) {
        Ok(opened) => return writable(path, opened, problems),
        Err(refusal) => refusal,
    };
    if let Refusal::Corrupt(why) = &refusal {
        match aside::set_aside(&path, now) {
            Ok(kept) => {
                problems.push(format!("the journal was corrupt ({why}); it is kept as {}, a fresh one was begun", kept.display()));
                match database::open(&path, options.understands, spilled, now) {
                    Ok(opened) => return writable(path, opened, problems),
                    Err(next) => refusal = next,
                }
            }
            Err(error) => refusal = Refusal::Unreachable(format!("{why}, and it cannot be set aside: {error}")),
        }
    }
    let why = match refusal {
        Refusal::Newer(why) => why,
        Refusal::Corrupt(why) | Refusal::Unreachable(why) => {
            format!("the journal {} cannot be written: {why} (restart metisd once that is mended)", path.display())
        }
    };
    match database::open_read_only(&path, spilled) {
        Ok((reader, loaded)) => Ground { writer: None, reader: Some(reader), mode: Mode::ReadOnly { why }, loaded },
        Err(Refusal::Corrupt(also) | Refusal::Newer(also) | Refusal::Unreachable(also)) => {
            let why = if why.contains(&also) { why } else { format!("{why}; nor read: {also}") };
            Ground { writer: None, reader: None, mode: Mode::Memory { why }, loaded: Loaded::default() }
        }
    }
}

fn writable(path: PathBuf, (conn, loaded, problem): (rusqlite::Connection, Loaded, Option<String>), problems: &mut Vec<String>) -> Ground {
    problems.extend(problem);
    Ground { writer: Some(conn), reader: Some(Database { path, immutable: false }), mode: Mode::ReadWrite, loaded }
}

fn start(
    options: Options,
    conn: Option<rusqlite::Connection>,
    reader: Option<Database>,
    mode: &Mode,
    shared: Arc<Shared>,
    lock: Lock,
) -> std::io::Result<Journal> {
    let lock = Arc::new(lock);
    let spill = Spill::start(options.spill)?;
    let reader = Reader::new(reader, shared.clone());
    let sink = match (conn, mode) {
        (Some(conn), _) => {
            let (commands, receiver) = sync_channel(options.queue);
            let path = super::handle::database(&options.dir);
            let writer = Writer {
                conn,
                identity: identity_of(&path),
                path,
                shared: shared.clone(),
                spill: spill.clone(),
                retention: options.retention,
                hook: options.hook,
                prune: None,
                _lock: lock.clone(),
            };
            let thread = std::thread::Builder::new().name("journal".into()).spawn(move || writer.run(&receiver))?;
            Sink::Writer { commands, thread: Mutex::new(Some(thread)) }
        }
        (None, Mode::ReadOnly { why } | Mode::Memory { why }) => Sink::None(why.clone()),
        (None, Mode::ReadWrite) => Sink::None("the journal is not open for writing".into()),
    };
    Ok(Journal { parts: Arc::new(Parts { shared, spill, deadline: options.deadline, reader, sink, _lock: lock }) })
}

/// What an earlier instance could not write.
fn read_spill(path: &Path, now: &Now, problems: &mut Vec<String>) -> Spilled {
    let spilled = spill::read(path).unwrap_or_else(|error| {
        problems.push(format!("the spill file {} cannot be read, its facts are missing: {error}", path.display()));
        Spilled::default()
    });
    if spilled.bad > 0 {
        let kept = spill::keep_copy(path, now).map_or_else(|error| format!("no copy: {error}"), |kept| format!("copy: {}", kept.display()));
        problems.push(format!("{} lines of the spill file {} were not understood ({kept})", spilled.bad, path.display()));
    }
    spilled
}

/// Creates the state directory for its owner alone, and makes its entry durable.
fn make_dir(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if dir.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    aside::sync_parent(dir)
}

/// A number that no other opening has: std seeds its hasher from the operating system.
fn new_origin(now: &Now) -> i64 {
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write(now.boot_id.as_str().as_bytes());
    hasher.write_u128(now.boot.as_nanos());
    hasher.write_u32(std::process::id());
    (hasher.finish() >> 1) as i64
}
