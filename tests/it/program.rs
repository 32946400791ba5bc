//! The real program as a child process: started on ports and a control socket of its own, and
//! ended whatever becomes of the test.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use gateway_websocket::status::Status;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Duration, sleep};

/// Only ends a test that would hang.
const HANG: u32 = 1200;

/// Ports of the gateway's own.
const OWN: &[&str] = &[
    "--set",
    "websocket.listen=127.0.0.1:0",
    "--set",
    "grpc.listen=127.0.0.1:0",
    "--set",
    "admin.listen=127.0.0.1:0",
];

/// A place for one gateway: its control socket, its settings, and the processes it leaves behind.
pub struct Program {
    directory: tempfile::TempDir,
    children: Vec<Child>,
}

impl Program {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), children: Vec::new() }
    }

    /// A file in the program's own directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a configuration file and answers its path as text.
    pub fn config(&self, toml: &str) -> String {
        let path = self.file("gateway.toml");
        std::fs::write(&path, toml).unwrap();
        path.display().to_string()
    }

    /// The command, on ports of its own, not started yet. It reloads only when told to, so that a
    /// test knows when.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.bare_command(&[OWN, &["--set", "reload.watch=false"], arguments].concat())
    }

    /// The command, on ports of its own, not started yet. It reloads when its files change.
    pub fn watching_command(&self, arguments: &[&str]) -> Command {
        self.bare_command(&[OWN, arguments].concat())
    }

    /// The command, on whatever addresses it is told. Settings of the machine are left out.
    pub fn bare_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gateway-websocket"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("GWS_") {
                command.env_remove(name);
            }
        }
        command.arg("--socket").arg(self.file("control.sock")).args(arguments);
        command
    }

    /// Runs a command to its end; answers exit code and what it said.
    pub fn run(&self, arguments: &[&str]) -> Said {
        Said::of(self.command(arguments).stdin(Stdio::null()).output().unwrap())
    }

    /// Runs a command that needs no address to its end.
    pub fn bare_run(&self, arguments: &[&str]) -> Said {
        Said::of(self.bare_command(arguments).stdin(Stdio::null()).output().unwrap())
    }

    /// Starts `serve` as a child and waits until it is in service.
    pub async fn serve(&mut self, arguments: &[&str]) -> Status {
        let command = self.command(arguments);
        self.spawn(command).await
    }

    /// Starts `serve` with at most so many file descriptors.
    pub async fn serve_with_files(&mut self, files: u32) -> Status {
        let gateway = self.command(&[]);
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={files}:{files}")).arg(gateway.get_program());
        command.args(gateway.get_args());
        self.spawn(command).await
    }

    /// Starts a command that serves, and waits until it is in service.
    pub async fn spawn(&mut self, mut command: Command) -> Status {
        let log = std::fs::File::create(self.file("log")).unwrap();
        command.stderr(log);
        self.spawn_as_is(command).await
    }

    /// The same for a command whose standard error is set already.
    pub async fn spawn_as_is(&mut self, mut command: Command) -> Status {
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        self.children.push(child);
        for _ in 0..HANG {
            let said = self.run(&["status", "--json"]);
            if said.code == 0 {
                return serde_json::from_str(&said.out).unwrap();
            }
            if let Some(ended) = self.children.last_mut().unwrap().try_wait().unwrap() {
                panic!("serve ended with {ended}: {}", self.log());
            }
            sleep(Duration::from_millis(50)).await; // the process says nothing when it is ready
        }
        panic!("serve did not become ready: {}", self.log());
    }

    /// The reading end of the child's standard error, if that is a pipe.
    pub fn stderr(&mut self) -> std::process::ChildStderr {
        self.children.last_mut().unwrap().stderr.take().expect("it is a pipe")
    }

    /// What the child wrote to standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    /// What the child has logged by now, all of it: a thread of its own writes the log, so a marker
    /// is sent after it, which the audit logs, and waited for. For a log of level info or more.
    pub fn settled_log(&self) -> String {
        let marker = format!("/v1/marker-{}", self.log().len());
        let mut control = UnixStream::connect(self.file("control.sock")).unwrap();
        let request = format!("POST {marker} HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n");
        control.write_all(request.as_bytes()).unwrap();
        control.read_to_end(&mut Vec::new()).unwrap();
        for _ in 0..HANG {
            let log = self.log();
            if let Some(at) = log.find(&marker) {
                let before = log[..at].rfind('\n').map_or(0, |end| end + 1);
                return log[..before].to_owned();
            }
            std::thread::sleep(Duration::from_millis(5)); // a file tells nobody
        }
        panic!("the marker did not come: {}", self.log());
    }

    /// The picture that `status --json` gives.
    pub fn status(&self) -> Status {
        let said = self.run(&["status", "--json"]);
        assert_eq!(said.code, 0, "{said:?}");
        serde_json::from_str(&said.out).unwrap()
    }

    /// Sends a signal to the child.
    pub fn signal(&self, name: &str) {
        let signal = match name {
            "CONT" => Signal::CONT,
            "HUP" => Signal::HUP,
            "INT" => Signal::INT,
            "KILL" => Signal::KILL,
            "STOP" => Signal::STOP,
            "TERM" => Signal::TERM,
            _ => panic!("no test sends SIG{name} so far"),
        };
        kill_process(Pid::from_child(self.children.last().unwrap()), signal).unwrap();
    }

    /// Waits for the child's end; answers its exit code, none if a signal ended it.
    pub async fn ended(&mut self) -> Option<i32> {
        let child = self.children.last_mut().unwrap();
        for _ in 0..HANG {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            sleep(Duration::from_millis(50)).await; // a child's end can only be asked for
        }
        panic!("the program did not end: {}", self.log());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Detached ones first: they are found through the control socket and end when told to.
        let running = self.run(&["status", "--json"]);
        if let Ok(status) = serde_json::from_str::<Status>(&running.out) {
            let pid = i32::try_from(status.pid).ok().and_then(Pid::from_raw);
            let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
        }
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().expect("no signal ended the command"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Asserts how the command ended and that it said all of these.
    pub fn expect(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for word in words {
            assert!(self.out.contains(word) || self.err.contains(word), "{word:?} not in {self:?}");
        }
    }
}

/// A thread of another process that stands still, as under a debugger, until this is dropped.
pub struct Stopped(Child);

/// Python's own ctypes reach ptrace(2): this project calls no C. SEIZE, then INTERRUPT; when the
/// tracer ends, the thread goes on.
const TRACER: &str = "
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
thread = int(sys.argv[1])
for request in (0x4206, 0x4207):
    if libc.ptrace(request, ctypes.c_long(thread), None, None) != 0:
        sys.exit('ptrace: ' + os.strerror(ctypes.get_errno()))
os.waitpid(thread, 0x40000000)
print('stopped', flush=True)
sys.stdin.read()
";

impl Stopped {
    /// Stops the thread of a process that has this name.
    pub fn named(process: u32, name: &str) -> Self {
        let thread = std::fs::read_dir(format!("/proc/{process}/task")).unwrap().find_map(|task| {
            let task = task.unwrap().path();
            let found = std::fs::read_to_string(task.join("comm")).unwrap();
            (found.trim_end() == name)
                .then(|| task.file_name().unwrap().to_string_lossy().into_owned())
        });
        Self::thread(&thread.unwrap_or_else(|| panic!("there is no thread {name}")))
    }

    /// Stops the thread with this id.
    pub fn thread(id: &str) -> Self {
        use std::io::{BufRead as _, BufReader};
        let mut tracer = Command::new("python3");
        tracer.args(["-c", TRACER, id]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut tracer = tracer.spawn().expect("python3 is installed");
        let mut line = String::new();
        BufReader::new(tracer.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "stopped\n", "the thread can't be stopped");
        Self(tracer)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
