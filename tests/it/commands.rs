//! The commands: what an operator types, and what comes of it. Each test runs the real program.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};

use gateway_websocket::status::Phase;
use tokio::net::TcpListener;

use crate::{
    client::Client,
    program::{Program, Said},
    raw::Raw,
};

#[tokio::test]
async fn serve_is_the_default_and_listens_where_status_says() {
    let mut program = Program::new();
    let status = program.serve(&[]).await;
    assert_eq!(status.phase, Phase::Ready);
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    let client = Client::connect(status.listeners.websocket[0]).await;
    assert_eq!(client.id().len(), 36);
    assert_eq!(program.status().clients, 1);
    assert!(
        program.settled_log().contains(&status.listeners.grpc[0].to_string()),
        "{}",
        program.log()
    );
    let socket = std::fs::metadata(program.file("control.sock")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn start_returns_when_it_is_ready_and_stop_when_it_is_gone() {
    let program = Program::new();
    let started = program.run(&["start"]);
    started.expect(0, &["127.0.0.1:"]);
    let status = program.status();
    started.expect(0, &[&status.listeners.websocket[0].to_string()]);
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::connect(status.listeners.websocket[0]).await);
    }

    program.run(&["start"]).expect(0, &["already running", &status.pid.to_string()]);

    let closing = tokio::task::spawn_blocking(move || (program.run(&["stop"]), program));
    for client in &mut clients {
        assert_eq!(client.next_close().await.0, 1001);
        client.ended().await;
    }
    let (stopped, program) = closing.await.unwrap();
    stopped.expect(0, &["closed 3 clients"]);
    // Who has ended and was not waited for yet is listed still, but runs no program.
    assert!(std::fs::read_link(format!("/proc/{}/exe", status.pid)).is_err(), "still there");
    assert!(!program.file("control.sock").exists());
}

#[tokio::test]
async fn start_fails_with_the_reason() {
    let program = Program::new();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for key in ["websocket.listen", "grpc.listen", "admin.listen"] {
        let said = program.run(&["--set", &format!("{key}={address}"), "start"]);
        said.expect(1, &[key, &address, "in use"]);
    }
    let said = program.run(&["--set", "limits.names=0", "--set", "limits.inbox=no", "start"]);
    said.expect(78, &["limits.names", "limits.inbox"]);
    program.run(&["status"]).expect(3, &[]);
}

#[tokio::test]
async fn serve_names_the_address_that_is_taken() {
    let program = Program::new();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = program.run(&["serve", "--set", &format!("grpc.listen={address}")]);
    said.expect(1, &["grpc.listen", &address]);
}

#[tokio::test]
async fn commands_say_when_nothing_runs() {
    let program = Program::new();
    let socket = program.file("control.sock").display().to_string();
    program.run(&["stop"]).expect(0, &["not running"]);
    for command in ["status", "reload", "drain", "health"] {
        program.run(&[command]).expect(3, &["not running", &socket]);
    }
}

#[tokio::test]
async fn a_gateway_is_found_whatever_is_wrong_with_the_settings() {
    let mut program = Program::new();
    program.serve(&[]).await;
    let socket = program.file("control.sock").display().to_string();
    // Where it is was said on the command line,
    program.run(&["--set", "limits.names=0", "--set", "no.such=key", "status"]).expect(0, &[]);
    let broken = program.config("this is no TOML");
    program.run(&["--config", &broken, "--set", "shards=many", "status"]).expect(0, &[]);
    // or elsewhere, beside what is wrong.
    let bare = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_gateway-websocket"));
        command.args(arguments);
        command
    };
    let set = format!("control.socket={socket}");
    let said = bare(&["--config", &broken, "--set", &set, "--set", "limits.names=0", "status"]);
    Said::of({ said }.output().unwrap()).expect(0, &[]);
    let mut said = bare(&["--config", &broken, "status"]);
    said.env("GWS_CONTROL__SOCKET", &socket).env("GWS_LIMITS__NAMES", "0");
    Said::of(said.output().unwrap()).expect(0, &[]);
    let file = program.config(&format!("limits.names = 0\ncontrol.socket = {socket:?}\n"));
    Said::of(bare(&["--config", &file, "stop"]).output().unwrap()).expect(0, &["stopped"]);
    assert_eq!(program.ended().await, Some(0));
}

#[tokio::test]
async fn a_signal_drains_and_ends_well() {
    for signal in ["TERM", "INT"] {
        let mut program = Program::new();
        let status = program.serve(&[]).await;
        let mut client = Client::connect(status.listeners.websocket[0]).await;
        program.signal(signal);
        assert_eq!(client.next_close().await.0, 1001);
        client.ended().await;
        assert_eq!(program.ended().await, Some(0), "{signal}: {}", program.log());
    }
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let mut program = Program::new();
    let patient = ["--set", "drain.timeout=30m", "--set", "limits.close_wait=30m"];
    let status = program.serve(&patient).await;
    // Never answers the close frame, so that the drain would take half an hour.
    let (mut client, _) = Raw::welcomed(status.listeners.websocket[0]).await;
    program.signal("TERM");
    while program.status().clients > 0 {}
    assert_eq!(program.status().phase, Phase::Stopping);
    program.signal("TERM");
    assert_eq!(program.ended().await, Some(0), "{}", program.log());
    assert_eq!(client.close_code().await, 1001);
    client.ended().await;
}

