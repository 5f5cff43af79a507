//! `config`.

use anyhow::Context as _;
use metis_proto::v1;
use metis_proto::v1::card_client::CardClient;

use super::Context;
use crate::args::{Format, NodeArgs};
use crate::errors::CtlError;
use crate::exit::Exit;
use crate::output::yaml;
use crate::session::Session;

/// Shows the merged node, secrets masked: YAML unless JSON is asked for.
pub async fn run(args: &NodeArgs, cx: &mut Context<'_, '_>) -> Result<Exit, CtlError> {
    let session = Session::open(cx.global).await?;
    let spec = v1::CardSpec { node: args.node.clone(), ..v1::CardSpec::default() };
    let mut client = CardClient::new(session.channel.clone());
    let answer = session.call("config", client.config(v1::CardConfigRequest { spec: Some(spec) })).await?;
    let value: serde_json::Value = serde_json::from_str(&answer.json).context("metisd's answer is not JSON")?;
    let text = match cx.global.format {
        Format::Json => serde_json::to_string_pretty(&value).context("cannot print as JSON")?,
        Format::Table | Format::Yaml => yaml(&value)?,
    };
    cx.console.say(text.trim_end())?;
    Ok(Exit::Done)
}
