//! What the modern API remembers and allows.

use std::collections::BTreeMap;

use gateway_websocket::grpc::proto::v1::{Client, DescribeClientsRequest, ListGroupsRequest};

use super::Stage;
use crate::{
    raw::{Raw, request},
    v1_directory::directory,
};

/// What is known of a client that connects with this header line.
async fn described(stage: &Stage, line: &str) -> Client {
    let mut raw = Raw::open(stage.gateway.websocket()).await;
    raw.send(request(&[line])).await;
    raw.response().await;
    let id = raw.data().await.text().to_owned();
    let asked = DescribeClientsRequest { clients: vec![id] };
    let answer = directory(&stage.gateway).describe_clients(asked).await.unwrap().into_inner();
    answer.clients.into_iter().next().expect("it is connected")
}

#[tokio::test]
pub(super) async fn websocket_keep_headers() {
    let mut stage = Stage::new(&[]).await;
    assert_eq!(described(&stage, "X-App: 7").await.headers, BTreeMap::new());
    stage.change("websocket.keep_headers", "[\"X-App\"]").await;
    let kept = BTreeMap::from([("x-app".to_owned(), "7".to_owned())]);
    assert_eq!(described(&stage, "X-App: 7").await.headers, kept);
    stage.change_is_refused("websocket.keep_headers", "[\"a b\"]", "header names").await;
}

#[tokio::test]
pub(super) async fn limits_kept_bytes() {
    let mut stage = Stage::new(&[("websocket.keep_headers", "[\"x-app\"]")]).await;
    let before = described(&stage, "X-App: 7").await;
    assert_eq!((before.path.as_str(), before.headers.len()), ("/any/path", 1));
    stage.change("limits.kept_bytes", "\"4 B\"").await;
    let after = described(&stage, "X-App: 7").await;
    assert_eq!((after.path.as_str(), after.headers.len()), ("/any", 0));
}

#[tokio::test]
pub(super) async fn api_max_page() {
    let mut stage = Stage::new(&[]).await;
    let (_client, id) = stage.raw().await;
    for group in ["a", "b", "c"] {
        assert!(stage.gateway.join_group(id.as_str(), group).await.result);
    }
    let mut directory = directory(&stage.gateway);
    let mut groups =
        async || directory.list_groups(ListGroupsRequest::default()).await.unwrap().into_inner();
    let all = groups().await;
    assert_eq!((all.groups.len(), all.next_page_token.as_str()), (3, ""));
    stage.change("api.max_page", "2").await;
    let some = groups().await;
    assert_eq!((some.groups.len(), some.next_page_token.is_empty()), (2, false));
}
