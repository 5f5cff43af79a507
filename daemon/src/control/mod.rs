//! The only owner of State: decide, apply, and the mailbox loop around them.

mod effect;
mod event;
mod fact;
mod handle;
mod state;
mod view;

pub use effect::{Effect, Job, ProgressSink, StepProgress};
pub use event::{Event, Reply, Request};
pub use fact::{Adopted, Audit, DecodeError, Fact, Stamp, Told};
pub use handle::{Handle, HandleError, Letter};
pub use state::{Belief, Life, RUNS_KEPT, RunRecord, SettingsState, State, TriggerRecord};
pub use view::{JournalView, View, Volatile};
