//! What a site with Vault is made of, and the rules of its seal.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use proptest::prelude::*;

use super::combos::combos;
use super::judge::{judge, sealed};
use super::keys::keys;
use super::walk::{Order, Walk};
use super::*;
use crate::site::{Judged, Secret};

/// A site with three pods.
pub fn settings() -> VaultSettings {
    VaultSettings {
        namespace: "vault".to_owned(),
        selector: "component=server".to_owned(),
        pods: 3,
        port: 8200,
        tls: None,
        via: Via::Ssh,
        keys: None,
        break_glass: Vec::new(),
        break_glass_timeout: Duration::from_secs(60),
        timeout: Duration::from_secs(600),
    }
}

fn pod(name: &str) -> VaultPod {
    VaultPod {
        name: name.to_owned(),
        uid: format!("uid of {name}"),
        restarts: 0,
        node: "titan-13".to_owned(),
        address: Some(IpAddr::V4(Ipv4Addr::new(10, 42, 0, 7))),
        phase: "Running".to_owned(),
    }
}

fn open() -> SealStatus {
    SealStatus { kind: "shamir".to_owned(), initialized: true, sealed: false, threshold: 3, ..SealStatus::default() }
}

fn seen(name: &str, seal: Seal) -> VaultSeen {
    VaultSeen { pod: pod(name), seal }
}

fn all_open() -> Vec<VaultSeen> {
    ["vault-0", "vault-1", "vault-2"].map(|name| seen(name, Seal::Says(open()))).to_vec()
}

/// Name of the case, what makes it look green and not be, a word of what it says, whether keys help.
type Twin = (&'static str, fn(&mut Vec<VaultSeen>), &'static str, bool);

const TWINS: &[Twin] = &[
    (
        "one sealed behind a Service that answers",
        |s| s[1].seal = Seal::Says(SealStatus { sealed: true, progress: 1, ..open() }),
        "vault-1 is sealed (1 of 3 keys given)",
        true,
    ),
    (
        "not initialised",
        |s| s[2].seal = Seal::Says(SealStatus { initialized: false, sealed: true, ..open() }),
        "metis never does it",
        false,
    ),
    (
        "unsealed by a machine",
        |s| s[0].seal = Seal::Says(SealStatus { sealed: true, kind: "awskms".into(), ..open() }),
        "by `awskms`, not by keys",
        false,
    ),
    ("a pod that does not run", |s| s[0].seal = Seal::Down("its pod is Pending".into()), "its pod is Pending", false),
    ("one that is not there yet and will come sealed", |s| drop(s.pop()), "2 of 3 pods of Vault are there", false),
    ("none at all", Vec::clear, "0 of 3 pods", false),
];

#[test]
fn no_look_at_vault_is_green_for_its_twin() {
    assert!(matches!(judge(&all_open(), 3), Judged::Ready(_)));
    assert!(matches!(judge(&all_open(), 1), Judged::Ready(_)), "more than asked for is no fault");
    for (name, spoil, word, keys_help) in TWINS {
        let mut seen = all_open();
        spoil(&mut seen);
        let judged = judge(&seen, 3);
        assert!(matches!(judged, Judged::NotReady { .. }) && judged.text().contains(word), "{name}: {judged:?}");
        assert_eq!(!sealed(&seen).is_empty(), *keys_help, "{name}");
    }
}

#[test]
fn a_pod_that_says_nothing_is_neither_sealed_nor_unsealed() {
    let mut all = all_open();
    all[0].seal = Seal::Silent("10.42.0.7:8200: no connection".into());
    assert!(matches!(judge(&all, 3), Judged::CannotTell(_)) && sealed(&all).is_empty());
    all[1].seal = Seal::Says(SealStatus { sealed: true, ..open() });
    let judged = judge(&all, 3);
    assert!(
        matches!(&judged, Judged::NotReady { why, done: 1 } if why.contains("vault-1 is sealed") && why.contains("no connection")),
        "{judged:?}"
    );
    assert_eq!(sealed(&all), [pod("vault-1")]);
}

#[test]
fn what_sealed_a_pod_is_its_start() {
    let (first, again) = (pod("vault-0"), VaultPod { restarts: 1, ..pod("vault-0") });
    assert_ne!(first.cause(), again.cause());
    assert_ne!(first.cause(), VaultPod { uid: "another".into(), ..pod("vault-0") }.cause());
    assert_eq!(first.cause(), VaultPod { phase: "Unknown".into(), address: None, ..pod("vault-0") }.cause());
}

