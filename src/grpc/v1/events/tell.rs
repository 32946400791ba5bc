//! What a subscriber is told: events as messages, and ends as statuses.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::super::{
    fault::{self, Faults},
    proto::{
        self, ConnectedClient, Event, EventBatch, Hello, SubscribeResponse, event::What,
        subscribe_response::Step,
    },
};
use crate::{
    events::{
        self, Delivered, Delivery, Ended, Newly, Partitions, SubscribeError, WrongAck, partition_of,
    },
    ids::{ClientId, Name},
    message::Kind,
    sink::Closed,
    timestamp,
};

/// The first answer.
pub(super) fn hello(epoch: u64, window: usize) -> SubscribeResponse {
    let window = i32::try_from(window).unwrap_or(i32::MAX);
    SubscribeResponse { step: Some(Step::Hello(Hello { epoch, window })) }
}

/// Events that leave together.
pub(super) fn batch(deliveries: Vec<Delivery>) -> EventBatch {
    EventBatch { events: deliveries.into_iter().map(event).collect() }
}

fn event(delivery: Delivery) -> Event {
    let Delivery { cursor, redelivered, what } = delivery;
    let mut told = Event { cursor, redelivered, ..Event::default() };
    told.what = Some(match what {
        Delivered::Event(event) => {
            told.client = event.client.to_string();
            told.partition = partition_of(event.client).into();
            told.uid = event.uid.as_ref().map_or_else(String::new, Name::to_string);
            told.time = Some(timestamp::write(event.at));
            did(&event.what)
        }
        Delivered::Missed { partitions, first, last, messages, changes } => {
            let (messages, changes) = (count(messages), count(changes));
            let partitions = numbers(partitions);
            What::Missed(proto::Missed { first, last, messages, changes, partitions })
        }
        Delivered::Snapshot { partitions, clients } => What::Snapshot(proto::Snapshot {
            partitions: numbers(partitions),
            clients: clients.into_iter().map(connected).collect(),
        }),
    });
    told
}

fn numbers(partitions: Partitions) -> Vec<i32> {
    match partitions {
        Partitions::All => Vec::new(),
        Partitions::These(numbers) => numbers.into_iter().map(i32::from).collect(),
    }
}

fn connected(client: ClientId) -> ConnectedClient {
    ConnectedClient { client: client.to_string(), partition: partition_of(client).into() }
}

fn did(what: &events::What) -> What {
    match what {
        events::What::Opened(newly) => What::Opened(opened(newly)),
        events::What::Message { kind, bytes } => {
            let kind = match kind {
                Kind::Text => proto::Kind::Text,
                Kind::Binary => proto::Kind::Binary,
            };
            What::Message(proto::Message { kind: kind.into(), data: bytes.clone() })
        }
        events::What::Closed(how) => What::Closed(closed(how)),
    }
}

fn opened(newly: &Newly) -> proto::Opened {
    let about = newly.about.as_deref();
    let path = about.map(|about| &*about.path).filter(|path| !path.is_empty());
    let headers = about.into_iter().flat_map(|about| &about.headers);
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    proto::Opened {
        groups: newly.groups.iter().map(Name::to_string).collect(),
        attributes: newly.attributes.iter().map(|(name, value)| pair(name, value)).collect(),
        peer_address: newly.peer.to_string(),
        path: path.unwrap_or("/").to_owned(),
        subprotocol: about.map_or_else(String::new, |about| about.subprotocol.to_string()),
        headers: headers.map(|(name, value)| pair(name, value)).collect(),
    }
}

fn closed(how: &Closed) -> proto::Closed {
    proto::Closed {
        code: i32::from(how.code),
        cause: how.cause.name().to_owned(),
        // A client is not connected for ten thousand years.
        duration: how.lasted.try_into().ok(),
        bytes_received: count(how.bytes_in),
        bytes_sent: count(how.bytes_out),
    }
}

/// A count on the wire: what an int64 can't hold is the most it can.
fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The status of a stream that could not begin.
pub(super) fn refused(why: &SubscribeError, group: &Name) -> Status {
    let text = why.to_string();
    match why {
        SubscribeError::UnknownGroup { .. } => no_group(text, group.as_str()),
        SubscribeError::TooManySubscribers { .. } => {
            fault::exhausted("events.max_subscribers", text)
        }
        SubscribeError::TooManyGroups { .. } => fault::exhausted("events.max_groups", text),
        SubscribeError::Stopped => Status::unavailable(text),
    }
}

/// The status of a stream that is over.
pub(super) fn ended(why: &Ended) -> Status {
    let text = why.to_string();
    match why {
        Ended::Overdue { cursor, .. } => {
            let said = [("key", "events.ack_timeout".to_owned()), ("cursor", cursor.to_string())];
            let said = said.map(|(name, value)| (name.to_owned(), value));
            let details = ErrorDetails::with_error_info("OVERDUE", DOMAIN, said);
            Status::with_error_details(Code::DeadlineExceeded, text, details)
        }
        Ended::Gone => no_group(text, ""),
        Ended::Stopped => Status::unavailable(text),
    }
}

/// The status of a stream whose caller has closed its side and has all that it can be given.
pub(super) fn mute(window: usize) -> Status {
    let text = format!(
        "window of {window} events full: keep the request stream open to acknowledge events, \
         closing it ends the subscription"
    );
    let details = ErrorDetails::with_error_info("REQUEST_STREAM_CLOSED", DOMAIN, []);
    Status::with_error_details(Code::FailedPrecondition, text, details)
}

/// Whose words the reasons in the details are.
const DOMAIN: &str = "gateway.v1";

fn no_group(text: String, group: &str) -> Status {
    let details = ErrorDetails::with_resource_info("events.groups", group, "", &text);
    Status::with_error_details(Code::NotFound, text, details)
}

/// The status of a stream with an acknowledgement that can't be meant.
pub(super) fn wrong(why: &WrongAck) -> Status {
    let field = match why {
        WrongAck::Epoch { .. } => "acknowledgement.epoch",
        WrongAck::UnknownCursor { .. } => "acknowledgement.cursor",
    };
    let mut faults = Faults::default();
    faults.add(field, why);
    faults.into()
}
