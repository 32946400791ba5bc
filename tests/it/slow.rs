//! Clients that don't read: they meet the policy, and nobody else notices.
//!
//! Messages are 4 KiB and the sockets' buffers small, so that what the kernel holds really fills.
//! `SLOW_MEMBERS` and `SLOW_MESSAGES` set the size of the large test.

use std::time::{Duration, Instant};

use gateway_websocket::{
    app::Surface,
    close::Cause,
    metrics::{Drop, ShardStats},
};
use tokio::net::TcpListener;

use crate::{client::soon, gateway::Gateway, raw::Raw};

pub const SIZE: usize = 4096;

pub fn message(number: usize) -> String {
    format!("{number:0SIZE$}")
}

pub fn number_in(text: &str) -> usize {
    text.parse().unwrap()
}

pub fn dropped(stats: &ShardStats, why: Drop) -> u64 {
    stats.dropped[why as usize].get()
}

/// A group of one client that reads and one that doesn't, under a policy.
async fn pair(policy: &str) -> (Gateway, crate::client::Client, Raw, String) {
    let policy = format!("limits.slow_client={policy}");
    let sets = [policy.as_str(), "limits.queue_messages=10", "websocket.send_buffer=16KiB"];
    let gateway = Gateway::with(&sets).await;
    let reader = gateway.connect().await;
    let (stuck, id) = Raw::narrow(gateway.websocket()).await;
    gateway.join_group(reader.id(), "both").await;
    gateway.join_group(id.as_str(), "both").await;
    (gateway, reader, stuck, id)
}

/// Sends until one message does not arrive at both; answers how many were sent.
async fn fill(gateway: &Gateway, reader: &mut crate::client::Client) -> usize {
    for number in 0.. {
        let arrive = gateway.send_message_to_group("both", message(number)).await.arrive;
        assert_eq!(number_in(&reader.next_text().await), number, "the reader misses nothing");
        if arrive == 1 {
            return number + 1;
        }
    }
    unreachable!()
}

#[tokio::test]
async fn a_stuck_client_is_closed_and_its_neighbour_misses_nothing() {
    let (gateway, mut reader, _stuck, id) = pair("disconnect").await;
    let sent = fill(&gateway, &mut reader).await;
    assert!(sent > 10, "the queue alone takes ten: {sent}");
    assert!(!gateway.client_is_online(id.as_str()).await.isonline);
    assert_eq!(gateway.count_online_group("both").await.count, 1);
    assert_eq!(gateway.closed(Cause::Slow), 1);
    let lost = gateway.sum(|stats| dropped(stats, Drop::Newest) + dropped(stats, Drop::Closed));
    assert!(lost >= 10, "the one refused and those that waited: {lost}");
    assert!(gateway.send_message_to_client(reader.id(), "still here").await.result);
    assert_eq!(reader.next_text().await, "still here");
}

#[tokio::test]
async fn a_slow_client_that_reads_again_finds_the_close_code() {
    let (gateway, mut reader, mut stuck, _) = pair("disconnect").await;
    fill(&gateway, &mut reader).await;
    // What was on its way comes whole and in order, then the reason why there is no more.
    for number in 0.. {
        let frame = stuck.next().await.expect("a close frame comes before the end");
        if frame.first == crate::raw::CLOSE {
            assert_eq!(frame.payload[..2], 1013u16.to_be_bytes());
            break;
        }
        assert_eq!(number_in(frame.text()), number);
    }
}

#[tokio::test]
async fn drop_newest_keeps_the_client_and_what_was_accepted() {
    let (gateway, mut reader, mut stuck, id) = pair("drop-newest").await;
    let mut accepted = fill(&gateway, &mut reader).await - 1;
    for number in accepted + 1..accepted + 20 {
        let arrive = gateway.send_message_to_group("both", message(number)).await.arrive;
        assert_eq!(arrive, 1, "the kernel takes no more while nobody reads");
        reader.next_text().await;
    }
    assert_eq!(gateway.sum(|stats| dropped(stats, Drop::Newest)), 20);
    assert!(gateway.client_is_online(id.as_str()).await.isonline);
    for number in 0..accepted {
        assert_eq!(number_in(stuck.data().await.text()), number);
    }
    // It has caught up, so that the next one is accepted again.
    accepted = 1_000_000;
    assert_eq!(gateway.send_message_to_group("both", message(accepted)).await.arrive, 2);
    assert_eq!(number_in(stuck.data().await.text()), accepted);
}

#[tokio::test]
async fn drop_oldest_keeps_the_client_and_the_newest() {
    let (gateway, mut reader, mut stuck, _) = pair("drop-oldest").await;
    let sent = 200;
    for number in 0..sent {
        let arrive = gateway.send_message_to_group("both", message(number)).await.arrive;
        assert_eq!(arrive, 2);
        reader.next_text().await;
    }
    let lost = gateway.sum(|stats| dropped(stats, Drop::Oldest));
    assert!(lost > 0, "nothing was dropped: the buffers took {sent} messages");
    let (mut seen, mut newest) = (0, None);
    while newest != Some(sent - 1) {
        let number = number_in(stuck.data().await.text());
        assert!(newest < Some(number), "{number} after {newest:?}");
        newest = Some(number);
        seen += 1;
    }
    assert_eq!(seen + usize::try_from(lost).unwrap(), sent, "each was read or counted");
}

