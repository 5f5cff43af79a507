//! Where a standalone shutdown is recorded, and why the state directory cannot be had.

use std::time::Duration;

use anyhow::Context as _;
use metis_proto::v1;

use crate::app::args::StandaloneArguments;
use crate::app::{complain, daemon};
use crate::config::Settings;
use crate::host::clock::Clock;
use crate::journal::{OpenError, Opened, UpsHistory};

/// A state directory that is not opened within this time hangs.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// A daemon that does not answer within this time hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Where the run is recorded.
pub struct Ground {
    pub opened: Opened,
    pub history: UpsHistory,
    pub _temporary: Option<tempfile::TempDir>,
}

/// Why the state directory cannot be had.
pub enum Refusal {
    /// For people, with what to do.
    Refused(String),
    Failed(anyhow::Error),
}

impl Ground {
    /// Opens the state directory of `settings`. A dry run gets one of its own, and with `--beside` one below the runtime directory stands
    /// in for it; `settings` then say so, and whatever is stored goes there.
    pub fn find(
        arguments: &StandaloneArguments,
        settings: &mut Settings,
        clock: &Clock,
        runtime: &tokio::runtime::Runtime,
    ) -> Result<Self, Refusal> {
        let temporary = if arguments.shutdown.execute {
            None
        } else {
            Some(tempfile::tempdir().context("a folder for the dry run").map_err(Refusal::Failed)?)
        };
        let mut spill = settings.daemon.runtime_dir.clone();
        if let Some(temporary) = &temporary {
            settings.daemon.state_dir = temporary.path().join("state");
            spill = temporary.path().to_path_buf();
        } else if arguments.beside {
            spill = settings.daemon.runtime_dir.join("standalone");
            settings.daemon.state_dir = spill.join("state");
            complain(&format!("beside a metisd that hangs: this run is recorded below {} only", spill.display()));
        }
        let (mut opened, clock) = (settings.clone(), clock.clone());
        // The word for the shutdown hook stays where the hook looks for it.
        opened.daemon.runtime_dir = spill;
        let open = move || -> anyhow::Result<(Opened, UpsHistory)> {
            std::fs::create_dir_all(&opened.daemon.runtime_dir).context("making the runtime directory")?;
            let journal = daemon::open_journal(&opened, &clock)?;
            let (history, _) = UpsHistory::open(&opened.daemon.state_dir, &clock.now()).context("opening the UPS history")?;
            Ok((journal, history))
        };
        match within(OPEN_WITHIN, open) {
            None => Err(Refusal::Refused(format!(
                "{} does not answer within {} s: its disk hangs. To go on without it: add --beside",
                settings.daemon.state_dir.display(),
                OPEN_WITHIN.as_secs()
            ))),
            Some(Ok((opened, history))) => Ok(Self { opened, history, _temporary: temporary }),
            Some(Err(error)) => match error.downcast_ref::<OpenError>() {
                Some(OpenError::Held { pid, .. }) => {
                    let socket = &settings.api.socket;
                    Err(Refusal::Refused(held(*pid, socket, runtime.block_on(answers(socket)))))
                }
                _ => Err(Refusal::Failed(error)),
            },
        }
    }
}

/// What it gives, unless it takes longer; then it is left to its fate.
fn within<T: Send + 'static>(limit: Duration, what: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, result) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = done.send(what());
    });
    result.recv_timeout(limit).ok()
}

/// Whether the metisd behind that socket serves.
async fn answers(socket: &std::path::Path) -> bool {
    let ask = async {
        let channel = metis_proto::connect(socket, ANSWER_WITHIN).await.ok()?;
        v1::status_client::StatusClient::new(channel).get(v1::GetStatusRequest {}).await.ok()
    };
    tokio::time::timeout(ANSWER_WITHIN, ask).await.ok().flatten().is_some()
}

/// Why the state directory cannot be had, and what to do.
fn held(pid: Option<u32>, socket: &std::path::Path, answers: bool) -> String {
    let holder = pid.map_or_else(|| "a metisd".to_owned(), |pid| format!("metisd (process {pid})"));
    let socket = socket.display();
    if answers {
        return format!(
            "refused: {holder} runs and answers on {socket}: use `metisctl shutdown`, or stop it first (`systemctl stop metisd`)"
        );
    }
    let kill = pid.map_or_else(String::new, |pid| format!(", or without systemd `kill -9 {pid}`"));
    format!(
        "refused: {holder} holds the state directory and does not answer on {socket} within {} s. Either end it, then run this again: \
         `systemctl kill --signal=KILL metisd.service; systemctl stop metisd.socket metisd.service`{kill}. Or go on beside it with \
         --beside: this run is then recorded in the runtime directory only, and the hung one must not wake up",
        ANSWER_WITHIN.as_secs()
    )
}
