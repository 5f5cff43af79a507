//! A simulated site in place of the real one, in builds with debug assertions: tests kill metisd wherever they like, and the site, which
//! is in a file, says what had been done to it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};

use super::parts::{Look, MakeParts, Parts};
use super::topology;
use crate::sim::site::Site;

/// Names the file of the site ([`Site::open`]).
pub const VARIABLE: &str = "METIS_SIMULATE";
/// The same, of which only hosts and UPSes count: the cluster is a real one.
pub const HOSTS_VARIABLE: &str = "METIS_SIMULATE_HOSTS";

/// The parts of the site in the file that the environment names. `None`: it names none, and the real ones are meant.
///
/// # Errors
/// The file holds no site, or this build has none: it must not do to the real site what was meant for a simulated one.
pub fn from_environment(this_host: &str, real: &Arc<MakeParts>) -> anyhow::Result<Option<Arc<MakeParts>>> {
    if let Some(file) = std::env::var_os(HOSTS_VARIABLE) {
        let site = open(Path::new(&file), cfg!(debug_assertions))?;
        tracing::warn!("{HOSTS_VARIABLE}: hosts are simulated, in {}; the cluster is real", file.display());
        return Ok(Some(hosts(&parts(site, this_host.to_owned()), real)));
    }
    let Some(file) = std::env::var_os(VARIABLE) else { return Ok(None) };
    let site = open(Path::new(&file), cfg!(debug_assertions))?;
    tracing::warn!("{VARIABLE}: the site is simulated, in {}: nothing real is stopped or started", file.display());
    Ok(Some(parts(site, this_host.to_owned())))
}

/// Simulated hosts and UPSes; the cluster and the other metis host are as they are.
fn hosts(simulated: &Arc<MakeParts>, real: &Arc<MakeParts>) -> Arc<MakeParts> {
    let (simulated, real) = (Arc::clone(simulated), Arc::clone(real));
    Arc::new(move |settings| {
        let (simulated, real) = (simulated(Arc::clone(&settings)), real(settings));
        Box::pin(async move {
            let simulated = simulated.await;
            Parts { hosts: simulated.hosts, waker: simulated.waker, primary: simulated.primary, ..real.await }
        })
    })
}

fn open(file: &Path, allowed: bool) -> anyhow::Result<Site> {
    ensure!(allowed, "{VARIABLE} is set, and this build of metisd knows the real site only: unset it");
    Site::open(file).with_context(|| format!("{VARIABLE}: the simulated site in {}", file.display()))
}

/// Parts that change nothing but that site.
pub fn parts(site: Site, this_host: String) -> Arc<MakeParts> {
    let site = Arc::new(site);
    Arc::new(move |settings| {
        let (site, this_host) = (Arc::clone(&site), this_host.clone());
        Box::pin(async move {
            Parts {
                topology: topology::of(&settings, &this_host),
                settings: settings.cluster.clone(),
                hosts: site.clone(),
                waker: site.clone(),
                cluster: Ok(site.clone()),
                platform: Ok(site.clone()),
                exposure: Ok(site.clone()),
                prober: site.clone(),
                survey: Ok(site.clone()),
                vault: Ok(site.clone()),
                repairs: Ok(site.clone()),
                look: Look::default(),
                primary: site,
                peers: None,
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::site::Model;

    #[test]
    fn a_build_for_real_sites_refuses_a_simulated_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("site.json");
        let absent = open(&file, true).map(|site| site.model()).unwrap_err();
        assert!(format!("{absent:#}").contains("site.json: No such file"), "{absent:#}");
        std::fs::write(&file, serde_json::to_vec(&Model::default()).unwrap()).unwrap();
        assert_eq!(open(&file, true).unwrap().model(), Model::default());
        let refused = open(&file, false).map(|site| site.model()).unwrap_err();
        assert!(refused.to_string().contains("the real site only: unset it"), "{refused:#}");
    }
}
