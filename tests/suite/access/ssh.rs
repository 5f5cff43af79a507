//! Hosts of the laboratory over SSH.

use std::sync::Arc;
use std::time::Duration;

use metis_tests::hosts::{self, Hosts, OPERATOR, Plan, Role, Sudo};
use metis_tests::nspawn::End;
use metisd::host::port::{Command, HostError, Hosts as _, Stopped};

use super::*;

#[test]
fn hosts_are_stopped_and_powered_off_over_ssh() {
    if !hosts::available("hosts over SSH") {
        return;
    }
    let roles = [Role::Titan13, Role::Titan15, Role::Titan05, Role::Tethys];
    let mut plan = Plan::new(&roles).sudo(Role::Titan05, Sudo::Password).sudo(Role::Tethys, Sudo::Absent);
    for role in roles {
        for (name, text) in K3S_UNITS.into_iter().chain([FORGOTTEN, DEAF]) {
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

/// Ignores SIGTERM, as does what it has started.
const DEAF: (&str, &str) = (
    "deaf.service",
    "[Service]\nKillMode=process\nRestart=always\nExecStart=/bin/sh -c 'trap \"\" TERM; sleep 4711 & while :; do sleep 1; done'\n",
);

async fn over_ssh(site: &Hosts) {
    let real = real(site, None);
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
    // One that ignores SIGTERM is killed in time, and its other processes, as k3s' shims, are not.
    real.start_unit(&first, "deaf.service", LIMIT).await.unwrap();
    site[Role::Titan13].wait_for(10, "pgrep -fx 'sleep 4711' && systemctl is-active deaf.service").unwrap();
    let stopped = real.stop_unit(&first, "deaf.service", Duration::from_secs(9)).await.unwrap();
    assert_eq!(stopped, Stopped::Killed);
    // Which would hold the power-off below for as long as systemd asks it nicely (90 s, systemd-shutdown(8)); k3s-killall.sh ends it on a site.
    site[Role::Titan13].sh("test $(systemctl show -p ActiveState --value deaf.service) = failed; pkill -KILL -fx 'sleep 4711'").unwrap();
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
    let blockers = real.blockers(&first, LIMIT).await.unwrap();
    assert!(blockers.len() == 1 && blockers[0].starts_with("`apt` (process "), "{blockers:?}");
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
