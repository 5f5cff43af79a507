//! metisd under a real systemd, installed as `systemd/install` does it, in an nspawn host.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use metis_tests::daemon::program;
use metis_tests::loopdev::Loop;
use metis_tests::nspawn::Host;
use metis_tests::site::TOKEN;
use metis_tests::{require, site};
use serde_json::Value;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Catalog entry of a run that is done.
const RUN_DONE: &str = "1a9f52c7e6d04b38803b7c5de2f4a960";
/// Of its report.
const RUN_REPORT: &str = "93d6b0f4a7e8412f8c50e1d92b6a7f3c";

const CONFIG: &str = "card: { free_space_floor: 16 MiB }
api:
  roles: { viewer: { groups: [ops] } }
power:
  poll_interval: 500ms
  upses: { ups@localhost: { } }
  domains: { all: { upses: [ups@localhost], nodes: [pi-1, pi-2, armbian-1] } }
";

/// A real upsd with a UPS whose readings are a file.
const NUT: [(&str, &str); 6] = [
    ("etc/hosts", "127.0.0.1 localhost\n"),
    ("etc/nut/ups.conf", "pollinterval = 1\n[ups]\n  driver = dummy-ups\n  port = /etc/nut/ups.dev\n"),
    ("etc/nut/upsd.conf", "LISTEN 127.0.0.1 3493\n"),
    ("etc/nut/upsd.users", ""),
    ("etc/nut/ups.dev", "ups.status: OL\nbattery.charge: 100\nbattery.runtime: 1800\n"),
    (
        "etc/systemd/system/lab-ups.service",
        "[Service]\nRuntimeDirectory=nut\nEnvironment=NUT_STATEPATH=/run/nut NUT_ALTPIDPATH=/run/nut\nExecStart=/lib/nut/dummy-ups -a ups -u root -F\n\
         ExecStartPost=/bin/sh -c 'sleep 0.3; exec /lib/nut/upsd -u root'\n[Install]\nWantedBy=multi-user.target\n",
    ),
];

fn able(test: &str) -> bool {
    require::root(test) && require::programs(test, &["systemd-nspawn", "mmdebstrap", "nsenter", "ssh-keygen"])
}

fn put(root: &Path, path: &str, text: &str) -> anyhow::Result<()> {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap())?;
    Ok(fs::write(path, text)?)
}

/// Installs metis below `root`, with the sample site. `drop_in`: further settings of the unit.
fn install(root: &Path, drop_in: &str) -> anyhow::Result<()> {
    let binaries = program("metisd").parent().unwrap().to_path_buf();
    let out = Command::new(Path::new(REPOSITORY).join("systemd/install")).arg(root).env("BIN", binaries).output()?;
    anyhow::ensure!(out.status.success(), "systemd/install: {}", String::from_utf8_lossy(&out.stderr));
    fs::create_dir_all(root.join("srv/site"))?;
    let inventory = site::inventory(&root.join("srv/site"))?.replace(&root.display().to_string(), "").replace("@DIR@", "/etc/metis");
    put(root, "etc/metis/inventory.yaml", &inventory)?;
    put(root, "etc/metis/metis.d/test.yaml", CONFIG)?;
    put(root, "etc/metis/secrets/token", &format!("{TOKEN}\n"))?;
    let key = root.join("etc/metis/secrets/host_key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"]).arg(&key).output()?;
    anyhow::ensure!(made.status.success(), "ssh-keygen");
    // What a person does after `systemd/install` on a running host, done at boot, when the users are there.
    let rights = "z /etc/metis/secrets 0750 root metis -\nz /etc/metis/secrets/* 0640 root metis -\n";
    put(root, "etc/tmpfiles.d/zz-site.conf", &format!("{rights}Z /etc/metis - root metis -\n"))?;
    put(root, "etc/sysusers.d/site.conf", "g ops 900 -\nu operator 1000:900 \"operator\" /\n")?;
    if !drop_in.is_empty() {
        put(root, "etc/systemd/system/metisd.service.d/test.conf", &format!("[Service]\n{drop_in}\n"))?;
    }
    for (path, text) in NUT {
        put(root, path, text)?;
    }
    let enabled =
        Command::new("systemctl").arg("--root").arg(root).args(["--no-pager", "enable", "metisd.service", "lab-ups.service"]).output()?;
    anyhow::ensure!(enabled.status.success(), "systemctl enable: {}", String::from_utf8_lossy(&enabled.stderr));
    Ok(())
}

