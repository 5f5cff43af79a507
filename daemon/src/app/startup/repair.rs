//! Remedies of a gate that is not ready: each once per cause and run, recorded before it is done.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::app::shutdown::Attempt;
use crate::cluster::port::{ClusterError, Repairs};
use crate::cluster::repairs::{self, Act, Due, Known, Standing};
use crate::cluster::startup::judge;
use crate::control::{RepairEnd, RepairRecord, Reply, Request};
use crate::site::{Gate, Judged, Repair, RepairCase};

/// Pause between two looks for what may be mended: they are long.
const EXAMINE_EVERY: Duration = Duration::from_secs(15);

/// What one gate's wait knows of its remedies.
#[derive(Default)]
pub(super) struct Mender {
    standing: Standing,
    looked: Option<Instant>,
    unseen: Vec<String>,
}

impl Attempt<'_> {
    /// Mends what holds the gate up; whether anything was done.
    pub(super) async fn mend(&self, gate: &Gate, mender: &mut Mender) -> bool {
        let Ok(port) = &self.parts.repairs else { return false };
        if !repairs::mends(gate) || mender.looked.is_some_and(|at| at.elapsed() < EXAMINE_EVERY) {
            return false;
        }
        mender.looked = Some(Instant::now());
        let symptoms = port.examine(self.left()).await;
        let judgement = repairs::due(gate, &symptoms, self.known().await.as_ref(), &self.parts.settings.startup);
        mender.unseen = judgement.unseen;
        let mut mended = false;
        for due in mender.standing.note(judgement.due, self.world.now().boot) {
            mended |= self.use_once(port, &due).await;
        }
        mended
    }

    async fn use_once(&self, port: &Arc<dyn Repairs>, due: &Due) -> bool {
        if self.repairs().iter().any(|known| known.case == due.case && known.ended.is_some()) {
            return false;
        }
        let (run, step, case) = (self.job.run.clone(), self.job.step.clone(), due.case.clone());
        let begun = self.handle.request(Request::BeginRepair { run: run.clone(), step: step.clone(), case: case.clone() }).await;
        if !matches!(begun, Ok(Reply::Noted)) {
            return false;
        }
        let end = match self.carry_out(port, due).await {
            Ok(what) => RepairEnd { done: true, detail: format!("{}; {what}", due.because) },
            // Not known to be refused: the next look tells whether it is still due, and then it is tried again.
            Err(ClusterError::Unreachable(why)) => {
                self.tell(format!("repair {}: not answered: {why}", case.repair.name())).await;
                return false;
            }
            Err(ClusterError::Gone(why) | ClusterError::Refused(why)) => {
                RepairEnd { done: false, detail: format!("{}; nothing was changed: {why}", due.because) }
            }
        };
        let done = end.done;
        // Where it is not recorded, the next look finds it done, or does it again.
        let recorded = self.handle.request(Request::EndRepair { run, step, case, end }).await;
        if let Err(error) = recorded {
            tracing::warn!("the end of repair {} could not be recorded: {error}", due.case.repair.name());
        }
        done
    }

    async fn carry_out(&self, port: &Arc<dyn Repairs>, due: &Due) -> Result<String, ClusterError> {
        let RepairCase { object, cause, .. } = &due.case;
        match &due.act {
            Act::Delete { uid } => port.delete(object, uid, self.left()).await.map(|()| format!("{object} was deleted")),
            Act::Scale { replicas, version } => {
                port.scale(object, version, *replicas, self.left()).await.map(|()| format!("{object} was scaled to {replicas}"))
            }
            // The same words for the same cause: asked twice is asked once.
            Act::Reconcile { reset } => {
                let token = format!("metis {} {cause}", self.job.run);
                port.retry(object, &token, *reset, self.left()).await.map(|()| format!("{object} was asked to reconcile"))
            }
        }
    }

    /// Repairs that this run has begun.
    fn repairs(&self) -> Vec<RepairRecord> {
        self.handle.view().run(self.job.run.as_str()).map(|record| record.repairs.clone()).unwrap_or_default()
    }

    /// What a person does where the gate fails in spite of its repairs.
    pub(super) fn used_up(&self, gate: &Gate, mender: &Mender) -> String {
        let of_step = self.repairs().into_iter().filter(|known| known.step == self.job.step);
        let told = |known: RepairRecord| {
            let how = known.ended.map_or_else(|| "cut off".to_owned(), |end| end.detail);
            (known.case.repair, how)
        };
        let tried: Vec<(Repair, String)> = of_step.map(told).collect();
        let unseen = mender.unseen.iter().fold(String::new(), |told, why| told + "; not looked at: " + why);
        format!("{}{unseen}", repairs::after(gate, &tried, &self.parts.settings.startup))
    }

    /// What the last shutdown recorded of the cluster, where there was one and it is kept.
    async fn known(&self) -> Option<Known> {
        let view = self.handle.view();
        let (run, blob) = view.collected.as_ref()?;
        let ended = view.run(run.as_str())?.ended?;
        match self.world.load_facts(blob).await {
            Ok(facts) => Some(Known::of(&facts, ended)),
            Err(why) => {
                tracing::warn!("what {run} saw of the cluster cannot be read: {why}");
                None
            }
        }
    }

    /// A workload without replicas has all the pods that it wants; one that the last shutdown left so is not ready for that.
    pub(super) async fn workloads(&self) -> Judged {
        let judged = self.seen(judge::workloads).await;
        if !matches!(judged, Judged::Ready(_)) {
            return judged;
        }
        match self.left_at_zero().await {
            Ok(left) if left.is_empty() => judged,
            Ok(left) => Judged::NotReady { why: format!("without replicas since the shutdown: {}", left.join(", ")), done: 0 },
            Err(why) => Judged::CannotTell(format!("whether the shutdown left workloads without replicas cannot be seen: {why}")),
        }
    }

    async fn left_at_zero(&self) -> Result<Vec<String>, String> {
        let Some(known) = self.known().await else { return Ok(Vec::new()) };
        let namespaces: BTreeSet<String> = repairs::critical(&self.parts.settings.startup);
        let seen = self.look().await?;
        if known.suspects(&seen, &namespaces).is_empty() {
            return Ok(Vec::new());
        }
        let symptoms = self.parts.repairs.as_ref().map_err(Clone::clone)?.examine(self.left()).await;
        let left = repairs::left_at_zero(&symptoms, &known, &namespaces)?;
        Ok(left.iter().map(ToString::to_string).collect())
    }
}
