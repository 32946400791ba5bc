//! The configuration as a user meets it: file, environment, flags, and what is said of mistakes.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use crate::program::{Program, Said};

/// Runs `check` with some environment.
fn check(program: &Program, env: &[(&str, &str)], arguments: &[&str]) -> Said {
    let mut command = program.command(arguments);
    command.arg("check").envs(env.iter().copied()).stdin(Stdio::null());
    Said::of(command.output().unwrap())
}

#[test]
fn the_shipped_configuration_is_valid_and_is_the_default() {
    let program = Program::new();
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/config/gateway.toml");
    check(&program, &[], &["--config", shipped]).expect(0, &["valid", shipped]);
    let with = check(&program, &[], &["--config", shipped, "--print-config"]);
    let without = check(&program, &[], &["--print-config"]);
    assert_eq!((with.code, &with.out), (0, &without.out));
}

#[test]
fn what_is_printed_can_be_used_as_a_file() {
    let program = Program::new();
    let changed = ["--set", "limits.names=77", "--set", "websocket.subprotocols=[\"a\", \"b\"]"];
    let printed = check(&program, &[], &[&changed[..], &["--print-config"]].concat());
    let file = program.config(&printed.out);
    let again = check(&program, &[], &["--config", &file, "--print-config"]);
    assert_eq!((again.code, &again.out), (0, &printed.out));
    assert!(printed.out.contains("names = 77"), "{}", printed.out);
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let program = Program::new();
    let file = program.config("limits.names = 1\nlimits.inbox = 1\nlimits.headers = 1\n");
    let env = [("GWS_LIMITS__INBOX", "2"), ("GWS_LIMITS__HEADERS", "2")];
    let arguments = ["--config", &file, "--set", "limits.headers=3", "--print-config"];
    let said = check(&program, &env, &arguments);
    said.expect(0, &["names = 1\n", "inbox = 2\n", "headers = 3\n"]);
}

#[test]
fn all_faults_of_all_sources_are_told_at_once() {
    let program = Program::new();
    let file = program.config(
        "[websocket]\nheartbeat_timeout = \"soon\"\npnig_interval = \"1s\"\nsend_buffer = \"heaps\"\n",
    );
    let env = [("GWS_LIMITS__NAMES", "many"), ("GWS_LIMTIS__INBOX", "1")];
    let said = check(&program, &env, &["--config", &file, "--set", "drain.close_code=7"]);
    said.expect(
        78,
        &[
            &file,
            "websocket.heartbeat_timeout",
            "soon",
            "180s",
            "pnig_interval",
            "ping_interval",
            "websocket.send_buffer",
            "GWS_LIMITS__NAMES",
            "GWS_LIMTIS__INBOX",
            "drain.close_code",
            "1001",
        ],
    );
}

#[test]
fn a_file_that_can_not_be_read_is_a_fault_that_names_it() {
    let program = Program::new();
    let missing = program.file("missing.toml").display().to_string();
    let directory = program.file("").display().to_string();
    for path in [&missing, &directory] {
        check(&program, &[], &["--config", path]).expect(78, &[path]);
    }
    let broken = program.config("[websocket]\nlisten = \n");
    check(&program, &[], &["--config", &broken]).expect(78, &[&broken, "line 2"]);
    std::fs::write(program.file("gateway.toml"), b"\xff\xfe").unwrap();
    check(&program, &[], &["--config", &broken]).expect(78, &[&broken, "UTF-8"]);
}

#[test]
fn both_ports_the_same_is_a_fault_before_anything_is_bound() {
    let program = Program::new();
    let same = ["--set", "grpc.listen=127.0.0.1:1234", "--set", "websocket.listen=127.0.0.1:1234"];
    check(&program, &[], &same).expect(78, &["127.0.0.1:1234", "grpc.listen"]);
}

#[test]
fn of_a_hundred_thousand_faults_the_first_hundred_are_told_at_once() {
    let program = Program::new();
    for (faults, last) in
        [(100, None), (101, Some("and 1 more fault")), (100_000, Some("and 99900 more faults"))]
    {
        let lines: Vec<_> = (0..faults).map(|number| format!("k{number}=1\n")).collect();
        let lines = lines.concat();
        let file = program.config(&lines);
        let begun = Instant::now();
        let said = check(&program, &[], &["--config", &file]);
        // It took a minute in a debug build, and is done in one or two seconds.
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        let count = if faults == 100 { "has 100 faults" } else { "has more than 100 faults" };
        said.expect(78, &[count, "k0: unknown key"]);
        let lines: Vec<_> = said.err.lines().collect();
        assert_eq!(lines.len(), 1 + faults.min(100) + usize::from(last.is_some()));
        if let Some(last) = last {
            assert_eq!(lines.last().unwrap().trim(), last);
        }
    }
    // One name that is very long costs no more.
    let file = program.config(&format!("{} = 1", "k".repeat(1_000_000)));
    let said = check(&program, &[], &["--config", &file]);
    said.expect(78, &["unknown key"]);
    assert!(said.err.len() < 1000, "{}", said.err.len());
}

#[test]
fn a_file_of_1_x_is_recognised_and_each_line_has_its_successor() {
    let program = Program::new();
    let file = program.config(
        "; gateway\n[gateway]\ngatewayServicePort = 20818\ngRPCServicePort = 20819 ; calls\n\
         messageFormat = text\nheartbeatTimeout = 180\nwriteBufferSize = 1024\n\n\
         [server]\nip = 10.0.0.1,10.0.0.2\n[cluster]\nclusterName = main\n",
    );
    let said = check(&program, &[], &["--config", &file]);
    said.expect(
        78,
        &[
            "has 8 faults",
            "is a file of version 1.x",
            "Coming from 1.x",
            "gateway.gatewayServicePort = \"20818\": now websocket.listen = \"0.0.0.0:20818\"",
            "gateway.gRPCServicePort = \"20819\": now grpc.listen = \"127.0.0.1:20819\"",
            "gateway.messageFormat = \"text\": now websocket.message_format = \"text\"",
            "now websocket.heartbeat_timeout = \"180s\"",
            "limits.queue_bytes",
            "now grpc.allow = [\"10.0.0.1\",\"10.0.0.2\"]",
            "cluster.clusterName = \"main\": leave it out",
        ],
    );
    assert!(!said.err.contains("unknown key") && !said.err.contains("column"), "{said:?}");
}
