//! The site's switches, for a person: files in the lab's folder.

use std::path::Path;

use metis_tests::hosts::Hosts;

/// What can be switched, in one line.
pub fn tell(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "switches         touch {dir}/pyrphoros.off: mains of that UPS fail until the file is gone; {dir}/titan-13.cut, titan-13.on: power of that host"
    )
}

/// Does what they say: those of mains stay as they are, those of hosts are pushed.
pub fn obey(dir: &Path, site: &Hosts) {
    for ups in ["pyrphoros", "statera"] {
        let off = dir.join(format!("{ups}.off")).exists();
        if site.ups(ups).mains() == off {
            site.ups(ups).set_mains(!off);
        }
    }
    for (role, host) in site.all() {
        let pushed = |switch: &str| std::fs::remove_file(dir.join(format!("{}.{switch}", role.name()))).is_ok();
        let cut = if pushed("cut") { host.cut_power() } else { Ok(()) };
        let on = if pushed("on") { host.switch_on() } else { Ok(()) };
        if let Err(error) = cut.and(on) {
            eprintln!("{}: {error:#}", role.name());
        }
    }
}
