//! One side of the comparison: a server, all its clients, and who publishes to it.

use std::{
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU8, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Outcome,
    child::{CLIENTS, Child, SERVER},
    generator::Tally,
    publisher::Publisher,
    server::{Options, Server},
    usage::{Cpu, memory},
};

/// Second byte of the addresses that the next gateway's clients come from: the raw loop's have 1. Ports
/// that were used stay taken for a minute, so no two gateways share any.
static SOURCE: AtomicU8 = AtomicU8::new(2);

/// Only ends a run that would hang.
pub(crate) const HANG: Duration = Duration::from_secs(30);

pub(crate) struct Side {
    server: Child,
    generator: Child,
    pub(crate) publisher: Publisher,
    clients: usize,
    /// Where a gateway serves gRPC; empty for the raw loop.
    pub(crate) grpc: String,
    /// Where a gateway listens for TLS, if it does.
    pub(crate) tls: Option<SocketAddr>,
    /// The control socket and the log of a gateway.
    _directory: Option<tempfile::TempDir>,
}

/// What happened in a stretch of time.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) cpu: Cpu,
    pub(crate) tally: Tally,
}

impl Window {
    /// Microseconds of CPU per message that arrived: of the whole process, and of its shards.
    pub(crate) fn per_message(&self) -> (f64, f64) {
        let per = |time: Duration| time.as_secs_f64() * 1e6 / self.tally.messages.max(1) as f64;
        (per(self.cpu.process), per(self.cpu.shards))
    }
}

impl Side {
    pub(crate) fn raw_loop() -> Outcome<Self> {
        let mut server = Child::start(myself(&["raw-loop"])?, &[SERVER])?;
        let address = server.line()?;
        let generator = Child::start(myself(&["generator", &address, "1"])?, &[CLIENTS])?;
        let publisher = Publisher::of_raw_loop(&address)?;
        let grpc = String::new();
        Ok(Self { server, generator, publisher, clients: 0, grpc, tls: None, _directory: None })
    }

    /// A gateway with one shard, otherwise as it comes but for what is `set`.
    pub(crate) fn gateway(binary: &Path, set: &[&str]) -> Outcome<Self> {
        let set: Vec<_> = ["shards=1", "log.level=warn"].iter().chain(set).copied().collect();
        let server = Server::start(binary, &Options { set: &set, ..Options::default() })?;
        let address = |addresses: &[SocketAddr]| addresses.first().map(ToString::to_string);
        let listeners = &server.listeners;
        let websocket = address(&listeners.websocket).ok_or("no WebSocket address")?;
        let grpc = address(&listeners.grpc).ok_or("no gRPC address")?;
        let tls = listeners.tls.first().copied();
        let source = SOURCE.fetch_add(1, Ordering::Relaxed).to_string();
        let generator = Child::start(myself(&["generator", &websocket, &source])?, &[CLIENTS])?;
        let publisher = Publisher::of_gateway(&grpc)?;
        let (server, directory) = server.into_parts();
        let directory = Some(directory);
        Ok(Self { server, generator, publisher, clients: 0, grpc, tls, _directory: directory })
    }

    /// Opens more clients, until there are `clients`.
    pub(crate) fn connect(&mut self, clients: usize) -> Outcome<()> {
        self.connect_with_buffer(clients, 0)
    }

    pub(crate) fn connect_with_buffer(&mut self, clients: usize, bytes: usize) -> Outcome<()> {
        let more = clients - self.clients;
        self.generator.ask(&format!("connect {more} {bytes}"))?;
        self.clients = clients;
        Ok(())
    }

    /// Closes all clients, and gives the server a moment to notice.
    pub(crate) fn disconnect(&mut self) -> Outcome<()> {
        self.generator.ask("drop")?;
        self.clients = 0;
        thread::sleep(Duration::from_millis(500));
        Ok(())
    }

    /// The clients stop reading for good.
    pub(crate) fn deafen(&mut self) -> Outcome<()> {
        self.generator.ask("deaf").map(drop)
    }

    /// Whether the clients read each message as it comes, or, as at first, every millisecond.
    pub(crate) fn prompt(&mut self, prompt: bool) -> Outcome<()> {
        self.generator.ask(if prompt { "prompt" } else { "lazy" }).map(drop)
    }

