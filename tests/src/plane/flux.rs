//! Flux: the real source- and kustomize-controllers, run beside the cluster, on the plane's Git server.

use anyhow::{Context, Result};

use super::git::Git;
use super::{Plane, tool};
use crate::process::Process;

/// Where the source-controller serves artifacts; metrics and health of both controllers are on the ports behind it.
const ARTIFACT_PORT: u16 = 8890;

/// The controllers and their Git server.
#[derive(Debug)]
pub struct Controllers {
    /// The source-controller: its artifacts are gone when it starts anew with an empty folder.
    pub source: Process,
    /// The kustomize-controller.
    pub kustomize: Process,
    /// Where they fetch from.
    pub git: Git,
}

impl Plane {
    /// Installs the CRDs of Flux's sources, Kustomizations and HelmReleases, and the namespace flux-system.
    pub(super) fn flux_crds(&self) -> Result<()> {
        for crds in ["crds-source", "crds-kustomize", "crds-helm"] {
            self.apply_file(&tool(crds)?)?;
        }
        self.kubectl(&["create", "namespace", "flux-system"])?;
        Ok(())
    }

    /// Starts the Git server and the controllers.
    pub(super) fn start_flux(&mut self) -> Result<()> {
        let git = Git::start(self)?;
        let storage = self.dir.path().join("artifacts");
        std::fs::create_dir_all(&storage)?;
        let artifacts = format!("{}:{ARTIFACT_PORT}", self.address);
        let mut source = self.controller("source-controller", ARTIFACT_PORT + 1)?.args([
            format!("--storage-path={}", storage.display()),
            format!("--storage-addr={artifacts}"),
            format!("--storage-adv-addr={artifacts}"),
        ]);
        let mut kustomize = self.controller("kustomize-controller", ARTIFACT_PORT + 3)?.arg("--requeue-dependency=2s");
        source.start()?;
        kustomize.start()?;
        self.flux = Some(Controllers { source, kustomize, git });
        Ok(())
    }

    fn controller(&self, name: &str, port: u16) -> Result<Process> {
        let kubeconfig = self.identity.kubeconfig("flux", &self.url(), self.identity.token("flux")?)?;
        let program = Process::new(tool(name)?, self.dir.path().join(format!("{name}.log"))).netns(self.netns.as_deref());
        let program = program
            .env("KUBECONFIG", kubeconfig)
            .env("RUNTIME_NAMESPACE", "flux-system")
            .env("TMPDIR", self.dir.path())
            .env("HOME", self.dir.path());
        Ok(program.args([
            "--enable-leader-election=false".to_owned(),
            "--events-addr=".to_owned(),
            format!("--metrics-addr={}:{port}", self.address),
            format!("--health-addr={}:{}", self.address, port + 1),
        ]))
    }

    /// The controllers and the Git server.
    ///
    /// # Errors
    /// Where the plane was started without them.
    pub fn flux(&mut self) -> Result<&mut Controllers> {
        self.flux.as_mut().context("the plane was started without Flux's controllers")
    }

    /// A GitRepository `site` of the plane's Git server and Kustomizations of it: (name, path, names it depends on). All in flux-system.
    ///
    /// # Errors
    /// Where one is refused.
    pub fn kustomizations(&mut self, of: &[(&str, &str, &[&str])]) -> Result<()> {
        let url = self.flux()?.git.url.clone();
        let source = format!(
            "apiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {{name: site, namespace: flux-system}}\nspec: {{url: \"{url}\", interval: 10m, ref: {{branch: main}}}}\n"
        );
        let one = |(name, path, needs): &(&str, &str, &[&str])| {
            let needs: Vec<String> = needs.iter().map(|need| format!("{{name: {need}}}")).collect();
            format!(
                "---\napiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {{name: {name}, namespace: flux-system}}\nspec: {{interval: 10m, retryInterval: 5s, path: {path}, prune: true, dependsOn: [{}], sourceRef: {{kind: GitRepository, name: site}}}}\n",
                needs.join(", ")
            )
        };
        let all: Vec<String> = std::iter::once(source).chain(of.iter().map(one)).collect();
        self.apply(&all.concat())?;
        Ok(())
    }
}
