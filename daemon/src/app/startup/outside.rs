//! Gates that are judged from outside: the hosts of the ingress, the checklist of services, the addresses behind critical Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::Instant;

use crate::app::shutdown::Attempt;
use crate::cluster::IngressSettings;
use crate::cluster::exposed::{Exposed, HostSeen};
use crate::cluster::startup::{exposed, judge};
use crate::probe::port::{Answer, Ask, Place, Silence, Trust, Verify};
use crate::probe::{self, NOBODYS_HOST};
use crate::site::{Judged, Scheme, Target};

/// So long one service may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Services that are asked side by side.
const AT_ONCE: usize = 8;
/// While all is stable it is asked from outside no more often.
const OUTSIDE_EVERY: Duration = Duration::from_secs(15);

type Answered = Result<Answer, Silence>;

impl Attempt<'_> {
    /// Every check of every service.
    pub(super) async fn services(&self) -> Judged {
        let checks: Vec<(String, probe::Check)> = {
            let services = self.parts.settings.startup.services.iter();
            services.flat_map(|service| probe::checks(service).into_iter().map(|check| (service.name.clone(), check))).collect()
        };
        let answers = self.ask(checks.iter().map(|(_, check)| check.ask.clone()).collect()).await;
        let judged = checks.iter().zip(&answers).map(|((name, check), answer)| named(name, probe::judge(check, answer)));
        together(judged.collect(), "checks of services")
    }

    /// Every host that an Ingress or IngressRoute names.
    pub(super) async fn ingress(&self) -> Judged {
        let (exposed, seen) = match (self.exposed().await, self.look().await) {
            (Ok(exposed), Ok(seen)) => (exposed, seen),
            (Err(why), _) | (_, Err(why)) => return Judged::CannotTell(why),
        };
        let (hosts, backends) = match (&exposed.hosts, &exposed.backends) {
            (Ok(hosts), Ok(backends)) => (hosts, backends),
            (Err(why), _) | (_, Err(why)) => return Judged::CannotTell(format!("the ingress cannot be seen: {why}")),
        };
        let living = match exposed::living(&seen) {
            Ok(living) => living,
            Err(judged) => return judged,
        };
        let settings = &self.parts.settings.startup.ingress;
        let wanted: Vec<&HostSeen> = hosts.iter().filter(|host| !settings.ignore.contains(&host.host)).collect();
        let behind = wanted.iter().map(|host| exposed::backend_trouble(host, backends, &living));
        let behind: Vec<Option<String>> = behind.collect();
        let answers = self.hosts_answer(settings, &wanted).await;
        let judged = behind.into_iter().zip(answers).map(|(trouble, answer)| match trouble {
            Some(why) => Judged::NotReady { why, done: 0 },
            None => answer,
        });
        together(judged.collect(), "hosts of the ingress are answered for by their backends")
    }

    /// What each host's answer comes to, compared with that for a host that nobody has a rule for.
    async fn hosts_answer(&self, settings: &IngressSettings, hosts: &[&HostSeen]) -> Vec<Judged> {
        let mut asks: Vec<Ask> = hosts.iter().map(|host| of_host(settings, host)).collect();
        let mut answers = self.ask(asks.clone()).await;
        // The ingress' own redirect to TLS says nothing of the backend.
        let mut again: Vec<(usize, Ask)> = Vec::new();
        for (at, (ask, host)) in asks.iter().zip(hosts).enumerate() {
            let Ok(Answer::Page(page)) = &answers[at] else { continue };
            if probe::upgraded(&ask.target, page).is_some() {
                again.push((at, of_host(settings, &HostSeen { tls: true, ..(*host).clone() })));
            }
        }
        let over_tls = self.ask(again.iter().map(|(_, ask)| ask.clone()).collect()).await;
        for ((at, ask), answer) in again.into_iter().zip(over_tls) {
            (asks[at], answers[at]) = (ask, answer);
        }
        let nobodys: BTreeSet<(Scheme, Place)> = asks.iter().map(|ask| (ask.target.scheme, place_of(ask))).collect();
        let questions = nobodys.iter().map(|(scheme, place)| of_nobody(settings, *scheme, place)).collect();
        let nobodys: BTreeMap<_, _> = nobodys.iter().cloned().zip(self.ask(questions).await).collect();
        let judged = asks.iter().zip(&answers).map(|(ask, answer)| {
            let nobody = nobodys.get(&(ask.target.scheme, place_of(ask)));
            probe::judge_host(&ask.target, answer, nobody, &settings.accepted)
        });
        judged.collect()
    }

    /// Who is behind critical Services.
    pub(super) async fn endpoints(&self) -> Judged {
        match (self.exposed().await, self.look().await) {
            (Ok(exposed), Ok(seen)) => exposed::endpoints(&exposed, &seen, &self.parts.settings.startup.endpoints),
            (Err(why), _) | (_, Err(why)) => Judged::CannotTell(why),
        }
    }

    /// What has regressed as seen from outside. While nothing has, the last look counts for a while.
    pub(super) async fn outside(&self, last: &mut Option<Instant>) -> Result<Vec<String>, String> {
        if last.is_some_and(|at| at.elapsed() < OUTSIDE_EVERY) {
            return Ok(Vec::new());
        }
        let startup = &self.parts.settings.startup;
        let mut troubles = Vec::new();
        let mut all = Vec::new();
        if startup.ingress.check {
            all.push(self.ingress().await);
        }
        if !startup.services.is_empty() {
            all.push(self.services().await);
        }
        if !startup.endpoints.is_empty() {
            all.push(self.endpoints().await);
        }
        for judged in all {
            match judged {
                Judged::Ready(_) => {}
                Judged::NotReady { why, .. } => troubles.push(why),
                Judged::CannotTell(why) => return Err(why),
            }
        }
        *last = troubles.is_empty().then(Instant::now);
        Ok(troubles)
    }

    async fn exposed(&self) -> Result<Exposed, String> {
        let exposure = self.parts.exposure.as_ref().map_err(Clone::clone)?;
        Ok(exposure.exposed(self.left()).await)
    }

    /// All of them, some at a time; answers in the order of the questions.
    async fn ask(&self, asks: Vec<Ask>) -> Vec<Answered> {
        let within = ANSWER_WITHIN.min(self.left());
        let each = asks.into_iter().map(|ask| -> BoxFuture<'static, Answered> {
            let prober = Arc::clone(&self.parts.prober);
            async move { prober.ask(&ask, within).await }.boxed()
        });
        futures::stream::iter(each.collect::<Vec<_>>()).buffered(AT_ONCE).collect().await
    }
}