    /// Measures what happens while `what` is done and until each client got each message of it.
    pub(crate) fn window(
        &mut self,
        what: impl FnOnce(&mut Publisher) -> Outcome<u64>,
    ) -> Outcome<Window> {
        let clients = self.clients as u64;
        self.window_of(|publisher| Ok(what(publisher)? * clients))
    }

    /// Measures what happens while `what` is done and until all the deliveries arrived that it
    /// tells of.
    pub(crate) fn window_of(
        &mut self,
        what: impl FnOnce(&mut Publisher) -> Outcome<u64>,
    ) -> Outcome<Window> {
        self.generator.ask("zero")?;
        let before = Cpu::of(self.server.pid())?;
        let expected = what(&mut self.publisher)?;
        let mut tally = self.tally()?;
        let began = Instant::now();
        while tally.messages < expected {
            if began.elapsed() > HANG {
                return Err(format!("{} of {expected} messages arrived", tally.messages).into());
            }
            thread::sleep(Duration::from_millis(2));
            // The first tally's idle share is the one of the time that counts.
            let idle = tally.idle;
            tally = Tally { idle, ..self.tally()? };
        }
        if tally.lost > 0 {
            return Err(format!("the server closed {} clients", tally.lost).into());
        }
        Ok(Window { cpu: Cpu::of(self.server.pid())?.since(before), tally })
    }

    /// Lets each client say something, and again whenever it comes back.
    pub(crate) fn echo(&mut self, size: usize, time: Duration) -> Outcome<Window> {
        self.generator.ask("zero")?;
        let before = Cpu::of(self.server.pid())?;
        self.generator.ask(&format!("echo {size}"))?;
        thread::sleep(time);
        self.generator.ask("hush")?;
        let idle = self.tally()?.idle;
        thread::sleep(Duration::from_millis(100));
        let tally = Tally { idle, ..self.tally()? };
        Ok(Window { cpu: Cpu::of(self.server.pid())?.since(before), tally })
    }

    /// CPU time of the server while nothing but time passes.
    pub(crate) fn idle(&mut self, time: Duration) -> Outcome<Window> {
        self.generator.ask("zero")?;
        let before = Cpu::of(self.server.pid())?;
        thread::sleep(time);
        Ok(Window { cpu: Cpu::of(self.server.pid())?.since(before), tally: self.tally()? })
    }

    /// CPU time that the server takes to get `clients` connected.
    pub(crate) fn cost_of_connecting(&mut self, clients: usize) -> Outcome<Cpu> {
        let before = Cpu::of(self.server.pid())?;
        self.connect(clients)?;
        Ok(Cpu::of(self.server.pid())?.since(before))
    }

    /// Whoever connects from now on brings this token.
    pub(crate) fn bear(&mut self, token: &str) -> Outcome<()> {
        self.generator.ask(&format!("bear {token}")).map(drop)
    }

    /// CPU time that the server takes to hear each client say so many messages, one at a time, up to
    /// the end of `heard`, and how long that was.
    pub(crate) fn cost_of_saying(
        &mut self,
        rounds: usize,
        size: usize,
        heard: impl FnOnce() -> Outcome<()>,
    ) -> Outcome<(Cpu, Duration)> {
        let (before, began) = (Cpu::of(self.server.pid())?, Instant::now());
        for _ in 0..rounds {
            self.generator.ask(&format!("say {size}"))?;
        }
        heard()?;
        let took = began.elapsed();
        Ok((Cpu::of(self.server.pid())?.since(before), took))
    }

    /// CPU time that the server takes to do something for its publisher.
    pub(crate) fn cost_of<T>(
        &mut self,
        what: impl FnOnce(&mut Publisher) -> Outcome<T>,
    ) -> Outcome<(Cpu, T)> {
        let before = Cpu::of(self.server.pid())?;
        let done = what(&mut self.publisher)?;
        Ok((Cpu::of(self.server.pid())?.since(before), done))
    }

    /// Memory of the server.
    pub(crate) fn memory(&self) -> Outcome<u64> {
        memory(self.server.pid())
    }

    fn tally(&mut self) -> Outcome<Tally> {
        Ok(serde_json::from_str(&self.generator.ask("count")?)?)
    }
}

/// This program, in another role.
fn myself(arguments: &[&str]) -> Outcome<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments);
    Ok(command)
}
