//! What the service manager is told, and when: a datagram socket in systemd's place.

use std::{os::unix::net::UnixDatagram, path::Path, time::Duration};

use gateway_websocket::status::{Phase, Status};

use crate::{
    client::Client,
    program::Program,
    raw::{CLOSE, Raw, frame},
};

/// The service manager's end of `NOTIFY_SOCKET`.
struct Manager(UnixDatagram);

/// Only ends a test that would hang.
const HANG: Duration = Duration::from_mins(1);

impl Manager {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(HANG)).unwrap();
        Self(socket)
    }

    /// The next datagram, line by line.
    fn next(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).expect("something is said in time");
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// The next datagram that is no status and no sign of life.
    fn next_word(&self) -> Vec<String> {
        loop {
            let said = self.next();
            if !said[0].starts_with("STATUS=") && said != ["WATCHDOG=1"] {
                return said;
            }
        }
    }
}

/// A gateway with a manager; the second value of each pair is an environment variable's.
async fn supervised(env: &[(&str, &str)]) -> (Program, Manager, Status) {
    let mut program = Program::new();
    let manager = Manager::at(&program.file("notify"));
    let config = program.config("drain.window = \"0s\"\ndrain.timeout = \"3s\"\n");
    let mut command = program.command(&["--config", &config, "--set", "reload.watch=false"]);
    command.env("NOTIFY_SOCKET", program.file("notify"));
    command.envs(env.iter().copied());
    let status = program.spawn(command).await;
    (program, manager, status)
}

