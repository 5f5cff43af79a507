//! YAML as a tree in which every key and value knows its place.
//!
//! Only the part of YAML that a configuration needs: one document of maps, lists and scalars. Anchors, aliases and tags are refused (an
//! alias can stand for exponentially much), as are duplicate keys; size, nesting and the number of values are bounded.

use std::path::PathBuf;
use std::sync::Arc;

use granit_parser::{ErrorKind, Event, Marker, Options, Parser, ScalarStyle, ScanError, Span};

use super::diagnostic::{Diagnostic, Place};

/// A file may not be larger, in bytes.
pub const MAX_BYTES: usize = 4 << 20;
/// Maps and lists may not be nested deeper.
pub const MAX_DEPTH: usize = 24;
/// A file may not hold more keys and values.
const MAX_NODES: usize = 100_000;

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it starts.
    pub place: Place,
    /// Scalars and lists of earlier files which it replaces, oldest first.
    pub replaced: Vec<Node>,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing after the key, `~` or `null`.
    Null,
    /// Text, as written; what it means is for the schema to say.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order of the file.
    Map(Vec<Entry>),
    /// It was refused and reported; nobody needs to complain about it again.
    Refused,
}

/// A scalar as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    /// Its text after unescaping.
    pub text: String,
    /// Whether it was quoted (or a block), and therefore cannot be a number or boolean.
    pub quoted: bool,
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub place: Place,
    /// Its value.
    pub node: Node,
}

impl Node {
    /// A node that replaces nothing.
    pub fn new(value: Value, place: Place) -> Self {
        Self { value, place, replaced: Vec::new() }
    }

    /// What it is, in words.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
            Value::Refused => "refused",
        }
    }
}

