//! The modern API's services are served like the classic ones: with tokens, health and reflection.

use gateway_websocket::grpc::proto::v1::{CloseRequest, DissolveRequest};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::{
    client::soon,
    gateway::Gateway,
    site::Site,
    v1::{all, send},
};

const SERVICES: [&str; 5] = [
    "gateway.v1.Connections",
    "gateway.v1.Directory",
    "gateway.v1.Events",
    "gateway.v1.Membership",
    "gateway.v1.Messages",
];

/// What business systems serve to the gateway.
const THEIRS: &str = "gateway.v1.Admission";

#[tokio::test]
async fn health_knows_each_service() {
    let gateway = Gateway::start().await;
    let mut health = HealthClient::new(gateway.channel());
    for service in SERVICES {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
}

#[tokio::test]
async fn reflection_describes_each_service() {
    let gateway = Gateway::start().await;
    let (ask, questions) = tokio::sync::mpsc::channel(1);
    let mut client = ServerReflectionClient::new(gateway.channel());
    let opened = client.server_reflection_info(ReceiverStream::new(questions));
    let mut answers = soon("the stream", opened).await.unwrap().into_inner();
    let mut answer = async |question| {
        let message_request = Some(question);
        let question = ServerReflectionRequest { host: String::new(), message_request };
        ask.send(question).await.unwrap();
        let answer = soon("an answer", answers.message()).await.unwrap().unwrap();
        answer.message_response.expect("a response")
    };
    // Who implements a service of his own for the gateway may ask what it is like.
    for service in SERVICES.into_iter().chain([THEIRS]) {
        let question = MessageRequest::FileContainingSymbol(service.to_owned());
        let MessageResponse::FileDescriptorResponse(found) = answer(question).await else {
            panic!("{service} is not described");
        };
        assert!(!found.file_descriptor_proto.is_empty());
    }
    let MessageResponse::ListServicesResponse(listed) =
        answer(MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list");
    };
    let listed: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
    for service in SERVICES.into_iter().chain(["grpc.health.v1.Health", "proto.UnGroup"]) {
        assert!(listed.iter().any(|name| name == service), "{service} is not among {listed:?}");
    }
    assert!(!listed.iter().any(|name| name == THEIRS), "it is not served here");
    assert_eq!(listed.len(), 21 + SERVICES.len() + 2, "{listed:?}");
}

#[tokio::test]
async fn the_modern_api_asks_for_tokens_as_the_classic_one_does() {
    const TOKEN: &str = "the-only-token-0123456789";
    let mut site = Site::new();
    let file = site.write("tokens", TOKEN);
    site.start(&format!("grpc.token_files = {file}")).await;
    let gateway = site.gateway();
    let with = |token: &str| {
        let mut request = Request::new(send(all(), "hello"));
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        request
    };
    let mut ada = gateway.connect().await;
    let mut refused = vec![
        gateway.messages().send(with("the-wrong-token-0123456789")).await.map(drop),
        gateway.messages().send(send(all(), "hello")).await.map(drop),
        gateway.membership().dissolve(DissolveRequest::default()).await.map(drop),
    ];
    let close = CloseRequest { target: Some(all()), ..CloseRequest::default() };
    refused.push(gateway.connections().close(close).await.map(drop));
    for refused in refused {
        assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    }
    gateway.messages().send(with(TOKEN)).await.unwrap();
    assert_eq!(ada.next_text().await, "hello");
}
