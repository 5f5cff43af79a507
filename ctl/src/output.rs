//! Results on standard output: tables for people, JSON and YAML for programs.

use std::io::{ErrorKind, Write};

use anyhow::Context as _;
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::args::Format;
use crate::clock;
use crate::errors::CtlError;
use crate::human::Look;

/// Width of what is printed where there is no terminal; tables never need more.
const COLUMNS: u16 = 100;

/// Where a command prints, and what that place can show.
pub struct Console<'a> {
    /// Results.
    pub out: &'a mut (dyn Write + Send),
    /// Progress, notes and errors.
    pub err: &'a mut (dyn Write + Send),
    /// Colours on `out`.
    pub color: bool,
    /// `err` is this process' terminal: progress is a bar instead of lines.
    pub bars: bool,
    /// `out` is a screen that can be drawn again.
    pub redraws: bool,
    /// Width of `out`.
    pub columns: u16,
    /// Zone of the times shown.
    pub zone: TimeZone,
}

impl<'a> Console<'a> {
    /// For pipes, files and programs: no colours, no bars.
    pub fn plain(out: &'a mut (dyn Write + Send), err: &'a mut (dyn Write + Send)) -> Self {
        Self { out, err, color: false, bars: false, redraws: false, columns: COLUMNS, zone: TimeZone::system() }
    }

    /// Rendering at `now`; without it, at this host's time.
    pub fn look(&self, now: Option<jiff::Timestamp>) -> Look {
        Look { now: now.unwrap_or_else(clock::now), zone: self.zone.clone(), columns: self.columns, color: self.color }
    }

    /// One line, or several, on standard output.
    pub fn say(&mut self, text: &str) -> Result<(), CtlError> {
        match writeln!(self.out, "{text}").and_then(|()| self.out.flush()) {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(CtlError::Closed),
            written => Ok(written.context("cannot write to standard output")?),
        }
    }

    /// One line, or several, on standard error; nobody depends on it.
    pub fn note(&mut self, text: &str) {
        let _ = writeln!(self.err, "{text}");
    }

    /// A result that is printed once.
    pub fn emit<V: Serialize>(&mut self, format: Format, value: &V, table: impl FnOnce(&V, &Look) -> String) -> Result<(), CtlError> {
        let text = match format {
            Format::Table => table(value, &self.look(None)),
            Format::Json => serde_json::to_string_pretty(value).context("cannot print as JSON")?,
            Format::Yaml => yaml(value)?,
        };
        self.say(text.trim_end())
    }

    /// One of many results: a line of JSON, a document of YAML.
    pub fn emit_one_of_many<V: Serialize>(
        &mut self,
        format: Format,
        value: &V,
        table: impl FnOnce(&V, &Look) -> String,
    ) -> Result<(), CtlError> {
        let text = match format {
            Format::Table => table(value, &self.look(None)),
            Format::Json => serde_json::to_string(value).context("cannot print as JSON")?,
            Format::Yaml => format!("---\n{}", yaml(value)?),
        };
        self.say(text.trim_end())
    }
}

/// Width of this process' terminal.
pub fn terminal_columns() -> Option<u16> {
    Table::new().width().filter(|columns| *columns > 20)
}

/// YAML of a value.
pub fn yaml<V: Serialize>(value: &V) -> Result<String, CtlError> {
    Ok(serde_yaml::to_string(value).context("cannot print as YAML")?)
}

/// How well a value is, for its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As any text.
    Plain,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
}

/// A cell with a tone.
pub fn cell(text: impl Into<String>, tone: Tone) -> Cell {
    let cell = Cell::new(text.into());
    match tone {
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::Green),
        Tone::Warn => cell.fg(Color::Yellow),
        Tone::Bad => cell.fg(Color::Red),
    }
}

/// Columns without borders, two spaces apart, wrapped to the width of `look`; `right`: columns with numbers.
pub fn table(header: &[&str], right: &[usize], rows: Vec<Vec<Cell>>, look: &Look) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(look.columns).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    if look.color {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.trim_fmt()
}

/// Text in a tone outside tables.
pub fn toned(text: &str, tone: Tone, look: &Look) -> String {
    let code = match tone {
        Tone::Good => "32",
        Tone::Warn => "33",
        Tone::Bad => "31",
        Tone::Plain => return text.to_owned(),
    };
    if look.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}
