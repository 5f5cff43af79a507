//! Simulated hosts and UPSes.

use std::time::Duration;

use super::platform::boot_id;
use super::site::{Fault, Site};
use crate::host::port::{Command, HostError, Hosts, Output, Stopped, Waker};
use crate::power::port::Primary;
use crate::site::{Host, UpsName};

#[tonic::async_trait]
impl Hosts for Site {
    async fn probe(&self, host: &Host, within: Duration) -> Result<(), HostError> {
        self.run(host, &Command { argv: vec!["true".into()], root: host.sudo }, within).await.map(drop)
    }

    async fn run(&self, host: &Host, command: &Command, within: Duration) -> Result<Output, HostError> {
        limited(host, within, self.command(host, command)).await
    }

    async fn stop_unit(&self, host: &Host, unit: &str, within: Duration) -> Result<Stopped, HostError> {
        let stop = async {
            self.reach(host, true).await?;
            if self.has(&Fault::StopHangs(host.name.to_string())) {
                std::future::pending::<()>().await;
            }
            self.pass(|tempo| tempo.stop).await;
            self.still_on(host)?;
            self.happens(format!("stop {unit} {}", host.name), |model| {
                if let Some(host) = model.hosts.get_mut(host.name.as_str()) {
                    host.units.remove(unit);
                }
            });
            Ok(Stopped::Asked)
        };
        limited(host, within, stop).await
    }

    async fn start_unit(&self, host: &Host, unit: &str, within: Duration) -> Result<(), HostError> {
        let start = async {
            self.reach(host, true).await?;
            self.happens(format!("start {unit} {}", host.name), |model| {
                let name = host.name.as_str();
                let up = !model.faults.contains(&Fault::KubeletStays(name.to_owned()));
                let Some(host) = model.hosts.get_mut(name) else { return };
                host.units.insert(unit.to_owned());
                if let Some(node) = model.nodes.get_mut(name).filter(|_| up) {
                    node.boot = host.boots;
                }
            });
            Ok(())
        };
        limited(host, within, start).await
    }

    async fn blockers(&self, host: &Host, within: Duration) -> Result<Vec<String>, HostError> {
        limited(host, within, self.reach(host, false)).await.map(|()| Vec::new())
    }

    async fn power_off(&self, host: &Host, delay: Duration, within: Duration) -> Result<(), HostError> {
        let order = async {
            self.reach(host, true).await?;
            self.happens(format!("poweroff ordered {}", host.name), |_| {});
            let (site, name) = (self.clone(), host.name.to_string());
            // The host goes its way whatever becomes of who ordered it.
            self.later(
                move |tempo| tempo.power_off + delay,
                move || {
                    site.happens(format!("off {name}"), |model| {
                        if let Some(host) = model.hosts.get_mut(&name) {
                            host.on = false;
                            host.units.clear();
                        }
                    });
                },
            );
            Ok(())
        };
        limited(host, within, order).await
    }
}

/// The caller's deadline, as the real adapters keep it.
async fn limited<T>(host: &Host, within: Duration, call: impl Future<Output = Result<T, HostError>>) -> Result<T, HostError> {
    let late = || Err(HostError::TimedOut(format!("{} did not answer within {} s", host.name, within.as_secs())));
    tokio::time::timeout(within, call).await.unwrap_or_else(|_| late())
}

impl Site {
    fn still_on(&self, host: &Host) -> Result<(), HostError> {
        let on = self.locked().hosts.get(host.name.as_str()).is_some_and(|host| host.on);
        if on { Ok(()) } else { Err(HostError::Unreachable(format!("{} ({}): no route to host", host.name, host.address))) }
    }

    async fn reach(&self, host: &Host, root: bool) -> Result<(), HostError> {
        let name = host.name.to_string();
        self.pass(|tempo| tempo.command).await;
        if self.has(&Fault::Unreachable(name.clone())) {
            return Err(HostError::Unreachable(format!("{name} ({}): connection refused", host.address)));
        }
        self.still_on(host)?;
        if self.has(&Fault::Hangs(name.clone())) {
            std::future::pending::<()>().await;
        }
        if root && self.has(&Fault::NoSudo(name.clone())) {
            return Err(HostError::Denied(format!("{name}: sudo asks {} for a password", host.user)));
        }
        Ok(())
    }

