//! `device`.

use metis_proto::v1;
use metis_proto::v1::card_client::CardClient;

use super::Context;
use crate::args::{DeviceArgs, DeviceCommand};
use crate::errors::CtlError;
use crate::exit::Exit;
use crate::session::Session;
use crate::view::card::DevicesView;

/// Lists the devices of the daemon's host.
pub async fn run(args: &DeviceArgs, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    match args.command {
        None | Some(DeviceCommand::List) => (),
    }
    let session = Session::open(cx.global).await?;
    let mut client = CardClient::new(session.channel.clone());
    let listed = session.call("device", client.devices(v1::ListDevicesRequest {})).await?;
    let view = DevicesView { devices: listed.devices.into_iter().map(Into::into).collect() };
    cx.console.emit(cx.global.format, &view, super::super::view::card::DevicesView::table)?;
    Ok(Exit::Done)
}