/// The journal's entries that match, as objects.
fn entries(host: &Host, matches: &str) -> Vec<Value> {
    let text = host.sh(&format!("journalctl --no-pager -o json {matches}")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_catalog_explains_exactly_what_metisd_marks() {
    let ids = |text: &str| -> BTreeSet<String> {
        let is_id = |word: &&str| word.len() == 32 && word.bytes().all(|b| b.is_ascii_hexdigit());
        text.split(|c: char| !c.is_ascii_alphanumeric()).filter(is_id).map(str::to_owned).collect()
    };
    let read = |path: &str| fs::read_to_string(Path::new(REPOSITORY).join(path)).unwrap();
    let marked = ids(&read("daemon/src/control/tell.rs"));
    assert!(marked.len() >= 8 && marked.contains(RUN_DONE), "{marked:?}");
    assert_eq!(ids(&read("systemd/catalog/metis.catalog")), marked);
}

#[test]
fn installed_on_a_host() {
    if !able("installed on a host") {
        return;
    }
    let work = tempfile::tempdir_in("/var/tmp").unwrap();
    let file = work.path().join("card");
    fs::File::create(&file).unwrap().set_len(512 << 20).unwrap();
    let card = Loop::attach(&file).unwrap();
    let host = Host::boot("metis", &[&format!("--bind={}", card.path())], |root| install(root, "")).unwrap();

    started_at_boot(&host);
    nut_is_read(&host);
    burnt_by_the_writers_unit(&host, card.path());
    rights(&host, card.path());
    socket_activation(&host);
    reload(&host);
    callers(&host, card.path());
    reflection(&host);
    outage(&host);
    let all = host.sh("journalctl --no-pager -b").unwrap();
    assert!(!all.contains(TOKEN), "a secret is in the journal");
    assert_eq!(host.sh("systemctl --failed --plain --no-legend --no-pager").unwrap().trim(), "");
}

/// Enabled, so it runs, is ready, and says what it does.
fn started_at_boot(host: &Host) {
    let status = host.wait_for(10, "systemctl is-active metisd.service; systemctl status --no-pager metisd.service").unwrap();
    assert!(status.contains("Status: \"watching"), "{status}");
    let listed = host.sh("systemctl list-units --no-pager --plain --all 'metis*'").unwrap();
    assert!(listed.contains("metis-card-writer.socket") && listed.contains("metisd.socket"), "{listed}");
    let state = host.sh("stat -c '%U:%G %a' /var/lib/metis /run/metis/metisd.sock /run/metis/card-writer.sock").unwrap();
    assert_eq!(state.lines().collect::<Vec<_>>(), ["metis:metis 750", "metis:metis 660", "metis:metis 600"]);
    let catalog = host.sh("journalctl --update-catalog; journalctl --no-pager --list-catalog | grep metisd").unwrap();
    assert_eq!(catalog.lines().count(), 10, "{catalog}");
    for unit in ["metisd.service", "metis-card-writer@.service"] {
        let all = host.sh(&format!("systemd-analyze security --offline=true --no-pager /usr/lib/systemd/system/{unit}")).unwrap();
        let line = all.lines().rev().find(|line| line.contains("exposure level")).unwrap();
        let level: f64 = line.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
        assert!(level <= 3.0, "{unit}: {line}");
    }
    host.sh("systemd-analyze verify --man=no metisd.service metisd.socket metis-card-writer.socket metis-card-writer@x.service").unwrap();
}

/// Debian gives NUT's files to its own group.
fn nut_is_read(host: &Host) {
    let groups = host.sh("id -nG metis; grep ^Groups /proc/$(systemctl show -P MainPID metisd)/status").unwrap();
    let gid = host.sh("getent group nut | cut -d: -f3").unwrap();
    assert!(groups.lines().all(|line| line.split_whitespace().any(|word| word == "nut" || word == gid.trim())), "{groups}");
    host.sh("chown root:nut /etc/nut/*; chmod 0640 /etc/nut/*").unwrap();
    host.sh("setpriv --reuid=metis --regid=metis --init-groups cat /etc/nut/upsd.conf").unwrap();
    assert!(host.sh("setpriv --reuid=metis-card --clear-groups --regid=metis-card cat /etc/nut/upsd.conf").is_err());
}

#[test]
fn it_installs_where_there_is_no_nut_and_nut_is_read_once_it_is_there() {
    if !require::root("users and groups") || !require::programs("users and groups", &["systemd-sysusers"]) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    put(root.path(), "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    put(root.path(), "etc/group", "root:x:0:\n").unwrap();
    let file = Path::new(REPOSITORY).join("systemd/sysusers.d/metis.conf");
    let members = || {
        // Twice: an upgrade changes nothing.
        for _ in 0..2 {
            let out = Command::new("systemd-sysusers").arg("--root").arg(root.path()).arg(&file).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        }
        let groups = fs::read_to_string(root.path().join("etc/group")).unwrap();
        groups.lines().find(|line| line.starts_with("nut:")).unwrap().to_owned()
    };
    assert!(members().ends_with(":metis"), "{}", members());
    // NUT was there before, with members of its own.
    put(root.path(), "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnut:x:120:128::/var/lib/nut:/usr/sbin/nologin\n").unwrap();
    put(root.path(), "etc/group", "root:x:0:\nnut:x:128:ada\n").unwrap();
    let _ = fs::remove_file(root.path().join("etc/gshadow"));
    assert_eq!(members(), "nut:x:128:ada,metis");
}

/// A whole burn; its story, found by one field.
fn burnt_by_the_writers_unit(host: &Host, card: &str) {
    let burnt = host.output(&["metisctl", "burn", "--node", "pi-1", "--device", card, "--allow-fixed", "--yes"]).unwrap();
    let text = String::from_utf8_lossy(&burnt.stdout).into_owned() + &String::from_utf8_lossy(&burnt.stderr);
    assert!(burnt.status.success(), "{text}\n{}", host.sh("journalctl --no-pager -b").unwrap());
    let writer = host.sh("journalctl --no-pager -o cat -u 'metis-card-writer@*'").unwrap();
    assert!(writer.contains("card written and read back"), "{writer}");

    let story = entries(host, "METIS_RUN=burn-1");
    let text = story.iter().map(|e| e["MESSAGE"].as_str().unwrap()).collect::<Vec<_>>().join("\n");
    for part in ["pi-1", "partition table written and read back", "insert the card and power on", "done"] {
        assert!(text.contains(part), "{part} is missing in the story of burn-1:\n{text}");
    }
    assert!(story.iter().all(|e| e["_SYSTEMD_UNIT"] == "metisd.service" && e["SYSLOG_IDENTIFIER"] == "metisd"), "{story:#?}");
    let steps: BTreeSet<_> = story.iter().filter_map(|e| e["METIS_STEP"].as_str()).collect();
    assert!(steps.len() >= 3, "{steps:?}");
    assert_eq!(story.iter().filter(|e| e["MESSAGE_ID"] == RUN_DONE).count(), 1, "{story:#?}");
    let reports: Vec<_> = story.iter().filter(|e| e["MESSAGE_ID"] == RUN_REPORT).filter_map(|e| e["MESSAGE"].as_str()).collect();
    assert!(reports.len() == 1 && reports[0].contains("asked for by root (uid 0): done after"), "{reports:#?}");
    assert!(reports[0].contains("Time line: "), "{reports:#?}");
    let explained = host.sh("journalctl --no-pager -x METIS_RUN=burn-1").unwrap();
    assert!(explained.contains("Subject: Run burn-1 is done") && explained.contains("metisctl run get burn-1"), "{explained}");
}

/// The daemon's unit cannot open the card, the writer's can; neither is root.
fn rights(host: &Host, card: &str) {
    assert_eq!(host.sh("ps -o user= -p $(systemctl show -p MainPID --value metisd)").unwrap().trim(), "metis");
    let probe = |unit: &str| {
        let change = format!(
            "s|^ExecStart=.*|ExecStart=/usr/bin/dd if={card} of=/dev/null count=1|; s|^Type=.*||; s|^Standard.*||; s|^Restart.*||; s|^Watchdog.*||; s|^NotifyAccess.*||; s|^CollectMode.*||; s|^\\[Service\\]|&\\nType=oneshot|"
        );
        host.sh(&format!("mkdir -p /run/systemd/system; sed '{change}' /usr/lib/systemd/system/{unit} >/run/systemd/system/probe.service; systemctl daemon-reload"))
            .unwrap();
        let out = host.output(&["systemctl", "start", "probe.service"]).unwrap();
        let log = host.sh("journalctl --no-pager -o cat -u probe.service --since -5s").unwrap();
        host.sh("systemctl reset-failed probe.service 2>/dev/null || true").unwrap();
        (out.status.success(), log)
    };
    let (opened, log) = probe("metisd.service");
    assert!(!opened && log.contains("failed to open"), "{log}");
    let (opened, log) = probe("metis-card-writer@.service");
    assert!(opened, "{log}");
}

/// A call starts the daemon, which finds what was there before.
fn socket_activation(host: &Host) {
    host.sh("systemctl stop metisd.service; ! systemctl is-active metisd.service").unwrap();
    let runs = host.sh("metisctl run list").unwrap();
    assert!(runs.contains("burn-1"), "{runs}");
    host.wait_for(5, "systemctl is-active metisd.service").unwrap();
    let stop = host.sh("journalctl --no-pager -o cat -u metisd | grep -c 'State .stop-sigterm. timed out' || true").unwrap();
    assert_eq!(stop.trim(), "0");
}

/// Checked first: a bad configuration is refused, said, and the old one kept.
fn reload(host: &Host) {
    host.sh("printf 'nonsense: 1\\ncard: { free_space_floor: 17 }\\n' >/etc/metis/metis.d/zz.yaml; systemctl reload metisd").unwrap();
    let status = |wanted: &str| -> Value {
        let text = host.wait_for(5, &format!("metisctl status -o json >/tmp/s; grep -q {wanted} /tmp/s; cat /tmp/s"));
        serde_json::from_str(&text.unwrap()).unwrap()
    };
    let refused = status("zz.yaml:1");
    assert_eq!(refused["config"]["rejected"].as_array().map(Vec::len), Some(2), "{refused:#}");
    let told = entries(host, "MESSAGE_ID=b94d2f7ae1c3456c8fa05d6e37b1c082");
    assert_eq!(told.len(), 1, "{told:#?}");
    let before = refused["config"]["digest"].clone();
    host.sh("printf 'card: { free_space_floor: 17 MiB }\\n' >/etc/metis/metis.d/zz.yaml; systemctl reload metisd").unwrap();
    let adopted = status(r#"'"rejected": .]'"#);
    assert!(adopted["config"]["digest"] != before, "{adopted:#}");
}

/// No permission; no role; a role by a supplementary group; too low a role.
fn callers(host: &Host, card: &str) {
    let as_operator = |options: &str, command: &str| {
        let out = host.output(&[
            "sh",
            "-c",
            &format!("metis=$(getent group metis | cut -d: -f3); exec setpriv --reuid=1000 {options} {command}"),
        ]);
        let out = out.unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout))
    };
    let (code, text) = as_operator("--regid=900 --clear-groups", "metisctl status");
    assert!(code == Some(4) && text.contains("permission"), "{code:?} {text}");
    let (code, text) = as_operator("--regid=$metis --clear-groups", "metisctl status");
    assert!(code == Some(3) && text.contains("viewer"), "{code:?} {text}");
    let (code, text) = as_operator("--regid=$metis --groups=$metis,900", "metisctl status");
    assert_eq!(code, Some(0), "a supplementary group counts: {text}");
    let (code, text) =
        as_operator("--regid=$metis --groups=900", &format!("metisctl burn --node pi-1 --device {card} --allow-fixed --yes"));
    assert!(code == Some(3) && text.contains("maintenance"), "{code:?} {text}");
    // A refusal is recorded after it was answered.
    let refused = "journalctl --no-pager -o cat -u metisd METIS_FACT=call.audited | grep 'Card.Burn .*uid 1000 (role viewer): refused'";
    host.wait_for(5, refused).unwrap();
    let allowed =
        host.sh("journalctl --no-pager -o cat -u metisd METIS_FACT=call.audited | grep -c 'Card.Burn .*uid 0 (role admin): allowed'");
    assert_eq!(allowed.unwrap().trim(), "1");
}

/// An independent client finds the services over the socket.
fn reflection(host: &Host) {
    let grpcurl = metis_tests::plane::tool("grpcurl").unwrap();
    // grpcurl 1.9 takes a bare path for host:port, even with -unix.
    let socket = format!("unix://{}", host.root().join("run/metis/metisd.sock").display());
    let ask = |arguments: &[&str]| {
        let out = Command::new(&grpcurl).args(["-plaintext", "-unix", &socket]).args(arguments).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
    };
    let services = ask(&["list"]);
    for service in ["metis.v1.Status", "metis.v1.Ups", "metis.v1.Card", "metis.v1.Runs", "grpc.health.v1.Health"] {
        assert!(services.contains(service), "{services}");
    }
    assert!(ask(&["describe", "metis.v1.Runs.Cancel"]).contains("rpc Cancel"));
    let status = ask(&["metis.v1.Status/Get"]);
    assert!(status.contains("\"phase\": \"watching"), "{status}");
    assert!(ask(&["grpc.health.v1.Health/Check"]).contains("SERVING"));
}

/// The mains fail: the journal names the UPS and explains, systemctl shows it.
fn outage(host: &Host) {
    host.wait_for(10, "metisctl ups -o json | grep -q online").unwrap();
    let says = |reading: &str| host.sh(&format!("printf 'ups.status: {reading}\\n' >/etc/nut/ups.dev")).unwrap();
    says("OB DISCHRG\\nbattery.charge: 80\\nbattery.runtime: 1500");
    host.wait_for(15, "journalctl --no-pager -x METIS_UPS=ups@localhost | grep 'Subject: ups@localhost is on battery'").unwrap();
    host.wait_for(15, "systemctl show -p StatusText --value metisd | grep 'on battery: ups@localhost (runtime 25 min)'").unwrap();
    says("OB LB DISCHRG\\nbattery.charge: 9\\nbattery.runtime: 60");
    host.wait_for(15, "systemctl show -p StatusText --value metisd | grep 'DISARMED: would have acted'").unwrap();
    host.wait_for(5, "journalctl --no-pager -x -u metisd | grep 'Subject: A power domain is about to lose power'").unwrap();
}

#[test]
fn a_hung_loop_is_killed_by_the_watchdog_and_comes_back_with_its_state() {
    if !able("watchdog") {
        return;
    }
    let drop_in = "WatchdogSec=3s\nEnvironment=METIS_FAILPOINT=mailbox.hang:60";
    let host = Host::boot("dog", &[], |root| install(root, drop_in)).unwrap();
    host.wait_for(10, "metisctl image --node pi-1 --output /root/x.img --execute").unwrap();
    let before: Value = serde_json::from_str(&host.sh("metisctl run get last -o json").unwrap()).unwrap();
    host.wait_for(60, "journalctl --no-pager -o cat -u metisd | grep 'Watchdog timeout'").unwrap();
    let result = host.wait_for(10, "test $(systemctl show -p NRestarts --value metisd) -ge 1; systemctl is-active metisd").unwrap();
    assert_eq!(result.trim(), "active");
    // The failpoint would strike again.
    host.sh("rm -r /etc/systemd/system/metisd.service.d; systemctl daemon-reload; systemctl restart metisd").unwrap();
    let after: Value = serde_json::from_str(&host.wait_for(10, "metisctl run get last -o json").unwrap()).unwrap();
    assert_eq!(after, before);
}

#[test]
fn a_host_whose_power_was_cut_boots_again_with_its_journal() {
    if !able("power cut") {
        return;
    }
    let host = Host::boot("cut", &[], |root| install(root, "")).unwrap();
    host.wait_for(10, "metisctl image --node pi-1 --output /root/x.img --execute").unwrap();
    let before = host.sh("metisctl run get last -o json").unwrap();
    let boot = host.sh("cat /proc/sys/kernel/random/boot_id").unwrap();
    host.cut_power().unwrap();
    host.power_on().unwrap();
    assert_ne!(host.sh("cat /proc/sys/kernel/random/boot_id").unwrap(), boot);
    assert_eq!(host.wait_for(10, "metisctl run get last -o json").unwrap(), before);
    let status = host.sh("metisctl status").unwrap();
    assert!(!status.contains("degraded"), "{status}");
}
