//! `plan`.

use metis_proto::v1;
use metis_proto::v1::card_client::CardClient;

use super::Context;
use crate::args::PlanArgs;
use crate::card_stream::{self, Order};
use crate::errors::CtlError;
use crate::exit::Exit;
use crate::image_file::Purpose;
use crate::session::Session;
use crate::target::{self, Target};
use crate::view::card::CardPlanView;

/// Shows what `burn` with the same flags would do.
pub async fn run(args: &PlanArgs, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    let spec = cx.spec(&args.card)?;
    let target = target::classify(&args.target.device)?;
    let session = Session::open(cx.global).await?;
    let view = match target {
        Target::Device(device) => {
            let request = v1::CardPlanRequest { spec: Some(spec), device, allow_fixed: args.target.allow_fixed };
            let answer = session.call("plan", CardClient::new(session.channel.clone()).plan(request)).await?;
            CardPlanView {
                dry_run: true,
                plan: answer.plan.unwrap_or_default().into(),
                device: answer.device.map(Into::into),
                card: answer.card.map(Into::into),
            }
        }
        Target::File(path) => card_stream::dry_run(&session, &Order { spec, purpose: Purpose::Card, path: &path }).await?,
    };
    let burn = format!("metisctl{} burn --node {} --device {} --yes", session.flags, args.card.node, args.target.device.display());
    cx.dry_run(&view, &format!("do it with `{burn}`"))
}
