//! Figures of the shipped binaries, for people: nothing is asserted. Called by `tests/bench/measure`.
#![allow(clippy::print_stdout, reason = "the tables are the result")]

mod blind;
mod burn;
mod card;
mod drain;
mod history;
mod idle;
mod process;
mod restart;
mod table;

use std::path::PathBuf;

use anyhow::{Context, bail};

/// `metis-bench FOLDER WHAT`: FOLDER holds metisd and metisctl.
fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let binaries = PathBuf::from(arguments.next().context("the folder of the binaries")?);
    let what = arguments.next().context("what to measure: blind, idle, restart, burn or drain")?;
    println!("{} ({}), {}", what, binaries.display(), process::machine());
    match what.as_str() {
        "blind" => blind::measure(&binaries),
        "idle" => idle::measure(&binaries),
        "restart" => restart::measure(&binaries),
        "burn" => burn::measure(&binaries),
        "drain" => drain::measure(),
        other => bail!("{other} is not measured: blind, idle, restart, burn or drain"),
    }
}
