//! `status`.

use metis_proto::v1;
use metis_proto::v1::status_client::StatusClient;

use super::Context;
use crate::args::WatchArgs;
use crate::errors::CtlError;
use crate::exit::Exit;
use crate::session::Session;
use crate::view::status::StatusView;
use crate::watch;

/// Shows the state once, or at every change.
pub async fn run(args: &WatchArgs, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    let session = Session::open(cx.global).await?;
    let mut client = StatusClient::new(session.channel.clone());
    if args.watch {
        let opened = session.call("status", client.watch(v1::WatchStatusRequest {})).await?;
        return watch::show(opened, "status", cx, |m, format, console| {
            console.emit_one_of_many(format, &StatusView::from(m), super::super::view::status::StatusView::table)
        })
        .await;
    }
    let status = session.call("status", client.get(v1::GetStatusRequest {})).await?;
    cx.console.emit(cx.global.format, &StatusView::from(status), super::super::view::status::StatusView::table)?;
    Ok(Exit::Done)
}
