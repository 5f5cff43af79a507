//! Exit codes: part of the interface.

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A guard or the caller's role refused it.
    Refused = 3,
    /// metisd cannot be reached.
    Unreachable = 4,
    /// Done, but not all of it.
    Degraded = 5,
    /// Ended by Ctrl-C or SIGTERM (128 + SIGINT, as shells say it): the outcome of a run is not known here.
    Interrupted = 130,
}

impl Exit {
    /// The number that the process ends with.
    pub fn code(self) -> u8 {
        self as u8
    }
}
