//! Service Runs: history from the journal's reader, the present from the View.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use metis_proto::v1;
use metis_proto::v1::runs_server::Runs;
use tokio::sync::broadcast::error::RecvError;
use tonic::{Request, Response, Status};

use super::authz::Admitted;
use super::{Context, convert};
use crate::control::{self, Fact, Reply, RunRecord, Told, View};
use crate::site::RunId;

/// Facts of one run that are read at once.
const PAGE: usize = 10_000;
/// A state disk that does not answer by then may never do: what is known without it is told.
const READ_WITHIN: Duration = Duration::from_secs(3);

/// The service.
pub(super) struct RunsService(pub(super) Context);

impl Context {
    /// The run of that id, or the newest for `last`; an old one is folded from its stored facts.
    pub(super) async fn run(&self, id: &str) -> Result<Arc<RunRecord>, Status> {
        if let Some(record) = self.handle.view().run(id) {
            return Ok(Arc::clone(record));
        }
        let facts = self.stored(&RunId::new(id), 0).await?;
        control::fold_run(&facts).map(Arc::new).ok_or_else(|| Status::not_found(no_such_run(id)))
    }

    /// A run that is known to have ended: its last fact is told a moment before the View has it.
    pub(super) async fn ended_run(&self, id: &RunId) -> Result<Arc<RunRecord>, Status> {
        let mut views = self.handle.views();
        let ended = |view: &Arc<View>| view.run(id.as_str()).is_none_or(|record| record.run.outcome.is_some());
        let _ = tokio::time::timeout(Duration::from_secs(2), views.wait_for(ended)).await;
        self.run(id.as_str()).await
    }

    /// Facts of a run after `from`, as stored.
    async fn stored(&self, run: &RunId, from: u64) -> Result<Vec<Told>, Status> {
        let (reader, run) = (self.reader.clone(), run.clone());
        let facts = read(move || reader.of_run(&run, from, PAGE)).await?;
        facts.iter().map(Told::decode).collect::<Result<_, _>>().map_err(|e| Status::data_loss(format!("the journal: {e}")))
    }

    /// Older runs than that one, newest first; where none is given, the newest.
    async fn older_runs(&self, than: Option<&RunId>, limit: usize) -> Result<Vec<RunRecord>, Status> {
        // Admission facts are older than the oldest run that the View has.
        let before = match than {
            Some(id) => self.stored(id, 0).await?.first().map(|told| told.stamp.seq),
            None => None,
        };
        let reader = self.reader.clone();
        let admitted = read(move || reader.runs(before, limit)).await?;
        let mut found = Vec::new();
        for run in admitted.into_iter().filter_map(|fact| fact.run) {
            found.extend(control::fold_run(&self.stored(&run, 0).await?));
        }
        Ok(found)
    }
}

async fn read<T, E>(what: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Status>
where
    T: Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    match tokio::time::timeout(READ_WITHIN, tokio::task::spawn_blocking(what)).await {
        Ok(Ok(Ok(found))) => Ok(found),
        Ok(Ok(Err(error))) => Err(Status::unavailable(format!("the journal cannot be read: {error}"))),
        Ok(Err(error)) => Err(Status::internal(format!("reading the journal: {error}"))),
        Err(_) => Err(Status::unavailable(format!("the journal's disk has not answered for {} s", READ_WITHIN.as_secs()))),
    }
}

/// A journal that cannot be read now keeps nobody from seeing what the View has.
fn or_why<T: Default>(read: Result<T, Status>) -> Result<(T, String), Status> {
    match read {
        Ok(found) => Ok((found, String::new())),
        Err(status) if status.code() == tonic::Code::Unavailable => Ok((T::default(), status.message().to_owned())),
        Err(status) => Err(status),
    }
}

fn no_such_run(id: &str) -> String {
    if id == "last" { "there was no run yet".to_owned() } else { format!("no run {id}: `metisctl run` lists them") }
}

/// The step from whose beginning on the run is not undone any more; empty where there is none, or it has begun.
fn last_chance(record: &RunRecord) -> String {
    let over = record.run.outcome.is_some() || record.run.committed();
    let point = record.run.book.steps().find(|step| step.commits).filter(|_| !over);
    point.map(|step| step.title.clone()).unwrap_or_default()
}

#[tonic::async_trait]
impl Runs for RunsService {
    async fn list(&self, request: Request<v1::ListRunsRequest>) -> Result<Response<v1::ListRunsResponse>, Status> {
        let v1::ListRunsRequest { limit, kind } = request.into_inner();
        let limit = if limit == 0 { 50 } else { limit as usize };
        let wanted = |record: &RunRecord| kind.is_empty() || record.run.book.kind == kind;
        let view = self.0.handle.view();
        let now = (self.0.now)();
        let mut runs: Vec<_> = view.runs.iter().filter(|r| wanted(r)).take(limit).map(|r| convert::run(r, &now)).collect();
        let mut incomplete = String::new();
        if runs.len() < limit {
            let oldest = view.runs.last().map(|r| &r.id);
            let (older, why) = or_why(self.0.older_runs(oldest, limit - runs.len()).await)?;
            runs.extend(older.iter().filter(|r| wanted(r)).map(|r| convert::run(r, &now)));
            incomplete = why;
        }
        Ok(Response::new(v1::ListRunsResponse { runs, incomplete }))
    }

