//! `gateway.v1.Connections.Close`: who is closed, what they see, and what the log says of it.

use gateway_websocket::{
    grpc::proto::v1::{
        CloseRequest, DissolveRequest, JoinRequest, Pending, SendRequest, SetAttributesRequest,
        Target, connections_client::ConnectionsClient, membership_client::MembershipClient,
        send_request::WhenBehind,
    },
    metrics::Drop,
};
use tonic::transport::Endpoint;

use crate::{
    client::Client,
    gateway::Gateway,
    program::Program,
    raw::Raw,
    v1::{NOBODY, all, clients, groups, queued, send, set, text, texts},
};

fn close(target: Target) -> CloseRequest {
    CloseRequest { target: Some(target), ..CloseRequest::default() }
}

impl Gateway {
    async fn close(&self, request: CloseRequest) -> i64 {
        self.connections().close(request).await.unwrap().into_inner().closed
    }
}

#[tokio::test]
async fn a_closed_client_sees_the_code_the_reason_and_the_last_message() {
    let gateway = Gateway::start().await;
    let codes = [(0, 1000), (1000, 1000), (1001, 1001), (1008, 1008), (1011, 1011), (1012, 1012)];
    for (code, seen) in codes.into_iter().chain([(1013, 1013), (3000, 3000), (4999, 4999)]) {
        let mut ada = gateway.connect().await;
        gateway.send(send(clients([ada.id()]), "before")).await;
        let reason = "é".repeat(61) + "!";
        let last_message = Some(text("goodbye"));
        let request = CloseRequest { code, reason, last_message, ..close(clients([ada.id()])) };
        assert_eq!(gateway.close(request.clone()).await, 1);
        assert!(!gateway.client_is_online(ada.id()).await.isonline);
        assert_eq!(gateway.close(request.clone()).await, 0, "it is no client any more");
        assert_eq!(ada.next_text().await, "before");
        assert_eq!(ada.next_text().await, "goodbye");
        assert_eq!(ada.next_close().await, (seen, request.reason));
        ada.ended().await;
    }
}

#[tokio::test]
async fn exactly_the_target_is_closed_and_is_on_no_list_when_that_is_answered() {
    let gateway = Gateway::start().await;
    let mut everybody = gateway.connect_n::<5>().await;
    let ids = everybody.each_ref().map(|client| client.id().to_owned());
    for id in &ids[..3] {
        gateway.client_bind_uid(id.as_str(), "ada").await;
        gateway.join_group(id.as_str(), "lobby").await;
    }
    assert_eq!(gateway.close(close(clients([NOBODY]))).await, 0);
    let target = Target { except_clients: texts([&ids[1]]), ..groups(["lobby"]) };
    assert_eq!(gateway.close(close(target)).await, 2);
    let left = gateway.get_group_online_client("lobby").await.clientid;
    assert_eq!(left, [ids[1].clone()]);
    assert_eq!(gateway.get_uid_by_client("ada").await.clientid, left);
    assert_eq!(gateway.count_online_client().await.count, 3);
    for at in [0, 2] {
        assert_eq!(everybody[at].next_close().await, (1000, String::new()));
    }
    // Those who are left, by what is noted about one of them.
    let change = Some(set([("plan", "free")]));
    let request = SetAttributesRequest { change, clients: texts([&ids[4]]), uids: vec![] };
    gateway.membership().set_attributes(request).await.unwrap();
    let attributes = [("plan".to_owned(), "free".to_owned())].into();
    assert_eq!(gateway.close(close(Target { attributes, ..all() })).await, 1);
    assert_eq!(everybody[4].next_close().await.0, 1000);
    assert_eq!(gateway.close(close(all())).await, 2);
    assert_eq!(gateway.count_online_client().await.count, 0);
}

/// A client that doesn't read, whose socket is full, and for whom two messages wait.
async fn laden() -> (Gateway, Raw, String) {
    let gateway = Gateway::with(&["websocket.send_buffer=16KiB", "limits.close_wait=1h"]).await;
    let (raw, id) = Raw::narrow(gateway.websocket()).await;
    let fill = SendRequest {
        when_behind: Some(WhenBehind::DropIfBehind(true)),
        ..send(clients([&id]), &"x".repeat(4096))
    };
    while gateway.send(fill.clone()).await == queued(1) {}
    for text in ["a", "b"] {
        assert_eq!(gateway.send(send(clients([&id]), text)).await, queued(1));
    }
    (gateway, raw, id)
}

