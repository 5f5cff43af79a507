//! Whatever the files hold: no panic; and what merging promises.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::merge::merge;
use super::super::tree::{Entry, Node, Scalar, Value};
use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_bytes_never_panic(main in prop::collection::vec(any::<u8>(), 0..400), inventory in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = check_report(&from_bytes(&main, &inventory));
    }

    #[test]
    fn text_that_looks_like_yaml_never_panics(text in r#"[a-c:\-\[\]{},&*!|>'"%@#?~ \n\t0-9é]{0,200}"#) {
        let _ = check_report(&from_bytes(text.as_bytes(), text.as_bytes()));
    }

    /// Cut, doubled or overwritten places of real files.
    #[test]
    fn mutations_of_the_shipped_files_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..40, r"[\x00-\x7f]{0,12}"), 1..8)) {
        let mut files = [super::mistakes::MAIN.to_owned(), super::shipped::text("inventory.yaml")];
        for (at, length, with) in &edits {
            for text in &mut files {
                let chars: Vec<char> = text.chars().collect();
                let start = at.index(chars.len() + 1);
                let end = (start + length).min(chars.len());
                *text = chars[..start].iter().chain(with.chars().collect::<Vec<_>>().iter()).chain(&chars[end..]).collect();
            }
        }
        let report = check_report(&from_strs(&files[0], &files[1]));
        prop_assert!(report.is_ascii() || !report.chars().any(|c| c.is_control() && c != '\n'), "{report:?}");
    }

    #[test]
    fn merging_an_empty_map_changes_nothing(tree in tree()) {
        prop_assert_eq!(plain(&merged(map(vec![]), tree.clone())), plain(&tree));
        prop_assert_eq!(plain(&merged(tree.clone(), map(vec![]))), plain(&tree));
    }

    #[test]
    fn merging_twice_is_merging_once(a in tree(), b in tree()) {
        let once = merged(a, b.clone());
        prop_assert_eq!(plain(&merged(once.clone(), b)), plain(&once));
    }

    #[test]
    fn it_does_not_matter_which_neighbours_are_merged_first(a in tree(), b in tree(), c in tree()) {
        let left = merged(merged(a.clone(), b.clone()), c.clone());
        let right = merged(a, merged(b, c));
        prop_assert_eq!(plain(&left), plain(&right));
    }

    #[test]
    fn the_later_file_counts_and_nothing_else_is_lost(a in tree(), b in tree()) {
        let both = plain(&merged(a.clone(), b.clone()));
        let (a, b) = (plain(&a), plain(&b));
        for (key, value) in &b {
            prop_assert_eq!(both.get(key), Some(value));
        }
        for (key, value) in a.iter().filter(|(key, _)| !b.contains_key(*key)) {
            prop_assert_eq!(both.get(key), Some(value));
        }
        prop_assert!(both.keys().all(|key| a.contains_key(key) || b.contains_key(key)));
    }
}

fn place() -> Place {
    Place { file: Arc::new(PathBuf::from("f")), line: 1, column: 1 }
}

fn node(value: Value) -> Node {
    Node::new(value, place())
}

fn map(entries: Vec<(String, Node)>) -> Node {
    node(Value::Map(entries.into_iter().map(|(key, node)| Entry { key, place: place(), node }).collect()))
}

fn merged(base: Node, over: Node) -> Node {
    let mut diagnostics = Vec::new();
    let node = merge(base, over, &mut diagnostics);
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    node
}

/// Trees whose kinds agree, as those of files that follow one schema do: `m*` are maps, `s*` scalars, `l*` lists.
fn tree() -> impl Strategy<Value = Node> {
    let scalar = "[a-d]{1,2}".prop_map(|text| node(Value::Scalar(Scalar { text, quoted: false })));
    let list = prop::collection::vec(scalar.clone(), 0..3).prop_map(|items| node(Value::List(items)));
    let leaf = (prop::collection::btree_map("s[ab]", scalar, 0..3), prop::collection::btree_map("l[ab]", list, 0..3))
        .prop_map(|(scalars, lists)| map(scalars.into_iter().chain(lists).collect()));
    leaf.prop_recursive(3, 24, 3, |inner| {
        (inner.clone(), prop::collection::btree_map("m[abc]", inner, 0..3)).prop_map(|(leaf, maps)| {
            let Value::Map(entries) = leaf.value else { unreachable!() };
            let kept = entries.into_iter().filter(|entry| !entry.key.starts_with('m')).map(|entry| (entry.key, entry.node));
            map(kept.chain(maps).collect())
        })
    })
}

/// Scalars and lists by path, as text.
fn plain(node: &Node) -> BTreeMap<String, String> {
    fn walk(path: &str, node: &Node, out: &mut BTreeMap<String, String>) {
        match &node.value {
            Value::Map(entries) => entries.iter().for_each(|entry| walk(&format!("{path}/{}", entry.key), &entry.node, out)),
            Value::List(items) => {
                out.insert(path.to_owned(), format!("{:?}", items.iter().map(|item| &item.value).collect::<Vec<_>>()));
            }
            value => {
                out.insert(path.to_owned(), format!("{value:?}"));
            }
        }
    }
    let mut out = BTreeMap::new();
    walk("", node, &mut out);
    out
}
