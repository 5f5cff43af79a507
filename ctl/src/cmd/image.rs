//! `image`.

use super::Context;
use crate::args::ImageArgs;
use crate::card_stream::{self, ImageDoneView, Order};
use crate::errors::CtlError;
use crate::exit::Exit;
use crate::image_file::Purpose;
use crate::session::Session;
use crate::target;

/// Makes an image file.
pub async fn run(args: &ImageArgs, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    let spec = cx.spec(&args.card)?;
    target::check_output(&args.output)?;
    let session = Session::open(cx.global).await?;
    let order = Order { spec, purpose: Purpose::Image, path: &args.output };
    if !args.execute {
        let view = card_stream::dry_run(&session, &order).await?;
        return cx.dry_run(&view, "add --execute");
    }
    let (view, exit) = card_stream::execute(&session, &order, cx.console).await?;
    cx.console.emit(cx.global.format, &view, ImageDoneView::table)?;
    Ok(exit)
}
