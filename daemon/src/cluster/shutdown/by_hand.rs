//! The commands that a person would type.

use crate::cluster::port::Facts;
use crate::site::{Access, Host};

/// A command on a host, as root; it is quoted for one shell.
pub(in crate::cluster) fn on(host: &Host, command: &str) -> String {
    match host.access {
        Access::Local => format!("sudo {command}"),
        Access::HelperPod => {
            format!("kubectl debug node/{} -it --profile=sysadmin --image=busybox -- chroot /host {command}", host.node_name)
        }
        Access::Ssh | Access::None => {
            let port = if host.port == 22 { String::new() } else { format!("-p {} ", host.port) };
            let command = if host.sudo { format!("sudo {command}") } else { command.to_owned() };
            format!("ssh {port}{}@{} {}", host.user, host.address, for_ssh(command))
        }
    }
}

/// A shell's command on a host, as root.
pub(in crate::cluster) fn shell_on(host: &Host, script: &str) -> String {
    on(host, &format!("sh -c {}", single_quoted(script)))
}

/// A second shell reads what ssh(1) is given.
fn for_ssh(command: String) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || " ./_-:=@,+%".contains(c);
    if command.chars().all(plain) { command } else { single_quoted(&command) }
}

fn single_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Suspends (or resumes) what is to be suspended.
pub(in crate::cluster) fn flux(verb: &str, facts: &Facts) -> String {
    let kind = |kind: &str| match kind {
        "HelmRelease" => "helmrelease",
        _ => "kustomization",
    };
    let mut objects: Vec<_> = facts.flux.iter().filter(|seen| !seen.suspended).map(|seen| &seen.object).collect();
    if verb == "resume" {
        objects.reverse();
    }
    if objects.is_empty() {
        let all = |kind: &str| {
            format!(
                "kubectl get {kind} -A --no-headers -o custom-columns=:.metadata.namespace,:.metadata.name | while read -r ns name; do flux {verb} {kind} -n \"$ns\" \"$name\"; done"
            )
        };
        return format!("{}; {}", all("kustomization"), all("helmrelease"));
    }
    let commands: Vec<_> =
        objects.iter().map(|object| format!("flux {verb} {} {} -n {}", kind(&object.kind), object.name, object.namespace)).collect();
    commands.join("; ")
}
