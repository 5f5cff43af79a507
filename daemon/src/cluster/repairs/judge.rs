//! Which repairs are due.

mod coupling;
mod flux;
mod pods;
mod volumes;

use std::collections::BTreeSet;
use std::time::Duration;

use super::seen::{FluxSeen, Identity, Symptoms};
use super::{Known, row};
use crate::cluster::StartupSettings;
use crate::site::{Gate, ObjectRef, Repair, RepairCase};

/// A repair that is due, once its symptom has stood for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Which, and of what.
    pub case: RepairCase,
    /// What was seen, for people.
    pub because: String,
    /// So long it has to be seen first.
    pub stands: Duration,
    /// What is done.
    pub act: Act,
}

/// What a repair does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Deletes that very object, and what it owns after it.
    Delete {
        /// It must still have this UID.
        uid: String,
    },
    /// Gives it its replicas again.
    Scale {
        /// As many.
        replicas: i32,
        /// It must still have this resourceVersion.
        version: String,
    },
    /// Asks its controller for a reconciliation.
    Reconcile {
        /// And to forget its failures (`reconcile.fluxcd.io/resetAt`).
        reset: bool,
    },
}

/// What a look came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Judgement {
    /// Repairs that are due.
    pub due: Vec<Due>,
    /// Repairs of which it cannot be told, each with the reason.
    pub unseen: Vec<String>,
}

/// Repairs that are due while that gate is not ready. `known`: what the last shutdown recorded, where there is any.
pub fn due(gate: &Gate, symptoms: &Symptoms, known: Option<&Known>, settings: &StartupSettings) -> Judgement {
    let look = Look { symptoms, known, settings };
    let mut judgement = Judgement::default();
    for repair in Repair::ALL {
        if !row(repair).gates.contains(&gate.name()) || !settings.repairs.allows(repair) {
            continue;
        }
        match look.judge(repair) {
            Ok(due) => judgement.due.extend(due),
            Err(why) => judgement.unseen.push(format!("{}: {why}", repair.name())),
        }
    }
    judgement
}

/// A look, with what it is judged by.
struct Look<'a> {
    symptoms: &'a Symptoms,
    known: Option<&'a Known>,
    settings: &'a StartupSettings,
}

type Found = Result<Vec<Due>, String>;

impl Look<'_> {
    fn judge(&self, repair: Repair) -> Found {
        match repair {
            Repair::ImmutableJob => self.immutable_jobs(),
            Repair::StuckPod => self.stuck_pods(),
            Repair::LeftAtZero => self.left_at_zero(),
            Repair::PendingRelease => self.pending_releases(),
            Repair::OrphanedAttachment => self.orphaned_attachments(),
            Repair::MissingArtifact => self.missing_artifacts(),
            Repair::Coupling => self.coupling(),
            // A step of its own and the timer of leases see to it.
            Repair::StaleCordon => Ok(Vec::new()),
        }
    }

    fn left_at_zero(&self) -> Found {
        let Some(known) = self.known else { return Ok(Vec::new()) };
        let (flux, workloads) = (part(&self.symptoms.flux)?, part(&self.symptoms.workloads)?);
        let critical = critical(self.settings);
        let found = workloads.iter().filter(|workload| critical.contains(&workload.is.object.namespace) && may(&workload.is, flux));
        let due = found.filter_map(|workload| {
            let replicas = known.lost(workload)?;
            let because = format!("{} has no replicas since the shutdown, and had {replicas}", workload.is.object);
            let act = Act::Scale { replicas, version: workload.version.clone() };
            Some(case(Repair::LeftAtZero, &workload.is, because, Duration::from_secs(15), act))
        });
        Ok(due.collect())
    }
}

/// Namespaces whose workloads a start-up needs: those it waits for, and those of Flux, the Git server and the registry.
pub fn critical(settings: &StartupSettings) -> BTreeSet<String> {
    let (flux, repairs) = (flux_namespace(settings), &settings.repairs);
    let more = [flux, &repairs.git_namespace, &repairs.registry_namespace].into_iter().filter(|name| !name.is_empty());
    settings.namespaces.iter().cloned().chain(more.map(str::to_owned)).collect()
}

/// The namespace of Flux' source, and of Flux.
fn flux_namespace(settings: &StartupSettings) -> &str {
    settings.source.split_once('/').map_or("", |(namespace, _)| namespace)
}

fn part<T>(part: &Result<Vec<T>, String>) -> Result<&[T], String> {
    part.as_ref().map(Vec::as_slice).map_err(Clone::clone)
}

fn case(repair: Repair, is: &Identity, because: String, stands: Duration, act: Act) -> Due {
    Due { case: RepairCase::of(repair, &is.object, &is.uid), because, stands, act }
}

/// Nobody has said that it must be left alone.
fn may(is: &Identity, flux: &[FluxSeen]) -> bool {
    !is.opted_out && !is.deleting && !is.uid.is_empty() && !hands_off(is.applied_by.as_ref(), flux)
}

/// Who applies it is suspended or opted out, or is applied by somebody who is, or is not there to be asked. A suspension is a person's word,
/// or belongs to a metis host that has not taken it back yet.
fn hands_off(applied_by: Option<&ObjectRef>, flux: &[FluxSeen]) -> bool {
    let mut at = applied_by;
    let mut passed = BTreeSet::new();
    while let Some(object) = at {
        let Some(seen) = flux.iter().find(|seen| seen.is.object == *object) else { return true };
        if seen.suspended || seen.is.opted_out {
            return true;
        }
        // A Kustomization that applies itself is a root.
        if !passed.insert(object) {
            return false;
        }
        at = seen.is.applied_by.as_ref();
    }
    false
}
