//! The benchmark: the gateway against a bare loop of `send(2)`, in one run on one machine.
//!
//! ```text
//!   core 0    gateway ─────────── raw loop         they take turns
//!                ▲ │                 ▲ │
//!   core 1   gRPC│ │sockets      TCP │ │sockets
//!                │ ▼                 │ ▼
//!            publisher  generator  publisher  generator
//!            (in this process)
//! ```
//!
//! `cargo bench --bench gateway` runs all of it in some minutes; `benches/README.md` says how to
//! read what comes out. Each process but this one is this program again, in another role.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::wildcard_imports,
    reason = "figures for people, of at most four digits"
)]

mod attack;
mod child;
mod frame;
mod generator;
mod heard;
mod known;
mod modern;
mod publisher;
mod raw;
mod rows;
mod secure;
mod server;
mod side;
mod stamp;
mod table;
mod usage;

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::Parser;

/// What can go wrong here ends the run and is said.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// Measures the gateway against a bare loop of send(2) and prints one table.
#[derive(Parser)]
struct Arguments {
    /// Turns that each server has per row
    #[arg(long, default_value_t = 40)]
    turns: usize,
    /// The gateway to measure, if not the one built with this benchmark
    #[arg(long, default_value = env!("CARGO_BIN_EXE_gateway-websocket"), hide_default_value = true)]
    gateway: PathBuf,
    /// Only these rows
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(rows::NAMES))]
    rows: Vec<String>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["raw-loop"] => raw::run(),
        ["generator", server, source] => generator::run(server, source),
        _ => measure(Arguments::parse()),
    };
    if let Err(error) = outcome {
        eprintln!("benchmark: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn measure(arguments: Arguments) -> Outcome<()> {
    child::pin(&[child::CLIENTS])?;
    let version = std::process::Command::new(&arguments.gateway).arg("--version").output()?;
    let version = String::from_utf8(version.stdout)?.trim().to_owned();
    let mut report = table::Report::new(version);
    let plan =
        rows::Plan { gateway: arguments.gateway, turns: arguments.turns, only: arguments.rows };
    plan.run(&mut report)?;
    println!("\n{}", report.markdown());
    println!("The figures are also in {}.", report.keep()?);
    Ok(())
}
