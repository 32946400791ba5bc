//! What is no gRPC call is not carried out: a web page can have a browser post anything anywhere.

use gateway_websocket::grpc::proto::{
    ClonseClientRequest, SendMessageToClientRequest, UnGroupRequest,
    v1::{CloseRequest, DissolveRequest, JoinRequest, UnbindRequest},
};
use prost::Message as _;
use tonic::Code;

use crate::{
    client::Client,
    gateway::Gateway,
    h2c::{Http2, status},
    scrape::Page,
    site::Site,
    v1::{all, clients, send, texts},
};

/// Types that a browser sends without asking first, those of relatives, and nothing at all.
const OTHERS: &[Option<&str>] = &[
    Some("text/plain"),
    Some("text/plain;charset=UTF-8"),
    Some("application/x-www-form-urlencoded"),
    Some("multipart/form-data; boundary=x"),
    Some("application/json"),
    Some("application/x-protobuf"),
    Some("application/grpc+json"),
    Some("application/grpc-web"),
    Some("application/grpc-web+proto"),
    Some("text/plain, application/grpc"),
    Some(""),
    None,
];

/// Calls of both APIs, each of which would do something to the client.
fn calls(id: &str) -> Vec<(&'static str, Vec<u8>)> {
    let (id, text) = (id.to_owned(), "said".to_owned());
    let close = CloseRequest { target: Some(all()), code: 4000, ..CloseRequest::default() };
    let join = JoinRequest {
        clients: vec![id.clone()],
        groups: texts(["other"]),
        ..JoinRequest::default()
    };
    let unbind = UnbindRequest { uids: texts(["ada"]), ..UnbindRequest::default() };
    let message = SendMessageToClientRequest { clientid: id.clone(), message: text };
    vec![
        ("/proto.SendMessageToClient/SendMessageToClient", message.encode_to_vec()),
        ("/proto.UnGroup/UnGroup", UnGroupRequest { group: "lobby".into() }.encode_to_vec()),
        (
            "/proto.ClonseClient/ClonseClient",
            ClonseClientRequest { clientid: id.clone() }.encode_to_vec(),
        ),
        ("/gateway.v1.Messages/Send", send(clients([&id]), "said").encode_to_vec()),
        ("/gateway.v1.Membership/Join", join.encode_to_vec()),
        ("/gateway.v1.Membership/Unbind", unbind.encode_to_vec()),
        (
            "/gateway.v1.Membership/Dissolve",
            DissolveRequest { groups: texts(["lobby"]) }.encode_to_vec(),
        ),
        ("/gateway.v1.Connections/Close", close.encode_to_vec()),
    ]
}

async fn nothing_was_done(gateway: &Gateway, client: &mut Client) {
    assert_eq!(gateway.count_online_group("lobby").await.count, 1);
    assert_eq!(gateway.count_online_group("other").await.count, 0);
    assert_eq!(gateway.count_online_client().await.count, 1);
    assert!(gateway.uid_is_online("ada").await.result);
    gateway.mark(client.id()).await;
    assert_eq!(client.next_text().await, "marker");
}

