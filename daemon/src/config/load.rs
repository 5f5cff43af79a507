//! Files, in the order in which they count.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cursor::{Cursor, Report};
use super::diagnostic::{Diagnostic, Place};
use super::merge::{merge, origins};
use super::schema::{self, InventoryDraft, MainDraft};
use super::settings::Settings;
use super::tree::{MAX_BYTES, Node, Value, parse};
use crate::site::Inventory;

/// A file with its content.
struct Source {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// Reads `main` (such as `/etc/metis/metis.yaml`), its sibling `metis.d/*.yaml` in the order of their names, and the inventory: the file
/// `inventory`, else the key `inventory`, else `inventory.yaml` beside `main`. Blocks on the file system.
///
/// # Errors
/// Every mistake of every file.
pub fn load(main: &Path, inventory: Option<&Path>) -> Result<Settings, Vec<Diagnostic>> {
    let report = Report::default();
    let sources = main_sources(main, &report);
    let root = merged(&sources, &report);
    let draft = Cursor::root(&report, &root, schema::main);
    let path = inventory.map(Path::to_path_buf).or_else(|| draft.inventory.clone());
    let path = path.unwrap_or_else(|| main.with_file_name("inventory.yaml"));
    let source = read(&path, "the inventory (key `inventory`, flag --inventory)", &report);
    let mut settings = finish(report, draft, source.as_ref())?;
    settings.files = sources.iter().chain(&source).map(|source| source.path.clone()).collect();
    settings.origins = origins(&root);
    Ok(settings)
}

/// As [`load`], from texts; they are called `metis.yaml` and `inventory.yaml` in messages.
///
/// # Errors
/// Every mistake of both.
pub fn from_strs(main: &str, inventory: &str) -> Result<Settings, Vec<Diagnostic>> {
    from_bytes(main.as_bytes(), inventory.as_bytes())
}

/// As [`from_strs`], of whatever the files hold.
///
/// # Errors
/// Every mistake of both.
pub fn from_bytes(main: &[u8], inventory: &[u8]) -> Result<Settings, Vec<Diagnostic>> {
    let report = Report::default();
    let main = Source { path: PathBuf::from("metis.yaml"), bytes: main.to_vec() };
    let inventory = Source { path: PathBuf::from("inventory.yaml"), bytes: inventory.to_vec() };
    let root = merged(std::slice::from_ref(&main), &report);
    let draft = Cursor::root(&report, &root, schema::main);
    let mut settings = finish(report, draft, Some(&inventory))?;
    settings.origins = origins(&root);
    settings.files = vec![main.path, inventory.path];
    Ok(settings)
}

/// An inventory from its text.
///
/// # Errors
/// Every mistake of it.
pub fn inventory_from_str(text: &str) -> Result<Inventory, Vec<Diagnostic>> {
    from_strs("", text).map(|settings| settings.inventory)
}

/// Everything that needs both, then the settings or all mistakes.
fn finish(report: Report, draft: MainDraft, source: Option<&Source>) -> Result<Settings, Vec<Diagnostic>> {
    // A main file that could not be read does not excuse what the inventory lacks.
    let of_inventory = Report::default();
    let inventory = source.and_then(|source| read_inventory(source, &of_inventory));
    report.absorb(of_inventory);
    schema::cross_check(&report, &draft, inventory.as_ref());
    if !report.is_clean() {
        return Err(report.into_sorted());
    }
    let inventory = inventory.map(|draft| draft.inventory).unwrap_or_default();
    let MainDraft { daemon, api, power, cluster, card, hosts, peer, .. } = draft;
    let settings = Settings::new(daemon, api, power.settings, cluster.settings, card, hosts.settings, peer.settings, inventory);
    Ok(Settings { remarks: report.remarks(), ..settings })
}

fn read_inventory(source: &Source, report: &Report) -> Option<InventoryDraft> {
    let root = tree(source, report)?;
    Some(Cursor::root(report, &root, schema::inventory))
}

fn tree(source: &Source, report: &Report) -> Option<Node> {
    let parsed = parse(&Arc::new(source.path.clone()), &source.bytes);
    for diagnostic in parsed.diagnostics {
        report.push(diagnostic);
    }
    parsed.root
}

fn merged(sources: &[Source], report: &Report) -> Node {
    let mut root: Option<Node> = None;
    for source in sources {
        let Some(next) = tree(source, report) else {
            report.set_incomplete();
            continue;
        };
        let mut diagnostics = Vec::new();
        root = Some(match root {
            Some(base) => merge(base, next, &mut diagnostics),
            None => next,
        });
        for diagnostic in diagnostics {
            report.push(diagnostic);
        }
    }
    root.unwrap_or_else(|| Node::new(Value::Null, Place { file: Arc::default(), line: 0, column: 0 }))
}

fn main_sources(main: &Path, report: &Report) -> Vec<Source> {
    let mut sources: Vec<Source> = read(main, "the configuration (flag --config)", report).into_iter().collect();
    if sources.is_empty() {
        report.set_incomplete();
    }
    for path in drop_ins(&main.with_extension("d"), report) {
        match read(&path, "this drop-in", report) {
            Some(source) => sources.push(source),
            None => report.set_incomplete(),
        }
    }
    sources
}

/// `*.yaml` of the directory by name; hidden files are left out.
fn drop_ins(directory: &Path, report: &Report) -> Vec<PathBuf> {
    let place = |path: &Path| Place::whole(&Arc::new(path.to_path_buf()));
    let listed =
        fs::read_dir(directory).and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>());
    let mut paths = match listed {
        Ok(paths) => paths,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            report.error(&place(directory), "", format!("cannot be listed: {error}; its drop-ins would be left out"));
            return Vec::new();
        }
    };
    paths.retain(|path| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")));
    for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == "yml")) {
        report.error(&place(path), "", "is not read, because its name ends in .yml; rename it so that it ends in .yaml");
    }
    paths.retain(|path| path.extension().is_some_and(|end| end == "yaml"));
    paths.sort();
    paths
}

/// A file's content; `what` says in the message what was wanted of it.
fn read(path: &Path, what: &str, report: &Report) -> Option<Source> {
    read_bounded(path)
        .map_err(|error| {
            let message = format!("{what} cannot be read: {error}; check the path and that metis may read it");
            report.error(&Place::whole(&Arc::new(path.to_path_buf())), "", message);
        })
        .map(|bytes| Source { path: path.to_path_buf(), bytes })
        .ok()
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    // A named pipe would block for ever.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
