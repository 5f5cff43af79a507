//! Nodes without hosts: one kwok(1) process plays the kubelet of all of them, by the stages of `tests/lab/plane/stages.yaml`.

use anyhow::{Result, ensure};

use super::{Plane, lab_file, tool};
use crate::process::Process;

/// What the nodes' Leases are renewed within.
const LEASE_SECONDS: u32 = 40;

/// A kubelet says so of its node; without it the controller-manager attaches nothing to it.
const ATTACHABLE: &str = "volumes.kubernetes.io/controller-managed-attach-detach: \"true\"";

impl Plane {
    /// Creates nodes with these labels (`key=value`); nobody plays their kubelet yet, so they are not Ready.
    ///
    /// # Errors
    /// Where one is refused.
    pub fn nodes(&self, names: &[&str], labels: &[&str]) -> Result<()> {
        let label = |(key, value)| format!("    {key}: \"{value}\"\n");
        let labels: Vec<String> = labels.iter().filter_map(|label| label.split_once('=')).map(label).collect();
        let labels = labels.concat();
        let node = |name: &&str| {
            format!(
                "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  annotations: {{{ATTACHABLE}}}\n  labels:\n    kubernetes.io/hostname: {name}\n{labels}---\n"
            )
        };
        self.apply(&names.iter().map(node).collect::<String>())?;
        Ok(())
    }

    /// The process that plays the kubelets of the nodes of the `n`th call of [`Plane::kwok`].
    pub fn kubelets(&mut self, n: usize) -> &mut Process {
        &mut self.kwoks[n]
    }

    /// Creates nodes and plays their kubelets with one process; they are Ready when it returns.
    ///
    /// # Errors
    /// Where they are not Ready within 30 s.
    pub fn kwok(&mut self, names: &[&str]) -> Result<()> {
        let group = format!("lab.metis/kwok=group-{}", self.kwoks.len());
        self.nodes(names, &[&group])?;
        let kubeconfig = self.identity.kubeconfig("kwok", &self.url(), self.identity.token("kwok")?)?;
        let log = self.dir.path().join(format!("kwok-{}.log", self.kwoks.len()));
        let mut kwok = Process::new(tool("kwok")?, log).netns(self.netns.as_deref()).env("HOME", self.dir.path()).args([
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--config={}", lab_file("stages.yaml").display()),
            "--manage-all-nodes=false".to_owned(),
            format!("--manage-nodes-with-label-selector={group}"),
            format!("--node-lease-duration-seconds={LEASE_SECONDS}"),
        ]);
        kwok.start()?;
        self.kwoks.push(kwok);
        let arguments = [&["wait", "--for=condition=Ready", "--timeout=30s", "node"], names].concat();
        let ready = self.kubectl(&arguments);
        let last = self.kwoks.len() - 1;
        ensure!(ready.is_ok(), "kwok's nodes are not Ready: {ready:?}\n{}", self.kwoks[last].last_words());
        Ok(())
    }
}
