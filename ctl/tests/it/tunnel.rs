//! `--host`: the user's ssh, played by a script that does what ssh would: it makes the local socket and runs the remote command.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::fake::{Fake, Fault};
use crate::{Ran, is_root, metisctl};

const SSH: &str = r#"#!/bin/sh
echo "$@" >> "$(dirname "$0")/ssh.log"
while [ $# -gt 0 ]; do
  case "$1" in
    -L) ln -s "${2#*:}" "${2%%:*}"; shift 2 ;;
    -o) shift 2 ;;
    --) shift; break ;;
    *) shift ;;
  esac
done
echo "Welcome to $1"
shift
exec sh -c "$*"
"#;

fn ssh(dir: &Path, script: &str) -> String {
    let ssh = dir.join("ssh");
    std::fs::write(&ssh, script).unwrap();
    std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", dir.display(), std::env::var("PATH").unwrap())
}

fn run(path: &str, socket: &Path, args: &[&str]) -> Ran {
    metisctl(socket, args).env("PATH", path).output().unwrap().into()
}

#[test]
fn the_same_socket_through_ssh() {
    let fake = Fake::start(Fault::None);
    let path = ssh(fake.dir.path(), SSH);
    let ran = run(&path, &fake.socket(), &["--host", "brad@tethys", "status"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("metisd 0.1.0 on titan-db"), "{}", ran.out);
    let log = std::fs::read_to_string(fake.path("ssh.log")).unwrap();
    assert!(log.contains("ControlPath=none") && log.contains("-- brad@tethys exec sh -c"), "{log}");
}

#[test]
fn ssh_failed_is_not_running_is_no_permission() {
    let fake = Fake::start(Fault::None);
    let path = ssh(fake.dir.path(), "#!/bin/sh\necho 'brad@tethys: Permission denied (publickey).' >&2\nexit 255\n");
    let failed = run(&path, &fake.socket(), &["--host", "tethys", "status"]);
    assert_eq!(failed.code, 4, "{failed:?}");
    assert!(failed.err.contains("ssh to tethys failed: brad@tethys: Permission denied (publickey)."), "{}", failed.err);

    let path = ssh(fake.dir.path(), SSH);
    let absent = run(&path, &fake.path("no-such-socket"), &["--host", "tethys", "status"]);
    assert_eq!(absent.code, 4, "{absent:?}");
    assert!(absent.err.contains("metisd is not running on tethys"), "{}", absent.err);

    // Root opens everything: the far end is somebody else.
    let other = SSH.replace("exec sh", "exec setpriv --reuid 65534 --clear-groups sh");
    let path = ssh(fake.dir.path(), if is_root() { &other } else { SSH });
    std::fs::set_permissions(fake.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(fake.socket(), std::fs::Permissions::from_mode(0o000)).unwrap();
    let denied = run(&path, &fake.socket(), &["--host", "tethys", "status"]);
    assert_eq!(denied.code, 4, "{denied:?}");
    assert!(denied.err.contains("no permission on"), "{}", denied.err);
}

#[test]
fn a_host_is_never_an_option_of_ssh() {
    let fake = Fake::start(Fault::None);
    let path = ssh(fake.dir.path(), SSH);
    let ran = run(&path, &fake.socket(), &["--host=-oProxyCommand=true", "status"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(!fake.path("ssh.log").exists());
}
