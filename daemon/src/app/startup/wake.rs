//! Magic packets to a host that is off, until it is on.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::LOOK_EVERY;
use super::power::fails;
use crate::app::perform::permanent;
use crate::app::shutdown::Attempt;
use crate::host::port::HostError;
use crate::runbook::StepResult;
use crate::site::{Host, NodeName, UpsName};

/// Pause after the first packet; it doubles with each further one, because a host that boots must not be taken for one that sleeps.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

impl Attempt<'_> {
    /// Ends once the host answers, whoever switched it on. Whether it lets us in is its gate's to say.
    pub(super) async fn wake(&self, node: &NodeName) -> StepResult {
        let host = match self.parts.host(node) {
            Ok(host) => host,
            Err(why) => return permanent(why),
        };
        let (mut sent, mut pause, mut next) = (0_u32, FIRST_PAUSE, Instant::now());
        let mut said = String::new();
        loop {
            if !self.is_off(host).await {
                let packets = if sent == 0 { "no magic packet was needed".to_owned() } else { format!("after {sent} magic packets") };
                return StepResult::Done { detail: format!("{node} is on, {packets}") };
            }
            if Instant::now() >= next {
                let now = match self.not_now(host) {
                    Some(why) => format!("no magic packet is sent: {why}"),
                    None => match self.parts.waker.wake(host).await {
                        Ok(()) => {
                            sent += 1;
                            next = Instant::now() + pause;
                            pause = (pause * 2).min(LONGEST_PAUSE);
                            "magic packets are sent".to_owned()
                        }
                        Err(error) => error.to_string(),
                    },
                };
                if said != now {
                    self.tell(now.clone()).await;
                    said = now;
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Nothing there answers; one that refuses us is on.
    async fn is_off(&self, host: &Host) -> bool {
        matches!(self.parts.hosts.probe(host, self.left()).await, Err(HostError::Unreachable(_) | HostError::TimedOut(_)))
    }

    /// Why nothing more is woken: a second outage has begun. What is switched on now may have to be switched off at once.
    fn not_now(&self, host: &Host) -> Option<String> {
        if self.held() {
            return Some("the run is held".to_owned());
        }
        let view = self.handle.view();
        let feeds = |name: &UpsName| {
            host.domains.iter().filter_map(|domain| self.parts.topology.domains.get(domain)).any(|upses| upses.contains(name))
        };
        let failing = view.power.iter().flat_map(|power| &power.upses).find(|ups| fails(ups) && feeds(&ups.name));
        failing.map(|ups| format!("{} runs on battery", ups.name))
    }
}
