//! The laboratory itself: what its parts promise to the tests that use them.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

mod flux;
mod front;
mod plane;
mod pods;
mod storage;
