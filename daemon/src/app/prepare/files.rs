//! What is on this host: bundles, copies of the platform, secrets, images, installed files, space. Blocks, so on a thread of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::app::parts::Parts;
use crate::app::world::World;
use crate::card::merge;
use crate::config::Settings;
use crate::prepare::facts::{Bundle, Disk, ImageSeen, Installed, Part, SecretSeen, Tree};
use crate::secrets;
use crate::site::{Access, NodeSettings, SecretRef};

/// Bundles of Harbor's images.
const BUNDLE: (&str, &str) = ("harbor-bootstrap-", ".tar.zst");
/// Where packages put polkit's rules, and where an admin may.
const POLKIT: [&str; 2] = ["/usr/share/polkit-1/rules.d/metis.rules", "/etc/polkit-1/rules.d/metis.rules"];
/// Says of a part of the copies when it was captured.
const CAPTURED: &str = "captured.json";
/// Folders within folders of a component that are looked into.
const DEEPEST: usize = 8;
const SHUTDOWN_HOOK: &str = "/usr/lib/systemd/system-shutdown/metis";
const KILLALL_UNIT: &str = "/usr/lib/systemd/system/metis-k3s-killall.service";

/// What was found.
pub(super) struct Kept {
    pub(super) bundles: Part<Vec<Bundle>>,
    pub(super) snapshot: Part<Option<Tree>>,
    pub(super) cache: Part<Option<Tree>>,
    pub(super) captured_secrets: Part<Option<Tree>>,
    pub(super) secrets: Part<Vec<SecretSeen>>,
    pub(super) images: Part<Vec<ImageSeen>>,
    pub(super) installed: Part<Vec<Installed>>,
    pub(super) disk: Part<Disk>,
}

/// Folder of the bundles.
pub(super) fn bundles(settings: &Settings) -> PathBuf {
    settings.daemon.state_dir.join("bundles")
}

/// Each part on a thread of its own: a disk that hangs hides only what is on it.
pub(super) async fn look(settings: &Arc<Settings>, parts: &Parts, context: secrets::Context, within: Duration) -> Kept {
    let state = &settings.daemon.state_dir;
    let copies = state.join("bootstrap");
    let (repository, cache, captured) = (copies.join("repository"), copies.join("cache"), copies.join("secrets"));
    let (folder, of_secrets, of_images, disk_at) = (bundles(settings), Arc::clone(settings), Arc::clone(settings), state.clone());
    let floor = settings.card.free_space_floor;
    let needed = needed(settings, parts);
    let late = Late::default();
    let stop = late.0.clone();
    let (bundles, snapshot, cache, captured_secrets, secrets, images, installed, disk) = tokio::join!(
        blocking(within, move || read_bundles(&folder, &stop).map_err(text)),
        blocking(within, move || read_tree(&repository, false).map_err(text)),
        blocking(within, move || read_tree(&cache, false).map_err(text)),
        blocking(within, move || read_tree(&captured, true).map_err(text)),
        blocking(within, move || Ok(read_secrets(&of_secrets, &context))),
        blocking(within, move || Ok(read_images(&of_images))),
        blocking(within, move || Ok(needed.into_iter().map(Needed::look).collect())),
        blocking(within, move || space(&disk_at, floor)),
    );
    Kept { bundles, snapshot, cache, captured_secrets, secrets, images, installed, disk }
}

/// Tells who still reads a long file that nobody waits for it any more.
#[derive(Default)]
struct Late(Arc<AtomicBool>);

impl Drop for Late {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn blocking<T: Send + 'static>(within: Duration, read: impl FnOnce() -> Part<T> + Send + 'static) -> Part<T> {
    let read = tokio::time::timeout(within, tokio::task::spawn_blocking(read));
    read.await.map_or_else(|_| Err(format!("not read within {} s", within.as_secs())), |read| read.map_err(text)?)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn read_bundles(folder: &Path, stop: &AtomicBool) -> io::Result<Vec<Bundle>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let meta = entry.metadata()?;
        if name.starts_with(BUNDLE.0) && name.ends_with(BUNDLE.1) && meta.is_file() {
            found.push((name, meta.len(), modified(&meta)?));
        }
    }
    found.sort_by_key(|(_, _, modified)| *modified);
    // Only the newest is used; the others are not read.
    let newest = found.pop().map(|(name, size, modified)| {
        let sum = fs::read_to_string(folder.join(format!("{name}.sha256"))).ok();
        // `sha256sum` writes the name behind it.
        let expected = sum.and_then(|text| text.split_whitespace().next().map(str::to_lowercase));
        let sha256 = sha256(&folder.join(&name), stop).map_err(text);
        Bundle { name, size, modified, sha256, expected }
    });
    Ok(newest.into_iter().collect())
}

fn sha256(path: &Path, stop: &AtomicBool) -> io::Result<String> {
    let (mut file, mut hash, mut buffer) = (fs::File::open(path)?, Sha256::new(), vec![0; 1 << 20]);
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("it takes too long to be read"));
        }
        match file.read(&mut buffer)? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    Ok(hash.finalize().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}")))
}

