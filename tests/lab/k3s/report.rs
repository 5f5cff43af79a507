//! Pure: what is done with a pod that stands for a process, and what is said of it. As a kubelet decides.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::local::Exit;

/// The longest pause before a process is started again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What is known of a pod's process on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Process {
    /// Was not started in this boot.
    None,
    /// Is being started.
    Starting,
    /// Runs since, for so long.
    Running { since: String, ran: Duration, ready: bool },
    /// Has ended after so long; so long ago.
    Ended { since: String, ran: Duration, exit: Exit, ago: Duration },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Nothing but waiting.
    Wait,
    /// Start its process; again, where it has run.
    Start,
    /// Say this of it.
    Say(Value),
    /// Say this of it, send SIGTERM once, and SIGKILL when the grace period is over.
    Stop(Value),
    /// Send SIGKILL: it has run for longer than it may.
    Kill,
    /// Say this of it; then it is forgotten and removed.
    Remove(Value),
}

/// What is to be done with a pod of this node.
pub fn decide(pod: &Pod, process: &Process, restarts: u32, address: &str) -> Action {
    let deleting = pod.metadata.deletion_timestamp.is_some();
    let over =
        pod.status.as_ref().and_then(|status| status.phase.as_deref()).is_some_and(|phase| phase == "Succeeded" || phase == "Failed");
    let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
    // From its process' start; a kubelet counts from the pod's.
    let late = |ran: &Duration| {
        let limit = pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        limit.is_some_and(|limit| *ran >= Duration::from_secs(limit.max(0) as u64))
    };
    match process {
        Process::None if deleting => Action::Remove(Value::Null),
        Process::None if !over => Action::Start,
        Process::None | Process::Starting => Action::Wait,
        Process::Running { ran, .. } if !deleting && late(ran) => Action::Kill,
        Process::Running { since, ready, .. } => {
            let state = json!({ "running": { "startedAt": since } });
            let status = status(pod, "Running", *ready && !deleting, restarts, state, address);
            if deleting { Action::Stop(status) } else { Action::Say(status) }
        }
        Process::Ended { since, ran, exit, .. } if !deleting && exit.code == 137 && late(ran) => {
            let mut status = status(pod, "Failed", false, restarts, terminated(since, exit), address);
            status["status"]["reason"] = json!("DeadlineExceeded");
            status["status"]["message"] = json!("Pod was active on the node longer than the specified deadline");
            Action::Say(status)
        }
        Process::Ended { since, exit, ago, .. } => {
            let again = !deleting && (policy == "Always" || policy == "OnFailure" && exit.code != 0);
            let terminated = terminated(since, exit);
            let pause = LONGEST_PAUSE.min(Duration::from_secs(1) * 2u32.saturating_pow(restarts.min(10)));
            match (deleting, again) {
                (true, _) => Action::Remove(status(pod, phase(exit), false, restarts, terminated, address)),
                (_, true) if *ago >= pause => Action::Start,
                (_, true) => Action::Say(status(pod, "Running", false, restarts, terminated, address)),
                (_, false) => Action::Say(status(pod, phase(exit), false, restarts, terminated, address)),
            }
        }
    }
}

fn phase(exit: &Exit) -> &'static str {
    if exit.code == 0 { "Succeeded" } else { "Failed" }
}

fn terminated(since: &str, exit: &Exit) -> Value {
    let reason = if exit.code == 0 { "Completed" } else { "Error" };
    json!({ "terminated": { "exitCode": exit.code, "reason": reason, "message": exit.message, "startedAt": since, "finishedAt": exit.at } })
}

/// A pod that cannot be run here says so and fails.
pub fn refused(why: &str) -> Value {
    json!({ "status": { "phase": "Failed", "reason": "NotRunHere", "message": why } })
}

