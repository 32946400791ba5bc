//! The commands, from outside: what each does, says and ends with.

use std::{
    net::TcpListener,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    process::{Command, Stdio},
};

use gateway_websocket::status::Phase;
use rustix::process::Signal;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};

use crate::{
    client::Client,
    program::{PROGRAM, Place, Running, runs},
};

const GOING_AWAY: u16 = 1001;

#[tokio::test]
async fn serve_says_where_it_listens_and_is_what_no_command_means() {
    for args in [&["serve"][..], &[]] {
        let place = Place::new();
        let gateway = place.serve(args).await;
        assert_ne!(gateway.websocket.port(), 0);
        let mut client = gateway.connect().await;
        gateway.broadcast("hello").await;
        assert_eq!(client.next_text().await, "hello");
        let status = place.status().await;
        assert_eq!(status.listeners.websocket, [gateway.websocket]);
        assert_eq!(status.listeners.grpc, [gateway.grpc]);
        assert_eq!((status.phase, status.clients), (Phase::Ready, 1));
        assert_eq!(status.pid, gateway.pid());
    }
}

#[tokio::test]
async fn start_returns_when_the_gateway_is_ready_and_stop_when_it_is_gone() {
    let place = Place::new();
    let started = place.run(&["start"]).await;
    started.expect(0, &["started", "websocket", "grpc", "control"], &[]);
    let pid = started.row("started").to_owned();
    assert!(runs(&pid));
    let websocket = started.row("websocket").parse().unwrap();
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::connect(websocket).await);
    }
    assert_eq!(place.status().await.pid.to_string(), pid);

    let again = place.run(&["start"]).await;
    again.expect(0, &[&format!("already running: pid {pid}, version ")], &[]);

    let closes = async {
        let mut codes = Vec::new();
        for client in &mut clients {
            codes.push(client.next_close().await.0);
            client.ended().await;
        }
        codes
    };
    let (stopped, codes) = tokio::join!(place.run(&["stop"]), closes);
    stopped.expect(0, &["closed 3 clients\n", "stopped"], &[]);
    assert_eq!(codes, [GOING_AWAY; 3]);
    assert!(!runs(&pid), "the process is gone when stop returns");
    assert!(!place.socket().exists(), "its socket is gone too");
    place.run(&["stop"]).await.expect(0, &["not running"], &[]);
}

#[tokio::test]
async fn a_taken_port_fails_the_start_and_is_named_with_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    let (taken, other) = (address(&taken), address(&other));
    // With both ports taken, the first one is named.
    for (key, sets) in [
        ("websocket.listen", vec![("websocket.listen", &taken)]),
        ("grpc.listen", vec![("grpc.listen", &taken)]),
        ("admin.listen", vec![("admin.listen", &taken)]),
        ("websocket.listen", vec![("websocket.listen", &taken), ("grpc.listen", &other)]),
    ] {
        let place = Place::new();
        let sets: Vec<_> = sets.iter().map(|(key, at)| format!("--set={key}={at}")).collect();
        let reason = format!("cannot listen on {taken} ({key}): Address already in use");
        for command in ["start", "serve"] {
            let args: Vec<_> =
                std::iter::once(command).chain(sets.iter().map(String::as_str)).collect();
            place.run(&args).await.expect(1, &[], &[&reason]);
            assert!(!place.socket().exists(), "a failed {command} leaves no socket");
        }
        place.run(&["status"]).await.expect(3, &[], &["not running"]);
    }
}

#[tokio::test]
async fn a_bad_configuration_starts_nothing_and_all_its_faults_are_listed() {
    let place = Place::new();
    place.configure(&["shards = 0", "limits.names = \"long\"", "websocket.lisen = 1"]);
    let faults =
        ["3 faults", "shards = 0: expected", "limits.names = \"long\": ", "websocket.lisen"];
    for command in ["start", "serve", "check"] {
        place.run(&[command]).await.expect(78, &[], &faults);
    }
    place.run(&["health"]).await.expect(3, &[], &["not running"]);
}

#[tokio::test]
async fn where_nothing_runs_the_commands_say_so() {
    let place = Place::new();
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["reload"],
        &["drain"],
        &["drain", "--wait"],
        &["health"],
    ] {
        let socket = place.socket().display().to_string();
        place.run(args).await.expect(3, &[], &["not running", &socket]);
    }
    place.run(&["stop"]).await.expect(0, &["not running"], &[]);
}

