//! What subscribers of one group were told, held against what must be true of it at any time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use gateway_websocket::grpc::proto::v1::{Event, event::What};

/// What was told in one epoch, by all streams together.
#[derive(Default)]
pub struct Ledger {
    /// Of each client, by cursor.
    pub clients: HashMap<String, BTreeMap<u64, Told>>,
    /// Ranges that are missing.
    pub missed: Vec<Range>,
    /// Who is connected, as a subscriber knows that is the only one.
    pub connected: BTreeSet<String>,
    /// Names of a snapshot that goes on.
    naming: Option<BTreeSet<String>>,
    /// Cursors that were told as if for the first time.
    fresh: HashSet<u64>,
    /// Cursors of which it is known that their acknowledgement counts.
    confirmed: HashSet<u64>,
    streams: HashMap<u64, Stream>,
}

/// An event of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Opened,
    Said(usize),
    Closed,
}

/// Events that are missing.
#[derive(Debug)]
pub struct Range {
    pub first: u64,
    pub last: u64,
    pub messages: i64,
    pub changes: i64,
}

/// What one stream was told.
#[derive(Default)]
struct Stream {
    cursors: Vec<u64>,
    /// The last cursor of each client.
    last: HashMap<String, u64>,
}

impl Ledger {
    /// A stream was told of an event.
    pub fn tell(&mut self, stream: u64, event: &Event) {
        let cursor = event.cursor;
        assert!(!self.confirmed.contains(&cursor), "told after it was acknowledged: {event:?}");
        assert!(event.redelivered || self.fresh.insert(cursor), "twice, and not marked: {event:?}");
        let stream = self.streams.entry(stream).or_default();
        stream.cursors.push(cursor);
        if !event.client.is_empty() {
            let before = stream.last.insert(event.client.clone(), cursor);
            assert!(before.is_none_or(|before| before < cursor), "{before:?} before {event:?}");
        }
        match event.what.as_ref().expect("an event is something") {
            What::Opened(_) => self.note(event, Told::Opened),
            What::Closed(_) => self.note(event, Told::Closed),
            What::Message(message) => {
                let text = std::str::from_utf8(&message.data).expect("a text");
                self.note(event, Told::Said(text.parse().expect("a number")));
            }
            What::Missed(missed) => {
                assert!(missed.first <= missed.last, "{event:?}");
                assert!(missed.messages + missed.changes > 0, "{event:?}");
                self.missed.push(Range {
                    first: missed.first,
                    last: missed.last,
                    messages: missed.messages,
                    changes: missed.changes,
                });
            }
            What::Snapshot(part) => {
                let names = self.naming.get_or_insert_default();
                names.extend(part.clients.iter().cloned());
                if !part.more {
                    self.connected = self.naming.take().unwrap_or_default();
                }
            }
        }
    }

    /// Takes note of what a client did.
    fn note(&mut self, event: &Event, told: Told) {
        let (client, cursor) = (&event.client, event.cursor);
        match told {
            Told::Opened => self.connected.insert(client.clone()),
            Told::Closed => self.connected.remove(client),
            Told::Said(_) => false,
        };
        let before = self.clients.entry(client.clone()).or_default().insert(cursor, told);
        assert!(before.is_none_or(|before| before == told), "told otherwise before: {event:?}");
    }

    /// It is known that what the stream was told up to this cursor is acknowledged.
    pub fn confirm(&mut self, stream: u64, cursor: u64) {
        let cursors = &self.streams[&stream].cursors;
        let at = cursors.iter().position(|it| *it == cursor).expect("it was told of it");
        self.confirmed.extend(&cursors[..=at]);
    }

    /// Whether a client was told to be gone.
    pub fn is_closed(&self, client: &str) -> bool {
        let told = self.clients.get(client);
        told.is_some_and(|told| told.values().any(|told| *told == Told::Closed))
    }

    /// What was told of one client, who has said so many numbers, is what it did, in order, but for
    /// what is missing, which was told. Answers how many of the numbers are missing. `whole` is
    /// whether everything was to be told by now.
    pub fn check(&self, client: &str, said: usize, whole: bool) -> usize {
        let none = BTreeMap::new();
        let told = self.clients.get(client).unwrap_or(&none);
        let (mut next, mut missing, mut before) = (0, 0, 0);
        let (mut opened, mut closed) = (false, false);
        for (&cursor, &what) in told {
            assert!(!closed, "{client} does something when it is gone: {told:?}");
            match what {
                Told::Opened => {
                    assert!(!opened && next == 0, "{client} opens late or twice: {told:?}");
                    opened = true;
                }
                Told::Said(number) => {
                    assert!(number >= next && number < said, "{client}, not in order: {told:?}");
                    if number > next || !opened {
                        self.is_missing(client, before, cursor);
                    }
                    (missing, next) = (missing + number - next, number + 1);
                    opened = true;
                }
                Told::Closed => {
                    if next < said && whole {
                        self.is_missing(client, before, cursor);
                    }
                    missing += said - next;
                    (next, closed) = (said, true);
                }
            }
            before = cursor;
        }
        missing
    }

    /// Something is missing between two cursors, and that was told.
    fn is_missing(&self, client: &str, after: u64, before: u64) {
        let told = self.missed.iter().any(|it| it.last > after && it.first < before);
        assert!(told, "{client}: between {after} and {before} of {:?}", self.missed);
    }
}
