//! One client's queue at the desk: what a flush counts, and what it says of how fast somebody reads.

use std::{
    net::{TcpListener, TcpStream},
    rc::Rc,
};

use super::{
    super::{
        Seats,
        offer::Offer,
        outbound::{Frame, Sort},
        tunnel::{Tunnel, tests::shaken},
    },
    *,
};
use crate::{config::Config, ids::ClientId, message::WhenBehind};

const SLOT: u32 = 0;

/// A desk, and one client of it. What it is sent stays in its kernel.
struct Case {
    desk: Desk,
    door: Door,
    session: Session,
    _client: TcpStream,
}

impl Case {
    fn new(sealed: bool) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, peer) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        let meter = Meter::default();
        let caps = Caps::new(&Arc::new(Config::default().into()), 1);
        let mut desk = Desk::new(Arc::default(), caps, meter, Instant::now());
        if sealed {
            desk.tunnels.dig(SLOT, Tunnel::new(shaken().1));
        }
        let seat = Seats::default().take(1).unwrap();
        let session = Session::new(ClientId::new(0, SLOT, 0, 0), peer, seat, 0);
        let door = Door::new(mio::net::TcpStream::from_std(ours), None, sealed);
        Self { desk, door, session, _client: client }
    }

    fn frame(&self, bytes: &[u8]) -> Rc<Frame> {
        Frame::new(bytes.into(), &self.desk.meter)
    }

    fn append(&mut self, bytes: &[u8]) {
        let frame = self.frame(bytes);
        self.session.out.append(frame, Sort::Message, &self.desk.meter);
    }

    fn flush(&mut self) -> State {
        self.desk.flush(SLOT, &self.door, &mut self.session)
    }
}

/// As many messages as no turn can write, plain or sealed.
const MANY: usize = 1500;

/// A client whose queue is long, and for whom a message comes that fits only when all of it is gone.
fn with_a_long_queue(sealed: bool) -> (Case, Rc<Frame>) {
    let mut case = Case::new(sealed);
    for _ in 0..MANY {
        case.append(b"short");
    }
    let message = case.frame(&[7; 1000]);
    case.desk.caps.queue_bytes = message.len() + 5;
    (case, message)
}

#[test]
fn who_reads_is_not_slow_because_a_flush_ended_with_its_turn() {
    for sealed in [false, true] {
        let (mut case, message) = with_a_long_queue(sealed);
        assert_eq!(case.flush(), State::Unfinished);
        assert!(!case.desk.fits(&case.session, message.len()), "one turn is not enough");

        let (mut case, message) = with_a_long_queue(sealed);
        let Case { desk, door, session, .. } = &mut case;
        let offer = desk.offer(SLOT, door, session, (Rc::clone(&message), &WhenBehind::Queue));
        assert!(matches!(offer, Offer::Queued(0)));
        assert!(desk.victims.is_empty() && !session.flags.doomed);
        assert_eq!(desk.stats.messages_out.get(), MANY as u64);
        assert_eq!(session.out.bytes(), message.len());
    }
}

#[test]
fn who_does_not_read_is_slow_however_often_the_queue_is_flushed() {
    for sealed in [false, true] {
        let mut case = Case::new(sealed);
        // More than the kernel keeps for somebody who doesn't read.
        let mut state = State::Empty;
        while state != State::Blocked {
            if state == State::Empty {
                case.append(&vec![7; 1 << 20]);
            }
            state = case.flush();
        }
        case.session.flags.blocked = false;
        let message = case.frame(&[7; 1000]);
        case.desk.caps.queue_bytes = 1000;
        let Case { desk, door, session, .. } = &mut case;
        assert!(matches!(
            desk.offer(SLOT, door, session, (Rc::clone(&message), &WhenBehind::Queue)),
            Offer::Closed
        ));
        assert_eq!(desk.victims, [(SLOT, Cause::Slow)]);
        assert_eq!(desk.stats.dropped[Drop::Newest as usize].get(), 1);
    }
}

#[test]
fn what_was_sealed_and_never_sent_is_lost_once() {
    for sealed in [false, true] {
        let mut case = Case::new(sealed);
        case.door.shut_write();
        for _ in 0..100 {
            case.append(b"lost");
        }
        assert_eq!(case.flush(), State::Broken);
        assert_eq!(case.desk.stats.messages_out.get(), 0);
        let sealed = case.desk.tunnels.get(SLOT).map_or(0, |tunnel| tunnel.messages());
        assert_eq!(case.session.out.abandon(&case.desk.meter) + sealed, 100);
    }
}
