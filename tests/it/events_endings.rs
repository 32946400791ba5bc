//! How clients end of whom the gateway has had enough: each `closed` says by which code, for which
//! cause, after how long, and what went over the wire until then.

use std::time::{Duration, SystemTime};

use gateway_websocket::{
    grpc::proto::v1::{ApplyRequest, Event, apply_request::Expiry, event::What},
    shard::Clock,
};
use serde_json::json;

use crate::{
    client::soon,
    gateway::Gateway,
    mint::by_secret,
    raw::{BINARY, Raw, TEXT, frame, head, request},
    subscriber::{Subscriber, closed, opened},
    tokens::{SECRET, bearer, keyed_at},
};

/// What a client says is no event, and nothing is written to it of itself.
const QUIET: &[&str] = &[
    "events.groups=all",
    "websocket.messages=drop",
    "websocket.ping_interval=0s",
    "websocket.heartbeat_timeout=0s",
];

/// Bytes of an answer with a text of four bytes.
const PONG: u64 = 6;

/// A client that has been there for a while, and what went over its connection.
struct Stay {
    gateway: Gateway,
    clock: Clock,
    subscriber: Subscriber,
    raw: Raw,
    id: String,
    lasted: Duration,
    received: u64,
    sent: u64,
}

impl Stay {
    async fn with(sets: &[&str]) -> Self {
        let clock = Clock::paused();
        let gateway = Gateway::at(clock.clone(), &[QUIET, sets].concat()).await;
        let raw = Raw::open(gateway.websocket()).await;
        Self::begin(gateway, clock, raw, &[]).await
    }

    async fn begin(gateway: Gateway, clock: Clock, mut raw: Raw, lines: &[&str]) -> Self {
        let mut subscriber = Subscriber::of(&gateway, "all").await;
        let request = request(lines);
        raw.send(&request).await;
        let head = raw.response().await;
        let id = raw.data().await.text().to_owned();
        opened(&subscriber.hear().await);
        let mut stay = Self {
            gateway,
            clock,
            subscriber,
            raw,
            lasted: Duration::ZERO,
            received: request.len() as u64,
            sent: (head.len() + 2 + id.len()) as u64,
            id,
        };
        stay.passes(Duration::from_secs(5)).await;
        stay.say(frame(TEXT, b"ping")).await;
        assert_eq!(stay.raw.data().await.text(), "pong");
        stay.sent += PONG;
        // With this comes word that the answer has arrived.
        stay.say(frame(TEXT, b"dropped")).await;
        stay.until(|gateway| gateway.sum(|stats| stats.messages_in.get()) == 2).await;
        stay
    }

    async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.received += bytes.as_ref().len() as u64;
        self.raw.send(bytes).await;
    }

    /// Waits until something is so. Any call is a turn of the shards.
    async fn until(&self, is_so: impl Fn(&Gateway) -> bool) {
        let waiting = async {
            while !is_so(&self.gateway) {
                self.gateway.count_online_client().await;
            }
        };
        soon("a change", waiting).await;
    }

    /// Moves the clock, and waits until the shards have seen it.
    async fn passes(&mut self, time: Duration) {
        self.clock.advance(time);
        self.lasted += time;
        for _ in 0..2 {
            self.gateway.get_all_online_client().await;
        }
    }

    /// The event of its end, with this code and for this cause, after the time that it was there.
    async fn is_told(&mut self, code: u16, cause: &str) -> Event {
        let event = loop {
            let event = self.subscriber.hear().await;
            if matches!(event.what, Some(What::Closed(_))) {
                break event;
            }
        };
        let told = closed(&event);
        assert_eq!(event.client, self.id);
        assert_eq!((told.code, told.cause.as_str()), (i32::from(code), cause), "{told:?}");
        let lasted = Duration::try_from(told.duration.unwrap()).unwrap();
        assert_eq!(lasted, self.lasted, "{cause}");
        event
    }

    /// The same, with exactly the bytes that went to and fro before the farewell, which the client
    /// finds then.
    async fn ends(mut self, code: u16, cause: &str) -> Event {
        let event = self.is_told(code, cause).await;
        let told = closed(&event);
        let bytes =
            [told.bytes_received, told.bytes_sent].map(|bytes| u64::try_from(bytes).unwrap());
        assert_eq!(bytes, [self.received, self.sent], "{cause}");
        assert_eq!(self.raw.close_code().await, code, "{cause}");
        event
    }
}

