//! A shard whose turns are taken one by one, on the test's own thread.

use std::net::{TcpListener, TcpStream};

use tokio::sync::oneshot;

use super::{
    super::{Newcomer, Seats, inbox::Bounds},
    *,
};
use crate::{
    change::{Change, Subject},
    config::{Config, Live},
    ids::{ClientId, Name},
    message::{Kind, Receipt},
    sink::NoSink,
};

/// A shard and the other ends of its clients' sockets.
struct Case {
    shard: Loop,
    clock: Clock,
    listener: TcpListener,
    seats: Seats,
    peers: Vec<TcpStream>,
}

type Answer<T> = oneshot::Receiver<T>;

impl Case {
    fn new() -> Self {
        Self::with(|_| ())
    }

    /// A shard that has certain settings, without timers but those that are asked for.
    fn with(set: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.websocket.ping_interval = Duration::ZERO;
        config.websocket.heartbeat_timeout = Duration::ZERO;
        set(&mut config);
        let clock = Clock::paused();
        let world = World {
            live: Live::new(config),
            directory: Arc::default(),
            sink: Arc::new(NoSink),
            shards: 1,
            clock: clock.clone(),
        };
        let poll = Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), WAKER).unwrap();
        let inbox = Arc::new(Inbox::new(Arc::new(waker)));
        let ear = world.sink.ear(0, Arc::new(|| ()));
        let shard = Loop::new(0, poll, inbox, Arc::default(), ear, &world);
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        Self { shard, clock, listener, seats: Seats::default(), peers: Vec::new() }
    }

    /// A client connects; answers its id.
    fn connect(&mut self) -> ClientId {
        self.peers.push(TcpStream::connect(self.listener.local_addr().unwrap()).unwrap());
        let (stream, peer) = self.listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        self.shard.adopt(Newcomer {
            stream,
            tls: None,
            greeting: Vec::new(),
            leftover: Vec::new(),
            peer,
            window: None,
            about: None,
            change: None,
            seat: self.seats.take(usize::MAX).unwrap(),
        });
        self.shard.sessions.iter().map(|(_, it)| it.id).max_by_key(|id| id.slot()).unwrap()
    }

    fn connect_n(&mut self, count: usize) -> Vec<ClientId> {
        (0..count).map(|_| self.connect()).collect()
    }

    /// A command arrives.
    fn arrives<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Answer<T> {
        let (reply, answer) = oneshot::channel();
        let command = command(reply);
        let bounds = Bounds { calls: usize::MAX, bytes: usize::MAX };
        let place = self.shard.inbox.reserve(command.cost(), bounds);
        place.unwrap_or_else(|_| unreachable!("everything fits")).commit(command);
        answer
    }

    /// One turn, with what has happened on the sockets by now.
    fn turn(&mut self) {
        let mut events = Events::with_capacity(EVENTS);
        self.shard.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        self.shard.turn(&events);
    }

    /// What a client is changed by, in a turn of its own.
    fn change(&mut self, client: ClientId, change: Change) {
        let subjects = vec![Subject { client, of: None }];
        let mut answer = self.arrives(|reply| Command::Change(subjects, Arc::new(change), reply));
        self.turn();
        assert!(answer.try_recv().unwrap()[0].is_ok());
    }

    fn session(&self, client: ClientId) -> &Session {
        &self.shard.sessions[client.slot() as usize]
    }

    fn panics(&self) -> u64 {
        self.shard.desk.stats.panics.get()
    }
}

fn text(text: &str) -> Payload {
    Payload::from_text(Kind::Text, text.to_owned())
}

fn name(text: &str) -> Name {
    Name::new(text, 99).unwrap()
}

