//! The only owner of State: decide, apply, and the mailbox loop around them.
