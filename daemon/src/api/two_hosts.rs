//! Service Peer: what the other metis host asks, and what this one knows of it.

use jiff::SignedDuration;
use metis_proto::v1;
use metis_proto::v1::peer_server::Peer;
use tonic::{Request, Response, Status};

use super::authz::Admitted;
use super::card::plan_status;
use super::port::{PeerFacts, StartupQuestion, Who};
use super::power::{startup_question, startup_target};
use super::{Context, convert};
use crate::peer::words;
use crate::runbook::Runbook;
use crate::site::{Answer, Asker, Now, Step};

/// The service.
pub(super) struct PeerService(pub(super) Context);

impl Context {
    /// Who runs a start-up, and its plan with what the other host says to it.
    pub(super) async fn startup_plan(
        &self,
        question: StartupQuestion,
        asker: Asker,
        execute: bool,
    ) -> Result<(Who, Runbook<Step>), Status> {
        let who = self.peers.who(&question, asker, execute).await;
        let mut runbook = self.power.plan_startup(question).await.map_err(plan_status)?;
        runbook.refusals.extend(who.guard.clone());
        runbook.warnings.extend(who.said.iter().cloned());
        Ok((who, runbook))
    }

    /// Run and host.
    pub(super) async fn hand_over(&self, startup: v1::StartupRequest, requester: String) -> Result<(String, String), Status> {
        let (host, run) = self.peers.hand_over(startup, requester).await.map_err(plan_status)?;
        Ok((run, host))
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn ask(&self, request: Request<v1::PeerWord>) -> Result<Response<v1::PeerWord>, Status> {
        Admitted::of(&request)?;
        let own = self.0.peers.told(words::read(request.into_inner())).await;
        Ok(Response::new(words::write(&own)))
    }

    async fn hand_over(&self, request: Request<v1::HandOverRequest>) -> Result<Response<v1::HandOverResponse>, Status> {
        let caller = Admitted::of(&request)?;
        let v1::HandOverRequest { from, requester, startup } = request.into_inner();
        let startup = startup.ok_or_else(|| Status::invalid_argument("a start-up that is handed over has to be given"))?;
        let question = startup_question(startup)?;
        self.0.audit(&caller, "Peer.HandOver", &format!("{}, for {requester} at {from}", startup_target(&question))).await?;
        let (who, runbook) = self.0.startup_plan(question, Asker::OtherHost, true).await?;
        if who.hand_over {
            return Err(Status::failed_precondition("this host hands its own start-ups over: of two hosts one is the coordinator"));
        }
        let requester = format!("{requester} at {from}, through {}", caller.caller.label());
        let run = self.0.begin_startup(requester, &runbook).await?.to_string();
        Ok(Response::new(v1::HandOverResponse { run }))
    }
}

/// The other host, for `status`.
pub(super) fn status(peer: PeerFacts, now: &Now) -> v1::PeerStatus {
    let ago = |age| SignedDuration::try_from(age).ok().and_then(|age| now.wall.checked_sub(age).ok()).map(convert::timestamp);
    let (answer, asked) = peer.answer.map_or((None, None), |(answer, age)| (Some(answer), ago(age)));
    let (host_role, intents) = match &answer {
        Some(Answer::Said(word)) => (word.role.clone(), word.intents.iter().map(words::intent).collect()),
        _ => (String::new(), Vec::new()),
    };
    v1::PeerStatus {
        name: peer.name,
        reach: answer.as_ref().map(|answer| answer.name().to_owned()).unwrap_or_default(),
        why: answer.as_ref().and_then(|answer| answer.why()).unwrap_or_default().to_owned(),
        asked,
        heard: peer.heard.map(convert::duration),
        host_role,
        intents,
        lease: peer.lease.unwrap_or_default(),
    }
}
