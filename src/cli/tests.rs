//! The command line itself; what the commands do is tested against a running gateway.

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("gateway-websocket").chain(line.split_whitespace()))
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn nothing_is_serve_and_options_may_stand_on_either_side() {
    assert_eq!(parse("").unwrap().command, None);
    let before = parse("--config a.toml --set shards=1 check").unwrap();
    let after = parse("check --config a.toml --set shards=1").unwrap();
    for cli in [before, after] {
        assert_eq!(cli.command, Some(Command::Check));
        assert_eq!(cli.global.source().file, Some("a.toml".into()));
        assert_eq!(cli.global.source().sets, ["shards=1"]);
    }
    let status = parse("status --json").unwrap().command;
    assert_eq!(status, Some(Command::Status { json: true }));
    let drain = parse("drain --wait").unwrap().command;
    assert_eq!(drain, Some(Command::Drain { wait: true }));
    let hidden = parse("serve --detached").unwrap().command;
    assert_eq!(hidden, Some(Command::Serve { detached: true }));
}

#[test]
fn a_wrong_command_line_is_wrong_usage() {
    for line in ["strat", "status --wait", "--config", "check extra", "--detached"] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
    assert_eq!(parse("--help").unwrap_err().exit_code(), 0);
    assert_eq!(run(parse("health --print-config").unwrap()), Exit::Usage);
}

#[test]
fn the_socket_of_the_command_line_is_the_key_of_that_name() {
    for (given, path) in [("/run/x.sock", "/run/x.sock"), ("auto", "./auto"), ("7", "7")] {
        let source = parse(&format!("--socket {given} status")).unwrap().global.source();
        let source = config::Source { file: None, sets: source.sets };
        let loaded = config::load(&source, [("", ""); 0]).unwrap();
        let socket = loaded.config.control.socket.set().unwrap().clone();
        assert_eq!(socket, PathBuf::from(path));
    }
}

#[test]
fn help_teaches_commands_exit_codes_and_examples() {
    let help = Cli::command().render_long_help().to_string();
    for words in ["serve", "start", "drain", "check", "Exit codes:", "78", "Examples:"] {
        assert!(help.contains(words), "{words}");
    }
    assert!(!help.contains("detached"));
}

#[test]
fn a_bad_configuration_ends_with_its_own_code() {
    let bad = parse("check --set shards=0").unwrap();
    assert_eq!(run(bad), Exit::BadConfig);
    assert_eq!(run(parse("serve --set shards=0").unwrap()), Exit::BadConfig);
    assert_eq!(run(parse("start --set shards=0").unwrap()), Exit::BadConfig);
    assert_eq!(run(parse("check").unwrap()), Exit::Done);
    assert_eq!(run(parse("check --print-config").unwrap()), Exit::Done);
}

#[test]
fn asking_where_nothing_runs_says_so_with_the_right_code() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    let ask =
        |command: &str| run(parse(&format!("{command} --socket {}", socket.display())).unwrap());
    for command in ["status", "status --json", "reload", "drain", "drain --wait", "health"] {
        assert_eq!(ask(command), Exit::NotRunning, "{command}");
    }
    assert_eq!(ask("stop"), Exit::Done);
}

#[test]
fn the_manual_page_says_all_that_the_help_says_and_more() {
    let page = String::from_utf8(manual::page(Cli::command()).unwrap()).unwrap();
    // roff writes a hyphen that is none as `\-`.
    let page = page.replace("\\-", "-");
    assert!(page.lines().any(|line| line.starts_with(".TH gateway-websocket 1")), "{page}");
    for section in [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "COMMANDS",
        "OPTIONS",
        "\"EXIT CODES\"",
        "EXAMPLES",
        "SIGNALS",
        "ENVIRONMENT",
        "FILES",
    ] {
        assert!(page.lines().any(|line| line == format!(".SH {section}")), "{section} in {page}");
    }
    let mut shown = 0;
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        assert!(page.contains(&format!(".TP\n\\fB{name}\\fR")), "{name} in {page}");
        shown += 1;
    }
    assert!(shown >= 10, "{shown} commands");
    for words in ["--config", "--set", "78", "SIGHUP", "/etc/gateway-websocket/gateway.toml"] {
        assert!(page.contains(words), "{words} in {page}");
    }
    assert!(!page.contains("detached") && !page.contains("gateway-websocket-serve"));
}

#[test]
fn completions_know_every_command_in_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let Some(Command::Completions { shell }) =
            parse(&format!("completions {shell}")).unwrap().command
        else {
            panic!("{shell} is not completed");
        };
        let script = String::from_utf8(manual::completions(Cli::command(), shell)).unwrap();
        for words in ["gateway-websocket", "serve", "reload", "drain", "print-config"] {
            assert!(script.contains(words), "{words} in {shell}");
        }
    }
    assert_eq!(parse("completions tcsh").unwrap_err().exit_code(), 2);
}