/// The question for a host of the ingress.
fn of_host(settings: &IngressSettings, host: &HostSeen) -> Ask {
    let (scheme, port) = if host.tls { (Scheme::Https, settings.https_port) } else { (Scheme::Http, settings.http_port) };
    let addresses: Vec<SocketAddr> = match settings.address {
        Some(address) => vec![SocketAddr::new(address, port)],
        None => host.addresses.iter().map(|address| SocketAddr::new(*address, port)).collect(),
    };
    let usual = port == if host.tls { 443 } else { 80 };
    Ask {
        target: Target { scheme, host: host.asked(), port: (!usual).then_some(port), path: host.path.clone() },
        place: if addresses.is_empty() { Place::OfTarget } else { Place::At(addresses) },
        trust: Trust { ca_file: settings.ca_file.clone(), verify: if settings.verify { Verify::Full } else { Verify::Name } },
        listen: false,
    }
}

/// Where a host is asked, so that another can be asked there too.
fn place_of(ask: &Ask) -> Place {
    match &ask.place {
        Place::OfTarget => Place::OfHost(ask.target.host.clone()),
        other => other.clone(),
    }
}

fn of_nobody(settings: &IngressSettings, scheme: Scheme, place: &Place) -> Ask {
    let (port, usual) = if scheme == Scheme::Https { (settings.https_port, 443) } else { (settings.http_port, 80) };
    let port = (port != usual).then_some(port);
    Ask {
        target: Target { scheme, host: NOBODYS_HOST.to_owned(), port, path: String::new() },
        place: place.clone(),
        trust: Trust { ca_file: None, verify: Verify::Nothing },
        listen: false,
    }
}

