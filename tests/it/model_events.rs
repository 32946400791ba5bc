//! Events at random, against a model: subscribers that crash, stall, come back and join, clients that
//! come, speak and go, buffers that are too small, and a gateway that is killed on the way.
//!
//! ```text
//!  random ──► driver ──► WebSocket clients: connect, say numbers, leave ──┐
//!   seed        │                                                         ▼
//!               ├──► kill -9, start again (a new epoch) ──────► a gateway, as a process
//!               └──► subscribers: come, crash, stall                      │
//!                          └──► ledger: what must be true of it ◄─────────┘
//! ```
//!
//! What must be true: of one client everything is told in order; there is one `opened` and one
//! `closed`; what is not told is told to be missing, and nothing is missing while there is room;
//! nothing is told again after its acknowledgement counts, nor twice without being marked; and by
//! events and snapshots together it is known who is connected.
//!
//! Each run draws new seeds and prints them. `EVENTS_SEED=n` repeats one of them; `EVENTS_SEEDS` and
//! `EVENTS_STEPS` change how many seeds there are and how many steps each of them takes.

mod ledger;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
};

use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tonic::transport::{Channel, Endpoint};

use self::ledger::Ledger;
use crate::{
    client::Client,
    events_acks::to_nobody,
    program::Program,
    random::{Random, number, seeds},
    site::until,
    subscriber::Subscriber,
};

/// Seeds of one run.
const SEEDS: u64 = 12;

/// Steps that each seed takes.
const STEPS: u64 = 400;

/// Clients at once.
const CLIENTS: usize = 12;

/// Subscribers at once.
const SUBSCRIBERS: usize = 4;

/// Messages of a burst: more than a small buffer takes.
const BURST: usize = 100;

/// What the gateway has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// For everything.
    Plenty,
    /// For few messages.
    FewMessages,
    /// For few messages and few changes.
    Little,
}

impl Room {
    fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Plenty => &[],
            Self::FewMessages => &["--set", "events.buffer_messages=20"],
            Self::Little => {
                &["--set", "events.buffer_messages=20", "--set", "events.buffer_changes=5"]
            }
        }
    }
}

#[tokio::test]
async fn whatever_happens_events_are_told_in_order_once_acknowledged_never_again() {
    let steps = number("EVENTS_STEPS").unwrap_or(STEPS);
    for seed in seeds("EVENTS", SEEDS) {
        let room =
            [Room::Plenty, Room::FewMessages, Room::Little][usize::try_from(seed % 3).unwrap()];
        println!("EVENTS_SEED={seed} ({room:?})");
        let mut world = World::start(seed, room).await;
        for _ in 0..steps {
            world.step().await;
        }
        world.come_to_rest().await;
    }
}

/// A client and what it has said.
struct Speaker {
    socket: Client,
    said: usize,
}

struct World {
    random: Random,
    room: Room,
    program: Program,
    channel: Channel,
    websocket: SocketAddr,
    /// Those who are there.
    speakers: Vec<Speaker>,
    /// Of all of this epoch who have gone, how many numbers they have said.
    gone: HashMap<String, usize>,
    subscribers: Vec<JoinHandle<()>>,
    ledger: Shared,
    streams: u64,
    killed: bool,
}

impl World {
    async fn start(seed: u64, room: Room) -> Self {
        let mut program = Program::new();
        let (channel, websocket) = serve(&mut program, room).await;
        Self {
            random: Random::new(seed),
            room,
            program,
            channel,
            websocket,
            speakers: Vec::new(),
            gone: HashMap::new(),
            subscribers: Vec::new(),
            ledger: Shared::default(),
            streams: 0,
            killed: false,
        }
    }