#[tokio::test]
async fn a_signal_drains_and_ends_well() {
    for signal in [Signal::TERM, Signal::INT] {
        let place = Place::new();
        let mut gateway = place.serve(&["serve"]).await;
        let mut client = gateway.connect().await;
        gateway.broadcast("last words").await;
        gateway.signal(signal);
        assert_eq!(client.next_text().await, "last words");
        assert_eq!(client.next_close().await.0, GOING_AWAY);
        client.ended().await;
        let drained = gateway.logged("drained").await;
        assert_eq!((&drained["closed"], &drained["cut_off"]), (&1.into(), &0.into()));
        assert_eq!(gateway.ended().await.code(), Some(0));
        assert!(!place.socket().exists());
    }
}

/// A drain would wait half an hour for the client that does not answer, a test never does.
#[tokio::test]
async fn a_second_signal_stops_at_once() {
    for [first, second] in [[Signal::TERM, Signal::TERM], [Signal::INT, Signal::TERM]] {
        let place = Place::new();
        place.configure(&["drain.timeout = \"30m\"", "limits.close_wait = \"30m\""]);
        let mut gateway = place.serve(&["serve"]).await;
        let _mute = gateway.connect().await;
        gateway.signal(first);
        place.until("stopping", |status| status.phase == Phase::Stopping).await;
        gateway.logged("told to stop").await;
        gateway.signal(second);
        gateway.logged("told again to stop").await;
        assert_eq!(gateway.ended().await.code(), Some(0));
    }
}

#[tokio::test]
async fn what_a_killed_gateway_left_behind_is_no_obstacle() {
    let place = Place::new();
    let mut gateway = place.serve(&["serve"]).await;
    gateway.signal(Signal::KILL);
    assert_eq!(gateway.ended().await.code(), None);
    assert!(place.socket().exists(), "there is a stale socket to be found");
    place.run(&["status"]).await.expect(3, &[], &["not running"]);
    place.run(&["stop"]).await.expect(0, &["not running"], &[]);

    let started = place.run(&["start"]).await;
    started.expect(0, &["started"], &[]);
    place.run(&["stop"]).await.expect(0, &["closed 0 clients", "stopped"], &[]);
    assert!(!runs(started.row("started")));
}

#[tokio::test]
async fn only_the_owner_may_use_the_control_socket() {
    let place = Place::new();
    let other = place.path().join("other.sock");
    let other = other.to_str().unwrap();
    let _first = place.serve(&["serve"]).await;
    // Another socket is another gateway; flag and key are the same thing.
    let second = place.serve(&["serve", "--socket", other]).await;
    for path in [place.socket(), other.into()] {
        let found = std::fs::metadata(path).unwrap();
        assert!(found.file_type().is_socket());
        assert_eq!(found.permissions().mode() & 0o777, 0o600);
    }
    let key = format!("--set=control.socket={other}");
    let asked = place.run(&["status", &key]).await;
    asked.expect(0, &[&format!("pid {},", second.pid())], &[]);
    // Whoever owns a socket keeps it.
    place.run(&["serve", "--socket", other]).await.expect(1, &[], &["already running: pid "]);
}

