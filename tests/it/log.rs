//! The log never holds anybody up, and says each thing once, in one form.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
    process::Stdio,
    sync,
    time::{Duration, Instant},
};

use gateway_websocket::{
    grpc::proto::v1::{
        CloseRequest, SubscribeRequest, SubscribeStart, connections_client::ConnectionsClient,
        events_client::EventsClient, subscribe_request::Step,
    },
    status::Status,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_setfl, mknodat};
use serde_json::Value;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::{
    client::{Client, soon},
    program::Program,
    raw::ask,
    v1::{NOBODY, clients},
};

/// Calls that are audited: more than any pipe and the queue take together.
const CALLS: u64 = 10_000;

/// A gateway whose log nobody reads for now.
struct Stalled {
    program: Program,
    status: Status,
    calls: ConnectionsClient<Channel>,
    log: OwnedFd,
}

impl Stalled {
    /// One that logs to standard error, a pipe, or else to a FIFO.
    async fn new(to_stderr: bool) -> Self {
        let mut program = Program::new();
        let (status, log) = if to_stderr {
            let mut command = program.command(&[]);
            command.stderr(Stdio::piped());
            let status = program.spawn_as_is(command).await;
            (status, program.stderr().into())
        } else {
            let fifo = fifo(&program);
            let log = reader(&fifo);
            let status = program.serve(&["--set", &format!("log.file={}", fifo.display())]).await;
            fcntl_setfl(&log, OFlags::empty()).unwrap();
            (status, log.into())
        };
        let grpc = format!("http://{}", status.listeners.grpc[0]);
        let calls = ConnectionsClient::new(Endpoint::from_shared(grpc).unwrap().connect_lazy());
        Self { program, status, calls, log }
    }

    /// Makes a line of the audit log.
    async fn call(&mut self) {
        let request = CloseRequest { target: Some(clients([NOBODY])), ..CloseRequest::default() };
        self.calls.close(request).await.unwrap();
    }

    /// Makes more lines than the log takes, and sees that everybody is served.
    async fn fill(&mut self) {
        let calls = async {
            for _ in 0..CALLS {
                self.call().await;
            }
        };
        soon_enough("calls", calls).await;
        let probe = "GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let answer = soon("a probe", ask(self.status.listeners.admin[0], probe)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let mut client = Client::connect(self.status.listeners.websocket[0]).await;
        client.say("ping").await;
        assert_eq!(client.next_text().await, "pong");
    }

    async fn dropped(&self) -> u64 {
        dropped(&self.status).await
    }
}

/// What the page of metrics says of lines that were dropped.
async fn dropped(status: &Status) -> u64 {
    let request = "GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let page = ask(status.listeners.admin[0], request).await;
    let row = "gateway_websocket_log_lines_dropped_total ";
    let line = page.lines().find_map(|line| line.strip_prefix(row));
    line.expect("it is on the page").parse().unwrap()
}

/// Ends only a test that hangs: ten thousand calls are more than one.
async fn soon_enough<T>(what: &str, future: impl Future<Output = T>) -> T {
    let most = Duration::from_mins(5);
    tokio::time::timeout(most, future).await.unwrap_or_else(|_| panic!("no {what}"))
}

