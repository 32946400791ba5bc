//! `start`: a gateway in the background takes nothing of its caller along, there is one of it however
//! many are started, and whoever may start it can stop it.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpListener;

use crate::{
    client::Client,
    program::{Program, Said},
    site::until,
};

/// What the process has open, and where it is.
fn held(pid: u32) -> Vec<PathBuf> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let files = fs::read_dir(process.join("fd")).unwrap();
    let files = files.filter_map(|file| fs::read_link(file.unwrap().path()).ok());
    files.chain([fs::read_link(process.join("cwd")).unwrap()]).collect()
}

#[tokio::test]
async fn nothing_of_the_caller_is_held() {
    let program = Program::new();
    let start = program.command(&["start"]);
    let mut caller = Command::new("sh");
    // A lock, and a pipe of which the other end waits for its end.
    let script =
        "exec 7>\"$1/lock\" 8>\"$1/other\"; shift; \"$@\"; code=$?; exec 7>&- 8>&-; exit $code";
    caller.args(["-c", script, "sh"]).arg(program.file("")).arg(start.get_program());
    caller.args(start.get_args()).current_dir(program.file(""));
    Said::of(caller.output().unwrap()).expect(0, &["started"]);
    let pid = program.status().pid;
    let held = held(pid);
    assert!(held.len() > 10, "{held:?}");
    let own = program.file("");
    let of_the_caller: Vec<_> = held.iter().filter(|path| path.starts_with(&own)).collect();
    assert!(of_the_caller.is_empty(), "{of_the_caller:?}");
    assert_eq!(held.last().unwrap(), Path::new("/"));
    program.run(&["stop"]).expect(0, &["stopped"]);
}

#[tokio::test]
async fn relative_paths_mean_the_same_after_the_directory_was_left() {
    let program = Program::new();
    program.config("limits.names = 77\nlog.file = \"gw.log\"\ngrpc.token_files = [\"token\"]\n");
    let token = "0123456789abcdef0123456789abcdef\n";
    fs::write(program.file("token"), token).unwrap();
    fs::set_permissions(program.file("token"), fs::Permissions::from_mode(0o600)).unwrap();
    let here = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gateway-websocket"));
        command.args(["--config", "gateway.toml", "--socket", "control.sock"]).args(arguments);
        for listen in ["websocket", "grpc", "admin"] {
            command.arg("--set").arg(format!("{listen}.listen=127.0.0.1:0"));
        }
        Said::of(command.current_dir(program.file("")).stdin(Stdio::null()).output().unwrap())
    };
    here(&["start"]).expect(0, &["started", "gw.log"]);
    let status = program.status();
    assert_eq!(status.config.file, Some(program.file("gateway.toml")));
    assert_eq!(held(status.pid).last().unwrap(), Path::new("/"));
    assert!(fs::read_to_string(program.file("gw.log")).unwrap().contains("ready"));

    program.config("limits.names = 78\nlog.file = \"gw2.log\"\ngrpc.token_files = [\"token\"]\n");
    // It may have seen so by itself already.
    here(&["reload"]).expect(0, &[]);
    let status = program.status();
    assert!(status.config.faults.is_empty() && status.config.pending.is_empty(), "{status:?}");
    assert!(program.file("gw2.log").exists());
    here(&["status"]).expect(0, &["in service"]);
    here(&["stop"]).expect(0, &["stopped"]);
    program.run(&["status"]).expect(3, &[]);
}

