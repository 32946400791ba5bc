//! What the service manager is told, and when: a datagram socket in systemd's place.

use std::{os::unix::net::UnixDatagram, path::Path, time::Duration};

use crate::{client::Client, program::Program};

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
async fn supervised(env: &[(&str, &str)]) -> (Program, Manager, gateway_websocket::status::Status) {
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
    assert_eq!(refused, ["STATUS=0 clients, 0 groups; last reload refused: 1 faults"]);
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
async fn the_watchdog_is_fed_while_all_shards_answer() {
    let (program, manager, status) = supervised(&[("WATCHDOG_USEC", "300000")]).await;
    let alive = || loop {
        if manager.next() == ["WATCHDOG=1"] {
            break;
        }
    };
    (0..3).for_each(|_| alive());

    // One shard's thread is stopped from outside, as a debugger does it.
    let tasks = format!("/proc/{}/task", status.pid);
    let shard = std::fs::read_dir(tasks).unwrap().find_map(|task| {
        let task = task.unwrap().path();
        let name = std::fs::read_to_string(task.join("comm")).unwrap();
        (name == "shard-0\n").then(|| task.file_name().unwrap().to_string_lossy().into_owned())
    });
    let stopped = crate::program::Stopped::thread(&shard.unwrap());
    // What was under way is said, then nothing any more.
    manager.0.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut buffer = [0; 4096];
    let mut fed = 0;
    while let Ok(length) = manager.0.recv(&mut buffer) {
        fed += usize::from(buffer[..length].starts_with(b"WATCHDOG=1"));
        assert!(fed <= 3, "the watchdog is fed although a shard is stuck");
    }
    manager.0.set_read_timeout(Some(HANG)).unwrap();
    assert!(program.log().contains("shards do not answer"), "{}", program.log());

    drop(stopped);
    (0..2).for_each(|_| alive());
    assert!(program.log().contains("all shards answer again"), "{}", program.log());
}
