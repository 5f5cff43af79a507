//! Service Ups.

use futures::StreamExt;
use futures::stream::BoxStream;
use metis_proto::v1;
use metis_proto::v1::ups_server::Ups;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::port::HistoryQuestion;
use super::{Context, convert};
use crate::control::View;
use crate::site::UpsName;

/// The service.
pub(super) struct UpsService(pub(super) Context);

impl Context {
    fn upses(&self, view: &View) -> v1::ListUpsResponse {
        v1::ListUpsResponse {
            upses: view.power.iter().flat_map(|p| &p.upses).map(convert::ups).collect(),
            domains: view.power.iter().flat_map(|p| &p.domains).map(|d| convert::domain(d, view.armed())).collect(),
            now: Some(convert::timestamp((self.now)().wall)),
        }
    }
}

#[tonic::async_trait]
impl Ups for UpsService {
    async fn list(&self, _: Request<v1::ListUpsRequest>) -> Result<Response<v1::ListUpsResponse>, Status> {
        Ok(Response::new(self.0.upses(&self.0.handle.view())))
    }

    type WatchStream = BoxStream<'static, Result<v1::ListUpsResponse, Status>>;

    async fn watch(&self, _: Request<v1::WatchUpsRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let context = self.0.clone();
        let views = WatchStream::new(context.handle.views());
        Ok(Response::new(Box::pin(views.map(move |view| Ok(context.upses(&view))))))
    }

    async fn history(&self, request: Request<v1::UpsHistoryRequest>) -> Result<Response<v1::UpsHistoryResponse>, Status> {
        let v1::UpsHistoryRequest { name, from, to, limit } = request.into_inner();
        if !self.0.handle.view().power.iter().flat_map(|p| &p.upses).any(|u| u.name.as_str() == name) {
            return Err(Status::not_found(format!("no UPS {name}: `metisctl ups` lists them")));
        }
        let question = HistoryQuestion {
            ups: UpsName::new(name),
            from: from.map(moment).transpose()?,
            to: to.map(moment).transpose()?,
            limit: if limit == 0 { 500 } else { limit as usize },
        };
        let history = self.0.power.ups_history(question).await.map_err(super::card::plan_status)?;
        Ok(Response::new(convert::history(&history)))
    }
}

fn moment(at: prost_types::Timestamp) -> Result<jiff::Timestamp, Status> {
    jiff::Timestamp::new(at.seconds, at.nanos).map_err(|e| Status::invalid_argument(format!("not a time: {e}")))
}
