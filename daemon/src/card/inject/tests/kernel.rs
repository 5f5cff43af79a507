//! The kernel as maker and judge: file systems that it wrote, left in the middle of things, and its view of what was prepared.

use std::collections::BTreeSet;

use super::super::super::testing::{arg, ok, sparse, with_kernel};
use super::super::prepare;
use super::fixture::*;
use super::images::{CHANGED, REMOVED};

/// One line for every path (kind, mode, owner, target) and one for every file's content.
const MANIFEST: &str = "find . -xdev -printf '%p|%y|%m|%U|%G|%l\\n' | sort; find . -xdev -type f -exec sha256sum {} + | sort -k2";

/// A tree with hashed directories, hard links, long links and holes, made by the kernel.
const GROW: &str = "mkdir -p srv/htree; for n in $(seq 1 3000); do echo $n > srv/htree/a-rather-long-name-for-file-number-$n; done; \
                    ln etc/hostname srv/hostname-too; ln -s $(printf 'x%.0s' $(seq 1 100)) srv/long-link; truncate -s 3M srv/hole; \
                    for n in $(seq 1 2 2999); do rm srv/htree/a-rather-long-name-for-file-number-$n; done";

/// The paths of which the manifests say something different.
fn changed(before: &str, after: &str) -> BTreeSet<String> {
    let (before, after): (BTreeSet<_>, BTreeSet<_>) = (before.lines().collect(), after.lines().collect());
    let path = |line: &&str| {
        let path = line.find("./").map_or(*line, |at| &line[at + 1..]);
        path.split('|').next().unwrap_or(path).to_owned()
    };
    before.symmetric_difference(&after).map(path).collect()
}

fn expected() -> BTreeSet<String> {
    CHANGED.iter().chain(&REMOVED).map(|path| (*path).to_owned()).collect()
}

#[test]
fn a_file_system_that_the_kernel_wrote_is_edited_as_the_kernel_would() {
    let lab = Lab::new();
    let ext4 = lab.path("kernel.ext4");
    sparse(&ext4, ROOT_LEN);
    ok("mkfs.ext4", &["-q", "-F", "-L", "writable", arg(&ext4)]);
    let script = format!("cp -a {}/. . && {GROW} && {MANIFEST}", arg(&lab.tree()));
    let Some(before) = with_kernel(&ext4, &script) else { return };
    let flags = ok("debugfs", &["-R", "stat srv/htree", arg(&ext4)]);
    assert!(flags.contains("Flags: 0x81000"), "the kernel hashes this directory: {flags}");
    ok("debugfs", &["-w", "-R", "ea_set etc/hosts user.mark kept", arg(&ext4)]);

    let prepared = prepare(&verified(lab.card(&ext4)), &node(), &lab.secrets()).unwrap();
    let (boot, root) = lab.split(&written(&prepared));
    e2fsck(&root);
    fsck_vfat(&boot);
    assert!(ok("debugfs", &["-R", "ea_get etc/hosts user.mark", arg(&root)]).contains("kept"));
    let after = with_kernel(&root, MANIFEST).unwrap();
    assert_eq!(changed(&before, &after), expected());
    let other_name = with_kernel(&root, "cat srv/hostname-too").unwrap();
    assert_eq!(other_name, "golden\n", "a file with another name outside is not edited through it");
}

#[test]
fn new_entries_go_into_a_hashed_directory_where_the_kernel_finds_them() {
    let lab = Lab::new();
    let ext4 = lab.ext4(&[]);
    let script = "mkdir -p etc/sudoers.d etc/ssh; for dir in etc/sudoers.d etc/ssh etc; do for n in $(seq 1 1500); do \
                  : > $dir/$n-a-rather-long-name-so-that-many-blocks-are-needed; done; done; "
        .to_owned()
        + MANIFEST;
    let Some(before) = with_kernel(&ext4, &script) else { return };
    let prepared = prepare(&verified(lab.card(&ext4)), &node(), &lab.secrets()).unwrap();
    let (_, root) = lab.split(&written(&prepared));
    e2fsck(&root);
    let after =
        with_kernel(&root, &format!("cat etc/sudoers.d/90-metis etc/hostname etc/rancher/k3s/metis.token >/dev/null; {MANIFEST}")).unwrap();
    assert_eq!(changed(&before, &after), expected());
}

#[test]
fn a_journal_that_was_not_replayed_is_replayed_into_the_card() {
    let lab = Lab::new();
    let ext4 = lab.ext4(&[]);
    let dirty = lab.path("dirty.ext4");
    // Copied while mounted, after the journal was committed and before it was written back: a card pulled out.
    let script = format!(
        "mkdir srv/late; for n in $(seq 1 50); do echo late-$n > srv/late/$n; done; chmod 700 srv/late; rm srv/many/file-3; sync -f .; cp {} {}",
        arg(&ext4),
        arg(&dirty)
    );
    if with_kernel(&ext4, &script).is_none() {
        return;
    }
    assert!(ok("dumpe2fs", &["-h", arg(&dirty)]).contains("needs_recovery"));
    let prepared = prepare(&verified(lab.card(&dirty)), &node(), &lab.secrets()).unwrap();
    let (_, root) = lab.split(&written(&prepared));
    assert!(!ok("dumpe2fs", &["-h", arg(&root)]).contains("needs_recovery"));
    let used: u64 = prepared.extents().iter().map(|extent| extent.len).sum();
    assert!(used < (ROOT_AT + ROOT_LEN) * 9 / 10, "the free blocks of a replayed file system are left out: {used}");
    e2fsck(&root);
    let before = with_kernel(&dirty, MANIFEST).unwrap();
    assert!(before.contains("./srv/late/50") && !before.contains("./srv/many/file-3|"));
    let after = with_kernel(&root, MANIFEST).unwrap();
    assert_eq!(changed(&before, &after), expected());
}
