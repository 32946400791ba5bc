//! What is bounded, and what happens then: windows, deadlines, groups, buffers.

use gateway_websocket::grpc::proto::v1::{ConnectedClient, Event, Snapshot, event::What};
use tonic::Code;

use crate::{
    client::{Client, soon},
    events_acks::to_nobody,
    gateway::Gateway,
    scrape::Page,
    site::until,
    subscriber::{Subscriber, closed, missed, opened, said, snapshot},
    v1::{all, clients, send},
};

/// Acknowledges and leaves, and returns when that is done.
async fn leave_after(mut subscriber: Subscriber, event: &Event) {
    subscriber.acknowledge(event.cursor).await;
    subscriber.say_no_more();
    assert_eq!(subscriber.end().await.code(), Code::Ok);
}

async fn say_numbers(client: &mut Client, numbers: std::ops::Range<usize>) {
    for number in numbers {
        client.say(&number.to_string()).await;
    }
}

#[tokio::test]
async fn no_more_is_under_way_than_the_window_allows() {
    let gateway = Gateway::with(&["events.groups=all,audit"]).await;
    let mut audit = Subscriber::of(&gateway, "audit").await;
    let mut subscriber = Subscriber::try_of(gateway.channel(), "all", 3).await.unwrap();
    let mut ada = gateway.connect().await;
    say_numbers(&mut ada, 0..10).await;
    audit.next_n(11).await;
    let first = subscriber.next_n(3).await;
    opened(&first[0]);
    // Events that were taken by now would have come before the answer.
    subscriber.acknowledge_with(0, vec![to_nobody()], Vec::new()).await;
    subscriber.done().await;
    assert!(subscriber.has_looked_at_all(), "more than three are under way");
    subscriber.acknowledge(first[0].cursor).await;
    assert_eq!(said(&subscriber.next().await), "2");
    subscriber.acknowledge(first[2].cursor).await;
    for number in 3..10 {
        assert_eq!(said(&subscriber.hear().await), number.to_string());
    }
}

#[tokio::test]
async fn who_does_not_acknowledge_in_time_loses_his_place_to_others() {
    let gateway = Gateway::with(&["events.groups=all", "events.ack_timeout=500ms"]).await;
    let mut stalled = Subscriber::of(&gateway, "all").await;
    let mut ada = gateway.connect().await;
    say_numbers(&mut ada, 0..3).await;
    let events = stalled.next_n(4).await;
    let mut other = Subscriber::of(&gateway, "all").await;
    let status = stalled.end().await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains("events.ack_timeout (500ms)"), "{status}");
    assert!(status.message().contains(&format!("cursor {}", events[0].cursor)), "{status}");
    for event in events {
        let again = other.hear().await;
        assert_eq!((again.cursor, again.redelivered), (event.cursor, true));
        assert_eq!(again.what, event.what);
    }
    say_numbers(&mut ada, 3..4).await;
    let event = other.hear().await;
    assert_eq!((said(&event), event.redelivered), ("3".to_owned(), false));
}

#[tokio::test]
async fn who_does_not_even_read_loses_his_place_as_well() {
    const LARGE: usize = 300_000;
    let sets = ["events.groups=all", "events.ack_timeout=500ms", "limits.max_message=1MiB"];
    let gateway = Gateway::with(&sets).await;
    // A caller who takes hardly anything.
    let endpoint = format!("http://{}", gateway.grpc());
    let endpoint = tonic::transport::Endpoint::from_shared(endpoint).unwrap();
    let channel = endpoint.initial_stream_window_size(100).connect().await.unwrap();
    let mut deaf = Subscriber::try_of(channel, "all", 0).await.unwrap();
    let mut ada = gateway.connect().await;
    for _ in 0..20 {
        ada.say(&"x".repeat(LARGE)).await;
    }
    let mut other = Subscriber::of(&gateway, "all").await;
    opened(&other.hear().await);
    for _ in 0..20 {
        assert_eq!(said(&other.hear().await).len(), LARGE);
    }
    // He learns why when he reads.
    let status = deaf.end().await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}

