//! What subscribers of one group were told, held against what must be true of it at any time.

use std::collections::{BTreeMap, HashMap, HashSet};

use gateway_websocket::grpc::proto::v1::{Event, event::What};

/// What was told in one epoch, by all streams together.
#[derive(Default)]
pub struct Ledger {
    /// Of each client, by cursor.
    pub clients: HashMap<String, BTreeMap<u64, Told>>,
    /// Ranges that are missing.
    pub missed: Vec<Range>,
    /// Who is connected, and in which partition.
    pub connected: BTreeMap<String, i32>,
    /// The last change that was told of each client.
    changes: HashMap<String, u64>,
    /// The partition of each client.
    partitions: HashMap<String, i32>,
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
    /// Of these; none are all.
    pub partitions: Vec<i32>,
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
        if event.client.is_empty() {
            assert_eq!(event.partition, 0, "{event:?}");
        } else {
            self.is_in(&event.client, event.partition);
        }
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
                    partitions: missed.partitions.clone(),
                });
            }
            What::Snapshot(snapshot) => {
                let scope = &snapshot.partitions;
                let is_of = |partition: &i32| scope.is_empty() || scope.contains(partition);
                self.connected.retain(|_, partition| !is_of(partition));
                for named in &snapshot.clients {
                    assert!(is_of(&named.partition), "{event:?}");
                    self.is_in(&named.client, named.partition);
                    let before = self.connected.insert(named.client.clone(), named.partition);
                    assert!(before.is_none(), "named twice: {event:?}");
                }
            }
        }
    }

    /// A client is in this partition, and always was.
    fn is_in(&mut self, client: &str, partition: i32) {
        assert!((1..=256).contains(&partition), "partition {partition} of {client}");
        let before = self.partitions.insert(client.to_owned(), partition);
        assert!(before.is_none_or(|before| before == partition), "{client} has moved");
    }

    /// Takes note of what a client did.
    fn note(&mut self, event: &Event, told: Told) {
        let (client, cursor) = (&event.client, event.cursor);
        if told == Told::Opened || told == Told::Closed {
            // What came before it may be told again, and is over.
            let last = self.changes.entry(client.clone()).or_default();
            if cursor >= *last {
                *last = cursor;
                match told {
                    Told::Opened => self.connected.insert(client.clone(), event.partition),
                    _ => self.connected.remove(client),
                };
            }
        }
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
        let is_of = |it: &Range| {
            it.partitions.is_empty() || it.partitions.contains(&self.partitions[client])
        };
        let mut missed = self.missed.iter().filter(|it| it.last > after && it.first < before);
        let told = missed.any(is_of);
        assert!(told, "{client}: between {after} and {before} of {:?}", self.missed);
    }
}
