//! Who gives way to whom: rules by kind of run, each one `match` without `_`, so that a new kind has to answer every question.

use std::collections::BTreeSet;

use crate::runbook::Runbook;
use crate::site::Step;

/// Images that are streamed at once, at most: each holds a decoder and competes for the cache's disk.
pub const IMAGES_AT_ONCE: usize = 4;

/// What kind of thing a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Writes a card.
    Burn,
    /// Streams an image to the caller.
    Image,
    /// Stops the cluster.
    Shutdown,
    /// Starts the cluster.
    Startup,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Burn, Self::Image, Self::Shutdown, Self::Startup];

    /// As in [`Runbook::kind`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Burn => "burn",
            Self::Image => "image",
            Self::Shutdown => "shutdown",
            Self::Startup => "startup",
        }
    }

    /// The kind of that name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What becomes of a newcomer, in view of a run that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takeover {
    /// Both run.
    Beside,
    /// The newcomer is refused, because of this.
    Refused(&'static str),
    /// The run that is under way is cancelled.
    Preempts,
    /// The run that is under way goes on, and does what the newcomer wants as well.
    Raises,
}

/// The table. `clash`: both write to the same device, or stop the same host. `emergency`: a UPS asks for the newcomer.
pub fn takeover(newcomer: Kind, running: Kind, clash: bool, emergency: bool) -> Takeover {
    use Kind::{Burn, Image, Shutdown, Startup};
    use Takeover::{Beside, Preempts, Raises, Refused};
    match (newcomer, running) {
        (Burn, Burn) if clash => Refused("it writes to the same device"),
        (Shutdown, Shutdown) if clash && emergency => Raises,
        (Shutdown, Shutdown) if clash => Refused("it stops some of the same hosts"),
        (Burn | Startup, Burn | Image) | (Image, Burn | Image | Startup) | (Shutdown, Shutdown) => Beside,
        (Burn | Image, Shutdown) => Refused("the site is being shut down"),
        (Burn, Startup) => Refused("the cluster is being started"),
        (Shutdown, Burn | Image | Startup) => Preempts,
        (Startup, Shutdown) => Refused("the site is being shut down, and a shutdown is not undone half-way"),
        (Startup, Startup) => Refused("a start-up is under way"),
    }
}

/// What an ordered stop of the daemon does to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStop {
    /// It is cancelled, and the stop waits for its end.
    Cancel,
    /// It is left as it is and resumed by the next metisd of the same boot.
    Leave,
}

/// See [`OnStop`].
pub fn on_stop(kind: Kind) -> OnStop {
    match kind {
        Kind::Burn | Kind::Image => OnStop::Cancel,
        Kind::Shutdown | Kind::Startup => OnStop::Leave,
    }
}

/// What becomes of a run that an earlier life of the daemon left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRestart {
    /// It goes on.
    Resume,
    /// It is closed as failed.
    CloseFailed,
    /// It is closed as interrupted.
    CloseInterrupted,
}

/// See [`OnRestart`].
pub fn on_restart(kind: Kind, same_boot: bool) -> OnRestart {
    match (kind, same_boot) {
        (Kind::Burn | Kind::Image, true | false) => OnRestart::CloseFailed,
        (Kind::Shutdown | Kind::Startup, true) => OnRestart::Resume,
        (Kind::Shutdown | Kind::Startup, false) => OnRestart::CloseInterrupted,
    }
}

/// Whether runs of that kind wait while facts do not reach the disk. A shutdown never does.
pub fn needs_journal(kind: Kind) -> bool {
    match kind {
        Kind::Burn | Kind::Image | Kind::Startup => true,
        Kind::Shutdown => false,
    }
}

/// Whether runs of that kind are begun on a host that goes down. What stops the site is: whoever powers this host off may not know why.
pub fn begins_on_a_host_that_goes_down(kind: Kind) -> bool {
    match kind {
        Kind::Burn | Kind::Image | Kind::Startup => false,
        Kind::Shutdown => true,
    }
}

/// Whether two plans write to the same device (by path, or by `diskseq` where the kernel has one), or work on the same host.
pub fn clash(one: &Runbook<Step>, other: &Runbook<Step>) -> bool {
    let hosts = |book: &Runbook<Step>| book.steps().filter_map(|step| step.action.host().cloned()).collect::<BTreeSet<_>>();
    if !hosts(one).is_disjoint(&hosts(other)) {
        return true;
    }
    devices(one).any(|(path, seq)| devices(other).any(|(other_path, other_seq)| path == other_path || (seq != 0 && seq == other_seq)))
}

fn devices(book: &Runbook<Step>) -> impl Iterator<Item = (&std::path::Path, u64)> {
    book.steps().filter_map(|step| match &step.action {
        Step::WriteCard { device, diskseq, .. } => Some((device.as_path(), *diskseq)),
        _ => None,
    })
}
