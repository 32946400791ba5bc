//! A shard whose turns are taken one by one, on the test's own thread.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use tokio::sync::oneshot;

use super::{
    super::{
        Clock, ConnectionLimit, NewConnection,
        connection::Connection,
        connections::Connections,
        inbox::Bounds,
        outbound::drop_expired,
        question::Scan,
        reply::{Answer, BatchReply},
    },
    *,
};
use crate::{
    change::Expiry,
    config::{Config, Live},
    ids::{ClientId, Name},
    message::{Kind, Payload, Receipt},
    sink::{EventSink, NoSink},
};

mod faults;

/// A shard and the other ends of its clients' sockets.
struct Case {
    shard: EventLoop,
    clock: Clock,
    listener: TcpListener,
    permits: ConnectionLimit,
    peers: Vec<TcpStream>,
}

impl Case {
    fn new() -> Self {
        Self::with(|_| ())
    }

    /// A shard that has certain settings, without timers but those that are asked for.
    fn with(set: impl FnOnce(&mut Config)) -> Self {
        Self::with_sink(set, Arc::new(NoSink))
    }

    /// The same, and what its clients do is reported.
    fn with_sink(set: impl FnOnce(&mut Config), sink: Arc<dyn EventSink>) -> Self {
        let mut config = Config::default();
        config.websocket.ping_interval = Duration::ZERO;
        config.websocket.heartbeat_timeout = Duration::ZERO;
        set(&mut config);
        let clock = Clock::paused();
        let world = World {
            live: Live::new(config),
            directory: Arc::default(),
            sink,
            shards: 1,
            clock: clock.clone(),
        };
        let poll = Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), WAKER).unwrap();
        let inbox = Arc::new(Inbox::new(Arc::new(waker)));
        let ear = world.sink.ear(0, Arc::new(|| ()));
        let shard = EventLoop::new(0, poll, inbox, Default::default(), ear, &world);
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        Self { shard, clock, listener, permits: ConnectionLimit::default(), peers: Vec::new() }
    }

    /// A client connects; answers its id.
    fn connect(&mut self) -> ClientId {
        self.connect_with(None, None)
    }

    /// The same with compression.
    fn connect_compressed(&mut self) -> ClientId {
        self.connect_with(Some(15), None)
    }

    fn connect_with(&mut self, window: Option<u8>, change: Option<Change>) -> ClientId {
        let new = self.new_connection(window, change);
        self.shard.command(Command::Adopt(Box::new(new)));
        self.shard.apply();
        let connections = self.connections().iter();
        connections.map(|(_, it)| it.id).max_by_key(|id| id.slot()).unwrap()
    }

    /// A connection that is assigned to the shard.
    fn new_connection(&mut self, window: Option<u8>, change: Option<Change>) -> NewConnection {
        self.peers.push(TcpStream::connect(self.listener.local_addr().unwrap()).unwrap());
        let (stream, peer) = self.listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        self.shard.state.context.load.assigned();
        NewConnection {
            stream,
            tls: None,
            greeting: Vec::new(),
            leftover: Vec::new(),
            peer,
            window,
            about: None,
            change: change.map(Box::new),
            permit: self.permits.take(usize::MAX).unwrap(),
        }
    }

    fn connect_n(&mut self, count: usize) -> Vec<ClientId> {
        let clients = (0..count).map(|_| self.connect()).collect();
        // That their sockets can be written to is told of some at a time.
        for _ in 0..=count / READY_AT_ONCE {
            self.turn();
        }
        clients
    }

    /// A command arrives.
    fn arrives<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> oneshot::Receiver<T> {
        let (reply, answer) = oneshot::channel();
        let command = command(reply);
        let bounds = Bounds { calls: usize::MAX, bytes: usize::MAX };
        let place = self.shard.inbox.reserve(command.cost(), bounds);
        place.unwrap_or_else(|_| unreachable!("everything fits")).commit(command);
        answer
    }

    fn begin_turn(&mut self) {
        self.shard.state.begin_turn(self.shard.reader.current());
    }

    /// One turn, with what has happened on the sockets by now.
    fn turn(&mut self) {
        let mut events = mio::Events::with_capacity(READY_AT_ONCE);
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

    fn connections(&self) -> &Connections {
        &self.shard.state.connections
    }

    fn connection(&self, client: ClientId) -> &Connection {
        self.connections().get(Slot::of(client)).unwrap()
    }

    fn join(&mut self, client: ClientId, group: &Name) {
        let State { connections, membership, .. } = &mut self.shard.state;
        membership.join(connections, Slot::of(client), group);
    }

    fn members(&self, group: &str) -> &[Slot] {
        self.shard.state.membership.members(&name(group))
    }

    /// A client is changed outside of a turn.
    fn change_now(&mut self, client: ClientId, to: &Change) {
        let subject = Subject { client, of: None };
        change(&mut self.shard.state, &subject, to, &mut self.shard.effects).unwrap();
    }

    fn closed_for(&self, cause: Cause) -> u64 {
        self.shard.state.context.stats.closed[cause.index()].get()
    }

    /// Clients that are connected.
    fn online(&self) -> usize {
        self.connections().open().count()
    }

    /// A client that asks is heard and answered in one turn.
    fn is_heard(&mut self, peer: usize) {
        let mut stream = self.peers[peer].try_clone().unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut waste = [0; 4096];
        while stream.read(&mut waste).is_ok() {}
        // The text "ping", masked with zeroes.
        stream.write_all(b"\x81\x84\0\0\0\0ping").unwrap();
        self.turn();
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).expect("it was answered in this turn");
        assert_eq!(&answer, b"\x81\x04pong");
    }

    fn panics(&self) -> u64 {
        self.shard.state.context.stats.panics.get()
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
    case.begin_turn();
    // What was done before it in this turn has taken a while.
    case.clock.advance(Duration::from_mins(1));
    let mut payload = text("short-lived");
    payload.terms.ttl = Some(Duration::from_secs(10));
    let (reply, mut answer) = oneshot::channel();
    // Something behind it, so that it is queued and not written past the queue.
    let (nobody, _) = oneshot::channel();
    let these = Recipients::These([client].into());
    case.shard.jobs.push(Command::Send(these, payload, reply));
    case.shard.jobs.push(Command::Send(Recipients::Group(name("nobody")), text(""), nobody));
    case.shard.do_jobs();
    assert_eq!(answer.try_recv(), Ok(Receipt::all_queued(1)));

    case.clock.advance(Duration::from_millis(9_999));
    case.begin_turn();
    let drop_expired = |case: &mut Case| {
        let State { context, connections, .. } = &mut case.shard.state;
        let connection = connections.get_mut(Slot::of(client)).unwrap();
        drop_expired(context, connection);
        connection.out.messages()
    };
    assert_eq!(drop_expired(&mut case), 1);
    case.clock.advance(Duration::from_millis(1));
    case.begin_turn();
    assert_eq!(drop_expired(&mut case), 0);
}