/// Runs `start` so many times at once.
fn start_at_once(program: &Program, count: usize, arguments: &[&str]) -> Vec<Said> {
    let start = || {
        let mut command = program.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let children: Vec<_> = (0..count).map(|_| start()).collect();
    children.into_iter().map(|child| Said::of(child.wait_with_output().unwrap())).collect()
}

#[tokio::test]
async fn of_eight_starts_at_once_one_runs_and_all_say_so() {
    let program = Program::new();
    let said = start_at_once(&program, 8, &["start"]);
    let pid = program.status().pid;
    let mut started = 0;
    for said in &said {
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
        if said.out.starts_with("started") {
            started += 1;
        } else {
            let version = env!("CARGO_PKG_VERSION");
            assert_eq!(said.out, format!("already running: pid {pid}, version {version}\n"));
        }
    }
    assert_eq!(started, 1, "{said:?}");
    program.run(&["stop"]).expect(0, &["stopped"]);
}

#[tokio::test]
async fn of_several_starts_that_must_fail_each_says_why() {
    let program = Program::new();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = start_at_once(&program, 4, &["--set", &format!("grpc.listen={address}"), "start"]);
    assert_eq!(said.len(), 4);
    for said in said {
        said.expect(1, &["grpc.listen", &address, "in use"]);
    }
    program.run(&["status"]).expect(3, &[]);
}

/// An ordinary user without a directory of its own, and the program where that user may run it.
struct Stranger {
    uid: u32,
    directory: tempfile::TempDir,
}

/// How many there have been.
static USERS: AtomicU32 = AtomicU32::new(0);

impl Stranger {
    /// None where the tests don't run as root and so can't be somebody else: then it is said loudly.
    fn new(what: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("\n*** NOT TESTED, as only root can act as another user: {what} ***\n");
            return None;
        }
        // Nobody's, and another one in each test process.
        let number = USERS.fetch_add(1, Ordering::Relaxed);
        let uid = 1_000_000 + std::process::id() * 4 + number;
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = directory.path().join("gateway-websocket");
        fs::copy(env!("CARGO_BIN_EXE_gateway-websocket"), &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let stranger = Self { uid, directory };
        assert!(!stranger.place().exists(), "{} is left over", stranger.place().display());
        Some(stranger)
    }

    /// Where its control socket is to be.
    fn place(&self) -> PathBuf {
        PathBuf::from(format!("/tmp/gateway-websocket-{}", self.uid))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.directory.path().join("gateway-websocket"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("GWS_") || name.ends_with("RUNTIME_DIR") {
                command.env_remove(&*name);
            }
        }
        for listen in ["websocket", "grpc", "admin"] {
            command.arg("--set").arg(format!("{listen}.listen=127.0.0.1:0"));
        }
        command.args(arguments).env_remove("RUNTIME_DIRECTORY").stdin(Stdio::null());
        command.uid(self.uid).gid(self.uid).current_dir("/");
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        Said::of(self.command(arguments).output().unwrap())
    }

    /// Processes of the user that run now. One that has ended stays in the list until somebody asks how
    /// it ended, which in a container without an init process nobody does.
    fn processes(&self) -> Vec<Pid> {
        let all = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap());
        let runs = |it: &fs::DirEntry| {
            let stat = fs::read_to_string(it.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
        };
        let own =
            all.filter(|it| it.metadata().is_ok_and(|found| found.uid() == self.uid) && runs(it));
        own.filter_map(|it| Pid::from_raw(it.file_name().to_str()?.parse().ok()?)).collect()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        // The user is this test's alone, and so is all that it runs.
        for process in self.processes() {
            let _ = kill_process(process, Signal::KILL);
        }
        if let Ok(found) = fs::symlink_metadata(self.place()) {
            if found.is_dir() {
                let _ = fs::remove_dir_all(self.place());
            } else {
                let _ = fs::remove_file(self.place());
            }
        }
    }
}

#[tokio::test]
async fn a_user_without_a_runtime_directory_can_stop_what_it_started() {
    let Some(stranger) = Stranger::new("a control socket in /tmp") else { return };
    let place = stranger.place().display().to_string();
    stranger.run(&["status"]).expect(3, &["not running", &place]);
    stranger.run(&["start"]).expect(0, &["started", &place]);
    let found = fs::symlink_metadata(stranger.place()).unwrap();
    assert_eq!((found.mode() & 0o7777, found.uid()), (0o700, stranger.uid));
    stranger.run(&["start"]).expect(0, &["already running"]);
    let said = stranger.run(&["status", "--json"]);
    said.expect(0, &[]);
    let status: gateway_websocket::status::Status = serde_json::from_str(&said.out).unwrap();
    Client::connect(status.listeners.websocket[0]).await;
    stranger.run(&["health"]).expect(0, &["ready"]);
    stranger.run(&["reload"]).expect(0, &["nothing changed"]);
    stranger.run(&["stop"]).expect(0, &["stopped"]);
    until("the end", async || stranger.processes().is_empty()).await;
    stranger.run(&["status"]).expect(3, &["not running"]);
}

#[tokio::test]
async fn a_directory_that_somebody_else_laid_out_is_refused() {
    let Some(stranger) = Stranger::new("traps for a control socket in /tmp") else { return };
    let trap = stranger.directory.path().join("trap");
    fs::create_dir(&trap).unwrap();
    std::os::unix::fs::chown(&trap, Some(stranger.uid), Some(stranger.uid)).unwrap();
    fs::set_permissions(&trap, fs::Permissions::from_mode(0o700)).unwrap();
    let own = |owner: u32, mode| {
        fs::create_dir(stranger.place()).unwrap();
        fs::set_permissions(stranger.place(), fs::Permissions::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(stranger.place(), Some(owner), Some(owner)).unwrap();
    };
    let symlinked = || symlink(&trap, stranger.place()).unwrap();
    let traps: [(&dyn Fn(), &str); 3] = [
        (&symlinked, "no directory"),
        (&|| own(stranger.uid, 0o777), "mode 0777"),
        (&|| own(0, 0o777), "belongs to uid 0"),
    ];
    for (lay, fault) in traps {
        lay();
        // Nobody could stop it, so it is not started.
        stranger.run(&["start"]).expect(1, &[fault, "control.socket"]);
        assert_eq!(stranger.processes(), []);
        for command in ["status", "stop", "drain", "health"] {
            stranger.run(&[command]).expect(1, &[fault]);
        }
        let place = stranger.place();
        let _ = fs::remove_file(&place).or_else(|_| fs::remove_dir(&place));
    }
    assert_eq!(fs::read_dir(&trap).unwrap().count(), 0, "nothing was put into the trap");
}
