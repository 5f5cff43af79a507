//! What a burn or an image run does: pure, from the merged node, the image and the target.

use std::collections::BTreeMap;
use std::time::Duration;

use super::device::{Device, Want, guards};
use crate::runbook::{Form, Phase, PlannedStep, Replay, Retry, Runbook};
use crate::site::{ClassName, Guard, ImageRef, MergedNode, Step};

/// What to build, with everything that a caller may say differently for one request.
#[derive(Debug, Clone, PartialEq)]
pub struct CardOrder {
    /// The node.
    pub node: MergedNode,
    /// Its image after overrides; `None`: its class has none.
    pub image: Option<ImageRef>,
    /// Size of the unpacked image where it is cached, in bytes.
    pub cached_size: Option<u64>,
    /// The golden image as it is.
    pub no_inject: bool,
    /// What a person should know of the overrides.
    pub warnings: Vec<String>,
}

/// Where the card goes.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// A device of this host.
    Device {
        /// As found.
        device: Box<Device>,
        /// Waives the guards against devices that are no cards.
        allow_fixed: bool,
    },
    /// The caller writes it.
    Caller {
        /// `image`, or `burn` for a file that stands in for a card.
        purpose: String,
        /// For the record.
        target: String,
    },
}

/// Image URL and SHA-256 by class, as a request brings them (`METIS_IMAGE_<CLASS>`, `METIS_IMAGE_<CLASS>_SHA256`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// By class name.
    pub image: BTreeMap<String, String>,
    /// By class name.
    pub sha256: BTreeMap<String, String>,
    /// Whether the caller may name a file of this host; the daemon opens no other path that a caller names.
    pub may_name_files: bool,
}

impl Overrides {
    /// The image of a class under these overrides, with what a person should know, or the guard that refuses.
    pub fn apply(&self, class: &ClassName, image: Option<ImageRef>) -> Result<(Option<ImageRef>, Vec<String>), Guard> {
        let (url, sha256) = (lookup(&self.image, class), lookup(&self.sha256, class));
        if url.is_none() && sha256.is_none() {
            return Ok((image, Vec::new()));
        }
        let refuse = |name: &str, message: String| Err(Guard { name: name.to_owned(), message, waiver: None });
        let env = format!("METIS_IMAGE_{}", class.as_str().to_uppercase().replace('-', "_"));
        if let Some(sum) = sha256
            && (sum.len() != 64 || !sum.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return refuse("image.override", format!("{env}_SHA256 is not a SHA-256 in hex: {} characters", sum.len()));
        }
        if let Some(url) = url {
            if !url.starts_with("https://") && !url.starts_with("file:") {
                return refuse("image.override", format!("{env}: {url}: only https: and file: are images"));
            }
            if url.starts_with("file:") && !self.may_name_files {
                return refuse("image.override", format!("{env}: only role admin may name a file of the daemon's host"));
            }
        }
        let Some(sha256) = sha256.map(str::to_lowercase).or_else(|| image.as_ref().map(|i| i.sha256.clone())) else {
            return refuse("image.override", format!("{env} names an image for which no SHA-256 is known: set {env}_SHA256 too"));
        };
        let Some(url) = url.map(str::to_owned).or_else(|| image.as_ref().map(|i| i.url.clone())) else {
            return refuse("image.override", format!("{env}_SHA256 is set, but class {class} has no image: set {env} too"));
        };
        let content_sha256 = image.filter(|i| i.sha256 == sha256).and_then(|i| i.content_sha256);
        let warning = format!("the image of class {class} is overridden by the request: {url} with SHA-256 {sha256}");
        Ok((Some(ImageRef { url, sha256, content_sha256 }), vec![warning]))
    }
}

/// Environment variables know neither case nor `-`: a class that differs only there is meant.
fn lookup<'a>(map: &'a BTreeMap<String, String>, class: &ClassName) -> Option<&'a str> {
    let plain = |name: &str| name.to_lowercase().replace('_', "-");
    map.iter().find(|(name, _)| plain(name) == plain(class.as_str())).map(|(_, value)| value.as_str())
}

/// Bytes a second that a common card writes and reads (SD class V30); for predictions only.
const CARD_WRITES: u64 = 30_000_000;
const CARD_READS: u64 = 80_000_000;

