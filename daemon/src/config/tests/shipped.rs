//! `etc/` as shipped.

use std::path::{Path, PathBuf};

use super::*;
use crate::cluster::{Datastore, ShutdownMode};
use crate::site::{OnTrigger, Returns};

pub fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../etc").join(name)
}

pub fn text(name: &str) -> String {
    std::fs::read_to_string(shipped(name)).unwrap()
}

/// Commented-out keys and list items taken in, except the named ones and what is below them.
fn uncommented(text: &str, except: &[&str]) -> String {
    let key = |line: &str| {
        let word = line.split_once(':').map_or("", |(word, _)| word);
        !word.is_empty() && !word.contains(' ') && !word.starts_with(|c: char| c.is_uppercase())
    };
    let mut out = String::new();
    let mut skipped: Option<usize> = None;
    // The head of the file explains; keys start after the first empty line.
    for line in text.lines().skip_while(|line| !line.is_empty()) {
        let bare = line.trim_start();
        let Some(rest) = bare.strip_prefix("# ") else {
            skipped = None;
            out.push_str(line);
            out.push('\n');
            continue;
        };
        let content = rest.trim_start();
        if !key(content) && !content.starts_with("- ") {
            continue;
        }
        let indent = line.len() - bare.len() + rest.len() - content.len();
        if skipped.is_some_and(|at| indent > at) {
            continue;
        }
        skipped = except.iter().any(|word| content.starts_with(&format!("{word}:"))).then_some(indent);
        if skipped.is_none() {
            out.push_str(&" ".repeat(indent));
            out.push_str(content);
            out.push('\n');
        }
    }
    out
}

#[test]
fn shipped_files_are_valid_and_harmless() {
    let loaded = load(&shipped("metis.yaml"), None);
    assert!(loaded.is_ok(), "{}", check_report(&loaded));
    let settings = loaded.unwrap();
    assert_eq!(settings.power.on_trigger, OnTrigger::Observe);
    assert_eq!(settings.daemon.host_role, HostRole::Observer);
    assert!(settings.cluster.kubeconfig.is_none() && settings.cluster.shutdown.mode == ShutdownMode::ClusterOnly);
    assert!(settings.power.upses.is_empty() && settings.api.roles.is_empty());
    assert_eq!(settings.inventory.nodes.len(), 11);
    assert!(settings.inventory.classes.values().all(|class| class.image.is_none()));
}

#[test]
fn the_defaults_shown_in_comments_are_the_real_ones() {
    let examples = [
        "roles",
        "upses",
        "domains",
        "ca_file",
        "inventory",
        "kubeconfig",
        "endpoints",
        "protect",
        "this_host",
        "host",
        "key",
        "helper_image",
        "expected_flux_url",
        "expected_flux_branch",
        "optional_kustomizations",
        "namespaces",
        "ignore",
        "address",
        "services",
        "critical_endpoints",
        "vault",
        "registry_host",
    ];
    let shown = uncommented(&text("metis.yaml"), &examples);
    assert!(shown.contains("\n  poll_interval: 2s\n") && shown.contains("\n    charge_floor: 20 "), "{shown}");
    let shown = from_strs(&shown, &text("inventory.yaml")).unwrap_or_else(|all| panic!("{}\n{shown}", check_report(&Err(all))));
    let bare = from_strs(&text("metis.yaml"), &text("inventory.yaml")).unwrap();
    assert_eq!(shown.digest, bare.digest, "{shown:#?}\n{bare:#?}");
}

#[test]
fn the_datastore_shown_as_external_is_valid() {
    let text = text("metis.yaml");
    let shown = text.split_once("As external: ").and_then(|(_, rest)| rest.split_once("};")).map(|(map, _)| format!("{map}}}")).unwrap();
    let settings = from_strs(&format!("cluster: {{ datastore: {shown} }}"), &self::text("inventory.yaml")).unwrap();
    let Datastore::External { host, dump } = settings.cluster.datastore else { panic!("{:?}", settings.cluster.datastore) };
    assert_eq!((host.as_str(), dump.unwrap().starts_with("runuser -u postgres")), ("titan-db", true));
}

#[test]
fn the_examples_shown_in_comments_are_valid() {
    let main = uncommented(&text("metis.yaml"), &[]);
    let key = "AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
    let inventory = uncommented(&text("inventory.yaml"), &[])
        .replace("<64 hexadecimal digits, as sha256sum prints them>", &"0".repeat(64))
        .replace("AAAAC3NzaC1lZDI1NTE5AAAAI…", key);
    let inventory = inventory.lines().filter(|line| !line.trim().ends_with(": as above")).collect::<Vec<_>>().join("\n");
    let settings = from_strs(&main, &inventory).unwrap_or_else(|all| panic!("{}\n{main}\n{inventory}", check_report(&Err(all))));
    assert_eq!(settings.power.upses.len(), 2);
    let fed: usize = settings.power.domains.iter().map(|domain| domain.nodes.len()).sum();
    assert_eq!(fed, settings.inventory.nodes.len(), "each node of the example is fed by one domain");
    assert_eq!(settings.api.roles.len(), 3);
    assert_eq!((settings.cluster.endpoints.len(), settings.cluster.shutdown.protect.len()), (2, 2));
    assert!(settings.hosts.this_host.is_some() && settings.hosts.key.is_some() && settings.hosts.helper_image.is_some());
    let host = &settings.inventory.nodes[&"titan-13".into()].settings.host;
    assert!(host.host_keys.as_ref().is_some_and(|keys| keys.len() == 1) && host.returns == Some(Returns::AcCycle));
    assert!(settings.inventory.defaults.ssh.users["erika"].sudo == Some(true));
}
