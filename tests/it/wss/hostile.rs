//! What comes to the TLS port and is no TLS, or no good one.

use std::io::Write as _;

use gateway_websocket::{close::Cause, metrics::HandshakeStats};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{secure, welcomed};
use crate::{
    client::{Client, soon},
    gateway::Gateway,
    raw::{Raw, TEXT, frame, request},
};

/// Waits until one of the counters has come to `wanted`.
async fn counted(gateway: &Gateway, of: impl Fn(&HandshakeStats) -> u64, wanted: u64) {
    let reached = async {
        while of(gateway.hub().handshakes()) < wanted {
            gateway.count_online_client().await;
        }
    };
    soon("the count", reached).await;
    assert_eq!(of(gateway.hub().handshakes()), wanted);
}

#[tokio::test]
async fn what_is_no_client_hello_is_let_go_and_counted() {
    let (authority, gateway) = secure(&[]).await;
    let mut ada = Client::over(authority.connect(gateway.tls()).await).await;
    let http = request(&[]);
    let greedy = [&[0x16, 3, 1, 0xff, 0xff][..], &[0; 1000]].concat();
    for (number, junk) in (1..).zip([http.as_bytes(), &[0xff; 600], &greedy, b"\0", b""]) {
        let mut raw = Raw::open(gateway.tls()).await;
        raw.send(junk).await;
        let _ = raw.hang_up().await;
        let said = raw.rest().await;
        assert!(!said.contains("HTTP"), "{said:?}");
        counted(&gateway, |stats| stats.tls.get(), number).await;
    }
    let failures = gateway.hub().handshakes().failures();
    let (_, refused) = failures.into_iter().find(|(cause, _)| *cause == "tls").unwrap();
    assert_eq!(refused.get(), 5);
    ada.say("ping").await;
    assert_eq!(ada.next_text().await, "pong");
}

#[tokio::test]
async fn a_client_hello_that_never_ends_is_cut_off_in_time() {
    let (authority, gateway) = secure(&["limits.handshake=300ms"]).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut raw = Raw::open(gateway.tls()).await;
        raw.send([0x16, 3, 1, 0, 200, 1, 0]).await;
        waiting.push(raw);
    }
    Client::over(authority.connect(gateway.tls()).await).await;
    counted(&gateway, |stats| stats.timeouts.get(), 2).await;
    for mut raw in waiting {
        raw.ended().await;
    }
    // The same, when TLS is there and the request never comes.
    let mut silent = Raw::over(authority.connect(gateway.tls()).await);
    silent.ended().await;
    counted(&gateway, |stats| stats.timeouts.get(), 3).await;
}

#[tokio::test]
async fn a_wrong_request_over_tls_is_answered_in_words_and_ends_well() {
    let (authority, gateway) = secure(&[]).await;
    let mut raw = Raw::over(authority.connect(gateway.tls()).await);
    raw.send("GET / HTTP/1.1\r\nHost: gateway.example\r\n\r\n").await;
    let head = raw.response().await;
    assert!(head.starts_with("HTTP/1.1 426 "), "{head}");
    raw.ended_well().await;
}

#[tokio::test]
async fn a_client_that_does_not_know_the_authority_is_counted() {
    let (_authority, gateway) = secure(&[]).await;
    let stranger = crate::authority::Authority::new();
    let stream = tokio::net::TcpStream::connect(gateway.tls()).await.unwrap();
    assert!(crate::authority::shake(stream, stranger.client()).await.is_err());
    counted(&gateway, |stats| stats.tls.get(), 1).await;
}

/// Waits until somebody was lost, and looks whether that was all.
async fn lost_one(gateway: &Gateway, others: i32) {
    let lost = async {
        while gateway.closed(Cause::Lost) == 0 {
            gateway.count_online_client().await;
        }
    };
    soon("the loss", lost).await;
    assert_eq!(gateway.closed(Cause::Lost), 1);
    assert_eq!(gateway.count_online_client().await.count, others);
    assert_eq!(gateway.sum(|stats| stats.panics.get()), 0);
}

#[tokio::test]
async fn a_record_that_was_tampered_with_ends_its_client_with_an_alert_and_no_other() {
    let (authority, gateway) = secure(&["shards=1"]).await;
    let mut ada = Client::over(authority.connect(gateway.tls()).await).await;
    let (raw, _) = welcomed(&authority, &gateway).await;
    let (mut stream, mut tls) = raw.into_stream().into_inner();
    tls.writer().write_all(&frame(TEXT, b"ping")).unwrap();
    let mut sealed = Vec::new();
    tls.write_tls(&mut sealed).unwrap();
    *sealed.last_mut().unwrap() ^= 1;
    stream.write_all(&sealed).await.unwrap();
    lost_one(&gateway, 1).await;
    let mut end = Vec::new();
    let _ = soon("the end", stream.read_to_end(&mut end)).await;
    let problem = tls.read_tls(&mut end.as_slice()).map(|_| tls.process_new_packets());
    assert!(matches!(problem, Ok(Err(rustls::Error::AlertReceived(_)))), "{problem:?}");
    ada.say("ping").await;
    assert_eq!(ada.next_text().await, "pong");
}

#[tokio::test]
async fn half_a_record_and_then_the_end_is_a_loss() {
    let (authority, gateway) = secure(&[]).await;
    let (raw, _) = welcomed(&authority, &gateway).await;
    let (mut stream, mut tls) = raw.into_stream().into_inner();
    tls.writer().write_all(&frame(TEXT, b"never heard")).unwrap();
    let mut sealed = Vec::new();
    tls.write_tls(&mut sealed).unwrap();
    stream.write_all(&sealed[..sealed.len() - 1]).await.unwrap();
    stream.shutdown().await.unwrap();
    lost_one(&gateway, 0).await;
    assert_eq!(gateway.sum(|stats| stats.messages_in.get()), 0);
}

#[tokio::test]
async fn a_client_that_is_silent_is_pinged_and_closed_like_any_other() {
    let sets = ["websocket.ping_interval=100ms", "websocket.heartbeat_timeout=1s"];
    let (authority, gateway) = secure(&sets).await;
    let (mut raw, _) = welcomed(&authority, &gateway).await;
    assert_eq!(raw.next().await.unwrap().first, crate::raw::PING);
    assert_eq!(soon("the close", raw.close_code()).await, 3008);
    assert_eq!(gateway.closed(Cause::Silent), 1);
}
