//! Hosts as metisd reaches them: under a real systemd by D-Bus as the user metis, and over SSH to hosts of a laboratory.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::path::Path;
use std::process::Command as Process;
use std::sync::Arc;
use std::time::Duration;

use metis_tests::daemon::program;
use metis_tests::hosts::{self, Hosts, OPERATOR, Plan, Role, SSH_PORT, Sudo};
use metis_tests::nspawn::{End, Host as Machine};
use metis_tests::require;
use metisd::host::port::{Command, HostError, Hosts as _};
use metisd::host::systemd::{ShutdownEvent, Systemd};
use metisd::host::{RealHosts, Secrets, Settings};
use metisd::site::{Access, Host, Returns, Secret, SecretRef};

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const LIMIT: Duration = Duration::from_secs(30);

/// Stands in this process' environment when it runs inside a host as the user metis.
const INSIDE: &str = "METIS_TEST_INSIDE";

/// Units of a worker with k3s, as far as systemd sees them.
const UNITS: [(&str, &str); 4] = [
    ("k3s-agent.service", "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"),
    ("k3s.service", "[Service]\nExecStart=/bin/sleep infinity\nExecStop=/bin/sleep 15\nTimeoutStopSec=20\n"),
    ("metis-datastore-dump.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n"),
    (
        "forgotten.service",
        "[Service]\nExecStart=/usr/bin/systemd-inhibit --what=shutdown --who=apt --why=upgrades --mode=block sleep infinity\n",
    ),
];
const KILLALL: &str = "#!/bin/sh\nid -un >/run/killall-was-here\n";

