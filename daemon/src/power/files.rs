//! NUT's files on this host, as far as metis may read them: upsmon.conf, upsd.conf, ups.conf, nut.conf.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::nut::{Target, words};

/// Where Debian keeps them.
pub const NUT_DIR: &str = "/etc/nut";
/// NUT's shutdown hook.
pub const NUTSHUTDOWN: &str = "/usr/lib/systemd/system-shutdown/nutshutdown";
/// A file that is longer is no configuration of NUT.
const LONGEST: u64 = 1 << 20;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum File {
    /// It is not there.
    #[default]
    Absent,
    /// It is there, but not for metis.
    Unreadable(String),
    /// What it says. upsmon.conf holds passwords: it is for [`directives`] alone.
    Text(String),
}

/// The files of one folder.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct NutFiles {
    /// The folder.
    pub dir: PathBuf,
    /// upsmon.conf(5).
    pub upsmon: File,
    /// upsd.conf(5).
    pub upsd: File,
    /// ups.conf(5).
    pub ups: File,
    /// nut.conf(5).
    pub nut: File,
    /// NUT's own shutdown hook is installed.
    pub nutshutdown: bool,
}

impl NutFiles {
    /// Reads what there is. Blocks.
    pub fn read(dir: &Path) -> Self {
        let file = |name| read(&dir.join(name));
        Self {
            dir: dir.to_path_buf(),
            upsmon: file("upsmon.conf"),
            upsd: file("upsd.conf"),
            ups: file("ups.conf"),
            nut: file("nut.conf"),
            nutshutdown: Path::new(NUTSHUTDOWN).exists(),
        }
    }
}

impl File {
    /// What it says; nothing where that is not known.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Absent | Self::Unreadable(_) => None,
        }
    }
}

fn read(path: &Path) -> File {
    let read = std::fs::metadata(path).and_then(|about| {
        let is_one = about.is_file() && about.len() <= LONGEST;
        if is_one { std::fs::read(path) } else { Err(io::Error::other("not a regular file of at most 1 MiB")) }
    });
    match read {
        Ok(bytes) => File::Text(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => File::Absent,
        Err(error) => File::Unreadable(error.to_string()),
    }
}

/// The directives of upsmon.conf and upsd.conf: words of each line that is neither empty nor a comment. A line that cannot be read is left
/// out, as NUT does.
pub fn directives(text: &str) -> Vec<Vec<String>> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| words(line.as_bytes()).ok())
        .filter(|w| !w.is_empty())
        .collect()
}

/// Settings of ups.conf: those above the first section under the empty name, the others under their UPS. A flag has an empty value.
pub fn ups_settings(text: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut all: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut section = String::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            name.0.trim().clone_into(&mut section);
            all.entry(section.clone()).or_default();
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        let value = words(value.as_bytes()).ok().and_then(|words| words.into_iter().next()).unwrap_or_default();
        if !key.trim().is_empty() {
            all.entry(section.clone()).or_default().insert(key.trim().to_owned(), value);
        }
    }
    all
}

/// A variable of nut.conf, which a shell reads: the last assignment counts, quotes are taken off.
pub fn shell_variable<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.trim_start().strip_prefix(name)?.trim_start().strip_prefix('=');
    text.lines().filter_map(value).next_back().map(|value| value.split('#').next().unwrap_or_default().trim().trim_matches(['"', '\'']))
}

/// Whether the target's upsd is on this host, as far as the name tells. `names`: other names of this host.
pub fn is_local(target: &Target, names: &[String]) -> bool {
    is_loopback(&target.host) || names.iter().any(|name| name.eq_ignore_ascii_case(&target.host))
}

/// `localhost`, `127.0.0.0/8`, `::1`, with IPv4 in IPv6 notation, too.
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches("::ffff:").parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_read_as_nut_does() {
        let text = "# MONITOR a@h 1 u p master\n\nMONITOR ups@localhost 1 \"up s\" \"p#w\" primary\n  MINSUPPLIES 1\nSHUTDOWNCMD \"open\n";
        assert_eq!(directives(text), [vec!["MONITOR", "ups@localhost", "1", "up s", "p#w", "primary"], vec!["MINSUPPLIES", "1"]]);
    }

    #[test]
    fn settings_of_upses_and_those_for_all() {
        let text = "maxretry = 3\npollinterval=5\n# x = y\n[a]\n driver = usbhid-ups\n desc = \"a = b\"\n pollonly\n[ b ]\n sdorder = -1\n";
        let all = ups_settings(text);
        assert_eq!(all[""]["pollinterval"], "5");
        assert_eq!((all["a"]["desc"].as_str(), all["a"]["pollonly"].as_str()), ("a = b", ""));
        assert_eq!((all["b"]["sdorder"].as_str(), all.len()), ("-1", 3));
    }

    #[test]
    fn variables_of_a_shell() {
        let text = "MODE=none\n# MODE=standalone\nMODE=\"netserver\"\n POWEROFF_WAIT = 75s # wait\nMODES=x\n";
        assert_eq!(
            (shell_variable(text, "MODE"), shell_variable(text, "POWEROFF_WAIT"), shell_variable(text, "NONE")),
            (Some("netserver"), Some("75s"), None)
        );
    }

    #[test]
    fn this_host_by_its_names() {
        for (host, local) in [
            ("localhost", true),
            ("127.0.1.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("Tethys.lan", true),
            ("10.0.0.1", false),
            ("nas", false),
        ] {
            let target = Target { ups: "u".to_owned(), host: host.to_owned(), port: 3493 };
            assert_eq!(is_local(&target, &["tethys.lan".to_owned()]), local, "{host}");
        }
    }

    #[test]
    fn what_is_there_and_what_is_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ups.conf"), b"[a]\n desc = \"caf\xe9\"\n").unwrap();
        std::fs::create_dir(dir.path().join("upsmon.conf")).unwrap();
        let files = NutFiles::read(dir.path());
        assert_eq!((&files.upsd, files.ups.text().is_some()), (&File::Absent, true));
        assert!(matches!(&files.upsmon, File::Unreadable(why) if why.contains("not a regular file")), "{:?}", files.upsmon);
    }
}
