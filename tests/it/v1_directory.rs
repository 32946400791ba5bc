//! `gateway.v1.Directory`: what is told of a client, who is online, how many there are, and what
//! bad requests get. The lists are in `v1_lists.rs`.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use gateway_websocket::{
    attributes::Retouch,
    change::{Change, Expiry},
    grpc::proto::v1::{
        ApplyRequest, CheckOnlineRequest, Client, ClientFilter, CountRequest,
        DescribeClientsRequest, DescribeClientsResponse, ListClientsRequest, ListGroupsRequest,
        ListUidsRequest, StreamClientsRequest, StreamGroupsRequest, StreamUidsRequest,
        apply_request, directory_client::DirectoryClient,
    },
    ids::Name,
};
use prost_types::Timestamp;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

use crate::{
    authority::Authority,
    client::soon,
    gateway::Gateway,
    raw::{PING, PONG, Raw, frame, request},
};

/// The service, over the connection that all calls of the test share.
pub fn directory(gateway: &Gateway) -> DirectoryClient<Channel> {
    DirectoryClient::new(gateway.channel())
}

/// The field that a refusal is about, and whether it is the only one and the status is the one for
/// that.
pub fn fault(status: &Status) -> (String, bool) {
    let details = status.get_details_bad_request();
    let violations = details.map_or_else(Vec::new, |details| details.field_violations);
    let field = violations.first().map_or_else(String::new, |first| first.field.clone());
    (field, violations.len() == 1 && status.code() == Code::InvalidArgument)
}

async fn describe(gateway: &Gateway, ids: &[&str]) -> DescribeClientsResponse {
    let clients = ids.iter().map(ToString::to_string).collect();
    let answer = directory(gateway).describe_clients(DescribeClientsRequest { clients }).await;
    answer.unwrap().into_inner()
}

/// What is known of one client that is connected.
pub async fn described(gateway: &Gateway, id: &str) -> Client {
    let mut answer = describe(gateway, &[id]).await;
    assert_eq!((answer.clients.len(), answer.failures.len()), (1, 0));
    answer.clients.remove(0)
}

