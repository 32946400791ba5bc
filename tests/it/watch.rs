//! The configuration is read again when its file changes, in whatever way that is done, and never
//! when it is half-written, empty or gone.
//!
//! Each change is seen by its effect: calls frame messages as text or as binary.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

use gateway_websocket::{
    config::Watch,
    grpc::proto::{
        BroadcastMessageRequest, broadcast_message_client::BroadcastMessageClient as Broadcast,
    },
};
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::Message;
use tonic::transport::{Channel, Endpoint};

use crate::{
    client::{Client, soon},
    listeners::{all_files, files_with, limit_files},
    program::Program,
    raw::Raw,
};

/// A running gateway with a client, and a directory for its configuration.
struct Watched {
    program: Program,
    client: Client,
    calls: Broadcast<Channel>,
    /// Files that were put there; the number of the newest says what is in it.
    changes: u64,
}

/// What the file of this number says: the odd ones want binary, the even ones text.
fn toml(number: u64) -> String {
    let format = if number % 2 == 1 { "binary" } else { "text" };
    // The first half is a whole file by itself, and says the other thing.
    format!("# {number}\nlimits.names = 77\nwebsocket.message_format = \"{format}\"\n")
}

impl Watched {
    /// A gateway whose file is put there by `put`.
    async fn by(put: impl FnOnce(&Path)) -> Self {
        let mut program = Program::new();
        fs::create_dir(program.file("conf")).unwrap();
        put(&program.file("conf"));
        let config = program.file("conf/gateway.toml").display().to_string();
        let command = program.watching_command(&["--config", &config]);
        let status = program.spawn(command).await;
        let client = Client::connect(status.listeners.websocket[0]).await;
        let grpc = format!("http://{}", status.listeners.grpc[0]);
        let calls = Broadcast::new(Endpoint::from_shared(grpc).unwrap().connect_lazy());
        Self { program, client, calls, changes: 0 }
    }

    async fn new() -> Self {
        Self::by(|conf| fs::write(conf.join("gateway.toml"), toml(0)).unwrap()).await
    }

    fn at(&self, path: &str) -> PathBuf {
        self.program.file("conf").join(path)
    }

    /// The number of the next file, and what it says.
    fn next(&mut self) -> String {
        self.changes += 1;
        toml(self.changes)
    }

    /// Whether calls are answered as the newest file says.
    async fn shows_newest(&mut self) -> bool {
        let message = "how?".to_owned();
        self.calls.broadcast_message(BroadcastMessageRequest { message }).await.unwrap();
        let odd = self.changes % 2 == 1;
        match self.client.next_message().await {
            Message::Text(_) => !odd,
            Message::Binary(_) => odd,
            other => panic!("a message was expected, not {other:?}"),
        }
    }

    /// Waits until the newest file is in force, by its effect; nothing else was in between.
    async fn is_in_force(&mut self, what: &str) {
        let seen = async { while !self.shows_newest().await {} };
        soon(what, seen).await;
        // The effect may be seen a moment before the status says so.
        let generation = self.changes + 1;
        let told = async {
            while self.program.status().config.generation < generation {
                tokio::task::yield_now().await;
            }
        };
        soon(what, told).await;
        self.has_loaded(what, generation);
    }

    fn has_loaded(&self, what: &str, generation: u64) {
        let config = self.program.status().config;
        assert_eq!((config.generation, config.faults), (generation, Vec::new()), "{what}");
    }

    /// Waits as long as the gateway would need to read what has changed until now: beside its
    /// file, another one changes and rests, for a watcher of the test's own.
    async fn time_to_rest(&self) {
        let marker = self.program.file("marker");
        fs::write(&marker, "before").unwrap();
        let mut watch = Watch::new(std::slice::from_ref(&marker), SystemTime::now());
        fs::write(&marker, "after").unwrap();
        assert_eq!(soon("the marker", watch.rested()).await, [marker]);
    }

    /// Waits until a reload was refused with these words; what was in force is so still.
    async fn is_refused(&mut self, words: &str) {
        let refused = || {
            let faults = self.program.status().config.faults;
            faults.len() == 1 && faults[0].contains(words)
        };
        let refusal = async {
            while !refused() {
                tokio::task::yield_now().await;
            }
        };
        soon(words, refusal).await;
        assert!(self.shows_newest().await, "{words}");
        assert_eq!(self.program.status().config.generation, self.changes + 1);
    }
}

fn sh(directory: &Path, script: &str) {
    let mut command = Command::new("sh");
    command.current_dir(directory).args(["-euc", script]);
    assert!(command.status().unwrap().success(), "{script}");
}

