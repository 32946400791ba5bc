//! The manual page and the completions of shells, made from the definition of the command line, so
//! that neither can say anything else than the program does.
//!
//! What the definition doesn't know (signals, files, the environment) stands here as text.

use std::io;

use clap::{Arg, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

/// Section of the manual: a command for everybody.
const SECTION: &str = "1";

/// What a signal does to `serve`.
const SIGNALS: [(&str, &str); 3] = [
    ("SIGTERM, SIGINT", "Drain as the section [drain] says, then end. A second one ends at once."),
    ("SIGHUP", "Read the configuration again, as reload does. What came of it is in the log."),
    ("SIGPIPE", "Is ignored."),
];

const FILES: [(&str, &str); 4] = [
    (
        "/etc/gateway-websocket/gateway.toml",
        "The configuration, if --config names no other file. It lists every key with its default. \
         Its directory is watched: a changed file is put in force, unless it has a fault.",
    ),
    (
        "/etc/gateway-websocket/*.pem",
        "Where the service may read certificates and keys: owned by root, of the group \
         gateway-websocket, mode 0640.",
    ),
    (
        "/run/gateway-websocket/control.sock",
        "The socket over which the commands reach the running gateway, for root and the user \
         that the gateway runs as. Users who can't write there have it in \
         $XDG_RUNTIME_DIR/gateway-websocket, or in /tmp/gateway-websocket-UID.",
    ),
    (
        "/lib/systemd/system/gateway-websocket.service",
        "The service, and beside it gateway-websocket.socket and its kin, with which systemd \
         holds the listening sockets.",
    ),
];

const ENVIRONMENT: [(&str, &str); 3] = [
    (
        "GWS_SECTION__KEY",
        "Any key of the configuration, such as GWS_WEBSOCKET__LISTEN or GWS_SHARDS. The file's is \
         overridden, --set overrides.",
    ),
    (
        "NOTIFY_SOCKET, WATCHDOG_USEC",
        "Set by systemd for a service of Type=notify, to be told how the gateway is.",
    ),
    (
        "LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PID",
        "Set by systemd for listening sockets that it hands over. Their names are websocket, tls, \
         grpc and admin; a single one without a name is that of WebSocket clients.",
    ),
];

/// The page, as roff.
pub(super) fn page(command: Command) -> io::Result<Vec<u8>> {
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut built = command.clone();
    built.build();
    let man = Man::new(command).section(SECTION).manual("Service");
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;

    let mut roff = Roff::new();
    commands(&mut roff, &built);
    roff.to_writer(&mut out)?;
    man.render_options_section(&mut out)?;

    let mut roff = Roff::new();
    paragraphs(&mut roff, &after);
    list(&mut roff, "SIGNALS", &SIGNALS);
    list(&mut roff, "ENVIRONMENT", &ENVIRONMENT);
    list(&mut roff, "FILES", &FILES);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("systemctl"), roman("(1), "), bold("journalctl"), roman("(1)")]);
    roff.to_writer(&mut out)?;
    Ok(out)
}

/// A script that completes the command line in a shell.
pub(super) fn completions(mut command: Command, shell: Shell) -> Vec<u8> {
    let name = command.get_name().to_owned();
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut out);
    out
}

/// Each command with what goes with it. clap's own section names pages that don't exist.
fn commands(roff: &mut Roff, command: &Command) {
    roff.control("SH", ["COMMANDS"]);
    for command in command.get_subcommands() {
        if command.is_hide_set() || command.get_name() == "help" {
            continue;
        }
        roff.control("TP", []);
        let mut line = vec![bold(command.get_name())];
        let own: Vec<&Arg> = command
            .get_arguments()
            .filter(|arg| !arg.is_global_set() && !arg.is_hide_set() && arg.get_id() != "help")
            .collect();
        for arg in &own {
            line.push(roman(" "));
            match arg.get_long() {
                Some(long) => line.push(bold(format!("[--{long}]"))),
                None => line.push(italic(arg.get_id().as_str().to_uppercase())),
            }
        }
        roff.text(line);
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        roff.text([roman(about), roman(".")]);
        for arg in own {
            let Some(help) = arg.get_help() else { continue };
            let name = match arg.get_long() {
                Some(long) => bold(format!("--{long}")),
                None => italic(arg.get_id().as_str().to_uppercase()),
            };
            roff.text([name, roman(format!(": {help}."))]);
        }
    }
}

/// What stands behind the help: a block whose first line ends in a colon is a section of its own,
/// and is left as it is written.
fn paragraphs(roff: &mut Roff, after: &str) {
    for block in after.split("\n\n") {
        let (head, rest) = block.split_once('\n').unwrap_or((block, ""));
        if let Some(name) = head.strip_suffix(':') {
            roff.control("SH", [name.to_uppercase().as_str()]);
            roff.control("nf", []);
            for line in rest.lines() {
                roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
            }
            roff.control("fi", []);
        } else {
            roff.control("PP", []);
            roff.text([roman(block)]);
        }
    }
}

fn list(roff: &mut Roff, name: &str, entries: &[(&str, &str)]) {
    roff.control("SH", [name]);
    for (term, text) in entries {
        roff.control("TP", []);
        roff.text([bold(*term)]);
        roff.text([roman(*text)]);
    }
}
