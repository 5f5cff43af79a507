//! What is kept for the day on which nothing can be fetched: bundles, snapshot, cache, images, secrets.

use std::time::Duration;

use jiff::Timestamp;

use super::facts::{Bundle, Facts, Part, SecretSeen, Tree};
use super::{Finding, Level};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Harbor's own images change a few times a year.
const OLD_BUNDLE: Duration = DAY.saturating_mul(180);
/// A platform that is applied from an older copy may be one that nobody knows any more.
const OLD_COPY: Duration = DAY.saturating_mul(30);
/// Copies of the platform are a person's to make, and so is the bundle.
const COPY: &str = "put rendered manifests below `bootstrap` in the state directory, a folder a component";
const BUNDLE: &str = "put it there, and what `sha256sum` says of it beside it, as NAME.sha256";
/// Whatever needs the image fetches it.
const FETCH: &str = "metisctl image --node NODE --output FILE --execute";

pub(super) fn old(facts: &Facts, at: Timestamp, than: Duration) -> bool {
    facts.now.wall.duration_since(at).as_secs_f64() > than.as_secs_f64()
}

/// The newest bundle: what is older is not used.
pub(super) fn bundle(facts: &Facts) -> Option<Finding> {
    const NAME: &str = "bundle";
    if !facts.has_cluster {
        return None;
    }
    let dir = facts.bundle_dir.display();
    let bundles = match &facts.bundles {
        Ok(bundles) => bundles,
        Err(why) => return Some(Finding::new(NAME, Level::CannotTell, format!("bundles in {dir}: {why}"))),
    };
    let Some(newest) = bundles.iter().max_by_key(|bundle| bundle.modified) else {
        let message = format!("no bundle of Harbor's images in {dir}: on a cold start Harbor cannot serve its own images");
        return Some(Finding::new(NAME, Level::Warning, message).fix(BUNDLE));
    };
    Some(judge_bundle(facts, newest).at(newest.modified))
}

fn judge_bundle(facts: &Facts, bundle: &Bundle) -> Finding {
    let finding = |level, message: String| Finding::new("bundle", level, message);
    let again = BUNDLE;
    let name = &bundle.name;
    match (&bundle.sha256, &bundle.expected) {
        (Err(why), _) => finding(Level::CannotTell, format!("{name}: its SHA-256: {why}")),
        (Ok(found), Some(expected)) if found != expected => {
            finding(Level::Problem, format!("{name} is not what was made: its SHA-256 is {found}, and {expected} was written down"))
                .fix(again)
        }
        (Ok(found), None) => {
            finding(Level::Warning, format!("{name}: SHA-256 {found}, and {name}.sha256 does not say what it should be")).fix(again)
        }
        (Ok(found), Some(_)) if old(facts, bundle.modified, OLD_BUNDLE) => {
            finding(Level::Warning, format!("{name} is old; SHA-256 {found}")).fix(again)
        }
        (Ok(found), Some(_)) => finding(Level::Ok, format!("{name}, {} MB, SHA-256 {found}", bundle.size / 1_000_000)),
    }
}

/// Copies of the platform from which a start-up breaks the loop of Git server and cluster.
pub(super) fn copies(facts: &Facts) -> Vec<Finding> {
    if !facts.has_cluster {
        return Vec::new();
    }
    let mut found = vec![
        copy(facts, "snapshot", "the snapshot of the repository", &facts.snapshot),
        copy(facts, "cache", "the captured objects of the platform", &facts.cache),
    ];
    if let Ok(Some(tree)) = &facts.captured_secrets
        && let Some(path) = tree.exposed.first()
    {
        let message = format!("{} holds Secrets, and others can read it ({} such files)", path.display(), tree.exposed.len());
        found.push(Finding::new("cache.secrets", Level::Problem, message).fix(format!("chmod 0600 {}", path.display())));
    }
    found
}

fn copy(facts: &Facts, name: &str, what: &str, tree: &Part<Option<Tree>>) -> Finding {
    let tree = match tree {
        Ok(Some(tree)) => tree,
        Ok(None) => {
            let message = format!("{what} is not there: where Flux cannot read its source, nothing can be applied without it");
            return Finding::new(name, Level::Warning, message).fix(COPY);
        }
        Err(why) => return Finding::new(name, Level::CannotTell, format!("{what}: {why}")),
    };
    let files: usize = tree.components.values().sum();
    let names: Vec<&str> = tree.components.keys().map(String::as_str).collect();
    let revision = if tree.revision.is_empty() { String::new() } else { format!(" at {}", tree.revision) };
    let says = format!("{what}{revision}: {files} files of {} components ({})", names.len(), names.join(", "));
    let finding = if files == 0 {
        Finding::new(name, Level::Warning, format!("{what} is empty")).fix(COPY)
    } else if tree.at.is_some_and(|at| old(facts, at, OLD_COPY)) {
        Finding::new(name, Level::Warning, says).fix(COPY)
    } else {
        Finding::new(name, Level::Ok, says)
    };
    Finding { at: tree.at, ..finding }
}

pub(super) fn secrets(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "secret";
    let secrets = match &facts.secrets {
        Ok(secrets) => secrets,
        Err(why) => return vec![Finding::new(NAME, Level::CannotTell, format!("the secrets of the configuration: {why}"))],
    };
    let (good, bad): (Vec<&SecretSeen>, Vec<&SecretSeen>) = secrets.iter().partition(|secret| secret.trouble.is_none());
    let mut found: Vec<Finding> = bad
        .iter()
        .map(|secret| {
            let trouble = secret.trouble.as_deref().unwrap_or_default();
            Finding::new(NAME, Level::Problem, format!("{} ({})", trouble, secret.used_by.join(", ")))
        })
        .collect();
    if !good.is_empty() {
        found.push(Finding::new(NAME, Level::Ok, format!("{} secrets can be read, and by nobody else", good.len())));
    }
    found
}

pub(super) fn images(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "image";
    let images = match &facts.images {
        Ok(images) => images,
        Err(why) => return vec![Finding::new(NAME, Level::CannotTell, format!("the cache of golden images: {why}"))],
    };
    let finding = |image: &super::facts::ImageSeen| {
        let digest = image.sha256.get(..12).unwrap_or(&image.sha256);
        let what = format!("{} (SHA-256 {digest}…) of {}", image.url, image.classes.join(", "));
        if image.cached {
            Finding::new(NAME, Level::Ok, format!("cached: {what}"))
        } else {
            Finding::new(NAME, Level::Warning, format!("not cached, so that a card needs its source: {what}")).fix(FETCH)
        }
    };
    images.iter().map(finding).collect()
}