#[tokio::test]
async fn who_breaks_the_protocol() {
    for (said, code, cause) in [
        // Not masked; of no known kind; a part of nothing; no code.
        (vec![0x81, 0x01, b'x'], 1002, "protocol"),
        (frame(0x83, b"x"), 1002, "protocol"),
        (frame(0x80, b"x"), 1002, "protocol"),
        (frame(0x88, &[0]), 1002, "protocol"),
        (frame(TEXT, b"\xff"), 1007, "bad-text"),
    ] {
        let mut stay = Stay::with(&[]).await;
        stay.say(said).await;
        stay.ends(code, cause).await;
    }
}

#[tokio::test]
async fn who_says_too_much_at_once() {
    let mut stay = Stay::with(&["limits.client_messages=5"]).await;
    stay.say(frame(TEXT, b"x").repeat(100)).await;
    stay.ends(1008, "policy").await;
}

#[tokio::test]
async fn who_does_not_end_a_message_in_time() {
    let mut stay = Stay::with(&["limits.message_deadline=1m"]).await;
    let whole = frame(TEXT, &[b'x'; 100]);
    stay.say(&whole[..60]).await;
    stay.until(|gateway| gateway.sum(|stats| stats.partial_bytes.get()) > 0).await;
    stay.passes(Duration::from_hours(1)).await;
    stay.ends(1008, "policy").await;
}

#[tokio::test]
async fn who_has_come_to_the_end_of_its_time() {
    let mut stay = Stay::with(&[]).await;
    let expiry = Some(Expiry::ExpiresAt((SystemTime::now() + Duration::from_hours(1)).into()));
    let request = ApplyRequest { client: stay.id.clone(), expiry, ..ApplyRequest::default() };
    stay.gateway.membership().apply(request).await.unwrap();
    stay.passes(Duration::from_hours(2)).await;
    stay.ends(3000, "expired").await;
}

#[tokio::test]
async fn who_makes_room_for_a_newer_one_of_its_uid() {
    let clock = Clock::paused();
    let full = ["auth.max_clients_per_uid=1", "auth.when_uid_is_full=close-oldest"];
    let (gateway, _files) = keyed_at(clock.clone(), &[QUIET, &full].concat()).await;
    let raw = Raw::open(gateway.websocket()).await;
    let token = bearer(&by_secret(SECRET, &json!({})));
    let stay = Stay::begin(gateway, clock, raw, &[&token]).await;
    let mut newer = Raw::open(stay.gateway.websocket()).await;
    newer.send(request(&[&token])).await;
    assert!(newer.response().await.starts_with("HTTP/1.1 101 "));
    let event = stay.ends(3001, "replaced").await;
    assert_eq!(event.uid, "ada");
}

#[tokio::test]
async fn who_holds_too_much_of_the_memory() {
    const SAID: usize = 1_500_000;
    let mut stay = Stay::with(&["limits.partial_bytes=1MiB", "limits.max_message=4MiB"]).await;
    let before = stay.received;
    stay.say([head(BINARY, 3 << 20), vec![0; SAID]].concat()).await;
    let event = stay.is_told(1013, "budget").await;
    // It need not have come whole: a shard has its share of the budget, and what is incomplete takes
    // memory by doubling it.
    let received = u64::try_from(closed(&event).bytes_received).unwrap();
    assert!((before + (1 << 17)..=stay.received).contains(&received), "{received}");
    assert_eq!(closed(&event).bytes_sent, i64::try_from(stay.sent).unwrap());
    assert_eq!(stay.raw.close_code().await, 1013);
}

#[tokio::test]
async fn who_does_not_take_what_it_is_sent() {
    const SIZE: usize = 4096;
    let sets = [
        "limits.slow_client=disconnect",
        "limits.queue_messages=10",
        "websocket.send_buffer=16KiB",
    ];
    let clock = Clock::paused();
    let gateway = Gateway::at(clock.clone(), &[QUIET, &sets].concat()).await;
    let raw = Raw::open_narrow(gateway.websocket()).await;
    let mut stay = Stay::begin(gateway, clock, raw, &[]).await;
    let mut queued = 0;
    while stay.gateway.send_message_to_client(&stay.id, "x".repeat(SIZE)).await.result {
        queued += 1;
    }
    assert!(queued >= 10, "{queued}");
    let event = stay.is_told(1013, "slow").await;
    let told = closed(&event);
    assert_eq!(told.bytes_received, i64::try_from(stay.received).unwrap());
    // Acknowledged is only what had arrived: less than was sent, and the last ten not at all.
    let most = stay.sent + (queued - 10) * (SIZE as u64 + 4);
    let sent = u64::try_from(told.bytes_sent).unwrap();
    assert!((stay.sent..=most).contains(&sent), "{sent}, at most {most}");
    assert_eq!(stay.raw.close_code().await, 1013);
}
