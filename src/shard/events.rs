//! Telling who listens what the clients of this shard do.
//!
//! A panic of who listens in the step of a connection is that connection's. Elsewhere it is counted,
//! and the shard goes on as if there were nothing to say.

use super::{
    connection::Connection, connections::Connections, context::Context, guard::caught,
    membership::Membership, slot::Slot, socket::Socket, wheel::STEP,
};
use crate::{
    close::{Cause, code},
    ids::{ClientId, Name},
    message::Kind,
    sink::{Accept, Closed, Ear, Opened, Unanswered, Who},
};

/// Slots that an initial listing comes to in one turn.
const LISTED_PER_TURN: usize = 1024;

pub(super) struct Events {
    ear: Box<dyn Ear>,
    /// An initial listing is under way that goes on in the next turn.
    lists: bool,
}

impl Events {
    pub(super) fn new(ear: Box<dyn Ear>) -> Self {
        Self { ear, lists: false }
    }

    /// Whether the next turn must not be waited for.
    pub(super) fn goes_on(&self) -> bool {
        self.lists
    }

    /// A client has come.
    pub(super) fn opened(&mut self, membership: &Membership, connection: &Connection) {
        if !self.ear.listens() {
            return;
        }
        let groups: Vec<Name> = membership.groups_of(connection).cloned().collect();
        self.ear.opened(&Opened {
            who: who(connection),
            groups: &groups,
            attributes: connection.attributes.as_deref(),
            peer: connection.peer(),
            about: connection.about.as_ref(),
        });
    }

    /// A client said something.
    pub(super) fn message(&mut self, connection: &Connection, kind: Kind, bytes: &[u8]) -> Accept {
        self.ear.message(who(connection), kind, bytes)
    }

    /// A client has gone. Whatever comes of it here, the client is let go.
    pub(super) fn closed(
        &mut self,
        context: &Context,
        (connection, uid): (&Connection, Option<&Name>),
        socket: Option<&Socket>,
        (cause, code): (Cause, Option<u16>),
    ) {
        if !self.ear.listens() {
            return;
        }
        // Asking fails for no socket that is a connection of TCP, and nothing else is adopted.
        let traffic = socket.and_then(|socket| socket.traffic().ok()).unwrap_or_default();
        let closed = Closed {
            cause,
            code: code.unwrap_or(code::NONE),
            lasted: STEP * context.tick.saturating_sub(connection.since),
            bytes_in: traffic.received,
            bytes_out: traffic.acknowledged,
        };
        // It has no uid any more.
        let who = Who { client: connection.id, uid };
        self.ask(context, (), |ear| ear.closed(who, &closed));
    }

    /// Whether there is room for messages that found none.
    pub(super) fn has_room(&mut self, context: &Context) -> bool {
        self.ask(context, false, |ear| ear.has_room())
    }

    /// What the client has said that was not answered yet; none if there is nothing.
    pub(super) fn unanswered(&mut self, client: ClientId) -> Option<Unanswered> {
        self.ear.unanswered(client)
    }

    /// The turn is over: names the next clients of an initial listing, if one is under way. It goes on
    /// every turn; after a panic, only when there is another turn anyway.
    pub(super) fn end_turn(&mut self, context: &Context, connections: &Connections) {
        self.lists = false;
        if let Some(from) = self.ask(context, None, Ear::roll_call) {
            let (from, end) = (Slot::new(from).index(), connections.end().index());
            let until = from + LISTED_PER_TURN;
            let slots = (from..until.min(end)).map(Slot::at);
            let open = slots.filter_map(|slot| connections.get(slot)).filter(|it| it.is_open());
            let clients: Vec<ClientId> = open.map(|connection| connection.id).collect();
            let next = (until < end).then(|| Slot::at(until).number());
            self.lists = self.ask(context, false, |ear| {
                ear.present(&clients, next);
                true
            });
        }
        self.ask(context, (), Ear::end_turn);
    }

    /// Asks outside of the step of a connection; `otherwise` is the answer after a panic.
    fn ask<T>(
        &mut self,
        context: &Context,
        otherwise: T,
        ask: impl FnOnce(&mut (dyn Ear + 'static)) -> T,
    ) -> T {
        caught(|| ask(&mut *self.ear)).unwrap_or_else(|| {
            context.stats.panics.add(1);
            tracing::error!(shard = context.index, "a panic of who listens to the clients");
            otherwise
        })
    }
}

fn who(connection: &Connection) -> Who<'_> {
    Who { client: connection.id, uid: connection.uid.as_ref() }
}
