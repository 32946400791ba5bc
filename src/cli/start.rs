//! `start`: runs the gateway in the background and stays until it is known how that went.
//!
//! ```text
//! start ──► serve --detached ──► ready: one JSON line on stdout ──► start prints it, ends with 0
//!   │                       ├──► another was faster: another line ──► start asks that one
//!   │                       └──► not ready: text on stderr, exit code ──► start passes them on
//!   └─ no word within 30 s: ends the child it started, says so
//! ```
//!
//! However many are started at once, one gateway runs in the end, and every `start` returns when it
//! is ready. Nothing of the caller's stays with it: no descriptor, no directory, no terminal.

use std::io::{BufRead as _, BufReader, Read};
use std::os::fd::{BorrowedFd, RawFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use rustix::io::{FdFlags, fcntl_setfd};

use super::announcement::{Announcement, Word};
use super::{Exit, Global, client, complain, complain_of, render, say};
use crate::config::{self, Source};

/// A gateway is ready within milliseconds; what takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of the child's complaints that are passed on.
const COMPLAINTS: u64 = 64 << 10;

/// Starts the gateway, unless it runs already: then that is said, and is no failure.
pub(super) fn run(global: &Global, source: &Source) -> Exit {
    let loaded = match config::load(source, std::env::vars_os()) {
        Ok(loaded) => loaded,
        Err(faults) => return complain_of(&faults),
    };
    if let Err(error) = leave_descriptors_here() {
        complain(&format!("can't start: {error}"));
        return Exit::Failed;
    }
    let socket = loaded.config.control.socket.set().map(PathBuf::as_path);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client::running(socket, PATIENCE) {
            Ok(None) => {}
            Ok(Some(running)) => {
                if let Some(refusal) = client::refusal(source, socket) {
                    complain(&format!("not started: {refusal}"));
                    return Exit::Failed;
                }
                say(&format!("already running: {running}"));
                return Exit::Done;
            }
            Err(problem) => {
                complain(&problem.to_string());
                return Exit::Failed;
            }
        }
        let child = match command(global).and_then(|mut command| command.spawn()) {
            Ok(child) => child,
            Err(error) => {
                complain(&format!("can't start: {error}"));
                return Exit::Failed;
            }
        };
        let outcome = watch(child, PATIENCE);
        match &outcome {
            // It is asked whether it gets ready; if it doesn't, it is our turn again.
            Outcome::AlreadyRunning { .. } if Instant::now() < deadline => continue,
            Outcome::Ready(announcement) => {
                say(&render::started(announcement, &loaded.config.log.file));
            }
            _ => {}
        }
        return outcome.report();
    }
}

/// Closes what the caller has open as soon as another program runs: a lock, a pipe or a listener of
/// its own is nothing that the gateway should hold for months. Standard streams are replaced. To be
/// called before any thread is started.
fn leave_descriptors_here() -> io::Result<()> {
    // Not close_range(2) with CLOSE_RANGE_CLOEXEC, which older kernels refuse.
    for entry in fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        if let Some(number) = number.filter(|number| *number > 2) {
            mark(number)?;
        }
    }
    Ok(())
}

#[expect(unsafe_code, reason = "what was inherited is only a number")]
fn mark(number: RawFd) -> io::Result<()> {
    // SAFETY: the number was just listed as open, and no other thread of this program, if the allocator
    // has any, closes descriptors. The flag matters to nobody in this process.
    let inherited = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(fcntl_setfd(inherited, FdFlags::CLOEXEC)?)
}

/// This program again, with the same configuration.
fn command(global: &Global) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", "--detached"]);
    if let Some(file) = &global.config {
        command.arg("--config").arg(file);
    }
    // In one word each, so that a value that begins with a dash stays a value.
    command.args(global.set.iter().map(|set| format!("--set={set}")));
    command.args(global.socket.iter().map(|socket| format!("--socket={socket}")));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// How a start went.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Ready(Announcement),
    AlreadyRunning { pid: u32 },
    Ended { code: Option<i32>, complaints: String },
    Stuck { complaints: String },
    Lost(String),
}

