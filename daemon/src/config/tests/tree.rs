//! YAML as it comes.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::tree::{MAX_BYTES, MAX_DEPTH, Node, Parsed, Value, parse};

pub fn parsed(bytes: &[u8]) -> Parsed {
    parse(&Arc::new(PathBuf::from("f")), bytes)
}

fn complaints(bytes: &[u8]) -> String {
    parsed(bytes).diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Keys and values with their places, in the order of the file.
fn outline(node: &Node, out: &mut String) {
    let at = |place: &super::Place| format!("{}:{}", place.line, place.column);
    match &node.value {
        Value::Map(entries) => {
            for entry in entries {
                let _ = write!(out, "{}@{} ", entry.key, at(&entry.place));
                outline(&entry.node, out);
            }
        }
        Value::List(items) => items.iter().for_each(|item| outline(item, out)),
        Value::Scalar(scalar) => {
            let _ = write!(out, "{:?}@{} ", scalar.text, at(&node.place));
        }
        Value::Null => {
            let _ = write!(out, "null@{} ", at(&node.place));
        }
        Value::Refused => out.push_str("refused "),
    }
}

fn outline_of(text: &str) -> String {
    let parsed = parsed(text.as_bytes());
    assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
    let mut out = String::new();
    outline(&parsed.root.unwrap(), &mut out);
    out.trim_end().to_owned()
}

#[test]
fn every_key_and_value_knows_its_place() {
    assert_eq!(outline_of("a:\n  b: 1\n  c: [x, 'y z']\n"), r#"a@1:1 b@2:3 "1"@2:6 c@3:3 "x"@3:7 "y z"@3:10"#);
    assert_eq!(outline_of("a:\r\n  - b\r\n  - c: d\r\n"), r#"a@1:1 "b"@2:5 c@3:5 "d"@3:8"#);
    // A byte order mark takes no column, and columns count characters.
    assert_eq!(outline_of("\u{feff}ä: ö\n"), r#"ä@1:1 "ö"@1:4"#);
    assert_eq!(outline_of("---\na: |\n  x\n  y\n"), r#"a@2:1 "x\ny\n"@3:3"#);
    assert_eq!(outline_of("a: ~\nb:\n"), "a@1:1 null@1:4 b@2:1 null@2:2");
    assert_eq!(outline_of(""), "null@1:1");
    assert_eq!(outline_of("# only a comment\n"), "null@1:1");
}

#[test]
fn what_a_configuration_does_not_need_is_refused() {
    for (text, expected) in [
        ("a: 1\nb: 2\na: 3\n", "f:3:1: a: this key was already given at f:1:1; remove one of them"),
        ("a:\n  b: { c: 1, c: 2 }\n", "f:2:14: a.b.c: this key was already given at f:2:8"),
        ("'a': 1\n\"a\": 3\n", "f:2:1: a: this key was already given at f:1:1"),
        ("a: &x 1\n", "anchors (`&name`) are not supported"),
        ("a: *x\n", "f:1:4: a: aliases (`*name`) are not supported"),
        ("a: &x 1\nb: *x\n", "f:2:4: b: aliases"),
        ("<<: { a: 1 }\n", "f:1:1: merge keys (`<<`) are not supported"),
        ("a: !!str 1\n", "tags (`!name`) are not supported"),
        ("a: !vault x\n", "tags (`!name`) are not supported"),
        ("a: 1\n---\nb: 2\n", "f:2:1: a second document starts here"),
        ("? [a]\n: b\n", "a key must be a single value"),
        ("%YAML 1.2\n---\na: 1\n", "f:1:1: directives"),
        ("a:\n\tb: 1\n", "f:2:2: a tab indents this line; YAML indents with spaces only"),
        ("a: 'x", "syntax error: unclosed quote"),
        ("a: b: c\n", "f:1:5: syntax error: mapping values are not allowed"),
        ("a: {\n", "syntax error"),
        ("a: \u{7}\n", "syntax error"),
    ] {
        let found = complaints(text.as_bytes());
        assert!(found.contains(expected), "{text:?}\nexpected {expected}\nfound {found}");
    }
}

#[test]
fn bytes_that_are_not_text_are_named_by_place() {
    assert_eq!(complaints(b"a: 1\nb: x\xffy\n"), "f:2:5: this byte is not UTF-8; save the file as UTF-8");
    assert!(complaints(&[0xff, 0xfe, b'a', 0]).starts_with("f:1:1: this byte is not UTF-8"));
    assert!(!complaints(b"a: \0\n").is_empty());
}

#[test]
fn size_and_nesting_are_bounded() {
    assert_eq!(complaints(&vec![b'#'; MAX_BYTES]), "");
    assert!(complaints(&vec![b'#'; MAX_BYTES + 1]).starts_with("f: the file has 4194305 bytes"));
    for depth in [MAX_DEPTH, 20_000] {
        let flow = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let block: String = (0..depth.min(1500)).map(|at| " ".repeat(at) + "a:\n").collect();
        assert_eq!(complaints(flow.as_bytes()).is_empty(), depth <= MAX_DEPTH, "{depth}");
        assert_eq!(complaints(block.as_bytes()).is_empty(), depth <= MAX_DEPTH, "{depth}");
    }
    assert!(complaints("- a\n".repeat(100_001).as_bytes()).contains("too much"));
    // The billion laughs: nothing is ever expanded.
    let mut bomb = String::from("a0: &a0 lol\n");
    for at in 1..40 {
        let before = at - 1;
        let _ = writeln!(
            bomb,
            "a{at}: &a{at} [*a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}]"
        );
    }
    assert_eq!(parsed(bomb.as_bytes()).diagnostics.len(), 40 + 39 * 8);
}
