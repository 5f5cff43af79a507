//! One file a command: ask, call, print.

pub mod arm;
pub mod burn;
pub mod completions;
pub mod config;
pub mod device;
pub mod image;
pub mod inventory;
pub mod lease;
pub mod man;
pub mod plan;
pub mod prepare;
pub mod run;
pub mod shutdown;
pub mod startup;
pub mod status;
pub mod ups;

use std::ffi::OsString;

use metis_proto::v1;

use crate::args::{CardArgs, Format, Global, Mode};
use crate::errors::CtlError;
use crate::exit::Exit;
use crate::follow::Follow;
use crate::human::Look;
use crate::image_env;
use crate::interrupt::Interrupts;
use crate::output::Console;
use crate::session::Session;
use crate::view::card::CardPlanView;
use crate::view::plan::PlanView;
use crate::view::run::RunView;

/// What every command gets.
pub struct Context<'a, 'c> {
    /// Flags of every command.
    pub global: &'a Global,
    /// The environment, for METIS_IMAGE_….
    pub env: Vec<(OsString, OsString)>,
    /// Where it prints.
    pub console: &'a mut Console<'c>,
}

impl Context<'_, '_> {
    /// The card that the flags and the environment describe.
    fn spec(&self, card: &CardArgs) -> Result<v1::CardSpec, CtlError> {
        let overrides = image_env::read(&self.env)?;
        Ok(v1::CardSpec {
            node: card.node.clone(),
            image_override: overrides.images,
            sha256_override: overrides.sha256,
            no_inject: card.no_inject,
        })
    }

    /// Ends a dry run: the plan, and how to do it. A plan that would be refused is exit code 3.
    fn dry_run(&mut self, view: &CardPlanView, last: &str) -> Result<Exit, CtlError> {
        self.console.emit(self.global.format, view, super::view::card::CardPlanView::table)?;
        self.end_dry_run(&view.plan, last)
    }

    /// Its last line.
    fn end_dry_run(&mut self, plan: &PlanView, last: &str) -> Result<Exit, CtlError> {
        let refused = !plan.refusals.is_empty();
        let last = if refused { "; it would be refused".to_owned() } else { format!(", {last}") };
        self.last(&format!("DRY RUN: nothing was changed{last}"))?;
        Ok(if refused { Exit::Refused } else { Exit::Done })
    }

    /// A closing line that must not spoil JSON or YAML.
    fn last(&mut self, line: &str) -> Result<(), CtlError> {
        match self.global.format {
            Format::Table => self.console.say(&format!("\n{line}")),
            Format::Json | Format::Yaml => {
                self.console.note(line);
                Ok(())
            }
        }
    }
}

/// The mode as the API says it.
fn mode(mode: Option<Mode>) -> v1::ShutdownMode {
    match mode {
        None => v1::ShutdownMode::Unspecified,
        Some(Mode::ClusterOnly) => v1::ShutdownMode::ClusterOnly,
        Some(Mode::HostPoweroff) => v1::ShutdownMode::HostPoweroff,
    }
}

/// Waits for the answer of what begins something.
async fn answered<A>(what: &str, call: impl Future<Output = Result<A, CtlError>>, session: &Session) -> Result<A, CtlError> {
    let mut interrupts = Interrupts::listen()?;
    let left = || format!("left before metisd answered; `metisctl{} run` shows whether a {what} was started", session.flags);
    tokio::select! {
        () = interrupts.next() => Err(CtlError::Interrupted(left())),
        answer = call => answer,
    }
}

/// Begins a run by `call`, whose answer is its id and what a person reads first, follows it to its end, and says where its report is.
async fn execute<A>(
    what: &str,
    call: impl Future<Output = Result<A, CtlError>>,
    session: &Session,
    cx: &mut Context<'_, '_>,
    begun: impl FnOnce(A, &str, &Look) -> (String, String),
) -> Result<Exit, CtlError> {
    let mut interrupts = Interrupts::listen()?;
    let left = || format!("left before metisd answered; `metisctl{} run` shows whether a {what} was started", session.flags);
    let answer = tokio::select! {
        () = interrupts.next() => return Err(CtlError::Interrupted(left())),
        answer = call => answer?,
    };
    let (run, headline) = begun(answer, &session.flags, &cx.console.look(None));
    cx.console.note(&headline);
    let (run, exit) = Follow::new(session, &run, 0, None).until_ended(&mut interrupts, cx.console).await?;
    cx.console.emit(cx.global.format, &run, |r, _| RunView::ending(r))?;
    if cx.global.format == Format::Table {
        cx.console.note(&format!("its report: `metisctl{} run show {}`", session.flags, run.id));
    }
    Ok(exit)
}
