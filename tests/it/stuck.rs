//! Commands against a gateway that gives no answer: they end, say what is known of the process, and
//! what to do.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::program::{Program, Said};

/// A process that stands still until this is dropped.
struct Frozen(Pid);

impl Frozen {
    fn of(pid: u32) -> Self {
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        Self(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// Longer than any command waits for one that shows no sign of life.
const LIMIT: Duration = Duration::from_secs(50);

/// Runs the commands side by side; answers what each said in the end.
async fn side_by_side(program: &Program, commands: &[&[&str]]) -> Vec<Said> {
    let began = Instant::now();
    let mut running = Vec::new();
    for arguments in commands {
        let mut command = program.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let what = arguments.join(" ");
        running.push(tokio::task::spawn_blocking(move || {
            while child.try_wait().unwrap().is_none() {
                if began.elapsed() > LIMIT {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    panic!("{what} waits for ever");
                }
                std::thread::sleep(Duration::from_millis(50)); // a child's end can only be asked for
            }
            Said::of(child.wait_with_output().unwrap())
        }));
    }
    let mut said = Vec::new();
    for command in running {
        said.push(command.await.unwrap());
    }
    said
}

const COMMANDS: [&[&str]; 8] = [
    &["status"],
    &["status", "--json"],
    &["health"],
    &["drain"],
    &["drain", "--wait"],
    &["reload"],
    &["stop"],
    &["start"],
];

#[tokio::test]
async fn a_process_that_stands_still_is_named_with_what_lets_it_go_on() {
    let mut program = Program::new();
    let pid = program.serve(&[]).await.pid;
    let frozen = Frozen::of(pid);
    let all = side_by_side(&program, &COMMANDS).await;
    drop(frozen);
    assert_eq!(all.len(), COMMANDS.len());
    for said in all {
        let words = ["no answer", &format!("kill -CONT {pid}"), &format!("kill -9 {pid}")];
        said.expect(1, &words);
        assert_eq!(said.out, "", "{said:?}");
    }
}

#[tokio::test]
async fn a_socket_that_nobody_serves_holds_no_command_up() {
    let program = Program::new();
    let _listener = std::os::unix::net::UnixListener::bind(program.file("control.sock")).unwrap();
    for said in side_by_side(&program, &COMMANDS).await {
        said.expect(1, &["no answer", &format!("look at process {}", std::process::id())]);
    }
}

#[tokio::test]
async fn a_socket_whose_queue_is_full_holds_no_command_up() {
    let program = Program::new();
    let path = program.file("control.sock");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let _first = std::os::unix::net::UnixStream::connect(&path).unwrap();
    for said in side_by_side(&program, &COMMANDS).await {
        said.expect(1, &["no answer", "fuser ", &path.display().to_string()]);
    }
}