#[tokio::test]
async fn ready_is_said_when_everything_listens() {
    let program = Program::new();
    let manager = Manager::at(&program.file("notify"));
    let mut command = program.command(&[]);
    command.env("NOTIFY_SOCKET", program.file("notify"));
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    assert_eq!(manager.next_word(), ["READY=1"]);
    // The very next thing works: nothing has to be tried again.
    let status = program.status();
    let client = Client::connect(status.listeners.websocket[0]).await;
    assert!(std::net::TcpStream::connect(status.listeners.grpc[0]).is_ok());
    assert!(std::net::TcpStream::connect(status.listeners.admin[0]).is_ok());
    drop(client);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_reload_is_over_before_its_command_is_answered() {
    let (program, manager, _) = supervised(&[]).await;
    assert_eq!(manager.next_word(), ["READY=1"]);
    for (toml, code) in [("limits.names = 9\n", 0), ("limits.names = 0\n", 1)] {
        let config = program.config(toml);
        let said = program.run(&["--config", &config, "reload"]);
        assert_eq!(said.code, code, "{said:?}");
        // All of it has been said by now.
        manager.0.set_nonblocking(true).unwrap();
        let began = manager.next_word();
        assert_eq!(began[0], "RELOADING=1");
        let micros = began[1].strip_prefix("MONOTONIC_USEC=").unwrap();
        assert!(micros.parse::<u64>().unwrap() > 0);
        assert_eq!(manager.next_word(), ["READY=1"]);
        manager.0.set_nonblocking(false).unwrap();
    }
    let refused = loop {
        let said = manager.next();
        if said[0].contains("refused") {
            break said;
        }
    };
    assert_eq!(refused, ["STATUS=0 clients, 0 groups; last reload refused: 1 fault"]);
}

#[tokio::test]
async fn a_stop_asks_for_the_time_it_can_take() {
    let (mut program, manager, status) = supervised(&[]).await;
    assert_eq!(manager.next_word(), ["READY=1"]);
    let mut client = Client::connect(status.listeners.websocket[0]).await;
    program.signal("TERM");
    let said = manager.next_word();
    assert_eq!(said[0], "STOPPING=1");
    let micros: u64 = said[1].strip_prefix("EXTEND_TIMEOUT_USEC=").unwrap().parse().unwrap();
    assert!(micros > 3_000_000, "delay, window and timeout together: {micros}");
    assert_eq!(client.next_close().await.0, 1001);
    client.ended().await;
    assert_eq!(program.ended().await, Some(0));
}

#[tokio::test]
async fn a_stop_of_hours_asks_for_hours() {
    let (mut program, manager, status) = supervised(&[]).await;
    assert_eq!(manager.next_word(), ["READY=1"]);
    let config = program.config("drain.window = \"1h\"\ndrain.timeout = \"1h\"\n");
    program.run(&["--config", &config, "reload"]).expect(0, &[]);
    assert_eq!(manager.next_word()[0], "RELOADING=1");
    assert_eq!(manager.next_word(), ["READY=1"]);
    let address = status.listeners.websocket[0];
    let _clients = [Client::connect(address).await, Client::connect(address).await];
    program.signal("TERM");
    let said = manager.next_word();
    assert_eq!(said[0], "STOPPING=1");
    let micros: u64 = said[1].strip_prefix("EXTEND_TIMEOUT_USEC=").unwrap().parse().unwrap();
    assert!(micros > 7_200_000_000, "two hours: {micros}");
    program.signal("TERM");
    assert_eq!(program.ended().await, Some(0));
    assert!(!program.log().contains("TimeoutStopSec"), "{}", program.log());
}

/// What is under way is said, then the watchdog is no longer fed.
fn starves(manager: &Manager) {
    manager.0.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut buffer = [0; 4096];
    let begin = std::time::Instant::now();
    while let Ok(length) = manager.0.recv(&mut buffer) {
        let fed = buffer[..length].starts_with(b"WATCHDOG=1");
        assert!(!fed || begin.elapsed() < HANG, "the watchdog is fed for as long as one looks");
    }
    manager.0.set_read_timeout(Some(HANG)).unwrap();
}

#[tokio::test]
async fn a_stop_during_a_drain_asks_for_the_time_that_is_left() {
    let (mut program, manager, status) = supervised(&[]).await;
    assert_eq!(manager.next_word(), ["READY=1"]);
    let config = program
        .config("drain.window = \"0s\"\ndrain.timeout = \"30m\"\nlimits.close_wait = \"30m\"\n");
    program.run(&["--config", &config, "reload"]).expect(0, &[]);
    assert_eq!(manager.next_word()[0], "RELOADING=1");
    assert_eq!(manager.next_word(), ["READY=1"]);
    let (mut client, _) = Raw::welcomed(status.listeners.websocket[0]).await;
    program.run(&["drain"]).expect(0, &["draining"]);
    assert_eq!(client.close_code().await, 1001);

    program.signal("TERM");
    let said = manager.next_word();
    assert_eq!(said[0], "STOPPING=1");
    let micros: u64 = said[1].strip_prefix("EXTEND_TIMEOUT_USEC=").unwrap().parse().unwrap();
    assert!((1_500_000_000..1_900_000_000).contains(&micros), "half an hour: {micros}");
    // The drain goes on, and nobody comes any more.
    let refused = async || std::net::TcpStream::connect(status.listeners.websocket[0]).is_err();
    crate::site::until("the listener's end", refused).await;
    assert_eq!(program.status().phase, Phase::Stopping);
    client.send(frame(CLOSE, &1001_u16.to_be_bytes())).await;
    client.ended_well().await;
    assert_eq!(program.ended().await, Some(0));
}

#[tokio::test]
async fn the_watchdog_is_fed_while_the_supervisor_is_at_work() {
    let (program, manager, status) = supervised(&[("WATCHDOG_USEC", "300000")]).await;
    let alive = || while manager.next() != ["WATCHDOG=1"] {};
    (0..3).for_each(|_| alive());
    // It is the first thread's.
    let stopped = crate::program::Stopped::thread(&status.pid.to_string());
    starves(&manager);
    assert!(program.log().contains("the supervisor is stuck"), "{}", program.log());
    drop(stopped);
    (0..2).for_each(|_| alive());
    assert!(program.settled_log().contains("the supervisor is at work again"), "{}", program.log());
}

#[tokio::test]
async fn the_watchdog_is_fed_while_all_shards_answer() {
    let (program, manager, status) = supervised(&[("WATCHDOG_USEC", "300000")]).await;
    let alive = || loop {
        if manager.next() == ["WATCHDOG=1"] {
            break;
        }
    };
    (0..3).for_each(|_| alive());

    // One shard's thread is stopped from outside, as a debugger does it.
    let stopped = crate::program::Stopped::named(status.pid, "shard-0");
    starves(&manager);
    assert!(program.settled_log().contains("shards do not answer"), "{}", program.log());

    drop(stopped);
    (0..2).for_each(|_| alive());
    assert!(program.settled_log().contains("all shards answer again"), "{}", program.log());
}
