//! Tables and properties of the core, and the mailbox over a fake journal.

mod mailbox;
mod recovery;
mod support;
mod table;