fn modified(meta: &fs::Metadata) -> io::Result<Timestamp> {
    Timestamp::try_from(meta.modified()?).map_err(io::Error::other)
}

/// `<component>/**/*.yaml` below `root`; `private`: nobody else may read them.
fn read_tree(root: &Path, private: bool) -> io::Result<Option<Tree>> {
    if !root.is_dir() {
        return Ok(None);
    }
    let mut tree = Tree::default();
    for component in fs::read_dir(root)? {
        let component = component?;
        if component.file_type()?.is_dir() {
            let files = read_component(&component.path(), private, &mut tree, DEEPEST)?;
            tree.components.insert(component.file_name().to_string_lossy().into_owned(), files);
        }
    }
    if let Some(captured) = fs::read(root.join(CAPTURED)).ok().and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok()) {
        tree.at = captured["at"].as_str().and_then(|at| at.parse().ok()).or(tree.at);
        captured["revision"].as_str().unwrap_or_default().clone_into(&mut tree.revision);
    }
    Ok(Some(tree))
}

/// How many files there are.
fn read_component(folder: &Path, private: bool, tree: &mut Tree, deepest: usize) -> io::Result<usize> {
    let mut files = 0;
    for file in fs::read_dir(folder)? {
        let file = file?;
        // Not through links: they may lead anywhere.
        let (kind, path) = (file.file_type()?, file.path());
        if kind.is_dir() && deepest > 0 {
            files += read_component(&path, private, tree, deepest - 1)?;
        } else if kind.is_file() && path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml") {
            files += 1;
            let meta = file.metadata()?;
            let at = modified(&meta)?;
            tree.at = Some(tree.at.map_or(at, |oldest| oldest.min(at)));
            if private && meta.permissions().mode() & 0o077 != 0 {
                tree.exposed.push(path);
            }
        }
    }
    Ok(files)
}

/// Every reference with the keys that hold it.
fn references(settings: &Settings) -> BTreeMap<SecretRef, BTreeSet<String>> {
    let mut found: BTreeMap<SecretRef, BTreeSet<String>> = BTreeMap::new();
    let mut note = |reference: Option<&SecretRef>, key: String| {
        if let Some(reference) = reference {
            found.entry(reference.clone()).or_default().insert(key);
        }
    };
    note(settings.cluster.kubeconfig.as_ref(), "cluster.kubeconfig".to_owned());
    note(settings.hosts.key.as_ref(), "hosts.key".to_owned());
    for ups in &settings.power.upses {
        note(ups.password.as_ref(), format!("power.upses.{}.password", ups.name));
    }
    let mut of_node = |node: &NodeSettings, place: &str| {
        note(node.k3s.token.as_ref(), format!("{place}.k3s.token"));
        note(node.host.key.as_ref(), format!("{place}.host.key"));
        for key in node.ssh.host_keys.values() {
            note(Some(key), format!("{place}.ssh.host_keys"));
        }
        for (name, user) in &node.ssh.users {
            note(user.password_hash.as_ref(), format!("{place}.ssh.users.{name}.password_hash"));
        }
    };
    let inventory = &settings.inventory;
    of_node(&inventory.defaults, "defaults");
    inventory.classes.iter().for_each(|(name, class)| of_node(&class.settings, &format!("classes.{name}")));
    inventory.nodes.iter().for_each(|(name, node)| of_node(&node.settings, &format!("nodes.{name}")));
    found
}

/// Each is read, and forgotten again.
fn read_secrets(settings: &Settings, context: &secrets::Context) -> Vec<SecretSeen> {
    let seen = references(settings).into_iter().map(|(reference, used_by)| SecretSeen {
        used_by: used_by.into_iter().collect(),
        trouble: secrets::resolve(&reference, context).err().map(text),
        reference: reference.to_string(),
    });
    seen.collect()
}

/// Images of classes that have nodes.
fn read_images(settings: &Settings) -> Vec<ImageSeen> {
    let mut found: BTreeMap<String, ImageSeen> = BTreeMap::new();
    let nodes = settings.inventory.nodes.keys().filter_map(|name| merge::merge(&settings.inventory, name).ok());
    for node in nodes {
        let Some(image) = node.image else { continue };
        let class = node.class.to_string();
        let seen = found.entry(image.sha256.clone()).or_insert_with(|| ImageSeen {
            classes: Vec::new(),
            url: merge::without_password(&image.url),
            sha256: image.sha256.clone(),
            cached: World::store(settings).cached_size(&image).is_some(),
        });
        if !seen.classes.contains(&class) {
            seen.classes.push(class);
        }
    }
    found.into_values().collect()
}

/// A file that has to be at one of some places.
struct Needed {
    places: Vec<PathBuf>,
    purpose: &'static str,
}

impl Needed {
    fn look(self) -> Installed {
        let present = self.places.iter().any(|place| place.exists());
        Installed { path: self.places.into_iter().next().unwrap_or_default(), purpose: self.purpose, present }
    }
}

