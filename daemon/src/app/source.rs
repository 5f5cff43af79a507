//! Whether Flux reads what it should, for who asks how the site is. A look is shared for a while: a screen that is drawn again asks nobody.

use std::time::Duration;

use tokio::time::Instant;

use super::world::World;
use crate::cluster::StartupSettings;
use crate::cluster::port::Survey;
use crate::cluster::seen::{Expected, Part, Seen, SourceSeen};
use crate::cluster::startup::judge;
use crate::config::Settings;
use crate::site::Judged;

/// A status must not wait for an API server that is not there.
const WITHIN: Duration = Duration::from_secs(1);
const AGE: Duration = Duration::from_secs(15);

/// The newest look, and by which settings.
#[derive(Default)]
pub struct Source(tokio::sync::Mutex<Option<(Instant, String, Judged)>>);

impl Source {
    /// `None`: the site has no cluster.
    pub async fn judged(&self, world: &World) -> Option<Judged> {
        let settings = world.settings();
        settings.cluster.kubeconfig.as_ref()?;
        let mut newest = self.0.lock().await;
        if let Some((at, digest, judged)) = newest.as_ref()
            && at.elapsed() < AGE
            && digest == settings.digest.as_str()
        {
            return Some(judged.clone());
        }
        let judged = look(world, &settings).await;
        *newest = Some((Instant::now(), settings.digest.to_string(), judged.clone()));
        Some(judged)
    }
}

async fn look(world: &World, settings: &Settings) -> Judged {
    let parts = world.parts().await;
    let sources = match &parts.survey {
        Ok(survey) => asked(survey.as_ref()).await,
        Err(why) => Err(why.clone()),
    };
    of(sources, &settings.cluster.startup)
}

async fn asked(survey: &dyn Survey) -> Part<Vec<SourceSeen>> {
    tokio::time::timeout(WITHIN, survey.sources(WITHIN)).await.unwrap_or_else(|_| Err("no API server answers".to_owned()))
}

/// By the same rule as the gate of a start-up.
fn of(sources: Part<Vec<SourceSeen>>, startup: &StartupSettings) -> Judged {
    let unseen = || "not looked at".to_owned();
    let seen = Seen {
        nodes: Err(unseen()),
        sources,
        flux: Err(unseen()),
        workloads: Err(unseen()),
        troubled: Err(unseen()),
        namespaces: Err(unseen()),
    };
    let expected = Expected {
        url: startup.expected_url.clone(),
        branch: startup.expected_branch.clone(),
        source: startup.source.clone(),
        ..Expected::default()
    };
    judge::source(&seen, &expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_judged_as_the_gate_judges_it() {
        let startup = StartupSettings { expected_branch: "main".to_owned(), ..StartupSettings::default() };
        let source = |branch: &str, revision: &str| SourceSeen {
            name: "flux-system/flux-system".to_owned(),
            branch: branch.to_owned(),
            ready: true,
            revision: revision.to_owned(),
            ..SourceSeen::default()
        };
        assert!(matches!(of(Ok(vec![source("main", "main@sha1:5eed")]), &startup), Judged::Ready(_)));
        assert!(matches!(of(Ok(vec![source("other", "x")]), &startup), Judged::NotReady { .. }), "drift");
        assert!(matches!(of(Ok(vec![source("main", "")]), &startup), Judged::NotReady { .. }), "Ready without an artifact");
        assert!(matches!(of(Err("403".to_owned()), &startup), Judged::CannotTell(_)));
    }
}
