//! The process itself: its end, its log, its probes, and what waits for a restart.

use std::{path::Path, time::Duration};

use super::Stage;
use crate::{
    client::{Client, soon},
    listeners::{address, free_port},
    program::Program,
    raw::{Raw, ask},
};

const PROBE: &str = "GET /readyz HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n";

/// A key that waits for a restart: it is reported, and nothing changes for anybody.
async fn waits(key: &str, value: &str) -> Stage {
    let mut stage = Stage::new(&[]).await;
    let changed = stage.gateway.reload(&format!("{key} = {value}\n")).await;
    let told: Vec<_> = changed.iter().map(|it| (it.key.as_str(), it.effect.as_str())).collect();
    assert_eq!(told, [(key, "needs restart")]);
    assert_eq!(stage.gateway.handle().config().pending, [key]);
    stage.everybody_is_served().await;
    stage
}

#[tokio::test]
pub(super) async fn shards() {
    let stage = waits("shards", "5").await;
    assert_eq!(stage.gateway.hub().shard_stats().count(), 3);
}

#[tokio::test]
pub(super) async fn control_socket() {
    let mut program = Program::new();
    let config = program.config("");
    let mut command = program.bare_command(&["--config", &config]);
    // In the file, not on the command line, which would win.
    let (here, elsewhere) = (program.file("control.sock"), program.file("elsewhere.sock"));
    let toml = |socket: &Path| {
        format!(
            "reload.watch = false\nwebsocket.listen = \"127.0.0.1:0\"\n\
             grpc.listen = \"127.0.0.1:0\"\nadmin.listen = []\ncontrol.socket = \"{}\"\n",
            socket.display()
        )
    };
    program.config(&toml(&here));
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    command = {
        let mut bare = std::process::Command::new(command.get_program());
        let socket = arguments.iter().position(|argument| argument == "--socket").unwrap();
        bare.args(&arguments[..socket]).args(&arguments[socket + 2..]);
        bare
    };
    let status = program.spawn(command).await;
    let mut client = Client::connect(status.listeners.websocket[0]).await;
    program.config(&toml(&elsewhere));
    program.bare_run(&["reload"]).expect(0, &["control.socket", "needs restart"]);
    assert_eq!(program.status().config.pending, ["control.socket"]);
    assert!(here.exists() && !elsewhere.exists());
    client.say("ping").await;
    assert_eq!(client.next_text().await, "pong");
}

#[tokio::test]
pub(super) async fn reload_watch() {
    crate::watch::told_not_to_it_watches_nothing_until_it_is_told_to().await;
}

#[tokio::test]
pub(super) async fn admin_listen() {
    let (old, new) = (address(free_port()), address(free_port()));
    let mut stage = Stage::new(&[("admin.listen", &format!("\"{old}\""))]).await;
    assert!(ask(old, PROBE).await.contains(" 200 "));
    stage.change("admin.listen", &format!("\"{new}\"")).await;
    assert!(ask(new, PROBE).await.contains(" 200 "));
    assert!(std::net::TcpStream::connect(old).is_err());
}

/// Begins a drain that nobody waits for.
fn drain(stage: &Stage) {
    let handle = stage.gateway.handle().clone();
    tokio::spawn(async move { handle.drain().await });
}

#[tokio::test]
pub(super) async fn drain_delay() {
    let mut stage = Stage::new(&[]).await;
    stage.change("drain.delay", "\"1h\"").await;
    drain(&stage);
    let red = async { while !ask(stage.gateway.admin(), PROBE).await.contains(" 503 ") {} };
    soon("the probes' being told", red).await;
    // For an hour, clients are served and more may come.
    stage.gateway.connect().await;
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn drain_window() {
    let mut stage = Stage::new(&[("drain.window", "\"1h\"")]).await;
    stage.change("drain.window", "\"0s\"").await;
    drain(&stage);
    // Within the hour of before, at most one would be closed as soon.
    for mut client in stage.alone() {
        assert_eq!(client.next_close().await.0, 1001);
    }
}

#[tokio::test]
pub(super) async fn drain_timeout() {
    let settings =
        [("drain.window", "\"0s\""), ("drain.timeout", "\"10m\""), ("limits.close_wait", "\"1h\"")];
    let mut stage = Stage::new(&settings).await;
    let (mut mute, _) = stage.raw().await;
    stage.change("drain.timeout", "\"200ms\"").await;
    let outcome = soon("the end of the drain", stage.gateway.handle().drain()).await.unwrap();
    assert_eq!(outcome.closed, 3);
    assert!(outcome.cut_off >= 1, "{outcome:?}");
    assert_eq!(mute.close_code().await, 1001);
}

#[tokio::test]
pub(super) async fn drain_close_code() {
    let mut stage = Stage::new(&[("drain.window", "\"0s\"")]).await;
    stage.change("drain.close_code", "1012").await;
    drain(&stage);
    for mut client in stage.alone() {
        assert_eq!(client.next_close().await.0, 1012);
    }
}

/// The real program, with a log of its own and a client.
struct Logged {
    program: Program,
    config: String,
    websocket: std::net::SocketAddr,
    client: Client,
}

impl Logged {
    async fn new() -> Self {
        let mut program = Program::new();
        let config = program.config("# nothing\n");
        let status = program.serve(&["--config", &config]).await;
        let websocket = status.listeners.websocket[0];
        Self { program, config, websocket, client: Client::connect(websocket).await }
    }

    async fn change(&mut self, key: &str, value: &str) {
        self.program.config(&format!("{key} = {value}\n"));
        let said = self.program.run(&["--config", &self.config, "reload"]);
        said.expect(0, &[&format!("{key}: "), "live"]);
        self.client.say("ping").await;
        assert_eq!(self.client.next_text().await, "pong");
    }
}

/// Waits for a file to hold these words; answers the line.
async fn line_with(file: &Path, words: &str) -> String {
    let found = async {
        loop {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            if let Some(line) = text.lines().find(|line| line.contains(words)) {
                return line.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(20)).await; // a file tells nobody
        }
    };
    soon(words, found).await
}

#[tokio::test]
pub(super) async fn log_level() {
    let mut logged = Logged::new().await;
    logged.change("log.level", "\"debug\"").await;
    let late = Client::connect(logged.websocket).await;
    line_with(&logged.program.file("log"), late.id()).await;
    assert!(!logged.program.log().contains(logged.client.id()), "it was not yet so");
}

#[tokio::test]
pub(super) async fn log_format() {
    let mut logged = Logged::new().await;
    logged.change("log.format", "\"human\"").await;
    let log = logged.program.file("log");
    let line = line_with(&log, "configuration reloaded").await;
    assert!(serde_json::from_str::<serde_json::Value>(&line).is_err(), "{line}");
    let line = line_with(&log, "ready").await;
    assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "{line}");
}

#[tokio::test]
pub(super) async fn log_file() {
    let mut logged = Logged::new().await;
    let file = logged.program.file("other.log");
    logged.change("log.file", &format!("\"{}\"", file.display())).await;
    line_with(&file, "configuration reloaded").await;
    assert!(!logged.program.log().contains("configuration reloaded"));
    let mut raw = Raw::connect(logged.websocket).await;
    assert_eq!(raw.data().await.payload.len(), 36);
}

#[tokio::test]
pub(super) async fn log_queue_bytes() {
    crate::log::more_room_means_fewer_lines_dropped().await;
}
