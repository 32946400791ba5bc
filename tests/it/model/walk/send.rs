//! `gateway.v1.Messages/Send`, and clients that don't read what they are sent.

use gateway_websocket::grpc::proto::v1::{
    Delivery, Kind, Message, SendRequest, Target, messages_client::MessagesClient,
    send_request::WhenBehind as Behind,
};
use prost_types::Duration;
use tonic::Code;

use super::{
    Walk,
    draw::{is_valid, said},
    outcome,
};
use crate::model::{
    KEYS,
    queue::{MORE_THAN_FITS, Terms, WhenBehind},
    world::{Numbers, is_name},
};

/// Of these some fit into a queue behind a stuck message, and not many.
const LARGE_PILE: usize = 150 * 1024;

/// Times in milliseconds; a ttl and the clock's steps are sums of the same, so that they meet.
const TIMES: [u64; 5] = [1, 50, 100, 250, 1000];

impl Walk {
    pub(super) fn send_request(&mut self, number: u64) -> SendRequest {
        let repeatable = self.keys_made > 0 && self.random.once_in(8);
        if repeatable {
            return self.repeat(number);
        }
        let mut request = self.unkeyed_request(number, false);
        if self.random.once_in(6) {
            self.keys_made += 1;
            request.idempotency_key = format!("key {}", self.keys_made - 1);
            if self.random.once_in(20) {
                request.idempotency_key = "k".repeat(257);
            }
        }
        request
    }

    /// A call under a key that was used, for the same or for something else.
    fn repeat(&mut self, number: u64) -> SendRequest {
        let changed = self.random.once_in(3);
        if !self.keys.is_empty() && !self.random.once_in(6) {
            let mut request = self.random.one_of(self.keys.iter()).0.clone();
            if changed {
                request.ttl = request.ttl.map_or_else(|| Some(millis(1000)), |_| None);
            }
            return request;
        }
        // One that may be forgotten.
        let nth = u64::try_from(self.random.below(2 * KEYS)).unwrap();
        let key = format!("key {}", self.keys_made.saturating_sub(nth + 1));
        SendRequest { idempotency_key: key, ..self.unkeyed_request(number, false) }
    }

    pub(super) fn unkeyed_request(&mut self, number: u64, small: bool) -> SendRequest {
        let target = (!self.random.once_in(80)).then(|| self.target());
        let ttl = match self.random.below(80) {
            0 => Some(Duration { seconds: 0, nanos: 999_999 }),
            1 => Some(Duration { seconds: -1, nanos: 0 }),
            2..28 => Some(millis(TIMES[self.random.below(TIMES.len())])),
            _ => None,
        };
        let when_behind = match self.random.below(80) {
            0 => Some(Behind::ConflateKey(String::new())),
            1..4 => Some(Behind::DropIfBehind(false)),
            4..16 => Some(Behind::DropIfBehind(true)),
            16..40 => Some(Behind::ConflateKey(format!("key {}", self.random.below(3)))),
            _ => None,
        };
        let message = self.modern_message(number, small);
        SendRequest { target, message, ttl, when_behind, idempotency_key: String::new() }
    }

    pub(super) async fn send(&mut self, request: SendRequest) {
        let mut client = MessagesClient::new(self.gateway.channel());
        let answer = client.send(request.clone()).await;
        let expected = self.answer_to(&request);
        assert_eq!(outcome(answer).map(|answer| numbers(answer.delivery)), expected);
    }

    fn answer_to(&mut self, request: &SendRequest) -> Result<Numbers, Code> {
        let key = &request.idempotency_key;
        if !is_valid_send(request) || !key.is_empty() && !is_name(key) {
            return Err(Code::InvalidArgument);
        }
        if let Some((known, numbers)) = self.keys.iter().find(|(it, _)| it.idempotency_key == *key)
            && !key.is_empty()
        {
            return if known == request { Ok(*numbers) } else { Err(Code::InvalidArgument) };
        }
        let numbers = self.deliver(request);
        if !key.is_empty() {
            self.keys.push_back((request.clone(), numbers));
            if self.keys.len() > KEYS {
                self.keys.pop_front();
            }
        }
        Ok(numbers)
    }

    /// What a valid request does.
    pub(super) fn deliver(&mut self, request: &SendRequest) -> Numbers {
        let said = said(request.message.as_ref()).expect("it is valid");
        let clients = self.world.whom(request.target.as_ref().expect("it is valid"));
        let terms = Terms {
            ttl: request.ttl.as_ref().map(in_millis),
            when_behind: match &request.when_behind {
                Some(Behind::DropIfBehind(true)) => WhenBehind::Drop,
                Some(Behind::ConflateKey(key)) => WhenBehind::Conflate(key.clone()),
                Some(Behind::DropIfBehind(false)) | None => WhenBehind::Queue,
            },
        };
        self.world.send(&clients, &said, &terms)
    }

    pub(super) async fn get_stuck(&mut self, client: &str) {
        self.send(to_one(client, &"stuck ".repeat(MORE_THAN_FITS / 6))).await;
        assert!(self.world.who_is_stuck().iter().any(|stuck| stuck == client));
    }

    pub(super) async fn pile_up(&mut self, client: &str) {
        self.send(to_one(client, &"pile ".repeat(LARGE_PILE / 5))).await;
    }

    pub(super) fn time(&mut self) -> u64 {
        if self.random.once_in(20) { 70 * 60_000 } else { TIMES[self.random.below(TIMES.len())] }
    }
}

fn to_one(client: &str, text: &str) -> SendRequest {
    let target = Target { clients: vec![client.to_owned()], ..Target::default() };
    let message = Message { kind: Kind::Text.into(), data: text.to_owned().into() };
    SendRequest { target: Some(target), message: Some(message), ..SendRequest::default() }
}

/// Whether all of it is valid but for its key.
pub(super) fn is_valid_send(request: &SendRequest) -> bool {
    let has_good_ttl = request.ttl.as_ref().is_none_or(|ttl| in_millis(ttl) >= 1);
    let has_good_key = match &request.when_behind {
        Some(Behind::ConflateKey(key)) => is_name(key),
        _ => true,
    };
    let has_message = said(request.message.as_ref()).is_some();
    request.target.as_ref().is_some_and(is_valid) && has_message && has_good_ttl && has_good_key
}

/// Whole milliseconds, of negative times none.
fn in_millis(time: &Duration) -> u64 {
    let seconds = u64::try_from(time.seconds).unwrap_or_default();
    seconds * 1000 + u64::try_from(time.nanos).unwrap_or_default() / 1_000_000
}

fn millis(millis: u64) -> Duration {
    let time = std::time::Duration::from_millis(millis);
    Duration { seconds: time.as_secs().cast_signed(), nanos: time.subsec_nanos().cast_signed() }
}

/// The numbers of an answer.
pub fn numbers(delivery: Option<Delivery>) -> Numbers {
    let delivery = delivery.expect("an answer has its numbers");
    let number = |number: i64| u64::try_from(number).unwrap();
    Numbers {
        matched: number(delivery.matched),
        queued: number(delivery.queued),
        behind: number(delivery.dropped_behind),
        full: number(delivery.dropped_full),
        closed: number(delivery.dropped_closed),
        replaced: number(delivery.replaced),
    }
}
