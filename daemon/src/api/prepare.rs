//! Service Prepare: whether the site is prepared for a bad day.

use metis_proto::v1;
use metis_proto::v1::prepare_server::Prepare;
use tonic::{Request, Response, Status};

use super::authz::Admitted;
use super::card::plan_status;
use super::port::InventoryQuestion;
use super::{Context, Role, convert};
use crate::control::{self, Reply};
use crate::prepare::{Finding, Level, is_green};

/// The service.
pub(super) struct PrepareService(pub(super) Context);

fn level(level: Level) -> v1::FindingLevel {
    match level {
        Level::Ok => v1::FindingLevel::Ok,
        Level::Warning => v1::FindingLevel::Warning,
        Level::Problem => v1::FindingLevel::Problem,
        Level::CannotTell => v1::FindingLevel::CannotTell,
    }
}

fn finding(finding: &Finding) -> v1::Finding {
    v1::Finding {
        name: finding.name.clone(),
        level: level(finding.level).into(),
        message: finding.message.clone(),
        at: finding.at.map(convert::timestamp),
        fix: finding.fix.clone().unwrap_or_default(),
    }
}

/// 0: not said.
fn number<T: TryFrom<u32>>(value: u32, name: &str, most: u32) -> Result<Option<T>, Status> {
    if value > most {
        return Err(Status::invalid_argument(format!("{name} is at most {most}")));
    }
    Ok(T::try_from(value).ok().filter(|_| value > 0))
}

#[tonic::async_trait]
impl Prepare for PrepareService {
    async fn inventory(&self, request: Request<v1::InventoryRequest>) -> Result<Response<v1::InventoryResponse>, Status> {
        Admitted::of(&request)?;
        let v1::InventoryRequest { ssh_port, network_prefix } = request.into_inner();
        let question =
            InventoryQuestion { ssh_port: number(ssh_port, "ssh_port", 65_535)?, prefix: number(network_prefix, "network_prefix", 128)? };
        let drafted = self.0.prepare.inventory(question).await.map_err(plan_status)?;
        Ok(Response::new(v1::InventoryResponse { yaml: drafted.yaml, notes: drafted.notes }))
    }

    async fn look(&self, request: Request<v1::LookRequest>) -> Result<Response<v1::LookResponse>, Status> {
        let caller = Admitted::of(&request)?;
        let looked = self.0.prepare.look(caller.caller.label()).await.map_err(plan_status)?;
        // Who may not act does not decide what others go by.
        let recorded = caller.role >= Some(Role::Maintenance);
        if recorded {
            match self.0.ask(control::Request::Prepared(looked.record)).await? {
                Reply::Noted => {}
                other => return Err(Status::internal(format!("unexpected answer to a look at the preparations: {other:?}"))),
            }
        }
        Ok(Response::new(v1::LookResponse {
            green: is_green(&looked.findings),
            findings: looked.findings.iter().map(finding).collect(),
            recorded,
            at: Some(convert::timestamp((self.0.now)().wall)),
        }))
    }
}
