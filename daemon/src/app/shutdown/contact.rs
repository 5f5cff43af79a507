//! The first word to a host in a step: one that is gone does not hold up the others.

use std::time::Duration;

use super::Attempt;
use crate::app::perform::{failed, permanent};
use crate::host::port::HostError;
use crate::runbook::StepResult;
use crate::site::{Access, Host};

impl Attempt<'_> {
    /// How long a host's first answer is waited for.
    pub(super) fn patience(&self) -> Duration {
        self.left().min(self.parts.settings.shutdown.unreachable_timeout)
    }

    /// What became of the first thing that was asked of a host: who says nothing is out of reach, and where that is so since an earlier
    /// step he is not asked again in this one.
    pub(super) fn first<T>(&self, host: &Host, answer: Result<T, HostError>) -> Result<T, StepResult> {
        match answer {
            Err(HostError::Unreachable(detail) | HostError::TimedOut(detail)) => {
                let still = self.world.unreached(&self.job.run, &self.job.step, &host.name);
                Err(if still { permanent(detail) } else { StepResult::Unreached { detail } })
            }
            answer => {
                self.world.reached(&self.job.run, &host.name);
                answer.map_err(of_host)
            }
        }
    }

    /// Whether a host over SSH is there, before it is asked for what takes its time.
    pub(super) async fn contact(&self, host: &Host) -> Result<(), StepResult> {
        match host.access {
            Access::Ssh => self.first(host, self.parts.hosts.probe(host, self.patience()).await),
            Access::Local | Access::HelperPod | Access::None => Ok(()),
        }
    }
}

/// What a host's answer means for the step.
pub(in crate::app) fn of_host(error: HostError) -> StepResult {
    match error {
        HostError::Unreachable(detail) => StepResult::Unreached { detail },
        HostError::Refused(detail) | HostError::Denied(detail) => permanent(detail),
        HostError::Failed(detail) | HostError::TimedOut(detail) => failed(detail),
    }
}