const KEY_FILES: &[(&str, Result<usize, &str>)] = &[
    ("c2VzYW1lIHNlc2FtZQ==\n", Ok(1)),
    ("# of 2026\n\n  c2VzYW1lIHNlc2FtZQ==  \r\nabcdef0123456789\nabcdef0123456789\n", Ok(2)),
    ("", Err("no key")),
    ("# nothing\n", Err("no key")),
    ("Unseal Key 1: c2VzYW1l\n", Err("line 1 is no unseal key")),
    ("c2VzYW1lIHNlc2FtZQ==\n\"}{\"reset\":true\n", Err("line 2 is no unseal key")),
    ("short\n", Err("line 1")),
];

#[test]
fn keys_are_read_one_a_line() {
    for (text, expected) in KEY_FILES {
        let found = keys(&Secret::new(*text));
        match expected {
            Ok(count) => assert_eq!(found.unwrap().len(), *count, "{text:?}"),
            Err(word) => {
                let why = found.unwrap_err();
                assert!(why.contains(word) && !why.contains("c2V") && !why.contains("short"), "{text:?}: {why}");
            }
        }
    }
    assert!(keys(&Secret::new(vec![0xff, 0xfe])).unwrap_err().contains("not text"));
    let many: Vec<String> = (0..40).map(|n| format!("key-number-{n}")).collect();
    assert!(keys(&Secret::new(many.join("\n"))).unwrap_err().contains("holds 40 keys"));
}

/// One pod of Vault without its cryptography: `right` keys unseal it, three of them.
#[derive(Debug, Default)]
struct Model {
    right: BTreeSet<usize>,
    /// Keys that it takes for none (malformed).
    refused: BTreeSet<usize>,
    given: BTreeSet<usize>,
    attempts: u32,
    open: bool,
}

const FOREIGN: usize = 1000;

impl Model {
    fn status(&self) -> SealStatus {
        let nonce = if self.given.is_empty() { String::new() } else { format!("nonce {}", self.attempts) };
        SealStatus { sealed: !self.open, progress: self.given.len(), nonce, ..open() }
    }

    fn feed(&mut self, key: usize) -> Result<SealStatus, &'static str> {
        if self.refused.contains(&key) {
            return Err("'key' must be a valid hex or base64 string");
        }
        self.attempts += u32::from(self.given.is_empty());
        self.given.insert(key);
        if self.given.len() == 3 {
            let good = self.given.is_subset(&self.right);
            self.given.clear();
            if !good {
                return Err("cipher: message authentication failed");
            }
            self.open = true;
        }
        Ok(self.status())
    }
}

/// Plays a walk with `keys` keys to its end; `meddle` comes in before each order, and is told its number.
fn play(model: &mut Model, keys: usize, mut meddle: impl FnMut(&mut Model, u32)) -> (Order, u32) {
    let mut walk = Walk::new(keys);
    for orders in 0.. {
        assert!(orders < 2000, "it does not end: {walk:?} {model:?}");
        meddle(model, orders);
        match walk.next(&model.status()) {
            Order::Feed(key) => match model.feed(key) {
                Ok(status) => walk.fed(&status),
                Err(said) => walk.refused(said),
            },
            Order::Reset => model.given.clear(),
            end => return (end, orders),
        }
    }
    unreachable!()
}

fn model(right: &[usize]) -> Model {
    Model { right: right.iter().copied().collect(), ..Model::default() }
}

fn nobody(_: &mut Model, _: u32) {}

#[test]
fn three_right_keys_unseal_it_and_no_more_are_given() {
    let mut vault = model(&[0, 1, 2, 3, 4]);
    assert_eq!(play(&mut vault, 5, nobody), (Order::Done, 3));
    let mut open = Model { open: true, ..model(&[]) };
    assert_eq!(play(&mut open, 5, nobody), (Order::Done, 0), "one that is open is left alone");
}

