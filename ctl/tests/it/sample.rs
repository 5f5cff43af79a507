//! Answers of a site in trouble.

use metis_proto::v1;

use crate::fake::Image;

pub const MIB: u64 = 1 << 20;

/// 2026-11-21T14:00:00Z
const NOW: i64 = 1_795_269_600;

#[allow(clippy::unnecessary_wraps, reason = "fields of messages are options")]
pub fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: NOW + seconds, nanos: 0 })
}

#[allow(clippy::unnecessary_wraps, reason = "fields of messages are options")]
pub fn secs(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// 8 MiB: a table, a gap, a body, another gap, a tail.
pub fn image() -> Image {
    let noise = |seed: u8, len: u64| (0..len).map(|n| (n as u8).wrapping_mul(31) ^ seed | 1).collect();
    Image { size: 8 * MIB, extents: vec![(0, noise(7, 64 << 10)), (MIB - 4096, noise(9, 1 << 20)), (4 * MIB, noise(3, 2 * MIB + 512))] }
}

pub fn guards() -> Vec<v1::Guard> {
    let guard = |name: &str, message: &str, waiver: &str| v1::Guard { name: name.into(), message: message.into(), waiver: waiver.into() };
    vec![
        guard("device.mounted", "/dev/sdz1 is mounted on /mnt: unmount it", ""),
        guard("device.fixed", "/dev/sdz is not removable", "--allow-fixed"),
    ]
}

pub fn plan() -> v1::Plan {
    let step = |id: &str, title: &str, by_hand: &str, predicted| v1::PlanStep {
        id: id.into(),
        kind: id.into(),
        title: title.into(),
        by_hand: by_hand.into(),
        predicted: secs(predicted),
        deadline: secs(600),
        form: "act".into(),
        replay: "idempotent".into(),
        ..v1::PlanStep::default()
    };
    v1::Plan {
        kind: "burn".into(),
        title: "burn titan-13 to /dev/sdz".into(),
        phases: vec![
            v1::PlanPhase {
                name: "prepare".into(),
                steps: vec![step("image.fetch", "fetch and verify the golden image", "curl -fLO https://img.example/armbian.img.xz", 40)],
                ..v1::PlanPhase::default()
            },
            v1::PlanPhase {
                name: "write".into(),
                steps: vec![
                    step("card.write", "write 1.83 GB in use of 4.29 GB", "bmaptool copy armbian.img /dev/sdz", 20),
                    step("card.verify", "read back past the page cache", "", 19),
                ],
                ..v1::PlanPhase::default()
            },
        ],
        warnings: vec!["the cached image is 40 days old".into()],
        refusals: Vec::new(),
        predicted: secs(79),
        ..v1::Plan::default()
    }
}

pub fn card() -> v1::CardSummary {
    let file = |path: &str, mode, secret| v1::InjectedFile {
        path: path.into(),
        mode,
        uid: 0,
        gid: 0,
        size: 312,
        secret,
        filesystem: "root".into(),
    };
    v1::CardSummary {
        node: "titan-13".into(),
        class: "rpi4-armbian-longhorn".into(),
        image: "https://img.example/armbian.img.xz".into(),
        image_sha256: "ab".repeat(32),
        instance_id: "metis-5f0c".into(),
        files: vec![file("/etc/hostname", 0o644, false), file("/etc/rancher/k3s/config.yaml.d/10-metis.yaml", 0o600, true)],
    }
}

pub fn devices() -> Vec<v1::Device> {
    let card = v1::Device {
        path: "/dev/sdz".into(),
        by_id: "/dev/disk/by-id/usb-SanDisk_Extreme_0123".into(),
        size: 31_914_983_424,
        model: "SanDisk Extreme".into(),
        serial: "0123".into(),
        transport: "usb".into(),
        removable: true,
        read_only: false,
        mounts: Vec::new(),
        diskseq: 44,
        guards: Vec::new(),
    };
    let system = v1::Device {
        path: "/dev/sda".into(),
        by_id: String::new(),
        size: 512_110_190_592,
        model: "Samsung SSD 860".into(),
        transport: "sata".into(),
        removable: false,
        mounts: vec!["/".into()],
        guards: vec![v1::Guard { name: "device.system".into(), message: "/dev/sda holds /".into(), waiver: String::new() }],
        ..card.clone()
    };
    vec![card, system]
}

pub fn run(id: &str, phase: v1::Phase) -> v1::Run {
    let kind = id.split('-').next().unwrap_or_default().to_owned();
    let reason = match phase {
        v1::Phase::Done => "insert the card and power on",
        v1::Phase::Failed => "cannot write /dev/sdz at byte 1073741824: Input/output error",
        v1::Phase::Degraded => "written; the table could not be re-read",
        _ => "",
    };
    let ended = if reason.is_empty() { None } else { at(-100) };
    let step = v1::RunStep {
        id: "card.write".into(),
        kind: "card.write".into(),
        title: "write the card".into(),
        phase: phase.into(),
        attempts: 1,
        started: at(-200),
        ended,
        detail: "1.83 GB".into(),
        ..v1::RunStep::default()
    };
    v1::Run {
        id: id.into(),
        kind,
        title: "burn titan-13 to /dev/sdz".into(),
        phase: phase.into(),
        started: at(-300),
        ended,
        reason: reason.into(),
        requested_by: "brad (uid 1000)".into(),
        phases: vec![v1::RunPhase { name: "write".into(), steps: vec![step], predicted: None }],
        settings_digest: "5f".repeat(32),
        boot_id: "b1".into(),
        seq: 44,
        ..v1::Run::default()
    }
}

pub fn runs() -> Vec<v1::Run> {
    vec![run("burn-17", v1::Phase::Running), run("burn-16", v1::Phase::Failed), run("image-3", v1::Phase::Done)]
}

pub fn event(seq: u64, step: &str, kind: &str) -> v1::RunEvent {
    v1::RunEvent {
        run: "burn-17".into(),
        seq,
        at: at(-290 + seq as i64),
        step: step.into(),
        kind: kind.into(),
        message: String::new(),
        phase: v1::Phase::Running.into(),
        progress: None,
    }
}

pub fn events() -> Vec<v1::RunEvent> {
    let progress = v1::Progress { stage: "write".into(), done_bytes: 915_000_000, total_bytes: 1_830_000_000 };
    vec![
        event(1, "card.write", "step.started"),
        v1::RunEvent { seq: 0, progress: Some(progress), ..event(0, "card.write", "progress") },
        v1::RunEvent { message: "1.83 GB written".into(), phase: v1::Phase::Done.into(), ..event(2, "card.write", "step.ended") },
    ]
}

fn domain() -> v1::Domain {
    v1::Domain {
        name: "pyrphoros".into(),
        verdict: v1::UpsVerdict::OnBattery.into(),
        reason: "on battery for 35 s".into(),
        upses: vec!["pyrphoros@localhost".into()],
        nodes: (1..=18).map(|n| format!("titan-{n:02}")).collect(),
        budget: secs(414),
        runtime: secs(1260),
        margin: secs(804),
        would_trigger: at(804),
        trigger: None,
        budget_source: "learned from 3 runs".into(),
        budget_lines: vec![
            v1::BudgetLine { kind: "node.drain".into(), host: "titan-13".into(), takes: secs(44), learned: true },
            v1::BudgetLine { kind: "k3s.stop".into(), host: "titan-0a".into(), takes: secs(30), learned: false },
        ],
        safety_factor: 1.1,
    }
}

pub fn power() -> v1::ListUpsResponse {
    let on_battery = v1::UpsState {
        name: "pyrphoros@localhost".into(),
        verdict: v1::UpsVerdict::OnBattery.into(),
        reason: "on battery for 35 s".into(),
        status: vec!["OB".into(), "DISCHRG".into()],
        charge: Some(83.0),
        runtime: secs(1260),
        load: Some(34.0),
        last_heard: at(-2),
        since: at(-35),
        link: "connected".into(),
        fsd_latched: false,
        vars: [("battery.charge".to_owned(), "83".to_owned())].into(),
    };
    let silent = v1::UpsState {
        name: "statera@tethys".into(),
        verdict: v1::UpsVerdict::Unknown.into(),
        reason: "never heard from".into(),
        link: "DATA-STALE".into(),
        ..v1::UpsState::default()
    };
    let trigger = v1::Trigger { at: at(-5), because: "runtime 6 min ≤ 1.10 × budget 6 min 54 s".into(), acted: false };
    let lost = v1::Domain {
        name: "statera".into(),
        verdict: v1::UpsVerdict::Critical.into(),
        nodes: vec!["titan-23".into()],
        runtime: secs(360),
        margin: secs(-95),
        trigger: Some(trigger),
        ..domain()
    };
    v1::ListUpsResponse { upses: vec![on_battery, silent], domains: vec![domain(), lost], now: at(0) }
}

pub fn history() -> v1::UpsHistoryResponse {
    let sample = |t, status: &str, charge| v1::UpsSample {
        at: at(t),
        name: "pyrphoros@localhost".into(),
        status: status.into(),
        charge,
        runtime: secs(1260),
        load: None,
    };
    let transition = v1::UpsTransition {
        at: at(-35),
        name: "pyrphoros@localhost".into(),
        from: v1::UpsVerdict::Online.into(),
        to: v1::UpsVerdict::OnBattery.into(),
        reason: "OB held for 3 polls".into(),
    };
    v1::UpsHistoryResponse { samples: vec![sample(-60, "OL", Some(100.0)), sample(-30, "OB DISCHRG", None)], transitions: vec![transition] }
}

pub fn status() -> v1::GetStatusResponse {
    v1::GetStatusResponse {
        version: "0.1.0".into(),
        host: "titan-db".into(),
        host_role: "coordinator".into(),
        phase: "watching 2 UPSes; burn-17 runs".into(),
        armed: false,
        on_trigger: "observe".into(),
        started: at(-11_520),
        boot_id: "b1".into(),
        journal: Some(v1::JournalStatus { writable: true, degraded: String::new(), last_seq: 1042, facts: 1042 }),
        config: Some(v1::ConfigStatus {
            files: vec!["/etc/metis/metis.yaml".into()],
            digest: "5f".repeat(32),
            loaded: at(-11_520),
            rejected: vec!["/etc/metis/metis.yaml:12:3: power.polll: unknown key, allowed: poll, upses".into()],
        }),
        domains: vec![domain()],
        runs: runs(),
        problems: vec!["statera@tethys: never heard from; look at `upsc statera@tethys`".into()],
        caller_role: v1::Role::Maintenance.into(),
        now: at(0),
        clock_synced: true,
        ups_host: "pyrphoros@localhost".into(),
        ups_battery: Some(81.0),
        upses: vec![v1::UpsState {
            name: "pyrphoros@localhost".into(),
            verdict: v1::UpsVerdict::OnBattery.into(),
            charge: Some(81.0),
            ..v1::UpsState::default()
        }],
        flux_source: Some(v1::FluxSourceStatus {
            ready: Some(true),
            detail: "GitRepository flux-system/flux-system has main@sha1:5eed".into(),
        }),
        leases: vec![v1::Lease { node: "titan-13".into(), run: "shutdown-3".into(), expires: at(2_400), ..v1::Lease::default() }],
        prepared: Some(v1::PreparedStatus {
            at: at(-86_400),
            requested_by: "erika (uid 1000)".into(),
            green: false,
            problems: vec!["host: titan-15: sudo asks metis for a password".into()],
            warnings: 2,
            cannot_tell: 1,
            outdated: false,
        }),
        peer: None,
    }
}