    async fn command(&self, host: &Host, command: &Command) -> Result<Output, HostError> {
        self.reach(host, command.root).await?;
        let argv: Vec<_> = command.argv.iter().map(String::as_str).collect();
        let name = host.name.as_str();
        let said = match argv.as_slice() {
            ["systemctl", "show", "-p", "ActiveState", "--value", unit] => {
                let runs = self.locked().hosts.get(name).is_some_and(|host| host.units.contains(*unit));
                (if runs { "active\n" } else { "inactive\n" }).to_owned()
            }
            ["systemctl", "show", "-p", "CPUUsageNSec", "--value", _] => {
                let opens = u64::from(self.has(&Fault::DatastoreOpens));
                let mut seconds = 0;
                self.change(|model| {
                    let Some(host) = model.hosts.get_mut(name) else { return };
                    host.cpu_seconds += opens;
                    seconds = host.cpu_seconds;
                });
                format!("{}\n", seconds * 1_000_000_000)
            }
            ["true"] => String::new(),
            ["timedatectl", "show", "-p", "NTPSynchronized", "--value"] => {
                (if self.has(&Fault::ClockAstray(name.to_owned())) { "no\n" } else { "yes\n" }).to_owned()
            }
            // What it lacks, as the script says it.
            ["sh", "-c", _, "sh", pairs @ ..] if pairs.iter().all(|pair| pair.contains('=')) && !pairs.is_empty() => {
                (if self.has(&Fault::NoPackages(name.to_owned())) { "open-iscsi\n" } else { "" }).to_owned()
            }
            ["cat", "/proc/sys/kernel/random/boot_id"] => {
                let boots = self.locked().hosts.get(name).map_or(0, |host| host.boots);
                format!("{}\n", boot_id(name, boots))
            }
            ["k3s", "etcd-snapshot", "save", "--name", snapshot] => {
                if self.has(&Fault::SnapshotHangs) {
                    std::future::pending::<()>().await;
                }
                self.pass(|tempo| tempo.snapshot).await;
                self.happens(format!("snapshot {snapshot} {name}"), |model| {
                    if let Some(host) = model.hosts.get_mut(name) {
                        host.snapshots.push((*snapshot).to_owned());
                    }
                });
                String::new()
            }
            ["sh", "-c", dump] => {
                self.happens(format!("dump {dump} {name}"), |_| {});
                self.pass(|tempo| tempo.snapshot).await;
                String::new()
            }
            ["k3s", "etcd-snapshot", "ls"] => self.locked().hosts.get(name).map(|host| host.snapshots.join("\n")).unwrap_or_default(),
            [killall] if killall.ends_with("k3s-killall.sh") => {
                self.pass(|tempo| tempo.stop).await;
                self.still_on(host)?;
                self.happens(format!("killall {name}"), |model| {
                    if let Some(host) = model.hosts.get_mut(name) {
                        host.leftovers = 0;
                        host.units.clear();
                    }
                });
                String::new()
            }
            other => {
                self.happens(format!("run {} {name}", other.join(" ")), |_| {});
                String::new()
            }
        };
        Ok(Output { stdout: said, stderr: String::new() })
    }
}

#[tonic::async_trait]
impl Waker for Site {
    async fn wake(&self, host: &Host) -> Result<(), HostError> {
        let name = host.name.to_string();
        self.happens(format!("packet {name}"), |_| {});
        let site = self.clone();
        self.later(
            |tempo| tempo.power_off,
            move || {
                let asleep = site.locked().hosts.get(&name).is_some_and(|host| !host.on);
                if asleep && !site.has(&Fault::SleepsOn(name.clone())) {
                    site.happens(format!("on {name}"), |model| {
                        if let Some(host) = model.hosts.get_mut(&name) {
                            (host.on, host.leftovers) = (true, 0);
                            host.boots += 1;
                        }
                    });
                }
            },
        );
        Ok(())
    }
}

#[tonic::async_trait]
impl Primary for Site {
    async fn set_fsd(&self, ups: &UpsName, _within: Duration) -> Result<(), String> {
        self.pass(|tempo| tempo.command).await;
        self.happens(format!("fsd {ups}"), |model| {
            model.fsd.insert(ups.to_string());
        });
        let (site, ups) = (self.clone(), ups.to_string());
        self.later(
            |tempo| tempo.secondary,
            move || {
                if !site.has(&Fault::SecondariesStay) {
                    site.happens(format!("secondaries gone {ups}"), |model| {
                        model.secondaries.remove(&ups);
                    });
                }
            },
        );
        Ok(())
    }

    async fn secondaries(&self, ups: &UpsName, _within: Duration) -> Result<u32, String> {
        self.pass(|tempo| tempo.command).await;
        Ok(self.locked().secondaries.get(ups.as_str()).copied().unwrap_or(0))
    }

    async fn check(&self, _ups: &UpsName, _within: Duration) -> Result<(), String> {
        self.pass(|tempo| tempo.command).await;
        Ok(())
    }
}
