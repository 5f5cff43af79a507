//! The helper pod as the API server gets it, and what its status means. Pure.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::host::port::Output;

/// Finds helper pods.
pub const SELECTOR: &str = "app.kubernetes.io/managed-by=metis,app.kubernetes.io/name=metis-helper";

/// Label with the metis host that made it.
pub const HOLDER: &str = "metis.v1/holder";

/// What stands between standard output and standard error in the termination message.
const BETWEEN: &str = "\n--- stderr ---\n";

/// Runs its arguments in the namespaces of the host's first process, keeps the end of each output, and leaves both as termination message (at
/// most 4096 bytes). The status goes by way of a file: that of a pipe is its last program's.
const SCRIPT: &str = r#"
cd /tmp
{ { nsenter -t 1 -m -u -i -n -p -- "$@" 2>&3; echo $? >code; } | tail -c 2000 >out; } 3>&1 | tail -c 2000 >err
{ cat out; printf '\n--- stderr ---\n'; cat err; } >/dev/termination-log
exit "$(cat code)"
"#;

/// A name that no pod had: what is made twice under it is made once.
///
/// # Errors
/// Where the kernel gives no random numbers.
pub fn name() -> Result<String, aws_lc_rs::error::Unspecified> {
    let mut random = [0u8; 8];
    aws_lc_rs::rand::fill(&mut random)?;
    Ok(format!("metis-helper-{:016x}", u64::from_ne_bytes(random)))
}

/// A text as it may stand as a label's value (at most 63 letters, digits, `-`, `_` and `.`, a letter or digit at both ends).
pub fn label_value(text: &str) -> String {
    let plain: String = text.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).take(63).collect();
    plain.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

/// A pod of that name, made by `holder`, that runs `argv` on `node` as root, for at most `within`.
pub fn pod(name: &str, holder: &str, node: &str, image: &str, argv: &[String], within: Duration) -> Value {
    let command: Vec<&str> = ["sh", "-c", SCRIPT, "metis-helper"].into_iter().chain(argv.iter().map(String::as_str)).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": { "app.kubernetes.io/managed-by": "metis", "app.kubernetes.io/name": "metis-helper", HOLDER: holder },
        },
        "spec": {
            // Past the scheduler: the node is cordoned, and the scheduler may be gone.
            "nodeName": node,
            "tolerations": [{ "operator": "Exists" }],
            "priorityClassName": "system-node-critical",
            "restartPolicy": "Never",
            "activeDeadlineSeconds": within.as_secs().max(1),
            "terminationGracePeriodSeconds": 0,
            "hostPID": true,
            "hostNetwork": false,
            // Names of the cluster's DNS are of no use once it goes down.
            "dnsPolicy": "Default",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "containers": [{
                "name": "helper",
                "image": image,
                // What is on the node will do: a registry in the cluster may be gone.
                "imagePullPolicy": "IfNotPresent",
                "command": command,
                "securityContext": { "privileged": true, "runAsUser": 0 },
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }],
        },
    })
}

/// What became of a helper pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It does not run yet, and why.
    Waiting(String),
    /// It runs.
    Running,
    /// Its command has ended.
    Ended {
        /// With this status.
        code: i32,
        /// Having said this.
        output: Output,
    },
    /// It will never run, or was ended from outside.
    Hopeless(String),
    /// It ran for longer than it may, and was killed.
    Late,
}

/// Reads a pod's status.
pub fn state(pod: &Pod) -> State {
    let Some(status) = &pod.status else { return State::Waiting("the kubelet has not taken it".to_owned()) };
    if status.phase.as_deref() == Some("Failed") && status.reason.as_deref() == Some("DeadlineExceeded") {
        return State::Late;
    }
    let container = status.container_statuses.as_ref().and_then(|all| all.first()).and_then(|status| status.state.as_ref());
    if let Some(ended) = container.and_then(|state| state.terminated.as_ref()) {
        let output = outputs(ended.message.as_deref().unwrap_or_default());
        return match ended.reason.as_deref() {
            Some(reason @ ("ContainerCannotRun" | "StartError" | "CreateContainerError" | "OOMKilled")) => {
                State::Hopeless(format!("{reason}: {}", output.stdout.trim()))
            }
            _ => State::Ended { code: ended.exit_code, output },
        };
    }
    if status.phase.as_deref() == Some("Failed") {
        // The kubelet turned it away.
        let parts = [status.reason.as_deref(), status.message.as_deref()];
        return State::Hopeless(parts.into_iter().flatten().collect::<Vec<_>>().join(": "));
    }
    if container.is_some_and(|state| state.running.is_some()) {
        return State::Running;
    }
    match container.and_then(|state| state.waiting.as_ref()) {
        Some(waiting) => {
            let reason = waiting.reason.clone().unwrap_or_default();
            let why = format!("{reason}: {}", waiting.message.as_deref().unwrap_or_default());
            match reason.as_str() {
                // At a back-off the kubelet has tried once, and waits for longer and longer: who asks again asks a new pod.
                "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "CreateContainerConfigError" => State::Hopeless(why),
                _ => State::Waiting(why),
            }
        }
        None => State::Waiting(status.phase.clone().unwrap_or_else(|| "the kubelet has not taken it".to_owned())),
    }
}

