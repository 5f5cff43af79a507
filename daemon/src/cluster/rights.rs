//! What the API server lets metis do, verb by verb (SelfSubjectAccessReview): a right that is missing would be found on a bad day only.

use futures::future::join_all;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::kube::{Api, Call, Failure};
use super::port::{ClusterError, RightSeen};
use super::real::RIGHTS;

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
/// Reviews under way at once.
const AT_ONCE: usize = 8;
/// What helper pods need in their namespace, beside what [`RIGHTS`] says of pods.
const HELPERS: [(&str, &str, &str); 1] = [("", "pods", "create")];

struct Wanted<'a> {
    group: &'a str,
    resource: &'a str,
    verb: &'a str,
    /// Empty: all.
    namespace: &'a str,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Review {
    status: ReviewStatus,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ReviewStatus {
    allowed: bool,
}

impl Wanted<'_> {
    /// `patch nodes`, `create pods/eviction`, `list volumes.longhorn.io`, `create pods in kube-system`.
    fn name(&self) -> String {
        let dot = if self.group.is_empty() { "" } else { "." };
        let place = if self.namespace.is_empty() { String::new() } else { format!(" in {}", self.namespace) };
        format!("{} {}{dot}{}{place}", self.verb, self.resource, self.group)
    }

    fn call(&self) -> Call {
        let (resource, subresource) = self.resource.split_once('/').unwrap_or((self.resource, ""));
        let attributes = json!({
            "group": self.group, "resource": resource, "subresource": subresource, "verb": self.verb, "namespace": self.namespace,
        });
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": attributes},
        });
        Call::post(REVIEWS, &review)
    }
}

/// Each right that metis needs, and whether it has it.
///
/// # Errors
/// The API server cannot be asked, or answers something else.
pub async fn rights(api: &Api, helpers: Option<&str>, until: Instant) -> Result<Vec<RightSeen>, ClusterError> {
    let of_cluster =
        RIGHTS.iter().flat_map(|(group, resource, verbs)| verbs.iter().map(move |verb| Wanted { group, resource, verb, namespace: "" }));
    let of_helpers = helpers
        .into_iter()
        .flat_map(|namespace| HELPERS.iter().map(move |(group, resource, verb)| Wanted { group, resource, verb, namespace }));
    let wanted: Vec<Wanted<'_>> = of_cluster.chain(of_helpers).collect();
    let mut answers = Vec::with_capacity(wanted.len());
    for some in wanted.chunks(AT_ONCE) {
        for answer in join_all(some.iter().map(|wanted| review(api, wanted, until))).await {
            answers.push(answer.map_err(|failure| failure.error("review of metis' rights"))?);
        }
    }
    Ok(answers)
}

async fn review(api: &Api, wanted: &Wanted<'_>, until: Instant) -> Result<RightSeen, Failure> {
    let answer = api.ask(&wanted.call(), until).await?;
    let review: Review = serde_json::from_slice(&answer.body)
        .map_err(|error| Failure::Silent(format!("POST {REVIEWS}: the answer is not understood: {error}")))?;
    Ok(RightSeen { what: wanted.name(), allowed: review.status.allowed })
}
