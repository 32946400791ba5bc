//! What the machine gives the process: memory, file descriptors, cores.
//!
//! Looked up once and kept, so that a setting such as `"25%"` means the same all the time. Here too
//! are the methods that turn `auto` and shares into numbers, so that nobody else meets them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{fs, io, thread};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::value::Auto;
use super::{Config, Grpc, Limits};

/// Descriptors that are not clients: listeners, logs, control and gRPC connections, polls.
pub const RESERVED_FILES: u64 = 256;

/// More threads than this help nobody.
pub const MAX_SHARDS: usize = 1024;

/// What is assumed where `/proc` can't be read.
const UNKNOWN_MEMORY: u64 = 1 << 30;

impl Config {
    /// Threads that hold the sockets.
    pub fn resolved_shards(&self) -> usize {
        match self.shards {
            Auto::Auto => cores().clamp(1, MAX_SHARDS),
            Auto::Set(count) => count.clamp(1, MAX_SHARDS),
        }
    }
}

impl Limits {
    /// Clients at once where the process may open `files` descriptors.
    ///
    /// A larger wish is cut to what fits: past that, accepting would fail anyway.
    pub fn max_clients(&self, files: u64) -> usize {
        let room = files.saturating_sub(RESERVED_FILES).max(1);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        match self.max_clients {
            Auto::Auto => room,
            Auto::Set(wish) => wish.min(room),
        }
    }

    /// Bytes that all waiting messages may take.
    pub fn queued_budget(&self) -> u64 {
        self.queued_bytes.resolve(memory())
    }

    /// Bytes that all inbound messages may take that are incomplete or that nobody can hear yet.
    pub fn partial_budget(&self) -> u64 {
        self.partial_bytes.resolve(memory())
    }
}

impl Grpc {
    /// Bytes that all calls may hold.
    pub fn memory_budget(&self) -> u64 {
        self.max_memory.resolve(memory())
    }
}

/// One shard's part of a budget of the process, in bytes.
pub fn share(budget: u64, shards: usize) -> usize {
    usize::try_from(budget).unwrap_or(usize::MAX) / shards.max(1)
}

/// Cores the process may run on.
pub fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
}

/// Descriptors the process may open now.
pub fn files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the number of descriptors the process may open to what it is allowed, and returns it.
pub fn raise_files() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised)?;
    Ok(files())
}

/// Bytes of memory the process may use: the machine's, or its control group's limit if smaller.
pub fn memory() -> u64 {
    static MEMORY: OnceLock<u64> = OnceLock::new();
    *MEMORY.get_or_init(|| {
        let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_memory(&text));
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let limits = limit_files(&groups, Path::new("/sys/fs/cgroup"))
            .into_iter()
            .filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
        limits.chain(machine).min().unwrap_or(UNKNOWN_MEMORY)
    })
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The files that may hold a limit, given `/proc/self/cgroup`: the group's own and its ancestors'.
///
/// Version 2 has one line `0::/path` and says `max` for no limit; version 1 names the controller
/// and says a number larger than any machine. In a container the path may be that of the host, and
/// only the root of the mount exists: ancestors cover that too.
fn limit_files(groups: &str, mount: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (root, name) = if controllers.is_empty() {
            (mount.to_path_buf(), "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            (mount.join("memory"), "memory.limit_in_bytes")
        } else {
            continue;
        };
        let group = Path::new(group.trim_start_matches('/'));
        files.extend(group.ancestors().map(|part| root.join(part).join(name)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_memory_cores_and_descriptors() {
        assert!(memory() > 1 << 20);
        assert!(cores() >= 1);
        let raised = raise_files().unwrap();
        assert_eq!(files(), raised);
        assert!(raised > RESERVED_FILES);
    }

    #[test]
    fn total_memory_is_read_in_bytes() {
        let text = "MemFree: 1 kB\nMemTotal:       16308844 kB\n";
        assert_eq!(total_memory(text), Some(16_308_844 * 1024));
        assert_eq!(total_memory("MemTotal: many kB"), None);
        assert_eq!(total_memory(""), None);
    }

    #[test]
    fn both_versions_of_control_groups_are_asked_up_to_the_root() {
        let mount = Path::new("/c");
        let two = limit_files("0::/system.slice/gateway.service\n", mount);
        assert_eq!(
            two,
            [
                "/c/system.slice/gateway.service/memory.max",
                "/c/system.slice/memory.max",
                "/c/memory.max",
            ]
            .map(PathBuf::from)
        );
        let one = limit_files("5:cpu,memory:/docker/x\n4:pids:/docker/x\nnonsense\n", mount);
        assert_eq!(one.len(), 3);
        assert_eq!(one[2], Path::new("/c/memory/memory.limit_in_bytes"));
        assert_eq!(limit_files("0::/\n", mount), [PathBuf::from("/c/memory.max")]);
    }

    #[test]
    fn auto_becomes_a_number() {
        let mut config = Config::default();
        assert!(config.resolved_shards() >= 1);
        config.shards = Auto::Set(3);
        assert_eq!(config.resolved_shards(), 3);

        assert_eq!(config.limits.max_clients(20_000), 19_744);
        assert_eq!(config.limits.max_clients(10), 1);
        config.limits.max_clients = Auto::Set(100);
        assert_eq!(config.limits.max_clients(20_000), 100);
        config.limits.max_clients = Auto::Set(1_000_000);
        assert_eq!(config.limits.max_clients(20_000), 19_744);
        assert_eq!(config.limits.queued_budget(), memory() / 100 * 25);
    }
}
