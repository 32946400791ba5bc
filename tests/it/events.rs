//! What subscribers are told of clients: that they have come, what they say, how they have gone.

use std::time::{Duration, SystemTime};

use gateway_websocket::{
    grpc::proto::v1::{
        BindRequest, CloseRequest, Event, Kind, SetAttributesRequest, SubscribeRequest,
        SubscribeStart, event::What, subscribe_request,
    },
    shard::Clock,
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};
use tonic::Code;

use crate::{
    client::Client,
    gateway::Gateway,
    subscriber::{Subscriber, closed, open, opened, said},
    v1::{clients, send, set},
};

#[tokio::test]
async fn hello_comes_first_and_tells_the_epoch_and_the_window() {
    let sets = ["events.groups=a,b", "events.max_unacknowledged=50"];
    let (gateway, other) = (Gateway::with(&sets).await, Gateway::with(&sets).await);
    let mut epochs = Vec::new();
    for (gateway, group, window, told) in
        [(&gateway, "a", 0, 50), (&gateway, "b", 7, 7), (&other, "a", 51, 50)]
    {
        let subscriber = Subscriber::try_of(gateway.channel(), group, window).await.unwrap();
        assert_eq!(subscriber.window(), told);
        epochs.push(subscriber.epoch());
    }
    assert_eq!(epochs[0], epochs[1], "it is the gateway's, not the group's");
    assert_ne!(epochs[0], epochs[2]);
    assert!(!epochs.contains(&0), "nobody takes it for none");
}