fn fifo(program: &Program) -> std::path::PathBuf {
    let path = program.file("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    path
}

fn reader(path: &Path) -> File {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    File::options().read(true).custom_flags(flags).open(path).unwrap()
}

/// The lines of a log as they come.
fn read(log: impl Read + Send + 'static) -> sync::mpsc::Receiver<Value> {
    let (line, lines) = sync::mpsc::channel();
    std::thread::spawn(move || {
        for text in BufReader::new(log).lines().map_while(Result::ok) {
            let parsed = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"));
            if line.send(parsed).is_err() {
                return;
            }
        }
    });
    lines
}

fn json_lines(log: &str) -> Vec<Value> {
    log.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// Nothing in a field looks as Rust's `Debug` writes it.
fn has_no_debug_text(line: &Value) -> bool {
    line.as_object().unwrap().values().all(|value| {
        let text = value.as_str().unwrap_or_default();
        !["[", "{", "\"", "Some("].iter().any(|beginning| text.starts_with(beginning))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_stops_nobody_and_tells_what_it_lost() {
    for to_stderr in [true, false] {
        let mut stalled = Stalled::new(to_stderr).await;
        stalled.fill().await;
        let dropped = stalled.dropped().await;
        assert!(dropped > 100, "{dropped}");

        let mut program = stalled.program;
        let lines = read(File::from(stalled.log));
        let mut audited = 0;
        let told = loop {
            let line = lines.recv_timeout(Duration::from_mins(1)).unwrap();
            audited += u64::from(line["target"] == "gateway_websocket::audit");
            if line["dropped"].is_u64() {
                break line;
            }
        };
        let message = "log lines were dropped because the log's reader stood still";
        assert_eq!(told["message"], format!("{dropped} {message}"));
        assert_eq!((&told["dropped"], &told["level"]), (&dropped.into(), &"WARN".into()));
        program.signal("TERM");
        assert_eq!(program.ended().await, Some(0));
        let after: Vec<Value> = lines.iter().collect();
        audited +=
            after.iter().filter(|line| line["target"] == "gateway_websocket::audit").count() as u64;
        assert_eq!(audited + dropped, CALLS);
        assert_eq!(after.last().unwrap()["message"], "stopped");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_does_not_keep_the_process() {
    for to_stderr in [true, false] {
        let mut stalled = Stalled::new(to_stderr).await;
        stalled.fill().await;
        let mut program = stalled.program;
        // A reload opens the log anew and waits for it as little.
        program.signal("HUP");
        let begun = Instant::now();
        program.signal("TERM");
        assert_eq!(program.ended().await, Some(0));
        assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", begun.elapsed());
        drop(stalled.log);
    }
}

#[tokio::test]
async fn a_full_disk_costs_lines_and_nothing_else() {
    let mut program = Program::new();
    let status = program.serve(&["--set", "log.file=/dev/full"]).await;
    Client::connect(status.listeners.websocket[0]).await;
    let counted = async { while dropped(&status).await == 0 {} };
    soon("a count", counted).await;
    program.signal("TERM");
    assert_eq!(program.ended().await, Some(0));
}

/// The case of `log.queue_bytes` in `effects`.
pub async fn more_room_means_fewer_lines_dropped() {
    let mut program = Program::new();
    let fifo = fifo(&program);
    let reader = reader(&fifo);
    let fifo = fifo.display();
    let toml = |room: &str| format!("log.file = '{fifo}'\nlog.queue_bytes = \"{room}\"\n");
    let config = program.config(&toml("4 KiB"));
    let status = program.serve(&["--config", &config]).await;
    let grpc = format!("http://{}", status.listeners.grpc[0]);
    let calls = ConnectionsClient::new(Endpoint::from_shared(grpc).unwrap().connect_lazy());
    let mut stalled = Stalled { program, status, calls, log: reader.into() };
    let lost = async {
        while stalled.dropped().await == 0 {
            stalled.call().await;
        }
    };
    soon_enough("lines that are lost", lost).await;
    stalled.program.config(&toml("16 MiB"));
    let said = stalled.program.run(&["--config", &config, "reload"]);
    said.expect(0, &["log.queue_bytes: ", "live"]);
    let before = stalled.dropped().await;
    for _ in 0..500 {
        stalled.call().await;
    }
    assert_eq!(stalled.dropped().await, before);
}

#[tokio::test]
async fn fields_are_text_and_numbers_and_nothing_of_rust() {
    let mut program = Program::new();
    let config = program.config("limits.names = 9\n");
    let arguments = ["--config", &config, "--set", "limits.names=8", "--set", "log.level=debug"];
    program.serve(&arguments).await;
    program.config("limits.names = 0\nlimits.inbox = \"many\"\n");
    program.run(&[&arguments[..], &["reload"]].concat()).expect(1, &["limits.inbox"]);
    program.config("limits.inbox = 77\nlimits.headers = 78\n");
    program.run(&[&arguments[..], &["reload"]].concat()).expect(0, &["limits.inbox"]);
    program.run(&["stop"]).expect(0, &[]);
    program.ended().await;
    let lines = json_lines(&program.log());
    let of = |message: &str| -> Vec<&Value> {
        lines.iter().filter(|line| line["message"].as_str().unwrap().starts_with(message)).collect()
    };
    assert_eq!(of("keys of the file are overridden")[0]["keys"], "limits.names");
    let refused = of("reload refused");
    let faults: Vec<_> = refused.iter().map(|line| line["fault"].as_str().unwrap()).collect();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].contains("gateway.toml: limits.inbox = \"many\": expected"), "{faults:?}");
    assert_eq!(of("configuration reloaded")[0]["changed"], "limits.headers, limits.inbox");
    for line in &lines {
        assert!(has_no_debug_text(line), "{line}");
    }
}

#[tokio::test]
async fn the_last_line_has_the_form_of_the_others() {
    let program = Program::new();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let set = format!("grpc.listen={address}");
    let said = program.run(&["--set", &set, "serve"]);
    said.expect(1, &[]);
    let lines = json_lines(&said.err);
    let last = lines.last().unwrap();
    assert_eq!((&last["message"], &last["level"]), (&"the gateway failed".into(), &"ERROR".into()));
    assert!(last["error"].as_str().unwrap().contains(&address), "{last}");

    let said = program.run(&["--set", &set, "--set", "log.format=human", "serve"]);
    let last = said.err.lines().last().unwrap();
    assert!(last.contains("ERROR") && last.contains("the gateway failed"), "{last}");
    assert!(last.contains(&address) && !last.contains('\x1b'), "{last}");

    // With a log of its own, a person at the terminal is told in plain words.
    let log = program.file("own.log");
    let file = format!("log.file={}", log.display());
    let said = program.run(&["--set", &set, "--set", &file, "serve"]);
    assert!(said.err.starts_with("gateway-websocket: cannot listen"), "{said:?}");
    let lines = json_lines(&std::fs::read_to_string(&log).unwrap());
    assert_eq!(lines.last().unwrap()["message"], "the gateway failed");
}

#[tokio::test]
async fn the_journal_gets_priorities_and_no_time() {
    let mut program = Program::new();
    let log = File::create(program.file("log")).unwrap();
    let found = log.metadata().unwrap();
    let mut command = program.command(&[]);
    command.env("JOURNAL_STREAM", format!("{}:{}", found.dev(), found.ino())).stderr(log);
    program.spawn_as_is(command).await;
    program.config("limits.names = 0\n");
    program.signal("TERM");
    assert_eq!(program.ended().await, Some(0));
    let log = program.log();
    let stopped = log.lines().last().unwrap();
    assert_eq!(stopped.trim_end(), "<6> INFO gateway_websocket::app::supervise: stopped", "{log}");
    for line in log.lines() {
        let levels = ["<3>ERROR ", "<4> WARN ", "<6> INFO "];
        assert!(levels.iter().any(|level| line.starts_with(level)), "{line}");
    }
    assert!(!log.contains('\x1b'), "{log}");
}

#[tokio::test]
async fn the_log_is_opened_anew_whatever_is_wrong_with_the_settings() {
    let mut program = Program::new();
    let log = program.file("gateway.log");
    let toml = format!("log.file = '{}'\n", log.display());
    let config = program.config(&toml);
    program.serve(&["--config", &config]).await;
    let rotated = program.file("gateway.log.1");
    std::fs::rename(&log, &rotated).unwrap();
    program.config(&format!("{toml}limits.names = 0\n"));
    program.signal("HUP");
    let line = |file: &Path, words: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().any(|line| line.contains(words))
    };
    let reopened = async {
        while !line(&log, "reload refused") {
            tokio::time::sleep(Duration::from_millis(20)).await; // a file tells nobody
        }
    };
    soon("the new file", reopened).await;
    assert!(line(&rotated, "\"ready\"") && !line(&rotated, "reload refused"));
    assert_eq!(program.status().config.faults.len(), 1);
}

#[tokio::test]
async fn a_subscriber_that_comes_and_goes_is_told_once_each() {
    let mut program = Program::new();
    let status = program.serve(&["--set", "events.groups=orders"]).await;
    let grpc = format!("http://{}", status.listeners.grpc[0]);
    let channel = Endpoint::from_shared(grpc).unwrap().connect_lazy();
    let start = SubscribeRequest {
        step: Some(Step::Start(SubscribeStart {
            group: "orders".to_owned(),
            ..SubscribeStart::default()
        })),
    };
    let (say, requests) = mpsc::channel(1);
    say.send(start).await.unwrap();
    let requests = ReceiverStream::new(requests);
    let mut calls = EventsClient::new(channel);
    let mut answers = calls.subscribe(requests).await.unwrap().into_inner();
    answers.message().await.unwrap().expect("hello");
    let mut client = Client::connect(status.listeners.websocket[0]).await;
    client.say("events are no lines").await;
    drop((answers, say, calls));
    let left = async {
        while !program.log().contains("subscriber left") {
            tokio::time::sleep(Duration::from_millis(20)).await; // a file tells nobody
        }
    };
    soon("the line", left).await;
    let lines = json_lines(&program.log());
    let told: Vec<_> =
        lines.iter().filter(|line| line["message"].to_string().contains("subscriber")).collect();
    let [joined, left] = &told[..] else { panic!("{told:?}") };
    assert_eq!(
        (&joined["message"], &left["message"]),
        (&"subscriber joined".into(), &"subscriber left".into())
    );
    assert_eq!(left["why"], "it hung up");
    for line in [joined, left] {
        assert_eq!((&line["group"], &line["level"]), (&"orders".into(), &"INFO".into()));
        assert!(line["caller"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
}
