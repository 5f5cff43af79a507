//! Logs: the journal with structured fields under systemd, readable text on a terminal.
//!
//! A field `metis.run` becomes `METIS_RUN` in the journal, `message_id` becomes `MESSAGE_ID` (systemd.journal-fields(7)).

use anyhow::Context;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::host::service_manager;

/// Installs the log for this process. `METIS_LOG` overrides the level, e.g. `METIS_LOG=debug`.
///
/// # Errors
/// Where a log is installed already, or `METIS_LOG` is no filter.
pub fn install(default_level: &str) -> anyhow::Result<()> {
    // kube logs each 5xx as an error of its own, without saying of what; whoever called says it better.
    let text =
        std::env::var("METIS_LOG").unwrap_or_else(|_| format!("{default_level},h2=warn,hyper=warn,kube_client=off,tonic=warn,rustls=warn"));
    let filter = EnvFilter::try_new(&text).with_context(|| format!("METIS_LOG={text} is not a log filter"))?;
    let journal = service_manager::stderr_is_journal().then(journald).transpose()?;
    let terminal = journal.is_none().then(|| {
        let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(ansi).boxed()
    });
    tracing_subscriber::registry().with(filter).with(journal).with(terminal).try_init().context("cannot install the log")
}

fn journald() -> anyhow::Result<tracing_journald::Layer> {
    let layer = tracing_journald::layer().context("cannot reach journald's socket")?;
    Ok(layer.with_field_prefix(None).with_syslog_identifier("metisd".to_owned()).with_priority_mappings(PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        ..PriorityMappings::new()
    }))
}
