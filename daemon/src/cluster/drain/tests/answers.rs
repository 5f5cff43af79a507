//! What the API server's answers to an eviction or deletion mean.

use std::time::Duration;

use crate::cluster::drain::pods::Said;
use crate::cluster::drain::run::answer;
use crate::cluster::kube::Failure;

fn status(code: u16, message: &str, cause: &str) -> Failure {
    Failure::Status {
        at: "https://a:6443".to_owned(),
        code,
        reason: String::new(),
        message: message.to_owned(),
        causes: vec![cause.to_owned()],
        retry_after: (code == 429).then_some(Duration::from_secs(7)),
    }
}

#[test]
fn answers_mean_what_they_mean_to_kubectl() {
    let two = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
    let uid = "Operation cannot be fulfilled on pods \"a\": the UID in the precondition (1) does not match the UID in record (2).";
    let kind = |said: Said| match said {
        Said::Granted => "granted",
        Said::Gone => "gone",
        Said::NotNow(_, after) if after == Some(Duration::from_secs(7)) => "in 7 s",
        Said::NotNow(..) => "not now",
        Said::Busy(_, after) if after == Some(Duration::from_secs(7)) => "busy for 7 s",
        Said::Busy(..) => "busy",
        Said::Never(_) => "never",
        Said::Failed(_) => "failed",
    };
    for (evict, failure, expected) in [
        (true, status(404, "", ""), "gone"),
        (false, status(404, "", ""), "gone"),
        (true, status(409, uid, ""), "gone"),
        (true, status(409, "the object has been modified", ""), "failed"),
        (true, status(429, "Cannot evict pod as it would violate the pod's disruption budget.", "DisruptionBudget"), "in 7 s"),
        (true, status(429, "too many requests, please try again later", ""), "busy for 7 s"),
        (false, status(429, "too many requests", ""), "busy for 7 s"),
        (true, status(403, "being terminated", "NamespaceTerminating"), "not now"),
        (true, status(403, "not metis", ""), "failed"),
        (true, status(500, two, ""), "never"),
        (false, status(500, two, ""), "failed"),
        (true, status(500, "etcd is gone", ""), "failed"),
        (true, Failure::Silent("hung".to_owned()), "failed"),
    ] {
        assert_eq!(kind(answer(evict, &failure)), expected, "{failure}");
    }
}
