//! Facts that the journal could not take, as JSON lines in a file on tmpfs: they survive the daemon, and metis merges them at its next
//! good start of the same boot. Its own thread, so that a hung file never holds the mailbox.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::aside;
use super::record::{Row, Withdrawn};
use crate::site::Now;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Fact(Row),
    Withdrawn(Withdrawn),
}

/// What a spill file held.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Spilled {
    pub rows: Vec<Row>,
    pub withdrawn: Vec<Withdrawn>,
    /// Lines that could not be understood; the last one is torn when the daemon was killed while writing it.
    pub bad: usize,
}

/// Reads a spill file; none is an empty one.
pub(super) fn read(path: &Path) -> io::Result<Spilled> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Spilled::default()),
        other => other?,
    };
    let mut spilled = Spilled::default();
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(Line::Fact(row)) => spilled.rows.push(row),
            Ok(Line::Withdrawn(range)) => spilled.withdrawn.push(range),
            Err(_) => spilled.bad += 1,
        }
    }
    Ok(spilled)
}

/// Keeps a copy of a file of which not every line was understood. Answers its name.
pub(super) fn keep_copy(path: &Path, now: &Now) -> io::Result<PathBuf> {
    let kept = aside::free_name(path, "kept", now)?;
    fs::copy(path, &kept).map(|_| kept)
}

/// Removes a file whose facts are in the journal.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

enum Command {
    Write(Vec<Line>, Option<oneshot::Sender<Result<(), String>>>),
    Clear,
}

/// The thread that writes the file. It ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub(super) struct Spill {
    commands: SyncSender<Command>,
}

impl Spill {
    pub(super) fn start(path: PathBuf) -> io::Result<Self> {
        let (commands, receiver) = sync_channel(1024);
        std::thread::Builder::new().name("journal-spill".into()).spawn(move || serve(&path, &receiver))?;
        Ok(Self { commands })
    }

    /// Answers through the channel; where the queue is full, the channel is closed without an answer.
    pub(super) fn write(&self, lines: Vec<Line>) -> oneshot::Receiver<Result<(), String>> {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.try_send(Command::Write(lines, Some(reply)));
        answer
    }

    /// Without waiting for the outcome.
    pub(super) fn note(&self, line: Line) {
        let _ = self.commands.try_send(Command::Write(vec![line], None));
    }

    /// Everything written before is in the journal. A missed clear does no harm: merging skips what is there.
    pub(super) fn clear(&self) {
        let _ = self.commands.try_send(Command::Clear);
    }
}

fn serve(path: &Path, commands: &Receiver<Command>) {
    while let Ok(command) = commands.recv() {
        match command {
            Command::Write(lines, reply) => {
                let outcome = append(path, &lines).map_err(|error| format!("{}: {error}", path.display()));
                if let Some(reply) = reply {
                    let _ = reply.send(outcome);
                }
            }
            Command::Clear => {
                if let Err(error) = remove(path) {
                    tracing::warn!(path = %path.display(), %error, "spill file not removed; its facts are in the journal");
                }
            }
        }
    }
}

fn append(path: &Path, lines: &[Line]) -> io::Result<()> {
    let mut bytes = Vec::new();
    // A line torn by a kill must not swallow the first of these.
    bytes.push(b'\n');
    for line in lines {
        serde_json::to_writer(&mut bytes, line)?;
        bytes.push(b'\n');
    }
    let mut file: File = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(&bytes)?;
    file.sync_data()
}
