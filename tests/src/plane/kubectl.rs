#![allow(clippy::disallowed_methods, reason = "tests start the processes they talk to")]
//! kubectl, the independent client.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};

use super::Plane;
use crate::process::netns_file;

impl Plane {
    /// kubectl as administrator, as a line for a shell.
    pub fn kubectl_line(&self) -> String {
        let netns = self.netns.as_deref().map(|netns| format!("nsenter --net={} -- ", netns_file(netns))).unwrap_or_default();
        format!("{netns}{} --kubeconfig {}", self.kubectl.display(), self.admin.display())
    }

    /// Runs kubectl as administrator; it must succeed. Gives what it printed.
    ///
    /// # Errors
    /// Where it fails; what it wrote is in the message.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_in(arguments, "")
    }

    /// As [`Plane::kubectl`], with something to read.
    ///
    /// # Errors
    /// As [`Plane::kubectl`].
    pub fn kubectl_in(&self, arguments: &[&str], stdin: &str) -> Result<String> {
        let out = self.kubectl_output(&self.admin, arguments, stdin)?;
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        ensure!(out.status.success(), "kubectl {arguments:?}: {}\n{stdout}{stderr}", out.status);
        Ok(stdout.into_owned())
    }

    /// Runs kubectl with this kubeconfig, whatever comes of it.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn kubectl_output(&self, kubeconfig: &Path, arguments: &[&str], stdin: &str) -> Result<Output> {
        let mut command = match &self.netns {
            None => Command::new(&self.kubectl),
            Some(netns) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", netns_file(netns))).arg("--").arg(&self.kubectl);
                command
            }
        };
        command
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(arguments)
            .env("KUBECACHEDIR", self.dir.path().join("kubectl"))
            .env("HOME", self.dir.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("kubectl")?;
        let mut pipe = child.stdin.take().context("kubectl's standard input")?;
        std::thread::scope(|scope| {
            // One that fails before it has read everything says why itself.
            scope.spawn(move || pipe.write_all(stdin.as_bytes()));
            child.wait_with_output().context("kubectl")
        })
    }

    /// Applies manifests (server-side).
    ///
    /// # Errors
    /// As [`Plane::kubectl`].
    pub fn apply(&self, manifests: &str) -> Result<String> {
        self.kubectl_in(&["apply", "--server-side", "--force-conflicts", "-f", "-"], manifests)
    }

    /// Applies a file of manifests, or a folder of them; CRDs are established when it returns.
    ///
    /// # Errors
    /// As [`Plane::kubectl`].
    pub fn apply_file(&self, path: &Path) -> Result<()> {
        let path = path.display().to_string();
        let applied = self.kubectl(&["apply", "--server-side", "-f", &path])?;
        if applied.contains("customresourcedefinition") {
            self.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "-f", &path])?;
        }
        Ok(())
    }
}