    async fn step(&mut self) {
        match self.random.below(100) {
            0..15 => self.connect().await,
            15..55 => self.speak(8).await,
            55..58 => self.speak(BURST).await,
            58..68 => self.leave().await,
            68..78 => self.subscribe(Manner::Prompt),
            78..80 => self.subscribe(Manner::Idle),
            80..88 => self.crash(),
            88..99 => self.wait_a_turn().await,
            _ if !self.killed => self.kill().await,
            _ => {}
        }
    }

    async fn connect(&mut self) {
        if self.speakers.len() < CLIENTS {
            let socket = Client::connect(self.websocket).await;
            self.speakers.push(Speaker { socket, said: 0 });
        }
    }

    async fn speak(&mut self, most: usize) {
        if self.speakers.is_empty() {
            return;
        }
        let at = self.random.below(self.speakers.len());
        let count = 1 + self.random.below(most);
        let speaker = &mut self.speakers[at];
        for _ in 0..count {
            speaker.socket.say(&speaker.said.to_string()).await;
            speaker.said += 1;
        }
    }

    /// A client goes, most of the time with a word.
    async fn leave(&mut self) {
        if self.speakers.is_empty() {
            return;
        }
        let at = self.random.below(self.speakers.len());
        let mut speaker = self.speakers.swap_remove(at);
        if !self.random.once_in(3) {
            speaker.socket.send(Message::Close(None)).await;
            speaker.socket.read_to_close().await;
        }
        self.gone.insert(speaker.socket.id().to_owned(), speaker.said);
    }

    fn subscribe(&mut self, manner: Manner) {
        self.subscribers.retain(|it| !it.is_finished());
        if self.subscribers.len() >= SUBSCRIBERS {
            return;
        }
        self.streams += 1;
        let window = i32::try_from(1 + self.random.below(60)).unwrap();
        let (channel, stream) = (self.channel.clone(), self.streams);
        let ledger = self.ledger.clone();
        let following = follow(channel, ledger, stream, window, manner);
        self.subscribers.push(tokio::spawn(following));
    }

    /// A subscriber is there no more, whatever it was doing.
    fn crash(&mut self) {
        if !self.subscribers.is_empty() {
            let at = self.random.below(self.subscribers.len());
            self.subscribers.swap_remove(at).abort();
        }
    }

    /// Asks the gateway something, so that others have a turn meanwhile.
    async fn wait_a_turn(&mut self) {
        if let Some(speaker) = self.speakers.last_mut() {
            speaker.socket.say("ping").await;
            assert_eq!(speaker.socket.next_text().await, "pong");
        }
    }

    /// The gateway is killed and started again. What was told of the epoch is right as far as it
    /// goes; the next knows nothing of it.
    async fn kill(&mut self) {
        self.killed = true;
        self.program.signal("KILL");
        assert_eq!(self.program.ended().await, None);
        for subscriber in self.subscribers.drain(..) {
            // It ends with the stream, unless there was something to be ashamed of.
            subscriber.await.unwrap();
        }
        let speakers = self.speakers.drain(..);
        self.gone.extend(speakers.map(|it| (it.socket.id().to_owned(), it.said)));
        self.check(false);
        let before = self.ledger.epoch();
        self.ledger = Shared::default();
        self.gone.clear();
        (self.channel, self.websocket) = serve(&mut self.program, self.room).await;
        self.subscribe(Manner::Prompt);
        self.connect().await;
        let ledger = self.ledger.clone();
        until("the new epoch", async || ledger.epoch().is_some()).await;
        assert!(before.is_none() || self.ledger.epoch() != before, "a new run has a new epoch");
    }

