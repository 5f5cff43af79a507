//! An outage on a simulated UPS, until the trigger is decided.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use metis_proto::v1;
use metis_proto::v1::status_client::StatusClient;
use metis_proto::v1::ups_client::UpsClient;

use crate::app::say;
use crate::sim::NutServer;

/// The domain whose mains fail.
const DOMAIN: &str = "pyrphoros";

/// Switches the mains off and follows until the trigger; what was decided, in one line.
pub async fn play(nut: &NutServer, socket: &Path) -> anyhow::Result<String> {
    let mut client = UpsClient::new(metis_proto::connect(socket, Duration::from_secs(5)).await?);
    nut.set_mains(DOMAIN, false);
    let until = Instant::now() + Duration::from_secs(90);
    let mut shown = String::new();
    while Instant::now() < until {
        let list = client.list(v1::ListUpsRequest {}).await?.into_inner();
        let domain = list.domains.into_iter().find(|d| d.name == DOMAIN).context("the domain is gone")?;
        let line = describe(&domain, list.upses.iter().find(|u| u.name.starts_with(DOMAIN)));
        if line != shown {
            say(&line);
            shown = line;
        }
        if let Some(trigger) = &domain.trigger {
            return Ok(decided(&domain, trigger));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    bail!("no trigger within 90 s; the last word was: {shown}")
}

/// Waits until every simulated UPS was heard from.
pub async fn heard(socket: &Path) -> anyhow::Result<()> {
    let mut client = UpsClient::new(metis_proto::connect(socket, Duration::from_secs(5)).await?);
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        let list = client.list(v1::ListUpsRequest {}).await?.into_inner();
        if list.upses.iter().all(|u| u.last_heard.is_some()) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the simulated UPSes were not heard from within 10 s")
}

/// Facts in the journal.
pub async fn facts(socket: &Path) -> anyhow::Result<u64> {
    let mut client = StatusClient::new(metis_proto::connect(socket, Duration::from_secs(5)).await?);
    Ok(client.get(v1::GetStatusRequest {}).await?.into_inner().journal.unwrap_or_default().facts)
}

fn describe(domain: &v1::Domain, ups: Option<&v1::UpsState>) -> String {
    let status = ups.map(|u| u.status.join(" ")).unwrap_or_default();
    let charge = ups.and_then(|u| u.charge).map_or_else(|| "?".to_owned(), |c| format!("{c:.0} %"));
    let minutes = |d: Option<&prost_types::Duration>| d.map_or_else(|| "?".to_owned(), |d| format!("{:.1} min", d.seconds as f64 / 60.0));
    let trigger = domain.would_trigger.map_or_else(String::new, |at| format!("  would trigger at {}", clock(at)));
    format!(
        "{status:<12} charge {charge:>5}  runtime {:>9}  a shutdown needs {:>8}  margin {:>9}{trigger}",
        minutes(domain.runtime.as_ref()),
        minutes(domain.budget.as_ref()),
        minutes(domain.margin.as_ref()),
    )
}

/// What would be shut down, and when.
fn decided(domain: &v1::Domain, trigger: &v1::Trigger) -> String {
    let at = trigger.at.map(clock).unwrap_or_default();
    let line = format!("DISARMED: would have acted at {at} because {}", trigger.because);
    say(&line);
    say(&format!("would be shut down at {at}, this domain alone: {}", domain.nodes.join(", ")));
    line
}

fn clock(at: prost_types::Timestamp) -> String {
    let zone = jiff::tz::TimeZone::system();
    jiff::Timestamp::new(at.seconds, at.nanos).map_or_else(|_| String::new(), |t| t.to_zoned(zone).strftime("%H:%M:%S").to_string())
}
