//! What a process has used so far: CPU time, thread by thread, and memory that is its own.
//!
//! CPU time comes from `schedstat`, in nanoseconds: the kernel's clock ticks of 10 ms would be a
//! notable part of what is measured. On the loopback interface a `send(2)` does the receiving side
//! of TCP too, and the kernel bills it to the sender, to the raw loop as well as to the gateway.

use std::{fs, time::Duration};

use crate::Outcome;

/// CPU time, user and system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    pub(crate) process: Duration,
    /// The part of the threads that hold the sockets.
    pub(crate) shards: Duration,
}

impl Cpu {
    /// Of the process, now. Threads that have ended are not in it: nothing that is measured ends
    /// one.
    pub(crate) fn of(pid: u32) -> Outcome<Self> {
        let mut used = Self { process: Duration::ZERO, shards: Duration::ZERO };
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            let schedstat = fs::read_to_string(task.join("schedstat"))?;
            let ran = schedstat.split(' ').next().unwrap_or_default().parse()?;
            let ran = Duration::from_nanos(ran);
            used.process += ran;
            if fs::read_to_string(task.join("comm"))?.starts_with("shard-") {
                used.shards += ran;
            }
        }
        Ok(used)
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            process: self.process.saturating_sub(earlier.process),
            shards: self.shards.saturating_sub(earlier.shards),
        }
    }
}

/// Bytes of memory that the process has written to and that no file stands behind.
pub(crate) fn memory(pid: u32) -> Outcome<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: u64 = line.ok_or("no RssAnon")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}
