//! The collecting walk: a schema reads keys through a [`Cursor`], which records a mistake and goes on.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::diagnostic::{Diagnostic, Place};
use super::merge::join;
use super::suggest::did_you_mean;
use super::tree::{Entry, Node, Scalar, Value};

/// What a scalar means; the error says what is wrong and what is allowed, without the key.
pub type Parsed<T> = Result<T, String>;

/// Every mistake found so far.
#[derive(Debug, Default)]
pub struct Report {
    diagnostics: RefCell<Vec<Diagnostic>>,
    remarks: RefCell<Vec<Diagnostic>>,
    incomplete: Cell<bool>,
}

impl Report {
    /// Records a mistake.
    pub fn error(&self, place: &Place, key: &str, message: impl Into<String>) {
        self.push(Diagnostic::new(place, key, message));
    }

    /// Records a mistake.
    pub fn push(&self, diagnostic: Diagnostic) {
        self.diagnostics.borrow_mut().push(diagnostic);
    }

    /// Records what is valid, and yet will not do what it seems to.
    pub fn remark(&self, place: &Place, key: &str, message: impl Into<String>) {
        self.remarks.borrow_mut().push(Diagnostic::new(place, key, message));
    }

    /// All remarks, by place.
    pub fn remarks(&self) -> Vec<Diagnostic> {
        let mut all = self.remarks.borrow().clone();
        all.sort();
        all
    }

    /// A file is missing from the tree: what is absent may be there, so its absence is no mistake.
    pub fn set_incomplete(&self) {
        self.incomplete.set(true);
    }

    /// Whether a file is missing from the tree.
    pub fn is_incomplete(&self) -> bool {
        self.incomplete.get()
    }

    /// Whether anything was recorded.
    pub fn is_clean(&self) -> bool {
        self.diagnostics.borrow().is_empty()
    }

    /// Takes over the mistakes of another report.
    pub fn absorb(&self, other: Self) {
        self.diagnostics.borrow_mut().append(&mut other.diagnostics.into_inner());
        self.remarks.borrow_mut().append(&mut other.remarks.into_inner());
    }

    /// All of them, by place.
    pub fn into_sorted(self) -> Vec<Diagnostic> {
        let mut all = self.diagnostics.into_inner();
        all.sort();
        all.dedup();
        all
    }
}

/// A name that refers to something, with its place for later checks.
#[derive(Debug, Clone)]
pub struct Mention<T> {
    /// The name.
    pub name: T,
    /// Where it stands.
    pub place: Place,
    /// Its key.
    pub path: String,
}

/// One value of the tree, whatever it is.
#[derive(Clone)]
pub struct Slot<'a> {
    report: &'a Report,
    /// Its key with the section.
    pub path: String,
    /// Where its key stands.
    pub key_place: &'a Place,
    /// The value.
    pub node: &'a Node,
}

impl<'a> Slot<'a> {
    /// Records a mistake at the value.
    pub fn error(&self, message: impl Into<String>) {
        self.report.error(&self.node.place, &self.path, message);
    }

