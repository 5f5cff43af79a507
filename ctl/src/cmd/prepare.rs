//! `prepare`.

use metis_proto::v1;
use metis_proto::v1::prepare_client::PrepareClient;

use super::Context;
use crate::errors::CtlError;
use crate::exit::Exit;
use crate::session::Session;
use crate::view::prepare::PrepareView;

/// Shows all findings; a problem among them is exit code 1.
pub async fn run(cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    let session = Session::open(cx.global).await?;
    let answer = session.call("prepare", PrepareClient::new(session.channel.clone()).look(v1::LookRequest {})).await?;
    let view = PrepareView::from(answer);
    cx.console.emit(cx.global.format, &view, PrepareView::table)?;
    Ok(if view.green { Exit::Done } else { Exit::Failed })
}