fn prepare(root: &Path) -> anyhow::Result<()> {
    let binaries = program("metisd").parent().unwrap().to_path_buf();
    let out = Process::new(Path::new(REPOSITORY).join("systemd/install")).arg(root).env("BIN", binaries).output()?;
    anyhow::ensure!(out.status.success(), "systemd/install: {}", String::from_utf8_lossy(&out.stderr));
    std::fs::create_dir_all(root.join("etc/systemd/system"))?;
    for (name, text) in UNITS {
        std::fs::write(root.join("etc/systemd/system").join(name), text)?;
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
    let line = format!("exec setpriv --reuid=metis --regid=metis --clear-groups env {INSIDE}=1 /srv/test --exact {test} --nocapture");
    let out = machine.output(&["sh", "-c", &line]).unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("1 passed"), "{said}");
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
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
        let error = systemd.stop_unit("forgotten.service", LIMIT).await.unwrap_err();
        assert!(matches!(&error, HostError::Denied(message) if message.contains("metis.rules")), "{error:?}");
        assert_eq!(active("forgotten.service").await, "active");
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
        let mut watch = systemd.watch_shutdown(LIMIT).await.unwrap();
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

fn of_lab(hosts: &Hosts, role: Role) -> Host {
    Host {
        name: role.name().into(),
        node_name: role.name().to_owned(),
        access: Access::Ssh,
        address: role.address().to_string(),
        port: SSH_PORT,
        user: OPERATOR.to_owned(),
        key: None,
        host_keys: vec![hosts.host_key(role).fingerprint.clone()],
        sudo: true,
        returns: Returns::AcCycle,
        k3s: None,
        this_host: false,
        domains: std::collections::BTreeSet::new(),
    }
}

fn real(hosts: &Hosts) -> RealHosts {
    let secrets: Secrets = Arc::new(|reference| match reference {
        SecretRef::File(path) => std::fs::read(path).map(Secret::new).map_err(|e| e.to_string()),
        SecretRef::Credential(name) => Err(format!("there is no credential {name}")),
    });
    let settings = Settings {
        this_host: None,
        user: OPERATOR.to_owned(),
        key: Some(SecretRef::File(hosts.key().path.clone())),
        known_hosts: hosts.known_hosts().unwrap(),
        connect_timeout: Duration::from_secs(5),
        at_once: 8,
        helper_image: None,
        helper_namespace: "kube-system".to_owned(),
    };
    RealHosts::new(&settings, secrets, None)
}

#[test]
fn hosts_are_stopped_and_powered_off_over_ssh() {
    if !hosts::available("hosts over SSH") {
        return;
    }
    let roles = [Role::Titan13, Role::Titan15, Role::Titan05, Role::Tethys];
    let mut plan = Plan::new(&roles).sudo(Role::Titan05, Sudo::Password).sudo(Role::Tethys, Sudo::Absent);
    for role in roles {
        for (name, text) in UNITS {
            plan = plan.file(role, format!("etc/systemd/system/{name}"), text);
        }
    }
    let site = plan.start().unwrap();
    // Its own thread: it moves into the laboratory's network.
    let lab = Arc::clone(site.lab());
    std::thread::scope(|scope| {
        let work = || {
            lab.enter().unwrap();
            run(over_ssh(&site));
        };
        scope.spawn(work).join().unwrap();
    });
}

async fn over_ssh(site: &Hosts) {
    let real = real(site);
    let (first, second) = (of_lab(site, Role::Titan13), of_lab(site, Role::Titan15));
    real.probe(&first, LIMIT).await.unwrap();
    for role in [Role::Titan05, Role::Tethys] {
        let host = of_lab(site, role);
        let error = real.probe(&host, LIMIT).await.unwrap_err();
        assert!(matches!(error, HostError::Denied(_)), "{error:?}");
        // It is let in all the same, and without root it may.
        let id = Command { argv: vec!["id".to_owned(), "-un".to_owned()], root: false };
        assert_eq!(real.run(&host, &id, LIMIT).await.unwrap().stdout.trim(), OPERATOR);
    }

    real.start_unit(&first, "k3s-agent.service", LIMIT).await.unwrap();
    site[Role::Titan13].wait_for(10, "systemctl is-active k3s-agent.service").unwrap();
    real.stop_unit(&first, "k3s-agent.service", LIMIT).await.unwrap();
    assert!(site[Role::Titan13].sh("systemctl is-active k3s-agent.service").is_err());
    real.stop_unit(&first, "k3s-agent.service", LIMIT).await.unwrap();
    real.stop_unit(&first, "no-such-unit.service", LIMIT).await.unwrap();
    real.start_unit(&first, "k3s.service", LIMIT).await.unwrap();
    let error = real.stop_unit(&first, "k3s.service", Duration::from_secs(2)).await.unwrap_err();
    assert!(matches!(error, HostError::TimedOut(_)), "{error:?}");
    let error = real.start_unit(&first, "no-such-unit.service", LIMIT).await.unwrap_err();
    assert!(matches!(error, HostError::Failed(_)), "{error:?}");

    // A frozen sshd and a pulled cable, then all is well again.
    site[Role::Titan15].freeze_sshd().unwrap();
    let error = real.probe(&second, Duration::from_secs(2)).await.unwrap_err();
    assert!(matches!(error, HostError::TimedOut(_)), "{error:?}");
    site[Role::Titan15].thaw_sshd().unwrap();
    real.probe(&second, LIMIT).await.unwrap();
    site[Role::Titan15].pull_cable().unwrap();
    let error = real.probe(&second, Duration::from_secs(2)).await.unwrap_err();
    assert!(matches!(error, HostError::TimedOut(_)), "the connection stood: {error:?}");
    let error = real.probe(&second, Duration::from_secs(8)).await.unwrap_err();
    assert!(matches!(error, HostError::Unreachable(_)), "{error:?}");
    site[Role::Titan15].plug_cable().unwrap();
    real.probe(&second, LIMIT).await.unwrap();

    // One at once, the other after a while, although somebody forgot a lock.
    for role in [Role::Titan13, Role::Titan15] {
        site[role].sh("systemctl kill -s KILL k3s.service || true; systemctl start forgotten.service").unwrap();
        site[role].wait_for(10, "systemd-inhibit --list --no-pager | grep apt").unwrap();
    }
    let taken = both(real.power_off(&first, Duration::ZERO, LIMIT), real.power_off(&second, Duration::from_secs(3), LIMIT)).await;
    assert_eq!(taken, (Ok(()), Ok(())));
    for role in [Role::Titan13, Role::Titan15] {
        assert_eq!(site[role].wait_off(Duration::from_secs(60)).unwrap(), End::PoweredOff);
    }
    let error = real.probe(&first, LIMIT).await.unwrap_err();
    assert!(matches!(error, HostError::Unreachable(_)), "{error:?}");
}

async fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    tokio::join!(a, b)
}
