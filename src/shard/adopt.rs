//! The arrival of a client on its shard.

use std::io;

use mio::{Interest, Registry, Token};

use super::{
    change::{change, send_to},
    connection::Connection,
    effect::{Effect, Effects},
    guard::guarded,
    new_connection::NewConnection,
    receive::{arrived, watch},
    slot::Slot,
    socket::Socket,
    state::State,
    tls::TlsStream,
    write_queue::{Frame, Sort},
};
use crate::{
    change::{Change, Subject},
    close::{Cause, Close, code},
    ids::ClientId,
    message::Payload,
    wire,
};

/// What a client reads that has to make room for another one.
pub const REPLACED: &str = "replaced by a newer connection of the same user";

/// Makes the ids of a shard's clients.
#[derive(Default)]
pub(super) struct ClientIds {
    random: Random,
    /// Tells apart the clients that use a slot one after the other.
    generation: u32,
}

/// Takes a connection over: from here on it is a client. With `goodbye` it is closed as soon as it
/// was told of.
pub(super) fn adopt(
    state: &mut State,
    (ids, registry): (&mut ClientIds, &Registry),
    mut new: NewConnection,
    goodbye: Option<&Close>,
    effects: &mut Effects,
) {
    let leftover = std::mem::take(&mut new.leftover);
    let greeting = std::mem::take(&mut new.greeting);
    let change = new.change.take();
    match enter(state, ids, registry, new) {
        Ok(slot) => {
            guarded(slot, effects, |effects| {
                greet(state, slot, change, greeting, goodbye, effects);
                keep_leftover(state, slot, leftover, effects);
            });
        }
        // The socket is closed by being dropped; the client sees a broken connection.
        Err(error) => {
            state.context.load.released();
            tracing::warn!(shard = state.context.index, %error, "can't take over a connection");
        }
    }
}

fn enter(
    state: &mut State,
    ids: &mut ClientIds,
    registry: &Registry,
    new: NewConnection,
) -> io::Result<Slot> {
    let State { context, connections, outbound, receiver, .. } = state;
    let slot = connections.vacant().ok_or_else(|| io::Error::other("no slot is left"))?;
    let random = ids.random.next()?;
    let mut stream = mio::net::TcpStream::from_std(new.stream);
    let interest = Interest::READABLE | Interest::WRITABLE;
    registry.register(&mut stream, Token(slot.index()), interest)?;
    let socket = Socket::new(stream, new.window, new.tls.is_some());
    let tls = new.tls.map(|tls| TlsStream::new(*tls, &receiver.memory));
    if tls.is_some() {
        outbound.set_backlogged(slot);
    }
    ids.generation = ids.generation.wrapping_add(1);
    let id = ClientId::new(context.index, slot.number(), ids.generation, random);
    let mut connection = Connection::new(id, new.peer, new.permit, context.tick);
    connection.decoder = wire::Decoder::new(new.window.is_some());
    connection.about = new.about;
    connections.insert(connection, socket, tls);
    let metrics = &context.stats;
    metrics.sockets.add(1);
    metrics.clients.set(connections.count_open() as u64);
    metrics.opened.add(1);
    if let Some(gauge) = new.window.and_then(|window| metrics.window(window)) {
        gauge.add(1);
    }
    Ok(slot)
}

/// Makes of the client what it is to be, answers the upgrade, tells the client its id and what else
/// it is to be told first. Who listens is told that it is there before anything can close it.
fn greet(
    state: &mut State,
    slot: Slot,
    change: Option<Box<Change>>,
    mut greeting: Vec<u8>,
    goodbye: Option<&Close>,
    effects: &mut Effects,
) {
    let (messages, unfit) = match settle(state, slot, change, effects) {
        Ok(messages) => (messages, None),
        Err(close) => (Vec::new(), Some(close)),
    };
    let State { context, connections, membership, outbound, timers, events, .. } = state;
    let Some(connection) = connections.get_mut(slot) else { return };
    timers.schedule(&context.settings, slot, connection);
    tracing::debug!(client = %connection.id, peer = %connection.peer(), "client connected");
    if context.settings.welcome && unfit.is_none() {
        let id = connection.id.text();
        let format = context.settings.message_format;
        greeting.extend_from_slice(&wire::encode(format, id.as_str().as_bytes()));
    }
    if !greeting.is_empty() {
        let frame = Frame::new(greeting.into(), &outbound.memory);
        connection.out.append(frame, Sort::Greeting);
        outbound.mark_dirty(slot, connection);
    }
    events.opened(membership, connection);
    if let Some(close) = unfit.or_else(|| goodbye.map(|close| Box::new(close.clone()))) {
        connection.flags.closing = true;
        effects.push(Effect::Close(slot, close));
    } else {
        send_to(state, slot, &messages, effects);
    }
}

/// Keeps what the client has said already, to be heard when it is read first. That holds for a client
/// that is closed at once, too: its close frame may be among that.
fn keep_leftover(state: &mut State, slot: Slot, mut leftover: Vec<u8>, effects: &mut Effects) {
    let Some(parts) = state.connections.parts(slot) else { return };
    if let Some(tls) = parts.tls {
        // What the handshake opened and nobody has asked for yet.
        if tls.open(&[], &mut leftover).is_err() {
            return effects.push(Effect::Lost(slot));
        }
        watch(state, slot, false);
    } else if leftover.is_empty() {
        return;
    }
    if !arrived(state, slot, leftover.len(), effects) {
        return;
    }
    let State { connections, receiver, .. } = state;
    if let Some(connection) = connections.get_mut(slot) {
        connection.keep_copy(&leftover, &receiver.memory);
        // In turn with all others: a crowd may have much to say right away.
        receiver.is_ready(slot, connection);
    }
}

/// Changes the client in the step in which it comes; gives the first messages to it, or the close of
/// one that can't stay.
fn settle(
    state: &mut State,
    slot: Slot,
    first: Option<Box<Change>>,
    effects: &mut Effects,
) -> Result<Vec<Payload>, Box<Close>> {
    let Some(connection) = state.connections.get(slot) else { return Ok(Vec::new()) };
    let client = connection.id;
    if !connection.permit.on_open(client) {
        return Err(Box::new(Close::new(Cause::Replaced, code::REPLACED, REPLACED)));
    }
    let Some(mut first) = first else { return Ok(Vec::new()) };
    let messages = std::mem::take(&mut first.messages);
    let subject = Subject { client, of: None };
    match change(state, &subject, &first, effects) {
        Ok(_) => Ok(messages),
        // Its limits have become narrower since it was let in.
        Err(refusal) => Err(Box::new(Close::new(Cause::Policy, code::POLICY, refusal.to_string()))),
    }
}

/// Random numbers for client ids, fetched from the kernel many at a time: a system call for each
/// would be a notable part of a connection's cost.
#[derive(Default)]
struct Random {
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
