//! Whether this host commands, while a start-up is under way.

use std::time::Duration;

use crate::app::shutdown::Attempt;
use crate::runbook::StepResult;
use crate::site::{Judged, LeaseView};

/// An older look at the Lease says nothing.
const LOOK_AGE: Duration = Duration::from_secs(20);

impl Attempt<'_> {
    /// The Lease is ours, or, where that is enough, the API does not answer. `None`: the site has no other metis host.
    pub(super) fn commands(&self, silence_will_do: bool) -> Judged {
        if self.parts.peers.is_none() {
            return Judged::Ready("the site has no other metis host".to_owned());
        }
        let now = self.world.now().boot;
        let view = self.world.desk().lease_view(LOOK_AGE, now).cloned();
        let Some(view) = view else { return Judged::CannotTell("the Lease was not looked at yet".to_owned()) };
        let text = view.text();
        match view {
            LeaseView::Ours => Judged::Ready(text),
            LeaseView::Silent(_) if silence_will_do => Judged::Ready(text),
            LeaseView::Silent(_) => Judged::CannotTell(text),
            LeaseView::Free | LeaseView::Theirs { .. } | LeaseView::Unsure { .. } => Judged::NotReady { why: text, done: 0 },
        }
    }

    /// Nothing is changed while somebody else holds the Lease.
    pub(super) fn unless_another_commands(&self) -> Result<(), StepResult> {
        let now = self.world.now().boot;
        let view = self.world.desk().lease_view(LOOK_AGE, now).cloned();
        match view.filter(|view| self.parts.peers.is_some() && view.other().is_some()) {
            Some(view) => Err(StepResult::Failed { detail: format!("another host commands: {}", view.text()), permanent: false }),
            None => Ok(()),
        }
    }
}
