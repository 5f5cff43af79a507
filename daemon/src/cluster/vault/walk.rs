//! Pure: by which orders one pod is unsealed. Progress is in that pod's memory alone, and anybody may add to it.

use std::collections::VecDeque;

use super::SealStatus;
use super::combos::combos;
use super::judge::SHAMIR;

/// Times that somebody else may come in between.
const DISTURBED: u32 = 3;

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// It is unsealed.
    Done,
    /// What was given so far is to be forgotten: it is not ours, or of a choice that was wrong.
    Reset,
    /// Give this key, by its place in the list.
    Feed(usize),
    /// These keys do not unseal it, and why.
    GiveUp(String),
}

/// One pod being unsealed.
#[derive(Debug)]
pub struct Walk {
    keys: usize,
    /// Choices of keys still to be tried; `None`: how many it takes is not known yet.
    choices: Option<VecDeque<Vec<usize>>>,
    /// Keys of the first choice that were given.
    fed: usize,
    /// The attempt that they belong to.
    nonce: String,
    disturbed: u32,
    /// What Vault said last against a key.
    said: String,
}

impl Walk {
    /// With so many keys at hand.
    pub fn new(keys: usize) -> Self {
        Self { keys, choices: None, fed: 0, nonce: String::new(), disturbed: 0, said: String::new() }
    }

    /// By what the pod says of itself now. Ends: each choice is tried once, and disturbances are counted.
    pub fn next(&mut self, status: &SealStatus) -> Order {
        if !status.sealed && status.initialized {
            return Order::Done;
        }
        if !status.initialized {
            return Order::GiveUp("it is not initialised: that is a person's work".to_owned());
        }
        if status.kind != SHAMIR {
            return Order::GiveUp(format!("it is unsealed by `{}`, not by keys", status.kind));
        }
        let keys = self.keys;
        let choices = self.choices.get_or_insert_with(|| combos(keys, status.threshold).into());
        let Some(choice) = choices.front() else { return Order::GiveUp(self.exhausted(status.threshold)) };
        let key = choice[self.fed];
        if status.progress == self.fed && (self.fed == 0 || status.nonce == self.nonce) {
            return Order::Feed(key);
        }
        // Keys of ours that are left from a choice that was given up disturb nobody.
        if self.fed > 0 || status.nonce != self.nonce {
            self.disturbed += 1;
        }
        if self.disturbed > DISTURBED {
            return Order::GiveUp("somebody else is unsealing it at the same time".to_owned());
        }
        let first = choice[0];
        self.fed = 0;
        // It was started again, or somebody else has done it.
        if status.progress == 0 { Order::Feed(first) } else { Order::Reset }
    }

    /// The key that was ordered last was taken.
    pub fn fed(&mut self, status: &SealStatus) {
        if !status.sealed {
            self.fed = 0;
            return;
        }
        if self.fed == 0 {
            self.nonce.clone_from(&status.nonce);
        }
        self.fed += 1;
        let whole = self.choices.as_ref().and_then(VecDeque::front).is_some_and(|choice| self.fed >= choice.len());
        // One that does not count is a key that was given before, in another form.
        if whole || status.progress < self.fed {
            self.choice_is_wrong();
        }
    }

    /// Vault said no to the key that was ordered last. The last one of a choice is refused for all of them, another one for itself.
    pub fn refused(&mut self, said: &str) {
        said.clone_into(&mut self.said);
        let Some(choices) = &mut self.choices else { return };
        let Some(choice) = choices.front() else { return };
        if self.fed + 1 >= choice.len() {
            return self.choice_is_wrong();
        }
        let bad = choice[self.fed];
        choices.retain(|choice| !choice.contains(&bad));
        self.fed = 0;
    }

    fn choice_is_wrong(&mut self) {
        if let Some(choices) = &mut self.choices {
            choices.pop_front();
        }
        self.fed = 0;
    }

    fn exhausted(&self, threshold: usize) -> String {
        if self.keys < threshold {
            return format!("it takes {threshold} keys, and there are {}", self.keys);
        }
        let said = if self.said.is_empty() { String::new() } else { format!(" (Vault says: {})", self.said) };
        format!("no {threshold} of these {} keys unseal it{said}", self.keys)
    }
}
