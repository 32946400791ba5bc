//! Commands about very many clients, carried out in parts: a few clients, then a turn for everybody,
//! then the next few.
//!
//! ```text
//!   work   │ close 1,024 of 5,000 │ …    first turn
//!          │ close 1,024 of 3,976 │ …    sockets are read and written, then the second
//!          │ …                           what was sent later is carried out when that is done
//! ```
//!
//! Whom a command is about is settled when it begins: who comes in between is not among them. Who
//! leaves in between by himself does not count.

use std::{sync::Arc, vec};

use super::{
    bundle::Bundle,
    inbox::{Clients, Reply},
    run::{DELIVERIES_PER_TURN, Loop, Work},
};
use crate::{
    close::Close,
    ids::{ClientId, Name},
};

/// Clients of one part: a few milliseconds at most.
const AT_ONCE: usize = 1024;

/// Clients that are being closed.
pub(super) struct Closing {
    left: vec::IntoIter<ClientId>,
    close: Close,
    closed: usize,
    reply: Reply<usize>,
}

/// Groups that are being forgotten.
pub(super) struct Dissolving {
    groups: Arc<[Name]>,
    /// Members that were taken out, of those groups that were begun.
    out: Vec<usize>,
    reply: Reply<Vec<usize>>,
}

impl Dissolving {
    pub(super) fn new(groups: Arc<[Name]>, reply: Reply<Vec<usize>>) -> Self {
        Self { groups, out: Vec::new(), reply }
    }
}

impl Loop {
    /// Begins to close each of the clients.
    pub(super) fn closing(&self, clients: &Clients, close: Close, reply: Reply<usize>) -> Closing {
        let slots = self.slots_of(clients).into_iter();
        let sessions = slots.filter_map(|slot| self.sessions.get(slot as usize));
        // By id: a slot may have another client by then.
        let ids: Vec<_> = sessions.map(|session| session.id).collect();
        Closing { left: ids.into_iter(), close, closed: 0, reply }
    }

    /// Closes the next few. Answers about how many deliveries that was worth: all that the turn has
    /// left if there are more.
    pub(super) fn close_some(&mut self, mut closing: Closing) -> usize {
        let last = closing.close.last.as_ref();
        let mut last = last.map(|last| Bundle::new(std::slice::from_ref(last), &self.clock));
        for client in closing.left.by_ref().take(AT_ONCE) {
            if let Some(slot) = self.find(client) {
                closing.closed += 1;
                self.guard(slot, |shard| shard.close_after(last.as_mut(), slot, &closing.close));
            }
        }
        drop(last);
        if closing.left.len() > 0 {
            self.work.push_front(Work::Closing(closing));
            return DELIVERIES_PER_TURN;
        }
        let closed = closing.closed;
        let _ = closing.reply.send(closed);
        closed
    }

    /// Takes the next few members out of their groups. Answers the same.
    pub(super) fn dissolve_some(&mut self, mut dissolving: Dissolving) -> usize {
        let mut most = AT_ONCE;
        for index in dissolving.out.len().saturating_sub(1)..dissolving.groups.len() {
            let out = self.dissolve(&dissolving.groups[index], most);
            dissolving.out.resize(index + 1, 0);
            dissolving.out[index] += out;
            most -= out;
            if most == 0 {
                self.work.push_front(Work::Dissolving(dissolving));
                return DELIVERIES_PER_TURN;
            }
        }
        let members = dissolving.out.iter().sum();
        let _ = dissolving.reply.send(dissolving.out);
        members
    }
}