#[tokio::test]
async fn a_file_is_read_again_in_whatever_way_it_is_replaced() {
    let mut watched = Watched::new().await;
    let ways = [
        ("written in place", "cat new > gateway.toml"),
        ("copied over", "cp new gateway.toml"),
        ("moved over", "mv new gateway.toml"),
        (
            "backup, new file, as vim does",
            "mv gateway.toml gateway.toml~; cp new gateway.toml; rm gateway.toml~",
        ),
        (
            "written through, as vim does to links",
            "cp gateway.toml gateway.toml~; cat new > gateway.toml; rm gateway.toml~",
        ),
        ("removed and made again", "rm gateway.toml; cat new > gateway.toml"),
        ("linked over", "ln -f new gateway.toml; rm new"),
        ("in two steps", "head -n 2 new > gateway.toml; tail -n +3 new >> gateway.toml"),
        (
            "moved over a hundred times",
            "for i in $(seq 100); do cp new next; mv next gateway.toml; done",
        ),
    ];
    for (what, way) in ways {
        let text = watched.next();
        fs::write(watched.at("new"), text).unwrap();
        sh(&watched.at(""), way);
        watched.is_in_force(what).await;
    }
    // sed makes a new file beside the old one.
    for (old, new) in [("binary", "text"), ("text", "binary")] {
        watched.next();
        sh(&watched.at(""), &format!("sed -i s/{old}/{new}/ gateway.toml"));
        watched.is_in_force("sed").await;
    }
    // What is no other content is no other generation.
    sh(&watched.at(""), "touch gateway.toml; cp gateway.toml x; mv x gateway.toml");
    watched.time_to_rest().await;
    watched.has_loaded("unchanged", watched.changes + 1);
    watched.client.say("ping").await;
    assert_eq!(watched.client.next_text().await, "pong");
}

#[tokio::test]
async fn a_half_written_file_is_never_read() {
    let mut watched = Watched::new().await;
    for _ in 0..2 {
        // Until the last piece is there, each is a whole file that resets what the old one set.
        let text = watched.next();
        let mut file = File::create(watched.at("gateway.toml")).unwrap();
        for piece in text.split_inclusive('\n') {
            watched.time_to_rest().await;
            assert!(!watched.shows_newest().await, "before {piece}");
            watched.has_loaded(piece, watched.changes);
            file.write_all(piece.as_bytes()).unwrap();
        }
        watched.time_to_rest().await;
        watched.has_loaded("written out and not closed", watched.changes);
        drop(file);
        watched.is_in_force("closed").await;
    }
}

#[tokio::test]
async fn an_empty_file_or_none_changes_nothing() {
    let mut watched = Watched::new().await;
    let text = watched.next();
    fs::write(watched.at("gateway.toml"), text).unwrap();
    watched.is_in_force("written").await;
    fs::write(watched.at("gateway.toml"), "").unwrap();
    watched.is_refused("is empty").await;
    fs::remove_file(watched.at("gateway.toml")).unwrap();
    watched.is_refused("is gone").await;
    fs::remove_dir(watched.at("")).unwrap();
    watched.is_refused("is gone").await;
    // Nor do they when somebody asks for it.
    for command in [&["reload"][..], &["reload", "--plan"]] {
        watched.program.bare_run(command).expect(1, &["gateway.toml", "is gone"]);
    }
    fs::create_dir(watched.at("")).unwrap();
    fs::write(watched.at("gateway.toml"), "websocket.message_format = 7").unwrap();
    watched.is_refused("websocket.message_format").await;
    let text = watched.next();
    fs::write(watched.at("gateway.toml"), text).unwrap();
    watched.is_in_force("made again").await;
}

#[tokio::test]
async fn a_kubernetes_volume_is_followed_from_version_to_version() {
    let publish = |conf: &Path, number: u64| {
        let version = format!("..2026_11_24_{number}");
        fs::create_dir(conf.join(&version)).unwrap();
        fs::write(conf.join(&version).join("gateway.toml"), toml(number)).unwrap();
        symlink(&version, conf.join("..data_tmp")).unwrap();
        fs::rename(conf.join("..data_tmp"), conf.join("..data")).unwrap();
    };
    let mut watched = Watched::by(|conf| {
        publish(conf, 0);
        symlink("..data/gateway.toml", conf.join("gateway.toml")).unwrap();
    })
    .await;
    for number in 1..4 {
        watched.next();
        publish(&watched.at(""), number);
        fs::remove_dir_all(watched.at(&format!("..2026_11_24_{}", number - 1))).unwrap();
        watched.is_in_force("the next version").await;
    }
}

