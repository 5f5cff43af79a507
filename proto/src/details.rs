//! Typed details of a refused call, packed into `google.rpc.Status.details` by the daemon and unpacked by its clients.

use prost::Message;
use tonic::{Code, Status};
use tonic_types::pb;

use crate::v1;

const REFUSAL: &str = "type.googleapis.com/metis.v1.Refusal";
const ROLE_NEEDED: &str = "type.googleapis.com/metis.v1.RoleNeeded";

/// What a status carries besides its code and message.
#[derive(Debug, Clone, PartialEq)]
pub enum Detail {
    /// Guards refused; all that failed.
    Refusal(v1::Refusal),
    /// The caller's role is too small.
    RoleNeeded(v1::RoleNeeded),
}

/// A status with one detail; the message is for people and for clients that do not know the detail.
pub fn status(code: Code, message: impl Into<String>, detail: &Detail) -> Status {
    let message = message.into();
    let any = match detail {
        Detail::Refusal(r) => any(REFUSAL, r),
        Detail::RoleNeeded(r) => any(ROLE_NEEDED, r),
    };
    let rpc = pb::Status { code: code as i32, message: message.clone(), details: vec![any] };
    Status::with_details(code, message, rpc.encode_to_vec().into())
}

/// The details of a status that this version knows; others are left out.
pub fn of(status: &Status) -> Vec<Detail> {
    let rpc = pb::Status::decode(status.details()).unwrap_or_default();
    rpc.details.iter().filter_map(detail).collect()
}

fn any(type_url: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any { type_url: type_url.to_owned(), value: message.encode_to_vec() }
}

fn detail(any: &prost_types::Any) -> Option<Detail> {
    match any.type_url.as_str() {
        REFUSAL => v1::Refusal::decode(any.value.as_slice()).ok().map(Detail::Refusal),
        ROLE_NEEDED => v1::RoleNeeded::decode(any.value.as_slice()).ok().map(Detail::RoleNeeded),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_survive_the_status() {
        let guard = v1::Guard { name: "device.mounted".into(), message: "/dev/sdz1 is mounted on /mnt".into(), waiver: String::new() };
        let cases = [
            Detail::Refusal(v1::Refusal { guards: vec![guard.clone(), guard] }),
            Detail::RoleNeeded(v1::RoleNeeded { needed: v1::Role::Maintenance.into(), caller: v1::Role::Viewer.into(), uid: 1000 }),
        ];
        for detail in cases {
            let sent = status(Code::FailedPrecondition, "refused", &detail);
            assert_eq!((sent.code(), sent.message()), (Code::FailedPrecondition, "refused"));
            assert_eq!(of(&sent), [detail]);
        }
    }

    #[test]
    fn foreign_details_are_left_out() {
        assert_eq!(of(&Status::not_found("no run burn-99")), []);
        assert_eq!(of(&Status::with_details(Code::Internal, "broken", vec![0xff; 3].into())), []);
    }
}