fn outputs(message: &str) -> Output {
    let (stdout, stderr) = message.split_once(BETWEEN).unwrap_or((message, ""));
    Output { stdout: stdout.to_owned(), stderr: stderr.to_owned() }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a real shell judges the script")]
mod tests {
    use super::*;

    fn read(status: Value) -> State {
        state(&serde_json::from_value(json!({ "metadata": {}, "status": status })).unwrap())
    }

    fn container(state: Value) -> State {
        read(json!({ "phase": "Pending", "containerStatuses": [{
            "name": "helper", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state }] }))
    }

    #[test]
    fn the_pod_is_pinned_privileged_and_ends() {
        let pod = pod(
            "metis-helper-1",
            "titan-db",
            "titan-24",
            "registry.lan/busybox:1",
            &["systemctl".to_owned(), "stop".to_owned(), "a b".to_owned()],
            Duration::from_secs(90),
        );
        let typed: Pod = serde_json::from_value(pod).unwrap();
        let spec = typed.spec.unwrap();
        assert_eq!((spec.node_name.as_deref(), spec.host_pid, spec.host_network), (Some("titan-24"), Some(true), Some(false)));
        assert_eq!((spec.active_deadline_seconds, spec.restart_policy.as_deref()), (Some(90), Some("Never")));
        assert_eq!(spec.tolerations.unwrap()[0].operator.as_deref(), Some("Exists"));
        assert_eq!(spec.containers[0].command.as_ref().unwrap()[4..], ["systemctl", "stop", "a b"]);
        assert_eq!(spec.containers[0].security_context.as_ref().unwrap().privileged, Some(true));
        let labels = typed.metadata.labels.unwrap();
        assert_eq!((typed.metadata.name.as_deref(), labels[HOLDER].as_str()), (Some("metis-helper-1"), "titan-db"));
        assert!(SELECTOR.split(',').all(|pair| pair.split_once('=').is_some_and(|(key, value)| labels[key] == value)));
    }

    #[test]
    fn a_status_is_read_for_what_it_means() {
        let terminated =
            |code: i32, message: &str| container(json!({ "terminated": { "exitCode": code, "message": message, "reason": "Error" } }));
        let output = Output { stdout: "out\n".to_owned(), stderr: "err\n".to_owned() };
        assert_eq!(terminated(3, "out\n\n--- stderr ---\nerr\n"), State::Ended { code: 3, output });
        let output = Output { stdout: "text".to_owned(), stderr: String::new() };
        assert_eq!(terminated(0, "text"), State::Ended { code: 0, output });
        assert_eq!(container(json!({ "running": {} })), State::Running);
        assert!(matches!(container(json!({ "waiting": { "reason": "ErrImagePull" } })), State::Waiting(_)));
        assert!(matches!(container(json!({ "waiting": { "reason": "ImagePullBackOff" } })), State::Hopeless(_)));
        let late = json!({ "phase": "Failed", "reason": "DeadlineExceeded", "containerStatuses": [{ "name": "helper", "image": "i",
            "imageID": "", "ready": false, "restartCount": 0, "state": { "terminated": { "exitCode": 137, "reason": "Error" } } }] });
        assert_eq!(read(late), State::Late);
        assert!(matches!(container(json!({ "waiting": { "reason": "ErrImageNeverPull" } })), State::Hopeless(_)));
        assert!(matches!(container(json!({ "terminated": { "exitCode": 128, "reason": "StartError" } })), State::Hopeless(_)));
        assert!(
            matches!(read(json!({ "phase": "Failed", "reason": "NodeShutdown", "message": "Pod was rejected" })), State::Hopeless(why) if why == "NodeShutdown: Pod was rejected")
        );
        assert!(matches!(read(json!({ "phase": "Pending" })), State::Waiting(_)));
    }

    #[test]
    fn names_are_new_and_labels_are_valid() {
        let (one, other) = (name().unwrap(), name().unwrap());
        assert!(one != other && one.len() == 29, "{one} {other}");
        for (text, value) in [("titan-db.lan", "titan-db.lan"), ("-a b_", "ab"), ("", ""), (&"x-".repeat(40), &"x-".repeat(32)[..63])] {
            assert_eq!(label_value(text), value.trim_end_matches('-'), "{text}");
        }
    }

    /// The script with its folder and files moved, and `nsenter` for the arguments' own sake.
    fn run(argv: &[&str]) -> (i32, Output) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().display().to_string();
        std::fs::write(dir.path().join("nsenter"), "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"\n").unwrap();
        std::fs::set_permissions(dir.path().join("nsenter"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let script = SCRIPT.replace("cd /tmp", &format!("cd {folder}")).replace("/dev/termination-log", &format!("{folder}/log"));
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &script, "metis-helper"]).args(argv).env("PATH", format!("{folder}:/usr/bin:/bin"));
        let status = command.status().unwrap();
        let message = std::fs::read(dir.path().join("log")).unwrap();
        assert!(message.len() <= 4096, "{}", message.len());
        (status.code().unwrap(), outputs(&String::from_utf8(message).unwrap()))
    }

    #[test]
    fn the_script_keeps_status_and_the_end_of_both_outputs() {
        let (code, output) = run(&["sh", "-c", "echo a b; echo wrong >&2; exit 7"]);
        assert_eq!((code, output.stdout.as_str(), output.stderr.as_str()), (7, "a b\n", "wrong\n"));
        let (code, output) = run(&["sh", "-c", "yes out | head -c 1000000; yes err | head -c 1000000 >&2"]);
        assert_eq!((code, output.stdout.len(), output.stderr.len()), (0, 2000, 2000));
        let (code, output) = run(&["printf", "[%s]", "a  b", "$HOME", "it's"]);
        assert_eq!((code, output.stdout.as_str()), (0, "[a  b][$HOME][it's]"));
        assert_eq!(run(&["/no/such/program"]).0, 127);
    }
}