#[tokio::test]
async fn links_are_followed_and_directories_that_are_replaced_are_too() {
    let mut watched = Watched::by(|conf| {
        let elsewhere = conf.with_file_name("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("real.toml"), toml(0)).unwrap();
        symlink("../elsewhere/real.toml", conf.join("gateway.toml")).unwrap();
    })
    .await;
    let steps = [
        ("written behind the link", "cat new > elsewhere/real.toml"),
        ("moved behind the link", "mv new elsewhere/real.toml"),
        ("the link leads elsewhere", "mv new other.toml; ln -sfn ../other.toml conf/gateway.toml"),
        ("written there", "cat new > other.toml"),
        ("a file for the link", "mv new conf/gateway.toml"),
        ("another directory", "mkdir next; mv new next/gateway.toml; mv conf old; mv next conf"),
        ("written in that", "cat new > conf/gateway.toml"),
        ("the directory made again", "rm -r conf; mkdir conf; mv new conf/gateway.toml"),
        ("written in this one", "cat new > conf/gateway.toml"),
        ("a link for the directory", "mv conf v1; mv new v1/gateway.toml; ln -s v1 conf"),
        ("another link", "mkdir v2; mv new v2/gateway.toml; ln -s v2 x; mv -T x conf"),
        ("written where that leads", "cat new > v2/gateway.toml"),
    ];
    let root = watched.program.file("");
    for (what, step) in steps {
        let text = watched.next();
        fs::write(root.join("new"), text).unwrap();
        sh(&root, step);
        watched.is_in_force(what).await;
    }
}

/// The case of `reload.watch` in `effects`.
pub async fn told_not_to_it_watches_nothing_until_it_is_told_to() {
    let mut watched = Watched::new().await;
    let file = watched.at("gateway.toml");
    let (quiet, watching) = ("reload.watch = false\n", "reload.watch = true\n");
    let text = watched.next();
    fs::write(&file, text + quiet).unwrap();
    watched.is_in_force("the last one that is seen").await;
    let text = toml(0);
    fs::write(&file, text.clone() + quiet).unwrap();
    watched.time_to_rest().await;
    assert!(watched.shows_newest().await);
    watched.has_loaded("nobody looked", 2);
    watched.changes += 1;
    fs::write(&file, text + watching).unwrap();
    watched.program.bare_run(&["reload"]).expect(0, &["reload.watch: false -> true"]);
    watched.is_in_force("told to").await;
    let text = watched.next();
    fs::write(&file, text + watching).unwrap();
    watched.is_in_force("watched again").await;
}

#[tokio::test]
async fn what_is_written_through_a_mapping_is_read_again() {
    // inotify tells as little of it as of what other machines write to a network file system; of the
    // end of the mapping it tells something.
    let script = "import mmap, sys\n\
                  file = open(sys.argv[1], 'r+b')\n\
                  mapped = mmap.mmap(file.fileno(), 0)\n\
                  mapped[:] = mapped[:].replace(b'\"text\"  ', b'\"binary\"')\n\
                  mapped.flush()\n\
                  sys.stdin.read()";
    let mut watched = Watched::by(|conf| {
        // Both texts are of one length.
        let text = toml(0).replace("\"text\"", "\"text\"  ");
        fs::write(conf.join("gateway.toml"), text).unwrap();
    })
    .await;
    watched.changes += 1;
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(watched.at("gateway.toml")).stdin(Stdio::piped());
    let mut python = python.spawn().expect("python3 is installed");
    watched.is_in_force("mapped over").await;
    drop(python.stdin.take());
    assert!(python.wait().unwrap().success());
}

#[tokio::test]
async fn files_that_can_not_be_watched_show_in_the_status() {
    let mut program = Program::new();
    let config = program.config("reload.watch = false\n");
    let command = program.watching_command(&["--config", &config]);
    let status = program.spawn(command).await;
    assert_eq!(status.config.unwatched, None);
    // One descriptor is enough to read the file, and too few to watch it.
    let mut control = Raw::over(UnixStream::connect(program.file("control.sock")).await.unwrap());
    control.send("GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    control.response().await;
    program.config("reload.watch = true\n");
    limit_files(status.pid, files_with(1, status.pid).await);
    let ask = "POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    control.send(ask).await;
    let answer = control.rest().await;
    limit_files(status.pid, all_files());
    assert!(answer.contains("\"accepted\""), "{answer}");
    let said = program.bare_run(&["status"]);
    said.expect(0, &["UNWATCHED", "file descriptors", "SIGHUP and `reload`"]);

    for watch in ["false", "true"] {
        program.config(&format!("reload.watch = {watch}\n"));
        program.bare_run(&["reload"]).expect(0, &["reload.watch"]);
        assert_eq!(program.status().config.unwatched, None);
    }
}
