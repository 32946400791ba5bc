//! What bad requests get, on the WebSocket port and on the gRPC port, and nobody else pays for it.

use std::sync::Arc;

use gateway_websocket::grpc::proto;
use tonic::{Code, codegen::http::uri::PathAndQuery};

use crate::{
    client::{Client, soon},
    gateway::Gateway,
    raw::{Raw, ask, request},
};

async fn still_works(gateway: &Gateway, polite: &mut Client) {
    for client in [polite, &mut gateway.connect().await] {
        gateway.send_message_to_client(client.id(), "marker").await;
        assert_eq!(client.next_text().await, "marker");
    }
}

/// Whether the answer refuses the request, or was lost because the client still wrote.
fn is_refusal(answer: &str) -> bool {
    answer.is_empty() || answer.starts_with("HTTP/1.1 431 ") || answer.starts_with("HTTP/1.1 400 ")
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_ended() {
    let gateway = Gateway::with(&["limits.handshake=300ms"]).await;
    let mut polite = gateway.connect().await;
    let mut silent = Raw::open(gateway.websocket()).await;
    let mut half = Raw::open(gateway.websocket()).await;
    half.send(&request(&[])[..40]).await;
    silent.ended().await;
    half.ended().await;
    assert_eq!(gateway.hub().handshakes().timeouts.get(), 2);
    still_works(&gateway, &mut polite).await;
}

#[tokio::test]
async fn a_handshake_that_comes_drop_by_drop_is_ended() {
    let gateway = Gateway::with(&["limits.handshake=300ms"]).await;
    let mut polite = gateway.connect().await;
    let mut raw = Raw::open(gateway.websocket()).await;
    raw.send("GET / HTTP/1.1\r\nX-Never-Ends: ").await;
    let drops = async {
        while raw.try_send("x").await.is_ok() {
            tokio::task::yield_now().await;
            gateway.count_online_client().await;
        }
    };
    soon("the end of the handshake", drops).await;
    still_works(&gateway, &mut polite).await;
}

#[tokio::test]
async fn a_request_head_of_20_megabytes_is_not_read_to_its_end() {
    let gateway = Gateway::start().await;
    let mut polite = gateway.connect().await;
    for start in ["GET /", "GET / HTTP/1.1\r\nHost: x\r\nX-Long: "] {
        let mut raw = Raw::open(gateway.websocket()).await;
        raw.send(start).await;
        let piece = vec![b'a'; 64 * 1024];
        let mut taken = 0;
        while taken < 20 << 20 && raw.try_send(&piece).await.is_ok() {
            taken += piece.len();
        }
        assert!(taken < 20 << 20, "the gateway took all of it");
        let answer = raw.rest().await;
        let too_long = answer.starts_with("HTTP/1.1 414 ");
        assert!(is_refusal(&answer) || too_long, "{answer}");
    }
    still_works(&gateway, &mut polite).await;
}

#[tokio::test]
async fn a_request_of_100_000_headers_is_refused() {
    let gateway = Gateway::start().await;
    let mut polite = gateway.connect().await;
    let lines = vec!["a: b"; 100_000];
    let mut raw = Raw::open(gateway.websocket()).await;
    raw.try_send(request(&lines)).await.ok();
    let answer = raw.rest().await;
    assert!(is_refusal(&answer), "{answer}");
    still_works(&gateway, &mut polite).await;
}

#[tokio::test]
async fn more_headers_than_allowed_are_refused_with_431() {
    let gateway = Gateway::with(&["limits.headers=8"]).await;
    let mut polite = gateway.connect().await;
    // Five of its own, so three more are the most.
    let answer = ask(gateway.websocket(), &request(&["a: b"; 4])).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let mut raw = Raw::open(gateway.websocket()).await;
    raw.send(request(&["a: b"; 3])).await;
    let answer = raw.response().await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    still_works(&gateway, &mut polite).await;
}

#[tokio::test]
async fn garbage_on_either_port_hurts_nobody() {
    let gateway = Gateway::start().await;
    let mut polite = gateway.connect().await;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut garbage = move |len: usize| -> Vec<u8> {
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        };
        (0..len).map(|_| next()).collect()
    };
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    for address in [gateway.websocket(), gateway.grpc(), gateway.admin()] {
        for start in [Vec::new(), http2.clone()] {
            for len in [1, 100, 10_000] {
                let mut raw = Raw::open(address).await;
                raw.try_send([start.clone(), garbage(len)].concat()).await.ok();
                raw.hang_up().await.ok();
                raw.ended().await;
            }
        }
    }
    // Garbage behind an upgrade reaches a shard.
    for len in [1, 100, 10_000] {
        let mut raw = Raw::connect(gateway.websocket()).await;
        raw.try_send(garbage(len)).await.ok();
        raw.hang_up().await.ok();
        raw.ended().await;
    }
    assert_eq!(gateway.sum(|stats| stats.panics.get()), 0);
    still_works(&gateway, &mut polite).await;
}

#[tokio::test]
async fn an_unknown_grpc_method_is_unimplemented() {
    let gateway = Gateway::start().await;
    let mut polite = gateway.connect().await;
    for path in ["/proto.CountGroup/NoSuchMethod", "/proto.NoSuchService/CountGroup", "/nonsense"] {
        let mut grpc = tonic::client::Grpc::new(gateway.channel());
        grpc.ready().await.unwrap();
        let codec =
            tonic_prost::ProstCodec::<proto::CountGroupRequest, proto::CountGroupResponse>::default(
            );
        let request = tonic::Request::new(proto::CountGroupRequest {});
        let path = PathAndQuery::from_static(path);
        let status = grpc.unary(request, path, codec).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
    }
    still_works(&gateway, &mut polite).await;
}

#[tokio::test]
async fn a_grpc_request_over_the_limit_is_refused_and_the_key_is_named() {
    let gateway = Gateway::with(&["grpc.max_message=1KiB"]).await;
    let mut polite = gateway.connect().await;
    let status = gateway.try_broadcast_message("a".repeat(2000)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("grpc.max_message"), "{status}");
    assert!(gateway.broadcast_message("a".repeat(900)).await.result);
    assert_eq!(polite.next_text().await, "a".repeat(900));
    still_works(&gateway, &mut polite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_that_finds_the_inbox_full_is_refused_as_a_whole_and_others_succeed() {
    let gateway = Arc::new(Gateway::with(&["limits.inbox=1"]).await);
    let mut clients = gateway.connect_n::<6>().await;
    let (mut done, mut refused) = (Vec::new(), 0);
    let mut calls = tokio::task::JoinSet::new();
    for call in 0..2000 {
        let gateway = Arc::clone(&gateway);
        calls.spawn(async move { (call, gateway.try_broadcast_message(call.to_string()).await) });
    }
    while let Some(ended) = calls.join_next().await {
        match ended.unwrap() {
            (call, Ok(_)) => done.push(call.to_string()),
            (_, Err(status)) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                assert!(status.message().contains("limits.inbox"), "{status}");
                refused += 1;
            }
        }
    }
    println!("{} calls succeeded, {refused} were refused", done.len());
    assert!(!done.is_empty());
    assert!(refused > 0, "nothing was proved: no inbox was ever full");
    done.sort();
    // Nobody got a part of what was refused, and everybody all of what was not.
    for client in &mut clients {
        let mut got = Vec::new();
        for _ in 0..done.len() {
            got.push(client.next_text().await);
        }
        got.sort();
        assert_eq!(got, done);
    }
    let [polite, ..] = &mut clients;
    still_works(&gateway, polite).await;
}