#[tokio::test]
async fn a_reload_adds_groups_and_removes_them() {
    let gateway = Gateway::with_file("events.groups = [\"a\"]").await;
    let mut a = Subscriber::of(&gateway, "a").await;
    let mut there: Vec<Client> = Vec::new();
    for _ in 0..20 {
        there.push(gateway.connect().await);
        opened(&a.hear().await);
    }
    let refused = Subscriber::try_of(gateway.channel(), "b", 0).await.err().unwrap();
    assert_eq!(refused.code(), Code::NotFound);

    gateway.reload("events.groups = [\"a\", \"b\"]").await;
    let mut b = Subscriber::of(&gateway, "b").await;
    let mut late = gateway.connect().await;
    late.say("hello").await;
    // Who was there is named, who comes then is told; nobody is both, and nobody is neither.
    let mut named = names(&mut b).await;
    let mut event = b.hear().await;
    if let Some(What::Opened(_)) = event.what {
        named.push(event.client);
        event = b.hear().await;
    }
    assert_eq!(said(&event), "hello");
    named.sort_unstable();
    let mut expected: Vec<_> = there.iter().map(|client| client.id().to_owned()).collect();
    expected.push(late.id().to_owned());
    expected.sort_unstable();
    assert_eq!(named, expected);
    let gone = there.pop().unwrap().id().to_owned();
    let event = b.hear().await;
    closed(&event);
    assert_eq!(event.client, gone);

    gateway.reload("events.groups = [\"b\"]").await;
    let status = a.end().await;
    assert_eq!(status.code(), Code::NotFound, "{status}");
    assert!(status.message().contains("events.groups"), "{status}");
    late.say("still there").await;
    assert_eq!(said(&b.hear().await), "still there");
}

/// The clients of a snapshot, which is what comes next.
async fn names(subscriber: &mut Subscriber) -> Vec<String> {
    let event = subscriber.hear().await;
    assert!(event.client.is_empty(), "it is about nobody in particular");
    let named = snapshot(&event).clients.iter();
    named.map(|named| named.client.clone()).collect()
}

#[tokio::test]
async fn who_may_makes_a_group_which_is_kept_for_a_while() {
    let settings = |expiry: &str| {
        format!(
            "events.allow_new_groups = true\nevents.max_groups = 2\n\
             events.new_group_expiry = \"{expiry}\""
        )
    };
    let gateway = Gateway::with_file(&settings("1h")).await;
    let mut ada = gateway.connect().await;
    let mut made = Subscriber::of(&gateway, "made").await;
    assert_eq!(names(&mut made).await, [ada.id()]);
    ada.say("one").await;
    let event = made.next().await;
    assert_eq!(said(&event), "one");
    let cursor = event.cursor;
    leave_after(made, &event).await;
    // Nobody subscribes, but it is there.
    ada.say("two").await;
    let mut again = Subscriber::of(&gateway, "made").await;
    let event = again.next().await;
    assert_eq!((said(&event), event.cursor), ("two".to_owned(), cursor + 1));

    let _other = Subscriber::of(&gateway, "other").await;
    let status = Subscriber::try_of(gateway.channel(), "third", 0).await.err().unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("events.max_groups"), "{status}");

    // It ends some time after the last has left, and what it knew with it.
    gateway.reload(&settings("1ms")).await;
    leave_after(again, &event).await;
    until("the group is gone", async || {
        // So that there is something in either case.
        ada.say("for this try").await;
        let mut anew = Subscriber::of(&gateway, "made").await;
        let event = anew.next().await;
        // In the group that was there nobody would be named, and the cursor would go on.
        let is_new = matches!(event.what, Some(What::Snapshot(_))) && event.cursor == 1;
        if !is_new {
            leave_after(anew, &event).await;
        }
        is_new
    })
    .await;
}

#[tokio::test]
async fn what_there_is_no_room_for_is_told_and_followed_by_who_is_there() {
    let gateway = Gateway::with(&["events.groups=all", "events.buffer_messages=10"]).await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let mut ada = gateway.connect().await;
    let event = subscriber.next().await;
    opened(&event);
    leave_after(subscriber, &event).await;
    say_numbers(&mut ada, 0..25).await;
    // So that all of them are there when the subscriber comes: what is answered in one turn of the
    // shard, the next call finds told.
    ada.say("ping").await;
    assert_eq!(ada.next_text().await, "pong");
    gateway.mark(ada.id()).await;

    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let event = subscriber.hear().await;
    let range = missed(&event);
    assert_eq!((range.first, range.last), (3, 17));
    assert_eq!((range.messages, range.changes), (15, 0));
    assert_eq!(names(&mut subscriber).await, [ada.id()]);
    for number in 15..25 {
        let event = subscriber.hear().await;
        assert_eq!(said(&event), number.to_string());
        assert_eq!(event.cursor, number + 3, "what is there keeps its place");
    }
    // It is told once, if there is room by then.
    subscriber.acknowledge_with(0, vec![to_nobody()], Vec::new()).await;
    subscriber.done().await;
    say_numbers(&mut ada, 25..26).await;
    assert_eq!(said(&subscriber.hear().await), "25");
}

