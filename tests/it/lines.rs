//! Connections of business systems: how many, how long, how they end, and what hostile ones get.

use std::time::{Duration, Instant};

use h2::Reason;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::{
    client::soon,
    h2c::{
        CONTINUATION, COUNT, EMPTY, HEADERS, Http2, PING, RST_STREAM, SETTINGS, WATCH, by_hand,
        frame, head, hello,
    },
    raw::Raw,
    site::{Caller, Site, until},
};

/// Makes calls one after the other until the work is done; each of them is answered.
async fn served_meanwhile<T>(caller: &Caller, work: impl Future<Output = T>) -> T {
    let calls = async {
        loop {
            caller.call().await.expect("others are served all the time");
        }
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        never = calls => never,
    };
    caller.call().await.expect("others are served afterwards");
    outcome
}

#[tokio::test]
async fn more_connections_than_allowed_wait_for_one_to_end() {
    let site = Site::with("grpc.max_connections = 2").await;
    let (first, second) = (site.caller(), site.caller());
    first.call().await.unwrap();
    second.call().await.unwrap();
    let third = site.caller();
    let waiting = tokio::spawn(async move { third.call().await });
    for _ in 0..50 {
        first.call().await.unwrap();
    }
    assert!(!waiting.is_finished());
    drop(second);
    assert_eq!(soon("a place", waiting).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn a_raised_limit_lets_in_who_waits_and_a_lowered_one_ends_nobody() {
    let site = Site::with("grpc.max_connections = 1").await;
    let first = site.caller();
    first.call().await.unwrap();
    let second = site.caller();
    let calling = second.clone();
    let waiting = tokio::spawn(async move { calling.call().await });
    for _ in 0..50 {
        first.call().await.unwrap();
    }
    assert!(!waiting.is_finished());
    site.reload("grpc.max_connections = 2").await;
    assert_eq!(soon("a place", waiting).await.unwrap().unwrap(), 0);
    site.reload("grpc.max_connections = 1").await;
    first.call().await.unwrap();
    second.call().await.unwrap();
}

#[tokio::test]
async fn more_calls_than_allowed_on_one_connection_are_refused() {
    let site = Site::with("grpc.max_streams = 2").await;
    let mut line = Http2::connect(site.gateway().grpc()).await;
    // The client's library keeps to the limit as soon as it has heard of it, which is now.
    line.count().await;
    let (one, _two) = (line.begin(COUNT, &[]).await, line.begin(COUNT, &[]).await);
    line.one_waits_for(one).await;

    // Who doesn't keep to it gets each of the others back.
    let mut raw = by_hand(site.gateway().grpc()).await;
    let block = head(WATCH);
    for stream in [1, 3, 5] {
        raw.send(frame(HEADERS, 0x4, stream, &block)).await;
    }
    let refused = frame(RST_STREAM, 0, 5, &u32::from(Reason::REFUSED_STREAM).to_be_bytes());
    raw.read_past(&refused).await;
}

#[tokio::test]
async fn a_changed_limit_of_calls_is_for_new_connections() {
    let site = Site::with("grpc.max_streams = 1").await;
    let mut old = Http2::connect(site.gateway().grpc()).await;
    old.count().await;
    site.reload("grpc.max_streams = 3").await;
    let mut new = Http2::connect(site.gateway().grpc()).await;
    new.count().await;
    let _held = (new.begin(COUNT, &[]).await, new.begin(COUNT, &[]).await);
    new.count().await;
    let held = old.begin(COUNT, &[]).await;
    old.one_waits_for(held).await;
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_let_go_and_one_that_does_is_kept() {
    let site =
        Site::with("grpc.keepalive_interval = \"100ms\"\ngrpc.keepalive_timeout = \"100ms\"").await;
    let caller = site.caller();
    let mut watch = caller.watch().await.unwrap();
    // Three dead ones after each other take longer than any living one may stay silent.
    for _ in 0..3 {
        let mut dead = by_hand(site.gateway().grpc()).await;
        dead.ended().await;
    }
    site.gateway().handle().drain().await.unwrap();
    assert_eq!(watch.next().await.unwrap(), ServingStatus::NotServing, "it was kept");
}

#[tokio::test]
async fn a_connection_on_which_no_http2_is_begun_is_closed() {
    let site = Site::with("limits.handshake = \"150ms\"").await;
    let address = site.gateway().grpc();
    let began = Instant::now();
    let mut silent = Raw::open(address).await;
    let mut half = Raw::open(address).await;
    half.send(&hello()[..20]).await;
    silent.ended().await;
    half.ended().await;
    assert!(began.elapsed() >= Duration::from_millis(150));
    // What is no HTTP/2 is not waited for.
    let mut other = Raw::open(address).await;
    other.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    other.ended().await;
    // And one that was begun stays, whatever it does with it.
    let mut line = Http2::connect(address).await;
    let mut late = Raw::open(address).await;
    late.ended().await;
    line.count().await;
}

#[tokio::test]
async fn a_call_ends_at_the_deadline_that_its_caller_set() {
    let site = Site::with("").await;
    let mut line = Http2::connect(site.gateway().grpc()).await;
    let began = Instant::now();
    let timeout = [("grpc-timeout", "100m")];
    // Its message never comes.
    let call = line.begin(COUNT, &timeout).await;
    let (code, message) = call.status().await.unwrap();
    assert_eq!(code, Code::DeadlineExceeded, "{message}");
    // Nor does this stream's next answer.
    let mut watch = line.begin(WATCH, &timeout).await;
    watch.complete();
    assert_eq!(watch.status().await.unwrap().0, Code::DeadlineExceeded);
    assert!(began.elapsed() >= Duration::from_millis(200));
    // No time at all is too little for anything but a prompt refusal.
    let mut none = line.begin(COUNT, &[("grpc-timeout", "0n")]).await;
    none.complete();
    let (code, _) = none.status().await.unwrap();
    assert!(matches!(code, Code::Ok | Code::DeadlineExceeded), "{code:?}");
    // What is no time is no deadline.
    let mut garbage = line.begin(COUNT, &[("grpc-timeout", "soon")]).await;
    garbage.complete();
    assert_eq!(garbage.status().await.unwrap().0, Code::Ok);
}

#[tokio::test]
async fn requests_that_come_byte_by_byte_are_given_up_and_nobody_waits_for_them() {
    let site = Site::with("limits.message_deadline = \"300ms\"").await;
    let mut line = Http2::connect(site.gateway().grpc()).await;
    let slow = async {
        let mut calls = Vec::new();
        for _ in 0..100 {
            let mut call = line.begin(COUNT, &[]).await;
            call.body.send_data(EMPTY[..1].into(), false).unwrap();
            calls.push(call);
        }
        for call in calls {
            let (code, message) = call.status().await.unwrap();
            assert_eq!(code, Code::DeadlineExceeded);
            assert!(message.contains("limits.message_deadline"), "{message}");
        }
    };
    served_meanwhile(&site.caller(), slow).await;
}

#[tokio::test]
async fn a_stop_answers_calls_under_way_tells_streams_and_waits_for_nobody_for_long() {
    let site = Site::with("").await;
    let address = site.gateway().grpc();
    let mut watch = site.caller().watch().await.unwrap();
    let mut reflection = site.caller().reflection().await.unwrap();
    let mut line = Http2::connect(address).await;
    let mut answered = line.begin(COUNT, &[]).await;
    let never = line.begin(COUNT, &[]).await;
    let mut ready = line.begin(COUNT, &[]).await;
    ready.complete();
    // Streams are opened in order, so the other two have been, too.
    assert_eq!(ready.status().await.unwrap().0, Code::Ok);

    site.gateway().handle().stop().await.unwrap();
    let began = Instant::now();
    assert_eq!(watch.next().await.unwrap(), ServingStatus::NotServing);
    for ended in [watch.next().await.unwrap_err(), reflection.answer().await.unwrap_err()] {
        assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "the gateway is stopping"));
    }
    answered.complete();
    // It is told how it ended, which may be that the shards have gone already.
    let (code, message) = answered.status().await.unwrap();
    assert!(matches!(code, Code::Ok | Code::Unavailable), "{code:?} {message}");
    assert!(never.status().await.is_err(), "it is cut off");
    line.ended().await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    until("nobody listens", async || tokio::net::TcpStream::connect(address).await.is_err()).await;
}

#[tokio::test]
async fn calls_that_are_reset_as_fast_as_they_are_made_end_their_connection() {
    let site = Site::with("").await;
    let caller = site.caller();
    caller.call().await.unwrap();
    let mut raw = by_hand(site.gateway().grpc()).await;
    let block = head(COUNT);
    let cancel = u32::from(Reason::CANCEL).to_be_bytes();
    let flood = async {
        for round in 0..1000u32 {
            let mut burst = Vec::new();
            for stream in 0..100 {
                let stream = 2 * (round * 100 + stream) + 1;
                burst.extend(frame(HEADERS, 0x4, stream, &block));
                burst.extend(frame(RST_STREAM, 0, stream, &cancel));
            }
            if raw.try_send(burst).await.is_err() {
                return true;
            }
        }
        false
    };
    assert!(served_meanwhile(&caller, flood).await, "a hundred thousand resets were taken");
}

#[tokio::test]
async fn headers_without_end_end_their_connection() {
    let site = Site::with("").await;
    let caller = site.caller();
    caller.call().await.unwrap();
    let mut raw = by_hand(site.gateway().grpc()).await;
    let flood = async {
        // A header that is not indexed, of a long value.
        let mut line = vec![0, 1, b'x', 0x7f, 0x81, 0x7f];
        line.extend([b'y'; 127 + 1 + (0x7f << 7)]);
        let first = [head(COUNT), line.clone()].concat();
        let mut sent = raw.try_send(frame(HEADERS, 0, 1, &first[..8192])).await;
        for _ in 0..10_000 {
            if sent.is_err() {
                return true;
            }
            sent = raw.try_send(frame(CONTINUATION, 0, 1, &line[..8192])).await;
        }
        false
    };
    assert!(served_meanwhile(&caller, flood).await, "eighty megabytes of headers were taken");
}

#[tokio::test]
async fn metadata_that_is_too_large_is_refused_and_costs_only_its_call() {
    let site = Site::with("").await;
    let mut line = Http2::connect(site.gateway().grpc()).await;
    let large = "x".repeat(40 << 10);
    let mut call = line.begin(COUNT, &[("x", &large)]).await;
    // It may be refused before its message can be sent.
    let _ = call.body.send_data(EMPTY.into(), true);
    let outcome = tokio::time::timeout(Duration::from_secs(30), call.response()).await.unwrap();
    assert!(outcome.is_none_or(|status| status != 200), "{outcome:?}");
    line.count().await;
}

#[tokio::test]
async fn a_flood_of_pings_or_settings_whose_answers_are_not_read_is_not_read_either() {
    let keepalive = "grpc.keepalive_interval = \"300ms\"\ngrpc.keepalive_timeout = \"300ms\"";
    let site = Site::with(keepalive).await;
    let caller = site.caller();
    caller.call().await.unwrap();
    for one in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[])] {
        let mut raw = Raw::open_narrow(site.gateway().grpc()).await;
        raw.send(hello()).await;
        let burst = one.repeat(1000);
        let flood = async {
            // Much more than all buffers between us take.
            for _ in 0..20_000 {
                let sent = raw.send_now(&burst).await;
                if sent.is_none_or(|sent| sent.is_err()) {
                    return true;
                }
            }
            false
        };
        assert!(served_meanwhile(&caller, flood).await, "hundreds of megabytes were taken");
        // It answers no ping of ours, so it is not kept.
        served_meanwhile(&caller, raw.reset()).await;
    }
}
