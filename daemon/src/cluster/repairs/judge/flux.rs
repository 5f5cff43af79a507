//! What holds Flux up.

use std::time::Duration;

use super::{Act, Found, Look, case, hands_off, may, part};
use crate::cluster::repairs::seen::{FluxSeen, GitSeen, JobSeen};
use crate::site::Repair;

/// What Helm says while it takes its release for being worked on (helm: `driver.ErrReleaseExists` of a pending-* release).
const LOCKED: &str = "another operation (install/upgrade/rollback) is in progress";

impl Look<'_> {
    /// Kustomizations that hold a gate up until they are applied: not the optional ones, and none that is suspended.
    fn wanted<'a>(&self, flux: &'a [FluxSeen]) -> Vec<&'a FluxSeen> {
        let optional = |seen: &FluxSeen| self.settings.optional.contains(&format!("{}/{}", seen.is.object.namespace, seen.is.object.name));
        flux.iter().filter(|seen| seen.is.object.kind == "Kustomization" && !seen.suspended && !optional(seen)).collect()
    }

    /// Flux' own test for an immutable field accepts any 409 or 422, which is too much for a deletion: here the message has to name the Job,
    /// and the Job that Kustomization.
    pub(super) fn immutable_jobs(&self) -> Found {
        let (flux, jobs) = (part(&self.symptoms.flux)?, part(&self.symptoms.jobs)?);
        let mut due = Vec::new();
        for kustomization in self.wanted(flux).into_iter().filter(|seen| seen.failed) {
            let of_it = |job: &&JobSeen| job.is.applied_by.as_ref() == Some(&kustomization.is.object);
            let ended = |job: &&JobSeen| job.finished && !job.owned && may(&job.is, flux);
            for job in jobs.iter().filter(of_it).filter(ended).filter(|job| names_job(&kustomization.message, job)) {
                let because =
                    format!("{} cannot be applied: {} has ended and its template is immutable", kustomization.is.object, job.is.object);
                let act = Act::Delete { uid: job.is.uid.clone() };
                due.push(case(Repair::ImmutableJob, &job.is, because, Duration::from_secs(15), act));
            }
        }
        Ok(due)
    }

    /// helm-controller (0.37 and later) unlocks a release that was left pending by itself, and then does nothing any more where its retries
    /// were used up meanwhile; earlier ones say `LOCKED` for ever. Both begin anew when they are told to forget their failures. Helm's
    /// own record (a Secret) is a person's to delete.
    pub(super) fn pending_releases(&self) -> Found {
        let flux = part(&self.symptoms.flux)?;
        let releases = flux.iter().filter(|seen| seen.is.object.kind == "HelmRelease" && seen.failed && !seen.busy);
        let stuck = releases.filter(|seen| {
            let given_up = seen.reason == "PendingRelease" && seen.stalled == "RetriesExceeded";
            (given_up || seen.message.contains(LOCKED)) && may(&seen.is, flux) && !hands_off(Some(&seen.is.object), flux)
        });
        let due = stuck.map(|seen| {
            let because = format!("{} waits for an operation of Helm that nobody finishes: {}", seen.is.object, seen.message);
            case(Repair::PendingRelease, &seen.is, because, Duration::from_secs(120), Act::Reconcile { reset: true })
        });
        Ok(due.collect())
    }

    /// Its storage does not survive a restart of source-controller, and what its status says does.
    pub(super) fn missing_artifacts(&self) -> Found {
        let (flux, sources) = (part(&self.symptoms.flux)?, part(&self.symptoms.sources)?);
        let read = |source: &&GitSeen| {
            let name = format!("{}/{}", source.is.object.namespace, source.is.object.name);
            name == self.settings.source || self.wanted(flux).iter().any(|kustomization| kustomization.source == name)
        };
        let empty =
            sources.iter().filter(|source| source.ready && source.revision.is_empty() && !source.suspended && may(&source.is, flux));
        let due = empty.filter(read).map(|source| {
            let because = format!("{} says Ready, and has no artifact", source.is.object);
            case(Repair::MissingArtifact, &source.is, because, Duration::from_secs(15), Act::Reconcile { reset: false })
        });
        Ok(due.collect())
    }
}

/// Whether the message says of that very Job that its template cannot be changed (kustomize-controller, fluxcd/pkg/ssa:
/// `Job/ns/name dry-run failed (Invalid): Job.batch "name" is invalid: spec.template: Invalid value: …: field is immutable`; earlier
/// versions `…, reason: Invalid, error: …`).
fn names_job(message: &str, job: &JobSeen) -> bool {
    const COMPLAINT: &str = " dry-run failed";
    let (namespace, name) = (&job.is.object.namespace, &job.is.object.name);
    let opens = format!("Job/{namespace}/{name}{COMPLAINT}");
    message.match_indices(&opens).any(|(at, _)| {
        // `CronJob/…` ends with it too.
        let whole = !message[..at].ends_with(char::is_alphanumeric);
        let about_it = message[at + opens.len()..].split(COMPLAINT).next().unwrap_or("");
        let words =
            [format!("Job.batch \"{name}\" is invalid"), "spec.template: Invalid value".to_owned(), "field is immutable".to_owned()];
        whole && words.iter().all(|word| about_it.contains(word))
    })
}