#[test]
fn an_answer_that_has_just_come_is_before_the_goodbye() {
    let mut case = Case::with(|config| {
        config.websocket.messages = Messages::Forward;
        config.events.answer_wait = Duration::from_secs(1);
    });
    let client = case.connect();
    case.turn();
    let answer = case
        .arrives(|reply| Command::Send(Recipients::These([client].into()), text("answer"), reply));
    // Seen in the same turn, and before the answer.
    case.peers[0].write_all(b"\x88\x82\0\0\0\0\x03\xe8").unwrap();
    case.turn();
    assert_eq!(answer.blocking_recv(), Ok(Receipt::all_queued(1)));
    // After the id.
    let mut heard = [0; 38 + 12];
    case.peers[0].read_exact(&mut heard).unwrap();
    assert_eq!(&heard[38..], b"\x81\x06answer\x88\x02\x03\xe8");
}

#[test]
fn who_may_stay_for_a_while_stays_from_when_that_is_said() {
    let mut case = Case::new();
    let client = case.connect();
    case.begin_turn();
    case.clock.advance(Duration::from_mins(1));
    let change =
        Change { expires: Some(Expiry::after(Duration::from_secs(10))), ..Change::default() };
    case.change_now(client, &change);
    case.clock.advance(Duration::from_millis(9_900));
    case.turn();
    assert!(case.connection(client).is_open());
    case.clock.advance(Duration::from_millis(100));
    case.turn();
    assert!(!case.connection(client).is_open());
}

