use proptest::prelude::*;

use super::*;

fn card() -> Device {
    Device {
        path: "/dev/sdz".into(),
        size: 64_000_000_000,
        sector_size: 512,
        transport: "usb",
        removable: true,
        diskseq: 7,
        ..Device::default()
    }
}

const WANT: Want = Want { size: 4_000_000_000, allow_fixed: false, diskseq: 7 };

fn names(device: &Device, want: &Want) -> Vec<String> {
    guards(device, want).into_iter().map(|guard| guard.name).collect()
}

#[test]
fn a_card_in_a_reader_passes() {
    assert_eq!(names(&card(), &WANT), [""; 0]);
}

#[test]
fn each_guard_alone() {
    let list = |text: &str| vec![text.to_owned()];
    let cases: Vec<(&str, Device, Option<&str>)> = vec![
        ("device.system", Device { system: list("/"), ..card() }, None),
        ("device.mounted", Device { mounts: list("/media/card"), ..card() }, None),
        ("device.swap", Device { swaps: list("/dev/sdz2"), ..card() }, None),
        ("device.held", Device { holders: list("dm-0 (vg-root)"), ..card() }, None),
        ("device.no_medium", Device { size: 0, ..card() }, None),
        ("device.too_small", Device { size: 3_999_999_488, ..card() }, None),
        ("device.read_only", Device { read_only: true, ..card() }, None),
        ("device.sector_size", Device { sector_size: 4096, ..card() }, None),
        ("device.changed", Device { diskseq: 8, ..card() }, None),
        ("device.fixed", Device { removable: false, ..card() }, Some("--allow-fixed")),
        ("device.large", Device { size: 12_000_000_000_000, ..card() }, Some("--allow-fixed")),
        ("device.partition", Device { kind: Kind::Partition("/dev/sdz".into()), ..card() }, None),
        ("device.not_block", Device { kind: Kind::NotBlock, ..card() }, None),
        ("device.missing", Device { kind: Kind::Missing, ..card() }, None),
    ];
    for (name, device, waiver) in cases {
        let found = guards(&device, &WANT);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        assert_eq!((found[0].name.as_str(), found[0].waiver.as_deref()), (name, waiver));
        assert!(found[0].message.contains("/dev/sdz"), "{}", found[0].message);
        let waived = guards(&device, &Want { allow_fixed: true, ..WANT });
        assert_eq!(waived.is_empty(), waiver.is_some(), "{name}");
    }
}

#[test]
fn exactly_large_enough_passes_and_an_unknown_diskseq_is_not_compared() {
    assert_eq!(names(&Device { size: WANT.size, ..card() }, &WANT), [""; 0]);
    assert_eq!(names(&card(), &Want { diskseq: 0, ..WANT }), [""; 0]);
}

#[test]
fn all_guards_are_named_at_once() {
    let device = Device {
        size: 1,
        read_only: true,
        removable: false,
        mounts: (0..9).map(|n| format!("/mnt/{n}")).collect(),
        system: vec!["/".into(), "/var".into()],
        ..card()
    };
    assert_eq!(names(&device, &WANT), ["device.system", "device.mounted", "device.too_small", "device.read_only", "device.fixed"]);
    let messages: Vec<String> = guards(&device, &WANT).into_iter().map(|guard| guard.message).collect();
    assert_eq!(messages[0], "/dev/sdz holds /, /var of this running host");
    assert_eq!(messages[1], "/dev/sdz is mounted at /mnt/0, /mnt/1, /mnt/2, /mnt/3, /mnt/4 and 4 more; unmount it first");
}

proptest! {
    #[test]
    fn no_flag_opens_a_disk_in_use(allow_fixed: bool, diskseq in 0..9u64, size in 0..100u64, which in 0..4usize, removable: bool) {
        let mut device = Device { size: 50, removable, ..card() };
        [&mut device.system, &mut device.mounts, &mut device.swaps, &mut device.holders][which].push("x".to_owned());
        let want = Want { size, allow_fixed, diskseq };
        prop_assert!(guards(&device, &want).iter().any(|guard| guard.waiver.is_none()));
    }

    #[test]
    fn sizes_are_readable(count: u64) {
        prop_assert!(bytes(count).len() <= 15, "{}", bytes(count));
    }
}
