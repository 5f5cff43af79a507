//! What can go wrong with an upsd, typed.

use std::fmt;
use std::time::Duration;

use super::line::LineError;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The code after `ERR` (upsd's neterr.h).
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub enum ErrCode {
            $($(#[$doc])* $name,)*
            /// A code that this client does not know.
            Other(String),
        }

        impl ErrCode {
            /// Reads a code.
            pub fn parse(text: &str) -> Self {
                match text {
                    $($text => Self::$name,)*
                    other => Self::Other(other.to_owned()),
                }
            }

            /// As upsd says it.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other(text) => text,
                }
            }

            #[cfg(test)]
            pub(super) const KNOWN: &[&str] = &[$($text,)*];
        }
    };
}

codes! {
    /// Wrong user, password, address, or the user may not do that. Passwords are only checked by LOGIN, PRIMARY, FSD, SET and INSTCMD.
    AccessDenied = "ACCESS-DENIED",
    /// No such UPS in ups.conf.
    UnknownUps = "UNKNOWN-UPS",
    /// The UPS has no such variable.
    VarNotSupported = "VAR-NOT-SUPPORTED",
    /// The UPS has no such command.
    CmdNotSupported = "CMD-NOT-SUPPORTED",
    /// An argument that makes no sense there.
    InvalidArgument = "INVALID-ARGUMENT",
    /// The driver did not take the command.
    InstcmdFailed = "INSTCMD-FAILED",
    /// The driver did not take the value.
    SetFailed = "SET-FAILED",
    /// The variable cannot be set.
    ReadOnly = "READONLY",
    /// The value is too long.
    TooLong = "TOO-LONG",
    /// upsd was built without it.
    FeatureNotSupported = "FEATURE-NOT-SUPPORTED",
    /// upsd was not configured for it (STARTTLS without certificates).
    FeatureNotConfigured = "FEATURE-NOT-CONFIGURED",
    /// TLS is on already.
    AlreadySslMode = "ALREADY-SSL-MODE",
    /// The driver does not run.
    DriverNotConnected = "DRIVER-NOT-CONNECTED",
    /// The driver has said nothing for MAXAGE.
    DataStale = "DATA-STALE",
    /// One LOGIN a connection.
    AlreadyLoggedIn = "ALREADY-LOGGED-IN",
    /// The password is not well-formed.
    InvalidPassword = "INVALID-PASSWORD",
    /// One PASSWORD a connection.
    AlreadySetPassword = "ALREADY-SET-PASSWORD",
    /// The user name is not well-formed.
    InvalidUsername = "INVALID-USERNAME",
    /// One USERNAME a connection.
    AlreadySetUsername = "ALREADY-SET-USERNAME",
    /// USERNAME must come first.
    UsernameRequired = "USERNAME-REQUIRED",
    /// PASSWORD must come first.
    PasswordRequired = "PASSWORD-REQUIRED",
    /// upsd does not know the request.
    UnknownCommand = "UNKNOWN-COMMAND",
    /// The value is not among those allowed.
    InvalidValue = "INVALID-VALUE",
    /// Another client is attached.
    AlreadyAttached = "ALREADY-ATTACHED",
}

impl fmt::Display for ErrCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an exchange with an upsd failed. After anything but [`NutError::Refused`] and [`NutError::Argument`] the connection is of no use.
#[derive(Debug, thiserror::Error)]
pub enum NutError {
    /// TCP.
    #[error("cannot connect to upsd at {peer}: {source}; does it run, and does its upsd.conf LISTEN there?")]
    Connect {
        /// `host:port`.
        peer: String,
        /// Why.
        source: std::io::Error,
    },
    /// It did not answer in time.
    #[error("upsd at {peer} did not answer {request} within {within:?}")]
    Timeout {
        /// `host:port`.
        peer: String,
        /// What was asked.
        request: &'static str,
        /// The deadline.
        within: Duration,
    },
    /// It hung up.
    #[error("upsd at {peer} closed the connection")]
    Closed {
        /// `host:port`.
        peer: String,
    },
    /// The socket failed.
    #[error("connection to upsd at {peer} failed: {source}")]
    Io {
        /// `host:port`.
        peer: String,
        /// Why.
        source: std::io::Error,
    },
    /// A line longer than [`super::MAX_LINE`].
    #[error("upsd at {peer} sent a line of more than {} bytes: is that a NUT server?", super::MAX_LINE)]
    LineTooLong {
        /// `host:port`.
        peer: String,
    },
    /// A list without an end.
    #[error(
        "upsd at {peer} sent a list of more than {} lines or {} bytes: is that a NUT server?",
        super::MAX_LIST_ROWS,
        super::MAX_LIST_BYTES
    )]
    ListTooLong {
        /// `host:port`.
        peer: String,
    },
    /// `ERR …`.
    #[error("upsd refused {request}: {code}")]
    Refused {
        /// What was asked.
        request: &'static str,
        /// Its answer.
        code: ErrCode,
    },
    /// Something that is no answer to the request.
    #[error("upsd at {peer} answered {request} with {answer:?}: is that a NUT server?")]
    Unexpected {
        /// `host:port`.
        peer: String,
        /// What was asked.
        request: &'static str,
        /// The start of its answer.
        answer: String,
    },
    /// TLS was asked for and did not come about; there is no falling back to plain text.
    #[error("no TLS with upsd at {peer}: {reason}")]
    Tls {
        /// `host:port`.
        peer: String,
        /// Why.
        reason: String,
    },
    /// The request cannot be put into a line.
    #[error("{what} cannot be sent to upsd: {source}")]
    Argument {
        /// Which argument (never its value).
        what: &'static str,
        /// Why.
        source: LineError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_read_back_as_said() {
        for text in ErrCode::KNOWN {
            let code = ErrCode::parse(text);
            assert!(!matches!(code, ErrCode::Other(_)), "{text}");
            assert_eq!(code.to_string(), *text);
        }
        assert_eq!(ErrCode::parse("NEW-THING"), ErrCode::Other("NEW-THING".to_owned()));
    }
}
