//! `lease`.

use metis_proto::v1;
use metis_proto::v1::leases_client::LeasesClient;

use super::Context;
use super::shutdown::duration;
use crate::args::{LeaseArgs, LeaseCommand};
use crate::errors::CtlError;
use crate::exit::Exit;
use crate::session::Session;
use crate::view::lease::{LeaseDone, LeasesView};

/// Shows, renews or releases.
pub async fn run(args: &LeaseArgs, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    let session = Session::open(cx.global).await?;
    let mut client = LeasesClient::new(session.channel.clone());
    let (answer, execute) = match args.command.as_ref().unwrap_or(&LeaseCommand::List) {
        LeaseCommand::List => {
            let view = LeasesView::from(session.call("the list of leases", client.list(v1::ListLeasesRequest {})).await?);
            cx.console.emit(cx.global.format, &view, LeasesView::table)?;
            return Ok(Exit::Done);
        }
        LeaseCommand::Renew { node, span, execute } => {
            let asked = v1::RenewLeaseRequest { node: node.clone(), span: span.map(duration), execute: *execute };
            (session.call("lease renew", client.renew(asked)).await?, *execute)
        }
        LeaseCommand::Release { node, execute } => {
            let asked = v1::ReleaseLeaseRequest { node: node.clone(), execute: *execute };
            (session.call("lease release", client.release(asked)).await?, *execute)
        }
    };
    cx.console.emit(cx.global.format, &LeaseDone { dry_run: !execute, done: answer.done }, |view, _| format!("{}\n", view.done))?;
    if !execute {
        cx.last("DRY RUN: nothing was changed, add --execute")?;
    }
    Ok(Exit::Done)
}
