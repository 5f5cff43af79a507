//! `run list|get|watch|cancel`.

use metis_proto::v1;
use metis_proto::v1::runs_client::RunsClient;

use super::Context;
use crate::args::{Format, RunArgs, RunCommand, RunListArgs};
use crate::errors::CtlError;
use crate::exit::Exit;
use crate::follow::Follow;
use crate::interrupt::Interrupts;
use crate::session::Session;
use crate::view::run::{self, CancelView, RunDetailView, RunsView};
use crate::view::text;

/// Lists, shows, follows or cancels runs.
pub async fn run(args: &RunArgs, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    let session = Session::open(cx.global).await?;
    match &args.command {
        None => list(&session, &args.list, cx).await,
        Some(RunCommand::List(list_args)) => list(&session, list_args, cx).await,
        Some(RunCommand::Get { id }) => get(&session, id, cx).await,
        Some(RunCommand::Watch { id, from_seq }) => watch(&session, id, *from_seq, cx).await,
        Some(RunCommand::Cancel { id, execute }) => cancel(&session, id, *execute, cx).await,
    }
}

fn client(session: &Session) -> RunsClient<tonic::transport::Channel> {
    RunsClient::new(session.channel.clone())
}

async fn list(session: &Session, args: &RunListArgs, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    let request = v1::ListRunsRequest { limit: args.limit, kind: args.kind.clone() };
    let listed = session.call("run list", client(session).list(request)).await?;
    let view = RunsView { runs: listed.runs.into_iter().map(Into::into).collect() };
    cx.console.emit(cx.global.format, &view, |v, look| run::list(&v.runs, look))?;
    left_out("older runs are", &listed.incomplete, cx)
}

async fn fetch(session: &Session, id: &str) -> Result<(v1::Run, v1::GetRunResponse), CtlError> {
    let what = format!("run get {id}");
    let mut found = session.call(&what, client(session).get(v1::GetRunRequest { id: id.to_owned() })).await?;
    let run = found.run.take().ok_or_else(|| CtlError::rpc(&what, tonic::Status::not_found(format!("there is no run {id}"))))?;
    Ok((run, found))
}

/// What could not be read is told, and is no failure.
fn left_out(what: &str, why: &str, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    if !why.is_empty() {
        cx.last(&format!("{what} left out: {why}"))?;
    }
    Ok(Exit::Done)
}

/// "last" as the run that it is now.
async fn resolve(session: &Session, id: &str) -> Result<String, CtlError> {
    if id == "last" { Ok(fetch(session, id).await?.0.id) } else { Ok(id.to_owned()) }
}

async fn get(session: &Session, id: &str, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    let (run, found) = fetch(session, id).await?;
    let view = RunDetailView { run: run.into(), events: found.events.into_iter().map(Into::into).collect() };
    cx.console.emit(cx.global.format, &view, super::super::view::run::RunDetailView::table)?;
    left_out("events are", &found.incomplete, cx)
}

async fn watch(session: &Session, id: &str, from_seq: u64, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    let id = resolve(session, id).await?;
    let mut interrupts = Interrupts::listen()?;
    let (run, exit) = Follow::new(session, &id, from_seq, Some(cx.global.format)).until_ended(&mut interrupts, cx.console).await?;
    if cx.global.format == Format::Table {
        cx.console.say(&run.outcome())?;
    }
    Ok(exit)
}

async fn cancel(session: &Session, id: &str, execute: bool, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    let run = resolve(session, id).await?;
    let request = v1::CancelRunRequest { id: run.clone(), execute };
    let answer = session.call(&format!("run cancel {run}"), client(session).cancel(request)).await?;
    let view =
        CancelView { run, dry_run: !execute, cancelled: answer.cancelled, consequences: answer.consequences, until: text(answer.until) };
    cx.console.emit(cx.global.format, &view, |v, _| v.table())?;
    if !execute {
        cx.last("DRY RUN: nothing was changed, add --execute")?;
    }
    Ok(if execute && !view.cancelled { Exit::Refused } else { Exit::Done })
}