fn named(name: &str, judged: Judged) -> Judged {
    match judged {
        Judged::Ready(text) => Judged::Ready(format!("{name}: {text}")),
        Judged::NotReady { why, done } => Judged::NotReady { why: format!("{name}: {why}"), done },
        Judged::CannotTell(why) => Judged::CannotTell(format!("{name}: {why}")),
    }
}

/// All are ready, or these are not. One that is known not to be ready says more than one of which nothing is known.
fn together(all: Vec<Judged>, what: &str) -> Judged {
    let total = all.len();
    let (mut not_ready, mut unknown) = (Vec::new(), Vec::new());
    for judged in all {
        match judged {
            Judged::Ready(_) => {}
            Judged::NotReady { why, .. } => not_ready.push(why),
            Judged::CannotTell(why) => unknown.push(why),
        }
    }
    let done = total - not_ready.len() - unknown.len();
    if done == total {
        return Judged::Ready(format!("all {total} {what}"));
    }
    let is_known = !not_ready.is_empty();
    not_ready.append(&mut unknown);
    let why = format!("{done} of {total} {what}: {}", judge::named(&not_ready));
    if is_known { Judged::NotReady { why, done: done as u64 } } else { Judged::CannotTell(why) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::ObjectRef;

    fn not_ready(why: &str) -> Judged {
        Judged::NotReady { why: why.to_owned(), done: 0 }
    }

    #[test]
    fn one_that_is_not_ready_says_more_than_one_that_cannot_be_told() {
        let ready = || Judged::Ready(String::new());
        let unknown = || Judged::CannotTell("no DNS".to_owned());
        assert_eq!(together(Vec::new(), "hosts"), Judged::Ready("all 0 hosts".to_owned()));
        assert_eq!(together(vec![ready(), unknown()], "hosts"), Judged::CannotTell("1 of 2 hosts: no DNS".to_owned()));
        let both = together(vec![ready(), unknown(), not_ready("503")], "hosts");
        assert_eq!(both, Judged::NotReady { why: "1 of 3 hosts: 503; no DNS".to_owned(), done: 1 });
    }

    #[test]
    fn a_host_is_asked_at_the_ingress_under_its_own_name() {
        let host = HostSeen {
            object: ObjectRef::new("Ingress", "apps", "web"),
            host: "web.lan".to_owned(),
            path: "/x".to_owned(),
            tls: true,
            addresses: BTreeSet::from(["192.168.22.9".parse().unwrap()]),
            backends: BTreeSet::new(),
        };
        let settings = IngressSettings::default();
        let ask = of_host(&settings, &host);
        assert_eq!(
            (ask.target.to_string().as_str(), &ask.place),
            ("https://web.lan/x", &Place::At(vec!["192.168.22.9:443".parse().unwrap()]))
        );
        let elsewhere = IngressSettings { address: Some("10.0.0.1".parse().unwrap()), http_port: 8080, verify: false, ..settings.clone() };
        let ask = of_host(&elsewhere, &HostSeen { tls: false, ..host.clone() });
        assert_eq!(
            (ask.target.to_string().as_str(), &ask.place),
            ("http://web.lan:8080/x", &Place::At(vec!["10.0.0.1:8080".parse().unwrap()]))
        );
        assert_eq!(ask.trust.verify, Verify::Name);
        let by_name = of_host(&settings, &HostSeen { addresses: BTreeSet::new(), ..host });
        let nobody = of_nobody(&settings, Scheme::Https, &place_of(&by_name));
        assert_eq!((by_name.place, nobody.place), (Place::OfTarget, Place::OfHost("web.lan".to_owned())));
        assert_eq!((nobody.target.host.as_str(), nobody.trust.verify), (NOBODYS_HOST, Verify::Nothing));
    }
}
