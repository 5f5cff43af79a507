//! Lists, page by page.

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::{Api, Call, Failure};

/// Objects in a page.
const PAGE: &str = "500";

/// Pages of a list; a longer one is an error, not a reason to read for ever.
const PAGES: usize = 200;

/// A list as a whole.
#[derive(Debug, Clone)]
pub struct List<T> {
    /// The objects.
    pub items: Vec<T>,
    /// The API server's clock when it gave the last page.
    pub date: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Page<T> {
    #[serde(default)]
    metadata: PageMeta,
    // `null` for an empty list of some versions.
    items: Option<Vec<T>>,
}

#[derive(Deserialize, Default)]
struct PageMeta {
    #[serde(default, rename = "continue")]
    next: String,
}

impl Api {
    /// All objects at `path`.
    ///
    /// # Errors
    /// As [`Api::ask`]; a list that changes faster than it can be read is [`Failure::Silent`].
    pub async fn list<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)], until: Instant) -> Result<List<T>, Failure> {
        let mut again = true;
        loop {
            match self.list_once(path, query, until).await {
                // 410: the pages after this one are compacted away.
                Err(failure) if failure.code() == Some(410) && again => again = false,
                other => return other,
            }
        }
    }

    async fn list_once<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)], until: Instant) -> Result<List<T>, Failure> {
        let mut list = List { items: Vec::new(), date: None };
        let mut next = String::new();
        for _ in 0..PAGES {
            let mut query = [query, &[("limit", PAGE)]].concat();
            if !next.is_empty() {
                query.push(("continue", &next));
            }
            let call = Call::get(path, &query);
            let answer = self.ask(&call, until).await?;
            let page: Page<T> = serde_json::from_slice(&answer.body).map_err(|error| not_understood(&call, &error))?;
            list.items.extend(page.items.unwrap_or_default());
            list.date = answer.date;
            if page.metadata.next.is_empty() {
                return Ok(list);
            }
            next = page.metadata.next;
        }
        Err(Failure::Silent(format!("GET {path}: more than {PAGES} pages")))
    }

    /// One object.
    ///
    /// # Errors
    /// As [`Api::ask`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str, until: Instant) -> Result<T, Failure> {
        let call = Call::get(path, &[]);
        let answer = self.ask(&call, until).await?;
        serde_json::from_slice(&answer.body).map_err(|error| not_understood(&call, &error))
    }
}

fn not_understood(call: &Call, error: &serde_json::Error) -> Failure {
    Failure::Silent(format!("{}: the answer is not understood: {error}", call.name()))
}
