//! A Git repository and the server that Flux fetches it from.
#![allow(clippy::disallowed_methods, reason = "tests start the processes they talk to")]

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Plane, lab_file};
use crate::process::Process;

/// Where the Git server listens.
pub const GIT_PORT: u16 = 8880;

/// A repository `site` with a branch `main`, served over smart HTTP.
#[derive(Debug)]
pub struct Git {
    /// The server, to be stopped and started by itself.
    pub server: Process,
    /// What a GitRepository names.
    pub url: String,
    /// The bare repository.
    pub repository: PathBuf,
    work: PathBuf,
}

impl Git {
    pub(super) fn start(plane: &Plane) -> Result<Self> {
        let root = plane.dir().join("git");
        let (repository, work) = (root.join("site.git"), root.join("work"));
        std::fs::create_dir_all(&work)?;
        let address = plane.address().to_string();
        let server = Process::new(lab_file("git-server"), plane.dir().join("git-server.log")).netns(plane.netns.as_deref());
        let server = server.args([address.clone(), GIT_PORT.to_string()]).arg(&root);
        let mut git = Self { server, url: format!("http://{address}:{GIT_PORT}/site.git"), repository, work };
        git.run(&["init", "--quiet", "--initial-branch=main"])?;
        git.run(&["init", "--quiet", "--bare", "--initial-branch=main", &git.repository.display().to_string()])?;
        git.server.start()?;
        Ok(git)
    }

    /// Replaces these files (path, text; no text removes one), commits and publishes it. Gives the revision as Flux writes it: `main@sha1:…`.
    ///
    /// # Errors
    /// Where git fails.
    pub fn commit(&self, files: &[(&str, Option<&str>)]) -> Result<String> {
        for (path, text) in files {
            let path = self.work.join(path);
            match text {
                Some(text) => {
                    std::fs::create_dir_all(path.parent().context("a file has a folder")?)?;
                    std::fs::write(path, text)?;
                }
                None => std::fs::remove_file(path)?,
            }
        }
        self.run(&["add", "--all"])?;
        self.run(&["commit", "--quiet", "--allow-empty", "--message=lab"])?;
        self.run(&["push", "--quiet", &self.repository.display().to_string(), "main"])?;
        Ok(format!("main@sha1:{}", self.run(&["rev-parse", "HEAD"])?.trim()))
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut git = Command::new("git");
        git.arg("-C").arg(&self.work).args(arguments).stdin(Stdio::null()).env("HOME", &self.work).env("GIT_CONFIG_NOSYSTEM", "1");
        for who in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{who}_NAME"), "lab").env(format!("GIT_{who}_EMAIL"), "lab@lab.invalid");
        }
        let out = git.output().context("git")?;
        ensure!(out.status.success(), "git {arguments:?}: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8(out.stdout)?)
    }
}