#[test]
fn whose_time_is_moved_again_and_again_takes_few_entries() {
    let mut case = Case::new();
    let client = case.connect();
    let hours = |hours| Change {
        expires: Some(Expiry::after(Duration::from_hours(hours))),
        ..Change::default()
    };
    let tenths = |tenths| Change {
        expires: Some(Expiry::after(Duration::from_millis(tenths * 100))),
        ..Change::default()
    };
    let mut change = |change: Change, most: usize| {
        case.change_now(client, &change);
        let entries = case.shard.state.timers.wheel.len();
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
    case.change(client, Change { expires: Some(Expiry::after(said)), ..Change::default() });
    case.clock.advance(Duration::from_millis(77_699));
    case.turn();
    assert!(case.connection(client).is_open());
    case.clock.advance(Duration::from_millis(1));
    case.turn();
    assert!(!case.connection(client).is_open(), "though it was moved so often");
    // The clients that come and go leave nothing behind for long either.
    case.clock.advance(Duration::from_secs(52));
    case.turn();
    assert_eq!(case.shard.state.timers.wheel.len(), 0);
}

#[test]
fn a_time_that_is_far_away_comes_exactly() {
    let mut case = Case::new();
    let client = case.connect();
    let hour = Duration::from_hours(1);
    case.change(client, Change { expires: Some(Expiry::after(hour)), ..Change::default() });
    let mut waited = Duration::ZERO;
    while case.connection(client).is_open() {
        // As long as the poll would sleep, and no longer.
        let sleep =
            case.shard.state.timers.wheel.next(case.clock.now()).expect("it is to be looked at");
        case.clock.advance(sleep);
        waited += sleep;
        case.turn();
    }
    assert_eq!(waited, hour);
}

/// More clients than one turn can do something about.
const CROWD: usize = 5000;

#[test]
fn a_crowd_is_closed_in_parts_and_others_have_turns_in_between() {
    let mut case = Case::new();
    let crowd = case.connect_n(CROWD);
    let close = Close::new(Cause::Api, 4000, "all of you");
    let mut closed = case.arrives(|reply| Command::Close(Recipients::All, close, reply));
    let mut sent = case.arrives(|reply| Command::Send(Recipients::All, text("later"), reply));
    case.turn();
    assert_eq!(case.online(), CROWD - 1024);
    // One leaves by itself, and one comes in between.
    case.peers[CROWD - 2].shutdown(std::net::Shutdown::Both).unwrap();
    let newcomer = case.connect();
    let mut turns = 1;
    while closed.is_empty() {
        assert!(sent.try_recv().is_err(), "what was sent later comes later");
        if turns < 4 {
            case.is_heard(CROWD - 1);
            assert!(case.connection(crowd[CROWD - 1]).is_open());
        } else {
            case.turn();
        }
        turns += 1;
        assert!(turns < 10);
    }
    assert_eq!((turns, closed.try_recv()), (5, Ok(CROWD - 1)));
    assert_eq!(case.online(), 1);
    assert!(case.connection(newcomer).is_open());
    assert_eq!(case.closed_for(Cause::Api), CROWD as u64 - 1);
    while sent.is_empty() {
        case.turn();
    }
    assert_eq!(sent.try_recv(), Ok(Receipt::all_queued(1)));
}

#[test]
fn groups_of_a_crowd_are_dissolved_in_parts_and_others_have_turns_in_between() {
    let mut case = Case::new();
    let crowd = case.connect_n(CROWD);
    let [small, large, none, last] = ["small", "large", "none", "last"].map(name);
    for (index, client) in crowd.iter().enumerate() {
        case.join(*client, &large);
        if index % 10 == 0 {
            case.join(*client, &small);
        }
        if index < 3 {
            case.join(*client, &last);
        }
    }
    case.turn();
    let groups: Arc<[Name]> = [&small, &large, &none, &last, &large].map(Clone::clone).into();
    let mut dissolved = case.arrives(|reply| Command::Dissolve(groups, reply));
    let mut joined = {
        let subjects = vec![Subject { client: crowd[7], of: None }];
        let change = Arc::new(Change::join(vec![large.clone()]));
        case.arrives(|reply| Command::Change(subjects, change, reply))
    };
    case.turn();
    assert_eq!(case.members("small").len(), 0);
    let mut turns = 1;
    let left = |case: &Case| case.members("large").len();
    while dissolved.is_empty() {
        assert!(joined.try_recv().is_err(), "what was asked for later comes later");
        assert_eq!(left(&case), CROWD + 500 - turns * 1024);
        case.is_heard(turns);
        turns += 1;
    }
    assert_eq!(turns, 6);
    assert_eq!(dissolved.try_recv(), Ok(vec![500, CROWD, 0, 3, 0]));
    assert_eq!(joined.try_recv().unwrap()[0].as_ref().unwrap().joined, 1);
    assert_eq!(case.members("large"), [Slot::of(crowd[7])]);
    let groups = crowd.iter().map(|client| case.connection(*client).groups.len());
    assert_eq!(groups.sum::<usize>(), 1);
    assert_eq!(case.online(), CROWD);
}

/// A fault in what the shard knows of a client: it is where it is not in its group.
fn misplace(case: &mut Case, client: ClientId) {
    let connection = case.shard.state.connections.get_mut(Slot::of(client)).unwrap();
    connection.groups[0].position = 1_000_000;
}

#[test]
fn a_panic_in_a_change_costs_its_client_and_no_other() {
    let mut case = Case::new();
    let [ada, bob, eve] = case.connect_n(3)[..] else { unreachable!() };
    for client in [ada, bob, eve] {
        case.change(client, Change::join(vec![name("lobby")]));
    }
    misplace(&mut case, bob);
    let change = Change { uid: Some(Some(name("user"))), ..Change::leave(vec![name("lobby")]) };
    let subjects = [ada, bob, eve].map(|client| Subject { client, of: None });
    let mut changed =
        case.arrives(|reply| Command::Change(subjects.into(), Arc::new(change), reply));
    case.turn();
    let changed = changed.try_recv().unwrap();
    assert!(changed[0].is_ok() && changed[2].is_ok());
    assert_eq!(changed[1], Err(Refusal::UnknownClient));
    assert_eq!(case.panics(), 1);
    assert_eq!(case.closed_for(Cause::Fault), 1);
    assert!(!case.connection(bob).is_open());
    let bound = |client| case.connection(client).uid == Some(name("user"));
    assert!(bound(ada) && bound(eve) && !bound(bob));
    case.is_heard(0);
    case.is_heard(2);
}

#[test]
fn a_panic_in_a_call_costs_its_answer_and_nothing_else() {
    let mut case = Case::new();
    case.connect();
    // A fault in whom the shard has to answer: the eighth of one message.
    let (reply, mut broken) = oneshot::channel();
    let nowhere = Answer::Part(BatchReply::new(1, reply), 7);
    case.shard.jobs.go_on_with(Job::Send(Recipients::All, text("broken"), nowhere));
    case.turn();
    let mut sent = case.arrives(|reply| Command::Send(Recipients::All, text("hello"), reply));
    case.turn();
    assert_eq!(broken.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    assert_eq!(sent.try_recv(), Ok(Receipt::all_queued(1)));
    assert_eq!(case.panics(), 1);
    case.is_heard(0);
}

#[test]
fn a_turn_ends_when_enough_was_done_whatever_was_asked_for() {
    let mut case = Case::new();
    let crowd = case.connect_n(64);
    let nobody = ClientId::new(0, 1_000_000, 0, 0);
    let many = DELIVERIES_PER_TURN;
    let subjects = || vec![Subject { client: nobody, of: None }; many];
    let scan = || Scan { search: Arc::default(), from: 0, most: 1 };
    let these: SmallVec<[ClientId; 1]> = crowd.iter().copied().collect();
    let these = Recipients::These(these);
    let uid = |reply| Command::UidOf(nobody, reply);
    let commands: [(&str, usize, &dyn Fn() -> Command); 6] = [
        ("changes", 1, &|| Command::Change(subjects(), Arc::default(), oneshot::channel().0)),
        ("descriptions", 1, &|| Command::Describe(vec![nobody; many], oneshot::channel().0)),
        ("scans", many / 65 + 1, &|| Command::Scan(scan(), oneshot::channel().0)),
        ("questions", many, &|| uid(oneshot::channel().0)),
        ("lists", many / 5 + 1, &|| Command::List(these.clone(), oneshot::channel().0)),
        ("deliveries", many / 65 + 1, &|| {
            Command::Send(these.clone(), text(""), oneshot::channel().0)
        }),
    ];
    for (what, enough, command) in commands {
        for _ in 0..enough + 3 {
            case.shard.jobs.push(command());
            if what == "deliveries" {
                // So that they are no run.
                case.shard.jobs.push(Command::UidOf(nobody, oneshot::channel().0));
            }
        }
        let before = case.shard.jobs.len();
        case.shard.do_jobs();
        let done = before - case.shard.jobs.len();
        let expected = if what == "deliveries" { many / 66 * 2 + 1 } else { enough };
        assert!(done.abs_diff(expected) <= 2, "{what}: {done}, not {expected}");
        case.shard.jobs = Jobs::default();
    }
}

/// Bytes of a client with frames that make much work: they are masked with zeros.
fn flood(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    let frame = [&[first, 0x80 | length, 0, 0, 0, 0], payload].concat();
    frame.repeat(64 * 1024 / frame.len())
}

#[test]
fn who_says_little_is_heard_at_once_beside_those_who_say_much() {
    // Each of these is many turns of work: messages, empty fragments and pings.
    for (first, payload) in [(0x81, &b"x"[..]), (0x89, b""), (0x00, b"")] {
        let mut case = Case::with(|config| {
            config.limits.max_fragments = u32::MAX;
            config.limits.client_messages = 0;
            config.limits.client_bytes.0 = 0;
        });
        case.connect_n(41);
        let flood = flood(first, payload);
        for peer in &mut case.peers[1..] {
            peer.set_nonblocking(true).unwrap();
            if first == 0x00 {
                // The beginning of what they continue.
                peer.write_all(b"\x01\x80\0\0\0\0").unwrap();
            }
            while peer.write(&flood).is_ok_and(|count| count == flood.len()) {}
        }
        // Each of them has had its first quantum after some turns.
        for _ in 0..5 {
            case.turn();
        }
        assert!(case.shard.state.receiver.goes_on(), "they are not through");
        for _ in 0..3 {
            case.is_heard(0);
            assert!(case.shard.state.receiver.goes_on(), "and have their turns beside it");
        }
        assert_eq!(case.online(), 41);
    }
}

#[test]
fn what_a_message_inflates_to_is_work_and_counts_for_the_rate() {
    let bomb = crate::wire::compress_once(15, 9, &vec![0; 1 << 20]).unwrap();
    let length = u16::try_from(bomb.len()).unwrap().to_be_bytes();
    let frame = [&[0xc2, 0xfe, length[0], length[1], 0, 0, 0, 0], &bomb[..]].concat();
    for (rate, closed) in [(0, 0), (64 * 1024, 1)] {
        let mut case = Case::with(|config| config.limits.client_bytes.0 = rate);
        let (honest, attacker) = (case.connect(), case.connect_compressed());
        case.peers[1].write_all(&frame).unwrap();
        case.turn();
        case.is_heard(0);
        while case.shard.state.receiver.goes_on() {
            case.turn();
        }
        assert_eq!(case.closed_for(Cause::Policy), closed, "{rate}");
        assert_eq!(case.online(), 2 - usize::try_from(closed).unwrap());
        assert!(case.connection(honest).is_open());
        if closed == 0 {
            assert_eq!(case.connection(attacker).unheard_bytes(), 0);
            assert_eq!(case.shard.state.context.stats.messages_in.get(), 2);
        }
    }
}

#[test]
fn what_many_new_clients_say_right_away_is_not_heard_in_one_turn() {
    const MANY: u64 = 100;
    let mut case = Case::with(|config| config.limits.client_messages = 0);
    case.connect();
    let leftover = flood(0x81, b"x");
    let each = (leftover.len() / 7) as u64;
    for _ in 0..MANY {
        let new = case.new_connection(None, None);
        let new = NewConnection { leftover: leftover.clone(), ..new };
        case.shard.inbox.push(Command::Adopt(Box::new(new)));
    }
    let heard = |case: &Case| case.shard.state.context.stats.messages_in.get();
    let (mut turns, mut before) = (0, 0);
    while heard(&case) < MANY * each && turns < 1_000 {
        case.turn();
        // A message is a thousand units of work, and a turn has two million.
        let in_turn = heard(&case) - before;
        assert!(in_turn <= 2_100, "{in_turn} messages in one turn");
        before = heard(&case);
        turns += 1;
        // Each of them has had its first quantum after some turns.
        if turns > 10 {
            case.is_heard(0);
            before = heard(&case);
        }
    }
    assert_eq!(case.online() as u64, MANY + 1);
}
