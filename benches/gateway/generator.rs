//! The load generator: a process of its own that is all the clients of one server.
//!
//! One thread around one poll. It is told what to do on standard input, a command a line, and
//! answers each by a line on standard output:
//!
//! ```text
//!   connect N BYTES  opens N more clients (BYTES: their receive buffer, 0: the kernel's choice);
//!                    answered when all are upgraded
//!   drop             closes all of them; answered at once
//!   zero             begins to count anew
//!   count            answers the tally, as JSON
//!   echo BYTES       each client sends a message, and another one for each that comes back
//!   hush             nobody sends any more
//!   say BYTES        each client sends one message
//!   bear TOKEN       who connects from now on brings this token
//!   deaf             nobody reads any more
//!   prompt           from now on messages are read as they come
//!   lazy             as at first: what came is read every now and then
//! ```

use std::{
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token, net::TcpStream, unix::SourceFd};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use crate::{Outcome, frame, stamp};

const STDIN: Token = Token(usize::MAX);
/// Connections under way at once.
const OPENING: usize = 128;
/// Clients per source address: binding one looks for a free port, which gets slow beyond.
const PER_ADDRESS: usize = 2000;
/// Timed messages that can be under way at once.
const UNDER_WAY: usize = 1 << 12;
/// Rest between two looks at the sockets, unless told to be prompt. A generator that sleeps in its
/// poll is woken by every single message, and waking the other core is dearer than sending: the
/// servers would be measured by how often that happens to be needed.
const NAP: Duration = Duration::from_millis(1);
const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// A pong without payload, under a key of zeros.
const PONG: &[u8] = &[0x8a, 0x80, 0, 0, 0, 0];

/// What was counted since the last `zero`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Messages received by all clients.
    pub(crate) messages: u64,
    /// Pings answered.
    pub(crate) pings: u64,
    /// Clients that the server closed.
    pub(crate) lost: u64,
    /// Share of the time that the generator had nothing to do. Near zero it is the bottleneck.
    pub(crate) idle: f64,
    /// Delay from the intended sending of a message to its last receipt, in nanoseconds, each
    /// distinct value with its count.
    pub(crate) delays: Vec<(u64, u64)>,
}

struct Client {
    stream: TcpStream,
    upgraded: bool,
    /// The beginning of a frame, or of the answer to the upgrade.
    partial: Vec<u8>,
}

struct Generator {
    poll: Poll,
    server: SocketAddr,
    /// Second byte of the addresses that clients come from, so that two generators don't share any.
    source: u8,
    clients: Vec<Client>,
    wanted: usize,
    receive_buffer: usize,
    opened: usize,
    tally: Tally,
    delays: Histogram<u64>,
    /// Receipts of each timed message that is under way.
    receipts: Vec<u32>,
    echo: Option<Vec<u8>>,
    /// What a client asks for first.
    upgrade: Vec<u8>,
    deaf: bool,
    prompt: bool,
    began: Instant,
    waited: Duration,
}

/// Runs until standard input ends.
pub(crate) fn run(server: &str, source: &str) -> Outcome<()> {
    let poll = Poll::new()?;
    let stdin = std::io::stdin();
    poll.registry().register(&mut SourceFd(&0), STDIN, Interest::READABLE)?;
    let mut generator = Generator {
        poll,
        server: server.parse()?,
        source: source.parse()?,
        clients: Vec::new(),
        wanted: 0,
        receive_buffer: 0,
        opened: 0,
        tally: Tally::default(),
        delays: Histogram::new(3)?,
        receipts: vec![0; UNDER_WAY],
        echo: None,
        upgrade: UPGRADE.to_vec(),
        deaf: false,
        prompt: false,
        began: Instant::now(),
        waited: Duration::ZERO,
    };
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 256 * 1024];
    let mut line = String::new();
    loop {
        let before = Instant::now();
        if !generator.prompt {
            thread::sleep(NAP);
        }
        generator.poll.poll(&mut events, None)?;
        generator.waited += before.elapsed();
        for event in &events {
            if event.token() == STDIN {
                line.clear();
                if stdin.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                generator.obey(line.trim())?;
            } else {
                generator.ready(event.token().0, &mut buffer)?;
            }
        }
    }
}

