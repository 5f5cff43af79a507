use proptest::prelude::*;

use super::*;
use crate::site::{BootId, Doing};

const TAKEOVER: Duration = Duration::from_secs(60);

fn intent(doing: Doing, boot: &str) -> Intent {
    Intent { doing, run: "run-4".into(), boot_id: BootId::new(boot), phase: "nodes".into(), age: Duration::from_secs(70) }
}

fn word(role: &str, intents: Vec<Intent>) -> Answer {
    Answer::Said(Word { host: "other".into(), role: role.into(), boot_id: BootId::new("now"), intents, ended: None })
}

fn unreachable() -> Answer {
    Answer::Unreachable("no route to host".into())
}

fn silent() -> LeaseView {
    LeaseView::Silent("connection refused".into())
}

fn theirs() -> LeaseView {
    LeaseView::Theirs { holder: "other".into(), run: "startup-9".into() }
}

fn unsure() -> LeaseView {
    LeaseView::Unsure { holder: "other".into(), run: "startup-9".into(), left: Duration::from_secs(9) }
}

/// A peer that was asked by nobody, a long time after the coordinator was lost, and may take over.
fn facts<'a>(role: Role, answer: &'a Answer, lease: &'a LeaseView) -> Facts<'a> {
    Facts {
        role,
        me: "me",
        other: "titan-db",
        asker: Asker::Boot,
        answer,
        unreachable_for: TAKEOVER,
        heard: None,
        lease,
        allow_peer_startup: false,
        auto_peer_failover: true,
        takeover_after: TAKEOVER,
    }
}

/// What is done, in a word: with the name of its guard, and `*` where that can be waived.
fn verdict(facts: &Facts<'_>) -> String {
    match startup(facts) {
        Command::GoOn(_) => "go on".to_owned(),
        Command::HandOver(_) => "hand over".to_owned(),
        Command::Wait(_) => "wait".to_owned(),
        Command::Refuse(guard) => format!("{}{}", guard.name, if guard.waiver.is_some() { "*" } else { "" }),
    }
}

#[test]
fn the_table() {
    use Role::{Coordinator, Peer};
    let silent_daemon = Answer::Silent("nobody listens on its socket".into());
    let denied = Answer::Denied("its host key is another".into());
    let shuts_down = word("peer", vec![intent(Doing::ShuttingDown, "now")]);
    let starts = word("coordinator", vec![intent(Doing::StartingUp, "now")]);
    let of_before = word("coordinator", vec![intent(Doing::ShuttingDown, "before"), intent(Doing::StartingUp, "before")]);
    let (peer, coordinator) = (word("peer", Vec::new()), word("coordinator", Vec::new()));
    let (observer, gone) = (word("observer", Vec::new()), unreachable());
    let (free, none) = (LeaseView::Free, silent());
    let rows: [(Role, &Answer, &LeaseView, &str); 27] = [
        (Coordinator, &peer, &none, "go on"),
        (Coordinator, &observer, &none, "go on"),
        (Coordinator, &coordinator, &none, "peer.role"),
        (Coordinator, &shuts_down, &none, "peer.intent"),
        (Coordinator, &starts, &none, "peer.intent"),
        (Coordinator, &gone, &none, "peer.unreachable*"),
        (Coordinator, &silent_daemon, &none, "peer.unreachable*"),
        (Coordinator, &denied, &none, "peer.unreachable*"),
        (Coordinator, &gone, &theirs(), "peer.intent"),
        (Coordinator, &gone, &unsure(), "peer.unreachable*"),
        (Peer, &coordinator, &none, "hand over"),
        (Peer, &coordinator, &free, "hand over"),
        (Peer, &of_before, &none, "hand over"),
        (Peer, &peer, &none, "peer.role"),
        (Peer, &observer, &none, "peer.role"),
        (Peer, &starts, &none, "peer.intent"),
        (Peer, &word("coordinator", vec![intent(Doing::ShuttingDown, "now")]), &none, "peer.intent"),
        (Peer, &gone, &none, "go on"),
        (Peer, &gone, &free, "go on"),
        (Peer, &gone, &LeaseView::Ours, "go on"),
        (Peer, &gone, &theirs(), "peer.intent"),
        (Peer, &gone, &unsure(), "wait"),
        (Peer, &silent_daemon, &none, "peer.unreachable*"),
        (Peer, &silent_daemon, &free, "peer.unreachable*"),
        (Peer, &denied, &none, "peer.unreachable*"),
        (Peer, &denied, &theirs(), "peer.intent"),
        (Peer, &silent_daemon, &unsure(), "wait"),
    ];
    for (role, answer, lease, wanted) in rows {
        assert_eq!(verdict(&facts(role, answer, lease)), wanted, "{role:?} {answer:?} {lease:?}");
    }
}