#[tokio::test]
async fn one_that_floods_takes_no_room_from_others() {
    let gateway = Gateway::with(&["events.groups=all", "events.buffer_bytes=64KiB"]).await;
    let mut others = gateway.connect_n::<10>().await;
    for (number, client) in others.iter_mut().enumerate() {
        client.say(&number.to_string()).await;
        client.say("ping").await;
        assert_eq!(client.next_text().await, "pong");
    }
    let mut greedy = gateway.connect().await;
    for _ in 0..500 {
        greedy.say(&"x".repeat(1000)).await;
    }
    greedy.say("ping").await;
    assert_eq!(greedy.next_text().await, "pong");
    gateway.mark(greedy.id()).await;

    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let mut heard = Vec::new();
    while heard.len() < 10 {
        let event = subscriber.hear().await;
        if let Some(What::Message(message)) = &event.what
            && message.data.len() < 1000
        {
            heard.push(said(&event));
        }
    }
    heard.sort_unstable();
    assert_eq!(heard, (0..10).map(|number| number.to_string()).collect::<Vec<_>>());
    let over_share = Page::of(&gateway).await.get(r#"events_over_share_total{group="all"}"#);
    assert!(over_share > 400.0, "{over_share}");
}

#[tokio::test]
async fn a_group_begins_with_who_is_connected_also_if_nobody_is() {
    let gateway = Gateway::with(&["events.groups=all"]).await;
    let mut subscriber = Subscriber::of(&gateway, "all").await.hearing_all();
    let event = subscriber.hear().await;
    assert_eq!((event.cursor, event.redelivered, event.partition), (1, false, 0));
    assert_eq!(snapshot(&event), &Snapshot::default(), "nobody, of all partitions");
    let ada = gateway.connect().await;
    let event = subscriber.hear().await;
    assert_eq!((event.cursor, event.client.as_str()), (2, ada.id()));
    assert!((1..=256).contains(&event.partition), "{event:?}");
    opened(&event);
}

#[tokio::test]
async fn who_has_lost_his_memory_can_ask_who_is_connected() {
    let gateway = Gateway::with(&["events.groups=all"]).await;
    let ada = gateway.connect().await;
    let mut before = Subscriber::of(&gateway, "all").await;
    let event = before.next().await;
    let partition = event.partition;
    leave_after(before, &event).await;
    // Without being asked it goes on where it was.
    let bob = gateway.connect().await;
    let mut plain = Subscriber::of(&gateway, "all").await;
    let event = plain.next().await;
    opened(&event);
    assert_eq!(event.client, bob.id());
    leave_after(plain, &Event::default()).await;
    let following = Subscriber::following(gateway.channel(), "all", 0, true).await;
    let mut following = following.unwrap();
    let event = following.hear().await;
    let named = ConnectedClient { client: ada.id().to_owned(), partition };
    let expected = Snapshot { partitions: Vec::new(), clients: vec![named] };
    assert_eq!(snapshot(&event), &expected, "as of what was acknowledged");
    let event = following.hear().await;
    assert_eq!((event.client.as_str(), event.redelivered), (bob.id(), true));
}

#[tokio::test]
async fn what_is_missing_of_one_client_says_nothing_of_others() {
    let gateway = Gateway::with(&["events.groups=all", "events.buffer_messages=1"]).await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    // Of different partitions.
    let mut ada = gateway.connect().await;
    let partition = subscriber.hear().await.partition;
    let bob = loop {
        let bob = gateway.connect().await;
        if subscriber.hear().await.partition != partition {
            break bob;
        }
    };
    leave_after(subscriber, &Event::default()).await;
    say_numbers(&mut ada, 0..3).await;
    ada.say("ping").await;
    assert_eq!(ada.next_text().await, "pong");
    gateway.mark(ada.id()).await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let event = subscriber.hear().await;
    assert_eq!((missed(&event).messages, &missed(&event).partitions[..]), (2, &[partition][..]));
    let event = subscriber.hear().await;
    let snapshot = snapshot(&event);
    assert_eq!(snapshot.partitions, [partition]);
    let names: Vec<_> =
        snapshot.clients.iter().map(|it| (it.client.as_str(), it.partition)).collect();
    assert!(names.contains(&(ada.id(), partition)), "{names:?}");
    assert!(!names.iter().any(|(client, _)| *client == bob.id()), "{names:?}");
    assert_eq!(said(&subscriber.hear().await), "2");
}

#[tokio::test]
async fn who_comes_and_goes_unheard_is_missed_and_not_in_the_snapshot() {
    let gateway = Gateway::with(&["events.groups=all", "events.buffer_changes=10"]).await;
    let stays = gateway.connect().await;
    for _ in 0..20 {
        let mut goes = gateway.connect().await;
        goes.say("hello").await;
        goes.send(tokio_tungstenite::tungstenite::Message::Close(None)).await;
        goes.read_to_close().await;
    }
    let last = gateway.connect().await;
    gateway.send(send(all(), "marker")).await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let mut connected = std::collections::BTreeSet::new();
    let (mut missing, mut told) = (0, 0);
    while missing + told < 2 + 20 * 3 {
        let event = subscriber.hear().await;
        match event.what.as_ref().unwrap() {
            What::Missed(range) => missing += range.messages + range.changes,
            What::Snapshot(it) => {
                connected.extend(it.clients.iter().map(|named| named.client.clone()));
            }
            What::Opened(_) => {
                told += 1;
                assert!(connected.insert(event.client), "opened twice");
            }
            What::Closed(_) => {
                told += 1;
                assert!(connected.remove(&event.client), "closed without being connected");
            }
            What::Message(_) => {
                told += 1;
                assert!(connected.contains(&event.client), "it speaks without being connected");
            }
        }
    }
    assert_eq!(missing + told, 2 + 20 * 3, "each event is told or counted");
    assert!(missing > 20, "{missing}");
    let expected: std::collections::BTreeSet<_> = [stays.id(), last.id()].map(str::to_owned).into();
    assert_eq!(connected, expected);
}

#[tokio::test]
async fn a_client_that_speaks_into_a_full_buffer_waits_and_nobody_else_does() {
    const MANY: usize = 200;
    let sets = ["events.groups=all", "events.buffer_messages=10", "events.when_full=pause"];
    let gateway = Gateway::with(&sets).await;
    let [mut ada, mut bob] = gateway.connect_n().await;
    say_numbers(&mut ada, 0..MANY).await;
    // Behind all of these; it isn't read before there is room for them.
    ada.say("ping").await;
    for _ in 0..20 {
        bob.say("ping").await;
        assert_eq!(bob.next_text().await, "pong");
        gateway.send(send(clients([bob.id()]), "to bob")).await;
        assert_eq!(bob.next_text().await, "to bob");
    }
    // Who waits is reached all the same.
    gateway.mark(ada.id()).await;
    assert_eq!(ada.next_text().await, "marker");
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let mut next = 0;
    while next < MANY {
        let event = subscriber.hear().await;
        if let Some(What::Message(_)) = event.what {
            assert_eq!(said(&event), next.to_string(), "in order, and none is missing");
            next += 1;
        }
    }
    assert_eq!(soon("the pong", ada.next_text()).await, "pong");
    // And what another says comes, too.
    bob.say("bob").await;
    assert_eq!(said(&subscriber.hear().await), "bob");
}

#[tokio::test]
async fn without_a_group_what_clients_say_goes_nowhere_and_costs_them_nothing() {
    let gateway = Gateway::with_file("").await;
    let mut ada = gateway.connect().await;
    say_numbers(&mut ada, 0..100).await;
    ada.say("ping").await;
    assert_eq!(ada.next_text().await, "pong");
    // With a group, they are heard from then on.
    gateway.reload("events.groups = [\"all\"]").await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    assert_eq!(names(&mut subscriber).await, [ada.id()]);
    ada.say("heard").await;
    assert_eq!(said(&subscriber.hear().await), "heard");
    // Unless they are to be dropped, or echoed.
    gateway.reload("events.groups = [\"all\"]\nwebsocket.messages = \"drop\"").await;
    ada.say("dropped").await;
    ada.say("ping").await;
    assert_eq!(ada.next_text().await, "pong");
    gateway.reload("events.groups = [\"all\"]\nwebsocket.messages = \"forward\"").await;
    ada.say("heard again").await;
    assert_eq!(said(&subscriber.hear().await), "heard again");
}
