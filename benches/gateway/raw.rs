//! The baseline: a bare loop that calls `send(2)` on each of its sockets.
//!
//! It upgrades whoever asks without looking at what is asked, echoes frames without looking at what
//! is in them, and sends what its publisher hands it to every client. There are no queues: a socket
//! that takes less than everything ends the process, as then nothing it measured would be true.

use std::{
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use rustix::{
    io::Errno,
    net::{SendFlags, send},
};
use slab::Slab;

use crate::{Outcome, frame};

const LISTENER: Token = Token(usize::MAX);
/// The first bytes of a publisher.
pub(crate) const PUBLISHER: &[u8; 4] = b"PUB\n";
/// What a client is answered, whatever it asked: the upgrade, and an id that is no id.
const ANSWER: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\
    connection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\
    \x81\x24xxxxxxxx-xxxx-8xxx-xxxx-xxxxxxxxxxxx";

enum Role {
    Stranger,
    Client,
    /// What came of the publisher's next order.
    Publisher(Vec<u8>),
}

struct Peer {
    stream: TcpStream,
    role: Role,
}

/// Serves until the process is ended; says its address first.
pub(crate) fn run() -> Outcome<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("{}", listener.local_addr()?);
    let mut peers = Slab::new();
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, &poll, &mut peers)?;
            } else if !hear(event.token().0, &mut peers, &mut buffer)? {
                peers.remove(event.token().0);
            }
        }
    }
}

fn accept(listener: &TcpListener, poll: &Poll, peers: &mut Slab<Peer>) -> Outcome<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        stream.set_nodelay(true)?;
        let entry = peers.vacant_entry();
        poll.registry().register(&mut stream, Token(entry.key()), Interest::READABLE)?;
        entry.insert(Peer { stream, role: Role::Stranger });
    }
}

/// Reads what a peer says and does it; false when it has gone.
fn hear(key: usize, peers: &mut Slab<Peer>, buffer: &mut [u8]) -> Outcome<bool> {
    let Some(peer) = peers.get_mut(key) else {
        return Ok(true);
    };
    let count = match peer.stream.read(buffer) {
        Ok(0) | Err(_) => return Ok(false),
        Ok(count) => count,
    };
    let bytes = &buffer[..count];
    match &mut peer.role {
        Role::Stranger if bytes.starts_with(PUBLISHER) => {
            peer.role = Role::Publisher(bytes[PUBLISHER.len()..].to_vec());
        }
        Role::Stranger => {
            peer.role = Role::Client;
            send_whole(&peer.stream, ANSWER)?;
        }
        Role::Client => echo(&peer.stream, bytes)?,
        Role::Publisher(orders) => {
            orders.extend_from_slice(bytes);
            let orders = std::mem::take(orders);
            let rest = carry_out(&orders, peers)?;
            let peer = &mut peers[key];
            peer.stream.write_all(&vec![b'.'; rest.0])?;
            peer.role = Role::Publisher(rest.1);
        }
    }
    Ok(true)
}

/// Answers each frame of a client by one of ours with as many bytes of payload.
fn echo(stream: &TcpStream, mut bytes: &[u8]) -> Outcome<()> {
    while let Some(frame) = frame::first(bytes) {
        if frame.opcode < 8 && frame.len <= 256 {
            let mut answer = [0; 256];
            answer[0] = 0x81;
            let head = frame.head - 4;
            answer[1..head].copy_from_slice(&bytes[1..head]);
            answer[1] &= 0x7f;
            send_whole(stream, &answer[..frame.len - 4])?;
        }
        bytes = &bytes[frame.len..];
    }
    Ok(())
}

/// Sends each frame in the publisher's orders to every client; answers how many there were, and
/// the beginning of the next order.
fn carry_out(orders: &[u8], peers: &Slab<Peer>) -> Outcome<(usize, Vec<u8>)> {
    let mut rest = orders;
    let mut done = 0;
    while let Some(frame) = frame::first(rest) {
        for (_, peer) in peers {
            if let Role::Client = peer.role {
                send_whole(&peer.stream, &rest[..frame.len])?;
            }
        }
        rest = &rest[frame.len..];
        done += 1;
    }
    Ok((done, rest.to_vec()))
}

fn send_whole(stream: &TcpStream, bytes: &[u8]) -> Outcome<()> {
    let sent = match send(stream, bytes, SendFlags::NOSIGNAL) {
        Ok(sent) => sent,
        // A client that has just gone; the poll will say so too.
        Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
        Err(error) => return Err(format!("the raw loop's socket takes nothing: {error}").into()),
    };
    if sent == bytes.len() { Ok(()) } else { Err("the raw loop's socket took a part".into()) }
}