#[test]
fn who_asks_and_for_how_long_it_has_been_so() {
    let (gone, none) = (unreachable(), silent());
    let peer = facts(Role::Peer, &gone, &none);
    let with = |change: &dyn Fn(&mut Facts<'_>)| {
        let mut facts = peer.clone();
        change(&mut facts);
        verdict(&facts)
    };
    assert_eq!(with(&|facts| facts.unreachable_for = TAKEOVER / 2), "wait", "a link that was lost for a moment");
    assert_eq!(with(&|facts| (facts.unreachable_for, facts.asker) = (Duration::ZERO, Asker::Person)), "go on", "a person looks on");
    assert_eq!(with(&|facts| facts.auto_peer_failover = false), "peer.unreachable*");
    assert_eq!(with(&|facts| facts.heard = Some(Duration::from_secs(20))), "peer.unreachable*", "it reaches us");
    assert_eq!(with(&|facts| facts.heard = Some(HEARD_FOR)), "go on");
    let allowed = |facts: &mut Facts<'_>| {
        (facts.allow_peer_startup, facts.auto_peer_failover, facts.unreachable_for) = (true, false, Duration::ZERO);
    };
    assert_eq!(with(&allowed), "go on");
    let theirs = theirs();
    let allowed = Facts { allow_peer_startup: true, ..facts(Role::Coordinator, &gone, &theirs) };
    assert_eq!(verdict(&allowed), "peer.intent", "no flag passes over somebody who is known to command");
    let coordinator = word("coordinator", Vec::new());
    let back = Facts { asker: Asker::OtherHost, ..facts(Role::Peer, &coordinator, &none) };
    assert_eq!(verdict(&back), "peer.role", "it does not go to and fro");
    let said = Word { host: "me".into(), role: "peer".into(), boot_id: BootId::new("now"), intents: Vec::new(), ended: None };
    let us = Answer::Said(said);
    assert_eq!(verdict(&facts(Role::Coordinator, &us, &none)), "peer.role", "it asked itself");
}

#[test]
fn what_refuses_says_on_what_why_and_what_to_do() {
    let shuts = word("peer", vec![intent(Doing::ShuttingDown, "now")]);
    let (none, gone) = (silent(), unreachable());
    let message = |facts: &Facts<'_>| match startup(facts) {
        Command::Refuse(guard) => guard.message,
        other => panic!("{other:?}"),
    };
    let said = message(&facts(Role::Coordinator, &shuts, &none));
    assert_eq!(said, "titan-db shuts the site down (run-4, nodes, for 70 s): wait for its end, or cancel it there");
    let said = message(&facts(Role::Coordinator, &gone, &none));
    assert!(said.starts_with("titan-db, the other metis host, cannot be asked what it does: no route to host; "), "{said}");
}

/// Two hosts with one API server between them, and what each channel carries. Both want a start-up at about the same moment.
#[derive(Debug, Clone)]
struct Site {
    /// The coordinator reaches the peer, and the other way.
    links: [bool; 2],
    /// What each gets where its link does not work: its daemon is silent, it is denied, or it is unreachable.
    broken: [u8; 2],
    /// The API answers the one and the other.
    api: [bool; 2],
    /// Who holds the Lease: nobody, or what a dead run of that host left, seen to be renewed or not.
    lease: Option<(usize, bool)>,
    askers: [Asker; 2],
    failover: [bool; 2],
    unreachable_for: [u64; 2],
    /// Who decides first.
    first: usize,
}

const NAMES: [&str; 2] = ["titan-db", "tethys"];

impl Site {
    fn channel(&self) -> bool {
        self.links.iter().any(|link| *link) || self.api == [true, true]
    }

