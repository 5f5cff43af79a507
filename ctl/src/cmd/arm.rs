//! `arm` and `disarm`.

use metis_proto::v1;
use metis_proto::v1::power_client::PowerClient;

use super::Context;
use crate::args::{ArmArgs, Format};
use crate::errors::CtlError;
use crate::exit::Exit;
use crate::session::Session;
use crate::view::arm::{ArmView, DisarmView};

/// Arms, or says what stands against it.
pub async fn arm(args: &ArmArgs, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    let session = Session::open(cx.global).await?;
    let request = v1::ArmRequest { mode: super::mode(args.mode).into(), execute: !args.check };
    let answer = session.call("arm", PowerClient::new(session.channel.clone()).arm(request)).await?;
    let view = ArmView::new(answer, args.check);
    cx.console.emit(cx.global.format, &view, ArmView::table)?;
    if args.check && cx.global.format == Format::Table {
        cx.last("nothing was changed")?;
    }
    Ok(if view.refusals.is_empty() { Exit::Done } else { Exit::Refused })
}

/// Disarms.
pub async fn disarm(cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    let session = Session::open(cx.global).await?;
    let answer = session.call("disarm", PowerClient::new(session.channel.clone()).disarm(v1::DisarmRequest {})).await?;
    let view = DisarmView::new(answer, &session.flags);
    cx.console.emit(cx.global.format, &view, DisarmView::table)?;
    Ok(Exit::Done)
}
