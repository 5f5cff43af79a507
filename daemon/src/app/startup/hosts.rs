//! Gates of the hosts themselves: clocks, and what storage needs.

use std::collections::BTreeSet;

use futures::future::join_all;

use crate::app::shutdown::Attempt;
use crate::host::port::{Command, HostError};
use crate::site::{Judged, NodeName};

/// Prints those of its arguments (`package=command`) of which neither the package is installed (dpkg-query(1)) nor the command is there.
const MISSING: &str = r#"PATH=$PATH:/usr/sbin:/sbin
for pair in "$@"; do
  package=${pair%%=*} command=${pair#*=}
  case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in *" ok installed") continue ;; esac
  command -v "$command" >/dev/null 2>&1 || echo "$package"
done"#;

/// The command by which a package is known where there is no dpkg.
const COMMANDS: [(&str, &str); 4] =
    [("cryptsetup", "cryptsetup"), ("dmsetup", "dmsetup"), ("nfs-common", "mount.nfs"), ("open-iscsi", "iscsiadm")];

fn command(argv: Vec<String>) -> Command {
    Command { argv, root: false }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

impl Attempt<'_> {
    /// This host's, or those of a majority.
    pub(super) async fn clocks(&self, hosts: &BTreeSet<NodeName>) -> Judged {
        let here = self.world.now().synced;
        if hosts.is_empty() {
            let not = || Judged::NotReady { why: "this host's clock is not synchronised".to_owned(), done: 0 };
            return if here { Judged::Ready("this host's clock is synchronised".to_owned()) } else { not() };
        }
        let answers = join_all(hosts.iter().map(|name| self.clock(name, here))).await;
        quorum(&hosts.iter().map(ToString::to_string).zip(answers).collect::<Vec<_>>())
    }

    async fn clock(&self, name: &NodeName, here: bool) -> Result<bool, String> {
        let host = self.parts.host(name)?;
        if host.this_host {
            return Ok(here);
        }
        let show = command(words(&["timedatectl", "show", "-p", "NTPSynchronized", "--value"]));
        let said = self.parts.hosts.run(host, &show, self.left()).await.map_err(|error| error.to_string())?;
        match said.stdout.trim() {
            "yes" => Ok(true),
            "no" => Ok(false),
            other => Err(format!("{name}: timedatectl says neither yes nor no: {other:?}")),
        }
    }

    /// What storage needs is there.
    pub(super) async fn packages(&self, name: &NodeName) -> Judged {
        let host = match self.parts.host(name) {
            Ok(host) => host,
            Err(why) => return Judged::CannotTell(why),
        };
        let wanted = &self.parts.settings.startup.packages;
        let pairs = wanted.iter().map(|package| {
            let known = COMMANDS.iter().find(|(of, _)| of == package).map_or(package.as_str(), |(_, command)| command);
            format!("{package}={known}")
        });
        let argv = words(&["sh", "-c", MISSING, "sh"]).into_iter().chain(pairs).collect();
        match self.parts.hosts.run(host, &command(argv), self.left()).await {
            Ok(output) => {
                let missing: Vec<&str> = output.stdout.split_whitespace().collect();
                if missing.is_empty() {
                    return Judged::Ready(format!("{name} has what its storage needs"));
                }
                let done = (wanted.len().saturating_sub(missing.len())) as u64;
                Judged::NotReady { why: format!("{name} lacks {}: its volumes would not attach", missing.join(", ")), done }
            }
            Err(HostError::Unreachable(why)) => Judged::NotReady { why, done: 0 },
            Err(error) => Judged::CannotTell(error.to_string()),
        }
    }
}

/// More than half of all are synchronised; of those that do not say nothing is assumed.
fn quorum(answers: &[(String, Result<bool, String>)]) -> Judged {
    let synced = answers.iter().filter(|(_, answer)| *answer == Ok(true)).count();
    let said = answers.iter().filter(|(_, answer)| answer.is_ok()).count();
    let needed = answers.len() / 2 + 1;
    if synced >= needed {
        return Judged::Ready(format!("the clocks of {synced} of {} hosts are synchronised", answers.len()));
    }
    let astray = answers.iter().filter_map(|(name, answer)| match answer {
        Ok(true) => None,
        Ok(false) => Some(format!("{name} is not synchronised")),
        Err(why) => Some(why.clone()),
    });
    let why = format!(
        "the clocks of {synced} of {} hosts are synchronised, and {needed} are needed: {}",
        answers.len(),
        astray.collect::<Vec<_>>().join("; ")
    );
    // With those that say nothing there might be enough.
    if synced + (answers.len() - said) >= needed { Judged::CannotTell(why) } else { Judged::NotReady { why, done: synced as u64 } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_half_have_to_agree() {
        let judge = |answers: &[Result<bool, ()>]| {
            let named = answers.iter().enumerate().map(|(at, answer)| (format!("h{at}"), answer.map_err(|()| "no answer".to_owned())));
            quorum(&named.collect::<Vec<_>>())
        };
        let (yes, no, silent) = (Ok(true), Ok(false), Err(()));
        assert!(matches!(judge(&[yes, yes, no]), Judged::Ready(_)));
        assert!(matches!(judge(&[yes, yes, silent]), Judged::Ready(_)));
        assert!(matches!(judge(&[yes, no]), Judged::NotReady { done: 1, .. }), "half is no majority");
        assert!(matches!(judge(&[yes, no, no, silent]), Judged::NotReady { .. }));
        assert!(matches!(judge(&[yes, no, silent]), Judged::CannotTell(_)));
        assert!(matches!(judge(&[silent, silent, silent]), Judged::CannotTell(_)));
    }

    /// By the shell of this host, on packages that every Debian has and nobody has.
    #[tokio::test]
    #[allow(clippy::disallowed_methods, reason = "the script is run as a host would run it")]
    async fn the_script_names_what_is_not_there() {
        let run = |pairs: &'static [&'static str]| async move {
            let ran = tokio::process::Command::new("sh").args(["-c", MISSING, "sh"]).args(pairs).output().await.unwrap();
            assert!(ran.status.success(), "{ran:?}");
            String::from_utf8(ran.stdout).unwrap()
        };
        assert_eq!(run(&["dpkg=no-such-command", "no-such-package=sh", "metis-none=metis-none"]).await, "metis-none\n");
        assert_eq!(run(&["coreutils=ls"]).await, "");
        assert_eq!(run(&["metis-a=metis-a", "metis-b=metis-b"]).await, "metis-a\nmetis-b\n");
    }
}
