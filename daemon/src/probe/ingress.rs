//! Pure: whether what answered for a host of an Ingress is its backend.
//!
//! 404 is an accepted code, and the ingress controller's own 404 looks like it; a page that is served to everybody looks like 200. So the
//! same address is also asked for a host that nobody has a rule for: who is answered as that one is, has no rule in force.

use std::collections::BTreeSet;

use super::port::{Answer, Page, Silence};
use crate::site::{Judged, Scheme, Target};

/// A host that no rule names (RFC 6761: `.invalid` never exists).
pub const NOBODYS_HOST: &str = "metis-asks-for-nobody.invalid";
/// What Traefik says for a host that it does not know (Go's http.NotFound).
const TRAEFIKS_404: &str = "404 page not found";

/// `nobody`: the answer of the same place to [`NOBODYS_HOST`]; `None`: it could not be had.
pub fn judge_host(
    target: &Target,
    answer: &Result<Answer, Silence>,
    nobody: Option<&Result<Answer, Silence>>,
    accepted: &BTreeSet<u16>,
) -> Judged {
    let not_ready = |why: String| Judged::NotReady { why, done: 0 };
    let page = match answer {
        Ok(Answer::Page(page)) => page,
        Ok(Answer::Open(_)) => return Judged::CannotTell(format!("{target} was not asked by HTTP")),
        Err(Silence::NotThere(why)) => return not_ready(why.clone()),
        Err(Silence::CannotTell(why)) => return Judged::CannotTell(why.clone()),
    };
    let code = page.code;
    if !accepted.contains(&code) {
        return not_ready(format!("{target} answers {code}"));
    }
    match nobody {
        Some(Ok(Answer::Page(nobody))) if same(target, page, nobody) => {
            not_ready(format!("{target} answers {code} as a host that nobody has a rule for does: what answers is not its backend"))
        }
        Some(Ok(Answer::Page(_))) => Judged::Ready(format!("{target} answers {code}")),
        // The ingress answers nobody else, so nothing can be compared; its own words are known.
        _ if code == 404 && text(page) == TRAEFIKS_404 => {
            not_ready(format!("{target} answers with Traefik's own 404: it has no route for it"))
        }
        _ => Judged::Ready(format!("{target} answers {code}")),
    }
}

/// Where the answer only leads to the same place over TLS: the ingress' own redirect, made before it looks for a backend.
pub fn upgraded(target: &Target, page: &Page) -> Option<Target> {
    let location = page.headers.get("location")?;
    let to: Target = location.parse().ok()?;
    let same = target.scheme == Scheme::Http && to.scheme == Scheme::Https && to.host == target.host && to.path == target.path;
    ((300..400).contains(&page.code) && same).then(|| Target { scheme: Scheme::Https, port: None, ..target.clone() })
}

/// Whether both are the same but for the name that was asked for.
fn same(target: &Target, page: &Page, nobody: &Page) -> bool {
    let header = |page: &Page, name: &str, host: &str| page.headers.get(name).map(|value| value.replace(host, "HOST"));
    let equal = |name: &str| header(page, name, &target.host) == header(nobody, name, NOBODYS_HOST);
    let body = |page: &Page, host: &str| text(page).replace(host, "HOST");
    page.code == nobody.code
        && ["location", "www-authenticate", "content-type"].into_iter().all(equal)
        && body(page, &target.host) == body(nobody, NOBODYS_HOST)
}

fn text(page: &Page) -> String {
    String::from_utf8_lossy(&page.body).trim().to_owned()
}
