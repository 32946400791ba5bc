//! `[api]`, and what a client's attributes may be: limits of the modern API.

use gateway_websocket::grpc::proto::v1::{
    ApplyRequest, AttributeChange, GetAttributesRequest, SendRequest, SendStreamRequest,
};
use tonic::Code;

use super::Stage;
use crate::{
    client::soon,
    v1::{NOBODY, applied, clients, fault, queued, send, set},
};

/// A text to one client, under a key.
fn once(client: &str, key: &str) -> SendRequest {
    SendRequest { idempotency_key: key.to_owned(), ..send(clients([client]), key) }
}

fn apply(client: &str) -> ApplyRequest {
    ApplyRequest { client: client.to_owned(), ..ApplyRequest::default() }
}

/// Sets these attributes of a client.
async fn note(
    stage: &Stage,
    client: &str,
    attributes: AttributeChange,
) -> Result<(), tonic::Status> {
    let request = ApplyRequest { attributes: Some(attributes), ..apply(client) };
    stage.gateway.membership().apply(request).await.map(drop)
}

#[tokio::test]
pub(super) async fn api_max_targets() {
    let mut stage = Stage::new(&[]).await;
    let (mut raw, id) = stage.raw().await;
    let request = send(clients([&id, NOBODY, NOBODY]), "three are named");
    assert_eq!(stage.gateway.send(request.clone()).await, queued(1));
    assert_eq!(raw.data().await.text(), "three are named");
    stage.change("api.max_targets", "2").await;
    let (field, why) = fault(stage.gateway.messages().send(request).await);
    assert_eq!((field.as_str(), why.as_str()), ("target", "3 targets, api.max_targets allows 2"));
    assert_eq!(stage.gateway.send(send(clients([&id, NOBODY]), "two are")).await, queued(1));
}

#[tokio::test]
pub(super) async fn api_max_sends() {
    let mut stage = Stage::new(&[]).await;
    let (mut raw, id) = stage.raw().await;
    let request = ApplyRequest { messages: vec![applied("one"), applied("two")], ..apply(&id) };
    stage.gateway.membership().apply(request.clone()).await.unwrap();
    assert_eq!((raw.data().await.text(), raw.data().await.text()), ("one", "two"));
    stage.change("api.max_sends", "1").await;
    let (field, why) = fault(stage.gateway.membership().apply(request).await);
    assert_eq!(field, "messages");
    assert!(why.contains("api.max_sends allows 1"), "{why}");
}

#[tokio::test]
pub(super) async fn api_max_streams() {
    let mut stage = Stage::new(&[("api.max_streams", "1")]).await;
    let open = async || {
        let (items, stream) = tokio::sync::mpsc::channel::<SendStreamRequest>(1);
        let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
        stage.gateway.messages().send_stream(stream).await.map(|answers| (items, answers))
    };
    let first = open().await.unwrap();
    let refused = open().await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("api.max_streams"), "{refused}");
    stage.change("api.max_streams", "2").await;
    let second = stage.gateway.messages();
    let (_items, stream) = tokio::sync::mpsc::channel::<SendStreamRequest>(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
    { second }.send_stream(stream).await.unwrap();
    drop(first);
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn api_idempotency_keys() {
    let mut stage = Stage::new(&[]).await;
    let (mut raw, id) = stage.raw().await;
    for key in ["first", "second", "first", "third"] {
        stage.gateway.send(once(&id, key)).await;
    }
    for text in ["first", "second", "third"] {
        assert_eq!(raw.data().await.text(), text);
    }
    // When there is one place, each new key takes the place of all that were answered.
    stage.change("api.idempotency_keys", "1").await;
    for key in ["fourth", "fourth", "first"] {
        stage.gateway.send(once(&id, key)).await;
    }
    for text in ["fourth", "first"] {
        assert_eq!(raw.data().await.text(), text);
    }
}

#[tokio::test]
pub(super) async fn api_idempotency_window() {
    let mut stage = Stage::new(&[("api.idempotency_window", "\"1h\"")]).await;
    let (mut raw, id) = stage.raw().await;
    for _ in 0..3 {
        stage.gateway.send(once(&id, "once")).await;
    }
    stage.gateway.mark(&id).await;
    for text in ["once", "marker"] {
        assert_eq!(raw.data().await.text(), text);
    }
    stage.change("api.idempotency_window", "\"200ms\"").await;
    let sent = stage.gateway.sum(|stats| stats.messages_queued.get());
    let again = async {
        while stage.gateway.sum(|stats| stats.messages_queued.get()) == sent {
            stage.gateway.send(once(&id, "once")).await;
        }
    };
    soon("the end of the window", again).await;
    assert_eq!(raw.data().await.text(), "once");
}

#[tokio::test]
pub(super) async fn limits_attributes() {
    let mut stage = Stage::new(&[]).await;
    let (_raw, id) = stage.raw().await;
    note(&stage, &id, set([("a", "1"), ("b", "2")])).await.unwrap();
    stage.change("limits.attributes", "2").await;
    let refused = note(&stage, &id, set([("c", "3")])).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("limits.attributes allows 2"), "{refused}");
    let request = GetAttributesRequest { client: id };
    let kept = stage.gateway.membership().get_attributes(request).await.unwrap().into_inner();
    assert_eq!(kept.attributes.keys().collect::<Vec<_>>(), ["a", "b"]);
}

#[tokio::test]
pub(super) async fn limits_attribute_bytes() {
    let mut stage = Stage::new(&[]).await;
    let (_raw, id) = stage.raw().await;
    note(&stage, &id, set([("name", "value")])).await.unwrap();
    stage.change("limits.attribute_bytes", "10").await;
    let refused = note(&stage, &id, set([("b", "")])).await;
    assert!(refused.is_ok(), "ten bytes are allowed");
    let refused = note(&stage, &id, set([("c", "")])).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("limits.attribute_bytes allows 10"), "{refused}");
}
