//! What the kernel says of the process: time, memory, descriptors.
//!
//! Only `/proc/self` is read, which is there under systemd's `ProcSubset=pid` too.

use std::{fs, time::SystemTime};

use rustix::{
    param::page_size,
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

/// What the process uses.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// CPU time of all threads, user and system, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Virtual memory in bytes.
    pub virtual_bytes: u64,
    /// Open file descriptors.
    pub open_files: u64,
    /// File descriptors it may open; none is no limit.
    pub most_files: Option<u64>,
}

impl Process {
    /// Asks the kernel. On kernels before 6.2 this takes a moment for each open descriptor.
    pub fn now() -> Self {
        let [virtual_bytes, resident_bytes] = memory();
        Self {
            cpu_seconds: cpu_seconds(),
            resident_bytes,
            virtual_bytes,
            open_files: open_files(),
            most_files: getrlimit(Resource::Nofile).current,
        }
    }

    /// Seconds from 1970-01-01 UTC until now, as exact as the clock.
    pub fn clock() -> f64 {
        SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |since| since.as_secs_f64())
    }
}

/// CPU time of all threads, user and system.
pub fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    #[expect(clippy::cast_precision_loss, reason = "a picture, and exact for 285 million years")]
    let seconds = time.tv_sec as f64;
    #[expect(clippy::cast_precision_loss, reason = "below 10^9, which a double holds exactly")]
    let rest = time.tv_nsec as f64 / 1e9;
    seconds + rest
}

/// Resident memory in bytes.
pub fn memory_bytes() -> u64 {
    memory()[1]
}

/// Virtual and resident memory: the first two numbers of `/proc/self/statm`, which are in pages
/// (`proc_pid_statm(5)`).
fn memory() -> [u64; 2] {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = statm.split_ascii_whitespace().map(|pages| pages.parse().unwrap_or(0));
    [(); 2].map(|()| pages.next().unwrap_or(0) * page_size() as u64)
}

/// Newer kernels say it as the size of the directory; for older ones its entries are counted.
fn open_files() -> u64 {
    let size = fs::metadata("/proc/self/fd").map_or(0, |directory| directory.len());
    if size > 0 {
        return size;
    }
    // One of them is the directory that is being read.
    fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_the_process_uses() {
        let _file = fs::File::open("/proc/self/statm").unwrap();
        let process = Process::now();
        assert!(process.cpu_seconds > 0.0);
        assert!(process.resident_bytes > 1 << 16);
        assert!(process.virtual_bytes >= process.resident_bytes);
        assert!(process.open_files >= 4);
        assert!(process.most_files.is_none_or(|most| most >= process.open_files));
        assert!(Process::clock() > 1.7e9);
    }
}
