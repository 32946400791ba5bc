//! What a shard tells who listens, and what it does if there is no room for what a client said.

mod departure;
mod roll_call;
mod waiting;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard},
};

use gateway_websocket::{
    ids::ClientId,
    message::Kind,
    shard::Clock,
    sink::{Accept, Closed, Ear, EventSink, Opened, Wake, Who},
};

use crate::{client::soon, gateway::Gateway};

/// What a client was said to have done.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Opened,
    Said(Kind, Vec<u8>),
    /// With its uid.
    Closed(Option<String>, Closed),
}

/// Writes down what it is told, as far as there is room, and holds roll calls. All shards tell the
/// same one.
#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Notes>>);

#[derive(Default)]
struct Notes {
    told: Vec<(ClientId, Told)>,
    /// Messages that are taken yet.
    room: usize,
    /// Bytes of the largest message that is taken.
    largest: usize,
    /// Messages for which there was no room.
    refused: usize,
    wakes: Vec<Wake>,
    /// Where the roll call stands, if one is under way.
    call: Option<u32>,
    /// Steps that it may still take.
    steps: usize,
    /// Who is there, as far as the roll call has come.
    present: BTreeSet<ClientId>,
}

impl Listener {
    /// One that takes so many messages.
    fn with_room(room: usize) -> Self {
        let listener = Self::default();
        (listener.notes().room, listener.notes().largest) = (room, usize::MAX);
        listener
    }

    /// A gateway of one shard that it listens to.
    async fn gateway(&self, sets: &[&str]) -> Gateway {
        self.gateway_at(Clock::default(), sets).await
    }

    /// The same, with a clock of the test's.
    async fn gateway_at(&self, clock: Clock, sets: &[&str]) -> Gateway {
        let sets: Vec<_> = sets.iter().copied().chain(["shards=1"]).collect();
        Gateway::listening_at(Arc::new(self.clone()), clock, &sets).await
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap()
    }

    /// Changes something and wakes the shard, as who has room again does.
    fn wake_after(&self, change: impl FnOnce(&mut Notes)) {
        change(&mut self.notes());
        let wakes = self.notes().wakes.clone();
        for wake in wakes {
            wake();
        }
    }

    /// Makes room for some more messages.
    fn make_room(&self, more: usize) {
        self.wake_after(|notes| notes.room += more);
    }

    /// Waits until so many messages were taken.
    async fn hears(&self, gateway: &Gateway, messages: usize) {
        self.wait(gateway, "messages", |notes| notes.said().count() >= messages).await;
    }

    /// Waits until so many offers were refused.
    async fn refuses(&self, gateway: &Gateway, offers: usize) {
        self.wait(gateway, "refusals", |notes| notes.refused >= offers).await;
    }

    /// Waits until something is so. Any call goes through the shard's loop, so each is a turn.
    async fn wait(&self, gateway: &Gateway, what: &str, is_so: impl Fn(&Notes) -> bool) {
        let waiting = async {
            while !is_so(&self.notes()) {
                gateway.count_online_client().await;
            }
        };
        soon(what, waiting).await;
    }

    /// Everything that was said, as text.
    fn texts(&self) -> Vec<String> {
        let notes = self.notes();
        notes.said().map(|(_, bytes)| String::from_utf8(bytes.to_vec()).unwrap()).collect()
    }
}

impl Notes {
    fn said(&self) -> impl Iterator<Item = (Kind, &[u8])> {
        self.told.iter().filter_map(|(_, told)| match told {
            Told::Said(kind, bytes) => Some((*kind, &**bytes)),
            _ => None,
        })
    }

    /// Whether the roll call, if one is under way, has come past the client.
    fn knows(&self, client: ClientId) -> bool {
        self.call.is_none_or(|next| client.slot() < next)
    }
}

impl EventSink for Listener {
    fn ear(&self, _: u16, wake: Wake) -> Box<dyn Ear> {
        self.notes().wakes.push(wake);
        Box::new(self.clone())
    }
}

impl Ear for Listener {
    fn opened(&mut self, opened: &Opened<'_>) {
        let mut notes = self.notes();
        let client = opened.who.client;
        notes.told.push((client, Told::Opened));
        if notes.knows(client) {
            assert!(notes.present.insert(client), "it opened already");
        }
    }

    fn message(&mut self, who: Who<'_>, kind: Kind, bytes: &[u8]) -> Accept {
        let mut notes = self.notes();
        if notes.room == 0 || bytes.len() > notes.largest {
            notes.refused += 1;
            return Accept::Backpressure;
        }
        notes.room -= 1;
        notes.told.push((who.client, Told::Said(kind, bytes.to_vec())));
        Accept::Accepted
    }

    fn closed(&mut self, who: Who<'_>, closed: &Closed) {
        let mut notes = self.notes();
        let uid = who.uid.map(|uid| uid.as_str().to_owned());
        notes.told.push((who.client, Told::Closed(uid, *closed)));
        if notes.knows(who.client) {
            assert!(notes.present.remove(&who.client), "it was not there");
        }
    }

    fn has_room(&self) -> bool {
        self.notes().room > 0
    }

    fn roll_call(&mut self) -> Option<u32> {
        let notes = self.notes();
        notes.call.filter(|_| notes.steps > 0)
    }

    fn present(&mut self, clients: &[ClientId], next: Option<u32>) {
        let mut notes = self.notes();
        notes.call = next;
        notes.steps -= 1;
        for &client in clients {
            assert!(notes.present.insert(client), "it was named already");
        }
    }
}
