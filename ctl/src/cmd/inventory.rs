//! `inventory`.

use metis_proto::v1;
use metis_proto::v1::prepare_client::PrepareClient;
use serde::Serialize;

use super::Context;
use crate::args::{Format, InventoryArgs, InventoryCommand};
use crate::errors::CtlError;
use crate::exit::Exit;
use crate::session::Session;

/// Answer of `inventory import`.
#[derive(Serialize)]
struct DraftView {
    /// inventory.yaml.
    inventory: String,
    /// What a person should know first.
    notes: Vec<String>,
}

/// Prints the draft; what a person should know goes to standard error.
pub async fn run(args: &InventoryArgs, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    let InventoryCommand::Import { ssh_port, network_prefix } = args.command;
    let session = Session::open(cx.global).await?;
    let asked = v1::InventoryRequest { ssh_port: ssh_port.into(), network_prefix: network_prefix.into() };
    let answer = session.call("inventory import", PrepareClient::new(session.channel.clone()).inventory(asked)).await?;
    let view = DraftView { inventory: answer.yaml, notes: answer.notes };
    cx.console.emit(cx.global.format, &view, |view, _| view.inventory.clone())?;
    if cx.global.format == Format::Table {
        view.notes.iter().for_each(|note| cx.console.note(note));
    }
    Ok(Exit::Done)
}
