//! Injection: a node's files put into an image without mounting it and without root, as an overlay of changed blocks.
//!
//! [`prepare`] opens the image's file systems over the overlay, looks at what they have, renders the node for them, applies the edits,
//! and reads every one of them back through file systems opened anew. Any error drops the overlay as a whole.

mod error;
mod ext4;
mod facts;
mod fat;
mod features;
mod overlay;
mod render;
mod tree;

use std::sync::Arc;

use super::image::extents;
use super::{InjectedFile, Layout, Partition, Prepared, Verified};
use crate::site::MergedNode;

pub use error::InjectError;
pub use facts::{BootFacts, ImageFacts, TextFile};
pub use render::{EditKind, FileEdit, Fs, Render, RenderError, ResolvedSecret, Secrets, render, secret_refs};

use ext4::Ext4;
use fat::Fat;
use overlay::{Overlay, Window};
use tree::{Kind, Put, Stat, Tree};

/// Puts the node's files into the image.
///
/// # Errors
/// See [`InjectError`]; nothing was changed anywhere then.
pub fn prepare(image: &Verified, node: &MergedNode, secrets: &Secrets) -> Result<Prepared, InjectError> {
    let layout = Layout::read(&**image.data())?;
    let overlay = Arc::new(Overlay::new(Arc::clone(image.data())));
    let card = Card::of(&layout, &overlay)?;
    let render = {
        let trees = card.open()?;
        let facts = trees.facts(&card, image.sha256())?;
        let render = render(node, secrets, &facts)?;
        render.edits.iter().try_for_each(|edit| apply(trees.of(edit)?, edit))?;
        trees.finish()?;
        render
    };
    let trees = card.open()?;
    render.edits.iter().try_for_each(|edit| verify(trees.of(edit)?, edit))?;
    trees.finish()?;
    // Asked after everything is written: edits and a replayed journal allocate blocks.
    let used = extents::allocated(&*overlay, &layout)?;
    Ok(Prepared {
        extents: overlay::union(used, overlay.changes()?),
        data: overlay,
        files: render.edits.iter().filter_map(injected).collect(),
        instance_id: render.instance_id,
        image_sha256: image.sha256().to_owned(),
    })
}

/// The image as it is, for `no_inject`: no file of it is touched, and no file system of it is opened for writing.
///
/// # Errors
/// Where its layout cannot be relied on or its used blocks cannot be told.
pub fn prepare_plain(image: &Verified) -> Result<Prepared, InjectError> {
    let layout = Layout::read(&**image.data())?;
    Ok(Prepared {
        extents: extents::allocated(&**image.data(), &layout)?,
        data: Arc::clone(image.data()),
        files: Vec::new(),
        instance_id: String::new(),
        image_sha256: image.sha256().to_owned(),
    })
}

/// The partitions of a card that files go to.
struct Card<'a> {
    root: (Window, u32),
    boot: Option<(Window, &'a Partition)>,
}

impl<'a> Card<'a> {
    fn of(layout: &'a Layout, overlay: &Arc<Overlay>) -> Result<Self, InjectError> {
        let window = |partition: &Partition| Window { overlay: Arc::clone(overlay), offset: partition.offset, len: partition.len };
        let root = layout.root().ok_or_else(|| InjectError::NoRoot { found: describe(layout) })?;
        let is_cidata = |p: &&Partition| p.fs.label.as_deref().is_some_and(|label| label.eq_ignore_ascii_case("cidata"));
        let cidata = layout.partitions.iter().filter(|p| matches!(p.fs.kind, super::FsKind::Fat(_))).find(is_cidata);
        let boot = cidata.or_else(|| layout.boot());
        Ok(Self { root: (window(root), root.number), boot: boot.map(|boot| (window(boot), boot)) })
    }

    fn open(&self) -> Result<Trees, InjectError> {
        Ok(Trees {
            root: Ext4::open(self.root.0.clone(), self.root.1)?,
            boot: self.boot.as_ref().map(|(window, boot)| Fat::open(window.clone(), boot.number)).transpose()?,
        })
    }
}

/// A card's file systems, open.
struct Trees {
    root: Ext4,
    boot: Option<Fat>,
}

