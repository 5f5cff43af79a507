//! metisctl: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    metisctl::main()
}
