use std::os::unix::fs::symlink;

use super::*;

/// A tree as `/sys`, `/dev` and `/proc` would look.
struct Tree {
    dir: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let tree = Self { dir: tempfile::tempdir().unwrap() };
        for dir in ["sys/block", "dev/disk/by-id", "proc/self"] {
            fs::create_dir_all(tree.dir.path().join(dir)).unwrap();
        }
        tree.mounts("22 1 0:21 / /proc rw - proc proc rw\n")
    }

    fn roots(&self) -> Roots {
        let root = self.dir.path();
        Roots { sys: root.join("sys"), dev: root.join("dev"), proc: root.join("proc") }
    }

    fn file(self, path: &str, text: &str) -> Self {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn mounts(self, table: &str) -> Self {
        self.file("proc/self/mountinfo", table)
    }

    /// A disk on `bus` (its directory below `sys/devices`), 64 GB, not removable.
    fn disk(self, name: &str, dev: &str, bus: &str) -> Self {
        let real = format!("sys/devices/{bus}/block/{name}");
        let tree = self
            .file(&format!("{real}/dev"), dev)
            .file(&format!("{real}/size"), "125000000\n")
            .file(&format!("{real}/queue/logical_block_size"), "512\n")
            .file(&format!("{real}/diskseq"), "7\n");
        symlink(tree.dir.path().join(&real), tree.dir.path().join("sys/block").join(name)).unwrap();
        tree
    }

    fn partition(self, disk: &str, name: &str, dev: &str) -> Self {
        self.file(&format!("sys/block/{disk}/{name}/dev"), dev).file(&format!("sys/block/{disk}/{name}/partition"), "1\n")
    }

    /// `upper` made of `lower` (a disk, or `disk/partition`).
    fn stack(self, upper: &str, lower: &str) -> Self {
        let name = lower.rsplit('/').next().unwrap();
        self.file(&format!("sys/block/{upper}/slaves/{name}"), "").file(&format!("sys/block/{lower}/holders/{upper}"), "")
    }

    fn get(&self, name: &str) -> Device {
        let host_roots = self.roots();
        let host = Host::read(&host_roots).unwrap();
        host.device(name, &host.topology.blocks[name])
    }
}

fn usual() -> Tree {
    Tree::new().disk("sda", "8:0", "pci0000:00/ata1/host0").partition("sda", "sda1", "8:1").partition("sda", "sda2", "8:2").disk(
        "sdz",
        "65:144",
        "pci0000:00/usb2/2-1/2-1:1.0/host6",
    )
}

#[test]
fn a_card_in_a_usb_reader_is_described() {
    let tree = usual()
        .file("sys/block/sdz/device/vendor", "Generic \n")
        .file("sys/block/sdz/device/model", "MassStorageClass\n")
        .file("sys/devices/pci0000:00/usb2/2-1/idVendor", "05e3\n")
        .file("sys/devices/pci0000:00/usb2/2-1/serial", "000000001206\n");
    for id in ["wwn-0x5000", "usb-Generic_MassStorageClass_000000001206-0:0"] {
        symlink("../../sdz", tree.roots().dev.join("disk/by-id").join(id)).unwrap();
    }
    symlink("../../sda", tree.roots().dev.join("disk/by-id/ata-OTHER")).unwrap();
    let device = tree.get("sdz");
    assert_eq!(device.path, tree.roots().dev.join("sdz"));
    assert_eq!(device.by_id, Some(tree.roots().dev.join("disk/by-id/usb-Generic_MassStorageClass_000000001206-0:0")));
    assert_eq!((device.size, device.sector_size, device.diskseq), (64_000_000_000, 512, 7));
    assert_eq!((device.model.as_str(), device.serial.as_str()), ("Generic MassStorageClass", "000000001206"));
    assert_eq!((device.transport, device.removable, device.read_only), ("usb", true, false));
    assert_eq!(device.number, "65:144");
    assert!(device.mounts.is_empty() && device.swaps.is_empty() && device.holders.is_empty() && device.system.is_empty());
}

