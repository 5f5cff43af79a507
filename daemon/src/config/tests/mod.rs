//! The loader as a whole, on files.

mod files;
mod laws;
mod mistakes;
mod services;
mod shipped;
mod tree;
mod values;

use super::*;

/// Every mistake of two texts, one a line.
fn mistakes_of(main: &str, inventory: &str) -> String {
    match from_strs(main, inventory) {
        Ok(_) => String::new(),
        Err(diagnostics) => diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    }
}
