//! Idempotency keys: a call that is repeated is done once, and answered as the first was.

use std::time::Duration;

use gateway_websocket::grpc::proto::v1::{SendRequest, Target, send_request::WhenBehind};
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use crate::{
    client::soon,
    gateway::Gateway,
    v1::{all, clients, fault, groups, queued, send, uids},
};

fn once(key: &str, request: SendRequest) -> SendRequest {
    SendRequest { idempotency_key: key.to_owned(), ..request }
}

#[tokio::test]
async fn a_repeat_is_answered_as_the_first_and_sends_nothing() {
    let gateway = Gateway::start().await;
    let [mut ada, mut bob] = gateway.connect_n().await;
    let request = once("a", send(all(), "hello"));
    for _ in 0..5 {
        assert_eq!(gateway.send(request.clone()).await, queued(2));
    }
    // Whoever came meanwhile changes nothing about what was done.
    let _eve = gateway.connect().await;
    assert_eq!(gateway.send(request.clone()).await, queued(2));
    assert_eq!(gateway.send(once("b", request.clone())).await, queued(3));
    for client in [&mut ada, &mut bob] {
        gateway.mark(client.id()).await;
        for text in ["hello", "hello", "marker"] {
            assert_eq!(client.next_text().await, text);
        }
    }
}

#[tokio::test]
async fn the_same_key_with_anything_else_is_a_fault() {
    let gateway = Gateway::start().await;
    let mut ada = gateway.connect().await;
    let attributes = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())];
    let target = Target { attributes: attributes.into(), ..clients([ada.id()]) };
    let first = once("key", send(target.clone(), "hello"));
    assert_eq!(gateway.send(first.clone()).await, queued(0));
    assert_eq!(gateway.send(first.clone()).await, queued(0));
    let ttl = Some(Duration::from_secs(1).try_into().unwrap());
    let when_behind = Some(WhenBehind::DropIfBehind(true));
    for other in [
        send(target.clone(), "hello!"),
        send(all(), "hello"),
        send(clients([ada.id()]), "hello"),
        send(uids(["a", "bc"]), "hello"),
        SendRequest { ttl, ..first.clone() },
        SendRequest { when_behind, ..first },
    ] {
        let (field, why) = fault(gateway.messages().send(once("key", other)).await);
        assert_eq!(field, "idempotency_key");
        assert!(why.contains("other content"), "{why}");
    }
    // Two lists that are equal only end to end are not equal.
    gateway.send(once("list", send(uids(["ab", "c"]), ""))).await;
    fault(gateway.messages().send(once("list", send(uids(["a", "bc"]), ""))).await);
    fault(gateway.messages().send(once("list", send(groups(["ab", "c"]), ""))).await);
    gateway.mark(ada.id()).await;
    assert_eq!(ada.next_text().await, "marker");
}

#[tokio::test]
async fn repeats_at_the_same_time_send_once() {
    let gateway = Gateway::start().await;
    let mut ada = gateway.connect().await;
    let request = once("key", send(all(), "hello"));
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let (mut messages, request) = (gateway.messages(), request.clone());
            tokio::spawn(async move { messages.send(request).await })
        })
        .collect();
    for call in calls {
        let answer = soon("an answer", call).await.unwrap().unwrap();
        assert_eq!(answer.into_inner().delivery, Some(queued(1)));
    }
    gateway.mark(ada.id()).await;
    for text in ["hello", "marker"] {
        assert_eq!(ada.next_text().await, text);
    }
}

#[tokio::test]
async fn a_caller_that_hangs_up_can_ask_again_what_became_of_it() {
    let gateway = Gateway::start().await;
    let mut ada = gateway.connect().await;
    let mut sent = 0;
    for number in 0..100u64 {
        let key = number.to_string();
        let request = once(&key, send(all(), &key));
        let mut hasty = Request::new(request.clone());
        // Too short a time for most of them; how far each comes is up to chance.
        hasty.set_timeout(Duration::from_micros(number * 20));
        let _ = gateway.messages().send(hasty).await;
        assert_eq!(gateway.send(request).await, queued(1));
        sent += 1;
    }
    gateway.mark(ada.id()).await;
    for number in 0..sent {
        assert_eq!(ada.next_text().await, number.to_string());
    }
    assert_eq!(ada.next_text().await, "marker");
}

#[tokio::test]
async fn what_was_refused_can_be_tried_again() {
    let gateway = Gateway::start().await;
    let mut ada = gateway.connect().await;
    // A fault of the request uses up no key.
    fault(gateway.messages().send(once("key", send(Target::default(), "hello"))).await);
    assert_eq!(gateway.send(once("key", send(all(), "hello"))).await, queued(1));
    assert_eq!(ada.next_text().await, "hello");
}

#[tokio::test]
async fn keys_of_calls_under_way_are_bounded() {
    let gateway = Gateway::with(&["api.idempotency_keys=1", "limits.inbox=100000"]).await;
    let _ada = gateway.connect().await;
    let mut refused = 0;
    let calls = async {
        while refused == 0 {
            let calls: Vec<_> = (0..64)
                .map(|number: u32| {
                    let mut messages = gateway.messages();
                    let request = once(&number.to_string(), send(all(), "hello"));
                    tokio::spawn(async move { messages.send(request).await })
                })
                .collect();
            for call in calls {
                let Err(status) = call.await.unwrap() else { continue };
                assert_eq!(status.code(), Code::ResourceExhausted);
                assert!(status.message().contains("api.idempotency_keys"), "{status}");
                let violations = status.get_details_quota_failure().unwrap().violations;
                assert_eq!(violations[0].subject, "api.idempotency_keys");
                refused += 1;
            }
        }
    };
    soon("two calls at the same time", calls).await;
}
