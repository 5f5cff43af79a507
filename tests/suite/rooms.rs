//! Keeps the rooms of the daemon apart: who may import whom.
#![allow(clippy::expect_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Room → rooms it may import besides itself and `site`. `app` and `main.rs` may import everything and are not listed.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("site", &[]),
    // The rooms' validated settings.
    ("config", &["api", "card", "cluster", "host", "peer", "power"]),
    ("probe", &[]),
    // Of the cluster: how the plans of two shutdowns are joined (pure).
    ("control", &["journal", "runbook", "power", "report", "cluster"]),
    // Plans are values of `runbook`; rules and adapters are its own.
    ("cluster", &["runbook"]),
    ("journal", &[]),
    ("runbook", &[]),
    ("power", &[]),
    // Facts and findings; what collects them is in `app`.
    ("prepare", &[]),
    ("host", &[]),
    // Plans are values of `runbook`; everything else of a card is its own.
    ("card", &["runbook"]),
    ("secrets", &[]),
    ("report", &["runbook"]),
    // The rule is pure; the way to the other host is given by `app`.
    ("peer", &[]),
    // Plain values of power, card, cluster and peer become messages here; the journal is read.
    ("api", &["control", "journal", "runbook", "power", "prepare", "card", "cluster", "peer"]),
    // The ports of these rooms, and what their verbs take and give.
    ("sim", &["cluster", "host", "power", "probe"]),
];

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../daemon/src")
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("source folder").map(|e| e.expect("entry").path()) {
        if entry.is_dir() {
            sources(&entry, found);
        } else if entry.extension().is_some_and(|e| e == "rs") {
            found.push(entry);
        }
    }
}

/// Every `crate::…` path of production code: comments and what follows `#[cfg(test)]` left out.
fn crate_paths(text: &str) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for line in text.lines().take_while(|l| l.trim() != "#[cfg(test)]") {
        let code = line.split("//").next().unwrap_or("");
        for (at, _) in code.match_indices("crate::") {
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let path: String = code[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect();
            paths.insert(path);
        }
    }
    paths
}

fn violations(room: &str, file: &str, text: &str, allowed: &BTreeMap<&str, &[&str]>) -> Vec<String> {
    let Some(may) = allowed.get(room) else { return vec![format!("{file}: room `{room}` is not in the table of tests/suite/rooms.rs")] };
    let ok = |path: &str| {
        let target = path.split("::").next().unwrap_or("");
        target == room || target == "site" || may.contains(&target)
    };
    crate_paths(text).into_iter().filter(|p| !ok(p)).map(|p| format!("{file}: room `{room}` may not import crate::{p}")).collect()
}

#[test]
fn rooms_import_only_what_the_house_allows() {
    let allowed: BTreeMap<_, _> = MAY_IMPORT.iter().copied().collect();
    let root = source_root();
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut found = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).expect("below the root");
        let first = relative.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
        let room = first.trim_end_matches(".rs");
        if matches!(room, "main" | "lib" | "app") {
            continue;
        }
        let text = std::fs::read_to_string(&file).expect("source");
        found.extend(violations(room, &relative.display().to_string(), &text, &allowed));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_forbidden_import_is_found() {
    let allowed: BTreeMap<_, _> = MAY_IMPORT.iter().copied().collect();
    let bad = "use crate::control::View;\nfn f() { crate::card::x(); } // crate::api\n#[cfg(test)]\nuse crate::app;";
    assert_eq!(violations("power", "p.rs", bad, &allowed).len(), 2);
    assert_eq!(violations("journal", "j.rs", "use crate::power;", &allowed).len(), 1);
    assert_eq!(violations("api", "a.rs", "use crate::journal::Reader;\nuse crate::site::Now;", &allowed).len(), 0);
}

#[test]
fn main_stays_small() {
    let lines = std::fs::read_to_string(source_root().join("main.rs")).expect("main.rs").lines().count();
    assert!(lines <= 60, "daemon/src/main.rs has {lines} lines; 60 are allowed");
}
