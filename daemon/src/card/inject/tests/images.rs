//! Images of several kinds prepared, taken apart and compared with what went in.

use super::super::super::testing::{arg, ok, run};
use super::super::tree::{Put, Tree as _};
use super::super::{FileEdit, InjectError, Secrets, apply, prepare, prepare_plain, verify};
use super::fixture::*;

/// What a card of [`node`] changes in [`Lab::tree`], and nothing else.
pub const CHANGED: [&str; 32] = [
    "/etc/cloud/cloud.cfg.d/99-metis.cfg",
    "/etc/default/armbian-firstrun",
    "/etc/group",
    "/etc/gshadow",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/machine-id",
    "/etc/metis",
    "/etc/metis/node.json",
    "/etc/netplan/90-metis.yaml",
    "/etc/passwd",
    "/etc/rancher",
    "/etc/rancher/k3s",
    "/etc/rancher/k3s/config.yaml.d",
    "/etc/rancher/k3s/config.yaml.d/10-metis.yaml",
    "/etc/rancher/k3s/metis.token",
    "/etc/resolv.conf",
    "/etc/shadow",
    "/etc/ssh/ssh_host_ed25519_key",
    "/etc/ssh/ssh_host_ed25519_key.pub",
    "/etc/ssh/sshd_config",
    "/etc/ssh/sshd_config.d/10-metis.conf",
    "/etc/subuid",
    "/etc/sudoers.d/90-metis",
    "/etc/systemd/journald.conf.d",
    "/etc/systemd/journald.conf.d/10-metis.conf",
    "/home/atlas",
    "/home/atlas/.ssh",
    "/home/atlas/.ssh/authorized_keys",
    "/root/.ssh",
    "/root/.ssh/authorized_keys",
    "/etc/systemd",
];
pub const REMOVED: [&str; 4] =
    ["/etc/netplan/50-cloud-init.yaml", "/etc/ssh/ssh_host_rsa_key", "/etc/ssh/ssh_host_rsa_key.pub", "/var/lib/dbus/machine-id"];

fn sorted(paths: &[&str]) -> Vec<String> {
    let mut paths: Vec<_> = paths.iter().map(|path| (*path).to_owned()).collect();
    paths.sort();
    paths
}

#[test]
fn nothing_but_the_named_files_changes_whatever_the_file_systems_features() {
    let lab = Lab::new();
    for options in [
        &[][..],
        &["-O", "^64bit"],
        &["-b", "1024", "-O", "uninit_bg,^metadata_csum"],
        &["-O", "metadata_csum_seed,orphan_file"],
        &["-O", "^has_journal"],
        &["-N", "2000", "-g", "8192"],
    ] {
        let ext4 = lab.ext4(options);
        let before = ext4_tree(&ext4);
        let prepared = prepare(&verified(lab.card(&ext4)), &node(), &lab.secrets()).unwrap();
        let (boot, root) = lab.split(&written(&prepared));
        e2fsck(&root);
        fsck_vfat(&boot);
        let after = ext4_tree(&root);
        let (changed, removed) = differences(&before, &after);
        assert_eq!(changed, sorted(&CHANGED), "{options:?}");
        assert_eq!(removed, sorted(&REMOVED), "{options:?}");
        for file in prepared.files().iter().filter(|file| file.filesystem == "root") {
            let found = &after[&file.path];
            assert_eq!((u32::from(found.mode) & 0o7777, found.uid, found.gid), (file.mode, file.uid, file.gid), "{}", file.path);
            assert_eq!(found.content.len() as u64, file.size, "{}", file.path);
            assert!(!file.secret || file.mode.trailing_zeros() >= 3, "{} is secret", file.path);
        }
        let atlas = &after["/home/atlas/.ssh"];
        assert_eq!((atlas.mode & 0o7777, atlas.uid, atlas.gid), (0o700, 1000, 1000));
        assert_eq!(after["/etc/rancher/k3s/metis.token"].content, format!("{TOKEN}\n").as_bytes());
    }
}

#[test]
fn inline_files_and_large_directories_are_edited_too() {
    let lab = Lab::new();
    let ext4 = lab.ext4(&["-O", "inline_data", "-I", "256"]);
    let prepared = prepare(&verified(lab.card(&ext4)), &node(), &lab.secrets()).unwrap();
    let (_, root) = lab.split(&written(&prepared));
    e2fsck(&root);
    // ext4-view does not read inline files: debugfs takes both trees out.
    let (old, new) = (lab.path("old"), lab.path("new"));
    for (image, dir) in [(&ext4, &old), (&root, &new)] {
        std::fs::create_dir(dir).unwrap();
        ok("debugfs", &["-R", &format!("rdump / {}", arg(dir)), arg(image)]);
    }
    let diff = run("diff", &["-rq", "--no-dereference", arg(&old), arg(&new)]);
    let diff = String::from_utf8_lossy(&diff.stdout).into_owned();
    for line in diff.lines() {
        let known = CHANGED.iter().chain(&REMOVED).any(|path| line.contains(path.rsplit('/').next().unwrap()));
        assert!(known, "{line}");
    }
    let token = std::fs::read_to_string(new.join("etc/rancher/k3s/metis.token")).unwrap();
    assert_eq!(token.trim(), TOKEN);
}

