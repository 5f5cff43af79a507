//! metisd: see the library.

use std::process::ExitCode;

use metisd::host::service_manager;

fn main() -> ExitCode {
    // First of all, while this is the only thread.
    match service_manager::passed_listener() {
        Ok(passed) => metisd::app::main(std::env::args_os(), passed),
        Err(error) => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "metisd: the socket that systemd passed: {error}");
            ExitCode::FAILURE
        }
    }
}