    /// Runs `read` on what this replaced, for its mistakes alone, and then on the value that counts.
    fn each<T>(&self, read: impl Fn(&Slot<'a>) -> Option<T>) -> Option<T> {
        for old in &self.node.replaced {
            read(&Slot { node: old, ..self.clone() });
        }
        read(self)
    }

    /// A single value.
    pub fn scalar<T>(&self, parse: impl Fn(&Scalar) -> Parsed<T>) -> Option<T> {
        self.each(|slot| slot.one(&parse))
    }

    fn one<T>(&self, parse: impl Fn(&Scalar) -> Parsed<T>) -> Option<T> {
        match &self.node.value {
            Value::Scalar(scalar) => parse(scalar).map_err(|message| self.error(message)).ok(),
            Value::Null => {
                self.error("has no value; give it one or remove the key");
                None
            }
            Value::Refused => None,
            Value::List(_) | Value::Map(_) => {
                self.error(format!("must be a single value, is {}", self.node.kind()));
                None
            }
        }
    }

    /// A list of single values; nothing after the key is an empty list.
    pub fn list<T>(&self, parse: impl Fn(&Scalar) -> Parsed<T>) -> Option<Vec<T>> {
        self.items(|item| item.one(&parse))
    }

    /// A list of maps, each with the keys that `read` asks for; nothing after the key is an empty list.
    pub fn sections<T>(&self, read: impl Fn(&Cursor<'a>) -> Option<T>) -> Option<Vec<T>> {
        self.items(|item| item.section(&read))
    }

    fn items<T>(&self, read: impl Fn(&Slot<'a>) -> Option<T>) -> Option<Vec<T>> {
        self.each(|slot| match &slot.node.value {
            Value::Null => Some(Vec::new()),
            Value::Refused => None,
            Value::List(items) => {
                let item = |(at, node): (usize, &'a Node)| {
                    let key_place = &node.place;
                    read(&Slot { report: slot.report, path: format!("{}[{at}]", slot.path), key_place, node })
                };
                Some(items.iter().enumerate().filter_map(item).collect())
            }
            Value::Scalar(_) | Value::Map(_) => {
                slot.error(format!("must be a list (`[a, b]` or lines with `- a`), is {}", slot.node.kind()));
                None
            }
        })
    }

    /// A list in which nothing may stand twice, each item with its place.
    pub fn set<T: Ord + Clone>(&self, parse: impl Fn(&Scalar) -> Parsed<T>) -> Option<Vec<Mention<T>>> {
        self.list(&parse)?;
        let Value::List(items) = &self.node.value else { return Some(Vec::new()) };
        let mut all: Vec<Mention<T>> = Vec::new();
        let mut seen: BTreeMap<T, &Place> = BTreeMap::new();
        for (at, node) in items.iter().enumerate() {
            let Value::Scalar(scalar) = &node.value else { continue };
            let Ok(name) = parse(scalar) else { continue };
            let path = format!("{}[{at}]", self.path);
            if let Some(first) = seen.get(&name) {
                self.report.error(&node.place, &path, format!("stands in this list twice, first at {first}; remove one of them"));
                continue;
            }
            seen.insert(name.clone(), &node.place);
            all.push(Mention { name, place: node.place.clone(), path });
        }
        Some(all)
    }

    /// The entries of a map; nothing after the key is an empty map.
    fn entries(&self) -> &'a [Entry] {
        match &self.node.value {
            Value::Map(entries) => return entries,
            Value::Null | Value::Refused => {}
            Value::Scalar(_) | Value::List(_) => self.error(format!("must be a map of keys, is {}", self.node.kind())),
        }
        &[]
    }

    /// A map with keys of the user's choice: `name` checks a key, `read` its value. What is refused is left out.
    pub fn table<K: Ord, T>(&self, name: impl Fn(&str) -> Parsed<K>, read: impl Fn(&Slot<'a>, &K) -> Option<T>) -> BTreeMap<K, T> {
        let mut all = BTreeMap::new();
        for entry in self.entries() {
            let slot = Slot { report: self.report, path: join(&self.path, &entry.key), key_place: &entry.place, node: &entry.node };
            match name(&entry.key) {
                Err(message) => self.report.error(&entry.place, &slot.path, message),
                Ok(key) => {
                    if let Some(value) = read(&slot, &key) {
                        all.insert(key, value);
                    }
                }
            }
        }
        all
    }

    /// A map with the keys that `read` asks for; others are reported.
    pub fn section<T>(&self, read: impl FnOnce(&Cursor<'a>) -> T) -> T {
        let cursor = Cursor {
            report: self.report,
            path: self.path.clone(),
            place: self.key_place.clone(),
            entries: self.entries(),
            refused: !matches!(self.node.value, Value::Map(_) | Value::Null),
            asked: RefCell::default(),
        };
        let value = read(&cursor);
        cursor.report_unknown();
        value
    }

    /// Whether it is there but holds nothing.
    pub fn is_empty(&self) -> bool {
        match &self.node.value {
            Value::Null => true,
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => entries.is_empty(),
            Value::Scalar(_) | Value::Refused => false,
        }
    }

    /// Keys of a map, good or bad: what a reference may name without a second complaint.
    pub fn keys(&self) -> Vec<Mention<String>> {
        let Value::Map(entries) = &self.node.value else { return Vec::new() };
        let mention = |entry: &Entry| Mention { name: entry.key.clone(), place: entry.place.clone(), path: join(&self.path, &entry.key) };
        entries.iter().map(mention).collect()
    }

    /// Runs `read` on what this replaced and on the value that counts, see [`Slot::scalar`].
    pub fn with_replaced<T>(&self, read: impl Fn(&Slot<'a>) -> Option<T>) -> Option<T> {
        self.each(read)
    }
}

/// A map of the tree with keys that the schema knows.
pub struct Cursor<'a> {
    report: &'a Report,
    path: String,
    place: Place,
    entries: &'a [Entry],
    /// What it holds was refused, so nothing is missing from it.
    refused: bool,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Cursor<'a> {
    /// Reads the root of a file or of merged files.
    pub fn root<T>(report: &'a Report, root: &'a Node, read: impl FnOnce(&Cursor<'a>) -> T) -> T {
        Slot { report, path: String::new(), key_place: &root.place, node: root }.section(read)
    }

    /// Whether `key` is there and holds something, good or bad.
    pub fn has(&self, key: &'static str) -> bool {
        self.slot(key).is_some_and(|slot| !slot.is_empty())
    }

    /// Whether it is a map, so that something can be missing from it.
    pub fn is_readable(&self) -> bool {
        !self.refused
    }

    /// The value of `key`, whatever it is.
    pub fn slot(&self, key: &'static str) -> Option<Slot<'a>> {
        if !self.asked.borrow().contains(&key) {
            self.asked.borrow_mut().push(key);
        }
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(Slot { report: self.report, path: join(&self.path, key), key_place: &entry.place, node: &entry.node })
    }

    /// A single value; `None` where it is absent or wrong.
    pub fn value<T>(&self, key: &'static str, parse: impl Fn(&Scalar) -> Parsed<T>) -> Option<T> {
        self.slot(key)?.scalar(parse)
    }

    /// A single value that must be there.
    pub fn required<T>(&self, key: &'static str, what: &str, parse: impl Fn(&Scalar) -> Parsed<T>) -> Option<T> {
        let Some(slot) = self.slot(key) else {
            self.missing(key, what);
            return None;
        };
        slot.scalar(parse)
    }

    /// Where the value of `key` stands.
    pub fn mention(&self, key: &'static str) -> Option<Mention<()>> {
        self.slot(key).map(|slot| Mention { name: (), place: slot.node.place.clone(), path: slot.path })
    }

    /// Where the section itself stands.
    pub fn here(&self) -> Mention<()> {
        Mention { name: (), place: self.place.clone(), path: self.path.clone() }
    }

    /// Reports that `key` is not there.
    pub fn missing(&self, key: &str, what: &str) {
        if !self.refused && !self.report.is_incomplete() {
            self.error(format!("`{key}` is missing: {what}"));
        }
    }

    /// Records a mistake of the section as a whole.
    pub fn error(&self, message: impl Into<String>) {
        self.report.error(&self.place, &self.path, message);
    }

    /// A list of single values; `None` where it is absent or not a list.
    pub fn list<T>(&self, key: &'static str, parse: impl Fn(&Scalar) -> Parsed<T>) -> Option<Vec<T>> {
        self.slot(key)?.list(parse)
    }

    /// A section; an absent one reads as one without keys.
    pub fn section<T>(&self, key: &'static str, read: impl FnOnce(&Cursor<'a>) -> T) -> T {
        if let Some(slot) = self.slot(key) {
            return slot.section(read);
        }
        let path = join(&self.path, key);
        read(&Cursor { report: self.report, path, place: self.place.clone(), entries: &[], refused: false, asked: RefCell::default() })
    }

    /// A map with keys of the user's choice; absent: empty.
    pub fn table<K: Ord, T>(
        &self,
        key: &'static str,
        name: impl Fn(&str) -> Parsed<K>,
        read: impl Fn(&Slot<'a>, &K) -> Option<T>,
    ) -> BTreeMap<K, T> {
        self.slot(key).map(|slot| slot.table(name, read)).unwrap_or_default()
    }

    fn report_unknown(&self) {
        let asked = self.asked.borrow();
        for entry in self.entries.iter().filter(|entry| !asked.contains(&entry.key.as_str())) {
            let hint = did_you_mean(&entry.key, asked.iter().copied()).map(|word| format!("; did you mean `{word}`?")).unwrap_or_default();
            let message = format!("unknown key{hint} (allowed here: {})", asked.join(", "));
            self.report.error(&entry.place, &join(&self.path, &entry.key), message);
        }
    }
}
