//! What `metisd --check-config` prints.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::diagnostic::Diagnostic;
use super::settings::Settings;
use crate::cluster::{Datastore, Settings as ClusterSettings};

/// All mistakes with their count, or a summary of what was loaded and which values replace others.
pub fn check_report(loaded: &Result<Settings, Vec<Diagnostic>>) -> String {
    match loaded {
        Ok(settings) => summary(settings),
        Err(diagnostics) => problems(diagnostics),
    }
}

fn problems(diagnostics: &[Diagnostic]) -> String {
    let files: BTreeSet<_> = diagnostics.iter().map(|diagnostic| &diagnostic.file).collect();
    let mut out = String::new();
    for diagnostic in diagnostics {
        let _ = writeln!(out, "{diagnostic}");
    }
    let _ = writeln!(out, "{} in {}", count(diagnostics.len(), "problem"), count(files.len(), "file"));
    out
}

fn count(number: usize, what: &str) -> String {
    let plural = match (number, what) {
        (1, _) => what.to_owned(),
        (_, "class") => "classes".to_owned(),
        (_, "UPS") => "UPSes".to_owned(),
        _ => format!("{what}s"),
    };
    format!("{number} {plural}")
}

fn cluster(settings: &ClusterSettings) -> String {
    let Some(kubeconfig) = &settings.kubeconfig else { return "none (no cluster.kubeconfig)".to_owned() };
    let datastore = match &settings.datastore {
        Datastore::EmbeddedEtcd { .. } => "embedded etcd".to_owned(),
        Datastore::External { host, .. } => format!("datastore on {host}"),
        Datastore::Sqlite => "SQLite".to_owned(),
    };
    let endpoints = match settings.endpoints.as_slice() {
        [] => "the endpoint of the kubeconfig".to_owned(),
        all => all.join(", "),
    };
    format!("{kubeconfig}, {endpoints}, {datastore}")
}

fn summary(settings: &Settings) -> String {
    let mut out = String::from("The configuration is valid.\n");
    for file in &settings.files {
        let _ = writeln!(out, "  read       {}", file.display());
    }
    let power = &settings.power;
    let inventory = &settings.inventory;
    let burnable = inventory.classes.values().filter(|class| class.image.is_some()).count();
    let _ = writeln!(out, "  daemon     {}, state in {}", settings.daemon.host_role, settings.daemon.state_dir.display());
    let _ = writeln!(out, "  api        {}", settings.api.socket.display());
    let _ = writeln!(out, "  power      {}, {}", count(power.upses.len(), "UPS"), count(power.domains.len(), "domain"));
    let _ = writeln!(out, "  cluster    {}", cluster(&settings.cluster));
    let classes = count(inventory.classes.len(), "class");
    let _ = writeln!(out, "  inventory  {}, {classes} ({burnable} with an image)", count(inventory.nodes.len(), "node"));
    let _ = writeln!(out, "  digest     {}", settings.digest);
    for remark in &settings.remarks {
        let _ = writeln!(out, "warning: {remark}");
    }
    for (key, origin) in settings.origins.iter().filter(|(_, origin)| !origin.replaced.is_empty()) {
        let replaced = origin.replaced.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let _ = writeln!(out, "  {key}: from {}, replacing {replaced}", origin.place);
    }
    out
}