/// A file as far as it could be read.
#[derive(Debug)]
pub struct Parsed {
    /// The document; absent after a syntax error.
    pub root: Option<Node>,
    /// What is wrong with it as YAML.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads one file. Never panics, whatever the bytes are; work and memory are bounded by [`MAX_BYTES`].
pub fn parse(file: &Arc<PathBuf>, bytes: &[u8]) -> Parsed {
    let text = match text(file, bytes) {
        Ok(text) => text,
        Err(diagnostic) => return Parsed { root: None, diagnostics: vec![diagnostic] },
    };
    let mut builder = Builder { file, diagnostics: Vec::new(), nodes: 0, path: Vec::new() };
    let root = builder.document(text).ok();
    Parsed { root, diagnostics: builder.diagnostics }
}

/// The file as text, without a byte order mark.
fn text<'a>(file: &Arc<PathBuf>, bytes: &'a [u8]) -> Result<&'a str, Diagnostic> {
    if bytes.len() > MAX_BYTES {
        let message = format!("the file has {} bytes; at most {MAX_BYTES} are read", bytes.len());
        return Err(Diagnostic::new(&Place::whole(file), "", message));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let line = good.matches('\n').count() + 1;
        let column = good.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
        let place = Place { file: Arc::clone(file), line: line as u32, column: column as u32 };
        Diagnostic::new(&place, "", "this byte is not UTF-8; save the file as UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// Reading cannot go on; the reason is among the diagnostics.
struct Stop;

/// Turns events into nodes.
struct Builder<'a> {
    file: &'a Arc<PathBuf>,
    diagnostics: Vec<Diagnostic>,
    nodes: usize,
    /// Keys around what is being read.
    path: Vec<String>,
}

type Events<'a> = Parser<'a, granit_parser::StrInput<'a>>;

impl Builder<'_> {
    fn place(&self, mark: Marker) -> Place {
        // granit-parser counts lines from 1 and columns from 0.
        Place { file: Arc::clone(self.file), line: mark.line() as u32, column: mark.col() as u32 + 1 }
    }

    fn complain(&mut self, mark: Marker, message: impl Into<String>) {
        self.complain_at(&self.place(mark), message);
    }

    fn complain_at(&mut self, place: &Place, message: impl Into<String>) {
        self.diagnostics.push(Diagnostic::new(place, self.path.join("."), message));
    }

    fn next<'t>(&mut self, events: &mut Events<'t>) -> Result<(Event<'t>, Span), Stop> {
        match events.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let place = self.place(*error.marker());
                self.diagnostics.push(Diagnostic::new(&place, "", syntax_message(&error)));
                Err(Stop)
            }
            None => Err(Stop),
        }
    }

    fn document(&mut self, text: &str) -> Result<Node, Stop> {
        let options = options();
        let mut events = Parser::new_from_str_with_options(text, options);
        let mut root = None;
        loop {
            let (event, span) = self.next(&mut events)?;
            match event {
                Event::StreamEnd => break,
                Event::DocumentStart(..) if root.is_some() => {
                    self.complain(span.start, "a second document starts here; a file holds one document: remove the line `---`");
                    break;
                }
                Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) | Event::Alias(_) => {
                    root = Some(self.node(&mut events, event, span, 0)?);
                }
                _ => {}
            }
        }
        let start = Place { file: Arc::clone(self.file), line: 1, column: 1 };
        Ok(root.unwrap_or_else(|| Node::new(Value::Null, start)))
    }

    /// The node that starts with `event`. Recursion is bounded by [`MAX_DEPTH`], which the parser enforces too.
    fn node(&mut self, events: &mut Events<'_>, event: Event<'_>, span: Span, depth: usize) -> Result<Node, Stop> {
        self.nodes += 1;
        if self.nodes > MAX_NODES || depth > MAX_DEPTH {
            let message = format!("too much: at most {MAX_NODES} keys and values, nested at most {MAX_DEPTH} deep, are read");
            self.complain(span.start, message);
            return Err(Stop);
        }
        let odd = self.refuse_properties(&event, span);
        let place = self.place(span.start);
        let value = match event {
            Event::Scalar(text, style, ..) => scalar(&text, style),
            Event::SequenceStart(..) => self.list(events, depth)?,
            Event::MappingStart(..) => self.map(events, depth)?,
            _ => Value::Refused,
        };
        Ok(Node::new(if odd { Value::Refused } else { value }, place))
    }

    /// Reports an alias, an anchor or a tag.
    fn refuse_properties(&mut self, event: &Event<'_>, span: Span) -> bool {
        let message = if event.is_alias() {
            "aliases (`*name`) are not supported; write the value out"
        } else if event.anchor_id().is_some_and(|id| id != 0) {
            "anchors (`&name`) are not supported; write the value out"
        } else if event.tag().is_some() {
            "tags (`!name`) are not supported; write the plain value"
        } else {
            return false;
        };
        self.complain(span.start, message);
        true
    }

    fn list(&mut self, events: &mut Events<'_>, depth: usize) -> Result<Value, Stop> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next(events)?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Value::List(items));
            }
            items.push(self.node(events, event, span, depth + 1)?);
        }
    }

    fn map(&mut self, events: &mut Events<'_>, depth: usize) -> Result<Value, Stop> {
        let mut entries: Vec<Entry> = Vec::new();
        // A map of many keys must not cost their square.
        let mut seen = std::collections::HashMap::new();
        loop {
            let (event, span) = self.next(events)?;
            if matches!(event, Event::MappingEnd) {
                return Ok(Value::Map(entries));
            }
            let key = self.node(events, event, span, depth + 1)?;
            let text = self.key_text(&key);
            self.path.push(text.as_deref().map(shown_key).unwrap_or_default());
            let (event, span) = self.next(events)?;
            let node = self.node(events, event, span, depth + 1)?;
            if let Some(text) = text {
                if let Some(first) = seen.get(&text) {
                    self.complain_at(&key.place, format!("this key was already given at {first}; remove one of them"));
                } else {
                    seen.insert(text.clone(), key.place.clone());
                    entries.push(Entry { key: text, place: key.place, node });
                }
            }
            self.path.pop();
        }
    }

    fn key_text(&mut self, key: &Node) -> Option<String> {
        let message = match &key.value {
            Value::Scalar(scalar) if scalar.text == "<<" && !scalar.quoted => "merge keys (`<<`) are not supported; write the keys out",
            Value::Scalar(scalar) => return Some(scalar.text.clone()),
            Value::Refused => return None,
            _ => "a key must be a single value",
        };
        self.complain_at(&key.place, message);
        None
    }
}

fn options() -> Options {
    granit_parser::options! {
        disallow_directives: true,
        emit_unresolved_aliases: true,
        emit_comments: false,
        // One more than the builder allows, so that its own message is the one that is seen.
        flow_nesting_limit: MAX_DEPTH + 8,
        block_nesting_limit: MAX_DEPTH + 8,
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    let quoted = style != ScalarStyle::Plain;
    // The core schema of YAML 1.2.2 §10.3.2.
    if !quoted && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Value::Null;
    }
    Value::Scalar(Scalar { text: text.to_owned(), quoted })
}

/// A key as it is shown in a message: quoted where it could be misread.
pub fn shown_key(key: &str) -> String {
    let plain = !key.is_empty() && key.len() <= 80 && key.chars().all(|c| c.is_alphanumeric() || "_-@:/".contains(c));
    if plain { key.to_owned() } else { format!("{:?}", shortened(key)) }
}

/// At most 60 characters of a text.
pub fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What the parser says, in words for people who edit configurations.
fn syntax_message(error: &ScanError) -> String {
    match error.kind() {
        ErrorKind::TabInIndentation
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabNotAllowed
        | ErrorKind::TabAtBlockScalarStart
        | ErrorKind::TabInPlainScalar => "a tab indents this line; YAML indents with spaces only".to_owned(),
        ErrorKind::RecursionLimitExceeded => format!("nested too deep; at most {MAX_DEPTH} levels are read"),
        ErrorKind::DirectiveDisallowed => "directives (`%…`) are not supported; remove the line".to_owned(),
        _ => format!("syntax error: {}; this file was checked no further", error.info()),
    }
}
