//! The connections of a shard by slot: who each is, its socket, and its TLS.
//!
//! The three lie in tables of their own, since a fan-out walks the sockets and needs nothing else:
//!
//! ```text
//!   slot          0     1     2     3
//!   Connection  │ ada │ bob │     │ eve │   280 bytes each: who it is, what waits, what it said
//!   Socket      │  8 bytes each         │   what a fan-out reads
//!   TlsStream   │     │ box │     │     │   nothing at all while there is no client with TLS
//! ```
//!
//! A slot is taken from the adoption of a connection to the end of its socket. Who is *open* can be
//! addressed and is counted; who is closing can't be found by anybody any more.

use slab::Slab;

use super::{
    connection::{Connection, Stage},
    slot::Slot,
    socket::{Socket, SocketTable},
    tls::{TlsStream, TlsStreams},
    wheel::Tick,
};
use crate::ids::{ClientId, MAX_SLOTS};

#[derive(Default)]
pub(super) struct Connections {
    slab: Slab<Connection>,
    pub(super) sockets: SocketTable,
    pub(super) tls: TlsStreams,
    /// Connections that are open.
    open: usize,
}

/// One connection, borrowed part by part.
pub(super) struct Parts<'a> {
    pub(super) slot: Slot,
    pub(super) connection: &'a mut Connection,
    pub(super) socket: &'a Socket,
    /// None if it is plain.
    pub(super) tls: Option<&'a mut TlsStream>,
}

/// What was at a slot.
pub(super) struct Removed {
    pub(super) connection: Connection,
    pub(super) socket: Option<Socket>,
    pub(super) tls: Option<Box<TlsStream>>,
}

impl Connections {
    /// The slot that the next connection gets; none if all are taken.
    pub(super) fn vacant(&mut self) -> Option<Slot> {
        let next = self.slab.vacant_key();
        (next < MAX_SLOTS).then(|| Slot::at(next))
    }

    /// Puts an open connection into the slot that is [vacant](Self::vacant) next.
    pub(super) fn insert(
        &mut self,
        connection: Connection,
        socket: Socket,
        tls: Option<TlsStream>,
    ) -> Slot {
        let slot = Slot::at(self.slab.insert(connection));
        self.sockets.insert(slot, socket);
        if let Some(tls) = tls {
            self.tls.insert(slot, tls);
        }
        self.open += 1;
        slot
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Connection> {
        self.slab.get(slot.index())
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Connection> {
        self.slab.get_mut(slot.index())
    }

    /// A connection, its socket and its TLS.
    pub(super) fn parts(&mut self, slot: Slot) -> Option<Parts<'_>> {
        let connection = self.slab.get_mut(slot.index())?;
        let (socket, tls) = (self.sockets.get(slot)?, self.tls.get_mut(slot));
        Some(Parts { slot, connection, socket, tls })
    }

    /// The sockets of clients that can be sent to, and beside them a way to their connections. The
    /// way of a fan-out, which needs the connection of hardly any of them.
    pub(super) fn walk(&mut self) -> (&SocketTable, &mut Slab<Connection>) {
        (&self.sockets, &mut self.slab)
    }

    /// The slot of a client that is open.
    pub(super) fn find(&self, client: ClientId) -> Option<Slot> {
        let slot = Slot::of(client);
        let connection = self.get(slot)?;
        (connection.id == client && connection.is_open()).then_some(slot)
    }

    /// Connections that are open.
    pub(super) fn count_open(&self) -> usize {
        self.open
    }

    /// All connections, those that are closing included.
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    /// All connections, those that are closing included.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &Connection)> {
        self.slab.iter().map(|(index, connection)| (Slot::at(index), connection))
    }

    /// The same, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Slot, &mut Connection)> {
        self.slab.iter_mut().map(|(index, connection)| (Slot::at(index), connection))
    }

    /// The connections that are open.
    pub(super) fn open(&self) -> impl Iterator<Item = (Slot, &Connection)> {
        self.iter().filter(|(_, connection)| connection.is_open())
    }

    /// Every slot that is or was taken lies below this.
    pub(super) fn end(&self) -> Slot {
        self.sockets.end()
    }

    /// Begins the end of a connection, which is cut off at the tick if nothing else ends it; false
    /// if it was not open.
    pub(super) fn begin_close(&mut self, slot: Slot, until: Tick) -> bool {
        let Some(connection) = self.slab.get_mut(slot.index()).filter(|it| it.is_open()) else {
            return false;
        };
        connection.stage = Stage::Closing(until);
        self.sockets.close(slot);
        self.open -= 1;
        true
    }

    /// Takes a connection out. It was closed before, or is counted off here.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<Removed> {
        let connection = self.slab.try_remove(slot.index())?;
        self.open -= usize::from(connection.is_open());
        let (socket, tls) = (self.sockets.take(slot), self.tls.take(slot));
        Some(Removed { connection, socket, tls })
    }
}
