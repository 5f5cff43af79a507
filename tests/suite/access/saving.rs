//! The datastore on metisd's own host, saved by root's unit; and that host's own end, ordered by metis or by somebody else.

use std::path::Path;
use std::time::Duration;

use metis_tests::nspawn::{End, Host as Machine};
use metis_tests::require;
use serde_json::Value;

use super::*;

/// A site that is this host alone.
const CONFIG: &str = "daemon: { host_role: coordinator }
hosts: { this_host: db }
cluster: { datastore: { kind: external, host: db, dump: \"sh /srv/dump\" } }
shutdown: { snapshot_timeout: 8s }
";
const INVENTORY: &str = "classes: { outside: { arch: amd64 } }\nnodes: { db: { class: outside } }\n";
/// Of the entry that somebody else powers this host off.
const GOES_DOWN: &str = "c05d3e9871b64f2d9a7e4b1fd8326c50";

fn prepare(root: &Path) -> anyhow::Result<()> {
    install(root)?;
    put(root, "etc/metis/inventory.yaml", INVENTORY)?;
    put(root, "etc/metis/metis.d/test.yaml", CONFIG)?;
    put(root, "etc/tmpfiles.d/zz-site.conf", "Z /etc/metis - root metis -\n")?;
    put(root, &format!("etc/systemd/system/{}", FORGOTTEN.0), FORGOTTEN.1)?;
    // The journal of an earlier boot is part of what is looked at.
    std::fs::create_dir_all(root.join("var/log/journal"))?;
    std::fs::create_dir_all(root.join("srv"))?;
    let enabled = Process::new("systemctl").arg("--root").arg(root).args(["--no-pager", "enable", "metisd.service"]).output()?;
    anyhow::ensure!(enabled.status.success(), "systemctl enable: {}", String::from_utf8_lossy(&enabled.stderr));
    Ok(())
}

fn start(name: &str) -> Option<Machine> {
    let needed = ["systemd-nspawn", "mmdebstrap", "nsenter"];
    (require::root(name) && require::programs(name, &needed)).then(|| Machine::boot(name, &[], prepare).unwrap())
}

/// What is run to dump the datastore.
fn dump(machine: &Machine, script: &str) {
    std::fs::write(machine.root().join("srv/dump"), script).unwrap();
}

/// metisctl's exit code and what it said.
fn metisctl(machine: &Machine, arguments: &str) -> (Option<i32>, String) {
    let out = machine.output(&["sh", "-c", &format!("exec metisctl {arguments}")]).unwrap();
    (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

fn report(machine: &Machine) -> Value {
    serde_json::from_str(&machine.sh("cat /var/lib/metis/last-shutdown-report.json").unwrap()).unwrap()
}

/// The last word of the step that saves the datastore.
fn said(report: &Value) -> String {
    let steps = report["phases"].as_array().unwrap().iter().flat_map(|phase| phase["steps"].as_array().unwrap());
    let step = steps.clone().find(|step| step["id"] == "datastore.dump").unwrap();
    format!("{} {}", step["status"].as_str().unwrap(), step["detail"].as_str().unwrap())
}

#[test]
fn the_datastore_of_this_host_is_saved_by_roots_unit() {
    let Some(machine) = start("dump") else { return };
    machine.wait_for(10, "metisctl status").unwrap();
    machine.sh("systemd-analyze verify --man=no metis-datastore-dump.service").unwrap();
    let exposure =
        machine.sh("systemd-analyze security --offline=true --no-pager /usr/lib/systemd/system/metis-datastore-dump.service").unwrap();
    let line = exposure.lines().rev().find(|line| line.contains("exposure level")).unwrap();
    let level: f64 = line.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    assert!(level < 7.0, "{line}");
    machine.sh("metisd --check-config").unwrap();

    // As root, with the system read-only to it; a database's own user is at hand.
    dump(
        &machine,
        "set -e; id -un >/srv/saved; umask >>/srv/saved; touch /usr/x 2>/dev/null && echo usr >>/srv/saved\n\
         runuser -u nobody -- id -un >>/srv/saved; echo table >/var/backups/dump\n",
    );
    let (code, text) = metisctl(&machine, "shutdown --execute --reason test");
    assert_eq!(code, Some(0), "{text}\n{}", machine.sh("journalctl --no-pager -b -u metis-datastore-dump -u metisd").unwrap());
    assert_eq!(said(&report(&machine)), "done saved by metis-datastore-dump.service");
    assert_eq!(machine.sh("cat /srv/saved; stat -c %a /var/backups/dump").unwrap(), "root\n0077\nnobody\n600\n");

    dump(&machine, "echo no such database >&2; exit 3\n");
    let (code, text) = metisctl(&machine, "shutdown --execute");
    assert_eq!(code, Some(5), "{text}");
    assert!(
        said(&report(&machine)).contains("ended with `failed`; see journalctl -u metis-datastore-dump.service"),
        "{}",
        said(&report(&machine))
    );
    machine.sh("journalctl --no-pager -o cat -u metis-datastore-dump | grep 'no such database'").unwrap();
    machine.sh("journalctl --no-pager -o cat -u metis-datastore-dump | grep 'ended with exit status: 3'").unwrap();

    // One that hangs is not left running.
    dump(&machine, "echo begun >/srv/begun; exec sleep 4711\n");
    let (code, text) = metisctl(&machine, "shutdown --execute");
    assert_eq!(code, Some(5), "{text}");
    assert!(
        machine.sh("cat /srv/begun").unwrap() == "begun\n" && said(&report(&machine)).contains("no answer within"),
        "{}",
        said(&report(&machine))
    );
    machine.wait_for(5, "! pgrep -fx 'sleep 4711'").unwrap();
    machine.sh("case $(systemctl show -P ActiveState metis-datastore-dump) in inactive|failed) ;; *) exit 1; esac").unwrap();

    misfits(&machine);
    snapshots(&machine);
}

/// With embedded etcd on this host the same unit saves a snapshot and prunes older ones, whoever of those who may starts it.
fn snapshots(machine: &Machine) {
    let root = machine.root();
    put(&root, "usr/local/bin/k3s", "#!/bin/sh\necho \"$@\" >>/srv/k3s\n").unwrap();
    put(
        &root,
        "etc/metis/inventory.yaml",
        "classes: { server: { arch: amd64, k3s: { role: server } } }\nnodes: { db: { class: server } }\n",
    )
    .unwrap();
    put(&root, "etc/metis/metis.d/test.yaml", "hosts: { this_host: db }\ncluster: { datastore: { keep: 3 } }\n").unwrap();
    machine.sh("chmod 0755 /usr/local/bin/k3s").unwrap();
    machine.sh("setpriv --reuid=metis --regid=metis --init-groups systemctl start metis-datastore-dump").unwrap();
    let asked = machine.sh("cat /srv/k3s").unwrap();
    assert_eq!(asked, "etcd-snapshot save --name metis-shutdown\netcd-snapshot prune --name metis-shutdown --snapshot-retention 3\n");
}

/// What root runs is root's alone to say: otherwise it is refused, and said before it matters.
fn misfits(machine: &Machine) {
    dump(machine, "echo again >/srv/saved\n");
    let refused = |what: &str| {
        let check = machine.output(&["metisd", "--check-config"]).unwrap();
        let check = (check.status.code(), String::from_utf8_lossy(&check.stdout).into_owned());
        assert!(check.0 == Some(1) && check.1.contains(what), "{check:?}");
        let (code, text) = metisctl(machine, "arm --check");
        assert!(code == Some(3) && text.contains("cluster.datastore: ") && text.contains(what), "{code:?} {text}");
    };
    machine.sh("chown metis /etc/metis/metis.d/test.yaml").unwrap();
    refused("/etc/metis/metis.d/test.yaml belongs to uid");
    let (code, text) = metisctl(machine, "shutdown --execute");
    assert_eq!(code, Some(5), "{text}");
    machine.sh("journalctl --no-pager -o cat -u metis-datastore-dump | grep \"what root runs must be root's alone to say\"").unwrap();
    assert_ne!(machine.sh("cat /srv/saved").unwrap(), "again\n");
    machine.sh("chown root /etc/metis/metis.d/test.yaml; chmod 0777 /etc/metis/metis.d").unwrap();
    refused("chmod go-w /etc/metis/metis.d");
    machine.sh("chmod 0750 /etc/metis/metis.d; systemctl mask --quiet metis-datastore-dump").unwrap();
    refused("metis-datastore-dump.service is masked");
    machine.sh("systemctl unmask --quiet metis-datastore-dump; metisd --check-config").unwrap();
    let (_, text) = metisctl(machine, "arm --check");
    assert!(!text.contains("cluster.datastore"), "{text}");
    // A draft elsewhere is no mistake.
    let draft = machine.sh("cp -r /etc/metis /srv/draft; metisd --config /srv/draft/metis.yaml --check-config").unwrap();
    assert!(draft.contains("saved by metis-datastore-dump.service, which reads /etc/metis/metis.yaml"), "{draft}");
    let (code, text) = metisctl(machine, "shutdown --execute");
    assert_eq!((code, machine.sh("cat /srv/saved").unwrap().as_str()), (Some(0), "again\n"), "{text}");
}

#[test]
fn a_reboot_that_somebody_else_orders_waits_for_what_is_under_way_and_stops_nothing() {
    let Some(machine) = start("reboot") else { return };
    machine.wait_for(10, "metisctl status").unwrap();
    machine.wait_for(10, "systemd-inhibit --list --no-pager | grep metis").unwrap();
    dump(&machine, "echo begun >/srv/begun; sleep 2; echo saved >/srv/saved\n");
    machine.sh("systemd-run --quiet --unit=ask metisctl shutdown --execute").unwrap();
    machine.wait_for(10, "test -e /srv/begun").unwrap();
    let boot = machine.sh("cat /proc/sys/kernel/random/boot_id").unwrap();
    machine.sh("systemctl reboot").unwrap();
    let status =
        machine.wait_for(2, "systemctl show -P StatusText metisd | grep 'this host goes down, which somebody else ordered'").unwrap();
    assert!(status.contains("shutdown-1"), "{status}");
    machine.wait_for(60, &format!("! grep -q {} /proc/sys/kernel/random/boot_id && metisctl status", boot.trim())).unwrap();
    assert_eq!(machine.sh("cat /srv/saved").unwrap(), "saved\n");
    let told = machine.sh(&format!("journalctl --no-pager -o cat -b -1 MESSAGE_ID={GOES_DOWN}")).unwrap();
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.contains("nothing of the site is stopped for it; shutdown-1 under way"), "{told}");
    machine
        .sh(&format!(
            "journalctl --update-catalog; journalctl --no-pager -x -b -1 MESSAGE_ID={GOES_DOWN} | grep 'Subject: This host goes down, and metis did not order it'"
        ))
        .unwrap();
    assert_eq!(said(&report(&machine)), "done saved by metis-datastore-dump.service");
    // The next boot knows nothing of it, and the run is not closed as interrupted.
    let runs: Value = serde_json::from_str(&machine.sh("metisctl run list -o json").unwrap()).unwrap();
    assert_eq!((runs["runs"].as_array().unwrap().len(), &runs["runs"][0]["phase"]), (1, &Value::from("done")), "{runs:#}");
    let status = machine.sh("metisctl status").unwrap();
    assert!(!status.contains("goes down"), "{status}");

    past_a_lock(&machine);
}

/// metis' own power-off, past a lock that somebody forgot.
fn past_a_lock(machine: &Machine) {
    dump(machine, "exit 0\n");
    machine.sh("systemctl start forgotten.service").unwrap();
    machine.wait_for(10, "systemd-inhibit --list --no-pager | grep apt").unwrap();
    let (_, text) = metisctl(machine, "arm --check");
    assert!(text.contains("a lock blocks its power-off, and would be passed over: `apt` (process "), "{text}");
    let _ = metisctl(machine, "shutdown --mode host-poweroff --execute");
    assert_eq!(machine.wait_off(Duration::from_secs(60)).unwrap(), End::PoweredOff);
    machine.power_on().unwrap();
    machine.wait_for(10, "metisctl status").unwrap();
    let report = report(machine);
    let locks = report["overridden_locks"]["db"].as_array().unwrap();
    assert!(locks.len() == 1 && locks[0].as_str().unwrap().starts_with("powered off past the lock of `apt` (process "), "{locks:?}");
    let told = machine.sh("journalctl --no-pager -o cat -b -1 METIS_FACT=host.goes-down").unwrap();
    assert_eq!(told.trim(), "this host goes down, as shutdown-2 ordered");
}
