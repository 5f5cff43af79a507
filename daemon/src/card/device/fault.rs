//! Why a card was not written, in words that survive the way from the card writer to the person.

use std::io;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::guard::bytes;

/// What the card writer gave up for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// For those who branch on it.
    pub kind: FaultKind,
    /// Byte of the device; `None` where no single place is to blame.
    pub offset: Option<u64>,
    /// What failed, where, why, and what to do.
    pub message: String,
}

/// Kinds of [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The medium or its reader failed (EIO and all that has no name of its own).
    Medium,
    /// The device ended before the size that it claims (ENOSPC).
    Full,
    /// The device went away (ENODEV).
    Gone,
    /// What was read back is not what was written, three times.
    Verify,
    /// Reading past the page cache is not possible, so nothing could be proved.
    Cached,
    /// Somebody asked to stop, or the daemon went away.
    Aborted,
    /// The other end does not keep to the protocol.
    Protocol,
    /// A reason before the first byte: the device could not be opened or looked at.
    Setup,
}

impl Fault {
    /// A fault of no particular place.
    pub(super) fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { kind, offset: None, message: message.into() }
    }

    /// A failed system call, at `offset` where that is known; `gone`: the device is no longer there.
    pub(super) fn io(what: &str, path: &str, offset: Option<u64>, error: &io::Error, gone: bool) -> Self {
        let kind = if gone { FaultKind::Gone } else { kind(error) };
        let advice = match kind {
            FaultKind::Gone => "the device is gone; plug it in again and burn again",
            FaultKind::Full => "the device is smaller than it says; do not use it",
            _ => "the card or its reader is failing; try another card, then another reader",
        };
        let at = offset.map(|offset| format!(" at offset {offset} ({})", bytes(offset))).unwrap_or_default();
        Self { kind, offset, message: format!("{what} {path}{at}: {error}: {advice}") }
    }

    /// `offset` was read back wrong too often.
    pub(super) fn verify(path: &str, offset: u64, bad: usize, tries: u32, why: &str) -> Self {
        let message = format!(
            "verifying {path} at offset {offset} ({}): {why} (tried {tries} time(s), {bad} bad place(s)): the card is failing or is \
             smaller than it says; do not use it",
            bytes(offset)
        );
        Self { kind: FaultKind::Verify, offset: Some(offset), message }
    }
}

fn kind(error: &io::Error) -> FaultKind {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC) => FaultKind::Full,
        Some(Errno::ENODEV | Errno::ENXIO | Errno::ENOMEDIUM) => FaultKind::Gone,
        _ => FaultKind::Medium,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_place_and_what_to_do() {
        for (errno, kind, advice) in [
            (Errno::EIO, FaultKind::Medium, "try another card"),
            (Errno::ENOSPC, FaultKind::Full, "smaller than it says"),
            (Errno::ENODEV, FaultKind::Gone, "plug it in again"),
            (Errno::ENOMEDIUM, FaultKind::Gone, "plug it in again"),
        ] {
            let fault = Fault::io("writing", "/dev/sdz", Some(12_582_912), &io::Error::from(errno), false);
            assert_eq!((fault.kind, fault.offset), (kind, Some(12_582_912)));
            assert!(fault.message.starts_with("writing /dev/sdz at offset 12582912 (12.6 MB): "), "{fault}");
            assert!(fault.message.contains(advice), "{fault}");
        }
        assert_eq!(Fault::io("writing", "/dev/sdz", None, &io::Error::from(Errno::EIO), true).kind, FaultKind::Gone);
    }
}