#[expect(clippy::float_cmp, reason = "counts are whole numbers")]
#[tokio::test]
async fn what_is_no_call_is_415_and_does_nothing() {
    let gateway = Gateway::start().await;
    let mut client = gateway.connect().await;
    gateway.join_group(client.id(), "lobby").await;
    gateway.client_bind_uid(client.id(), "ada").await;
    let mut caller = Http2::connect(gateway.grpc()).await;
    let mut refused = 0;
    for kind in OTHERS {
        let headers: Vec<_> = kind.iter().map(|kind| ("content-type", *kind)).collect();
        for (path, request) in calls(client.id()) {
            let mut call = caller.begin_as("POST", path, &headers).await;
            call.send(&request);
            let (head, body, _) = call.whole().await;
            assert_eq!(head.status, 415, "{kind:?} {path}");
            let (code, why) = status(&head.headers);
            assert_eq!(code, Code::InvalidArgument, "{kind:?} {path}");
            assert!(why.contains("application/grpc+proto"), "{why}");
            // Who speaks no gRPC reads the body.
            let is_grpc = kind.is_some_and(|kind| kind.starts_with("application/grpc"));
            assert_eq!(head.headers["content-type"] == "application/grpc", is_grpc, "{kind:?}");
            assert_eq!(body.is_empty(), is_grpc, "{kind:?}");
            refused += 1;
        }
        nothing_was_done(&gateway, &mut client).await;
    }
    let page = Page::of(&gateway).await;
    assert_eq!(page.get(r#"grpc_refused_total{cause="content-type"}"#), f64::from(refused));
    // The caller's fault, so CallsFail does not count it.
    assert!(!page.text.contains(r#"code="INTERNAL""#), "{}", page.text);
    assert!(!page.text.contains(r#"code="UNKNOWN""#), "{}", page.text);
    let close = r#"{method="gateway.v1.Connections/Close",code="INVALID_ARGUMENT"}"#;
    let each = f64::from(u32::try_from(OTHERS.len()).unwrap());
    assert_eq!(page.get(&format!("grpc_calls_total{close}")), each);
}

#[tokio::test]
async fn what_is_a_call_is_carried_out_however_it_is_written() {
    let gateway = Gateway::start().await;
    let mut client = gateway.connect().await;
    let mut caller = Http2::connect(gateway.grpc()).await;
    for kind in [
        "application/grpc",
        "application/grpc+proto",
        "APPLICATION/gRPC+PROTO",
        "application/grpc;charset=utf-8",
        "application/grpc+proto ; x=\"y\"",
    ] {
        let message =
            SendMessageToClientRequest { clientid: client.id().to_owned(), message: kind.into() };
        let path = "/proto.SendMessageToClient/SendMessageToClient";
        let mut call = caller.begin_as("POST", path, &[("content-type", kind)]).await;
        call.send(&message.encode_to_vec());
        assert_eq!(call.status().await.unwrap().0, Code::Ok, "{kind}");
        assert_eq!(client.next_text().await, kind);
    }
    // Nothing else is a call than POST.
    for method in ["GET", "PUT", "OPTIONS"] {
        let kind = [("content-type", "application/grpc")];
        let mut call = caller.begin_as(method, crate::h2c::COUNT, &kind).await;
        call.complete();
        let (head, _, _) = call.whole().await;
        assert_eq!((head.status.as_u16(), &head.headers["allow"]), (405, &"POST".parse().unwrap()));
    }
}

#[tokio::test]
async fn what_is_no_call_needs_no_token_to_be_refused() {
    let mut site = Site::new();
    let file = site.write("tokens", "the-only-token-0123456789");
    site.start(&format!("grpc.token_files = {file}")).await;
    let mut caller = Http2::connect(site.gateway().grpc()).await;
    for path in [crate::h2c::COUNT, crate::h2c::WATCH, "/"] {
        let mut call = caller.begin_as("POST", path, &[("content-type", "text/plain")]).await;
        call.complete();
        assert_eq!(call.response().await, Some(415), "{path}");
    }
}

#[tokio::test]
async fn a_method_that_is_not_there_is_named() {
    let gateway = Gateway::start().await;
    let mut caller = Http2::connect(gateway.grpc()).await;
    for path in [
        "/proto.UnGroup/NoSuchMethod",
        "/gateway.v1.Messages/Sned",
        "/gateway.v2.Messages/Send",
        "/grpc.health.v1.Health/List",
        "/nothing",
    ] {
        let mut call = caller.begin(path, &[]).await;
        call.complete();
        let (code, why) = call.status().await.unwrap();
        assert_eq!((code, why), (Code::Unimplemented, format!("unknown method {path}")));
    }
    let long = format!("/{}/X", "é".repeat(2000).replace('é', "%C3%A9"));
    let mut call = caller.begin(&long, &[]).await;
    call.complete();
    assert!(call.status().await.unwrap().1.len() < 300);
}
