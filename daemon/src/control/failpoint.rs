//! Ends or hangs the process at a chosen place, for the tests of crashes. Builds without debug assertions have none of it.

/// `METIS_FAILPOINT`: `journal.before:N` and `journal.after:N` kill the process (SIGKILL) before and after the N-th journal write of its
/// life, `mailbox.hang:N` hangs the control loop at its N-th turn.
#[derive(Debug, Default)]
pub(super) struct Failpoint {
    #[cfg(debug_assertions)]
    armed: Option<(String, u64)>,
    #[cfg(debug_assertions)]
    passed: std::collections::BTreeMap<&'static str, u64>,
}

impl Failpoint {
    /// As the environment says.
    pub(super) fn from_environment() -> Self {
        #[cfg(debug_assertions)]
        {
            let armed = std::env::var("METIS_FAILPOINT").ok().and_then(|text| {
                let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
                Some((name.to_owned(), count.parse().ok()?))
            });
            Self { armed, ..Self::default() }
        }
        #[cfg(not(debug_assertions))]
        Self::default()
    }

    /// Kills the process where this is the place.
    pub(super) fn kill_at(&mut self, name: &'static str) {
        #[cfg(debug_assertions)]
        if self.reached(name) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
        }
        #[cfg(not(debug_assertions))]
        let _ = (self, name);
    }

    /// Never comes back where this is the place.
    pub(super) async fn hang_at(&mut self, name: &'static str) {
        #[cfg(debug_assertions)]
        if self.reached(name) {
            tracing::error!(name, "METIS_FAILPOINT: hanging");
            std::future::pending::<()>().await;
        }
        #[cfg(not(debug_assertions))]
        let _ = (self, name);
    }

    #[cfg(debug_assertions)]
    fn reached(&mut self, name: &'static str) -> bool {
        let passed = self.passed.entry(name).or_default();
        *passed += 1;
        self.armed.as_ref().is_some_and(|(armed, count)| armed == name && count == passed)
    }
}
