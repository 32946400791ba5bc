//! The command line: what can be asked, and which part of the program answers.
//!
//! `serve` and `check` work on the configuration; the other commands talk to the running process
//! over its control socket. What they print is in `render`, and nothing here knows how a client,
//! a shard or a call works.

mod announcement;
mod check;
mod client;
mod given;
mod manual;
mod render;
mod serve;
mod start;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args as ClapArgs, CommandFactory as _, Parser, Subcommand};

use crate::config;

/// How a command ended, for scripts and service managers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked.
    Done,
    /// It failed, and said why.
    Failed,
    /// The command line is not one of ours (clap uses the same number).
    Usage,
    /// There is no running gateway to ask (LSB's number for it).
    NotRunning,
    /// The configuration has faults (`EX_CONFIG` of sysexits.h).
    BadConfig,
}

impl Exit {
    /// The number that the process ends with.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotRunning => 3,
            Self::BadConfig => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Holds WebSocket connections so that your business system, which drives it over gRPC, does not
/// have to
#[derive(Clone, Debug, Parser)]
#[command(name = "gateway-websocket", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// What is asked; `serve` if nothing.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
}

/// Options of every command.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct Global {
    /// Read the configuration from this file [default: /etc/gateway-websocket/gateway.toml, if it
    /// exists]; a running gateway keeps the file that it was started with
    #[arg(long, global = true, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Set one key, over file and environment; may be given several times. A running gateway keeps
    /// what it was started with
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// The control socket to listen on, or to ask [default: the key control.socket]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<String>,
    /// With serve or check: print the configuration in effect as TOML, and exit
    #[arg(long, global = true)]
    pub print_config: bool,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Run the gateway in the foreground (the default)
    Serve {
        /// For `start`: leave the terminal and say on standard output when ready.
        #[arg(long, hide = true)]
        detached: bool,
    },
    /// Run the gateway in the background; returns when it is ready, or says why it is not
    Start,
    /// Close all clients and end the running gateway; returns when it is gone
    Stop,
    /// Say how the running gateway is doing
    Status {
        /// Print one JSON object, for programs
        #[arg(long)]
        json: bool,
    },
    /// Have the running gateway read its configuration again; a bad one changes nothing
    Reload {
        /// Only say what would change, and whom it would reach
        #[arg(long)]
        plan: bool,
    },
    /// Take the running gateway out of service: no new clients, close the connected, stay alive
    Drain {
        /// Return only when all clients are closed
        #[arg(long)]
        wait: bool,
    },
    /// Succeed if the running gateway is in service
    Health,
    /// Check the configuration without running anything, and list all faults
    Check,
    /// Print the manual page, for man(1)
    Man,
    /// Print a script that completes this command line in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

const AFTER_HELP: &str = "\
Exit codes:
  0   done; also: start when already running, stop when not running
  1   failed, or no answer in time (5 s; stop, drain, reload: 10 s without a sign of life);
      the reason, and what to do, are on standard error
  2   wrong usage
  3   not running (status, reload, drain, health)
  78  the configuration has faults; all of them are listed

Configuration, later wins: defaults, file, environment (GWS_WEBSOCKET__LISTEN), --set.

Examples:
  gateway-websocket                                    run with the defaults
  gateway-websocket --config /etc/gw.toml check        is this file all right?
  gateway-websocket --set websocket.listen=0.0.0.0:80  another address
  gateway-websocket --print-config > gateway.toml      what is in effect
  gateway-websocket start && gateway-websocket status  in the background
  gateway-websocket reload --plan                      what would a reload change?
  gateway-websocket drain --wait                       before maintenance";

/// Reads the command line of the process and does what it says; `main` ends with the result.
pub fn main() -> ExitCode {
    // A wrong command line ends here, with a hint and exit code 2.
    run(Cli::parse()).into()
}

/// Does what a command line says.
pub fn run(cli: Cli) -> Exit {
    if let Some(fault) = given::out_of_place(&cli) {
        complain(&fault);
        return Exit::Usage;
    }
    let source = cli.global.source();
    let command = cli.command.unwrap_or(Command::Serve { detached: false });
    match command {
        Command::Serve { .. } | Command::Check if cli.global.print_config => check::print(&source),
        Command::Serve { detached } => serve::run(source, detached),
        Command::Check => check::run(&source),
        Command::Start => start::run(&cli.global, &source),
        Command::Stop => client::run(&source, client::Ask::Stop),
        Command::Status { json } => client::run(&source, client::Ask::Status { json }),
        Command::Reload { plan } => client::run(&source, client::Ask::Reload { plan }),
        Command::Drain { wait } => client::run(&source, client::Ask::Drain { wait }),
        Command::Health => client::run(&source, client::Ask::Health),
        Command::Man => match manual::page(Cli::command()) {
            Ok(page) => hand_over(&page),
            Err(error) => {
                complain(&format!("can't write the manual page: {error}"));
                Exit::Failed
            }
        },
        Command::Completions { shell } => hand_over(&manual::completions(Cli::command(), shell)),
    }
}

impl Global {
    /// Where the configuration comes from. `--socket` is another way to set `control.socket`.
    fn source(&self) -> config::Source {
        let mut sets = self.set.clone();
        if let Some(socket) = &self.socket {
            // As TOML text, so that a file named `auto` or `7` is a path as well.
            let quoted = serde_json::Value::from(format!("./{socket}"));
            let plain = serde_json::Value::from(socket.as_str());
            let value = if socket == "auto" { quoted } else { plain };
            sets.push(format!("control.socket={value}"));
        }
        config::Source { file: self.config.clone(), sets }
    }
}

/// Prints for people or programs that asked. Who closes the pipe early has read enough.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush());
}

/// Writes a whole file to standard output. Half of one would be no file, so that is a failure.
fn hand_over(file: &[u8]) -> Exit {
    let mut out = std::io::stdout().lock();
    match out.write_all(file).and_then(|()| out.flush()) {
        Ok(()) => Exit::Done,
        Err(error) => {
            complain(&format!("can't write: {error}"));
            Exit::Failed
        }
    }
}

/// Prints what went wrong.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "gateway-websocket: {}", text.trim_end());
}

/// Prints all faults of a configuration, one line each.
fn complain_of(faults: &config::Faults) -> Exit {
    let lines = faults.lines();
    complain(&render::faults("the configuration has", &lines));
    Exit::BadConfig
}

#[cfg(test)]
mod tests;
