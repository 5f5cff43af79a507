//! `ups` and `ups history`.

use std::time::Duration;

use metis_proto::v1;
use metis_proto::v1::ups_client::UpsClient;

use super::Context;
use crate::args::{UpsArgs, UpsCommand};
use crate::clock;
use crate::errors::CtlError;
use crate::exit::Exit;
use crate::session::Session;
use crate::view::ups::{HistoryView, PowerView};
use crate::watch;

/// Shows UPSes and domains, once or at every change, or the history of one UPS.
pub async fn run(args: &UpsArgs, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    let session = Session::open(cx.global).await?;
    let mut client = UpsClient::new(session.channel.clone());
    match &args.command {
        Some(UpsCommand::History { name, since, limit }) => history(&session, client, name, *since, *limit, cx).await,
        None if args.watch => {
            let opened = session.call("ups", client.watch(v1::WatchUpsRequest {})).await?;
            watch::show(opened, "ups", cx, |m, format, console| {
                console.emit_one_of_many(format, &PowerView::from(m), super::super::view::ups::PowerView::table)
            })
            .await
        }
        None => {
            let listed = session.call("ups", client.list(v1::ListUpsRequest {})).await?;
            cx.console.emit(cx.global.format, &PowerView::from(listed), super::super::view::ups::PowerView::table)?;
            Ok(Exit::Done)
        }
    }
}

async fn history(
    session: &Session,
    mut client: UpsClient<tonic::transport::Channel>,
    name: &str,
    since: Duration,
    limit: u32,
    cx: &mut Context<'_, '_>,
) -> Result<Exit, CtlError> {
    let at = |t: jiff::Timestamp| prost_types::Timestamp { seconds: t.as_second(), nanos: t.subsec_nanosecond() };
    let now = clock::now();
    let from = now.checked_sub(since).map_err(|_| CtlError::Usage("--since reaches too far back".into()))?;
    let request = v1::UpsHistoryRequest { name: name.to_owned(), from: Some(at(from)), to: Some(at(now)), limit };
    let found = session.call("ups history", client.history(request)).await?;
    cx.console.emit(cx.global.format, &HistoryView::from(found), super::super::view::ups::HistoryView::table)?;
    Ok(Exit::Done)
}
