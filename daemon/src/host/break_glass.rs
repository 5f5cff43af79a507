//! A command of this host that prints a secret, such as unseal keys that a person has to release.
//!
//! It is a child of metisd and no unit: the output of a unit would go to the journal or into a file.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::process::Child;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::site::Secret;

/// It prints no more, in bytes.
const LONGEST: usize = 64 << 10;
/// All that it finds in its environment.
const ENVIRONMENT: [(&str, &str); 2] = [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("LANG", "C.UTF-8")];

/// Ends what the command has started, too, unless it came to its end.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Runs it as this user and gives what it printed. Nothing of what it says reaches a message, not even its standard error: it may hold keys.
///
/// # Errors
/// It cannot be started, ends with another status than 0, prints nothing or too much, or is late; then it is killed.
pub async fn printed(command: &[String], within: Duration) -> Result<Secret, String> {
    let Some((program, arguments)) = command.split_first() else { return Err("the command is empty".to_owned()) };
    let mut child = start(program, arguments).map_err(|error| format!("{program} cannot be started: {error}"))?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    let ended = timeout(within, output(&mut child)).await;
    let ended = ended.map_err(|_| format!("{program} has not ended within {} s and was killed", within.as_secs()))?;
    let (secret, status) = ended.map_err(|why| format!("{program}: {why}"))?;
    // Nobody else has that number while its processes are there.
    group.0 = None;
    if !status.success() {
        return Err(format!("{program} ended with {status}; run it by hand to see why (its words are not shown: they may hold keys)"));
    }
    if secret.expose().is_empty() { Err(format!("{program} printed nothing")) } else { Ok(secret) }
}

#[allow(clippy::disallowed_methods, reason = "the adapter that runs the break-glass command")]
fn start(program: &str, arguments: &[String]) -> std::io::Result<Child> {
    let mut process = tokio::process::Command::new(program);
    process.args(arguments).env_clear().envs(ENVIRONMENT).current_dir("/").process_group(0).kill_on_drop(true);
    process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
}

/// Into one buffer that is wiped: one that grows would leave copies behind.
async fn output(child: &mut Child) -> Result<(Secret, std::process::ExitStatus), String> {
    let mut pipe = child.stdout.take().ok_or("its output cannot be read")?;
    let mut buffer = Zeroizing::new(vec![0; LONGEST + 1]);
    let mut filled = 0;
    while filled < buffer.len() {
        match pipe.read(&mut buffer[filled..]).await {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) => return Err(error.to_string()),
        }
    }
    if filled > LONGEST {
        return Err(format!("it prints more than {LONGEST} bytes"));
    }
    let secret = Secret::new(&buffer[..filled]);
    let status = child.wait().await.map_err(|error| error.to_string())?;
    Ok((secret, status))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn sh(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(ToOwned::to_owned).to_vec()
    }

    #[tokio::test]
    async fn it_prints_in_an_empty_environment() {
        let secret = printed(&sh("tr '\\0' '\\n' </proc/$$/environ; pwd; cat"), LIMIT).await.unwrap();
        let text = secret.expose_str().unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["/", "LANG=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "{text}");
    }

    #[tokio::test]
    async fn what_it_says_is_in_no_message() {
        for script in ["echo sesame; echo sesame >&2; exit 3", "echo sesame >&2; kill -9 $$", "yes sesame | head -c 70000", ":"] {
            let error = printed(&sh(script), LIMIT).await.unwrap_err();
            assert!(!error.contains("sesame") && error.contains("/bin/sh"), "{error}");
        }
        let error = printed(&["/no/such/program".to_owned(), "x".to_owned()], LIMIT).await.unwrap_err();
        assert!(error.contains("/no/such/program cannot be started"), "{error}");
        assert!(printed(&[], LIMIT).await.is_err());
    }

    #[tokio::test]
    async fn one_that_is_late_is_killed_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let pids = folder.path().join("pids");
        let script = format!("sleep 600 & echo $$ $! >{}; wait", pids.display());
        let late = printed(&sh(&script), Duration::from_secs(2)).await.unwrap_err();
        assert!(late.contains("was killed"), "{late}");
        let text = std::fs::read_to_string(&pids).unwrap();
        let gone = |pid: &str| {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            state.is_empty() || state.contains(") Z ")
        };
        let begun = std::time::Instant::now();
        while !text.split_whitespace().all(gone) {
            assert!(begun.elapsed() < LIMIT, "still there: {text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
