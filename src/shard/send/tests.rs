//! One client's queue: what a flush counts, and what it says of how fast somebody reads.

use std::{
    net::{TcpListener, TcpStream},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use super::{
    super::{
        clock::Clock,
        connection::Connection,
        enqueue::{EnqueueResult, enqueue},
        memory::Budget,
        permit::ConnectionLimit,
        settings::ShardSettings,
        tls::{TlsStream, tests::shaken},
        write_queue::{Frame, Sort, State},
    },
    *,
};
use crate::{close::Cause, config::Config, ids::ClientId, message::WhenBehind};

const SLOT: Slot = Slot::new(0);

/// One client of a shard. What it is sent stays in its kernel.
struct Case {
    context: Context,
    connections: Connections,
    outbound: Outbound,
    effects: Effects,
    _client: TcpStream,
}

impl Case {
    fn new(is_tls: bool) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, peer) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        let context = Context {
            index: 0,
            shards: 1,
            clock: Clock::paused(),
            now: Instant::now(),
            tick: 1000,
            settings: ShardSettings::new(&Arc::new(Config::default().into()), 1),
            stats: Arc::default(),
            load: Arc::default(),
        };
        let permit = ConnectionLimit::default().take(1).unwrap();
        let connection = Connection::new(ClientId::new(0, 0, 0, 0), peer, permit, 0);
        let socket = Socket::new(mio::net::TcpStream::from_std(ours), None, is_tls);
        let tls = is_tls.then(|| TlsStream::new(shaken().1, &Budget::default()));
        let mut connections = Connections::default();
        assert_eq!(connections.insert(connection, socket, tls), SLOT);
        let (outbound, effects) = (Outbound::default(), Effects::default());
        Self { context, connections, outbound, effects, _client: client }
    }

    fn append(&mut self, bytes: &[u8]) {
        let frame = self.outbound.frame(bytes.into());
        self.connection().out.append(frame, Sort::Message);
    }

    fn connection(&mut self) -> &mut Connection {
        self.connections.get_mut(SLOT).unwrap()
    }

    fn flush(&mut self) -> State {
        let mut parts = self.connections.parts(SLOT).unwrap();
        self.outbound.flush(&self.context, &mut parts)
    }

    fn enqueue(&mut self, frame: &Rc<Frame>) -> EnqueueResult {
        let Self { context, connections, outbound, effects, .. } = self;
        let mut parts = connections.parts(SLOT).unwrap();
        let message = (Rc::clone(frame), &WhenBehind::Queue);
        enqueue(outbound, context, &mut parts, message, effects)
    }

    /// What is wanted to be done: nothing, or that the client is closed for a cause.
    fn close(&mut self) -> Option<Cause> {
        self.effects.take().into_iter().find_map(|effect| match effect {
            Effect::Close(SLOT, close) => Some(close.cause),
            _ => None,
        })
    }

    /// Fills the kernel's buffers until the socket takes no more.
    fn fill(&mut self) {
        let mut state = State::Empty;
        while state != State::Blocked {
            if state == State::Empty {
                self.append(&vec![7; 1 << 20]);
            }
            state = self.flush();
        }
    }
}

/// As many messages as no turn can write, plain or sealed.
const MANY: usize = 1500;

/// A client whose queue is long, and for whom a message comes that fits only when all of it is gone.
fn with_a_long_queue(is_tls: bool) -> (Case, Rc<Frame>) {
    let mut case = Case::new(is_tls);
    for _ in 0..MANY {
        case.append(b"short");
    }
    let message = case.outbound.frame(vec![7; 1000].into());
    case.context.settings.queue_bytes = message.len() + 5;
    case.context.settings.slow_client_grace = 0;
    (case, message)
}

#[test]
fn who_reads_is_not_slow_because_a_flush_ended_with_its_turn() {
    for is_tls in [false, true] {
        let (mut case, _) = with_a_long_queue(is_tls);
        assert_eq!(case.flush(), State::Unfinished, "one turn is not enough");

        let (mut case, message) = with_a_long_queue(is_tls);
        assert!(matches!(case.enqueue(&message), EnqueueResult::Queued(0)));
        assert!(case.effects.is_empty() && !case.connection().flags.closing);
        assert_eq!(case.context.stats.messages_out.get(), MANY as u64);
        assert_eq!(case.connection().out.bytes(), message.len());
    }
}

#[test]
fn who_does_not_read_is_slow_when_its_grace_is_over_and_not_before() {
    for is_tls in [false, true] {
        let mut case = Case::new(is_tls);
        case.fill();
        let message = case.outbound.frame(vec![7; 1000].into());
        case.context.settings.queue_bytes = 1000;
        // What is half written is over the bounds of this queue.
        case.context.settings.slow_client_grace = 10;
        case.context.settings.queue_bytes = case.connection().out.bytes();
        for waited in 0..10 {
            assert!(matches!(case.enqueue(&message), EnqueueResult::Queued(0)), "{waited}");
            case.context.tick += 1;
        }
        assert!(matches!(case.enqueue(&message), EnqueueResult::Closed));
        assert_eq!(case.close(), Some(Cause::Slow));
        assert_eq!(case.context.stats.dropped[Drop::Newest as usize].get(), 1);
        assert!(matches!(case.enqueue(&message), EnqueueResult::Gone));
    }
}

#[test]
fn a_grace_has_an_end_in_bytes_too() {
    let mut case = Case::new(false);
    case.fill();
    let message = case.outbound.frame(vec![7; 1 << 20].into());
    case.context.settings.queue_bytes = 2 << 20;
    let mut queued = 0;
    while matches!(case.enqueue(&message), EnqueueResult::Queued(0)) {
        queued += 1;
    }
    // The first one stands for what the kernel took half.
    assert!((30..=31).contains(&queued), "{queued}");
    assert_eq!(case.close(), Some(Cause::Slow));
}

#[test]
fn what_was_sealed_and_never_sent_is_lost_once() {
    for is_tls in [false, true] {
        let mut case = Case::new(is_tls);
        case.connections.sockets.get(SLOT).unwrap().shut_write();
        for _ in 0..100 {
            case.append(b"lost");
        }
        assert_eq!(case.flush(), State::Broken);
        assert_eq!(case.context.stats.messages_out.get(), 0);
        let sealed = case.connections.tls.messages(SLOT);
        assert_eq!(case.connection().out.abandon() + sealed, 100);
    }
}