/// Runs as nobody, so that `/run` can't be written to.
#[tokio::test]
async fn without_a_directory_for_the_socket_it_serves_after_a_warning() {
    let place = Place::new();
    place.configure(&["control.socket = \"auto\""]);
    let world = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(place.path(), world).unwrap();
    let program = place.path().join("program");
    std::fs::copy(PROGRAM, &program).unwrap();
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.env_clear().arg("--config").arg(place.file()).stdin(Stdio::null());
    let mut gateway = Running::after(&["no control socket"], command).await;
    let mut client = gateway.connect().await;
    gateway.broadcast("hello").await;
    assert_eq!(client.next_text().await, "hello");
    gateway.signal(Signal::TERM);
    assert_eq!(client.next_close().await.0, GOING_AWAY);
    client.ended().await;
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_reload_changes_what_runs_and_harms_nobody() {
    let place = Place::new();
    let mut gateway = place.serve(&["serve"]).await;
    let mut client = gateway.connect().await;
    gateway.broadcast("text").await;
    assert_eq!(client.next_message().await, Message::text("text"));

    place.run(&["reload"]).await.expect(0, &["reloaded, nothing changed"], &[]);
    place.configure(&["websocket.message_format = \"binary\"", "limits.names = 4"]);
    let changed = ["2 keys changed", "websocket.message_format: ", "limits.names: 256 -> 4 ("];
    place.run(&["reload"]).await.expect(0, &changed, &[]);
    gateway.broadcast("bytes").await;
    assert_eq!(client.next_message().await, Message::binary("bytes"));
    assert!(!gateway.bind(&client, "12345").await);

    place.configure(&["limits.names = 5"]);
    gateway.logged("configuration reloaded").await;
    gateway.logged("configuration reloaded").await;
    gateway.signal(Signal::HUP);
    gateway.logged("configuration reloaded").await;
    gateway.broadcast("text again").await;
    assert_eq!(client.next_message().await, Message::text("text again"));
    assert!(gateway.bind(&client, "12345").await);

    let status = place.status().await;
    assert_eq!((status.clients, status.users, status.config.generation), (1, 1, 4));
}

#[tokio::test]
async fn a_reload_of_a_bad_file_changes_nothing_and_lists_all_faults() {
    let place = Place::new();
    place.configure(&["limits.names = 4"]);
    let mut gateway = place.serve(&["serve"]).await;
    let mut client = gateway.connect().await;
    place.configure(&["limits.names = 0", "drain.window = 7", "log.level = \"loud\""]);
    let faults =
        ["nothing changed", "3 faults", "limits.names = 0", "drain.window = 7", "\"loud\""];
    place.run(&["reload"]).await.expect(1, &[], &faults);
    gateway.logged("reload refused").await;
    // A signal has no answer, but the log and the status have it.
    gateway.signal(Signal::HUP);
    gateway.logged("reload refused").await;
    assert!(gateway.bind(&client, "1234").await);
    assert!(!gateway.bind(&client, "12345").await);
    assert_eq!(place.status().await.config.faults.len(), 3);
    let status = place.run(&["status"]).await;
    status.expect(0, &["FAULT", "last reload refused", "in service"], &[]);

    place.configure(&["limits.names = 5"]);
    place.run(&["reload"]).await.expect(0, &["limits.names: 4 -> 5"], &[]);
    assert!(gateway.bind(&client, "12345").await);
    assert!(place.status().await.config.faults.is_empty());
    gateway.broadcast("still here").await;
    assert_eq!(client.next_text().await, "still here");
}

#[tokio::test]
async fn a_reload_names_what_waits_for_a_restart() {
    let place = Place::new();
    let _gateway = place.serve(&["serve"]).await;
    place.configure(&["shards = 1"]);
    place.run(&["reload"]).await.expect(0, &["shards: 2 -> 1", "restart"], &[]);
    assert_eq!(place.status().await.config.pending, ["shards"]);
    place.run(&["status"]).await.expect(0, &["PENDING", "shards"], &[]);
    assert_eq!(place.status().await.shards, 2);
}

#[tokio::test]
async fn a_drain_closes_the_clients_and_the_process_stays() {
    let place = Place::new();
    let gateway = place.serve(&["serve"]).await;
    place.run(&["health"]).await.expect(0, &["ready"], &[]);
    let mut clients = [gateway.connect().await, gateway.connect().await];
    let closes = async {
        for client in &mut clients {
            assert_eq!(client.next_close().await.0, GOING_AWAY);
            client.ended().await;
        }
    };
    let (drained, ()) = tokio::join!(place.run(&["drain", "--wait"]), closes);
    drained.expect(0, &["closed 2 clients\n"], &[]);
    let status = place.status().await;
    assert_eq!((status.phase, status.clients), (Phase::Draining, 0));
    place.run(&["health"]).await.expect(1, &["not ready"], &[]);
    let request = format!("ws://{}/", gateway.websocket).into_client_request().unwrap();
    let refused = Client::connect_with(gateway.websocket, request).await.err().unwrap();
    assert!(refused.to_string().contains("503"), "{refused}");
    place.run(&["stop"]).await.expect(0, &["closed 0 clients", "stopped"], &[]);
}

#[tokio::test]
async fn a_drain_that_is_not_waited_for_goes_on() {
    let place = Place::new();
    place.configure(&["drain.timeout = \"30m\"", "limits.close_wait = \"30m\""]);
    let gateway = place.serve(&["serve"]).await;
    let mut client = gateway.connect().await;
    place.run(&["drain"]).await.expect(0, &["draining"], &[]);
    assert_eq!(place.status().await.phase, Phase::Draining);
    assert_eq!(client.next_close().await.0, GOING_AWAY);
    client.ended().await;
    place.until("no clients", |status| status.clients == 0).await;
}

#[tokio::test]
async fn each_command_explains_itself() {
    let place = Place::new();
    let commands = ["serve", "start", "stop", "status", "reload", "drain", "health", "check"];
    let all = place.run(&["--help"]).await;
    all.expect(0, &commands, &[]).expect(0, &["Exit codes:", "78"], &[]);
    for command in commands {
        let help = place.run(&[command, "--help"]).await;
        help.expect(0, &["Usage: gateway-websocket", command, "--config", "--set"], &[]);
    }
    let version = place.run(&["--version"]).await;
    version.expect(0, &[concat!("gateway-websocket ", env!("CARGO_PKG_VERSION"))], &[]);
    place.run(&["strat"]).await.expect(2, &[], &["start"]);
    place.run(&["stop", "--print-config"]).await.expect(2, &[], &["serve or check"]);
}