impl Trees {
    fn facts(&self, card: &Card<'_>, sha256: &str) -> Result<ImageFacts, InjectError> {
        let label = card.boot.as_ref().and_then(|(_, boot)| boot.fs.label.clone());
        ImageFacts::read(&self.root, self.boot.as_ref().map(|boot| (boot as &dyn Tree, label)), sha256)
    }

    fn of(&self, edit: &FileEdit) -> Result<&dyn Tree, InjectError> {
        match (edit.fs, &self.boot) {
            (Fs::Root, _) => Ok(&self.root),
            (Fs::Boot, Some(boot)) => Ok(boot),
            (Fs::Boot, None) => Err(failed(edit, "write", "there is no such file system")),
        }
    }

    fn finish(self) -> Result<(), InjectError> {
        self.boot.map_or(Ok(()), Fat::finish)
    }
}

fn apply(tree: &dyn Tree, edit: &FileEdit) -> Result<(), InjectError> {
    let owner = (edit.uid, edit.gid);
    match &edit.kind {
        EditKind::File(content) => tree.put(&edit.path, Put::File(content.expose()), edit.mode, owner),
        EditKind::Symlink(target) => tree.put(&edit.path, Put::Symlink(target), edit.mode, owner),
        EditKind::Dir { keep: true } if tree.stat(&edit.path)?.is_some() => Ok(()),
        EditKind::Dir { .. } => tree.put(&edit.path, Put::Dir, edit.mode, owner),
        EditKind::Remove => tree.remove(&edit.path),
    }
}

/// Reads one edit back.
fn verify(tree: &dyn Tree, edit: &FileEdit) -> Result<(), InjectError> {
    let differs = |what| Err(InjectError::Verify { fs: edit.fs.name(), path: edit.path.clone(), what });
    let found = tree.stat(&edit.path)?;
    match (&edit.kind, &found) {
        (EditKind::Remove, None) | (EditKind::Dir { keep: true }, Some(Stat { kind: Kind::Dir | Kind::Symlink(_), .. })) => Ok(()),
        (EditKind::Dir { .. }, Some(stat @ Stat { kind: Kind::Dir, .. })) => attributes(stat, edit),
        (EditKind::Symlink(target), Some(Stat { kind: Kind::Symlink(found), .. })) if target == found => Ok(()),
        (EditKind::File(content), Some(stat @ Stat { kind: Kind::File | Kind::Symlink(_), .. })) => {
            if tree.read(&edit.path)?.as_deref() != Some(content.expose()) {
                return differs("content");
            }
            // Behind a link, the attributes are those of what it leads to.
            if stat.kind == Kind::File { attributes(stat, edit) } else { Ok(()) }
        }
        _ => differs("kind"),
    }
}

fn attributes(stat: &Stat, edit: &FileEdit) -> Result<(), InjectError> {
    let differs = |what| Err(InjectError::Verify { fs: edit.fs.name(), path: edit.path.clone(), what });
    match edit.fs {
        Fs::Root if stat.mode != edit.mode => differs("mode"),
        Fs::Root if (stat.uid, stat.gid) != (edit.uid, edit.gid) => differs("owner"),
        Fs::Root | Fs::Boot => Ok(()),
    }
}

fn injected(edit: &FileEdit) -> Option<InjectedFile> {
    let size = match &edit.kind {
        EditKind::File(content) => content.expose().len() as u64,
        EditKind::Symlink(target) => target.len() as u64,
        EditKind::Dir { .. } | EditKind::Remove => return None,
    };
    Some(InjectedFile {
        path: edit.path.clone(),
        filesystem: edit.fs.name(),
        mode: edit.mode,
        uid: edit.uid,
        gid: edit.gid,
        size,
        secret: edit.secret,
    })
}

fn failed(edit: &FileEdit, doing: &'static str, why: &str) -> InjectError {
    InjectError::Path { fs: edit.fs.name(), doing, path: edit.path.clone(), why: why.to_owned() }
}

fn describe(layout: &Layout) -> String {
    let kinds: Vec<_> = layout.partitions.iter().map(|p| format!("partition {} {:?}", p.number, p.fs.kind)).collect();
    if kinds.is_empty() { "nothing".to_owned() } else { kinds.join(", ") }
}

#[cfg(test)]
mod tests;
