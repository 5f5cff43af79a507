//! A mistake in a file, with its place.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A place in a file; line and column count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The file, as it was named.
    pub file: Arc<PathBuf>,
    /// Line; 0 stands for the file as a whole.
    pub line: u32,
    /// Column; 0 stands for the file as a whole.
    pub column: u32,
}

impl Place {
    /// The file as a whole.
    pub fn whole(file: &Arc<PathBuf>) -> Self {
        Self { file: Arc::clone(file), line: 0, column: 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return write!(f, "{}", self.file.display());
        }
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// One mistake: `file:line:column: key: what is wrong, what is allowed`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// The file, as it was named.
    pub file: PathBuf,
    /// Line, from 1; 0 where it concerns the file as a whole.
    pub line: u32,
    /// Column in characters, from 1; 0 where it concerns the file as a whole.
    pub column: u32,
    /// The key with its section, e.g. `power.poll_interval`; empty where no key is concerned.
    pub key: String,
    /// What is wrong and what is allowed. Never holds a value from a secret's place.
    pub message: String,
}

impl Diagnostic {
    /// A mistake at `place`.
    pub fn new(place: &Place, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { file: place.file.as_ref().clone(), line: place.line, column: place.column, key: key.into(), message: message.into() }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}
