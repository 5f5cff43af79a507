//! metisctl: see the library.

fn main() {}
