//! The doctor: looks at everything that a bad day needs, side by side, each part with a deadline of its own. Changes nothing.

mod files;
mod hosts;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::parts::Parts;
use super::world::World;
use super::{arming, datastore};
use crate::cluster::{self, Clocks};
use crate::config::Settings;
use crate::control::{Prepared, View};
use crate::power::{checks, checks::Level as NutLevel, masters};
use crate::prepare::facts::{Facts, Part, Right, UpsSeen};
use crate::prepare::{Finding, Level, count, judge};
use crate::site::{Access, Guard};

/// Each part has so long; all of them run at the same time, and a caller waits half a minute.
const WITHIN: Duration = Duration::from_secs(15);

/// Everything, judged.
pub async fn look(world: &World, view: &View) -> Vec<Finding> {
    let (settings, parts) = (world.settings(), world.parts().await);
    let helpers = parts.topology.hosts.values().any(|host| host.access == Access::HelperPod);
    let helpers = helpers.then(|| settings.hosts.helper_namespace.clone());
    let (kept, hosts, (rights, longhorn), upses, told) = tokio::join!(
        files::look(&settings, &parts, world.secrets.clone(), WITHIN),
        hosts::look(world, &parts, WITHIN),
        of_cluster(&parts, helpers.as_deref()),
        upses(&settings, &parts, view),
        of_others(world, &settings),
    );
    let startup = &settings.cluster.startup;
    judge(&Facts {
        now: world.now(),
        has_cluster: settings.cluster.kubeconfig.is_some(),
        clocks: startup.clocks == Clocks::Strict,
        bundle_dir: files::bundles(&settings),
        bundles: kept.bundles,
        snapshot: kept.snapshot,
        cache: kept.cache,
        captured_secrets: kept.captured_secrets,
        secrets: kept.secrets,
        images: kept.images,
        hosts,
        longhorn,
        rights,
        upses,
        told,
        installed: kept.installed,
        disk: kept.disk,
    })
}

/// What is recorded of it.
pub fn record(world: &World, requester: String, findings: &[Finding]) -> Prepared {
    let problems = findings.iter().filter(|finding| finding.level == Level::Problem);
    Prepared {
        requester,
        settings: world.settings().digest.clone(),
        problems: problems.map(|finding| format!("{}: {}", finding.name, finding.message)).collect(),
        warnings: count(findings, Level::Warning),
        unclear: count(findings, Level::CannotTell),
    }
}

async fn of_cluster(parts: &Parts, helpers: Option<&str>) -> (Part<Vec<Right>>, Option<BTreeSet<String>>) {
    let survey = match &parts.survey {
        Ok(survey) => survey,
        Err(why) => return (Err(why.clone()), None),
    };
    let (rights, described) = tokio::join!(survey.rights(helpers, WITHIN), survey.describe(WITHIN));
    let rights = rights.map_err(|error| error.to_string());
    let rights = rights.map(|all| all.into_iter().map(|right| Right { what: right.what, allowed: right.allowed }).collect());
    let longhorn = described.ok().and_then(|described| described.longhorn.ok());
    (rights, longhorn.map(|nodes| cluster::stores(&nodes)))
}

async fn upses(settings: &Settings, parts: &Parts, view: &View) -> Vec<UpsSeen> {
    let states = view.power.as_ref().map(|power| power.upses.clone()).unwrap_or_default();
    let looks = settings.power.upses.iter().map(async |ups| {
        let state = states.iter().find(|state| state.name == ups.name);
        let login = match &ups.username {
            Some(_) => Some(parts.primary.check(&ups.name, WITHIN).await),
            None => None,
        };
        UpsSeen {
            name: ups.name.clone(),
            heard: state.and_then(|state| state.last_heard),
            vars: state.map(|state| state.vars.clone()).unwrap_or_default(),
            login,
            in_domain: settings.power.domains.iter().any(|domain| domain.upses.contains(&ups.name)),
        }
    });
    join_all(looks).await
}

/// NUT's files, other masters of the same UPSes, the dump of the datastore.
async fn of_others(world: &World, settings: &Arc<Settings>) -> Vec<Finding> {
    let (of, name) = (Arc::clone(settings), world.host_name.clone());
    let datastore = tokio::task::spawn_blocking(move || datastore::guards(&of, &name));
    let (evidence, datastore) = tokio::join!(arming::evidence(settings, &world.host_name), tokio::time::timeout(WITHIN, datastore));
    let names = [world.host_name.clone()];
    let nut = checks::findings(&settings.power, &evidence.files, &names, &settings.daemon.runtime_dir);
    let mut found: Vec<Finding> =
        nut.into_iter().map(|finding| Finding::new(finding.name, level(finding.level), finding.message)).collect();
    found.extend(masters::guards(&settings.power, &evidence).into_iter().map(problem));
    match datastore {
        Ok(Ok(guards)) => found.extend(guards.into_iter().map(problem)),
        Ok(Err(_)) | Err(_) => {
            found.push(Finding::new("cluster.datastore", Level::CannotTell, "this host's units could not be read in time"));
        }
    }
    found
}

fn problem(guard: Guard) -> Finding {
    Finding::new(&guard.name, Level::Problem, guard.message)
}

fn level(level: NutLevel) -> Level {
    match level {
        NutLevel::Good => Level::Ok,
        NutLevel::NotChecked => Level::CannotTell,
        NutLevel::Warning => Level::Warning,
        NutLevel::Bad => Level::Problem,
    }
}
