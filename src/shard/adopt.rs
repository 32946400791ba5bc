//! The arrival of a client on its shard.

use std::io;

use super::{
    Newcomer,
    door::Door,
    outbound::{Frame, Sort},
    run::Loop,
    session::Session,
    tunnel::Tunnel,
};
use crate::{
    change::{Change, Subject},
    close::{Cause, Close, code},
    ids::{ClientId, MAX_SLOTS},
    message::Payload,
    wire,
};
use mio::{Interest, Token};

impl Loop {
    /// Takes a connection over: from here on it is a client.
    pub(super) fn adopt(&mut self, mut newcomer: Newcomer) {
        let leftover = std::mem::take(&mut newcomer.leftover);
        let greeting = std::mem::take(&mut newcomer.greeting);
        let change = newcomer.change.take();
        match self.enter(newcomer) {
            Ok(slot) => self.guard(slot, |shard| shard.greet(slot, change, greeting, leftover)),
            // The socket is closed by being dropped; the client sees a broken connection.
            Err(error) => {
                tracing::warn!(shard = self.index, %error, "can't take over a connection");
            }
        }
    }

    fn enter(&mut self, newcomer: Newcomer) -> io::Result<u32> {
        let entry = self.sessions.vacant_entry();
        let slot = u32::try_from(entry.key()).ok().filter(|&slot| (slot as usize) < MAX_SLOTS);
        let slot = slot.ok_or_else(|| io::Error::other("no slot is left"))?;
        let random = self.random.next()?;
        let mut stream = mio::net::TcpStream::from_std(newcomer.stream);
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(entry.key()), interest)?;
        self.doors.hang(slot, Door::new(stream, newcomer.window, newcomer.tls.is_some()));
        if let Some(tls) = newcomer.tls {
            self.desk.tunnels.dig(slot, Tunnel::new(*tls));
            self.desk.laden.grow_and_insert(slot as usize);
        }
        self.generation = self.generation.wrapping_add(1);
        let id = ClientId::new(self.index, slot, self.generation, random);
        let mut session = Session::new(id, newcomer.peer, newcomer.seat, self.desk.tick);
        session.decoder = wire::Decoder::new(newcomer.window.is_some());
        session.about = newcomer.about;
        entry.insert(session);
        let stats = &self.desk.stats;
        stats.sockets.add(1);
        stats.clients.add(1);
        stats.opened.add(1);
        if let Some(gauge) = newcomer.window.and_then(|window| stats.window(window)) {
            gauge.add(1);
        }
        Ok(slot)
    }

    /// Makes of the client what it is to be, answers the upgrade, tells the client its id and what
    /// else it is to be told first, and listens to what it has said already.
    fn greet(
        &mut self,
        slot: u32,
        change: Option<Box<Change>>,
        mut greeting: Vec<u8>,
        mut leftover: Vec<u8>,
    ) {
        self.schedule(slot);
        let (messages, unfit) = match self.settle(slot, change) {
            Ok(messages) => (messages, None),
            Err(close) => (Vec::new(), Some(close)),
        };
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        tracing::debug!(client = %session.id, peer = %session.peer(), "client connected");
        if self.desk.caps.welcome && unfit.is_none() {
            let id = session.id.text();
            greeting.extend_from_slice(&wire::encode(
                self.desk.caps.message_format,
                id.as_str().as_bytes(),
            ));
        }
        if !greeting.is_empty() {
            let frame = Frame::new(greeting.into(), &self.desk.meter);
            session.out.append(frame, Sort::Greeting, &self.desk.meter);
            self.desk.mark_dirty(slot, session);
        }
        if !messages.is_empty() {
            self.deliver_to(slot, &messages);
        }
        self.tell_opened(slot);
        if let Some(close) = &unfit {
            self.close(slot, close);
        } else if let Some(drain) = &self.drain {
            // What it has said is heard all the same: its close frame may be among that.
            let close = drain.close.clone();
            self.close(slot, &close);
        }
        if let Some(tunnel) = self.desk.tunnels.get(slot) {
            // What the handshake opened and nobody has asked for yet.
            if tunnel.open(&[], &mut leftover).is_err() {
                return self.lost(slot);
            }
            tunnel.count(&mut self.partial);
            self.desk.stats.partial_bytes.set(self.partial as u64);
            self.watch(slot, false);
        } else if leftover.is_empty() {
            return;
        }
        if !self.arrived(slot, leftover.len()) {
            return;
        }
        self.keep_back(slot, &leftover);
        self.read(slot);
    }
}

impl Loop {
    /// Changes the client in the step in which it comes; gives the first messages to it, or the
    /// close of one that can't stay.
    fn settle(
        &mut self,
        slot: u32,
        change: Option<Box<Change>>,
    ) -> Result<Vec<Payload>, Box<Close>> {
        let Some(session) = self.sessions.get(slot as usize) else { return Ok(Vec::new()) };
        let client = session.id;
        if !session.seat.seated(client) {
            return Err(Box::new(Close::new(Cause::Replaced, code::REPLACED, REPLACED)));
        }
        let Some(mut change) = change else { return Ok(Vec::new()) };
        let messages = std::mem::take(&mut change.messages);
        let subject = Subject { client, of: None };
        match self.change(&subject, &change) {
            Ok(_) => Ok(messages),
            // Its limits have become narrower since it was let in.
            Err(refusal) => {
                Err(Box::new(Close::new(Cause::Policy, code::POLICY, refusal.to_string())))
            }
        }
    }
}

/// What a client reads that has to make room for another one.
pub const REPLACED: &str = "replaced by a newer connection of the same user";

/// Random numbers for client ids, fetched from the kernel many at a time: a system call for each
/// would be a notable part of a connection's cost.
#[derive(Default)]
pub(super) struct Random {
    stock: Vec<u64>,
}

/// Numbers fetched at once; the kernel gives up to 256 bytes without being interrupted.
const STOCK: usize = 32;

impl Random {
    fn next(&mut self) -> io::Result<u64> {
        if self.stock.is_empty() {
            let mut bytes = [0; STOCK * size_of::<u64>()];
            getrandom::fill(&mut bytes).map_err(io::Error::other)?;
            let (numbers, _) = bytes.as_chunks();
            self.stock.extend(numbers.iter().map(|&number| u64::from_ne_bytes(number)));
        }
        self.stock.pop().ok_or_else(|| io::Error::other("no random numbers"))
    }
}
