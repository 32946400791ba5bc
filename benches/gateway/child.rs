//! Processes of the benchmark: started on a core of their own, spoken to line by line, and ended
//! whatever happens.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio},
};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Outcome;

/// The core of the servers.
pub(crate) const SERVER: usize = 0;
/// The core of the generators and of the publisher.
pub(crate) const CLIENTS: usize = 1;

/// Lets the calling thread, and what it starts from now on, run on these cores only.
pub(crate) fn pin(cores: &[usize]) -> Outcome<()> {
    let mut only = CpuSet::new();
    for &core in cores {
        only.set(core);
    }
    Ok(sched_setaffinity(None, &only)?)
}

/// A running process.
pub(crate) struct Child {
    process: Process,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Child {
    /// Starts the command on `cores`.
    pub(crate) fn start(mut command: Command, cores: &[usize]) -> Outcome<Self> {
        let ours = sched_getaffinity(None)?;
        pin(cores)?;
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        sched_setaffinity(None, &ours)?;
        let mut process = spawned?;
        let stdin = process.stdin.take().ok_or("no standard input")?;
        let stdout = process.stdout.take().ok_or("no standard output")?;
        Ok(Self { process, stdin, stdout: BufReader::new(stdout) })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The next line that the process says.
    pub(crate) fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            return Err("a process of the benchmark ended; what it said stands above".into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// Says a line and waits for the answer.
    pub(crate) fn ask(&mut self, line: &str) -> Outcome<String> {
        writeln!(self.stdin, "{line}")?;
        self.line()
    }

    /// Ends the process at once.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}
