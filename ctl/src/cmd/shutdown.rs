//! `shutdown`.

use std::time::Duration;

use metis_proto::v1;
use metis_proto::v1::power_client::PowerClient;

use super::Context;
use crate::args::ShutdownArgs;
use crate::errors::CtlError;
use crate::exit::Exit;
use crate::session::Session;
use crate::view::shutdown::ShutdownView;

/// Shows the plan, or executes it and follows the run.
pub async fn run(args: &ShutdownArgs, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    let session = Session::open(cx.global).await?;
    let mut client = PowerClient::new(session.channel.clone());
    let call = session.call("shutdown", client.shutdown(request(args)));
    if !args.execute {
        let view = ShutdownView::from(call.await?);
        cx.console.emit(cx.global.format, &view, ShutdownView::table)?;
        return cx.end_dry_run(&view.plan, "add --execute");
    }
    super::execute("shutdown", call, &session, cx, |answer, flags, look| {
        let run = answer.run.clone();
        let headline = ShutdownView::from(answer).headline(&run, flags, look);
        (run, headline)
    })
    .await
}

fn request(args: &ShutdownArgs) -> v1::ShutdownRequest {
    v1::ShutdownRequest {
        mode: super::mode(args.mode).into(),
        reason: args.reason.clone(),
        skip_drain: args.skip_drain,
        skip_etcd_snapshot: args.skip_etcd_snapshot,
        drain_timeout: args.drain_timeout.map(duration),
        emergency_drain_timeout: args.emergency_drain_timeout.map(duration),
        require_ups_battery: args.require_ups_battery,
        ups_host: args.ups_host.clone(),
        domains: args.domains.clone(),
        execute: args.execute,
    }
}

pub(super) fn duration(d: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: i64::try_from(d.as_secs()).unwrap_or(i64::MAX), nanos: 0 }
}
