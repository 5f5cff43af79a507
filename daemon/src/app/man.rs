//! `metisd man`: metisd(8) and a page for each of its commands, from the definitions that the arguments are read by.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_mangen::Man;

use super::args::Arguments;

/// What metisd(8) says besides the options.
const SECTIONS: &str = r".SH FILES
.TP
/etc/metis/metis.yaml, /etc/metis/metis.d/*.yaml
Configuration; as shipped it says every key and its default.
.TP
/etc/metis/inventory.yaml
Nodes of the site and what their cards carry.
.TP
/var/lib/metis
Journal, UPS history, image cache, the last good configuration.
.TP
/run/metis/metisd.sock
The API; metisctl(1) speaks to it. It is passed by metisd.socket.
.TP
/run/metis/card\-writer.sock
Card writers: an instance of metis\-card\-writer@.service for each card.
.SH SIGNALS
.TP
SIGHUP
Check the configuration and bring it into force, or keep the present one and say what is wrong with the new one
(\fBsystemctl reload metisd\fR).
.TP
SIGTERM, SIGINT
End within 10 s.
.SH ENVIRONMENT
.TP
METIS_LOG
Filter of the log, e.g. \fBdebug\fR or \fBinfo,metisd::power=trace\fR; overrides \fBdaemon.log_level\fR.
.TP
STATE_DIRECTORY, CREDENTIALS_DIRECTORY, NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS, JOURNAL_STREAM
Set by systemd, see systemd.exec(5).
.SH LOGS
One run's story: \fBjournalctl \-x \-u metisd METIS_RUN=burn\-17\fR. Further fields: METIS_STEP, METIS_UPS, METIS_FACT.
.SH SEE ALSO
metisctl(1), upsd(8), journalctl(1), systemd.exec(5)
";

/// Writes the pages into `dir`.
///
/// # Errors
/// Where a file cannot be written.
pub fn write(dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        page(command, dir, "")?;
    }
    page(&command, dir, SECTIONS)
}

fn page(command: &clap::Command, dir: &Path, more: &str) -> anyhow::Result<()> {
    let page = Man::new(command.clone()).section("8");
    let path = dir.join(page.get_filename());
    let mut text = Vec::new();
    page.render(&mut text)?;
    text.extend_from_slice(more.as_bytes());
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
