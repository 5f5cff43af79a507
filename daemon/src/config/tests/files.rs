//! Files, drop-ins and where values come from.

use std::fs;
use std::path::Path;

use super::*;

/// A folder with these files; missing folders are made.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn report(folder: &Path) -> String {
    check_report(&load(&folder.join("metis.yaml"), None)).replace(&format!("{}/", folder.display()), "")
}

#[test]
fn drop_ins_are_laid_over_in_the_order_of_their_names_and_origins_are_shown() {
    let folder = folder(&[
        (
            "metis.yaml",
            "power:\n  poll_interval: 1s\n  upses:\n    u@h: { username: m, password: { file: /a } }\ndaemon: { log_level: warn }\n",
        ),
        ("metis.d/20-later.yaml", "power:\n  poll_interval: 3s\n"),
        ("metis.d/10-site.yaml", "power:\n  poll_interval: 2s\n  upses:\n    v@h:\n    u@h: { password: { credential: c } }\n"),
        ("metis.d/.hidden.yaml", "nonsense"),
        ("metis.d/README", "nonsense"),
        ("inventory.yaml", ""),
    ]);
    let settings = load(&folder.path().join("metis.yaml"), None).unwrap();
    assert_eq!(settings.power.poll_interval.as_secs(), 3);
    assert_eq!(settings.power.upses.len(), 2);
    let password = settings.power.upses[0].password.clone();
    assert_eq!(password, Some(crate::site::SecretRef::Credential("c".to_owned())), "a reference replaces a reference as a whole");
    let names: Vec<_> = settings.files.iter().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["metis.yaml", "10-site.yaml", "20-later.yaml", "inventory.yaml"]);
    let text = report(folder.path());
    assert!(
        text.contains("power.poll_interval: from metis.d/20-later.yaml:2:18, replacing metis.yaml:2:18, metis.d/10-site.yaml:2:18"),
        "{text}"
    );
    assert!(!text.contains("log_level: from"), "only what replaces something is listed: {text}");
    assert_eq!(settings.origins["daemon.log_level"].place.to_string(), format!("{}/metis.yaml:5:22", folder.path().display()));
}

#[test]
fn a_mistake_that_a_later_file_hides_is_reported_all_the_same() {
    let folder = folder(&[
        ("metis.yaml", "power: { poll_interval: 90, upses: { u@h: { username: m, password: hunter2 } } }\n"),
        ("metis.d/10.yaml", "power: { poll_interval: 2s, pol: 1, upses: { u@h: { password: hunter3 } } }\n"),
        ("metis.d/20.yaml", "power: [\n"),
        ("metis.d/30.yaml", "power: 7\napi: { group: metis }\n"),
        ("inventory.yaml", ""),
    ]);
    let text = report(folder.path());
    for expected in [
        "metis.yaml:1:25: power.poll_interval: `90` has no unit",
        "metis.yaml:1:68: power.upses.u@h.password: must say where",
        "metis.d/10.yaml:1:29: power.pol: unknown key",
        "metis.d/10.yaml:1:63: power.upses.u@h.password: must say where",
        "metis.d/20.yaml:1:8: syntax error: unclosed bracket",
        "metis.d/30.yaml:1:8: power: is a single value here, but a map at metis.yaml:1:8; both must be the same",
        "6 problems in 4 files\n",
    ] {
        assert!(text.contains(expected), "expected {expected}\nfound {text}");
    }
    assert!(!text.contains("hunter"), "{text}");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let empty = folder(&[]);
    let text = report(empty.path());
    assert!(text.starts_with("inventory.yaml: the inventory (key `inventory`, flag --inventory) cannot be read: No such file"), "{text}");
    assert!(text.contains("\nmetis.yaml: the configuration (flag --config) cannot be read: No such file"), "{text}");
    assert!(text.ends_with("\n2 problems in 2 files\n"), "{text}");

    let odd = folder(&[
        ("metis.yaml", ""),
        ("metis.d/10.yaml/x", ""),
        ("metis.d/20.yml", ""),
        ("metis.d/30.yaml", "pwr: 1\n"),
        ("inventory.yaml/x", ""),
    ]);
    let text = report(odd.path());
    assert!(text.contains("metis.d/10.yaml: this drop-in cannot be read: it is not a regular file"), "{text}");
    assert!(text.contains("metis.d/20.yml: is not read, because its name ends in .yml"), "{text}");
    assert!(text.contains("metis.d/30.yaml:1:1: pwr: unknown key"), "{text}");
    assert!(text.contains("inventory.yaml: the inventory (key `inventory`, flag --inventory) cannot be read"), "{text}");
}

#[test]
fn the_inventory_is_found_by_flag_then_key_then_beside_the_configuration() {
    let files = [
        ("metis.yaml", ""),
        ("inventory.yaml", "classes: { beside: { arch: arm64 } }"),
        ("key.yaml", "classes: { key: { arch: arm64 } }"),
        ("flag.yaml", "classes: { flag: { arch: arm64 } }"),
    ];
    let folder = folder(&files);
    let main = folder.path().join("metis.yaml");
    let class = |flag: Option<&Path>| load(&main, flag).unwrap().inventory.classes.keys().next().unwrap().to_string();
    assert_eq!(class(None), "beside");
    fs::write(&main, format!("inventory: {}/key.yaml\n", folder.path().display())).unwrap();
    assert_eq!(class(None), "key");
    assert_eq!(class(Some(&folder.path().join("flag.yaml"))), "flag");
}

#[test]
fn the_digest_is_of_what_is_meant_and_not_of_how_it_is_written() {
    let digest = |main: &str, inventory: &str| from_strs(main, inventory).unwrap().digest.to_string();
    let base = digest("", "");
    assert_eq!(base.len(), 64);
    assert_eq!(digest("# comment\npower:\n  poll_interval: 2000ms\n", "nodes:\n"), base);
    let changed = [
        digest("daemon: { host_role: peer }", ""),
        digest("api: { group: metis }", ""),
        digest("power: { poll_interval: 3s }", ""),
        digest("card: { free_space_floor: 1G }", ""),
        digest("", "classes: { a: { arch: arm64 } }"),
        digest("", "defaults: { hosts: { 10.0.0.1: [a] }, ssh: { host_keys: { rsa: { file: /a } } } }"),
    ];
    let distinct: std::collections::BTreeSet<_> = changed.iter().chain([&base]).collect();
    assert_eq!(distinct.len(), changed.len() + 1);
}

#[test]
fn a_summary_says_what_was_loaded() {
    let text = check_report(&from_strs(
        "daemon: { host_role: cards }",
        "classes: { a: { arch: arm64 } }\nnodes: { n: { class: a }, m: { class: a } }\n",
    ));
    for expected in [
        "The configuration is valid.\n",
        "read       metis.yaml\n",
        "daemon     cards, state in /var/lib/metis\n",
        "0 UPSes, 0 domains\n",
        "2 nodes, 1 class (0 with an image)\n",
    ] {
        assert!(text.contains(expected), "expected {expected}\nfound {text}");
    }
}
