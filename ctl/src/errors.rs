//! Everything that can end a command, its message and its exit code.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use metis_proto::details::{self, Detail};
use metis_proto::{ConnectError, v1};
use tonic::{Code, Status};

use crate::exit::Exit;
use crate::view::plan::GuardView;
use crate::view::{role, word};

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// The socket: no permission, not running.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// ssh itself.
    #[error("ssh to {host} failed: {said}\n  try `ssh {host} true` first; metisctl uses your own ssh and its configuration")]
    Ssh {
        /// As given with --host.
        host: String,
        /// ssh's standard error.
        said: String,
    },
    /// ssh works, metisd is not there.
    #[error("metisd is not running on {host}: {socket} does not exist there; start it with `ssh {host} sudo systemctl start metisd`")]
    RemoteAbsent {
        /// As given with --host.
        host: String,
        /// Path on that host.
        socket: PathBuf,
    },
    /// ssh works, the remote user may not open the socket.
    #[error(
        "no permission on {socket} on {host}: your user there is neither root nor in the socket's group; ask an admin to add it to group \
         metis"
    )]
    RemotePermission {
        /// As given with --host.
        host: String,
        /// Path on that host.
        socket: PathBuf,
    },
    /// The daemon said no, or broke off.
    #[error("{}", rpc_message(.what, .status))]
    Rpc {
        /// What was asked for, e.g. "burn".
        what: String,
        /// The answer.
        status: Box<Status>,
    },
    /// The daemon did not answer.
    #[error("{what}: metisd did not answer within {} s; look at `systemctl status metisd`, or wait longer with --timeout", .after.as_secs_f64())]
    TooSlow {
        /// What was asked for.
        what: String,
        /// The limit.
        after: Duration,
    },
    /// A guard of this client.
    #[error("{}", refusal(.what, .guards))]
    Refused {
        /// What was asked for.
        what: String,
        /// All guards that failed.
        guards: Vec<GuardView>,
    },
    /// The command line names something that cannot work.
    #[error("{0}")]
    Usage(String),
    /// Ctrl-C.
    #[error("{0}")]
    Interrupted(String),
    /// The connection was lost while a run went on.
    #[error("{0}")]
    Lost(String),
    /// The reader of standard output went away, e.g. `head`: nobody to tell.
    #[error("")]
    Closed,
    /// Anything else.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl CtlError {
    /// A call that was answered with a status.
    pub fn rpc(what: &str, status: Status) -> Self {
        Self::Rpc { what: what.to_owned(), status: Box::new(status) }
    }

    /// The exit code of the command that ends with this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Connect(_)
            | Self::Ssh { .. }
            | Self::RemoteAbsent { .. }
            | Self::RemotePermission { .. }
            | Self::TooSlow { .. }
            | Self::Lost(_) => Exit::Unreachable,
            Self::Rpc { status, .. } => rpc_exit(status),
            Self::Refused { .. } => Exit::Refused,
            Self::Usage(_) => Exit::Usage,
            Self::Interrupted(_) => Exit::Interrupted,
            Self::Other(_) | Self::Closed => Exit::Failed,
        }
    }
}

fn rpc_exit(status: &Status) -> Exit {
    if !details::of(status).is_empty() {
        return Exit::Refused;
    }
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
        Code::PermissionDenied | Code::Unauthenticated => Exit::Refused,
        Code::InvalidArgument => Exit::Usage,
        _ => Exit::Failed,
    }
}

fn rpc_message(what: &str, status: &Status) -> String {
    let details = details::of(status);
    let said = status.message();
    match details.first() {
        Some(Detail::Refusal(r)) => return refusal(what, &r.guards.iter().cloned().map(GuardView::from).collect::<Vec<_>>()),
        Some(Detail::RoleNeeded(r)) => return role_message(what, r),
        None => (),
    }
    match status.code() {
        Code::Unavailable => format!("{what}: the connection to metisd broke off ({said}); look at `systemctl status metisd`"),
        Code::Unimplemented => {
            format!("{what}: this metisd does not know the call; it is older than metisctl {}", env!("CARGO_PKG_VERSION"))
        }
        Code::Unknown | Code::Internal => format!("{what} failed inside metisd: {said}; look at `journalctl -x -u metisd`"),
        _ => format!("{what}: {said}"),
    }
}

fn role_message(what: &str, r: &v1::RoleNeeded) -> String {
    let (needed, caller) = (role(r.needed), role(r.caller));
    let you = match caller {
        word::UNSPECIFIED => format!("you are uid {} without any role", r.uid),
        role => format!("you are uid {} with role {role}", r.uid),
    };
    format!(
        "refused: {what} needs role {needed}; {you}. Ask an admin to give it to your user or group in api.roles of /etc/metis/metis.yaml"
    )
}

/// All guards at once, each with the flag that waives it.
pub fn refusal(what: &str, guards: &[GuardView]) -> String {
    let mut text = format!("refused: {what}");
    for guard in guards {
        let _ = write!(text, "\n  {guard}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(name: &str, waiver: &str) -> v1::Guard {
        v1::Guard { name: name.into(), message: format!("{name} is wrong"), waiver: waiver.into() }
    }

    #[test]
    fn a_refusal_lists_all_guards_with_their_waivers() {
        let refusal = v1::Refusal { guards: vec![guard("device.mounted", ""), guard("device.fixed", "--allow-fixed")] };
        let e = CtlError::rpc("burn", details::status(Code::FailedPrecondition, "2 guards", &Detail::Refusal(refusal)));
        assert_eq!(e.exit(), Exit::Refused);
        assert_eq!(
            e.to_string(),
            "refused: burn\n  device.mounted: device.mounted is wrong (cannot be waived)\n  device.fixed: device.fixed is wrong (waive it with \
             --allow-fixed)"
        );
    }

    #[test]
    fn a_role_error_says_which_role_and_who_you_are() {
        let detail = |caller: v1::Role| {
            Detail::RoleNeeded(v1::RoleNeeded { needed: v1::Role::Maintenance.into(), caller: caller.into(), uid: 1000 })
        };
        let e = |caller| CtlError::rpc("burn", details::status(Code::PermissionDenied, "no", &detail(caller)));
        assert_eq!(e(v1::Role::Viewer).exit(), Exit::Refused);
        assert!(e(v1::Role::Viewer).to_string().starts_with("refused: burn needs role maintenance; you are uid 1000 with role viewer."));
        assert!(e(v1::Role::Unspecified).to_string().contains("you are uid 1000 without any role"));
    }

    #[test]
    fn each_status_has_its_exit_code() {
        let table = [
            (Code::Unavailable, Exit::Unreachable),
            (Code::DeadlineExceeded, Exit::Unreachable),
            (Code::PermissionDenied, Exit::Refused),
            (Code::InvalidArgument, Exit::Usage),
            (Code::NotFound, Exit::Failed),
            (Code::Internal, Exit::Failed),
            (Code::FailedPrecondition, Exit::Failed),
            (Code::Unimplemented, Exit::Failed),
        ];
        for (code, exit) in table {
            assert_eq!(CtlError::rpc("x", Status::new(code, "m")).exit(), exit, "{code:?}");
        }
    }
}
