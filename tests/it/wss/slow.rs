//! Clients with TLS that don't read: they meet the policy, and no record is ever cut.

use gateway_websocket::{
    close::Cause,
    metrics::{Drop, ShardStats},
};

use super::secure;
use crate::{
    authority::{Authority, Secure},
    client::{Client, soon},
    gateway::Gateway,
    raw::{CLOSE, Raw},
    slow::{SIZE, dropped, message, number_in},
};

const MIB: usize = 1 << 20;

/// A client that reads and one with TLS that doesn't, under a policy; both are in one group.
struct Pair {
    gateway: Gateway,
    reader: Client,
    stuck: Raw<Secure>,
    id: String,
    _authority: Authority,
}

impl Pair {
    async fn new(policy: &str, sets: &[&str]) -> Self {
        let policy = format!("limits.slow_client={policy}");
        let own = [policy.as_str(), "websocket.send_buffer=16KiB"];
        let (authority, gateway) = secure(&[&own[..], sets].concat()).await;
        let reader = gateway.connect().await;
        let stuck = authority.connect_narrow(gateway.tls()).await;
        let (stuck, id) = Raw::over(stuck).enter().await;
        gateway.join_group(reader.id(), "both").await;
        gateway.join_group(id.as_str(), "both").await;
        Self { gateway, reader, stuck, id, _authority: authority }
    }

    /// Sends to both; answers how many took it.
    async fn send(&mut self, message: String) -> i32 {
        let arrive = self.gateway.send_message_to_group("both", message.as_str()).await.arrive;
        assert_eq!(self.reader.next_text().await, message, "the reader misses nothing");
        arrive
    }

    /// Sends until one message does not arrive at both; answers how many did.
    async fn fill(&mut self) -> usize {
        for number in 0.. {
            if self.send(message(number)).await == 1 {
                return number;
            }
        }
        unreachable!()
    }
}

const SHORT: &[&str] = &["limits.queue_messages=10"];

#[tokio::test]
async fn who_is_closed_for_it_finds_whole_messages_then_the_code_then_the_end() {
    let mut pair = Pair::new("disconnect", SHORT).await;
    pair.fill().await;
    assert!(!pair.gateway.client_is_online(pair.id.as_str()).await.isonline);
    assert_eq!(pair.gateway.closed(Cause::Slow), 1);
    for number in 0.. {
        let frame = pair.stuck.data().await;
        if frame.first == CLOSE {
            assert_eq!(frame.payload[..2], 1013u16.to_be_bytes());
            break;
        }
        assert_eq!(number_in(frame.text()), number);
    }
    pair.stuck.send(crate::raw::frame(CLOSE, &1013u16.to_be_bytes())).await;
    pair.stuck.ended_well().await;
}

#[tokio::test]
async fn drop_newest_keeps_what_was_accepted() {
    let mut pair = Pair::new("drop-newest", SHORT).await;
    let accepted = pair.fill().await;
    for number in accepted + 1..accepted + 20 {
        assert_eq!(pair.send(message(number)).await, 1, "the kernel takes no more");
    }
    assert_eq!(pair.gateway.sum(|stats| dropped(stats, Drop::Newest)), 20);
    for number in 0..accepted {
        assert_eq!(number_in(pair.stuck.data().await.text()), number);
    }
    assert_eq!(pair.send(message(1_000_000)).await, 2, "it has caught up");
    assert_eq!(number_in(pair.stuck.data().await.text()), 1_000_000);
}

#[tokio::test]
async fn drop_oldest_keeps_the_newest_and_what_was_begun() {
    let mut pair = Pair::new("drop-oldest", SHORT).await;
    let sent = 200;
    for number in 0..sent {
        assert_eq!(pair.send(message(number)).await, 2);
    }
    let lost = pair.gateway.sum(|stats| dropped(stats, Drop::Oldest));
    assert!(lost > 0, "nothing was dropped: the buffers took {sent} messages");
    let (mut seen, mut newest) = (0, None);
    while newest != Some(sent - 1) {
        let number = number_in(pair.stuck.data().await.text());
        assert!(newest < Some(number), "{number} after {newest:?}");
        newest = Some(number);
        seen += 1;
    }
    assert_eq!(seen + usize::try_from(lost).unwrap(), sent, "each was read or counted");
}

