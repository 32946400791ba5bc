//! The real program, run as an operator runs it: arguments, a file, signals, an exit code.
//!
//! A [`Place`] is a directory of its own with a configuration file and a control socket. Whatever
//! runs in it ends with it, detached processes too: they are known by the directory's name on
//! their command line, which nobody else has.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use gateway_websocket::{grpc::proto, status::Status};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};

use crate::client::{Client, soon};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_gateway-websocket");

/// How often a condition is looked at; nothing depends on its length.
pub const LOOK: Duration = Duration::from_millis(5);

/// Where a gateway of the test lives.
pub struct Place {
    directory: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// A gateway in the foreground, killed on drop if it still runs.
pub struct Running {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    pub websocket: SocketAddr,
    pub grpc: SocketAddr,
}

impl Place {
    /// A place whose file sets free ports, a socket of its own and a drain without a window.
    pub fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        place.configure(&[]);
        place
    }

    /// Writes the configuration: `section.key = value` lines, which win over the place's own.
    pub fn configure(&self, lines: &[&str]) {
        let own = [
            "shards = 2".to_owned(),
            "websocket.listen = \"127.0.0.1:0\"".to_owned(),
            "grpc.listen = \"127.0.0.1:0\"".to_owned(),
            "admin.listen = \"127.0.0.1:0\"".to_owned(),
            format!("control.socket = \"{}\"", self.socket().display()),
            "drain.window = \"0s\"".to_owned(),
        ];
        let key = |line: &str| line.split('=').next().unwrap().trim().to_owned();
        let kept = own.iter().filter(|own| lines.iter().all(|line| key(line) != key(own)));
        let text: Vec<&str> = kept.map(String::as_str).chain(lines.iter().copied()).collect();
        fs::write(self.file(), text.join("\n")).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn file(&self) -> PathBuf {
        self.path().join("gateway.toml")
    }

    pub fn socket(&self) -> PathBuf {
        self.path().join("control.sock")
    }

    /// The program with the place's file and an empty environment.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.env_clear().args(args).arg("--config").arg(self.file()).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub async fn run(&self, args: &[&str]) -> Outcome {
        run(self.command(args)).await
    }

    /// Runs the gateway in the foreground; returns when it says that it is ready.
    pub async fn serve(&self, args: &[&str]) -> Running {
        Running::of(self.command(args)).await
    }

    /// What `status --json` says.
    pub async fn status(&self) -> Status {
        let outcome = self.run(&["status", "--json"]).await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        serde_json::from_str(&outcome.out).expect("status --json is JSON")
    }

    /// Looks at the status until it is as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) {
        let looking = async {
            while !wanted(&self.status().await) {
                tokio::time::sleep(LOOK).await;
            }
        };
        soon(what, looking).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mark = self.path().as_os_str().as_encoded_bytes();
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(pid) = pid.and_then(Pid::from_raw) else { continue };
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            if line.windows(mark.len()).any(|part| part == mark) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Runs any command to its end.
pub async fn run(mut command: Command) -> Outcome {
    let name = format!("the end of {command:?}");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = soon(&name, output).await.unwrap();
    Outcome {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Outcome {
    /// Asserts the exit code, and each of the words in what was printed.
    #[track_caller]
    pub fn expect(&self, code: i32, out: &[&str], err: &[&str]) -> &Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        for words in out {
            assert!(self.out.contains(words), "{words:?} on stdout: {self:?}");
        }
        for words in err {
            assert!(self.err.contains(words), "{words:?} on stderr: {self:?}");
        }
        self
    }

    /// The last word of the row of a table that begins with `name`.
    pub fn row(&self, name: &str) -> &str {
        let row = self.out.lines().find(|line| line.starts_with(name));
        let row = row.unwrap_or_else(|| panic!("a row {name:?}: {self:?}"));
        row.split_whitespace().last().unwrap()
    }
}

impl Running {
    /// Starts the command and waits for its word that it is ready.
    pub async fn of(command: Command) -> Self {
        Self::after(&[], command).await
    }

    /// Like [`of`](Self::of), when something else has to be said before.
    pub async fn after(messages: &[&str], mut command: Command) -> Self {
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        // A terminal's Ctrl-C is the test runner's business, not the gateway's.
        command.process_group(0);
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut running = Self { child, lines, websocket: nowhere, grpc: nowhere };
        for message in messages {
            running.logged(message).await;
        }
        let ready = running.logged("ready").await;
        let address = |name: &str| {
            let list = ready[name].as_str().unwrap().trim_matches(['[', ']']);
            list.parse().unwrap_or_else(|_| panic!("one address: {list}"))
        };
        (running.websocket, running.grpc) = (address("websocket"), address("grpc"));
        running
    }

    /// The next line of the log with this message.
    pub async fn logged(&mut self, message: &str) -> Value {
        let mut others = String::new();
        let reading = async {
            while let Some(line) = self.lines.recv().await {
                let value: Value = serde_json::from_str(&line).unwrap_or_default();
                if value["message"].as_str().is_some_and(|found| found.contains(message)) {
                    return value;
                }
                others.push_str(&line);
                others.push('\n');
            }
            panic!("{message:?} was never logged, but this:\n{others}");
        };
        soon(message, reading).await
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end of the process.
    pub async fn ended(&mut self) -> ExitStatus {
        let waiting = async {
            loop {
                match self.child.try_wait().unwrap() {
                    Some(status) => return status,
                    None => tokio::time::sleep(LOOK).await,
                }
            }
        };
        soon("the end of the gateway", waiting).await
    }

    pub async fn connect(&self) -> Client {
        Client::connect(self.websocket).await
    }

    pub fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.grpc)).unwrap().connect_lazy()
    }

    /// Sends to everybody.
    pub async fn broadcast(&self, message: &str) {
        let request = proto::BroadcastMessageRequest { message: message.into() };
        let mut client =
            proto::broadcast_message_client::BroadcastMessageClient::new(self.channel());
        assert!(client.broadcast_message(request).await.unwrap().into_inner().result);
    }

    /// Binds a uid; answers whether it was accepted.
    pub async fn bind(&self, client: &Client, uid: &str) -> bool {
        let request = proto::ClientBindUidRequest { clientid: client.id().into(), uid: uid.into() };
        let mut stub = proto::client_bind_uid_client::ClientBindUidClient::new(self.channel());
        stub.client_bind_uid(request).await.unwrap().into_inner().result
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a process runs; one that ended and that nobody has waited for does not.
pub fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
