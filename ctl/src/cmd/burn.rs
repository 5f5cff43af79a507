//! `burn`.

use std::path::Path;

use metis_proto::v1;
use metis_proto::v1::card_client::CardClient;

use super::Context;
use crate::args::{BurnArgs, Format};
use crate::card_stream::{self, ImageDoneView, Order};
use crate::errors::CtlError;
use crate::exit::Exit;
use crate::follow::Follow;
use crate::image_file::Purpose;
use crate::interrupt::Interrupts;
use crate::session::Session;
use crate::target::{self, Target};
use crate::view::card::CardPlanView;
use crate::view::plan::PlanView;

/// Writes a card: the daemon to a device, this client to a file.
pub async fn run(args: &BurnArgs, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    let spec = cx.spec(&args.card)?;
    let target = target::classify(&args.target.device)?;
    let session = Session::open(cx.global).await?;
    match target {
        Target::Device(device) => {
            let request = v1::BurnRequest { spec: Some(spec), device, execute: args.yes, allow_fixed: args.target.allow_fixed };
            to_device(&session, request, cx).await
        }
        Target::File(path) => to_file(&session, spec, &path, args.yes, cx).await,
    }
}

async fn to_device(session: &Session, request: v1::BurnRequest, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    let execute = request.execute;
    let what = format!("burn {} to {}", request.spec.as_ref().map_or("", |s| &s.node), request.device);
    let mut interrupts = if execute { Some(Interrupts::listen()?) } else { None };
    let mut client = CardClient::new(session.channel.clone());
    let call = session.call(&what, client.burn(request));
    let answer = match &mut interrupts {
        None => call.await?,
        Some(interrupts) => tokio::select! {
            () = interrupts.next() => return Err(left_early(session)),
            answer = call => answer?,
        },
    };
    let plan = PlanView::from(answer.plan.unwrap_or_default());
    let Some(interrupts) = &mut interrupts else {
        return cx.dry_run(&CardPlanView { dry_run: true, plan, device: None, card: None }, "add --yes");
    };
    cx.console.note(&format!("{}: {}{}", answer.run, plan.title, plan.remarks(&cx.console.look(None))));
    let (run, exit) = Follow::new(session, &answer.run, 0, None).until_ended(interrupts, cx.console).await?;
    cx.console.emit(cx.global.format, &run, |r, _| r.outcome())?;
    Ok(exit)
}

fn left_early(session: &Session) -> CtlError {
    CtlError::Interrupted(format!("left before metisd answered; `metisctl{} run` shows whether a burn was started", session.flags))
}

async fn to_file(session: &Session, spec: v1::CardSpec, path: &Path, yes: bool, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    let order = Order { spec, purpose: Purpose::Card, path };
    if !yes {
        let view = card_stream::dry_run(session, &order).await?;
        return cx.dry_run(&view, "add --yes");
    }
    let guards = target::file_guards(path, 0)?;
    if !guards.is_empty() {
        return Err(CtlError::Refused { what: format!("burn {} to {}", order.spec.node, path.display()), guards });
    }
    let (view, exit) = card_stream::execute(session, &order, cx.console).await?;
    cx.console.emit(cx.global.format, &view, ImageDoneView::table)?;
    if exit == Exit::Done && cx.global.format == Format::Table {
        cx.console.note("a file stands in for the card: nothing to insert");
    }
    Ok(exit)
}