    /// All clients go, a prompt subscriber is there to hear it, and then everything was told.
    async fn come_to_rest(&mut self) {
        while !self.speakers.is_empty() {
            self.leave().await;
        }
        self.connect().await;
        let last = self.speakers[0].socket.id().to_owned();
        let ledger = self.ledger.clone();
        until("the end of what is to be told", async || {
            self.subscribe(Manner::Prompt);
            // What it says may be dropped, but not for ever.
            let speaker = &mut self.speakers[0];
            speaker.socket.say(&speaker.said.to_string()).await;
            speaker.said += 1;
            let ledger = ledger.lock();
            // Who has gone unheard is not in a snapshot.
            let closed = |client: &String| self.room == Room::Little || ledger.is_closed(client);
            ledger.connected.keys().eq([&last]) && self.gone.keys().all(closed)
        })
        .await;
        self.check(self.room != Room::Little);
        for subscriber in self.subscribers.drain(..) {
            subscriber.abort();
            if let Err(ended) = subscriber.await {
                assert!(ended.is_cancelled(), "a subscriber found a fault");
            }
        }
    }

    /// What was told of each client is right; `whole` says whether all of it must have been told.
    fn check(&self, whole: bool) {
        let ledger = self.ledger.lock();
        assert!(ledger.clients.keys().all(|client| self.knows(client)), "a client that is none");
        let missing: usize =
            self.gone.iter().map(|(client, said)| ledger.check(client, *said, whole)).sum();
        // What a lost subscriber was told is told again, together with what is missing since.
        let told = ledger.missed.iter();
        let (messages, changes) = told.fold((0, 0), |(m, c), it| (m + it.messages, c + it.changes));
        if whole {
            assert!(messages >= i64::try_from(missing).unwrap(), "{missing}: {:?}", ledger.missed);
        }
        if self.room == Room::Plenty {
            assert_eq!((messages, changes), (0, 0), "{:?}", ledger.missed);
        }
        if self.room == Room::FewMessages {
            assert_eq!(changes, 0, "{:?}", ledger.missed);
        }
        println!(
            "  {} clients, {missing} of their messages are missing, {messages} and {changes} told",
            self.gone.len()
        );
    }

    fn knows(&self, client: &str) -> bool {
        self.gone.contains_key(client)
            || self.speakers.iter().any(|speaker| speaker.socket.id() == client)
    }
}

/// Starts the gateway; answers where callers and where clients connect.
async fn serve(program: &mut Program, room: Room) -> (Channel, SocketAddr) {
    let own = ["--set", "events.groups=all", "--set", "events.ack_timeout=2s"];
    let status = program.serve(&[&own, room.settings()].concat()).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", status.listeners.grpc[0])).unwrap();
    (endpoint.connect_lazy(), status.listeners.websocket[0])
}

/// How a subscriber goes about what it is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// It acknowledges everything, and now and then waits until it knows that this counts.
    Prompt,
    /// It acknowledges nothing, until it loses its place.
    Idle,
}

/// Follows the group until the stream ends.
async fn follow(channel: Channel, ledger: Shared, stream: u64, window: i32, manner: Manner) {
    let mut random = Random::new(stream);
    let begun = Subscriber::following(channel, "all", window, random.once_in(2)).await;
    let Ok(mut subscriber) = begun else { return };
    ledger.set_epoch(subscriber.epoch());
    while let Ok(event) = subscriber.try_next().await {
        ledger.lock().tell(stream, &event);
        if manner == Manner::Idle || random.once_in(3) {
            continue;
        }
        if !random.once_in(4) {
            subscriber.acknowledge(event.cursor).await;
            continue;
        }
        subscriber.acknowledge_with(event.cursor, vec![to_nobody()], Vec::new()).await;
        let Ok(done) = subscriber.try_done().await else { return };
        ledger.lock().confirm(stream, done.cursor);
    }
}

/// The ledger of an epoch. Cheap to clone.
#[derive(Clone, Default)]
struct Shared {
    epoch: Arc<OnceLock<u64>>,
    ledger: Arc<Mutex<Ledger>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    fn epoch(&self) -> Option<u64> {
        self.epoch.get().copied()
    }

    fn set_epoch(&self, epoch: u64) {
        assert_eq!(*self.epoch.get_or_init(|| epoch), epoch, "the epoch changes");
    }
}