/// Describes a client until it is as it should be.
async fn described_once(gateway: &Gateway, id: &str, is: impl Fn(&Client) -> bool) -> Client {
    let looking = async {
        loop {
            let client = described(gateway, id).await;
            if is(&client) {
                return client;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("what the client should be like", looking).await
}

fn time(at: Option<Timestamp>) -> SystemTime {
    at.expect("a time").try_into().expect("one that is in range")
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

/// An id that looks like a client's, and is nobody's.
pub const NOBODY: &str = "00000000-0000-8000-8000-000000000000";

#[tokio::test]
async fn a_client_is_described_as_it_came() {
    let gateway = Gateway::with(&[
        "websocket.keep_headers=[\"User-Agent\", \"x-none\", \"x-odd\"]",
        "websocket.subprotocols=[\"chat.v2\"]",
        "websocket.ping_interval=0s",
    ])
    .await;
    let before = SystemTime::now();
    let mut raw = Raw::open(gateway.websocket()).await;
    let head = request(&[
        "User-Agent: tests/1",
        "X-Odd: a",
        "X-Odd: b",
        "X-Other: unseen",
        "Sec-WebSocket-Protocol: chat.v3, chat.v2",
        "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=11",
    ]);
    raw.send(&head).await;
    let response = raw.response().await;
    let id = raw.data().await.text().to_owned();
    let own = raw.stream().local_addr().unwrap();
    assert!(gateway.client_bind_uid(id.as_str(), "ada").await.result);
    for group in ["a", "b"] {
        assert!(gateway.join_group(id.as_str(), group).await.result);
    }

    let sent = i64::try_from(response.len() + 2 + id.len()).unwrap();
    let client = described_once(&gateway, &id, |client| client.bytes_out == sent).await;
    assert_eq!((client.id.as_str(), client.uid.as_str()), (id.as_str(), "ada"));
    assert_eq!(client.groups, ["a", "b"]);
    assert_eq!(client.attributes, BTreeMap::new());
    assert_eq!(client.address, own.to_string());
    assert_eq!(client.path, "/any/path");
    let headers = [("user-agent", "tests/1"), ("x-odd", "a, b")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(client.headers, BTreeMap::from(headers));
    assert_eq!(client.subprotocol, "chat.v2");
    assert_eq!(client.compression_window_bits, 11);
    assert!(!client.tls);
    assert_eq!(client.bytes_in, i64::try_from(head.len()).unwrap());
    assert_eq!((client.queued_messages, client.queued_bytes), (0, 0));
    assert_eq!((client.round_trip, client.expires_at), (None, None));
    let shard = gateway_websocket::ids::ClientId::shard(id.parse().unwrap());
    assert_eq!(client.shard, i32::from(shard));
    // Times are told to a tenth of a second.
    let tenth = Duration::from_millis(101);
    for at in [client.connected_at, client.heard_at] {
        assert!(time(at) + tenth >= before && time(at) <= SystemTime::now(), "{at:?}");
    }
}

#[tokio::test]
async fn of_who_asks_for_nothing_the_usual_is_told() {
    let gateway = Gateway::start().await;
    let mut raw = Raw::open(gateway.websocket()).await;
    raw.send(request(&[]).replace("/any/path?and=query", "/")).await;
    raw.response().await;
    let id = raw.data().await.text().to_owned();
    let client = described(&gateway, &id).await;
    assert_eq!((client.path.as_str(), client.subprotocol.as_str()), ("/", ""));
    assert_eq!((client.headers.len(), client.compression_window_bits), (0, 0));
    assert_eq!((client.uid.as_str(), client.groups.len()), ("", 0));
}

#[tokio::test]
async fn what_the_business_system_noted_is_told() {
    let gateway = Gateway::start().await;
    let client = gateway.connect().await;
    let name = |text| Name::new(text, 64).unwrap();
    let retouch = Retouch {
        set: [(name("role"), "admin".into()), (name("empty"), "".into())].into_iter().collect(),
        ..Retouch::default()
    };
    let hour = Duration::from_hours(1);
    let before = SystemTime::now();
    let change = Change {
        attributes: Some(retouch),
        expires: Some(Expiry::after(hour)),
        ..Change::default()
    };
    gateway.hub().change(client.id().parse().unwrap(), change).await.unwrap();
    let known = described(&gateway, client.id()).await;
    let noted = [("role", "admin"), ("empty", "")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(known.attributes, BTreeMap::from(noted));
    let at = time(known.expires_at).duration_since(before).expect("it is to come");
    assert!(at + Duration::from_millis(30) >= hour && at < hour + Duration::from_secs(1), "{at:?}");
    // Times are the same whenever they are asked for.
    let again = described(&gateway, client.id()).await;
    assert_eq!(again.expires_at, known.expires_at);
    assert_eq!(again.connected_at, known.connected_at);
}

#[tokio::test]
async fn an_expiry_is_told_exactly_as_it_was_set() {
    let gateway = Gateway::start().await;
    let client = gateway.connect().await;
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let soon = i64::try_from(now).unwrap() + 3600;
    for (seconds, nanos) in [(soon, 0), (soon, 1), (soon + 86_400 * 365 * 5, 999_999_999)] {
        let at = Timestamp { seconds, nanos };
        let request = ApplyRequest {
            client: client.id().to_owned(),
            expiry: Some(apply_request::Expiry::ExpiresAt(at)),
            ..ApplyRequest::default()
        };
        gateway.membership().apply(request).await.unwrap();
        assert_eq!(described(&gateway, client.id()).await.expires_at, Some(at));
    }
}

#[tokio::test]
async fn behind_a_proxy_the_address_is_the_clients() {
    let sets = ["websocket.proxies=[\"127.0.0.0/8\"]", "websocket.proxy_header=x-forwarded-for"];
    let gateway = Gateway::with(&sets).await;
    for (says, address) in [("192.0.2.7", "192.0.2.7:0"), ("2001:db8::7", "[2001:db8::7]:0")] {
        let mut raw = Raw::open(gateway.websocket()).await;
        raw.send(request(&[&format!("X-Forwarded-For: {says}")])).await;
        raw.response().await;
        let id = raw.data().await.text().to_owned();
        assert_eq!(described(&gateway, &id).await.address, address);
    }
}

#[tokio::test]
async fn tls_is_told() {
    let authority = Authority::new();
    let own = authority.sets();
    let gateway = Gateway::with(&own.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let (_raw, id) = Raw::over(authority.connect(gateway.tls()).await).enter().await;
    let (_plain, plain) = Raw::welcomed(gateway.websocket()).await;
    let answer = describe(&gateway, &[&id, &plain]).await;
    assert_eq!(answer.clients.iter().map(|client| client.tls).collect::<Vec<_>>(), [true, false]);
    assert!(answer.clients[0].bytes_in > answer.clients[1].bytes_in, "keys are bytes, too");
}

#[tokio::test]
async fn the_round_trip_is_the_time_from_a_ping_to_its_pong() {
    let gateway = Gateway::with(&["websocket.ping_interval=200ms"]).await;
    let (mut raw, id) = Raw::welcomed(gateway.websocket()).await;
    // A pong that nobody asked for tells nothing.
    raw.send(frame(PONG, b"")).await;
    assert_eq!(raw.next().await.expect("a ping").first, PING);
    assert_eq!(described(&gateway, &id).await.round_trip, None);
    let delay = Duration::from_millis(50);
    tokio::time::sleep(delay).await; // what the answer takes: at least this is measured
    raw.send(frame(PONG, b"")).await;
    let client = described_once(&gateway, &id, |client| client.round_trip.is_some()).await;
    let took: Duration = client.round_trip.unwrap().try_into().unwrap();
    assert!(took >= delay && took < Duration::from_mins(1), "{took:?}");
    let first = time(client.heard_at);
    // The next one counts anew, and what is heard is noted.
    assert_eq!(raw.next().await.expect("a ping").first, PING);
    raw.send(frame(PONG, b"")).await;
    described_once(&gateway, &id, |client| time(client.heard_at) > first).await;
}

#[tokio::test]
async fn what_waits_for_a_client_that_does_not_read_is_told() {
    let gateway =
        Gateway::with(&["websocket.send_buffer=4096", "websocket.ping_interval=0s"]).await;
    let (_raw, id) = Raw::narrow(gateway.websocket()).await;
    let message = "x".repeat(100_000);
    let framed = 100_010;
    for sent in 1.. {
        assert!(gateway.send_message_to_client(id.as_str(), &message).await.result);
        let client = described(&gateway, &id).await;
        assert_eq!(client.queued_bytes, client.queued_messages * framed, "{client:?}");
        // What waits has not been sent, but for a part of its first message.
        let gone = (sent - client.queued_messages + 1) * framed;
        assert!(client.bytes_out < gone + 500, "{client:?}");
        if client.queued_messages == 5 {
            break;
        }
        assert!(sent < 1000, "it fills");
    }
}

#[tokio::test]
async fn who_is_not_there_is_a_failure_of_its_own() {
    let gateway = Gateway::start().await;
    let [ada, bob] = gateway.connect_n().await;
    let elsewhere = gateway_websocket::ids::ClientId::new(900, 1, 1, 1).to_string();
    let asked = [bob.id(), NOBODY, ada.id(), &elsewhere, bob.id()];
    let answer = describe(&gateway, &asked).await;
    let ids: Vec<_> = answer.clients.iter().map(|client| client.id.as_str()).collect();
    assert_eq!(ids, [bob.id(), ada.id(), bob.id()]);
    let failures = answer.failures.iter().map(|it| (it.field.as_str(), it.code));
    assert_eq!(failures.collect::<Vec<_>>(), [("clients[1]", 5), ("clients[3]", 5)]);
    assert!(answer.failures[0].message.contains(NOBODY));
    assert_eq!(describe(&gateway, &[]).await, DescribeClientsResponse::default());
}

#[tokio::test]
async fn many_are_described_in_their_order() {
    let gateway = Gateway::start().await;
    let clients = gateway.connect_n::<40>().await;
    // More than a shard describes in one step.
    let asked: Vec<_> = clients.iter().cycle().map(crate::client::Client::id).take(1000).collect();
    let answer = describe(&gateway, &asked).await;
    let ids: Vec<_> = answer.clients.iter().map(|client| client.id.as_str()).collect();
    assert_eq!(ids, asked);
}

#[tokio::test]
async fn who_does_not_fit_into_an_answer_is_to_be_asked_for_again() {
    let gateway = Gateway::with(&["limits.attribute_bytes=600KiB"]).await;
    let clients = gateway.connect_n::<8>().await;
    for client in &clients {
        let value = "x".repeat(590 * 1024);
        let set = [(Name::new("note", 9).unwrap(), value.into())].into_iter().collect();
        let retouch = Retouch { set, ..Retouch::default() };
        let change = Change { attributes: Some(retouch), ..Change::default() };
        gateway.hub().change(client.id().parse().unwrap(), change).await.unwrap();
    }
    let all: Vec<_> = clients.iter().map(crate::client::Client::id).collect();
    let mut asked: Vec<&str> = all.clone();
    asked.push(NOBODY);
    let mut seen = Vec::new();
    while asked.len() > 1 {
        // The caller's library takes 4 MiB.
        let answer = describe(&gateway, &asked).await;
        seen.extend(answer.clients.iter().map(|client| client.id.clone()));
        assert!((1..=3).contains(&answer.clients.len()));
        let (none, rest): (Vec<_>, Vec<_>) = answer.failures.iter().partition(|it| it.code == 5);
        assert_eq!(none.len(), 1, "who is not there is told all the same");
        assert!(rest.iter().all(|it| it.code == Code::ResourceExhausted as i32));
        let at = |field: &str| field["clients[".len()..field.len() - 1].parse::<usize>().unwrap();
        asked = rest.iter().map(|it| asked[at(&it.field)]).chain([NOBODY]).collect();
    }
    assert_eq!(seen, all);
}

#[tokio::test]
async fn who_is_online_is_told_in_the_order_of_the_request() {
    let gateway = Gateway::start().await;
    let [ada, mut bob, eve] = gateway.connect_n().await;
    assert!(gateway.client_bind_uid(ada.id(), "ada").await.result);
    assert!(gateway.client_bind_uid(bob.id(), "bob").await.result);
    assert!(gateway.clonse_client(bob.id()).await.result);
    bob.next_close().await;
    let asked = CheckOnlineRequest {
        clients: strings(&[eve.id(), NOBODY, bob.id(), ada.id(), eve.id()]),
        uids: strings(&["nobody", "ada", "bob", "ada"]),
    };
    let answer = directory(&gateway).check_online(asked).await.unwrap().into_inner();
    assert_eq!(answer.clients, [true, false, false, true, true]);
    assert_eq!(answer.uids, [false, true, false, true]);
    // As many as may be.
    let clients = vec![eve.id().to_owned(); 9_999];
    let asked = CheckOnlineRequest { clients, uids: strings(&["ada"]) };
    let answer = directory(&gateway).check_online(asked).await.unwrap().into_inner();
    assert_eq!(answer.clients, [true; 9_999]);
}

#[tokio::test]
async fn everything_can_be_counted_at_once() {
    let gateway = Gateway::start().await;
    let clients = gateway.connect_n::<5>().await;
    for client in &clients[..3] {
        assert!(gateway.client_bind_uid(client.id(), "ada").await.result);
        assert!(gateway.join_group(client.id(), "lobby").await.result);
    }
    assert!(gateway.client_bind_uid(clients[3].id(), "bob").await.result);
    assert!(gateway.join_group(clients[4].id(), "bar").await.result);
    let asked = CountRequest {
        groups: strings(&["none", "lobby", "bar"]),
        uids: strings(&["bob", "ada", "eve"]),
    };
    let answer = directory(&gateway).count(asked).await.unwrap().into_inner();
    assert_eq!((answer.clients, answer.uids, answer.groups), (5, 2, 2));
    assert_eq!((answer.group_members, answer.uid_clients), (vec![0, 3, 1], vec![1, 3, 0]));
}

/// Makes calls and says which field each is refused for.
macro_rules! refused {
    ($gateway:ident: $($call:ident($request:expr) $field:literal $words:literal;)+) => {$(
        let status = directory(&$gateway).$call($request).await.map(drop).unwrap_err();
        assert_eq!(fault(&status), ($field.to_owned(), true), "{status:?}");
        assert!(status.message().contains($words), "{status:?}");
    )+};
}

#[tokio::test]
async fn a_bad_request_is_refused_with_the_path_of_its_field() {
    let gateway = Gateway::with(&["api.max_targets=3", "api.max_page=2", "limits.names=8"]).await;
    let long = || "nine byte".to_owned();
    let filter = |filter| ListClientsRequest { filter: Some(filter), ..Default::default() };
    let at = |seconds, nanos| ClientFilter {
        connected_since: Some(Timestamp { seconds, nanos }),
        ..ClientFilter::default()
    };
    let with = |pairs: Vec<(String, String)>| ClientFilter {
        attributes: pairs.into_iter().collect(),
        ..ClientFilter::default()
    };
    let many = || (0..33).map(|number| (number.to_string(), String::new())).collect();
    refused! { gateway:
        describe_clients(DescribeClientsRequest { clients: strings(&[NOBODY, "x"]) })
            "clients[1]" "UUID";
        describe_clients(DescribeClientsRequest { clients: strings(&[NOBODY; 3]) })
            "clients" "api.max_page allows 2";
        check_online(CheckOnlineRequest { clients: strings(&[""]), uids: vec![] })
            "clients[0]" "UUID";
        check_online(CheckOnlineRequest { clients: vec![], uids: strings(&["a", ""]) })
            "uids[1]" "empty name";
        check_online(CheckOnlineRequest { clients: strings(&[NOBODY; 4]), uids: vec![] })
            "clients" "api.max_targets allows 3";
        check_online(CheckOnlineRequest {
            clients: strings(&[NOBODY; 2]), uids: strings(&["a"; 2]),
        }) "uids" "api.max_targets allows 3";
        count(CountRequest { groups: vec![long()], uids: vec![] })
            "groups[0]" "limits.names allows 8";
        count(CountRequest { groups: vec![], uids: vec![String::new()] }) "uids[0]" "empty name";
        count(CountRequest { groups: strings(&["a"; 2]), uids: strings(&["a"; 2]) })
            "uids" "api.max_targets allows 3";
        list_clients(ListClientsRequest { page_size: -1, ..Default::default() })
            "page_size" "negative";
        list_uids(ListUidsRequest { page_size: i32::MIN, ..Default::default() })
            "page_size" "negative";
        list_groups(ListGroupsRequest { page_size: -1, ..Default::default() })
            "page_size" "negative";
        list_clients(filter(ClientFilter { uid_prefix: long(), ..Default::default() }))
            "filter.uid_prefix" "limits.names";
        list_clients(filter(ClientFilter { group: long(), ..Default::default() }))
            "filter.group" "limits.names";
        list_clients(filter(at(0, -1))) "filter.connected_since" "years 1 to 9999";
        list_clients(filter(at(0, 1_000_000_000))) "filter.connected_since" "years 1 to 9999";
        list_clients(filter(at(i64::MAX, 0))) "filter.connected_since" "years 1 to 9999";
        list_clients(filter(at(i64::MIN, 0))) "filter.connected_since" "years 1 to 9999";
        list_clients(filter(with(vec![(String::new(), "x".to_owned())])))
            "filter.attributes[\"\"]" "empty name";
        list_clients(filter(with(many()))) "filter.attributes" "limits.attributes allows 32";
        list_clients(filter(with(vec![("a".to_owned(), "x".repeat(5000))])))
            "filter.attributes" "limits.attribute_bytes";
        list_uids(ListUidsRequest { prefix: long(), ..Default::default() })
            "prefix" "limits.names";
        list_uids(ListUidsRequest { group: long(), ..Default::default() }) "group" "limits.names";
        list_groups(ListGroupsRequest { prefix: long(), ..Default::default() })
            "prefix" "limits.names";
        stream_clients(StreamClientsRequest {
            filter: Some(ClientFilter { group: long(), ..Default::default() }),
        }) "filter.group" "limits.names";
        stream_uids(StreamUidsRequest { group: long(), ..Default::default() })
            "group" "limits.names";
        stream_groups(StreamGroupsRequest { prefix: long() }) "prefix" "limits.names";
    }
    // All that is wrong is told at once.
    let asked = CheckOnlineRequest { clients: strings(&["x"]), uids: strings(&["", "b"]) };
    let status = directory(&gateway).check_online(asked).await.unwrap_err();
    let violations = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<_> = violations.iter().map(|it| it.field.as_str()).collect();
    assert_eq!(fields, ["clients[0]", "uids[0]"]);
}

#[tokio::test]
async fn a_stopped_gateway_is_unavailable() {
    let gateway = Gateway::start().await;
    let client = gateway.connect().await;
    gateway.hub().stop();
    let asked = DescribeClientsRequest { clients: vec![client.id().to_owned()] };
    let answering = async {
        loop {
            // The shards end when they come to it.
            match directory(&gateway).describe_clients(asked.clone()).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(status) => return status,
            }
        }
    };
    assert_eq!(soon("a refusal", answering).await.code(), Code::Unavailable);
    let list = ListClientsRequest::default();
    let status = directory(&gateway).list_clients(list).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}
