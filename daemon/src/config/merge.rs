//! Several files as one tree: maps merge, scalars and lists replace, and what was replaced is kept, so that it is checked and shown too.

use std::collections::{BTreeMap, HashMap};

use super::diagnostic::Diagnostic;
use super::settings::Origin;
use super::tree::{Entry, Node, Value, shown_key};

/// `over`, a later file, laid over `base`. A map and something else under one key is a mistake; the earlier one is kept then.
pub fn merge(base: Node, over: Node, diagnostics: &mut Vec<Diagnostic>) -> Node {
    merge_at("", base, over, diagnostics)
}

fn merge_at(path: &str, base: Node, over: Node, diagnostics: &mut Vec<Diagnostic>) -> Node {
    match (base, over) {
        (Node { value: Value::Map(entries), place, replaced }, Node { value: Value::Map(later), .. })
            if !(is_reference(&entries) && is_reference(&later)) =>
        {
            Node { value: Value::Map(merge_entries(path, entries, later, diagnostics)), place, replaced }
        }
        // A key whose content is commented out says nothing.
        (base @ Node { value: Value::Map(_), .. }, Node { value: Value::Null, .. }) => base,
        (Node { value: Value::Null, .. }, over @ Node { value: Value::Map(_), .. }) => over,
        (base, over) if is_map(&base) != is_map(&over) && !is_refused(&base) && !is_refused(&over) => {
            let message = format!("is {} here, but {} at {}; both must be the same", over.kind(), base.kind(), base.place);
            diagnostics.push(Diagnostic::new(&over.place, path, message));
            base
        }
        (base, over) => replace(base, over),
    }
}

fn is_map(node: &Node) -> bool {
    matches!(node.value, Value::Map(_))
}

fn is_refused(node: &Node) -> bool {
    matches!(node.value, Value::Refused)
}

/// A reference to a secret is one value: `{ credential: … }` in a later file replaces `{ file: … }`.
fn is_reference(entries: &[Entry]) -> bool {
    !entries.is_empty() && entries.iter().all(|entry| matches!(entry.key.as_str(), "file" | "credential"))
}

fn replace(mut base: Node, mut over: Node) -> Node {
    let mut replaced = std::mem::take(&mut base.replaced);
    replaced.push(base);
    replaced.append(&mut over.replaced);
    over.replaced = replaced;
    over
}

fn merge_entries(path: &str, entries: Vec<Entry>, later: Vec<Entry>, diagnostics: &mut Vec<Diagnostic>) -> Vec<Entry> {
    let index: HashMap<String, usize> = entries.iter().enumerate().map(|(at, entry)| (entry.key.clone(), at)).collect();
    let mut slots: Vec<Option<Entry>> = entries.into_iter().map(Some).collect();
    for Entry { key, place, node } in later {
        let Some(slot) = index.get(&key).and_then(|at| slots.get_mut(*at)) else {
            slots.push(Some(Entry { key, place, node }));
            continue;
        };
        if let Some(mut entry) = slot.take() {
            entry.node = merge_at(&join(path, &key), entry.node, node, diagnostics);
            *slot = Some(entry);
        }
    }
    slots.into_iter().flatten().collect()
}

/// A key below a section, as it is shown.
pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { shown_key(key) } else { format!("{path}.{}", shown_key(key)) }
}

/// Where every scalar and list of the tree comes from.
pub fn origins(root: &Node) -> BTreeMap<String, Origin> {
    let mut all = BTreeMap::new();
    collect(String::new(), root, &mut all);
    all
}

fn collect(path: String, node: &Node, all: &mut BTreeMap<String, Origin>) {
    match &node.value {
        Value::Map(entries) if !is_reference(entries) => {
            for entry in entries {
                collect(join(&path, &entry.key), &entry.node, all);
            }
        }
        Value::Null | Value::Refused => {}
        _ => {
            let replaced = node.replaced.iter().map(|old| old.place.clone()).collect();
            all.insert(path, Origin { place: node.place.clone(), replaced });
        }
    }
}
