//! What scalars mean.

use std::time::Duration;

use super::super::tree::Scalar;
use super::super::values::{self, *};

fn plain(text: &str) -> Scalar {
    Scalar { text: text.to_owned(), quoted: false }
}

#[test]
fn durations_carry_their_unit() {
    let any = duration(Duration::ZERO..=Duration::MAX);
    for (text, millis) in
        [("5s", 5000), ("1m30s", 90_000), ("1m 30s", 90_000), ("500ms", 500), ("2h", 7_200_000), ("1d2h3m4s5ms", 93_784_005), ("0s", 0)]
    {
        assert_eq!(any(&plain(text)), Ok(Duration::from_millis(millis)), "{text}");
        assert_eq!(any(&plain(&show_duration(Duration::from_millis(millis)))), Ok(Duration::from_millis(millis)), "{text}");
    }
    for text in [
        "",
        "s",
        "5",
        "90",
        "5x",
        "5S",
        "1.5s",
        "-5s",
        "30s1m",
        "5s5s",
        "5s ",
        " 5s",
        "5 s",
        "99999999999999999999s",
        "999999999999999d",
        "1m:30s",
    ] {
        assert!(any(&plain(text)).is_err(), "{text:?}");
    }
    assert_eq!(any(&plain("90")).unwrap_err(), "`90` has no unit; write 90s for seconds or 90m for minutes (units: ms, s, m, h, d)");
}

#[test]
fn sizes_carry_their_unit() {
    for (text, bytes) in
        [("0B", 0), ("500 MiB", 500 << 20), ("2G", 2 << 30), ("2GB", 2_000_000_000), ("1K", 1024), ("1kB", 1000), ("1TiB", 1 << 40)]
    {
        assert_eq!(size(0)(&plain(text)), Ok(bytes), "{text}");
    }
    for text in ["", "5", "G", "2g", "2 gigs", "1.5G", "-1G", "99999999999T", "2G ", "2GiBs"] {
        assert!(size(0)(&plain(text)).is_err(), "{text:?}");
    }
}

#[test]
fn nothing_is_coerced() {
    for (text, good) in
        [("true", true), ("false", true), ("yes", false), ("no", false), ("on", false), ("True", false), ("1", false), ("", false)]
    {
        assert_eq!(boolean(&plain(text)).is_ok(), good, "{text:?}");
        assert!(boolean(&Scalar { text: text.to_owned(), quoted: true }).is_err(), "{text:?}");
    }
    assert_eq!(boolean(&plain("yes")).unwrap_err(), "`yes` is not a boolean; write true or false");
    for text in ["1", "-1", "+1", "1.5", ".5", "1e3", "0x1F", "0o17", "true", "False", ".inf", "-.INF", ".nan", "1."] {
        assert!(values::text(&plain(text)).is_err(), "{text}");
        assert_eq!(values::text(&Scalar { text: text.to_owned(), quoted: true }).as_deref(), Ok(text));
    }
    for text in ["a", "1a", "v1.2", "192.168.22.1", "e3", "0x", "inf", "nan", "-", "infinity"] {
        assert_eq!(values::text(&plain(text)).as_deref(), Ok(text));
    }
    for text in ["01", "1_000", "0x10", "+1", "1.0", "", "18446744073709551616"] {
        assert!(integer(0..=u64::MAX)(&plain(text)).is_err(), "{text}");
    }
    for (text, value) in [
        ("0", Some(0.0)),
        ("20", Some(20.0)),
        ("99.5%", Some(99.5)),
        ("100 %", Some(100.0)),
        ("101", None),
        ("-1", None),
        ("%", None),
        ("1e1", None),
        ("nan", None),
    ] {
        assert_eq!(percent(&plain(text)).ok(), value, "{text}");
    }
}

#[test]
fn shown_values_are_bounded_and_printable() {
    assert_eq!(shown("a\u{1b}[31m\n"), "`a\\u{1b}[31m\\n`");
    assert_eq!(shown(&"ü".repeat(1000)).chars().count(), 63);
}

#[test]
fn public_keys_are_recognised() {
    let blob = "AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
    for line in [
        format!("ssh-ed25519 {blob}"),
        format!("ssh-ed25519 {blob} erika@desk"),
        format!("from=\"10.0.0.0/8\",no-pty ssh-ed25519 {blob} e"),
    ] {
        assert_eq!(authorized_key(&plain(&line)).as_deref(), Ok(line.as_str()));
    }
    for line in [
        blob.to_owned(),
        "ssh-ed25519".to_owned(),
        format!("ssh-rsa {blob}"),
        format!("ssh-ed25519 {}", &blob[1..]),
        format!("ssh-ed25519 {blob}\nx"),
    ] {
        assert!(authorized_key(&plain(&line)).is_err(), "{line}");
    }
}

#[test]
fn a_ups_that_is_accepted_is_one_that_can_be_reached_by_its_name() {
    for name in ["pyrphoros@localhost", "u_1.x-y@Titan-DB.lan:3493", "u@192.168.22.24", "u@[::1]", "u@[fd00::1]:13493"] {
        assert_eq!(ups_name::<String>(name).as_deref(), Ok(name));
        let target: crate::power::nut::Target = name.parse().unwrap();
        let (host, port) = split_host(name.split_once('@').unwrap().1).unwrap();
        assert_eq!((target.host.as_str(), target.port), (host, port.unwrap_or(3493)), "{name}");
    }
    for name in
        ["", "u", "@h", "u@", "u@h:", "u@h:0", "u@h:65536", "u@h h", "u@::1", "u@[::1", "u@[h]", "u u@h", "u@h@i", "u@-h", "u@h:1:2"]
    {
        assert!(ups_name::<String>(name).is_err(), "{name}");
    }
}
