//! What a command line says that its command can't do anything with: refused, never ignored.
//!
//! A running gateway goes on with the file and the options that it was started with, so the same may
//! be said again, and nothing else.

use std::path::{Path, PathBuf};

use super::{Cli, Command};
use crate::config::Source;
use crate::status::ConfigStatus;

/// Where the socket of the running gateway is may be said to every command that asks it.
const SOCKET: &str = "control.socket";

/// The option of this command line that its command takes no notice of, and what to do instead.
pub(super) fn out_of_place(cli: &Cli) -> Option<String> {
    let (name, takes) = match cli.command {
        None | Some(Command::Serve { .. } | Command::Check) => return None,
        Some(Command::Start) => ("start", true),
        Some(Command::Stop) => ("stop", true),
        Some(Command::Status { .. }) => ("status", true),
        Some(Command::Reload { .. }) => ("reload", true),
        Some(Command::Drain { .. }) => ("drain", true),
        Some(Command::Health) => ("health", true),
        Some(Command::Man) => ("man", false),
        Some(Command::Completions { .. }) => ("completions", false),
    };
    let global = &cli.global;
    if global.print_config {
        return Some(format!(
            "{name} does not print the configuration: use --print-config with serve or check, or alone"
        ));
    }
    let given = [
        ("--config", global.config.is_some()),
        ("--set", !global.set.is_empty()),
        ("--socket", global.socket.is_some()),
    ];
    let (option, _) = given.into_iter().find(|(_, given)| *given && !takes)?;
    Some(format!("{name} reads no configuration: leave out {option}"))
}

/// Why a gateway that runs can't be given what this command line says; none if it has it already.
pub(super) fn refusal(given: &Source, pid: u32, running: &ConfigStatus) -> Option<String> {
    if let Some(file) = given.file.as_deref()
        && !running.file.as_deref().is_some_and(|theirs| is_same(file, theirs))
    {
        let option = format!("--config {}", file.display());
        return Some(match &running.file {
            Some(theirs) => format!(
                "the gateway that runs (pid {pid}) reads another file, {}: change that one and \
                 reload, or stop the gateway and start it with {option}",
                theirs.display()
            ),
            None => format!(
                "the gateway that runs (pid {pid}) reads no file: stop it and start it with {option}"
            ),
        });
    }
    let theirs: Vec<_> = running.sets.iter().map(|set| parts(set)).collect();
    let new = given.sets.iter().map(|set| parts(set));
    let (key, value) = new.into_iter().find(|set| set.0 != SOCKET && !theirs.contains(set))?;
    let where_else = match &running.file {
        Some(file) => format!("set the key in {} and reload, or ", file.display()),
        None => String::new(),
    };
    Some(format!(
        "the gateway that runs (pid {pid}) was started without --set {key}={value}: {where_else}stop \
         it and start it with that option"
    ))
}

fn parts(set: &str) -> (&str, &str) {
    let (key, value) = set.split_once('=').unwrap_or((set, ""));
    (key.trim(), value.trim())
}

fn is_same(one: &Path, other: &Path) -> bool {
    let found = |path: &Path| -> Option<PathBuf> {
        path.canonicalize().or_else(|_| std::path::absolute(path)).ok()
    };
    found(one) == found(other)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    fn parse(line: &str) -> Cli {
        let words = std::iter::once("gateway-websocket").chain(line.split_whitespace());
        Cli::try_parse_from(words).unwrap()
    }

    #[test]
    fn every_option_is_heeded_or_refused_by_every_command() {
        let options = ["--config a.toml", "--set shards=1", "--socket x.sock", "--print-config"];
        let all = [true, true, true, true];
        let asking = [true, true, true, false];
        let none = [false; 4];
        let table = [
            ("", all),
            ("serve", all),
            ("check", all),
            ("start", asking),
            ("stop", asking),
            ("status", asking),
            ("status --json", asking),
            ("reload", asking),
            ("reload --plan", asking),
            ("drain", asking),
            ("health", asking),
            ("man", none),
            ("completions bash", none),
        ];
        for (command, heeded) in table {
            assert_eq!(out_of_place(&parse(command)), None, "{command}");
            for (option, heeded) in options.iter().zip(heeded) {
                let fault = out_of_place(&parse(&format!("{command} {option}")));
                assert_eq!(fault.is_none(), heeded, "{command} {option}: {fault:?}");
                let named = option.split(' ').next().unwrap_or_default();
                assert!(fault.is_none_or(|fault| fault.contains(named)), "{command} {option}");
            }
        }
        let commands: Vec<_> = table.iter().map(|(line, _)| line.split(' ').next()).collect();
        for command in Cli::command().get_subcommands() {
            assert!(commands.contains(&Some(command.get_name())), "{}", command.get_name());
        }
    }

    #[test]
    fn a_running_gateway_may_be_told_what_it_knows_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, other) = (directory.path().join("a"), directory.path().join("b"));
        std::fs::write(&ours, "").unwrap();
        std::os::unix::fs::symlink(&ours, directory.path().join("link")).unwrap();
        let running = ConfigStatus {
            file: Some(ours.clone()),
            sets: vec!["shards=2".into(), "log.level = debug".into(), "control.socket=x".into()],
            ..ConfigStatus::default()
        };
        let without = ConfigStatus::default();
        let given = |file: Option<&Path>, sets: &[&str]| Source {
            file: file.map(Path::to_owned),
            sets: sets.iter().map(ToString::to_string).collect(),
        };
        let link = directory.path().join("link");
        for (given, running, said) in [
            (given(None, &[]), &running, ""),
            (given(Some(&ours), &["shards=2"]), &running, ""),
            (given(Some(&link), &["log.level=debug", "control.socket=y"]), &running, ""),
            (given(None, &["control.socket=y"]), &without, ""),
            (given(Some(&other), &[]), &running, "reads another file"),
            (given(Some(&ours), &[]), &without, "reads no file"),
            (given(None, &["shards=3"]), &running, "without --set shards=3: set the key in"),
            (given(None, &["no.such=key"]), &without, "--set no.such=key: stop it"),
        ] {
            let refused = refusal(&given, 7, running);
            assert_eq!(refused.is_none(), said.is_empty(), "{given:?}: {refused:?}");
            let refused = refused.unwrap_or_default();
            assert!(refused.contains(said), "{refused}");
        }
    }
}
