//! A pod's process: the shim that holds it, in the place of containerd's, and its volumes.

use std::fs::File;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::core::v1::{Container, Pod};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, setsid};
use serde_json::{Value, json};

use super::local::Local;

/// As `ps` shows it, and as k3s-killall.sh looks for it.
const SHIM: &str = "/var/lib/rancher/k3s/data/current/bin/containerd-shim-runc-v2";
const KUBELET: &str = "/var/lib/kubelet/pods";

/// What is run of a pod, or why it cannot be.
pub fn spec(pod: &Pod) -> anyhow::Result<Value> {
    let (name, uid) = (pod.metadata.name.as_deref().unwrap_or_default(), pod.metadata.uid.as_deref().unwrap_or_default());
    let spec = pod.spec.as_ref().context("a pod without spec")?;
    ensure!(spec.containers.len() == 1 && spec.init_containers.is_none(), "{name}: only pods of one container are run here");
    let container = &spec.containers[0];
    let words: Vec<&String> = container.command.iter().chain(&container.args).flatten().collect();
    ensure!(container.command.is_some(), "{name}: its image is not run here, so it needs a command");
    let mut env = serde_json::Map::new();
    for variable in container.env.iter().flatten() {
        ensure!(variable.value_from.is_none(), "{name}: the variable {} has no plain value", variable.name);
        env.insert(variable.name.clone(), json!(variable.value.as_deref().unwrap_or_default()));
    }
    let log = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    let message = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    Ok(
        json!({ "command": words, "env": env, "cwd": container.working_dir, "mounts": mounts(pod, container, uid)?, "message": message, "log": log }),
    )
}

/// From where to where, for each volume of the container.
fn mounts(pod: &Pod, container: &Container, uid: &str) -> anyhow::Result<Vec<Value>> {
    let volumes: Vec<_> = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).collect();
    let mut found = Vec::new();
    for wanted in container.volume_mounts.iter().flatten() {
        let volume = volumes.iter().find(|volume| volume.name == wanted.name).with_context(|| format!("no volume {}", wanted.name))?;
        let kubelet = |kind: &str, rest: &str| format!("{KUBELET}/{uid}/volumes/kubernetes.io~{kind}/{}{rest}", volume.name);
        let (from, own) = match (&volume.host_path, &volume.empty_dir, &volume.persistent_volume_claim) {
            (Some(host), ..) => (host.path.clone(), false),
            (_, Some(_), _) => (kubelet("empty-dir", ""), false),
            (_, _, Some(_)) => (kubelet("csi", "/mount"), true),
            _ => bail!("volume {}: only hostPath, emptyDir and persistentVolumeClaim are known here", volume.name),
        };
        found.push(json!({ "from": from, "to": wanted.mount_path, "own": own }));
    }
    Ok(found)
}

/// Mounts the pod's volumes on the host and starts its shim, which goes its own ways.
pub fn start(local: &Local, spec: &Value) -> anyhow::Result<()> {
    for volume in spec["mounts"].as_array().into_iter().flatten() {
        let from = PathBuf::from(volume["from"].as_str().unwrap_or_default());
        std::fs::create_dir_all(&from)?;
        // A volume of Longhorn is a mount of its own; it holds the node until it is gone.
        if volume["own"] == true && !mounted(&from) {
            mount(Some("longhorn"), &from, Some("tmpfs"), MsFlags::empty(), None::<&str>).with_context(|| from.display().to_string())?;
        }
    }
    local.prepare(spec)?;
    let log = File::options().create(true).append(true).open(local.file("log"))?;
    let mut shim = Command::new(SHIM);
    shim.args(["-namespace", "k8s.io", "-id", &local.uid]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut shim = shim.spawn().context(SHIM)?;
    // Its end is seen by what it leaves; this only keeps it from staying as a zombie.
    std::thread::spawn(move || shim.wait());
    Ok(())
}

fn mounted(path: &Path) -> bool {
    let path = path.display().to_string();
    std::fs::read_to_string("/proc/mounts").is_ok_and(|mounts| mounts.lines().any(|line| line.split(' ').nth(1) == Some(&path)))
}

/// Unmounts a pod's volumes.
pub fn unmount(uid: &str) {
    let folder = format!("{KUBELET}/{uid}");
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    for path in mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| path.starts_with(&folder)) {
        let _ = umount2(path, MntFlags::MNT_DETACH);
    }
    let _ = std::fs::remove_dir_all(folder);
}

/// The shim: runs the container of a pod to its end.
pub fn shim(arguments: &[String]) -> anyhow::Result<()> {
    let uid = arguments.windows(2).find(|pair| pair[0] == "-id").map(|pair| &pair[1]).context("-id is missing")?;
    let local = Local::of(uid);
    let spec = local.spec()?;
    // The unit's stop and start do not concern it.
    setsid()?;
    let code = match contain(&local, &spec) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cannot start the container: {error:#}");
            128
        }
    };
    local.ended(code, spec["log"] == true)
}

fn contain(local: &Local, spec: &Value) -> anyhow::Result<i32> {
    // Mounts of its own, as a container has, on the root of the host; and a /tmp.
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    let message = local.file("termination-log");
    File::create(&message)?;
    bind(&message, Path::new(spec["message"].as_str().unwrap_or_default()))?;
    for volume in spec["mounts"].as_array().into_iter().flatten() {
        let path = |key: &str| PathBuf::from(volume[key].as_str().unwrap_or_default());
        bind(&path("from"), &path("to"))?;
    }
    let words: Vec<&str> = spec["command"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let (program, rest) = words.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    command.args(rest).current_dir(spec["cwd"].as_str().unwrap_or("/")).process_group(0);
    for (name, value) in spec["env"].as_object().into_iter().flatten() {
        command.env(name, value.as_str().unwrap_or_default());
    }
    let mut child = command.spawn().with_context(|| (*program).to_owned())?;
    local.runs(child.id())?;
    let status = child.wait()?;
    // A container ends as a whole.
    let _ = killpg(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGKILL);
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()))
}

/// Mounts `from` over `to`, which is made where it is missing.
fn bind(from: &Path, to: &Path) -> anyhow::Result<()> {
    if from.is_dir() {
        std::fs::create_dir_all(to)?;
    } else if !to.exists() {
        std::fs::create_dir_all(to.parent().context("a folder")?)?;
        File::create(to)?;
    }
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("{} on {}", from.display(), to.display()))
}
