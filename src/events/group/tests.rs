//! What a consumer group promises, case by case; [`model`] walks at random.

mod model;

/// Events to append.
mod event {
    use std::time::{Duration, SystemTime};

    use crate::{
        attributes::Attributes,
        close::Cause,
        events::{Event, Newly, What},
        ids::ClientId,
        message::Kind,
        sink::Closed,
    };

    fn of(client: ClientId, what: What) -> Event {
        Event { client, uid: None, at: SystemTime::UNIX_EPOCH, what }
    }

    pub(super) fn opened(client: ClientId) -> Event {
        let peer = ([127, 0, 0, 1], 1).into();
        let attributes = Attributes::NONE;
        let newly = Newly { groups: Vec::new(), attributes, peer, about: None };
        of(client, What::Opened(Box::new(newly)))
    }

    pub(super) fn message(client: ClientId, size: usize) -> Event {
        of(client, What::Message { kind: Kind::Binary, bytes: vec![0; size].into() })
    }

    pub(super) fn closed(client: ClientId) -> Event {
        let (cause, code, lasted) = (Cause::Peer, 1000, Duration::ZERO);
        of(client, What::Closed(Closed { cause, code, lasted, bytes_in: 0, bytes_out: 0 }))
    }
}
