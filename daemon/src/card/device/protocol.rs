//! What the daemon and the card writer say to each other: frames of `kind (1 byte), length (4 bytes, little endian), payload`.
//! Control frames carry JSON, data frames a chunk's number (4 bytes, little endian) and its bytes. Every length is bounded.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::chunk::CHUNK;
use super::fault::Fault;
use crate::site::Guard;

/// Spoken by both ends; another one is refused.
pub(super) const VERSION: u32 = 1;
const CONTROL: u8 = b'C';
const DATA: u8 = b'D';
/// 65,536 extents take less than 3 MB of JSON.
const MAX_CONTROL: u32 = 4 << 20;
const INDEX: u32 = 4;
const MAX_DATA: u32 = CHUNK as u32 + INDEX;

/// From the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// The first frame.
    Begin(Begin),
    /// Stop, and leave no partition table behind.
    Abort,
}

/// What is to be written, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begin {
    pub version: u32,
    pub device: PathBuf,
    pub diskseq: u64,
    pub allow_fixed: bool,
    pub size: u64,
    /// Offset and length.
    pub extents: Vec<(u64, u64)>,
}

/// From the card writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    /// The device is open; nothing has been written yet.
    Ready { device: PathBuf, serial: String },
    /// The device may not be written.
    Refused { guards: Vec<Guard> },
    /// Send these chunks now: `from..to`.
    Send { from: u32, to: u32 },
    /// Bytes that are on the medium, and bytes read back.
    Progress { written: u64, verified: u64, total: u64 },
    /// A stage is over.
    Milestone(Milestone),
    /// The end: the card is good.
    Done(Summary),
    /// The end: it is not.
    Failed(Fault),
}

/// Stages worth recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Milestone {
    /// Everything but the ends of the card is on the medium.
    BodyWritten,
    /// And was read back.
    BodyVerified,
    /// The partition table is on the medium and was read back.
    TableWritten,
}

/// A finished card.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// What was written to, e.g. `/dev/sdz`.
    pub device: PathBuf,
    /// Its serial number or CID; may be empty.
    pub serial: String,
    /// Bytes written and read back, each once.
    pub bytes: u64,
    /// Milliseconds spent writing, flushes included.
    pub write_ms: u64,
    /// Milliseconds spent reading back.
    pub verify_ms: u64,
    /// Whether the page cache was passed by (O_DIRECT); else it was flushed and dropped before reading back.
    pub direct: bool,
    /// Chunks that had to be written again.
    pub rewritten: u32,
    /// What a person should know though the card is good.
    pub warnings: Vec<String>,
}

impl Summary {
    /// MB/s while writing.
    pub fn write_rate(&self) -> f64 {
        rate(self.bytes, self.write_ms)
    }

    /// MB/s while reading back.
    pub fn verify_rate(&self) -> f64 {
        rate(self.bytes, self.verify_ms)
    }
}

fn rate(bytes: u64, ms: u64) -> f64 {
    bytes as f64 / 1000.0 / ms.max(1) as f64
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// JSON of this many bytes follows.
    Control(usize),
    /// The bytes of chunk `index` follow.
    Data { index: usize, len: usize },
}

/// Writes a control frame.
pub(super) fn write_control(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_vec(message)?;
    if json.len() as u64 > u64::from(MAX_CONTROL) {
        return Err(invalid(format!("a control frame of {} bytes is too long", json.len())));
    }
    let mut frame = Vec::with_capacity(json.len() + 5);
    frame.push(CONTROL);
    frame.extend((json.len() as u32).to_le_bytes());
    frame.extend(json);
    to.write_all(&frame)
}

/// Writes a data frame; `bytes` is at most [`CHUNK`].
pub(super) fn write_data(to: &mut impl Write, index: u32, bytes: &[u8]) -> io::Result<()> {
    let mut head = [DATA, 0, 0, 0, 0, 0, 0, 0, 0];
    head[1..5].copy_from_slice(&(bytes.len() as u32 + INDEX).to_le_bytes());
    head[5..].copy_from_slice(&index.to_le_bytes());
    to.write_all(&head)?;
    to.write_all(bytes)
}

/// Reads the head of the next frame; `None`: the other end closed between two frames.
pub(super) fn read_frame(from: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut kind = [0];
    loop {
        match from.read(&mut kind) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let len = read_u32(from)?;
    match kind[0] {
        CONTROL if len <= MAX_CONTROL => Ok(Some(Frame::Control(len as usize))),
        DATA if (INDEX..=MAX_DATA).contains(&len) => {
            let index = read_u32(from)? as usize;
            Ok(Some(Frame::Data { index, len: (len - INDEX) as usize }))
        }
        CONTROL | DATA => Err(invalid(format!("a frame of {len} bytes is too long or too short"))),
        kind => Err(invalid(format!("frame kind {kind:#04x} is not known"))),
    }
}

/// Reads the JSON of a control frame.
pub(super) fn read_control<T: DeserializeOwned>(from: &mut impl Read, len: usize) -> io::Result<T> {
    let mut json = vec![0; len];
    from.read_exact(&mut json)?;
    serde_json::from_slice(&json).map_err(|error| invalid(format!("control frame: {error}")))
}

fn read_u32(from: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

pub(super) fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::chunk::MAX_EXTENTS;
    use super::*;

    #[test]
    fn the_largest_begin_fits() {
        let begin = Begin {
            version: VERSION,
            device: "/dev/sdz".into(),
            diskseq: u64::MAX,
            allow_fixed: false,
            size: u64::MAX,
            extents: vec![(1 << 43, 1 << 40); MAX_EXTENTS],
        };
        let mut wire = Vec::new();
        write_control(&mut wire, &Request::Begin(begin.clone())).unwrap();
        let mut from = wire.as_slice();
        let Some(Frame::Control(len)) = read_frame(&mut from).unwrap() else { panic!("not a control frame") };
        assert_eq!(read_control::<Request>(&mut from, len).unwrap(), Request::Begin(begin));
        assert_eq!(read_frame(&mut from).unwrap(), None);
    }

    #[test]
    fn an_end_within_a_frame_is_an_error() {
        let mut wire = Vec::new();
        write_data(&mut wire, 3, &[7; 100]).unwrap();
        for cut in 1..9 {
            assert_eq!(read_frame(&mut &wire[..cut]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
        assert_eq!(read_frame(&mut wire.as_slice()).unwrap(), Some(Frame::Data { index: 3, len: 100 }));
    }

    #[test]
    fn lengths_are_bounded_before_memory_is_taken() {
        for (kind, len) in [(CONTROL, MAX_CONTROL + 1), (DATA, MAX_DATA + 1), (DATA, 3), (CONTROL, u32::MAX), (b'X', 4)] {
            let mut wire = vec![kind];
            wire.extend(len.to_le_bytes());
            wire.extend([0; 8]);
            assert_eq!(read_frame(&mut wire.as_slice()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    proptest! {
        #[test]
        fn hostile_frames_never_panic(wire in prop::collection::vec(any::<u8>(), 0..200), control in 0..3u8) {
            let mut framed = vec![CONTROL, wire.len() as u8, 0, 0, 0];
            framed.extend(&wire);
            let wire = if control == 0 { wire } else { framed };
            let mut from = wire.as_slice();
            while let Ok(Some(frame)) = read_frame(&mut from) {
                if let Frame::Control(len) = frame {
                    let _ = read_control::<Request>(&mut from.take(len as u64), len);
                    let _ = read_control::<Reply>(&mut from, len);
                }
            }
        }
    }
}