#[test]
fn transports_by_name_and_bus() {
    for (name, bus, kind, transport, removable) in [
        ("sdb", "pci0000:00/0000:00:17.0/ata2/host1", "", "sata", false),
        ("sdb", "pci0000:00/0000:00:14.0/usb1/1-4/host4", "", "usb", true),
        ("sdb", "pci0000:00/virtio3/host2", "", "virtio", false),
        ("sdb", "platform/host2", "", "scsi", false),
        ("sdb", "platform/usbhub/host2", "", "scsi", false),
        ("mmcblk0", "platform/mmc0/mmc0:aaaa", "SD\n", "mmc", true),
        // Soldered memory is no card, whatever the slot is called.
        ("mmcblk0", "platform/mmc0/mmc0:0001", "MMC\n", "emmc", false),
        ("nvme0n1", "pci0000:00/nvme/nvme0", "", "nvme", false),
        ("vda", "pci0000:00/virtio1", "", "virtio", false),
        ("loop9", "virtual", "", "loop", false),
        ("xvda", "virtual", "", "other", false),
    ] {
        let tree = Tree::new().disk(name, "240:0", bus).file(&format!("sys/devices/{bus}/block/{name}/device/type"), kind);
        let device = tree.get(name);
        assert_eq!((device.transport, device.removable), (transport, removable), "{name} on {bus}");
    }
}

#[test]
fn an_sd_card_is_known_by_its_cid() {
    let tree = Tree::new()
        .disk("mmcblk0", "179:0", "platform/mmc0/mmc0:aaaa")
        .file("sys/block/mmcblk0/device/cid", "035344534c3634478012345678014a00\n")
        .file("sys/block/mmcblk0/device/serial", "0x12345678\n")
        .file("sys/block/mmcblk0/device/name", "SL64G\n");
    let device = tree.get("mmcblk0");
    assert_eq!((device.serial.as_str(), device.model.as_str()), ("035344534c3634478012345678014a00", "SL64G"));
}

#[test]
fn mounts_of_partitions_and_of_what_is_stacked_on_them() {
    let tree = usual()
        .disk("dm-0", "252:0", "virtual")
        .file("sys/block/dm-0/dm/name", "vg-data\n")
        .stack("dm-0", "sda/sda2")
        .mounts("1 0 8:1 / /mnt/one rw - ext4 /dev/sda1 rw\n2 0 252:0 / /mnt/data rw - xfs /dev/mapper/vg-data rw\n");
    let disk = tree.get("sda");
    assert_eq!(disk.mounts, ["/mnt/data", "/mnt/one"]);
    assert_eq!(disk.holders, ["dm-0 (vg-data)"]);
    assert!(disk.system.is_empty());
    assert!(tree.get("sdz").mounts.is_empty());
}

#[test]
fn a_btrfs_is_found_by_its_source_and_all_its_members() {
    let tree = usual()
        .file("sys/fs/btrfs/0a1b/devices/sda1", "")
        .file("sys/fs/btrfs/0a1b/devices/sdz", "")
        .mounts("1 0 0:44 /sub /mnt/b rw - btrfs /dev/sda1 rw,subvol=/sub\n");
    assert_eq!(tree.get("sda").mounts, ["/mnt/b"]);
    assert_eq!(tree.get("sdz").holders, ["btrfs 0a1b"]);
}

#[test]
fn swap_by_partition_and_by_mapper_name() {
    let tree = usual()
        .disk("dm-3", "252:3", "virtual")
        .file("sys/block/dm-3/dm/name", "vg-swap\n")
        .stack("dm-3", "sdz")
        .file("proc/swaps", "Filename Type Size Used Priority\n/dev/sda2 partition 9 0 -2\n/dev/mapper/vg-swap partition 9 0 -3\n");
    assert_eq!(tree.get("sda").swaps, ["/dev/sda2"]);
    assert_eq!(tree.get("sdz").swaps, ["/dev/mapper/vg-swap"]);
}