impl Outcome {
    /// Says what went wrong, if anything.
    fn report(self) -> Exit {
        match self {
            Self::Ready(_) => Exit::Done,
            Self::AlreadyRunning { pid } => {
                say(&format!("already running: pid {pid}"));
                Exit::Done
            }
            Self::Ended { code, complaints } => {
                if complaints.trim().is_empty() {
                    complain("the gateway ended before it was ready, without a word");
                } else {
                    // Its lines carry the program's name already.
                    eprint!("{complaints}");
                }
                let bad_config = i32::from(Exit::BadConfig.code());
                if code == Some(bad_config) { Exit::BadConfig } else { Exit::Failed }
            }
            Self::Stuck { complaints } => {
                let patience = PATIENCE.as_secs();
                complain(&format!("not ready within {patience} s; ended it again\n{complaints}"));
                Exit::Failed
            }
            Self::Lost(error) => {
                complain(&error);
                Exit::Failed
            }
        }
    }
}

/// Waits for the child's word or its end, whichever comes first.
fn watch(mut child: Child, patience: Duration) -> Outcome {
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Outcome::Lost("the child's output can't be read".to_owned());
    };
    let (word, heard) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        // At the end of the stream the line is empty, which is no announcement.
        let _ = BufReader::new(stdout.take(COMPLAINTS)).read_line(&mut line);
        let _ = word.send(serde_json::from_str(&line).ok());
    });
    let complaints = thread::spawn(move || read_text(stderr));

    match heard.recv_timeout(patience) {
        Ok(Some(Word::Ready(announcement))) => Outcome::Ready(announcement),
        Ok(Some(Word::AlreadyRunning { pid })) => {
            let _ = child.wait();
            Outcome::AlreadyRunning { pid }
        }
        // It closed its output, so it is ending.
        Ok(None) | Err(mpsc::RecvTimeoutError::Disconnected) => match child.wait() {
            Ok(status) => Outcome::Ended {
                code: status.code(),
                complaints: complaints.join().unwrap_or_default(),
            },
            Err(error) => Outcome::Lost(format!("can't wait for the gateway: {error}")),
        },
        Err(mpsc::RecvTimeoutError::Timeout) => {
            let _ = child.kill();
            let _ = child.wait();
            Outcome::Stuck { complaints: complaints.join().unwrap_or_default() }
        }
    }
}

fn read_text(mut from: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = from.by_ref().take(COMPLAINTS).read_to_end(&mut bytes);
    // The rest is read too, or the child would wait for ever to say it.
    let _ = io::copy(&mut from, &mut io::sink());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Listeners;

    fn shell(script: &str, patience: Duration) -> Outcome {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        watch(command.spawn().unwrap(), patience)
    }

    #[test]
    fn a_child_that_announces_itself_is_ready() {
        let announcement = Announcement { pid: 7, listeners: Listeners::default() };
        let line = serde_json::to_string(&Word::Ready(announcement.clone())).unwrap();
        let outcome = shell(&format!("echo '{line}'"), PATIENCE);
        assert_eq!(outcome, Outcome::Ready(announcement));
        assert_eq!(outcome.report(), Exit::Done);
    }

    #[test]
    fn the_end_of_a_child_is_reported_with_its_reason_and_code() {
        let outcome = shell("echo reason >&2; exit 78", PATIENCE);
        let complaints = "reason\n".to_owned();
        assert_eq!(outcome, Outcome::Ended { code: Some(78), complaints });
        assert_eq!(outcome.report(), Exit::BadConfig);
        assert_eq!(shell("exit 4", PATIENCE).report(), Exit::Failed);
    }

    #[test]
    fn a_child_that_says_nothing_is_ended() {
        let outcome = shell("exec sleep 60", Duration::from_millis(20));
        assert_eq!(outcome, Outcome::Stuck { complaints: String::new() });
    }
}