/// The plan of a burn or an image run. A plan with refusals must not be executed.
pub fn plan(order: &CardOrder, target: &Target) -> Runbook<Step> {
    let node = &order.node;
    let (kind, title) = match target {
        Target::Device { device, .. } => ("burn", format!("burn {} to {}", node.name, device.path.display())),
        Target::Caller { purpose, target } => {
            (if purpose == "burn" { "burn" } else { "image" }, format!("{purpose} {} to {target}", node.name))
        }
    };
    let mut refusals = Vec::new();
    let mut warnings = order.warnings.clone();
    if let Target::Device { device, allow_fixed } = target {
        refusals = guards(device, &Want { size: order.cached_size.unwrap_or(0), allow_fixed: *allow_fixed, diskseq: 0 });
        if order.cached_size.is_none() {
            warnings.push("the image is not cached yet: whether the card is large enough is checked once it is unpacked".to_owned());
        }
    }
    if order.no_inject {
        warnings.push(format!("nothing is injected: the card boots as the golden image, not as {}", node.name));
    }
    let phases = if let Some(image) = &order.image {
        vec![
            Phase::serial("image", vec![fetch(image, order.cached_size), prepare(order, image)]),
            Phase::serial("card", vec![write(target, order.cached_size)]),
        ]
    } else {
        let message = format!("class {} of {} has no image: set classes.{}.image in the inventory", node.class, node.name, node.class);
        refusals.push(Guard { name: "image.none".to_owned(), message, waiver: None });
        Vec::new()
    };
    Runbook { warnings, refusals, ..Runbook::new(kind, title, phases) }
}

fn fetch(image: &ImageRef, cached: Option<u64>) -> PlannedStep<Step> {
    let state = if cached.is_some() { "cached" } else { "to be fetched" };
    let title = format!("golden image {} ({state}), SHA-256 {}", image.url, image.sha256);
    let action = Step::FetchImage { image: image.clone() };
    PlannedStep {
        form: Form::Ensure,
        by_hand: format!("curl -fL -o IMAGE '{}' && echo '{}  IMAGE' | sha256sum -c", image.url, image.sha256),
        retry: Retry { attempts: 3, back_off: Duration::from_secs(2), longest: Duration::from_secs(30) },
        ..PlannedStep::act("image.fetch", title, action, Duration::from_secs(4 * 3600))
    }
}

fn prepare(order: &CardOrder, image: &ImageRef) -> PlannedStep<Step> {
    let name = &order.node.name;
    let title = if order.no_inject { "nothing to inject".to_owned() } else { format!("render {name} and lay its files over the image") };
    let action = Step::PrepareCard { node: name.clone(), image: image.clone(), no_inject: order.no_inject };
    PlannedStep {
        by_hand: format!("metisctl config --node {name}"),
        predicted: Duration::from_secs(1),
        ..PlannedStep::act("card.prepare", title, action, Duration::from_secs(600))
    }
}

