//! `startup`.

use metis_proto::v1;
use metis_proto::v1::power_client::PowerClient;

use super::Context;
use super::shutdown::duration;
use crate::args::StartupArgs;
use crate::errors::CtlError;
use crate::exit::Exit;
use crate::session::Session;
use crate::view::startup::{GatesView, StartupView};

/// Shows the tables or the plan, or executes it and follows the run.
pub async fn run(args: &StartupArgs, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    let session = Session::open(cx.global).await?;
    let mut client = PowerClient::new(session.channel.clone());
    if args.list {
        let view = GatesView::from(session.call("the list of gates", client.gates(v1::GatesRequest {})).await?);
        cx.console.emit(cx.global.format, &view, GatesView::table)?;
        return Ok(Exit::Done);
    }
    let call = session.call("startup", client.startup(request(args)));
    if !args.execute {
        let view = StartupView::from(call.await?);
        cx.console.emit(cx.global.format, &view, StartupView::table)?;
        return cx.end_dry_run(&view.plan, "add --execute");
    }
    let answer = super::answered("start-up", call, &session).await?;
    if !answer.handed_over_to.is_empty() {
        let view = StartupView::from(answer);
        cx.console.emit(cx.global.format, &view, |view, _| view.handed_over())?;
        return Ok(Exit::Done);
    }
    super::execute("start-up", std::future::ready(Ok(answer)), &session, cx, |answer, flags, look| {
        let run = answer.run.clone();
        let headline = StartupView::from(answer).headline(&run, flags, look);
        (run, headline)
    })
    .await
}

fn request(args: &StartupArgs) -> v1::StartupRequest {
    v1::StartupRequest {
        reason: args.reason.clone(),
        ignore: args.ignore.clone(),
        allow_on_battery: args.allow_on_battery,
        min_battery: args.min_startup_battery,
        require_ups_battery: args.require_ups_battery,
        stability_window: args.startup_stability_window.map(duration),
        allow_peer_startup: args.allow_peer_startup,
        auto_peer_failover: args.auto_peer_failover,
        execute: args.execute,
        checklist_timeout: args.startup_checklist_timeout.map(duration),
        stability_timeout: args.startup_stability_timeout.map(duration),
        skip_packages: args.skip_package_check,
    }
}