#[tokio::test]
async fn a_socket_file_left_by_a_crash_is_no_obstacle() {
    let mut program = Program::new();
    program.serve(&[]).await;
    program.signal("KILL");
    assert_eq!(program.ended().await, None);
    assert!(program.file("control.sock").exists(), "a crash leaves its socket behind");
    program.run(&["status"]).expect(3, &["not running"]);
    let status = program.serve(&[]).await;
    Client::connect(status.listeners.websocket[0]).await;
}

#[tokio::test]
async fn without_a_place_for_the_control_socket_it_warns_and_serves() {
    let program = Program::new();
    // Reserved first, since nobody can be asked later where it listens.
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let log = std::fs::File::create(program.file("log")).unwrap();
    let nowhere = program.config(""); // a file where a directory is wanted
    // Root may write to /run and /tmp whatever their mode, so for root they are read-only in this one
    // process. For others there is one place that they could use.
    let root = rustix::process::geteuid().is_root();
    let hide = "for at in /run /tmp; do mount -t tmpfs -o ro tmpfs $at || exit 9; done; ";
    let hide = if root { hide } else { "" };
    let own = format!("/tmp/gateway-websocket-{}", rustix::process::geteuid().as_raw());
    if !root && std::fs::DirBuilder::new().mode(0o755).create(&own).is_err() {
        eprintln!("\n*** NOT TESTED, as {own} is there: no place for a control socket ***\n");
        return;
    }
    let mut command = std::process::Command::new(if root { "unshare" } else { "sh" });
    command
        .args(if root { &["-m", "sh"][..] } else { &[] })
        .args(["-c", &format!("{hide}exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_gateway-websocket")])
        .env_remove("GWS_CONTROL__SOCKET")
        .env("RUNTIME_DIRECTORY", &nowhere)
        .env("XDG_RUNTIME_DIR", &nowhere)
        .args(["--set", &format!("websocket.listen={address}")])
        .args(["--set", "grpc.listen=127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0"]);
    let mut child = command.stderr(log).spawn().unwrap();
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(child.try_wait().unwrap().is_none(), "ended: {}", program.log());
    }
    Client::connect(address).await;
    child.kill().unwrap();
    child.wait().unwrap();
    if !root {
        std::fs::remove_dir(&own).unwrap();
    }
    assert!(program.log().contains("no control socket"), "{}", program.log());
}

#[tokio::test]
async fn a_reload_takes_effect_with_clients_connected() {
    let mut program = Program::new();
    let config = program.config("websocket.message_format = \"text\"\n");
    let status = program.serve(&["--config", &config]).await;
    let mut client = Client::connect(status.listeners.websocket[0]).await;
    client.say("ping").await;
    assert_eq!(client.next_text().await, "pong");

    program.config("shards = 7\nwebsocket.messages = \"echo\"\n");
    let said = program.run(&["--config", &config, "reload"]);
    said.expect(0, &["websocket.messages", "echo", "shards", "restart"]);
    client.say("again").await;
    assert_eq!(client.next_text().await, "again");
    let status = program.status();
    assert_eq!((status.config.generation, status.clients), (2, 1));
    assert_eq!(status.config.pending, ["shards"]);

    // A faulty file changes nothing, and all its faults are told.
    program.config("websocket.messages = \"shout\"\nlimits.names = 0\n");
    let said = program.run(&["--config", &config, "reload"]);
    said.expect(1, &["websocket.messages", "limits.names"]);
    client.say("still echoed").await;
    assert_eq!(client.next_text().await, "still echoed");
    let status = program.status();
    assert_eq!((status.config.generation, status.config.faults.len()), (2, 2));

    // SIGHUP does the same as the command.
    program.config("websocket.messages = \"echo\"\nwebsocket.welcome = \"none\"\n");
    program.signal("HUP");
    while program.status().config.generation == 2 {}
    let mut silent = Client::connect_silently(status.listeners.websocket[0]).await;
    silent.say("first").await;
    assert_eq!(silent.next_text().await, "first");
    client.say("unharmed").await;
    assert_eq!(client.next_text().await, "unharmed");
}