#[test]
fn the_boot_partition_carries_the_seed_and_no_secret() {
    let lab = Lab::new();
    let prepared = prepare(&verified(lab.card(&lab.ext4(&[]))), &node(), &lab.secrets()).unwrap();
    let (boot, _) = lab.split(&written(&prepared));
    let read = |name: &str| ok("mtype", &["-i", arg(&boot), &format!("::{name}")]);
    assert!(read("meta-data").contains(prepared.instance_id()));
    assert!(read("user-data").starts_with("#cloud-config\n"));
    assert!(read("network-config").contains("192.168.22.43/24"));
    assert_eq!(read("config.txt"), "arm_64bit=1\n");
    let bytes = std::fs::read(&boot).unwrap();
    for secret in [TOKEN, HASH] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
}

#[test]
fn the_same_input_gives_the_same_bytes_and_preparing_twice_changes_nothing() {
    let lab = Lab::new();
    let card = lab.card(&lab.ext4(&[]));
    let once = prepare(&verified(card.clone()), &node(), &lab.secrets()).unwrap();
    let again = prepare(&verified(card), &node(), &lab.secrets()).unwrap();
    assert_eq!(once.extents(), again.extents());
    let bytes = written(&once);
    assert!(bytes == written(&again));
    let twice = prepare(&verified(bytes.clone()), &node(), &lab.secrets()).unwrap();
    assert_eq!(twice.instance_id(), once.instance_id());
    assert!(twice.files().iter().all(|file| once.files().contains(file)));
    let mut second = vec![0; bytes.len()];
    twice.data().read_exact_at(&mut second, 0).unwrap();
    assert!(second == bytes, "not one byte changes the second time");
}

#[test]
fn another_value_or_another_version_of_a_secret_is_another_instance() {
    let lab = Lab::new();
    let card = verified(lab.card(&lab.ext4(&[])));
    let id = |node: crate::site::MergedNode, secrets: Secrets| prepare(&card, &node, &secrets).unwrap().instance_id().to_owned();
    let first = id(node(), lab.secrets());
    let mut secrets = lab.secrets();
    secrets.get_mut(&crate::site::SecretRef::Credential("token".into())).unwrap().version = "token-v2".into();
    assert_ne!(id(node(), secrets), first);
    let mut other = node();
    other.settings.k3s.labels.insert("disk".into(), "ssd".into());
    assert_ne!(id(other, lab.secrets()), first);
}

#[test]
fn no_room_is_said_and_the_image_stays_as_it_was() {
    let lab = Lab::new();
    let card = filled(lab.card(&lab.ext4(&["-m", "0"])));
    let (_, root) = lab.split(&card);
    e2fsck(&root);
    let image = verified(card.clone());
    let error = prepare(&image, &node(), &lab.secrets()).err().unwrap();
    assert!(matches!(error, InjectError::NoSpace { fs: "root", .. }), "{error}");
    assert!(error.to_string().contains("no space left"), "{error}");
    let mut bytes = vec![0; card.len()];
    image.data().read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == card);
}

#[test]
fn features_that_writing_would_break_are_refused_by_name() {
    let lab = Lab::new();
    for (options, feature) in [
        (&["-O", "bigalloc"][..], "bigalloc"),
        (&["-O", "quota"], "quota"),
        (&["-O", "encrypt"], "encrypt"),
        (&["-O", "mmp"], "mmp"),
        (&["-O", "casefold"], "casefold"),
        (&["-O", "meta_bg,^resize_inode"], "meta_bg"),
        (&["-O", "verity"], "verity"),
        (&["-O", "ea_inode"], "ea_inode"),
        (&["-O", "large_dir"], "large_dir"),
    ] {
        let error = prepare(&verified(lab.card(&lab.ext4(options))), &node(), &lab.secrets()).err().unwrap();
        assert!(matches!(&error, InjectError::Feature { feature: found, partition: 2 } if found == feature), "{feature}: {error}");
        assert!(error.to_string().contains(feature), "{error}");
    }
}

#[test]
fn an_image_marked_as_damaged_or_without_a_root_is_refused() {
    let lab = Lab::new();
    let mut card = lab.card(&lab.ext4(&[]));
    let plain = prepare_plain(&verified(card.clone())).unwrap();
    assert!(plain.files().is_empty() && plain.instance_id().is_empty() && plain.size() == card.len() as u64);
    let state = (ROOT_AT + 1024 + 0x3A) as usize;
    card[state] |= 2;
    let error = prepare(&verified(card.clone()), &node(), &lab.secrets()).err().unwrap();
    assert!(matches!(error, InjectError::Damaged { fs: "ext4", partition: 2, .. }), "{error}");
    card[ROOT_AT as usize..].fill(0);
    let error = prepare(&verified(card), &node(), &lab.secrets()).err().unwrap();
    assert!(matches!(error, InjectError::NoRoot { .. }) && error.to_string().contains("no_inject"), "{error}");
}

