//! metisd under a real systemd, in an nspawn host.

use metis_tests::nspawn::Host;
use metis_tests::require;

fn able(test: &str) -> bool {
    require::root(test) && require::programs(test, &["systemd-nspawn", "mmdebstrap", "nsenter"])
}

#[test]
fn a_host_whose_power_was_cut_boots_again_with_its_disk() {
    if !able("power cut") {
        return;
    }
    let mut host = Host::boot("cut", &[], |_| Ok(())).unwrap();
    let boot = host.sh("cat /proc/sys/kernel/random/boot_id").unwrap();
    host.sh("echo kept >/root/file; sync /root/file").unwrap();
    host.cut_power().unwrap();
    host.power_on().unwrap();
    assert_eq!(host.sh("cat /root/file").unwrap(), "kept\n");
    assert_ne!(host.sh("cat /proc/sys/kernel/random/boot_id").unwrap(), boot);
}