#[tokio::test]
async fn large_messages_come_whole_or_not_at_all_under_each_policy() {
    for policy in ["disconnect", "drop-newest", "drop-oldest"] {
        let mut pair = Pair::new(policy, &["limits.queue_bytes=2200KiB"]).await;
        let large = |number: usize| format!("{number}{}", "x".repeat(MIB - 1));
        let mut accepted = 0;
        for number in 0..6 {
            accepted += usize::from(pair.send(large(number)).await == 2);
        }
        assert!(accepted >= 2, "{policy}: two fit into the queue");
        let mut seen = Vec::new();
        while let Some(frame) = pair.stuck.next().await {
            if frame.first == CLOSE {
                assert_eq!((policy, &frame.payload[..2]), ("disconnect", &[0x03, 0xf5][..]));
                break;
            }
            assert_eq!(frame.payload.len(), MIB);
            let (number, filling) = frame.text().split_at(1);
            assert!(filling.bytes().all(|byte| byte == b'x'));
            seen.push(number_in(number));
            let last = if policy == "drop-oldest" { 5 } else { accepted - 1 };
            if policy != "disconnect" && seen.last() == Some(&last) {
                break;
            }
        }
        match policy {
            // What was begun is ended; what only waited is not sent to somebody who doesn't read.
            "disconnect" => assert_eq!(seen, [0]),
            "drop-newest" => assert_eq!(seen, (0..accepted).collect::<Vec<_>>()),
            // The one that was begun, and the newest.
            _ => assert_eq!((seen[0], seen.is_sorted()), (0, true)),
        }
    }
}

#[tokio::test]
async fn a_sealed_record_that_waits_is_counted_as_memory_and_given_back() {
    let mut pair = Pair::new("drop-newest", &["limits.queue_messages=1", "shards=1"]).await;
    pair.fill().await;
    let queued = |gateway: &Gateway| gateway.sum(|stats| stats.queued_bytes.get());
    // The one message of the queue, and more: the record before it.
    let waiting = queued(&pair.gateway);
    assert!(waiting > SIZE as u64, "{waiting} bytes wait");
    drop(pair.stuck);
    let freed = async {
        while queued(&pair.gateway) > 0 || pair.gateway.hub().count_sockets() > 1 {
            pair.gateway.count_online_client().await;
        }
    };
    soon("the end of the stuck client", freed).await;
    // Each message is accounted for: written, refused, or lost with the connection.
    let sum = |of: fn(&ShardStats) -> u64| pair.gateway.sum(of);
    let queued = sum(|stats| stats.messages_queued.get());
    let out = sum(|stats| stats.messages_out.get());
    assert_eq!(queued, out + sum(|stats| dropped(stats, Drop::Closed)));
}

#[tokio::test]
async fn a_client_that_does_not_take_its_echo_is_not_heard_until_it_does() {
    let sets =
        ["websocket.messages=echo", "websocket.send_buffer=16KiB", "limits.queue_messages=8"];
    let (authority, gateway) = secure(&sets).await;
    let stream = authority.connect_narrow(gateway.tls()).await;
    let (raw, _) = Raw::over(stream).enter().await;
    let (read, mut write) = tokio::io::split(raw.into_stream());
    let said = 2000;
    let speaking = tokio::spawn(async move {
        for number in 0..said {
            let bytes = crate::raw::frame(crate::raw::TEXT, message(number).as_bytes());
            tokio::io::AsyncWriteExt::write_all(&mut write, &bytes).await.unwrap();
        }
        tokio::io::AsyncWriteExt::flush(&mut write).await.unwrap();
        write
    });
    // It stops being heard when its queue is full; what it says then waits in its own kernel.
    let paused = async {
        let heard = |gateway: &Gateway| gateway.sum(|stats| stats.messages_in.get());
        let mut before = 0;
        while heard(&gateway) == 0 || heard(&gateway) != before {
            before = heard(&gateway);
            for _ in 0..50 {
                gateway.count_online_client().await;
            }
        }
        before
    };
    let heard = soon("the pause", paused).await;
    assert!(heard < said as u64, "{heard} were heard");
    let mut raw = Raw::over(tokio::io::join(read, tokio::io::sink()));
    for number in 0..said {
        assert_eq!(number_in(raw.data().await.text()), number);
    }
    speaking.await.unwrap();
}