#[test]
fn links_of_the_image_are_followed_within_it_and_replaced_where_they_lead_nowhere() {
    let lab = Lab::new();
    let tree = lab.tree();
    std::fs::create_dir_all(tree.join("opt/netplan")).unwrap();
    std::fs::remove_dir_all(tree.join("etc/netplan")).unwrap();
    std::os::unix::fs::symlink("/../../opt/netplan", tree.join("etc/netplan")).unwrap();
    std::os::unix::fs::symlink("/dev/null", tree.join("etc/rancher")).unwrap();
    std::fs::remove_file(tree.join("etc/hosts")).unwrap();
    std::fs::write(tree.join("opt/hosts"), "10.0.0.1 kept\n").unwrap();
    std::os::unix::fs::symlink("../opt/hosts", tree.join("etc/hosts")).unwrap();
    std::os::unix::fs::symlink("../run/gone", tree.join("etc/resolv.conf")).unwrap();
    let error = prepare(&verified(lab.card(&lab.ext4(&[]))), &node(), &lab.secrets()).err().unwrap();
    assert!(error.to_string().contains("/etc/rancher/k3s"), "a directory that leads nowhere is said: {error}");
    std::fs::remove_file(tree.join("etc/rancher")).unwrap();

    let prepared = prepare(&verified(lab.card(&lab.ext4(&[]))), &node(), &lab.secrets()).unwrap();
    let (_, root) = lab.split(&written(&prepared));
    e2fsck(&root);
    let after = ext4_tree(&root);
    assert!(after.contains_key("/opt/netplan/90-metis.yaml"));
    assert_eq!(after["/etc/hosts"].content, b"../opt/hosts");
    assert!(after["/opt/hosts"].content.starts_with(b"10.0.0.1 kept\n# BEGIN metis\n127.0.1.1 titan-13\n"));
    assert!(after["/etc/resolv.conf"].content.starts_with(b"nameserver 192.168.22.1\n"));
}

#[test]
fn a_loop_of_links_is_said_and_one_to_another_file_system_too() {
    for (target, why) in [("rancher", "too many levels"), ("/run/rancher", "below /dev, /proc, /run or /sys")] {
        let lab = Lab::new();
        std::os::unix::fs::symlink(target, lab.tree().join("etc/rancher")).unwrap();
        let error = prepare(&verified(lab.card(&lab.ext4(&[]))), &node(), &lab.secrets()).err().unwrap().to_string();
        assert!(error.contains(why) && error.contains("/etc/rancher/k3s"), "{error}");
    }
}

#[test]
fn an_image_of_armbian_shape_has_its_seed_below_the_root() {
    let lab = Lab::new();
    let ext4 = lab.ext4(&[]);
    let before = ext4_tree(&ext4);
    let card = lab.armbian(&ext4);
    let prepared = prepare(&verified(card.clone()), &node(), &lab.secrets()).unwrap();
    let out = written(&prepared);
    assert!(out[..ROOT_AT as usize] == card[..ROOT_AT as usize], "the gap with the boot loader is as it was");
    let (_, root) = lab.split(&out);
    e2fsck(&root);
    let seed = ["/var/lib/cloud", "/var/lib/cloud/seed", "/var/lib/cloud/seed/nocloud"].map(str::to_owned);
    let files = ["meta-data", "network-config", "user-data"].map(|name| format!("/var/lib/cloud/seed/nocloud/{name}"));
    let mut expected = sorted(&CHANGED);
    expected.extend(seed.into_iter().chain(files));
    expected.sort();
    let (changed, removed) = differences(&before, &ext4_tree(&root));
    assert_eq!((changed, removed), (expected, sorted(&REMOVED)));
}

#[test]
fn what_reads_back_differently_is_found() {
    let lab = Lab::new();
    let card = lab.card(&lab.ext4(&[]));
    let root = root_of(card);
    let edit = FileEdit::file("/etc/hostname", 0o644, "titan-13\n");
    let put = |what: Put<'_>, mode, owner| root.put("/etc/hostname", what, mode, owner).unwrap();
    let found = |edit: &FileEdit| match verify(&root, edit) {
        Err(InjectError::Verify { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    apply(&root, &edit).unwrap();
    verify(&root, &edit).unwrap();
    put(Put::File(b"titan-14\n"), 0o644, (0, 0));
    assert_eq!(found(&edit), "content");
    put(Put::File(b"titan-13\n"), 0o640, (0, 0));
    assert_eq!(found(&edit), "mode");
    put(Put::File(b"titan-13\n"), 0o644, (0, 42));
    assert_eq!(found(&edit), "owner");
    assert_eq!(found(&FileEdit::remove("/etc/hostname")), "kind");
    assert_eq!(found(&FileEdit::symlink("/etc/hostname", "x")), "kind");
    root.remove("/etc/hostname").unwrap();
    assert_eq!(found(&edit), "kind");
}