#[test]
fn a_message_is_worth_something_from_when_it_is_queued() {
    let mut case = Case::new();
    let client = case.connect();
    case.turn();
    case.clock.advance(Duration::from_secs(1));
    case.shard.begin_turn();
    // What was done before it in this turn has taken a while.
    case.clock.advance(Duration::from_secs(60));
    let mut payload = text("short-lived");
    payload.terms.ttl = Some(Duration::from_secs(10));
    let (reply, mut answer) = oneshot::channel();
    // Something behind it, so that it is queued and not written past the queue.
    let (nobody, _) = oneshot::channel();
    let these = Clients::These([client].into());
    case.shard.lay_out(Command::Send(these, payload, reply));
    case.shard.lay_out(Command::Send(Clients::Group(name("nobody")), text(""), nobody));
    case.shard.carry_out();
    assert_eq!(answer.try_recv(), Ok(Receipt::all_queued(1)));

    case.clock.advance(Duration::from_millis(9_999));
    case.shard.begin_turn();
    let drop_expired = |case: &mut Case| {
        let Loop { desk, sessions, .. } = &mut case.shard;
        let session = &mut sessions[client.slot() as usize];
        desk.drop_expired(session);
        session.out.messages()
    };
    assert_eq!(drop_expired(&mut case), 1);
    case.clock.advance(Duration::from_millis(1));
    case.shard.begin_turn();
    assert_eq!(drop_expired(&mut case), 0);
}

#[test]
fn who_may_stay_for_a_while_stays_from_when_that_is_said() {
    let mut case = Case::new();
    let client = case.connect();
    case.shard.begin_turn();
    case.clock.advance(Duration::from_secs(60));
    let change = Change { expires: Some(Some(Duration::from_secs(10))), ..Change::default() };
    let subject = Subject { client, of: None };
    case.shard.change(&subject, &change).unwrap();
    case.clock.advance(Duration::from_millis(9_900));
    case.turn();
    assert!(case.session(client).is_open());
    case.clock.advance(Duration::from_millis(100));
    case.turn();
    assert!(!case.session(client).is_open());
}

#[test]
fn whose_time_is_moved_again_and_again_takes_few_entries() {
    let mut case = Case::new();
    let client = case.connect();
    let hours =
        |hours| Change { expires: Some(Some(Duration::from_hours(hours))), ..Change::default() };
    let tenths = |tenths| Change {
        expires: Some(Some(Duration::from_millis(tenths * 100))),
        ..Change::default()
    };
    let mut change = |change: Change, most: usize| {
        let subject = Subject { client, of: None };
        case.shard.change(&subject, &change).unwrap();
        let entries = case.shard.wheel.len();
        assert!(entries <= most, "{entries} entries after {change:?}");
    };
    // Further and further away, to and fro, nearer and nearer.
    for more in 0..100_000 {
        change(hours(1 + more % 1000), 1);
        change(tenths(1_000_000 + more), 1);
    }
    for nearer in 0..100_000 {
        change(tenths(100_100 - nearer), 512);
    }
    for more in 0..100_000 {
        change(tenths(100 + more), 512);
        change(Change { expires: Some(None), ..Change::default() }, 512);
    }
    let said = Duration::from_millis(100 * 777);
    case.change(client, Change { expires: Some(Some(said)), ..Change::default() });
    case.clock.advance(said - Duration::from_millis(1));
    case.turn();
    assert!(case.session(client).is_open());
    case.clock.advance(Duration::from_millis(1));
    case.turn();
    assert!(!case.session(client).is_open(), "though it was moved so often");
    // The clients that come and go leave nothing behind for long either.
    case.clock.advance(Duration::from_secs(52));
    case.turn();
    assert_eq!(case.shard.wheel.len(), 0);
}

#[test]
fn a_time_that_is_far_away_comes_exactly() {
    let mut case = Case::new();
    let client = case.connect();
    let hour = Duration::from_hours(1);
    case.change(client, Change { expires: Some(Some(hour)), ..Change::default() });
    let mut waited = Duration::ZERO;
    while case.session(client).is_open() {
        // As long as the poll would sleep, and no longer.
        let sleep = case.shard.wheel.next(case.clock.now()).expect("it is to be looked at");
        case.clock.advance(sleep);
        waited += sleep;
        case.turn();
    }
    assert_eq!(waited, hour);
}