#[tokio::test]
async fn what_waits_goes_out_first_or_is_dropped_as_the_caller_says() {
    for (pending, expected) in [
        (Pending::Unspecified, &["a", "b", "last"][..]),
        (Pending::Flush, &["a", "b", "last"]),
        (Pending::Drop, &["last"]),
    ] {
        let (gateway, mut raw, id) = laden().await;
        let (how, last_message) = (pending.into(), Some(text("last")));
        let close = close(clients([&id]));
        let request = CloseRequest { pending: how, last_message, code: 4000, ..close };
        assert_eq!(gateway.close(request).await, 1);
        let mut texts = Vec::new();
        while texts.last().is_none_or(|last| last != "last") {
            texts.push(raw.data().await.text().to_owned());
        }
        // What the socket had taken, or half of it, is no more to be dropped.
        texts.retain(|text| text.len() < 4096);
        assert_eq!(texts, expected, "{pending:?}");
        assert_eq!(raw.close_code().await, 4000);
        let dropped = gateway.sum(|stats| stats.dropped[Drop::Closed as usize].get());
        assert_eq!(dropped >= 2, pending == Pending::Drop, "{dropped} were dropped");
    }
}

#[tokio::test]
async fn a_large_last_message_for_many_is_held_once() {
    let gateway = Gateway::with(&["shards=1", "websocket.send_buffer=16KiB"]).await;
    let mut stuck = Vec::new();
    for _ in 0..20 {
        stuck.push(Raw::narrow(gateway.websocket()).await);
    }
    let last_message = Some(text(&"x".repeat(1 << 20)));
    assert_eq!(gateway.close(CloseRequest { last_message, ..close(all()) }).await, 20);
    // Who is told of it has begun a later turn, in which it is counted what waits.
    gateway.get_all_online_client().await;
    gateway.get_all_online_client().await;
    let held = gateway.sum(|stats| stats.queued_bytes.get());
    assert!((1 << 20..2 << 20).contains(&held), "{held} bytes");
    for (raw, _) in &mut stuck {
        assert_eq!(raw.data().await.payload.len(), 1 << 20);
        assert_eq!(raw.close_code().await, 1000);
    }
}

#[tokio::test]
async fn the_log_names_who_closed_and_dissolved_what() {
    let mut program = Program::new();
    let config = program.config("");
    let status = program.serve(&["--config", &config]).await;
    let mut client = Client::connect(status.listeners.websocket[0]).await;
    let endpoint = format!("http://{}", status.listeners.grpc[0]);
    let channel = Endpoint::from_shared(endpoint).unwrap().connect_lazy();
    let mut membership = MembershipClient::new(channel.clone());
    let (group, id) = (texts(["lobby"]), texts([client.id()]));
    let join = JoinRequest { groups: group.clone(), clients: id, uids: vec![] };
    assert_eq!(membership.join(join).await.unwrap().into_inner().joined, 1);
    let dissolved = membership.dissolve(DissolveRequest { groups: group }).await.unwrap();
    assert_eq!((dissolved.get_ref().dissolved, dissolved.get_ref().left), (1, 1));
    let mut connections = ConnectionsClient::new(channel);
    let request =
        CloseRequest { code: 4001, reason: "no\nmore".into(), ..close(clients([client.id()])) };
    assert_eq!(connections.close(request).await.unwrap().into_inner().closed, 1);
    // What is refused was done by nobody.
    connections.close(close(Target::default())).await.unwrap_err();
    client.next_close().await;

    let log = program.settled_log();
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<serde_json::Value> = lines.collect();
    let audit = lines.iter().filter(|line| line["target"] == "gateway_websocket::audit");
    let [dissolved, closed] = &audit.collect::<Vec<_>>()[..] else { panic!("{log}") };
    assert_eq!(dissolved["call"], "Membership.Dissolve");
    assert_eq!(dissolved["groups"], "lobby");
    assert_eq!(closed["call"], "Connections.Close");
    assert_eq!(closed["whom"], format!("clients {}", client.id()));
    assert_eq!((&closed["code"], &closed["reason"]), (&4001.into(), &"no\nmore".into()));
    for line in [dissolved, closed] {
        assert!(line["caller"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
}
