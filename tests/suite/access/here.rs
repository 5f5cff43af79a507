//! This host: what the user metis may do there, as polkit's rules say.

use std::time::Duration;

use metis_tests::nspawn::{End, Host as Machine};
use metis_tests::require;
use metisd::host::port::{HostError, Stopped};
use metisd::host::systemd::{ShutdownEvent, Systemd};

use super::*;

/// Stands in this process' environment when it runs inside a host as the user metis.
const INSIDE: &str = "METIS_TEST_INSIDE";

const KILLALL: &str = "#!/bin/sh\nid -un >/run/killall-was-here\n";
/// Instead of what is shipped: a dump that fails.
const DUMP: (&str, &str) = ("metis-datastore-dump.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n");

fn prepare(root: &Path) -> anyhow::Result<()> {
    install(root)?;
    for (name, text) in K3S_UNITS.into_iter().chain([FORGOTTEN, DUMP]) {
        put(root, &format!("etc/systemd/system/{name}"), text)?;
    }
    let killall = root.join("usr/local/bin/k3s-killall.sh");
    std::fs::create_dir_all(killall.parent().unwrap())?;
    std::fs::write(&killall, KILLALL)?;
    std::fs::set_permissions(killall, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    std::fs::create_dir_all(root.join("srv"))?;
    std::fs::copy(std::env::current_exe()?, root.join("srv/test"))?;
    Ok(())
}

/// Runs a test of this file inside, as the user metis.
fn as_metis(machine: &Machine, test: &str) {
    let line = format!("exec setpriv --reuid=metis --regid=metis --clear-groups env {INSIDE}=1 /srv/test --exact here::{test} --nocapture");
    let out = machine.output(&["sh", "-c", &line]).unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn metisd_may_do_here_what_its_rules_say_and_nothing_else() {
    let test = "rights on this host";
    if !require::root(test) || !require::programs(test, &["systemd-nspawn", "mmdebstrap", "nsenter"]) {
        return;
    }
    let machine = Machine::boot("rights", &[], prepare).unwrap();
    machine.sh("systemctl start k3s-agent.service k3s.service; systemctl is-active k3s-agent.service").unwrap();
    machine.sh("systemctl start forgotten.service").unwrap();
    machine.wait_for(10, "systemd-inhibit --list --no-pager | grep apt").unwrap();
    machine.sh("systemd-analyze verify --man=no metis-k3s-killall.service").unwrap();
    as_metis(&machine, "inside_units");
    assert_eq!(machine.sh("cat /run/killall-was-here").unwrap().trim(), "root");
    // A k3s that does not hear that it is to stop.
    let drop_in = "/run/systemd/system/k3s-agent.service.d";
    let deaf = format!("mkdir -p {drop_in}; printf '[Service]\\nKillSignal=SIGWINCH\\n' >{drop_in}/deaf.conf");
    machine.sh(&format!("{deaf}; systemctl daemon-reload; systemctl start k3s-agent.service")).unwrap();
    as_metis(&machine, "inside_deaf");
    as_metis(&machine, "inside_shutdown");
    as_metis(&machine, "inside_power_off");
    assert_eq!(machine.wait_off(Duration::from_secs(60)).unwrap(), End::PoweredOff, "past the lock that somebody forgot");
}

fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

#[test]
fn inside_units() {
    if !inside() {
        return;
    }
    run(async {
        let systemd = Systemd::new();
        systemd.probe(LIMIT).await.unwrap();
        let active = async |unit: &str| systemd.unit_state(unit, LIMIT).await.unwrap().active;
        for _ in 0..2 {
            systemd.stop_unit("k3s-agent.service", LIMIT).await.unwrap();
            assert_eq!(active("k3s-agent.service").await, "inactive");
            systemd.stop_unit("k3s-agent.service", LIMIT).await.unwrap();
            systemd.start_unit("k3s-agent.service", LIMIT).await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(active("k3s-agent.service").await, "active");
        }
        systemd.stop_unit("no-such-unit.service", LIMIT).await.unwrap();
        // Its stop takes longer than there is time.
        let error = systemd.stop_unit("k3s.service", Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(error, HostError::TimedOut(_)), "{error:?}");
        systemd.run_unit("metis-k3s-killall.service", LIMIT).await.unwrap();
        let error = systemd.run_unit("metis-datastore-dump.service", LIMIT).await.unwrap_err();
        assert!(matches!(&error, HostError::Failed(message) if message.contains("`failed`")), "{error:?}");
        // Nothing else: not another unit, not another verb.
        for unit in ["dbus.service", "systemd-journald.service", "forgotten.service", "metisd.service"] {
            let error = systemd.run_unit(unit, LIMIT).await.unwrap_err();
            assert!(matches!(error, HostError::Denied(_)), "{unit}: {error:?}");
        }
        // Of a unit of metis' own: what it runs is root's to say.
        let run = |line: &str| std::process::Command::new("sh").args(["-c", line]).output().unwrap();
        let set = run("systemctl set-property --runtime metis-datastore-dump.service CPUWeight=7");
        assert!(!set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
        let edited = run("printf '[Service]\\nExecStart=\\nExecStart=/bin/id\\n' >/run/systemd/system/metis-datastore-dump.service");
        assert!(!edited.status.success());
        let error = systemd.stop_unit("forgotten.service", LIMIT).await.unwrap_err();
        assert!(matches!(&error, HostError::Denied(message) if message.contains("metis.rules")), "{error:?}");
        assert_eq!(active("forgotten.service").await, "active");
    });
}

#[test]
fn inside_deaf() {
    if !inside() {
        return;
    }
    run(async {
        let systemd = Systemd::new();
        let stopped = systemd.stop_or_kill("k3s-agent.service", Duration::from_secs(6)).await.unwrap();
        let state = systemd.unit_state("k3s-agent.service", LIMIT).await.unwrap();
        assert_eq!((stopped, state.active.as_str()), (Stopped::Killed, "failed"));
    });
}

#[test]
fn inside_shutdown() {
    if !inside() {
        return;
    }
    run(async {
        let systemd = Systemd::new();
        systemd.schedule_power_off(Duration::from_secs(3600), false, LIMIT).await.unwrap();
        assert!(systemd.cancel_scheduled(LIMIT).await.unwrap());
        assert!(!systemd.cancel_scheduled(LIMIT).await.unwrap());
        // Played through to its end, it powers nothing off.
        systemd.schedule_power_off(Duration::from_millis(300), true, LIMIT).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!systemd.cancel_scheduled(LIMIT).await.unwrap());
        let locks = systemd.inhibitors(LIMIT).await.unwrap();
        assert!(locks.iter().any(|lock| lock.who == "apt" && lock.mode == "block" && lock.what == "shutdown"), "{locks:?}");
        let blockers = systemd.blockers(LIMIT).await.unwrap();
        assert!(blockers.len() == 1 && blockers[0].starts_with("`apt` (process ") && blockers[0].ends_with(": upgrades"), "{blockers:?}");
        let mut watch = systemd.watch_shutdown(LIMIT).await.unwrap();
        assert_eq!((watch.limit(), watch.begun()), (Duration::from_secs(5), false));
        let ours = async || systemd.inhibitors(LIMIT).await.unwrap().into_iter().filter(|lock| lock.who == "metis").count();
        assert_eq!(ours().await, 1);
        watch.release();
        // logind sees the end of the lock by its pipe.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(ours().await, 0);
    });
}

#[test]
fn inside_power_off() {
    if !inside() {
        return;
    }
    run(async {
        let systemd = Systemd::new();
        let mut watch = systemd.watch_shutdown(LIMIT).await.unwrap();
        systemd.power_off(Duration::from_secs(1), LIMIT).await.unwrap();
        let heard = tokio::time::timeout(LIMIT, watch.next()).await.unwrap();
        assert_eq!(heard, Some(ShutdownEvent::Coming));
        // Whoever begins to listen now hears of it too.
        let mut late = systemd.watch_shutdown(LIMIT).await.unwrap();
        assert_eq!(late.next().await, Some(ShutdownEvent::Coming));
        watch.release();
    });
}