#[tokio::test]
async fn a_client_is_told_with_all_that_is_known_of_it() {
    let gateway = Gateway::with(&[
        "events.groups=all",
        "websocket.keep_headers=user-agent,x-tenant",
        "websocket.subprotocols=chat.v2",
    ])
    .await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let before = SystemTime::now() - Duration::from_secs(1);
    let address = format!("ws://{}/rooms/7?secret=1", gateway.websocket());
    let mut request = address.into_client_request().unwrap();
    for (name, value) in
        [("user-agent", "test/1"), ("x-tenant", "acme"), ("sec-websocket-protocol", "chat.v2")]
    {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let (mut client, _) = Client::connect_with(gateway.websocket(), request).await.unwrap();
    let id = client.next_text().await;
    let event = subscriber.hear().await;
    assert_eq!((event.cursor, event.redelivered), (2, false));
    assert_eq!((event.client.as_str(), event.uid.as_str()), (id.as_str(), ""));
    let at = SystemTime::try_from(event.time.unwrap()).unwrap();
    assert!(at >= before && at <= SystemTime::now() + Duration::from_secs(1));
    let told = opened(&event);
    let peer = client.raw().local_addr().unwrap();
    assert_eq!(told.peer_address, peer.to_string());
    assert_eq!((told.path.as_str(), told.subprotocol.as_str()), ("/rooms/7", "chat.v2"));
    let headers: Vec<_> = told.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(headers, [("user-agent", "test/1"), ("x-tenant", "acme")]);
    assert!(told.groups.is_empty() && told.attributes.is_empty(), "it is new");

    // What it is bound to is told with what it does from then on.
    let bind =
        BindRequest { uid: "ada".to_owned(), clients: vec![id.clone()], ..BindRequest::default() };
    gateway.membership().bind(bind).await.unwrap();
    client.say("hello").await;
    let event = subscriber.hear().await;
    assert_eq!((event.cursor, event.uid.as_str(), said(&event)), (3, "ada", "hello".to_owned()));
    let change = SetAttributesRequest {
        clients: vec![id.clone()],
        change: Some(set([("a", "b")])),
        ..SetAttributesRequest::default()
    };
    gateway.membership().set_attributes(change).await.unwrap();
    client.send(Message::Close(None)).await;
    let event = subscriber.hear().await;
    assert_eq!((&event.client, event.uid.as_str()), (&id, "ada"));
    assert_eq!(event.cursor, 4, "changes by calls are no events");
    closed_by(&event, 1000, "peer");
}

fn closed_by(event: &Event, code: i32, cause: &str) {
    let told = closed(event);
    assert_eq!((told.code, told.cause.as_str()), (code, cause), "{told:?}");
    assert!(told.duration.is_some());
}

#[tokio::test]
async fn messages_arrive_as_they_were_said() {
    let gateway =
        Gateway::with(&["events.groups=all", "limits.max_message=2MiB", "grpc.max_message=4MiB"])
            .await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let mut client = gateway.connect().await;
    opened(&subscriber.hear().await);
    let large = "naïve 𝄞 ".repeat(100_000);
    for (message, kind, data) in [
        (Message::text("hello"), Kind::Text, b"hello".as_slice()),
        (Message::text(""), Kind::Text, b""),
        (Message::binary(vec![]), Kind::Binary, b""),
        (Message::binary(vec![0, 255, 128]), Kind::Binary, &[0, 255, 128]),
        (Message::text(large.clone()), Kind::Text, large.as_bytes()),
        (Message::binary(large.clone().into_bytes()), Kind::Binary, large.as_bytes()),
        (Message::text("last"), Kind::Text, b"last"),
    ] {
        client.send(message).await;
        let event = subscriber.hear().await;
        let Some(What::Message(message)) = event.what else { panic!("no message: {event:?}") };
        assert_eq!(message.kind(), kind);
        assert!(message.data == data, "{} bytes of {}", message.data.len(), data.len());
    }
    // The text `ping` is for the gateway.
    client.say("ping").await;
    assert_eq!(client.next_text().await, "pong");
    client.say("after").await;
    assert_eq!(said(&subscriber.hear().await), "after");
}

#[tokio::test]
async fn many_messages_keep_their_order_and_are_numbered_one_by_one() {
    const MANY: usize = 3_000;
    let gateway = Gateway::with(&["events.groups=all"]).await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let mut client = gateway.connect().await;
    for number in 0..MANY {
        client.send(Message::text(number.to_string())).await;
    }
    opened(&subscriber.hear().await);
    for number in 0..MANY {
        let event = subscriber.hear().await;
        assert_eq!((said(&event), event.cursor), (number.to_string(), number as u64 + 3));
        assert!(!event.redelivered);
    }
}

#[tokio::test]
async fn each_way_of_going_is_told_by_its_code_and_cause() {
    let gateway = Gateway::with(&["events.groups=all", "limits.max_message=1KiB"]).await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let going = async |subscriber: &mut Subscriber| {
        let client = gateway.connect().await;
        let event = subscriber.hear().await;
        opened(&event);
        assert_eq!(event.client, client.id());
        client
    };

    let mut peer = going(&mut subscriber).await;
    let close = tokio_tungstenite::tungstenite::protocol::CloseFrame {
        code: 4321.into(),
        reason: "bye".into(),
    };
    peer.send(Message::Close(Some(close))).await;
    let event = subscriber.hear().await;
    closed_by(&event, 4321, "peer");
    // 36 bytes of the client id in a frame of 38, and the head of the answer before it.
    assert!(closed(&event).bytes_sent > 38, "{event:?}");
    assert!(closed(&event).bytes_received > 6, "{event:?}");

    let api = going(&mut subscriber).await;
    let target = Some(clients([api.id()]));
    let close = CloseRequest { target, code: 4001, ..CloseRequest::default() };
    gateway.connections().close(close).await.unwrap();
    closed_by(&subscriber.hear().await, 4001, "api");

    let lost = going(&mut subscriber).await;
    drop(lost);
    closed_by(&subscriber.hear().await, 1006, "lost");

    let mut large = going(&mut subscriber).await;
    large.say(&"x".repeat(2000)).await;
    closed_by(&subscriber.hear().await, 1009, "too-big");
}

#[tokio::test]
async fn who_falls_silent_is_told_with_how_long_it_was_there() {
    let clock = Clock::paused();
    let gateway = Gateway::at(clock.clone(), &["events.groups=all"]).await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let client = gateway.connect().await;
    opened(&subscriber.hear().await);
    clock.advance(Duration::from_hours(1));
    // Each shard looks at its clock when something happens.
    gateway.send(send(clients([client.id()]), "still there?")).await;
    let event = subscriber.hear().await;
    closed_by(&event, 3008, "silent");
    let duration = closed(&event).duration.unwrap();
    assert_eq!(duration.seconds, 3600);
}

#[tokio::test]
async fn nobody_is_told_of_a_request_that_was_refused() {
    let gateway = Gateway::with(&["events.groups=all", "limits.max_clients=1"]).await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let ada = gateway.connect().await;
    let request = format!("ws://{}/", gateway.websocket()).into_client_request().unwrap();
    assert!(Client::connect_with(gateway.websocket(), request).await.is_err());
    drop(ada);
    opened(&subscriber.hear().await);
    closed_by(&subscriber.hear().await, 1006, "lost");
}

#[tokio::test]
async fn a_stream_that_does_not_begin_well_does_not_begin() {
    let sets = ["events.groups=all", "events.max_subscribers=1", "limits.handshake=100ms"];
    let gateway = Gateway::with(&sets).await;
    let refused = async |group: &str, window| {
        let opened = Subscriber::try_of(gateway.channel(), group, window).await;
        opened.err().expect("it is refused")
    };
    let unknown = refused("others", 0).await;
    assert_eq!(unknown.code(), Code::NotFound, "{unknown}");
    assert!(unknown.message().contains("events.groups"), "{unknown}");
    for (group, window, field) in [("", 0, "start.group"), ("all", -1, "start.window")] {
        let status = refused(group, window).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().starts_with(field), "{status}");
    }
    let _one = Subscriber::of(&gateway, "all").await;
    let another = refused("all", 0).await;
    assert_eq!(another.code(), Code::ResourceExhausted, "{another}");
    assert!(another.message().contains("events.max_subscribers"), "{another}");

    // Neither something else, nor the end, nor nothing at all.
    let (say, mut answers) = open(gateway.channel()).await.unwrap();
    say.send(SubscribeRequest { step: None }).await.unwrap();
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let (say, mut answers) = open(gateway.channel()).await.unwrap();
    drop(say);
    let status = answers.message().await.unwrap_err();
    assert!(status.message().starts_with("start: missing"), "{status}");
    let (_say, mut answers) = open(gateway.channel()).await.unwrap();
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains("limits.handshake"), "{status}");
}

#[tokio::test]
async fn a_stream_begins_once_and_ends_when_the_caller_says_no_more() {
    let gateway = Gateway::with(&["events.groups=all"]).await;
    let mut twice = Subscriber::of(&gateway, "all").await;
    let start = SubscribeStart { group: "all".to_owned(), ..SubscribeStart::default() };
    let step = Some(subscribe_request::Step::Start(start));
    twice.say_any(SubscribeRequest { step }).await;
    let status = twice.end().await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().starts_with("start: sent twice"), "{status}");

    let mut ends = Subscriber::of(&gateway, "all").await;
    let mut client = gateway.connect().await;
    let event = ends.next().await;
    // What was said before is done before.
    let answer = send(clients([client.id()]), "answer");
    ends.acknowledge_with(event.cursor, Vec::new(), vec![answer]).await;
    ends.say_no_more();
    assert_eq!(ends.end().await.code(), Code::Ok);
    assert_eq!(client.next_text().await, "answer");
    // And what was acknowledged was.
    let mut next = Subscriber::of(&gateway, "all").await;
    client.say("next").await;
    assert_eq!(said(&next.hear().await), "next");
}