fn write(target: &Target, size: Option<u64>) -> PlannedStep<Step> {
    let limit = Duration::from_secs(6 * 3600);
    let seconds = |bytes: u64, rate: u64| Duration::from_secs(bytes / rate);
    let predicted = size.map_or(Duration::ZERO, |size| seconds(size, CARD_WRITES) + seconds(size, CARD_READS));
    match target {
        Target::Device { device, allow_fixed } => {
            let path = device.path.display();
            let title =
                format!("write {path} ({} {}), read it back, partition table last", device.transport, device.model).replace("  ", " ");
            let action = Step::WriteCard { device: device.path.clone(), diskseq: device.diskseq, allow_fixed: *allow_fixed };
            PlannedStep {
                by_hand: format!("dd if=IMAGE of={path} bs=4M oflag=direct conv=fsync && cmp IMAGE {path}"),
                predicted,
                replay: Replay::NeverRepeat,
                ..PlannedStep::act("card.write", title, action, limit)
            }
        }
        Target::Caller { target, .. } => PlannedStep {
            by_hand: String::new(),
            replay: Replay::NeverRepeat,
            ..PlannedStep::act(
                "image.stream",
                format!("stream it to the caller, who writes {target} and reads it back"),
                Step::StreamImage { target: target.clone() },
                limit,
            )
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::device::Kind;
    use crate::site::{Arch, NodeName, NodeSettings};

    fn image() -> ImageRef {
        ImageRef { url: "https://images.example/a.img.xz".into(), sha256: "a".repeat(64), content_sha256: None }
    }

    fn order() -> CardOrder {
        let node = MergedNode {
            name: NodeName::new("titan-13"),
            hostname: "titan-13".into(),
            class: "rpi4-armbian-longhorn".into(),
            arch: Arch::Arm64,
            image: Some(image()),
            settings: NodeSettings::default(),
        };
        CardOrder { node, image: Some(image()), cached_size: Some(4_000_000_000), no_inject: false, warnings: Vec::new() }
    }

    fn device() -> Target {
        let device = Device {
            kind: Kind::Disk,
            path: "/dev/sdz".into(),
            size: 32_000_000_000,
            sector_size: 512,
            transport: "usb",
            removable: true,
            ..Device::default()
        };
        Target::Device { device: Box::new(device), allow_fixed: false }
    }

    #[test]
    fn a_burn_fetches_prepares_and_writes_in_this_order() {
        let plan = plan(&order(), &device());
        assert_eq!(plan.refusals, []);
        assert_eq!(plan.title, "burn titan-13 to /dev/sdz");
        assert_eq!(plan.steps().map(|s| s.action.kind()).collect::<Vec<_>>(), ["image.fetch", "card.prepare", "card.write"]);
        assert!(plan.predicted() > Duration::from_secs(100));
        assert_eq!(plan.steps().last().map(|s| s.replay), Some(Replay::NeverRepeat));
    }

    #[test]
    fn a_class_without_image_is_refused_with_all_other_guards() {
        let mut order = order();
        order.image = None;
        let Target::Device { mut device, .. } = device() else { unreachable!() };
        device.mounts = vec!["/mnt".into()];
        device.removable = false;
        let names: Vec<_> = plan(&order, &Target::Device { device, allow_fixed: false }).refusals.into_iter().map(|g| g.name).collect();
        assert_eq!(names, ["device.mounted", "device.fixed", "image.none"]);
    }

    #[test]
    fn a_card_that_is_too_small_is_refused_once_the_size_is_known() {
        let Target::Device { mut device, .. } = device() else { unreachable!() };
        device.size = 3_000_000_000;
        let target = Target::Device { device, allow_fixed: true };
        assert_eq!(plan(&order(), &target).refusals[0].name, "device.too_small");
        let unknown = CardOrder { cached_size: None, ..order() };
        assert_eq!(plan(&unknown, &target).refusals, []);
        assert!(plan(&unknown, &target).warnings[0].contains("not cached"));
    }

    #[test]
    fn overrides_are_loud_and_bounded() {
        let class = ClassName::new("rpi5-ubuntu");
        let with = |url: Option<&str>, sum: Option<&str>, files: bool| {
            let map = |v: Option<&str>| v.map(|v| ("RPI5_UBUNTU".to_owned(), v.to_owned())).into_iter().collect();
            Overrides { image: map(url), sha256: map(sum), may_name_files: files }.apply(&class, Some(image()))
        };
        let sum = "B".repeat(64);
        let (got, warnings) = with(Some("https://mirror.example/b.img"), Some(&sum), false).unwrap();
        assert_eq!(got.unwrap().sha256, "b".repeat(64));
        assert!(warnings[0].contains("overridden"));
        assert_eq!(with(None, None, false).unwrap(), (Some(image()), vec![]));
        assert_eq!(with(Some("https://mirror.example/a.img.xz"), None, false).unwrap().0.unwrap().sha256, "a".repeat(64));
        for (url, sum, part) in [
            (Some("http://plain.example/x"), None, "only https: and file:"),
            (Some("file:/etc/shadow"), None, "only role admin"),
            (None, Some("abc"), "not a SHA-256"),
        ] {
            assert!(with(url, sum, false).unwrap_err().message.contains(part), "{part}");
        }
        assert!(with(Some("file:/srv/a.img"), None, true).is_ok());
        assert!(Overrides::default().apply(&class, None).unwrap().0.is_none());
    }
}
