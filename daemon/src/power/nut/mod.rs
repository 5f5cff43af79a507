//! Client of NUT's upsd (RFC 9271): TCP 3493, one line a request, quoted words, STARTTLS.

mod command;
mod conn;
mod error;
mod gather;
mod held;
mod line;
mod list;
mod monitor;
mod target;
mod ticks;
mod tls;

pub use command::UpsEntry;
pub use conn::{Conn, Transport};
pub use error::{ErrCode, NutError};
pub use held::{Held, Holding};
pub use line::{LineError, MAX_LINE, quote, words};
pub use list::{Fed, List, ListError, MAX_LIST_BYTES, MAX_LIST_ROWS};
pub use monitor::{Monitor, MonitorError};
pub use target::{DEFAULT_PORT, NameError, Target};
