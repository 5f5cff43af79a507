//! On real files. Rights are checked on what fstat(2) says, so root is refused as everybody else.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

use super::*;

const CONTENT: &str = "correct horse";

fn file(mode: u32) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    fs::write(&path, CONTENT).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    (dir, path)
}

fn read(path: impl Into<PathBuf>) -> Result<Secret, SecretError> {
    resolve(&SecretRef::File(path.into()), &Context::default())
}

/// A refusal that names the path and does not name the content.
fn refusal(path: impl Into<PathBuf>) -> String {
    let path = path.into();
    let error = read(&path).unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains(path.file_name().unwrap().to_str().unwrap()) && !text.contains(CONTENT), "{text}");
    error.to_string()
}

#[test]
fn rights_decide() {
    for (mode, accepted) in
        [(0o600, true), (0o400, true), (0o640, true), (0o440, true), (0o644, false), (0o660, false), (0o604, false), (0o610, false)]
    {
        let (_dir, path) = file(mode);
        match read(&path) {
            Ok(secret) => assert!(accepted && secret.expose() == CONTENT.as_bytes(), "{mode:o}"),
            Err(error) => assert!(!accepted && error.to_string().contains("chmod 0600"), "{mode:o}: {error}"),
        }
    }
}

#[test]
fn what_is_no_secret_is_refused() {
    let (dir, path) = file(0o600);
    assert!(refusal(dir.path().join("missing")).contains("no such file"));
    assert!(refusal("relative/secret").contains("absolute"));
    fs::write(&path, "").unwrap();
    assert!(refusal(&path).contains("empty"));
    fs::write(&path, vec![b'x'; MAX_SIZE as usize + 1]).unwrap();
    assert!(refusal(&path).contains("1 MiB"));
    fs::write(&path, vec![b'x'; MAX_SIZE as usize]).unwrap();
    assert_eq!(read(&path).unwrap().expose().len(), MAX_SIZE as usize);
    let directory = dir.path().join("directory");
    fs::create_dir(&directory).unwrap();
    assert!(refusal(&directory).contains("not a regular file"));
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    assert!(refusal(&fifo).contains("not a regular file"));
}

#[test]
fn nobody_else_may_replace_the_file() {
    let (dir, path) = file(0o600);
    let open_dir = dir.path().join("open");
    fs::create_dir(&open_dir).unwrap();
    fs::rename(&path, open_dir.join("secret")).unwrap();
    let link = dir.path().join("link");
    symlink("open/secret", &link).unwrap();
    assert!(read(&link).is_ok());
    fs::set_permissions(&open_dir, Permissions::from_mode(0o777)).unwrap();
    for path in [open_dir.join("secret"), link] {
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("chmod go-w") && error.contains("/open"), "{error}");
    }
    // Sticky, as /tmp: others cannot replace what is not theirs.
    fs::set_permissions(&open_dir, Permissions::from_mode(0o1777)).unwrap();
    assert!(read(open_dir.join("secret")).is_ok());
}

#[test]
fn links_that_go_round_end() {
    let dir = tempfile::tempdir().unwrap();
    symlink("b", dir.path().join("a")).unwrap();
    symlink("a", dir.path().join("b")).unwrap();
    assert!(matches!(read(dir.path().join("a")), Err(SecretError::Io { .. })));
}

#[test]
fn owners_decide() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI runs this as root");
        eprintln!("not root: that a foreign owner is refused was not checked");
        return;
    }
    let (dir, path) = file(0o600);
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    std::os::unix::fs::lchown(&link, Some(12345), None).unwrap();
    assert!(refusal(&link).contains("uid 12345"));
    chown(&path, Some(12345), None).unwrap();
    assert!(refusal(&path).contains("uid 12345"));
    let (_dir, path) = file(0o640);
    chown(&path, None, Some(54321)).unwrap();
    assert!(refusal(&path).contains("group 54321"));
}

#[test]
fn credentials_come_from_systemd_by_name() {
    let (dir, path) = file(0o400);
    let context = Context { credentials_dir: Some(dir.path().to_owned()) };
    let credential = |name: &str| resolve(&SecretRef::Credential(name.into()), &context);
    assert_eq!(credential("secret").unwrap().expose(), CONTENT.as_bytes());
    for name in ["", ".", "..", "a/b", "../secret", "a b", "ä", &"x".repeat(256)] {
        assert!(matches!(credential(name), Err(SecretError::BadName(_))), "{name}");
    }
    assert!(credential("other").unwrap_err().to_string().contains("LoadCredential=other:"));
    let none = resolve(&SecretRef::Credential("secret".into()), &Context::default());
    assert!(matches!(none, Err(SecretError::NoCredentials(_))));
    // With an ACL for the service's user, the group bits are its mask.
    for (mode, accepted) in [(0o440, true), (0o444, false), (0o460, false)] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        assert_eq!(credential("secret").is_ok(), accepted, "{mode:o}");
    }
}