    /// Whether `at` decides to command, and is let go on by the Lease; `commands`: who does already. It tells the other one what it is about
    /// to do where its link carries that, and hears of the other's.
    fn commands(&self, at: usize, commands: [bool; 2], holder: &mut Option<usize>, heard: &mut [Option<Duration>; 2]) -> bool {
        let other = 1 - at;
        let answer = if self.links[at] {
            heard[other] = Some(Duration::ZERO);
            let doing = commands[other].then(|| intent(Doing::StartingUp, "now"));
            let role = ["coordinator", "peer"][other];
            match word(role, doing.into_iter().collect()) {
                Answer::Said(word) => Answer::Said(Word { host: NAMES[other].into(), ..word }),
                other => other,
            }
        } else {
            match self.broken[at] {
                0 => Answer::Silent("x".into()),
                1 => Answer::Denied("x".into()),
                _ => unreachable(),
            }
        };
        let other_holds = *holder == Some(other);
        let renewed = self.lease.is_some_and(|(_, renewed)| renewed) || commands[other];
        let lease = match (self.api[at], other_holds) {
            (false, _) => silent(),
            (true, true) if renewed => theirs(),
            (true, true) => unsure(),
            (true, false) if *holder == Some(at) => LeaseView::Ours,
            (true, false) => LeaseView::Free,
        };
        let facts = Facts {
            role: [Role::Coordinator, Role::Peer][at],
            me: NAMES[at],
            other: NAMES[other],
            asker: self.askers[at],
            answer: &answer,
            unreachable_for: Duration::from_secs(self.unreachable_for[at]),
            heard: heard[at],
            lease: &lease,
            allow_peer_startup: false,
            auto_peer_failover: self.failover[at],
            takeover_after: TAKEOVER,
        };
        if !matches!(startup(&facts), Command::GoOn(_)) {
            return false;
        }
        // The gate of the Lease: where the API answers it has to be ours.
        if self.api[at] && other_holds {
            return false;
        }
        if self.api[at] {
            *holder = Some(at);
        }
        true
    }

    fn commanders(&self) -> [bool; 2] {
        let (mut commands, mut heard) = ([false; 2], [None; 2]);
        let mut holder = self.lease.map(|(holder, _)| holder);
        for at in [self.first, 1 - self.first] {
            commands[at] = self.commands(at, commands, &mut holder, &mut heard);
        }
        // Who was refused asks again.
        for at in [self.first, 1 - self.first] {
            commands[at] |= self.commands(at, commands, &mut holder, &mut heard);
        }
        commands
    }
}

fn site() -> impl Strategy<Value = Site> {
    let asker = || prop_oneof![Just(Asker::Person), Just(Asker::Boot)];
    let pair = || proptest::array::uniform2(any::<bool>());
    let lease = proptest::option::of((0..2_usize, any::<bool>()));
    let (askers, broken) = (proptest::array::uniform2(asker()), proptest::array::uniform2(0..3_u8));
    let times = proptest::array::uniform2(0..200_u64);
    (pair(), broken, pair(), lease, askers, pair(), times, 0..2_usize).prop_map(
        |(links, broken, api, lease, askers, failover, unreachable_for, first)| Site {
            links,
            broken,
            api,
            lease,
            askers,
            failover,
            unreachable_for,
            first,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn two_hosts_never_command_at_once_where_one_channel_works(site in site().prop_filter("no channel", Site::channel)) {
        prop_assert_ne!(site.commanders(), [true, true], "{:?}", site);
    }

    #[test]
    fn where_they_reach_each_other_it_is_the_coordinator_who_commands(site in site()) {
        let free = Site { links: [true, true], lease: None, ..site };
        prop_assert_eq!(free.commanders(), [true, false], "{:?}", free);
    }

    #[test]
    fn a_lost_coordinator_is_replaced_where_that_is_wanted(api: bool, first in 0..2_usize) {
        let gone = Site {
            links: [false, false],
            broken: [2, 2],
            api: [false, api],
            lease: None,
            askers: [Asker::Boot, Asker::Boot],
            failover: [false, true],
            unreachable_for: [0, TAKEOVER.as_secs()],
            first,
        };
        prop_assert_eq!(gone.commanders(), [false, true]);
    }
}
