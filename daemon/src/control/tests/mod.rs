//! Tables and properties of the core, and the mailbox over a fake journal.

mod comeback;
mod crash;
mod mailbox;
mod outage;
mod raised;
mod recovery;
mod repairs;
mod support;
mod table;
