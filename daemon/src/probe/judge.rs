//! Pure: an answer → whether the service is ready.

use std::collections::BTreeSet;

use serde_json::Value;

use super::port::{Answer, Ask, Page, Silence};
use super::postgres;
use crate::site::{Judged, Scheme};

/// So much of what was said is quoted.
const QUOTED: usize = 120;

/// A question, and what counts as a good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The question.
    pub ask: Ask,
    /// One of these must fit.
    pub any: Vec<Expect>,
}

/// All of it must be so.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expect {
    /// Codes of a page.
    pub codes: BTreeSet<u16>,
    /// Headers, by name in lower case.
    pub headers: Vec<(String, Test)>,
    /// Values at JSON pointers (RFC 6901) of the body.
    pub json: Vec<(String, Test)>,
    /// The body, or the first words of a connection, hold this.
    pub contains: String,
}

/// What is asked of a value as text: of a string itself, of anything else its JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// It is this.
    Equals(String),
    /// It holds this.
    Contains(String),
    /// It is a URL of a page where one logs in.
    LeadsToLogin,
}

impl Test {
    /// What is wrong with it; `what` names the value.
    fn trouble(&self, what: &str, value: Option<&str>) -> Option<String> {
        let Some(value) = value else { return Some(format!("has no {what}")) };
        let fits = match self {
            Self::Equals(wanted) => value == wanted,
            Self::Contains(wanted) => value.contains(wanted),
            Self::LeadsToLogin => leads_to_login(value),
        };
        let wanted = match self {
            Self::Equals(wanted) => format!("not {}", quoted(wanted)),
            Self::Contains(wanted) => format!("which does not hold {}", quoted(wanted)),
            Self::LeadsToLogin => "which is no login".to_owned(),
        };
        (!fits).then(|| format!("has {what} {}, {wanted}", quoted(value)))
    }
}

/// Ready, not ready (why), or cannot tell.
pub fn judge(check: &Check, answer: &Result<Answer, Silence>) -> Judged {
    let target = &check.ask.target;
    let not_ready = |why: String| Judged::NotReady { why, done: 0 };
    match answer {
        Err(Silence::NotThere(why)) => not_ready(why.clone()),
        Err(Silence::CannotTell(why)) => Judged::CannotTell(why.clone()),
        Ok(Answer::Open(words)) if target.scheme == Scheme::Postgres => match postgres::trouble(words) {
            None => Judged::Ready(format!("{target} takes connections")),
            Some(why) => not_ready(format!("{target} {why}")),
        },
        Ok(answer) => match troubles(check, answer) {
            None => Judged::Ready(format!("{target} answers as expected")),
            Some(why) => not_ready(format!("{target} {why}")),
        },
    }
}

/// Why none of the expectations fits: that of the first whose code does, for it says most.
fn troubles(check: &Check, answer: &Answer) -> Option<String> {
    let all: Vec<_> = check.any.iter().map(|expect| (expect, trouble(expect, answer))).collect();
    if all.iter().any(|(_, trouble)| trouble.is_none()) {
        return None;
    }
    let of_code = |expect: &Expect| matches!(answer, Answer::Page(page) if expect.codes.contains(&page.code));
    let nearest = all.iter().find(|(expect, _)| of_code(expect)).or(all.first());
    nearest.map_or_else(|| Some("is not known how to be asked".to_owned()), |(_, trouble)| trouble.clone())
}

fn trouble(expect: &Expect, answer: &Answer) -> Option<String> {
    match answer {
        Answer::Page(page) => page_trouble(expect, page),
        Answer::Open(words) => missing(&expect.contains, words, "says"),
    }
}

fn page_trouble(expect: &Expect, page: &Page) -> Option<String> {
    let code = page.code;
    if !expect.codes.contains(&code) {
        return Some(format!("answers {code}{}", said(page)));
    }
    let header = |(name, test): &(String, Test)| test.trouble(&format!("header {name}"), page.headers.get(name).map(String::as_str));
    if let Some(why) = expect.headers.iter().find_map(header) {
        return Some(format!("answers {code} and {why}"));
    }
    if let Some(why) = json_trouble(expect, page) {
        return Some(format!("answers {code} and {why}"));
    }
    missing(&expect.contains, &page.body, "answers with a body that begins").map(|why| format!("answers {code}, but {why}"))
}

fn json_trouble(expect: &Expect, page: &Page) -> Option<String> {
    if expect.json.is_empty() {
        return None;
    }
    if !page.whole {
        return Some("its body is too long to be read".to_owned());
    }
    let Ok(body) = serde_json::from_slice::<Value>(&page.body) else {
        return Some(format!("its body is no JSON{}", said(page)));
    };
    expect.json.iter().find_map(|(pointer, test)| {
        let value = body.pointer(pointer).map(|value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned));
        test.trouble(&format!("{pointer} in its JSON"), value.as_deref())
    })
}

fn missing(wanted: &str, words: &[u8], says: &str) -> Option<String> {
    let there = wanted.is_empty() || String::from_utf8_lossy(words).contains(wanted);
    (!there).then(|| format!("does not hold {}: it {says} {}", quoted(wanted), quoted(&String::from_utf8_lossy(words))))
}

fn said(page: &Page) -> String {
    let text = String::from_utf8_lossy(&page.body);
    let text = text.trim();
    if text.is_empty() { String::new() } else { format!(" ({})", quoted(text)) }
}

/// Bounded, and on one line: what a server says is not ours.
fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(QUOTED).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() > QUOTED {
        short.push('…');
    }
    format!("\"{short}\"")
}

/// Words in the path or query of a URL of oauth2-proxy, Keycloak, Authelia, Authentik and of applications' own logins. A redirect to
/// `https` or to a path with a slash more leads nowhere.
fn leads_to_login(location: &str) -> bool {
    let location = location.to_ascii_lowercase();
    let rest = location.split_once("://").map_or(location.as_str(), |(_, rest)| rest);
    let host = rest.split(['/', '?']).next().unwrap_or("");
    let by_path = ["/oauth2/", "/oauth/", "/auth", "/login", "/signin", "/sign_in", "/openid-connect/", "/sso", "client_id="];
    let by_host = ["auth.", "sso.", "login.", "id.", "accounts."];
    by_path.iter().any(|word| rest.contains(word)) || (location.contains("://") && by_host.iter().any(|word| host.starts_with(word)))
}
