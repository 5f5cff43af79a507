//! Start-ups of a site whose Vault every boot of its hosts seals.

use std::sync::Arc;
use std::time::Duration;

use super::site::{HOSTS, site};
use super::startup::{as_before, at, begin, ends, order, switch_on};
use super::{Rehearsal, ended};
use crate::cluster::vault::{VaultSettings, tests};
use crate::config::Settings;
use crate::control::RunRecord;
use crate::runbook::Outcome;
use crate::sim::site::{Fault, Model, SimVault, Site};
use crate::site::OnTrigger;

fn settings() -> Settings {
    let mut settings = super::site::settings();
    settings.cluster.startup.vault = Some(VaultSettings { pods: 2, ..tests::settings() });
    settings
}

fn site_with_vault() -> Site {
    let site = site();
    site.change(|model| {
        for node in ["titan-13", "titan-15"] {
            model.vault.insert(node.to_owned(), SimVault { unsealed_in: Some(0) });
        }
    });
    site
}

async fn after_an_outage() -> (Rehearsal, Model) {
    let site = site_with_vault();
    let before = site.model();
    let rehearsal = Rehearsal::with(site, settings()).await;
    rehearsal.arm(OnTrigger::HostPoweroff).await;
    rehearsal.outage(300, None, ended).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    switch_on(&rehearsal.site, &HOSTS);
    rehearsal.read("OL CHRG", 80.0, 2500).await;
    (rehearsal, before)
}

fn said(record: &Arc<RunRecord>) -> String {
    record.run.state(&"vault".into()).unwrap().detail.clone()
}

#[tokio::test(start_paused = true)]
async fn what_the_outage_sealed_is_unsealed_before_flux_goes_on() {
    let (rehearsal, before) = after_an_outage().await;
    begin(&rehearsal, &order()).await;
    let record = ends(&rehearsal).await;
    assert_eq!(record.run.outcome, Some(Outcome::Done), "{}", record.reason);
    let model = rehearsal.site.model();
    as_before(&before, &model);
    assert!(model.vault.values().all(|vault| vault.unsealed_in == Some(1)), "{:?}", model.vault);
    let unsealed = at(&model, "unseal vault-titan-15");
    assert!(at(&model, "uncordon") < unsealed && unsealed < at(&model, "resume"), "{:#?}", model.log);
    assert_eq!(said(&record), "2 pods of Vault are initialised and unsealed");
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_is_open_is_left_alone() {
    let rehearsal = Rehearsal::with(site_with_vault(), settings()).await;
    begin(&rehearsal, &order()).await;
    let record = ends(&rehearsal).await;
    assert_eq!(record.run.outcome, Some(Outcome::Done), "{}", record.reason);
    assert_eq!(rehearsal.site.model().log, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn wrong_keys_are_tried_once_and_a_person_can_still_help() {
    let (rehearsal, before) = after_an_outage().await;
    rehearsal.site.change(|model| {
        model.faults.insert(Fault::WrongKeys);
    });
    begin(&rehearsal, &order()).await;
    tokio::time::sleep(Duration::from_secs(420)).await;
    let record = Arc::clone(rehearsal.handle.view().runs.first().unwrap());
    assert!(said(&record).contains("is sealed") && said(&record).contains("a person's to know"), "{}", said(&record));
    // The right keys come too late for metis, which does not ask for them again, and not for a person.
    rehearsal.site.change(|model| {
        model.faults.clear();
        model.log.clear();
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!rehearsal.site.model().log.iter().any(|line| line.starts_with("unseal")), "{:#?}", rehearsal.site.model().log);
    rehearsal.site.change(|model| model.vault.values_mut().for_each(|vault| vault.unsealed_in = Some(1)));
    let record = ends(&rehearsal).await;
    assert_eq!(record.run.outcome, Some(Outcome::Done), "{}", record.reason);
    as_before(&before, &rehearsal.site.model());
}

#[tokio::test(start_paused = true)]
async fn a_seal_without_a_new_start_is_somebodys_wish() {
    let (rehearsal, _) = after_an_outage().await;
    // The second pod is held back, so that the gate goes on looking.
    rehearsal.site.change(|model| {
        model.vault.remove("titan-15");
    });
    begin(&rehearsal, &order()).await;
    let opened = |model: &Model| model.log.iter().filter(|line| line.starts_with("unseal")).count();
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        if opened(&rehearsal.site.model()) == 1 {
            break;
        }
    }
    rehearsal.site.change(|model| model.vault.get_mut("titan-13").unwrap().unsealed_in = None);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(opened(&rehearsal.site.model()), 1, "sealed by a person: left so");
    // It is started again: that seals every Vault.
    rehearsal.site.change(|model| model.hosts.get_mut("titan-13").unwrap().boots += 1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(opened(&rehearsal.site.model()), 2);
}