    async fn get(&self, request: Request<v1::GetRunRequest>) -> Result<Response<v1::GetRunResponse>, Status> {
        let record = self.0.run(&request.into_inner().id).await?;
        let (stored, incomplete) = or_why(self.0.stored(&record.id, 0).await)?;
        let events = stored.iter().map(|t| convert::told(&record.id, t)).collect();
        Ok(Response::new(v1::GetRunResponse { run: Some(convert::run(&record, &(self.0.now)())), events, incomplete }))
    }

    type WatchStream = BoxStream<'static, Result<v1::RunEvent, Status>>;

    async fn watch(&self, request: Request<v1::WatchRunRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let v1::WatchRunRequest { id, from_seq } = request.into_inner();
        let record = self.0.run(&id).await?;
        Ok(Response::new(watch(self.0.clone(), record.id.clone(), from_seq)))
    }

    async fn cancel(&self, request: Request<v1::CancelRunRequest>) -> Result<Response<v1::CancelRunResponse>, Status> {
        let admitted = Admitted::of(&request)?;
        let v1::CancelRunRequest { id, execute } = request.into_inner();
        let record = self.0.run(&id).await?;
        let (run, until) = (record.id.clone(), last_chance(&record));
        if execute {
            self.0.audit(&admitted, "Runs.Cancel", run.as_str()).await?;
        }
        let asked = control::Request::Cancel { requester: admitted.caller.label(), run, execute };
        match self.0.ask(asked).await? {
            Reply::Cancel { consequences, cancelled } => Ok(Response::new(v1::CancelRunResponse { consequences, cancelled, until })),
            Reply::NoSuchRun => Err(Status::failed_precondition(format!("{id} has ended already"))),
            other => Err(Status::internal(format!("unexpected answer to a cancellation: {other:?}"))),
        }
    }
}

/// Stored events after `from`, then live ones until the run has ended; byte progress in between.
pub(super) fn watch(context: Context, run: RunId, from: u64) -> BoxStream<'static, Result<v1::RunEvent, Status>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(64);
    tokio::spawn(async move {
        if let Err(status) = follow(&context, &run, from, &sender).await {
            let _ = sender.send(Err(status)).await;
        }
    });
    Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))
}

type Sender = tokio::sync::mpsc::Sender<Result<v1::RunEvent, Status>>;

/// Ends when the run has ended or the caller has gone.
async fn follow(context: &Context, run: &RunId, from: u64, to: &Sender) -> Result<(), Status> {
    // Subscribed before the stored facts are read, so that none falls between.
    let mut live = context.handle.subscribe();
    let mut seen = from;
    if catch_up(context, run, &mut seen, to).await? {
        return Ok(());
    }
    let mut progress = context.handle.progress(run);
    loop {
        let moved = async {
            match &mut progress {
                Some(progress) => progress.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            fact = live.recv() => match fact {
                Ok(told) if told.fact.run() == Some(run) && told.stamp.seq > seen => {
                    seen = told.stamp.seq;
                    if to.send(Ok(convert::told(run, &told))).await.is_err() || ended(&told) {
                        return Ok(());
                    }
                    progress = progress.or_else(|| context.handle.progress(run));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => if catch_up(context, run, &mut seen, to).await? { return Ok(()) },
                Err(RecvError::Closed) => return Err(Status::unavailable("metisd is stopping")),
            },
            alive = moved => {
                let newest = progress.as_mut().and_then(|p| p.borrow_and_update().clone());
                // Progress is worth nothing to a caller who is behind: it is left out, never waited for.
                if let Some(of) = newest { let _ = to.try_send(Ok(convert::progress(run, &of))); }
                if !alive { progress = None; }
            }
            () = to.closed() => return Ok(()),
        }
    }
}

/// Sends what is stored after `seen`; whether the run has ended.
async fn catch_up(context: &Context, run: &RunId, seen: &mut u64, to: &Sender) -> Result<bool, Status> {
    let (stored, missing) = or_why(context.stored(run, *seen).await)?;
    if !missing.is_empty() {
        tracing::warn!(METIS_RUN = %run, "a caller sees only what happens from now on: {missing}");
    }
    for told in stored {
        *seen = told.stamp.seq;
        if to.send(Ok(convert::told(run, &told))).await.is_err() || ended(&told) {
            return Ok(true);
        }
    }
    // A caller who has seen everything of an ended run gets the end of the stream, not silence.
    Ok(context.handle.view().run(run.as_str()).is_some_and(|r| r.run.outcome.is_some() && r.seq <= *seen))
}

fn ended(told: &Told) -> bool {
    matches!(told.fact, Fact::RunEnded { .. })
}