#[test]
fn a_stale_key_among_good_ones_does_not_matter() {
    for stale in 0..5 {
        let right: Vec<usize> = (0..5).filter(|key| *key != stale).collect();
        assert_eq!(play(&mut model(&right), 5, nobody).0, Order::Done, "stale: {stale}");
        let mut malformed = Model { refused: BTreeSet::from([stale]), ..model(&right) };
        assert_eq!(play(&mut malformed, 5, nobody).0, Order::Done, "malformed: {stale}");
    }
}

#[test]
fn wrong_keys_end_it_with_what_vault_said() {
    let (end, orders) = play(&mut model(&[]), 5, nobody);
    assert!(matches!(&end, Order::GiveUp(why) if why.contains("no 3 of these 5 keys") && why.contains("authentication failed")), "{end:?}");
    assert_eq!(orders, 30, "each choice once");
    let (end, orders) = play(&mut model(&[0, 1]), 2, nobody);
    assert!(matches!(&end, Order::GiveUp(why) if why == "it takes 3 keys, and there are 2"), "{end:?}");
    assert_eq!(orders, 0, "nothing is given where it cannot be enough");
}

#[test]
fn what_is_not_for_keys_is_left_alone() {
    let end = |status: SealStatus| Walk::new(5).next(&SealStatus { sealed: true, ..status });
    assert!(matches!(end(SealStatus { initialized: false, ..open() }), Order::GiveUp(why) if why.contains("not initialised")));
    assert!(matches!(end(SealStatus { kind: "transit".into(), ..open() }), Order::GiveUp(why) if why.contains("transit")));
}

#[test]
fn progress_of_somebody_else_is_reset_first() {
    let mut vault = model(&[0, 1, 2]);
    vault.feed(FOREIGN).unwrap();
    assert_eq!(Walk::new(3).next(&vault.status()), Order::Reset);
    assert_eq!(play(&mut vault, 3, nobody), (Order::Done, 4));
}

#[test]
fn who_comes_in_between_again_and_again_is_left_to_it() {
    let once = play(&mut model(&[0, 1, 2]), 3, |vault, at| {
        if at == 2 {
            vault.feed(FOREIGN).unwrap_or_default();
        }
    });
    assert_eq!(once.0, Order::Done);
    let (end, orders) = play(&mut model(&[0, 1, 2]), 3, |vault, _| {
        vault.given.clear();
        vault.feed(FOREIGN).unwrap_or_default();
    });
    assert!(matches!(&end, Order::GiveUp(why) if why.contains("somebody else")), "{end:?}");
    assert!(orders < 10, "{orders}");
}

#[test]
fn one_that_starts_again_in_the_middle_is_begun_anew() {
    for at in 0..4 {
        let played = play(&mut model(&[0, 1, 2]), 3, |vault, now| {
            if now == at {
                (vault.given, vault.open) = (BTreeSet::new(), false);
            }
        });
        assert_eq!(played.0, Order::Done, "restarted before order {at}");
    }
}

proptest! {
    #[test]
    fn choices_are_all_different_and_bounded(keys in 0_usize..10, wanted in 0_usize..6) {
        let all = combos(keys, wanted);
        prop_assert!(all.len() <= 64);
        prop_assert_eq!(all.is_empty(), wanted == 0 || wanted > keys);
        for choice in &all {
            prop_assert!(choice.len() == wanted && choice.is_sorted_by(|a, b| a < b) && choice.iter().all(|key| *key < keys));
        }
        prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        let binomial = (0..wanted).fold(1, |product, at| product * (keys.saturating_sub(at)) / (at + 1));
        prop_assert_eq!(all.len(), binomial.min(64).min(if wanted == 0 { 0 } else { 64 }));
    }

    /// Whoever meddles how: it ends, and it is open exactly where it says so.
    #[test]
    fn every_walk_ends(right in proptest::collection::btree_set(0_usize..6, 0..6), keys in 0_usize..6, meddling in proptest::collection::vec(0_u8..12, 0..40)) {
        let mut vault = Model { right, ..Model::default() };
        let (end, _) = play(&mut vault, keys, |vault, at| match meddling.get(at as usize) {
            Some(0) => vault.given.clear(),
            Some(1) => drop(vault.feed(FOREIGN)),
            Some(2) => drop(vault.feed(FOREIGN + 1)),
            Some(3) if vault.open => (vault.open, vault.given) = (false, BTreeSet::new()),
            _ => {}
        });
        prop_assert_eq!(matches!(end, Order::Done), vault.open);
    }
}
