//! What a test needs of the machine. What is missing is said in one line; under `CI=true` that fails.

/// Says that `test` cannot run, and why.
///
/// # Panics
/// Under `CI=true`, where nothing may be left out.
#[allow(clippy::print_stdout, reason = "the line is the result")]
pub fn not_run(test: &str, why: &str) {
    use std::io::Write as _;
    let line = format!("NOT RUN: {test}: {why}");
    println!("{line}");
    // The runner hides what a passing test prints; `tests/run` shows this file.
    if let Some(path) = std::env::var_os("METIS_NOT_RUN")
        && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(path)
    {
        let _ = writeln!(file, "{line}");
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "under CI=true nothing may be left out: {test}: {why}");
}

/// Whether all `programs` (absolute paths, or names on `PATH`) are there; says what is not.
pub fn programs(test: &str, programs: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let there = |p: &&&str| {
        std::path::Path::new(p).is_absolute() && std::path::Path::new(p).exists()
            || path.split(':').any(|dir| std::path::Path::new(dir).join(p).exists())
    };
    let absent: Vec<_> = programs.iter().filter(|p| !there(p)).copied().collect();
    if absent.is_empty() {
        return true;
    }
    not_run(test, &format!("not installed: {} (tests/run installs it when root)", absent.join(", ")));
    false
}

/// Whether this is root; says so if not.
pub fn root(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    not_run(test, "needs root");
    false
}