#[tokio::test]
async fn what_a_running_gateway_can_not_be_given_is_refused() {
    let mut program = Program::new();
    let config = program.config("limits.names = 5\n");
    let status = program.serve(&["--config", &config, "--set", "limits.inbox=9"]).await;
    let other = program.file("other.toml").display().to_string();
    std::fs::write(&other, "limits.names = 6\n").unwrap();
    // The same may be said again.
    let same = ["--config", &config, "--set", "limits.inbox=9"];
    for command in [&["reload"][..], &["reload", "--plan"], &["start"]] {
        program.run(&[&same[..], command].concat()).expect(0, &[]);
        program.bare_run(command).expect(0, &[]);
    }
    let pid = format!("pid {}", status.pid);
    for command in [&["reload"][..], &["reload", "--plan"], &["start"]] {
        let said = program.bare_run(&[command, &["--config", &other]].concat());
        said.expect(
            1,
            &[&pid, "reads another file", &config, "stop the gateway and start it with"],
        );
        let said = program.bare_run(&[command, &["--set", "limits.inbox=8"]].concat());
        said.expect(1, &[&pid, "without --set limits.inbox=8", "set the key in", &config]);
    }
    let config = program.status().config;
    assert_eq!((config.generation, config.faults), (3, Vec::new()), "two reloads were accepted");
    for (command, words) in [
        (&["status", "--print-config"][..], "status does not print the configuration"),
        (&["man", "--set", "shards=1"], "leave out --set"),
    ] {
        let said = Said::of(
            std::process::Command::new(env!("CARGO_BIN_EXE_gateway-websocket"))
                .args(command)
                .output()
                .unwrap(),
        );
        said.expect(2, &[words]);
        assert_eq!((said.out.as_str(), said.err.lines().count()), ("", 1), "{said:?}");
    }
}

#[tokio::test]
async fn a_drained_gateway_stays_and_refuses() {
    let mut program = Program::new();
    let status = program.serve(&[]).await;
    program.run(&["health"]).expect(0, &[]);
    let mut client = Client::connect(status.listeners.websocket[0]).await;
    let draining =
        tokio::task::spawn_blocking(move || (program.run(&["drain", "--wait"]), program));
    assert_eq!(client.next_close().await.0, 1001);
    client.ended().await;
    let (said, program) = draining.await.unwrap();
    said.expect(0, &["1 client"]);
    program.run(&["health"]).expect(1, &[]);
    let now = program.status();
    assert_eq!((now.phase, now.clients, now.pid), (Phase::Draining, 0, status.pid));
    let refused = tokio_tungstenite::client_async(
        format!("ws://{}/", status.listeners.websocket[0]),
        tokio::net::TcpStream::connect(status.listeners.websocket[0]).await.unwrap(),
    );
    let error = refused.await.expect_err("no newcomers").to_string();
    assert!(error.contains("503"), "{error}");
    program.run(&["stop"]).expect(0, &[]);
}

#[tokio::test]
async fn every_command_explains_itself() {
    let program = Program::new();
    program.run(&["--help"]).expect(0, &["serve", "drain", "78", "GWS_", "Examples"]);
    for command in ["serve", "start", "stop", "status", "reload", "drain", "health", "check"] {
        let said = program.run(&[command, "--help"]);
        said.expect(0, &["Usage"]);
        assert!(said.out.lines().next().is_some_and(|line| line.len() > 20), "{said:?}");
    }
    program.run(&["dance"]).expect(2, &["dance"]);
}

#[tokio::test]
async fn the_log_has_a_line_per_change_of_life_and_none_per_message() {
    for (level, names_clients) in [("info", false), ("debug", true)] {
        let mut program = Program::new();
        let status = program.serve(&["--set", &format!("log.level={level}")]).await;
        let mut client = Client::connect(status.listeners.websocket[0]).await;
        for _ in 0..50 {
            client.say("ping").await;
            assert_eq!(client.next_text().await, "pong");
        }
        let id = client.id().to_owned();
        drop(client);
        program.run(&["reload"]).expect(0, &[]);
        program.run(&["stop"]).expect(0, &[]);
        assert_eq!(program.ended().await, Some(0));
        let log = program.log();
        let lines: Vec<serde_json::Value> = log
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON off a terminal"))
            .collect();
        let audited = lines
            .iter()
            .filter(|line| line["target"] == "gateway_websocket::audit")
            .collect::<Vec<_>>();
        assert_eq!(audited.len(), 2, "{log}");
        for (command, line) in ["/v1/reload", "/v1/stop"].iter().zip(audited) {
            let caller = line["caller"].as_str().unwrap();
            assert!(line["command"] == *command && caller.starts_with("uid "), "{line}");
        }
        for what in ["ready", "configuration reloaded", "drained", "stopped"] {
            let count = lines.iter().filter(|line| line["message"] == what).count();
            assert_eq!(count, 1, "{what}: {log}");
        }
        assert!(lines.len() < 22, "fifty messages left their traces: {log}");
        assert_eq!(log.contains(&id), names_clients, "{level}: {log}");
    }
}