/// What this host's part in a shutdown needs.
fn needed(settings: &Settings, parts: &Parts) -> Vec<Needed> {
    let one = |place: &str, purpose| Needed { places: vec![PathBuf::from(place)], purpose };
    let mut needed = Vec::new();
    if settings.power.cut_outlets {
        needed.push(one(SHUTDOWN_HOOK, "the UPS would not be told to cut and restore its outlets (power.cut_outlets)"));
    }
    let this = parts.topology.hosts.values().find(|host| host.this_host && host.access == Access::Local);
    // Root needs nobody's leave.
    if let Some(this) = this.filter(|_| !nix::unistd::geteuid().is_root()) {
        let places = POLKIT.map(PathBuf::from).to_vec();
        needed.push(Needed { places, purpose: "metisd may neither stop k3s nor power off its own host" });
        if this.k3s.is_some() {
            needed.push(one(KILLALL_UNIT, "what k3s leaves running on this host would not be ended"));
        }
    }
    needed
}

fn space(path: &Path, floor: u64) -> Part<Disk> {
    let stat = nix::sys::statvfs::statvfs(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    Ok(Disk { free: bytes(stat.blocks_available()), total: bytes(stat.blocks()), floor })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn write(path: &Path, text: &str, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn bundles_are_read_and_compared_with_what_was_written_down() {
        let dir = tempfile::tempdir().unwrap();
        let go_on = AtomicBool::new(false);
        assert_eq!(read_bundles(&dir.path().join("none"), &go_on).unwrap(), []);
        let name = "harbor-bootstrap-2.11-arm64.tar.zst";
        write(&dir.path().join(name), "abc", 0o644);
        write(&dir.path().join("other.tar.zst"), "abc", 0o644);
        let read = |stop: &AtomicBool| read_bundles(dir.path(), stop).unwrap();
        let found = read(&go_on);
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((found.len(), found[0].name.as_str(), found[0].size), (1, name, 3));
        assert_eq!((&found[0].sha256, &found[0].expected), (&Ok(abc.to_owned()), &None));
        write(&dir.path().join(format!("{name}.sha256")), &format!("{}  {name}\n", abc.to_uppercase()), 0o644);
        assert_eq!(read(&go_on)[0].expected.as_deref(), Some(abc));
        assert!(read(&AtomicBool::new(true))[0].sha256.is_err(), "nobody waits for it");
    }

    #[test]
    fn a_tree_is_counted_by_component_and_what_others_may_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_tree(&dir.path().join("none"), true).unwrap(), None);
        write(&dir.path().join("core/a.yaml"), "a: 1", 0o600);
        write(&dir.path().join("core/b.yaml"), "a: 1", 0o640);
        write(&dir.path().join("core/notes.txt"), "x", 0o644);
        write(&dir.path().join("vault/deep/c.yml"), "a: 1", 0o600);
        let tree = |private| read_tree(dir.path(), private).unwrap().unwrap();
        assert_eq!(tree(true).components, BTreeMap::from([("core".to_owned(), 2), ("vault".to_owned(), 1)]));
        assert_eq!(tree(true).exposed, [dir.path().join("core/b.yaml")]);
        assert!(tree(false).exposed.is_empty() && tree(false).at.is_some());
        write(&dir.path().join(CAPTURED), r#"{"at": "2027-01-15T08:00:00Z", "revision": "main@sha1:5eed"}"#, 0o644);
        assert_eq!((tree(true).at, tree(true).revision), ("2027-01-15T08:00:00Z".parse().ok(), "main@sha1:5eed".to_owned()));
    }

    #[test]
    fn every_secret_of_the_configuration_is_tried_and_none_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let (good, open) = (dir.path().join("good"), dir.path().join("open"));
        write(&good, "s3cret", 0o600);
        write(&open, "s3cret", 0o644);
        let main = format!("hosts: {{ key: {{ file: {} }} }}", good.display());
        let inventory = format!(
            "classes: {{ a: {{ arch: arm64, k3s: {{ role: agent, server: 'https://x:6443', token: {{ file: {0} }} }} }} }}\nnodes:\n  n: {{ class: a, \
             host: {{ key: {{ file: {0} }} }} }}\n",
            open.display()
        );
        let settings = config::from_strs(&main, &inventory).unwrap_or_else(|errors| panic!("{errors:?}"));
        let seen = read_secrets(&settings, &secrets::Context::default());
        let by = |key: &str| seen.iter().find(|secret| secret.used_by.contains(&key.to_owned())).unwrap();
        assert_eq!(by("hosts.key").trouble, None);
        let refused = by("classes.a.k3s.token");
        assert_eq!(refused.used_by, ["classes.a.k3s.token", "nodes.n.host.key"]);
        assert!(refused.trouble.as_ref().is_some_and(|why| why.contains("chmod 0600")), "{refused:?}");
        assert!(!format!("{seen:?}").contains("s3cret"));
    }
}
