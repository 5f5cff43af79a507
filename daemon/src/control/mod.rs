//! The only owner of State: decide, apply, and the mailbox loop around them.

mod apply;
mod comeback;
mod decide;
mod draft;
mod effect;
mod event;
mod fact;
mod failpoint;
mod fold;
mod handle;
mod history;
mod mailbox;
mod outage;
mod port;
mod recover;
mod repair;
mod request;
mod state;
pub mod takeover;
mod tell;
#[cfg(test)]
mod tests;
mod view;

pub use apply::apply;
pub use decide::{Decision, Order, decide};
pub use effect::{Effect, Job, ProgressSink, StepProgress};
pub use event::{Event, Reply, Request};
pub use fact::{Adopted, Audit, DecodeError, Fact, Prepared, Stamp, Told};
pub use fold::fold;
pub use handle::{Handle, HandleError};
pub use history::fold_run;
pub use mailbox::{Mailbox, Options};
pub use port::FactLog;
pub use repair::{RepairEnd, RepairRecord};
pub use state::{Belief, ClaimRecord, GoingDown, Life, PreparedRecord, RUNS_KEPT, Raised, RunRecord, SettingsState, State, TriggerRecord};
pub use tell::RUN_REPORT;
pub use view::{JournalView, View};
