//! metisd: see the library.

fn main() {}
