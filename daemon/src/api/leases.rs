//! Service Leases: cordons that metis placed.

use std::time::Duration;

use jiff::SignedDuration;
use metis_proto::v1;
use metis_proto::v1::leases_server::Leases;
use tonic::{Request, Response, Status};

use super::authz::Admitted;
use super::card::plan_status;
use super::port::PlanError;
use super::{Context, Role, convert};
use crate::control::ClaimRecord;
use crate::site::Change;

/// A person's renewal lasts no longer: a cordon that nobody looks at for longer is a cordon that was forgotten.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// The service.
pub(super) struct LeasesService(pub(super) Context);

impl Context {
    pub(super) fn cordons(&self) -> Vec<ClaimRecord> {
        let view = self.handle.view();
        view.claims.iter().filter(|record| record.claim.change == Change::Cordoned).cloned().collect()
    }

    /// The lease on a node.
    fn cordon(&self, node: &str) -> Result<ClaimRecord, Status> {
        let found = self.cordons().into_iter().find(|record| record.claim.object.name == node);
        found
            .ok_or_else(|| Status::not_found(format!("metis holds no cordon on {node:?}; `metisctl lease list` shows those that it holds")))
    }

    pub(super) fn lease(&self, record: &ClaimRecord) -> v1::Lease {
        let view = self.handle.view();
        let reason = view.run(record.run.as_str()).map(|run| run.run.book.title.clone());
        v1::Lease {
            node: record.claim.object.name.clone(),
            run: record.run.to_string(),
            step: record.step.to_string(),
            reason: reason.unwrap_or_default(),
            placed: Some(convert::timestamp(record.at)),
            expires: record.claim.expires.map(convert::timestamp),
            manual_action: record.marked.clone().unwrap_or_default(),
        }
    }
}

#[tonic::async_trait]
impl Leases for LeasesService {
    async fn list(&self, request: Request<v1::ListLeasesRequest>) -> Result<Response<v1::ListLeasesResponse>, Status> {
        Admitted::of(&request)?;
        let leases = self.0.cordons().iter().map(|record| self.0.lease(record)).collect();
        Ok(Response::new(v1::ListLeasesResponse { leases }))
    }

    async fn renew(&self, request: Request<v1::RenewLeaseRequest>) -> Result<Response<v1::LeaseResponse>, Status> {
        let caller = Admitted::of(&request)?;
        let v1::RenewLeaseRequest { node, span, execute } = request.into_inner();
        let span = match span {
            None => self.0.power.lease_span(),
            Some(span) => Duration::try_from(span)
                .ok()
                .filter(|span| !span.is_zero() && *span <= LONGEST)
                .ok_or_else(|| Status::invalid_argument(format!("a lease is renewed for up to {} days", LONGEST.as_secs() / 86_400)))?,
        };
        if execute {
            self.0.require(&caller, Role::Maintenance, "Leases.Renew").await?;
            self.0.audit(&caller, "Leases.Renew", &format!("{node} for {} s", span.as_secs())).await?;
        }
        let held = self.0.cordon(&node)?;
        let until = SignedDuration::try_from(span).ok().and_then(|span| (self.0.now)().wall.checked_add(span).ok());
        let until = until.ok_or_else(|| Status::invalid_argument("the lease would end after all time"))?;
        let done = if execute {
            self.0.power.renew_lease(caller.caller.label(), node, until).await.map_err(plan_status)?
        } else {
            let from = held.claim.expires.map_or_else(|| "the end of its run".to_owned(), |at| format!("{at:.0}"));
            format!("the cordon on {node} would be held until {until:.0}, not {from}")
        };
        Ok(Response::new(v1::LeaseResponse { done }))
    }

    async fn release(&self, request: Request<v1::ReleaseLeaseRequest>) -> Result<Response<v1::LeaseResponse>, Status> {
        let caller = Admitted::of(&request)?;
        let v1::ReleaseLeaseRequest { node, execute } = request.into_inner();
        if execute {
            self.0.require(&caller, Role::Maintenance, "Leases.Release").await?;
            self.0.audit(&caller, "Leases.Release", &node).await?;
        }
        let held = self.0.cordon(&node)?;
        if let Some(guard) = self.0.handle.view().in_use(&held) {
            return Err(plan_status(PlanError::Refused(vec![guard])));
        }
        let done = if execute {
            self.0.power.release_lease(caller.caller.label(), node).await.map_err(plan_status)?
        } else {
            format!("{node} would be uncordoned; {} cordoned it", held.run)
        };
        Ok(Response::new(v1::LeaseResponse { done }))
    }
}
