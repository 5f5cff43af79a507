//! Cards and devices.

use std::fmt::Write as _;

use metis_proto::v1;
use serde::Serialize;

use super::plan::{GuardView, PlanView};
use super::{harmless, text};
use crate::human::{self, Look};
use crate::output::{Tone, cell, table};

/// Answer of `plan`, and of a dry run of `burn` and `image`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CardPlanView {
    /// Always true: nothing was changed.
    pub dry_run: bool,
    /// What would be done.
    pub plan: PlanView,
    /// The block device, if it is one.
    pub device: Option<DeviceView>,
    /// What would be on the card.
    pub card: Option<CardView>,
}

/// What is on a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CardView {
    /// e.g. "titan-13".
    pub node: String,
    /// e.g. "rpi4-armbian-longhorn".
    pub class: String,
    /// Where the golden image comes from.
    pub image: String,
    /// SHA-256, hex, of the golden image as published.
    pub image_sha256: Option<String>,
    /// cloud-init's instance-id.
    pub instance_id: Option<String>,
    /// Injected files.
    pub files: Vec<FileView>,
}

/// An injected file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileView {
    /// Path within its file system.
    pub path: String,
    /// Permission bits in octal, e.g. "0600".
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size.
    pub size_bytes: u64,
    /// Whether its content is secret.
    pub secret: bool,
    /// e.g. "root" or "boot".
    pub filesystem: String,
}

/// A block device of the daemon's host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceView {
    /// e.g. "/dev/sdz".
    pub path: String,
    /// Stable name.
    pub by_id: Option<String>,
    /// Size.
    pub size_bytes: u64,
    /// As the device says.
    pub model: Option<String>,
    /// As the device says.
    pub serial: Option<String>,
    /// e.g. "usb", "mmc", "sata", "loop".
    pub transport: Option<String>,
    /// Whether the kernel calls it removable.
    pub removable: bool,
    /// Whether it is write-protected.
    pub read_only: bool,
    /// Where it or its partitions are mounted.
    pub mounts: Vec<String>,
    /// The kernel's disk sequence number.
    pub diskseq: u64,
    /// No guard speaks against writing it.
    pub writable: bool,
    /// Why it would be refused.
    pub guards: Vec<GuardView>,
}

/// Answer of `device`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DevicesView {
    /// All block devices that could be a card.
    pub devices: Vec<DeviceView>,
}

impl From<v1::CardSummary> for CardView {
    fn from(c: v1::CardSummary) -> Self {
        let file = |f: v1::InjectedFile| FileView {
            path: f.path,
            mode: format!("{:04o}", f.mode & 0o7777),
            uid: f.uid,
            gid: f.gid,
            size_bytes: f.size,
            secret: f.secret,
            filesystem: f.filesystem,
        };
        Self {
            node: c.node,
            class: c.class,
            image: c.image,
            image_sha256: text(c.image_sha256),
            instance_id: text(c.instance_id),
            files: c.files.into_iter().map(file).collect(),
        }
    }
}

impl From<v1::Device> for DeviceView {
    fn from(d: v1::Device) -> Self {
        Self {
            path: d.path,
            by_id: text(d.by_id),
            size_bytes: d.size,
            model: harmless(&d.model),
            serial: harmless(&d.serial),
            transport: text(d.transport),
            removable: d.removable,
            read_only: d.read_only,
            mounts: d.mounts,
            diskseq: d.diskseq,
            writable: d.guards.is_empty(),
            guards: d.guards.into_iter().map(Into::into).collect(),
        }
    }
}

impl CardView {
    /// Node, image and injected files.
    pub fn table(&self, look: &Look) -> String {
        let mut s = format!("card     {} ({})\n", self.node, self.class);
        if !self.image.is_empty() {
            let _ = writeln!(s, "image    {}", self.image);
        }
        if let Some(sha256) = &self.image_sha256 {
            let _ = writeln!(s, "sha256   {sha256}");
        }
        if let Some(id) = &self.instance_id {
            let _ = writeln!(s, "instance {id}");
        }
        if !self.files.is_empty() {
            let _ = writeln!(s, "\n{}", files(&self.files, look));
        }
        s
    }
}

fn files(files: &[FileView], look: &Look) -> String {
    let rows = files.iter().map(|f| {
        let secret = if f.secret { "secret" } else { "" };
        let owner = format!("{}:{}", f.uid, f.gid);
        [f.mode.clone(), owner, human::bytes(f.size_bytes), f.filesystem.clone(), f.path.clone(), secret.into()]
            .into_iter()
            .map(|text| cell(text, Tone::Plain))
            .collect()
    });
    table(&["MODE", "OWNER", "SIZE", "ON", "INJECTED FILE", ""], &[2], rows.collect(), look)
}

impl CardPlanView {
    /// Card, device, then the plan.
    pub fn table(&self, look: &Look) -> String {
        let card = self.card.as_ref().map(|c| c.table(look)).unwrap_or_default();
        let device = self.device.as_ref().map(DeviceView::line).unwrap_or_default();
        format!("{device}{card}\n{}", self.plan.table(look)).trim_start().to_owned()
    }
}

impl DeviceView {
    fn line(&self) -> String {
        let by_id = self.by_id.as_ref().map(|id| format!("\n         {id}")).unwrap_or_default();
        let model = self.model.as_ref().map(|m| format!(", {m}")).unwrap_or_default();
        let size = if self.size_bytes > 0 { format!(", {}", human::bytes(self.size_bytes)) } else { String::new() };
        format!("device   {}{size}{model}{by_id}\n", self.path)
    }
}

impl DevicesView {
    /// One line a device; below it why it would be refused.
    pub fn table(&self, look: &Look) -> String {
        if self.devices.is_empty() {
            return "metisd's host has no block devices that could be a card".into();
        }
        let rows = self.devices.iter().map(|d| {
            let state = if d.writable { cell("can be written", Tone::Good) } else { cell("would be refused", Tone::Warn) };
            let plain = |text: &str| cell(text, Tone::Plain);
            vec![
                plain(&d.path),
                plain(&human::bytes(d.size_bytes)),
                plain(d.transport.as_deref().unwrap_or("-")),
                plain(d.model.as_deref().unwrap_or("-")),
                state,
                plain(d.by_id.as_deref().unwrap_or("-")),
            ]
        });
        let mut s = table(&["DEVICE", "SIZE", "BUS", "MODEL", "STATE", "STABLE NAME"], &[1], rows.collect(), look);
        for device in self.devices.iter().filter(|d| !d.writable) {
            let _ = write!(s, "\n\n{} would be refused:", device.path);
            for guard in &device.guards {
                let _ = write!(s, "\n  {guard}");
            }
        }
        s
    }
}
