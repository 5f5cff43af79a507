//! The site stopped in order: by a failing UPS, by a person, and not at all.

use std::time::Duration;

use metis_tests::hosts::{Role, unit};
use metis_tests::nspawn::{End, Event, State};

use super::evidence::{self, *};
use super::site::{AGENTS, EXPORTER, FED, Site, Wanted};

/// Hosts by their names in the inventory.
const ALL: [&str; 6] = ["titan-05", "titan-0a", "titan-13", "titan-15", "titan-24", "titan-db"];

#[test]
fn an_armed_metis_stops_the_site_in_order_before_the_battery_is_empty() {
    let Some(site) = Site::start("an outage, armed", &Wanted::default()) else { return };
    site.arm();
    site.run_down();

    assert_report_of_a_good_run(&site.metis.report().unwrap(), &ALL, "ups");
    assert_flux_is_suspended(&site);
    assert_the_storage_plane_was_left_alone(&site);
    assert_volumes_were_detached_before_their_nodes_stopped(&site);
    assert_agents_stopped_before_the_server(&site);
    assert_powered_off(&site, &FED);
    assert_the_battery_lasted(&site);
    // The peer has a UPS of its own, with mains: only its k3s had to go.
    assert_eq!(site.hosts[Role::Tethys].state(), State::On);
    assert_nothing_of_k3s_runs(&site, Role::Tethys);
    assert_one_snapshot(&site);
}

#[test]
fn a_disarmed_metis_only_records_what_it_would_have_done() {
    let Some(site) = Site::start("an outage, disarmed", &Wanted::default()) else { return };
    let before = site.hosts.history().len();
    site.mains_fail();
    let status = site.metis.until(Duration::from_secs(60), &["status"], |status| status.to_string().contains("DISARMED: would have acted"));
    status.unwrap();
    // Whatever it were to do it would have begun by now.
    std::thread::sleep(Duration::from_secs(5));
    site.hosts.ups("pyrphoros").set_mains(true);
    let cleared = |facts: &[metis_tests::hosts::Fact]| facts.iter().any(|fact| fact.kind == "trigger.cleared");
    site.hosts
        .cluster()
        .with(|plane| {
            plane.wait(30, "the end of the trigger", || {
                anyhow::ensure!(cleared(&site.metis.facts()?));
                Ok(())
            })
        })
        .unwrap();
    let facts = site.metis.facts().unwrap();
    let decided: Vec<_> = facts.iter().filter(|fact| fact.kind == "trigger.decided").collect();
    assert!(decided.len() == 1 && decided[0].text("would_act") == "observe", "{decided:#?}");
    let done: Vec<_> = facts.iter().filter(|fact| fact.kind.starts_with("run.") || fact.kind.starts_with("step.")).collect();
    assert!(done.is_empty(), "{done:#?}");
    assert_eq!(evidence::writes(&site).len(), 0, "{:#?}", evidence::writes(&site));
    let happened: Vec<_> = site.hosts.history().into_iter().skip(before).map(|moment| moment.event).collect();
    assert_eq!(happened, [Event::MainsFailed, Event::MainsBack]);
    let running = Role::ALL.into_iter().filter_map(|role| Some((role, unit(role)?)));
    running.for_each(|(role, unit)| drop(site.hosts[role].sh(&format!("systemctl is-active {unit}")).unwrap()));
}

#[test]
fn full_a_person_powers_the_whole_site_off_with_one_command() {
    let Some(site) = Site::start("metisctl shutdown --mode host-poweroff", &Wanted::default()) else { return };
    let begun = std::time::Instant::now();
    let done = site.metis.ctl(&["shutdown", "--execute", "--mode", "host-poweroff", "--reason", "new batteries"]).unwrap();
    assert_eq!(done.code, Some(0), "{done:?}\n{}", site.metis.log());
    let off = Event::Is(State::Off(End::PoweredOff));
    site.hosts.wait_event("titan-db", &off, begun, Duration::from_secs(60)).unwrap();
    assert_report_of_a_good_run(&site.metis.report().unwrap(), &ALL, "person");
    assert_flux_is_suspended(&site);
    assert_the_storage_plane_was_left_alone(&site);
    assert_volumes_were_detached_before_their_nodes_stopped(&site);
    assert_agents_stopped_before_the_server(&site);
    assert_powered_off(&site, &Role::ALL);
    assert_one_snapshot(&site);
}

#[test]
fn full_a_person_stops_the_cluster_and_the_hosts_stay_on() {
    let Some(site) = Site::start("metisctl shutdown --mode cluster-only", &Wanted::default()) else { return };
    let before = site.hosts.history().len();
    assert!(processes(&site, Role::Titan13) > 0, "the DaemonSet runs");
    let done = site.metis.ctl(&["shutdown", "--execute", "--mode", "cluster-only"]).unwrap();
    assert_eq!(done.code, Some(0), "{done:?}\n{}", site.metis.log());
    let hosts: Vec<&str> = ALL.into_iter().filter(|host| *host != "titan-db").collect();
    assert_report_of_a_good_run(&site.metis.report().unwrap(), &hosts, "person");
    assert_flux_is_suspended(&site);
    assert_the_storage_plane_was_left_alone(&site);
    assert_volumes_were_detached_before_their_nodes_stopped(&site);
    assert_agents_stopped_before_the_server(&site);
    for role in [&AGENTS[..], &[Role::Titan0a]].concat() {
        assert_nothing_of_k3s_runs(&site, role);
    }
    assert_one_snapshot(&site);
    assert_eq!(site.hosts.history().len(), before, "{:#?}", site.hosts.history());
}

/// How many processes of the DaemonSet run on a host.
fn processes(site: &Site, role: Role) -> usize {
    let out = site.hosts[role].output(&["pgrep", "-fxc", EXPORTER]).unwrap();
    String::from_utf8_lossy(&out.stdout).trim().parse().unwrap()
}

/// No unit, no shim, no container, no mount of the kubelet.
fn assert_nothing_of_k3s_runs(site: &Site, role: Role) {
    let host = &site.hosts[role];
    host.sh(&format!("! systemctl is-active {}", unit(role).unwrap())).unwrap();
    let left = host.sh("ps -e -o args= | grep -E 'containerd-shim|/kwok|sleep 4200' | grep -v grep || true").unwrap();
    assert!(left.is_empty() && processes(site, role) == 0, "{}: {left}", role.name());
    let mounts = host.sh("grep -E '/var/lib/kubelet|/run/k3s' /proc/mounts || true").unwrap();
    assert!(mounts.is_empty(), "{}: {mounts}", role.name());
}

/// One snapshot of etcd, on the server's disk, with something in it.
fn assert_one_snapshot(site: &Site) {
    let folder = site.hosts[Role::Titan0a].disk().join("var/lib/rancher/k3s/server/db/snapshots");
    let found: Vec<_> =
        std::fs::read_dir(&folder).unwrap().flatten().map(|entry| (entry.file_name(), entry.metadata().unwrap().len())).collect();
    let [(name, length)] = &found[..] else { panic!("{found:?}") };
    assert!(name.to_string_lossy().starts_with("metis-shutdown-titan-0a-") && *length > 100_000, "{found:?}");
}
