//! The datastore on metisd's own host: root's unit saves it, by what root's configuration says, and metisd only starts that unit.

use std::path::Path;

use anyhow::{anyhow, ensure};

use super::args::DaemonArguments;
use super::{daemon, topology};
use crate::cluster::Datastore;
use crate::cluster::shutdown::SNAPSHOT;
use crate::config::{self, Settings};
use crate::host::dump::{self, RootCommand};
use crate::site::{Access, Guard, Host, K3sRole};

/// What saves the datastore on the host of that name, as root; empty: it is not saved there.
fn commands(settings: &Settings, this_host: &str) -> Vec<RootCommand> {
    let hosts = topology::of(settings, this_host).hosts;
    let here = |host: &&Host| host.this_host && host.access == Access::Local;
    let Some(this) = hosts.values().find(here) else { return Vec::new() };
    let command = |argv: &[&str], matters| RootCommand { argv: argv.iter().map(ToString::to_string).collect(), matters };
    match &settings.cluster.datastore {
        Datastore::External { host, dump: Some(script) } if *host == this.name => vec![command(&["sh", "-c", script], true)],
        Datastore::EmbeddedEtcd { keep } if this.k3s == Some(K3sRole::Server) => {
            let keep = keep.to_string();
            let prune = ["k3s", "etcd-snapshot", "prune", "--name", SNAPSHOT, "--snapshot-retention", &keep];
            // With older ones beside it the datastore is saved all the same.
            vec![command(&["k3s", "etcd-snapshot", "save", "--name", SNAPSHOT], true), command(&prune, false)]
        }
        Datastore::External { .. } | Datastore::EmbeddedEtcd { .. } | Datastore::Sqlite => Vec::new(),
    }
}

/// `metisd datastore-dump`, below its unit: runs what the configuration says, if nobody but root may change it.
///
/// # Errors
/// What is not as it has to be, or what the command came to.
pub fn run(arguments: &DaemonArguments) -> anyhow::Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "this is for root: `systemctl start {}`", dump::UNIT);
    let settings = config::load(&arguments.config, arguments.inventory.as_deref());
    let settings =
        settings.map_err(|errors| anyhow!("the configuration is wrong: {}", errors.first().map_or(String::new(), ToString::to_string)))?;
    let shared: Vec<String> = settings.files.iter().filter_map(|file| dump::shared_with(file)).collect();
    ensure!(shared.is_empty(), "what root runs must be root's alone to say: {}", shared.join("; "));
    let commands = commands(&settings, &daemon::host_name());
    ensure!(!commands.is_empty(), "the configuration has no datastore to be saved on this host (cluster.datastore)");
    dump::run_as_root(&commands)
}

/// Why the datastore of this host could not be saved by the unit, below `root` (`/`); empty where it is not saved here. Blocks.
pub fn misfits(settings: &Settings, this_host: &str, root: &Path) -> Vec<String> {
    if commands(settings, this_host).is_empty() {
        return Vec::new();
    }
    let mut misfits: Vec<String> = dump::unit_trouble(root).into_iter().collect();
    misfits.extend(settings.files.iter().filter_map(|file| dump::shared_with(file)));
    let what = format!("the datastore of this host is saved by {}, as root", dump::UNIT);
    misfits.into_iter().map(|why| format!("{what}: {why}")).collect()
}

/// What `--check-config` says of it: a remark, or mistakes. Another file than the unit's may be a draft, so only remarks are made on it.
pub fn check(settings: &Settings, this_host: &str) -> Result<Option<String>, Vec<String>> {
    if commands(settings, this_host).is_empty() {
        return Ok(None);
    }
    let main = settings.files.first();
    if !main.is_some_and(|main| dump::is_units_config(main)) {
        return Ok(Some(format!("  note       the datastore of this host is saved by {}, which reads {}", dump::UNIT, dump::CONFIG)));
    }
    let misfits = misfits(settings, this_host, Path::new("/"));
    if misfits.is_empty() { Ok(None) } else { Err(misfits) }
}

/// Guards of arming. Blocks.
pub fn guards(settings: &Settings, this_host: &str) -> Vec<Guard> {
    let guard = |message| Guard { name: "cluster.datastore".to_owned(), message, waiver: None };
    let other = match check(settings, this_host) {
        Err(misfits) => return misfits.into_iter().map(guard).collect(),
        Ok(other) => other,
    };
    let files = || settings.files.first().map(|file| file.display().to_string()).unwrap_or_default();
    let message = |_| format!("{} saves the datastore of this host by {}, and metisd runs by {}", dump::UNIT, dump::CONFIG, files());
    other.map(message).map(guard).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVENTORY: &str = "
classes:
  server: { arch: arm64, k3s: { role: server } }
  outside: { arch: amd64 }
nodes:
  titan-0a: { class: server }
  titan-db: { class: outside }
  titan-dc: { class: outside, host: { managed: false } }
";

    fn lines(main: &str, this_host: &str) -> Vec<String> {
        let settings = config::from_strs(main, INVENTORY).unwrap_or_else(|errors| panic!("{errors:?}"));
        commands(&settings, this_host).iter().map(|command| format!("{} {}", command.argv.join(" "), command.matters)).collect()
    }

    #[test]
    fn what_is_saved_here_is_what_the_configuration_says_of_this_host() {
        let external = |host: &str| format!("cluster: {{ datastore: {{ kind: external, host: {host}, dump: 'pg_dump >/x' }} }}");
        assert_eq!(lines(&external("titan-db"), "titan-db.lan"), ["sh -c pg_dump >/x true"]);
        assert_eq!(lines(&external("titan-db"), "titan-0a"), [""; 0]);
        assert_eq!(lines(&external("titan-db"), "elsewhere"), [""; 0]);
        assert_eq!(lines(&external("titan-dc"), "titan-dc"), [""; 0], "not managed");
        assert_eq!(lines("cluster: { datastore: { kind: external, host: titan-db } }", "titan-db"), [""; 0], "nothing to run");
        assert_eq!(
            lines("cluster: { datastore: { kind: embedded-etcd, keep: 3 } }", "titan-0a"),
            [
                "k3s etcd-snapshot save --name metis-shutdown true",
                "k3s etcd-snapshot prune --name metis-shutdown --snapshot-retention 3 false"
            ]
        );
        assert_eq!(lines("", "titan-db"), [""; 0], "no server");
        assert_eq!(lines("cluster: { datastore: { kind: sqlite } }", "titan-0a"), [""; 0]);
    }

    #[test]
    fn a_unit_that_is_missing_is_told_where_it_is_needed() {
        let root = tempfile::tempdir().unwrap();
        let main = "cluster: { datastore: { kind: external, host: titan-db, dump: 'true' } }";
        let settings = config::from_strs(main, INVENTORY).unwrap_or_else(|errors| panic!("{errors:?}"));
        let misfits = |this_host: &str| misfits(&settings, this_host, root.path());
        assert!(misfits("titan-db")[0].ends_with("metis-datastore-dump.service is not installed"), "{:?}", misfits("titan-db"));
        assert!(misfits("titan-0a").is_empty());
        // `metis.yaml` is not what the unit reads.
        assert!(matches!(check(&settings, "titan-db"), Ok(Some(note)) if note.contains("reads /etc/metis/metis.yaml")));
        let guards = guards(&settings, "titan-db");
        assert!(guards.len() == 1 && guards[0].message.ends_with("and metisd runs by metis.yaml"), "{guards:?}");
        assert!(super::guards(&settings, "titan-0a").is_empty());
    }
}
