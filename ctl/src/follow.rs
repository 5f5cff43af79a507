//! Following a run of the daemon until it ends. The run is the daemon's: losing it here does not end it.

use std::time::{Duration, Instant};

use metis_proto::v1;
use metis_proto::v1::runs_client::RunsClient;
use tonic::{Code, Status, Streaming};

use crate::args::Format;
use crate::errors::CtlError;
use crate::exit::Exit;
use crate::interrupt::Interrupts;
use crate::output::Console;
use crate::progress::Meter;
use crate::session::Session;
use crate::view::run::{self, EventView, RunView};

const RETRY: Duration = Duration::from_millis(500);

/// A run that is followed.
pub struct Follow<'a> {
    session: &'a Session,
    id: String,
    seq: u64,
    /// Events are the result (`run watch`) and printed in this format; else they are only shown to people.
    events: Option<Format>,
    /// How it ended, where that was heard.
    end: Option<v1::RunEvent>,
}

enum Ended {
    /// The stream ended as it should.
    Stream,
    Broken(Status),
    Interrupted,
}

impl<'a> Follow<'a> {
    /// Follows `id` after journal position `seq`.
    pub fn new(session: &'a Session, id: &str, seq: u64, events: Option<Format>) -> Self {
        Self { session, id: id.to_owned(), seq, events, end: None }
    }

    /// Returns the run as it ended.
    ///
    /// # Errors
    /// Ctrl-C (the run goes on), a connection that is lost for longer than the time limit, an unknown run.
    pub async fn until_ended(mut self, interrupts: &mut Interrupts, console: &mut Console<'_>) -> Result<(RunView, Exit), CtlError> {
        let mut meter = Meter::new(console);
        let mut heard = Instant::now();
        loop {
            let before = self.seq;
            let ended = self.stream(interrupts, &mut meter, console).await?;
            meter.clear();
            match ended {
                Ended::Interrupted => return Err(self.detached()),
                Ended::Stream => {
                    let found = self.session.call("run get", RunsClient::new(self.session.channel.clone()).get(self.get())).await;
                    if let Some(run) = found.ok().and_then(|r| r.run)
                        && let Some(exit) = run::exit(run.phase)
                    {
                        return Ok((run.into(), exit));
                    }
                    // A daemon that stops says how its runs ended, and answers nothing more.
                    if let Some((event, exit)) = self.end.take().and_then(|e| run::exit(e.phase).map(|exit| (e, exit))) {
                        return Ok((RunView::ended_with(event), exit));
                    }
                }
                Ended::Broken(status) if fatal(&status) => return Err(CtlError::rpc(&format!("run watch {}", self.id), status)),
                Ended::Broken(status) if heard.elapsed() > self.session.timeout => return Err(self.lost(&status)),
                Ended::Broken(_) => (),
            }
            if self.seq > before {
                heard = Instant::now();
            }
            if heard.elapsed() > self.session.timeout {
                return Err(self.lost(&Status::unavailable("its stream ends before the run does")));
            }
            tokio::select! {
                () = interrupts.next() => return Err(self.detached()),
                () = tokio::time::sleep(RETRY) => (),
            }
        }
    }

    async fn stream(&mut self, interrupts: &mut Interrupts, meter: &mut Meter, console: &mut Console<'_>) -> Result<Ended, CtlError> {
        let mut client = RunsClient::new(self.session.channel.clone());
        let opening = client.watch(v1::WatchRunRequest { id: self.id.clone(), from_seq: self.seq });
        let opened = tokio::select! {
            () = interrupts.next() => return Ok(Ended::Interrupted),
            opened = tokio::time::timeout(self.session.timeout, opening) => opened,
        };
        let mut events = match opened {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Ok(Ended::Broken(status)),
            Err(_) => return Ok(Ended::Broken(Status::deadline_exceeded("no answer"))),
        };
        loop {
            match next(&mut events, interrupts).await {
                Ok(event) => self.show(event, meter, console)?,
                Err(ended) => return Ok(ended),
            }
        }
    }

    fn show(&mut self, event: v1::RunEvent, meter: &mut Meter, console: &mut Console<'_>) -> Result<(), CtlError> {
        self.seq = self.seq.max(event.seq);
        if event.kind == "run.ended" {
            self.end = Some(event.clone());
        }
        if let Some(format @ (Format::Json | Format::Yaml)) = self.events {
            return console.emit_one_of_many(format, &EventView::from(event), super::view::run::EventView::line);
        }
        show(event, self.events.is_some(), meter, console)
    }

    fn get(&self) -> v1::GetRunRequest {
        v1::GetRunRequest { id: self.id.clone() }
    }

    fn again(&self) -> String {
        format!("`metisctl{} run watch {} --from-seq {}`", self.session.flags, self.id, self.seq)
    }

    fn detached(&self) -> CtlError {
        CtlError::Interrupted(format!("detached: {} goes on in metisd; attach again with {}", self.id, self.again()))
    }

    fn lost(&self, status: &Status) -> CtlError {
        CtlError::Lost(format!(
            "lost metisd while {} was running ({}); the run is the daemon's: when it answers again, attach with {}",
            self.id,
            status.message(),
            self.again()
        ))
    }
}

/// Shows an event to people: progress on the meter; the rest on standard output where it is the result, else on standard error.
pub fn show(event: v1::RunEvent, is_result: bool, meter: &mut Meter, console: &mut Console<'_>) -> Result<(), CtlError> {
    if let Some(p) = &event.progress {
        meter.update(console, &p.stage, p.done_bytes, p.total_bytes);
        return Ok(());
    }
    let line = EventView::from(event).line(&console.look(None));
    meter.aside(|| {
        if is_result {
            return console.say(&line);
        }
        console.note(&line);
        Ok(())
    })
}

async fn next(events: &mut Streaming<v1::RunEvent>, interrupts: &mut Interrupts) -> Result<v1::RunEvent, Ended> {
    tokio::select! {
        () = interrupts.next() => Err(Ended::Interrupted),
        message = events.message() => match message {
            Ok(Some(event)) => Ok(event),
            Ok(None) => Err(Ended::Stream),
            Err(status) => Err(Ended::Broken(status)),
        },
    }
}

/// Asking again would not help.
fn fatal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::NotFound | Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument | Code::Unimplemented | Code::OutOfRange
    )
}