#[tokio::test]
async fn a_message_larger_than_the_queue_reaches_a_client_that_reads() {
    let gateway = Gateway::with(&["limits.queue_bytes=64KiB"]).await;
    let mut ada = gateway.connect().await;
    let large = "x".repeat(1 << 20);
    assert!(gateway.send_message_to_client(ada.id(), large.as_str()).await.result);
    assert_eq!(ada.next_text().await.len(), large.len());
}

#[tokio::test]
async fn the_budget_of_all_queues_closes_the_longest_first() {
    let sets = [
        "shards=1",
        "limits.queued_bytes=1MiB",
        "limits.queue_bytes=16MiB",
        "limits.queue_messages=100000",
        "websocket.send_buffer=16KiB",
    ];
    let gateway = Gateway::with(&sets).await;
    let mut reader = gateway.connect().await;
    let (_much, most) = Raw::narrow(gateway.websocket()).await;
    let (_little, least) = Raw::narrow(gateway.websocket()).await;
    for _ in 0..50 {
        gateway.send_message_to_client(least.as_str(), message(0)).await;
    }
    while gateway.client_is_online(most.as_str()).await.isonline {
        gateway.send_message_to_client(most.as_str(), message(0)).await;
    }
    assert_eq!(gateway.closed(Cause::Budget), 1);
    assert!(gateway.client_is_online(least.as_str()).await.isonline);
    let queued = gateway.sum(|stats| stats.queued_bytes.get());
    assert!(queued <= 1 << 20, "{queued} bytes wait");
    gateway.send_message_to_client(reader.id(), "marker").await;
    assert_eq!(reader.next_text().await, "marker");
}

/// Sends all messages, each call awaiting its answer; answers the calls' latencies, sorted.
async fn send_all(gateway: &Gateway, messages: usize) -> Vec<Duration> {
    let mut latencies = Vec::with_capacity(messages);
    for number in 0..messages {
        let since = Instant::now();
        gateway.send_message_to_group("all", message(number)).await;
        latencies.push(since.elapsed());
    }
    latencies.sort_unstable();
    latencies
}

/// A member that reads and checks the sequence, to its end; and stays.
async fn read_all(mut member: Raw, messages: usize) -> Raw {
    for number in 0..messages {
        let frame = member.data().await;
        // The last digits tell them apart; reading all 4,096 of each would be the test's own cost.
        let digits = std::str::from_utf8(&frame.payload[SIZE - 10..]).unwrap();
        assert_eq!((frame.payload.len(), number_in(digits)), (SIZE, number));
    }
    member
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stuck_member_of_a_large_group_costs_the_others_nothing() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |n| n.parse().unwrap());
    let (members, messages) = (number("SLOW_MEMBERS", 100), number("SLOW_MESSAGES", 500));
    for stuck in [false, true] {
        // Calls are answered when a message is queued, so readers that share their cores with the
        // gateway fall behind; a quarter of all messages is room enough for them, and too little
        // for the one that never reads.
        let queue = format!("limits.queue_messages={}", messages / 4);
        let gateway = Gateway::with(&[
            &queue,
            "limits.queue_bytes=64MiB",
            "limits.slow_client_grace=0s",
            "shards=2",
        ])
        .await;
        let mut readers = Vec::new();
        for _ in usize::from(stuck)..members {
            let (member, id) = Raw::welcomed(gateway.websocket()).await;
            assert!(gateway.join_group(id, "all").await.result);
            readers.push(tokio::spawn(read_all(member, messages)));
        }
        let mut stuck_one = None;
        if stuck {
            let (member, id) = Raw::narrow(gateway.websocket()).await;
            assert!(gateway.join_group(id.as_str(), "all").await.result);
            stuck_one = Some(member);
        }
        let latencies = send_all(&gateway, messages).await;
        let mut satisfied = Vec::new();
        for reader in readers {
            satisfied.push(reader.await.expect("a reader got every message in order"));
        }
        let at = |per_cent: usize| latencies[(latencies.len() - 1) * per_cent / 100];
        println!(
            "{members} members, {messages} messages, {} stuck: call p50 {:?}, p99 {:?}",
            usize::from(stuck),
            at(50),
            at(99)
        );
        if stuck {
            let slow = async {
                while gateway.closed(Cause::Slow) == 0 {
                    tokio::task::yield_now().await;
                }
            };
            soon("the end of the stuck member", slow).await;
            assert_eq!(gateway.closed(Cause::Slow), 1, "nobody else was closed");
            let left = gateway.count_online_group("all").await.count;
            assert_eq!(usize::try_from(left), Ok(members - 1));
        }
        drop(stuck_one);
    }
}

#[tokio::test]
async fn who_waited_in_the_backlog_has_the_small_buffer_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // The kernel has taken these in before the gateway is there.
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(Raw::open(listener.local_addr().unwrap()).await);
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.toml");
    let toml = "websocket.send_buffer = \"16KiB\"\nlimits.slow_client = \"drop-newest\"\n\
                limits.queue_messages = 1\nlimits.slow_client_grace = \"0s\"\n";
    std::fs::write(&file, toml).unwrap();
    let gateway = Gateway::inheriting(&file, vec![(Surface::WebSocket, listener)]).await;
    for waiting in waiting {
        let (_stuck, id) = waiting.enter().await;
        // More than both kernels hold with a small buffer, and less than one with its own idea of it.
        let message = "x".repeat(400 * 1024);
        assert!(gateway.send_message_to_client(id.as_str(), &message).await.result);
        assert!(!gateway.send_message_to_client(id.as_str(), &message).await.result);
    }
}
