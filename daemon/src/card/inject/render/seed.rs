//! cloud-init: the NoCloud seed, and a drop-in that keeps cloud-init from undoing what is injected.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::facts::ROOT_SEED;
use super::edit::FileEdit;
use super::network::Network;
use super::{Job, RenderError};
use crate::site::{HostKeyAlgorithm, SeedPlace};

const DROP_IN: &str = "/etc/cloud/cloud.cfg.d/99-metis.cfg";
const SEED_FILES: [&str; 4] = ["meta-data", "user-data", "network-config", "vendor-data"];

/// Where the seed goes for this image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Boot,
    Root,
    None,
}

/// Decides the seed's place.
///
/// # Errors
/// Where the inventory asks for the boot partition and the image has none.
pub(super) fn place(job: &Job<'_>) -> Result<Place, RenderError> {
    match job.node.settings.seed.unwrap_or(SeedPlace::Auto) {
        SeedPlace::None => Ok(Place::None),
        SeedPlace::Root => Ok(Place::Root),
        SeedPlace::Boot if job.facts.boot.is_some() => Ok(Place::Boot),
        SeedPlace::Boot => Err(job.image_lacks("seed", "has no FAT boot partition for the seed; say `root`")),
        // A boot partition that cloud-init looks at has its label, or carries a seed from the image's maker.
        SeedPlace::Auto => {
            let on_boot = job.facts.boot.as_ref().is_some_and(|boot| is_cidata(boot.label.as_deref()) || boot.files.contains("user-data"));
            Ok(match (on_boot, job.facts.has_cloud_init) {
                (true, _) => Place::Boot,
                (false, true) => Place::Root,
                (false, false) => Place::None,
            })
        }
    }
}

fn is_cidata(label: Option<&str>) -> bool {
    label.is_some_and(|label| label.eq_ignore_ascii_case("cidata"))
}

#[derive(Serialize)]
struct MetaData<'a> {
    #[serde(rename = "instance-id")]
    instance_id: &'a str,
    #[serde(rename = "local-hostname")]
    local_hostname: &'a str,
}

/// Users, keys and network are on the card already, so cloud-init is only told to leave them; nothing in here is secret.
#[derive(Serialize)]
struct UserData<'a> {
    hostname: &'a str,
    manage_etc_hosts: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ssh_deletekeys: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh_genkeytypes: Vec<HostKeyAlgorithm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    users: Option<[(); 0]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disable_root: Option<bool>,
}

impl<'a> UserData<'a> {
    fn of(job: &Job<'a>) -> Self {
        let ssh = &job.node.settings.ssh;
        let own_keys = !ssh.host_keys.is_empty();
        Self {
            hostname: &job.node.hostname,
            manage_etc_hosts: false,
            ssh_deletekeys: own_keys.then_some(false),
            // Those exist, so none is generated.
            ssh_genkeytypes: ssh.host_keys.keys().copied().collect(),
            // Not even the distribution's default user, whose password everybody knows; but without any user of ours it is the only one.
            users: (!ssh.users.is_empty()).then_some([]),
            disable_root: ssh.users.contains_key("root").then_some(false),
        }
    }
}

#[derive(Serialize)]
struct DropIn<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    datasource_list: Option<[&'static str; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datasource: Option<BTreeMap<&'static str, BTreeMap<&'static str, &'a str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<BTreeMap<&'static str, &'static str>>,
    #[serde(flatten)]
    user_data: UserData<'a>,
}

/// The seed with that instance-id.
pub(super) fn render(job: &Job<'_>, place: Place, instance_id: &str) -> Result<Vec<FileEdit>, RenderError> {
    let mut edits = Vec::new();
    if job.facts.has_cloud_init {
        edits.push(FileEdit::file(DROP_IN, 0o644, format!("# Written by metis.\n{}", yaml(job, &drop_in(job, place)?)?)));
    }
    if place == Place::None {
        return Ok(edits);
    }
    let network = Network::of(job)?;
    let mut files = vec![
        ("meta-data", yaml(job, &MetaData { instance_id, local_hostname: &job.node.hostname })?),
        ("user-data", format!("#cloud-config\n{}", yaml(job, &UserData::of(job))?)),
    ];
    if let Some(network) = &network {
        files.push(("network-config", yaml(job, &network.ethernets())?));
    }
    for (name, text) in files {
        edits.push(match place {
            Place::Boot => FileEdit::file(format!("/{name}"), 0o755, text).on_boot(),
            Place::Root | Place::None => FileEdit::file(format!("{ROOT_SEED}/{name}"), 0o600, text),
        });
    }
    // cloud-init merges a seed below the root with one on the boot partition.
    if place == Place::Boot {
        let stale = SEED_FILES.iter().filter(|name| job.facts.root_seed.contains(**name));
        edits.extend(stale.map(|name| FileEdit::remove(format!("{ROOT_SEED}/{name}"))));
    }
    Ok(edits)
}

fn drop_in<'a>(job: &Job<'a>, place: Place) -> Result<DropIn<'a>, RenderError> {
    let label = job.facts.boot.as_ref().and_then(|boot| boot.label.as_deref());
    let named = place == Place::Boot && !is_cidata(label);
    Ok(DropIn {
        datasource_list: (place != Place::None).then_some(["NoCloud", "None"]),
        datasource: label.filter(|_| named).map(|label| [("NoCloud", [("fs_label", label)].into())].into()),
        network: Network::of(job)?.map(|_| [("config", "disabled")].into()),
        user_data: UserData::of(job),
    })
}

fn yaml(job: &Job<'_>, value: &impl Serialize) -> Result<String, RenderError> {
    serde_yaml::to_string(value).map_err(|e| job.bad_value("seed", "", format!("cannot be written as YAML: {e}")))
}