#[test]
fn system_disks_through_every_stack() {
    let root_on = |mount: &str| format!("1 0 0:5 / /dev rw - devtmpfs devtmpfs rw\n{mount}\n");
    let lvm = usual()
        .disk("dm-0", "252:0", "virtual")
        .stack("dm-0", "sda/sda2")
        .disk("dm-1", "252:1", "virtual")
        .stack("dm-1", "dm-0")
        .mounts(&root_on("2 0 252:1 / / rw - ext4 /dev/mapper/x rw"));
    assert!(lvm.get("sda").system.contains(&"/var/lib/metis".to_owned()), "LVM in LUKS");

    let partition = usual().mounts(&root_on("2 0 8:1 / / rw - ext4 /dev/root rw"));
    assert_eq!(partition.get("sda").system.len(), SYSTEM.len(), "plain partition");
    assert!(partition.get("sdz").system.is_empty());

    let var = usual().mounts(&root_on("2 0 8:1 / / rw - ext4 /dev/root rw\n3 2 65:144 /v /var/lib/metis rw - ext4 /dev/sdz rw"));
    assert_eq!(var.get("sdz").system, ["/var/lib/metis"], "bind mount of a directory of the disk");

    let overlay = usual().mounts(&root_on(
        "2 0 0:30 / / rw - overlay overlayroot rw,lowerdir=/media/root-ro,upperdir=/media/rw/up,workdir=/media/rw/work\n\
         3 2 8:2 / /media/root-ro ro - ext4 /dev/sda2 ro\n4 2 65:144 / /media/rw rw - ext4 /dev/sdz rw",
    ));
    assert_eq!(overlay.get("sda").system.len(), SYSTEM.len(), "overlay's lower layer");
    assert_eq!(overlay.get("sdz").system.len(), SYSTEM.len(), "overlay's upper layer");

    let live = usual()
        .disk("loop0", "7:0", "virtual")
        .file("sys/block/loop0/loop/backing_file", "/run/live/medium/root.squashfs")
        .mounts(&root_on("2 0 7:0 / / ro - squashfs /dev/loop0 ro\n3 2 65:144 / /run/live/medium ro - iso9660 /dev/sdz ro"));
    assert_eq!(live.get("sdz").system.len(), SYSTEM.len(), "a live system's stick");

    let raid = usual()
        .disk("md0", "9:0", "virtual")
        .stack("md0", "sda/sda2")
        .stack("md0", "sdz")
        .mounts(&root_on("2 0 9:0 / / rw - ext4 /dev/md0 rw"));
    assert!(!raid.get("sda").system.is_empty() && !raid.get("sdz").system.is_empty(), "RAID 1");
}

#[test]
fn a_mount_that_only_process_1_sees_counts() {
    let tree = usual().file("proc/1/mountinfo", "9 0 65:144 / /media/card rw - ext4 /dev/sdz rw\n");
    assert_eq!(tree.get("sdz").mounts, ["/media/card"]);
}

#[test]
fn a_loop_over_a_disk_holds_it() {
    let tree = usual().disk("loop3", "7:3", "virtual").file("sys/block/loop3/loop/backing_file", "/dev/sdz\n");
    assert_eq!(tree.get("sdz").holders, ["loop3"]);
}

#[test]
fn the_list_leaves_out_what_is_no_disk_of_its_own() {
    let tree = ["ram0", "zram0", "dm-0", "md0", "sr0", "mmcblk0boot0", "mmcblk0rpmb"]
        .iter()
        .enumerate()
        .fold(usual(), |tree, (index, name)| tree.disk(name, &format!("250:{index}"), "virtual"))
        .disk("mmcblk0", "179:0", "platform/mmc0")
        .disk("sdy", "65:128", "pci0000:00/usb2/2-2/host7")
        .file("sys/block/sdy/size", "0\n");
    let names: Vec<_> = list(&tree.roots()).unwrap().into_iter().map(|device| device.path).collect();
    assert_eq!(names, ["mmcblk0", "sda", "sdz"].map(|name| tree.roots().dev.join(name)));
}

#[test]
fn without_the_mount_table_nothing_is_called_safe() {
    let tree = usual();
    fs::remove_file(tree.roots().proc.join("self/mountinfo")).unwrap();
    assert_eq!(list(&tree.roots()).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn paths_that_are_no_disks() {
    let roots = Roots::host();
    assert_eq!(find(&roots, Path::new("/dev/no-such-device")).unwrap().kind, Kind::Missing);
    assert_eq!(find(&roots, Path::new("/dev/null/x")).unwrap().kind, Kind::Missing);
    assert_eq!(find(&roots, Path::new("/dev/null")).unwrap().kind, Kind::NotBlock);
    assert_eq!(find(&roots, Path::new("/dev")).unwrap().kind, Kind::NotBlock);
}

#[test]
fn this_host_can_be_listed() {
    for device in list(&Roots::host()).unwrap() {
        assert!(device.size > 0 && device.sector_size >= 512, "{device:?}");
        assert!(device.number.contains(':'), "{device:?}");
    }
}
