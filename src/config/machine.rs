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

/// Descriptors that the process keeps for itself: listeners, the log, the runtime, what a reload
/// opens, the connections to back ends.
const OWN_FILES: usize = 64;

/// Descriptors of one shard: its poll and its waker.
const SHARD_FILES: usize = 2;

/// Connections of the admin port at once, where there are descriptors enough.
const ADMIN_CONNECTIONS: usize = 64;

/// Connections of the control socket at once, where there are descriptors enough.
const CONTROL_CONNECTIONS: usize = 32;

/// One in so many descriptors is the most that a surface gets beside the clients.
const HANDSHAKE_PART: usize = 4;
const GRPC_PART: usize = 8;
const ADMIN_PART: usize = 16;
const CONTROL_PART: usize = 32;

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

    /// What each surface may have at once where the process may open `files` descriptors.
    ///
    /// Larger wishes are cut to what fits, so that no surface can take another's descriptors.
    pub fn places(&self, files: u64) -> Places {
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        let part = |wish: usize, part: usize| wish.min(files / part).max(1);
        let admin = part(ADMIN_CONNECTIONS, ADMIN_PART);
        let control = part(CONTROL_CONNECTIONS, CONTROL_PART);
        let grpc = part(self.grpc.max_connections, GRPC_PART);
        let handshakes = part(self.limits.max_handshakes, HANDSHAKE_PART);
        let room = files.saturating_sub(self.own_files() + admin + control + grpc + handshakes);
        let clients = match self.limits.max_clients {
            Auto::Auto => room,
            Auto::Set(wish) => wish.min(room),
        };
        Places { clients: clients.max(1), handshakes, grpc, admin, control }
    }

    /// Descriptors with which no wish is cut; with `limits.max_clients = "auto"` there is no wish of
    /// clients.
    pub fn wanted_files(&self) -> u64 {
        let (grpc, handshakes) = (self.grpc.max_connections, self.limits.max_handshakes);
        let clients = match self.limits.max_clients {
            Auto::Auto => 1,
            Auto::Set(wish) => wish,
        };
        let parts = [
            (ADMIN_CONNECTIONS, ADMIN_PART),
            (CONTROL_CONNECTIONS, CONTROL_PART),
            (grpc, GRPC_PART),
            (handshakes, HANDSHAKE_PART),
        ];
        let parts = parts.iter().map(|(wish, part)| wish.saturating_mul(*part)).max();
        let others = [ADMIN_CONNECTIONS, CONTROL_CONNECTIONS, grpc, handshakes, clients];
        let sum = others.into_iter().fold(self.own_files(), usize::saturating_add);
        u64::try_from(sum.max(parts.unwrap_or_default())).unwrap_or(u64::MAX)
    }

    fn own_files(&self) -> usize {
        OWN_FILES + SHARD_FILES * self.resolved_shards()
    }
}

/// How many may be connected at once, by surface. Together they never need more descriptors than
/// the process may open, as long as those are some hundreds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Clients.
    pub clients: usize,
    /// Connections that are to become clients.
    pub handshakes: usize,
    /// Connections of callers.
    pub grpc: usize,
    /// Connections of the admin port.
    pub admin: usize,
    /// Connections of the control socket.
    pub control: usize,
}

impl Limits {
    /// Percent of a surface's places that one address may hold unproved.
    pub fn share(&self) -> usize {
        usize::try_from(self.address_share).unwrap_or(100)
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

/// Descriptors the process may open once it has raised its limit.
pub fn most_files() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
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
        assert!(raised > 256);
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
        assert_eq!(config.limits.queued_budget(), memory() / 100 * 25);
    }

    #[test]
    fn descriptors_are_divided_so_that_no_surface_takes_anothers() {
        let mut config = Config { shards: Auto::Set(3), ..Config::default() };
        let rich = config.places(20_000);
        let all = Places { clients: 18_554, handshakes: 1024, grpc: 256, admin: 64, control: 32 };
        assert_eq!(rich, all);
        let poor = config.places(1024);
        let cut = Places { clients: 474, handshakes: 256, grpc: 128, admin: 64, control: 32 };
        assert_eq!(poor, cut);
        config.limits.max_clients = Auto::Set(100);
        assert_eq!(config.places(20_000).clients, 100);
        config.limits.max_clients = Auto::Set(1_000_000);
        assert_eq!(config.places(20_000).clients, 18_554);
        for files in (256..5000).chain([u64::MAX]) {
            let places = config.places(files);
            let Places { clients, handshakes, grpc, admin, control } = places;
            let sum = config.own_files() + clients + handshakes + grpc + admin + control;
            assert!(u64::try_from(sum).unwrap() <= files, "{files}: {places:?}");
        }
        for files in 0..256 {
            let Places { clients, handshakes, grpc, admin, control } = config.places(files);
            assert!(clients.min(handshakes).min(grpc).min(admin).min(control) >= 1);
        }
    }

    #[test]
    fn with_the_descriptors_that_are_wanted_nothing_is_cut() {
        let mut config = Config { shards: Auto::Set(3), ..Config::default() };
        for clients in [Auto::Auto, Auto::Set(10), Auto::Set(100_000)] {
            config.limits.max_clients = clients;
            let wanted = config.wanted_files();
            let places = config.places(wanted);
            assert_eq!((places.handshakes, places.grpc), (1024, 256));
            assert_eq!((places.admin, places.control), (64, 32));
            if let Auto::Set(wish) = clients {
                assert_eq!(places.clients, wish);
            }
        }
        assert_eq!(config.wanted_files(), 100_000 + 1024 + 256 + 64 + 32 + 70);
    }
}