fn status(pod: &Pod, phase: &str, ready: bool, restarts: u32, state: Value, address: &str) -> Value {
    let name = pod.spec.as_ref().and_then(|spec| spec.containers.first()).map(|container| (&container.name, &container.image));
    let (name, image) = name.unzip();
    let condition = |kind: &str, on: bool| json!({ "type": kind, "status": if on { "True" } else { "False" } });
    json!({ "status": {
        "phase": phase, "hostIP": address, "hostIPs": [{ "ip": address }], "podIP": address, "podIPs": [{ "ip": address }],
        "conditions": [condition("Initialized", true), condition("ContainersReady", ready), condition("Ready", ready)],
        "containerStatuses": [{
            "name": name, "image": image.cloned().flatten().unwrap_or_default(), "imageID": "", "ready": ready, "started": phase == "Running",
            "restartCount": restarts, "state": state,
        }],
    } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(policy: &str, phase: &str, deleting: bool) -> Pod {
        let mut pod = json!({
            "metadata": { "name": "p", "uid": "u" }, "status": { "phase": phase },
            "spec": { "restartPolicy": policy, "containers": [{ "name": "c", "image": "i", "command": ["sleep"] }] },
        });
        if deleting {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(pod).unwrap()
    }

    fn ended(code: i32, ago: u64) -> Process {
        let exit = Exit { code, at: "2026-01-01T00:00:00Z".to_owned(), message: "m".to_owned() };
        Process::Ended { since: String::new(), ran: Duration::from_secs(60), exit, ago: Duration::from_secs(ago) }
    }

    fn running() -> Process {
        Process::Running { since: String::new(), ran: Duration::from_secs(60), ready: true }
    }

    /// What is done, in one word, and the phase that is said.
    fn word(policy: &str, phase: &str, deleting: bool, process: &Process, restarts: u32) -> String {
        let said = |status: &Value| status["status"]["phase"].as_str().unwrap_or("-").to_owned();
        match decide(&pod(policy, phase, deleting), process, restarts, "10.77.0.13") {
            Action::Wait => "wait".to_owned(),
            Action::Start => "start".to_owned(),
            Action::Say(status) => format!("say {}", said(&status)),
            Action::Stop(status) => format!("stop {}", said(&status)),
            Action::Kill => "kill".to_owned(),
            Action::Remove(status) => format!("remove {}", said(&status)),
        }
    }

    #[test]
    fn a_pod_is_treated_as_a_kubelet_does() {
        assert_eq!(word("Always", "Pending", false, &Process::None, 0), "start");
        assert_eq!(word("Always", "Running", false, &Process::None, 0), "start", "after a boot");
        assert_eq!(word("Never", "Succeeded", false, &Process::None, 0), "wait", "after a boot");
        assert_eq!(word("Always", "Pending", true, &Process::None, 0), "remove -");
        assert_eq!(word("Always", "Pending", false, &Process::Starting, 0), "wait");
        assert_eq!(word("Always", "Running", false, &running(), 0), "say Running");
        assert_eq!(word("Always", "Running", true, &running(), 0), "stop Running");
        assert_eq!(word("Always", "Running", false, &ended(0, 0), 0), "say Running", "it pauses");
        assert_eq!(word("Always", "Running", false, &ended(0, 1), 0), "start");
        assert_eq!(word("Always", "Running", false, &ended(0, 9), 20), "say Running");
        assert_eq!(word("Always", "Running", false, &ended(0, 30), 20), "start");
        assert_eq!(word("OnFailure", "Running", false, &ended(1, 1), 0), "start");
        assert_eq!(word("OnFailure", "Running", false, &ended(0, 1), 0), "say Succeeded");
        assert_eq!(word("Never", "Running", false, &ended(3, 1), 0), "say Failed");
        assert_eq!(word("Always", "Running", true, &ended(143, 0), 0), "remove Failed");
        assert_eq!(word("Always", "Running", true, &ended(0, 0), 0), "remove Succeeded");
    }

    #[test]
    fn a_pod_runs_no_longer_than_it_may() {
        let limited = |seconds: i64| {
            let mut pod = pod("Always", "Running", false);
            pod.spec.as_mut().unwrap().active_deadline_seconds = Some(seconds);
            pod
        };
        assert_eq!(decide(&limited(60), &running(), 0, ""), Action::Kill);
        assert!(matches!(decide(&limited(61), &running(), 0, ""), Action::Say(_)));
        let Action::Say(said) = decide(&limited(60), &ended(137, 9), 0, "") else { panic!("it is not started again") };
        assert_eq!((&said["status"]["phase"], &said["status"]["reason"]), (&json!("Failed"), &json!("DeadlineExceeded")));
        assert_eq!(decide(&limited(60), &ended(0, 9), 0, ""), Action::Start, "it had ended by itself");
    }

    #[test]
    fn what_is_said_has_the_message_and_the_address() {
        let Action::Say(said) = decide(&pod("Never", "Running", false), &ended(3, 0), 0, "10.77.0.13") else { panic!() };
        let container = &said["status"]["containerStatuses"][0];
        assert_eq!(container["state"]["terminated"]["message"], "m");
        assert_eq!(container["state"]["terminated"]["exitCode"], 3);
        assert_eq!((&container["name"], &container["ready"]), (&json!("c"), &json!(false)));
        assert_eq!(said["status"]["podIP"], "10.77.0.13");
        let Action::Say(said) = decide(&pod("Always", "Pending", false), &running(), 0, "10.77.0.13") else { panic!() };
        assert_eq!(said["status"]["conditions"][2], json!({ "type": "Ready", "status": "True" }));
    }
}
