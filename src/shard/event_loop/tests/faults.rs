//! Faults that the loop once had, each by the least that showed it.

use std::sync::Mutex;

use super::*;
use crate::{
    config::value::{Memory, Size},
    sink::{Closed, Opened, Wake, Who},
};

/// Remembers that clients came and went.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<(&'static str, ClientId)>>>);

impl EventSink for Recorder {
    fn ear(&self, _: u16, _: Wake) -> Box<dyn Ear> {
        Box::new(self.clone())
    }
}

impl Ear for Recorder {
    fn opened(&mut self, opened: &Opened<'_>) {
        self.0.lock().unwrap().push(("opened", opened.who.client));
    }

    fn closed(&mut self, who: Who<'_>, _: &Closed) {
        self.0.lock().unwrap().push(("closed", who.client));
    }
}

fn large() -> Payload {
    text(&"x".repeat(1 << 20))
}

#[test]
fn a_client_that_its_first_messages_close_is_reported_as_opened_first() {
    let recorder = Recorder::default();
    let set = |config: &mut Config| {
        config.limits.queue_messages = 1;
        config.limits.slow_client_grace = Duration::ZERO;
    };
    let mut case = Case::with_sink(set, Arc::new(recorder.clone()));
    let other = case.connect();
    let messages = vec![large(); 40];
    case.connect_with(None, Some(Change { messages, ..Change::default() }));
    assert_eq!(case.closed_for(Cause::Slow), 1);
    let reported = recorder.0.lock().unwrap().clone();
    let [first, second, third] = reported[..] else { panic!("{reported:?}") };
    assert_eq!(first, ("opened", other));
    assert_eq!((second.0, third), ("opened", ("closed", second.1)));
    assert_eq!(case.online(), 1);
}

#[test]
fn memory_of_a_client_that_is_closing_closes_nobody_else() {
    let mut case = Case::with(|config| {
        config.limits.queued_bytes = Memory::Bytes(Size::mib(8));
        config.limits.queue_bytes = Size::mib(64);
        config.limits.close_wait = Duration::from_hours(1);
    });
    let (closing, open) = (case.connect(), case.connect());
    let this = |client| Recipients::These([client].into_iter().collect());
    let used = |case: &Case| case.shard.state.outbound.memory.used();
    let send = |case: &mut Case, client| {
        let _answer = case.arrives(|reply| Command::Send(this(client), large(), reply));
        case.turn();
    };
    for _ in 0..40 {
        if used(&case) > 6 << 20 {
            break;
        }
        send(&mut case, closing);
    }
    assert!(used(&case) > 6 << 20, "its socket doesn't take all of it");
    let close = Close::new(Cause::Api, 4000, "");
    let _answer = case.arrives(|reply| Command::Close(this(closing), close, reply));
    case.turn();
    assert!(used(&case) > 6 << 20, "what was queued still goes out");
    for _ in 0..40 {
        if case.connections().get(Slot::of(closing)).is_none() {
            break;
        }
        send(&mut case, open);
    }
    assert!(case.connections().get(Slot::of(closing)).is_none(), "it is cut off");
    assert!(case.connection(open).is_open(), "and nobody else is closed");
    assert_eq!(case.closed_for(Cause::Budget), 0);
}