impl Generator {
    fn obey(&mut self, line: &str) -> Outcome<()> {
        let mut words = line.split(' ');
        let command = words.next().unwrap_or_default();
        let mut number = || -> Outcome<usize> { Ok(words.next().ok_or("no number")?.parse()?) };
        match command {
            "connect" => {
                self.wanted += number()?;
                self.receive_buffer = number()?;
                for _ in 0..OPENING {
                    self.open_next()?;
                }
                return Ok(());
            }
            "drop" => {
                self.clients.clear();
                (self.wanted, self.opened) = (0, 0);
            }
            "zero" => {
                self.tally = Tally::default();
                self.delays.reset();
                self.receipts.fill(0);
                self.began = Instant::now();
                self.waited = Duration::ZERO;
            }
            "count" => {
                let all = self.began.elapsed().as_secs_f64();
                self.tally.idle = self.waited.as_secs_f64() / all;
                let recorded = self.delays.iter_recorded();
                self.tally.delays = recorded
                    .map(|value| (value.value_iterated_to(), value.count_at_value()))
                    .collect();
                println!("{}", serde_json::to_string(&self.tally)?);
                return Ok(());
            }
            "echo" => {
                let message = frame::masked_text(stamp::message(0, 0, number()?).as_bytes());
                for client in &mut self.clients {
                    client.stream.write_all(&message)?;
                }
                self.echo = Some(message);
            }
            "hush" => self.echo = None,
            "say" => {
                let message = frame::masked_text(stamp::message(0, 0, number()?).as_bytes());
                for client in &mut self.clients {
                    client.stream.write_all(&message)?;
                }
            }
            "bear" => {
                let token = words.next().ok_or("no token")?;
                self.upgrade.truncate(self.upgrade.len() - b"\r\n".len());
                let line = format!("Authorization: Bearer {token}\r\n\r\n");
                self.upgrade.extend(line.as_bytes());
            }
            "deaf" => self.deaf = true,
            "prompt" => self.prompt = true,
            "lazy" => self.prompt = false,
            _ => return Err(format!("unknown command {line:?}").into()),
        }
        println!("ok");
        Ok(())
    }

    /// Begins with the next client, if one is wanting.
    fn open_next(&mut self) -> Outcome<()> {
        if self.clients.len() == self.wanted {
            return Ok(());
        }
        let index = self.clients.len();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        let address = u8::try_from(index / PER_ADDRESS)? + 1;
        socket.bind(&SocketAddr::from(([127, self.source, address, 1], 0)).into())?;
        if self.receive_buffer > 0 {
            socket.set_recv_buffer_size(self.receive_buffer)?;
        }
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&self.server.into()) {
            Err(error)
                if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
            {
                return Err(error.into());
            }
            _ => {}
        }
        let mut stream = TcpStream::from_std(socket.into());
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(index), interest)?;
        self.clients.push(Client { stream, upgraded: false, partial: self.upgrade.clone() });
        Ok(())
    }

    fn ready(&mut self, index: usize, buffer: &mut [u8]) -> Outcome<()> {
        // A client that has been dropped meanwhile.
        let Some(client) = self.clients.get_mut(index) else {
            return Ok(());
        };
        if !client.upgraded && client.partial.starts_with(b"GET") {
            match client.stream.write(&client.partial) {
                Ok(_) => client.partial.clear(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        if self.deaf {
            return Ok(());
        }
        let kept = client.partial.len();
        buffer[..kept].copy_from_slice(&client.partial);
        client.partial.clear();
        let count = match client.stream.read(&mut buffer[kept..]) {
            Ok(0) => {
                self.tally.lost += 1;
                return Ok(());
            }
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error.into()),
        };
        let taken = self.hear(index, &buffer[..kept + count])?;
        self.clients[index].partial.extend_from_slice(&buffer[taken..kept + count]);
        Ok(())
    }

    /// Takes what is whole of the bytes; answers how many those were.
    fn hear(&mut self, index: usize, bytes: &[u8]) -> Outcome<usize> {
        let client = &mut self.clients[index];
        let mut taken = 0;
        if !client.upgraded {
            let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else {
                return Ok(0);
            };
            if !bytes.starts_with(b"HTTP/1.1 101") {
                return Err(String::from_utf8_lossy(bytes).into());
            }
            client.upgraded = true;
            taken = end + 4;
            self.opened += 1;
            if self.opened == self.wanted {
                println!("ok");
            }
            self.open_next()?;
        }
        let mut now = None;
        while let Some(frame) = frame::first(&bytes[taken..]) {
            let payload = &bytes[taken + frame.head..taken + frame.len];
            taken += frame.len;
            let client = &mut self.clients[index];
            match frame.opcode {
                1 | 2 => {
                    self.tally.messages += 1;
                    if let Some((number, intended)) = stamp::read(payload) {
                        let now = *now.get_or_insert_with(stamp::now);
                        self.arrived(number, now.saturating_sub(intended))?;
                    }
                    if let Some(message) = &self.echo {
                        self.clients[index].stream.write_all(message)?;
                    }
                }
                9 => {
                    self.tally.pings += 1;
                    client.stream.write_all(PONG)?;
                }
                _ => {}
            }
        }
        Ok(taken)
    }

    /// One receipt of a timed message; the last one counts.
    fn arrived(&mut self, number: u64, delay: u64) -> Outcome<()> {
        let slot = usize::try_from(number)? % UNDER_WAY;
        self.receipts[slot] += 1;
        if self.receipts[slot] as usize == self.clients.len() {
            self.receipts[slot] = 0;
            self.delays.record(delay)?;
        }
        Ok(())
    }
}
