//! What the modern API says to bad input: which field it is, which limit, and nothing is done.

use std::collections::BTreeMap;

use gateway_websocket::grpc::proto::v1::{
    ApplyMessage, ApplyRequest, AttributeChange, BindRequest, CloseRequest, DissolveRequest,
    GetAttributesRequest, JoinRequest, LeaveRequest, Message, SendRequest, SetAttributesRequest,
    Target, UnbindRequest,
    apply_request::{Expiry, UidChange},
    send_request::WhenBehind,
};
use prost_types::{Duration, Timestamp};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt as _;

use crate::{
    gateway::Gateway,
    v1::{NOBODY, all, applied, clients, faults, groups, queued, send, set, text, texts, uids},
};

/// Limits so small that everything goes beyond them.
const SMALL: [&str; 6] = [
    "limits.names=4",
    "limits.groups_per_client=2",
    "limits.attributes=2",
    "limits.attribute_bytes=8",
    "api.max_targets=3",
    "api.max_sends=2",
];

/// The paths at fault are these, and each says this.
fn told<T: std::fmt::Debug>(answer: Result<Response<T>, Status>, expected: &[(&str, &str)]) {
    let faults = faults(answer);
    let fields: Vec<&str> = faults.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(fields, expected.iter().map(|(field, _)| *field).collect::<Vec<_>>());
    for ((_, why), (_, words)) in faults.iter().zip(expected) {
        assert!(why.contains(words), "{words:?} is not in {faults:?}");
    }
}

fn names(pairs: &[&str]) -> BTreeMap<String, String> {
    pairs.iter().map(|name| ((*name).to_owned(), String::new())).collect()
}

const UUID: &str = "UUID (version 8)";
const LONG: &str = "5 bytes, limits.names allows 4";

#[tokio::test]
async fn a_target_has_to_name_somebody_and_names_that_are_names() {
    let gateway = Gateway::with(&SMALL).await;
    let mut ada = gateway.connect().await;
    let except = |target: Target, except_clients, except_uids| Target {
        except_clients,
        except_uids,
        ..target
    };
    let having = |pairs: &[&str]| Target { attributes: names(pairs), ..all() };
    let many = "4 targets, api.max_targets allows 3";
    for (target, expected) in [
        (Target::default(), &[("target", "nobody named")][..]),
        (except(Target::default(), vec![], texts(["eve"])), &[("target", "nobody named")]),
        (Target { all: true, ..clients([NOBODY]) }, &[("target.all", "not allowed together with")]),
        (Target { all: true, ..uids(["ada"]) }, &[("target.all", "not allowed together with")]),
        (Target { all: true, ..groups(["ada"]) }, &[("target.all", "not allowed together with")]),
        (
            clients([NOBODY, "", "no id"]),
            &[("target.clients[1]", UUID), ("target.clients[2]", UUID)],
        ),
        (uids(["ada", "", "12345"]), &[("target.uids[1]", "empty name"), ("target.uids[2]", LONG)]),
        (groups(["12345"]), &[("target.groups[0]", LONG)]),
        (except(all(), texts(["x"]), vec![]), &[("target.except_clients[0]", UUID)]),
        (except(all(), vec![], texts(["ada", ""])), &[("target.except_uids[1]", "empty name")]),
        (groups(["a", "b", "c", "d"]), &[("target", many)]),
        (Target { groups: texts(["b", "c"]), ..uids(["a", "a"]) }, &[("target", many)]),
        (except(groups(["a", "b"]), vec![], texts(["c", "d"])), &[("target", many)]),
        (having(&[""]), &[("target.attributes[\"\"]", "empty name")]),
        (having(&["12345"]), &[("target.attributes[\"12345\"]", LONG)]),
        (having(&["a", "b", "c"]), &[("target.attributes", "limits.attributes allows 2")]),
    ] {
        told(gateway.messages().send(send(target.clone(), "hello")).await, expected);
        let request = CloseRequest { target: Some(target), ..CloseRequest::default() };
        told(gateway.connections().close(request).await, expected);
    }
    let missing = &[("target", "missing")];
    let request = SendRequest { message: Some(text("")), ..SendRequest::default() };
    told(gateway.messages().send(request).await, missing);
    told(gateway.connections().close(CloseRequest::default()).await, missing);
    // As many as are allowed are.
    let most = except(groups(["a", "b"]), vec![], texts(["c"]));
    assert_eq!(gateway.send(send(most, "hello")).await, queued(0));
    gateway.mark(ada.id()).await;
    assert_eq!(ada.next_text().await, "marker");
}

#[tokio::test]
async fn a_message_and_its_terms_have_to_be_possible() {
    let gateway = Gateway::with(&SMALL).await;
    let mut ada = gateway.connect().await;
    let message = |kind, data: &'static [u8]| Some(Message { kind, data: data.into() });
    let sent = || send(all(), "hello");
    let ttl = |seconds, nanos| SendRequest { ttl: Some(Duration { seconds, nanos }), ..sent() };
    let conflated = |key: &str| SendRequest {
        when_behind: Some(WhenBehind::ConflateKey(key.into())),
        ..sent()
    };
    for (request, field, words) in [
        (SendRequest { message: None, ..sent() }, "message", "missing"),
        (SendRequest { message: message(1, b"\xff"), ..sent() }, "message.data", "not valid UTF-8"),
        (SendRequest { message: message(0, b"\xff"), ..sent() }, "message.data", "not valid UTF-8"),
        (SendRequest { message: message(3, b""), ..sent() }, "message.kind", "unknown kind"),
        (SendRequest { message: message(-1, b""), ..sent() }, "message.kind", "unknown kind"),
        (ttl(0, 0), "ttl", "from 1 ms"),
        (ttl(0, 999_999), "ttl", "from 1 ms"),
        (ttl(-1, 0), "ttl", "from 1 ms"),
        (ttl(1, -1), "ttl", "from 1 ms"),
        (ttl(1, 1_000_000_000), "ttl", "from 1 ms"),
        (ttl(i64::MIN, i32::MIN), "ttl", "from 1 ms"),
        (ttl(315_576_000_001, 0), "ttl", "to 10,000 years"),
        (ttl(i64::MAX, 0), "ttl", "to 10,000 years"),
        (conflated(""), "conflate_key", "empty name"),
        (conflated("12345"), "conflate_key", LONG),
        (SendRequest { idempotency_key: "12345".into(), ..sent() }, "idempotency_key", LONG),
    ] {
        told(gateway.messages().send(request).await, &[(field, words)]);
    }
    // All at once.
    let request = SendRequest {
        target: Some(Target { all: true, ..uids([""]) }),
        message: message(1, b"\xff"),
        ttl: Some(Duration { seconds: 0, nanos: 0 }),
        when_behind: Some(WhenBehind::ConflateKey(String::new())),
        idempotency_key: "12345".into(),
    };
    let expected = [
        ("target.all", "together"),
        ("target.uids[0]", "empty name"),
        ("message.data", "UTF-8"),
        ("ttl", "1 ms"),
        ("conflate_key", "empty name"),
        ("idempotency_key", LONG),
    ];
    told(gateway.messages().send(request).await, &expected);
    // A binary message may be anything, and the longest time is no fault.
    let request = SendRequest { message: message(2, b"\xff"), ..ttl(315_576_000_000, 0) };
    assert_eq!(gateway.send(request).await, queued(1));
    assert_eq!(ada.next_message().await.into_data(), &b"\xff"[..]);
}

#[tokio::test]
async fn a_close_has_to_be_one_that_may_be_sent() {
    let gateway = Gateway::start().await;
    let mut ada = gateway.connect().await;
    let close = || CloseRequest { target: Some(all()), ..CloseRequest::default() };
    for code in [1, 999, 1002, 1005, 1006, 1007, 1010, 1014, 1015, 2999, 5000, 66_536, u32::MAX] {
        let answer = gateway.connections().close(CloseRequest { code, ..close() }).await;
        told(answer, &[("code", "3000 to 4999")]);
    }
    let binary = Message { kind: 1, data: b"\xc0"[..].into() };
    let request =
        CloseRequest { reason: "é".repeat(62), last_message: Some(binary), pending: 3, ..close() };
    let expected = [
        ("last_message.data", "UTF-8"),
        ("reason", "124 bytes, at most 123"),
        ("pending", "unknown"),
    ];
    told(gateway.connections().close(request).await, &expected);
    gateway.mark(ada.id()).await;
    assert_eq!(ada.next_text().await, "marker", "nobody was closed");
}

#[tokio::test]
async fn a_change_has_to_say_of_whom_and_what() {
    let gateway = Gateway::with(&SMALL).await;
    let ada = gateway.connect().await;
    let mut membership = gateway.membership();
    let one = || texts([ada.id()]);
    let nobody = &[("clients", "no client named, neither by id nor by uid")];
    let many = "4 targets, api.max_targets allows 3";

    let bind = |uid: &str, clients, uids| BindRequest { uid: uid.into(), clients, uids };
    for (request, expected) in [
        (bind("ada", vec![], vec![]), &nobody[..]),
        (bind("", one(), vec![]), &[("uid", "empty name")]),
        (bind("12345", one(), texts([""])), &[("uid", LONG), ("uids[0]", "empty name")]),
        (bind("ada", texts([NOBODY, "x"]), vec![]), &[("clients[1]", UUID)]),
        (bind("ada", one(), texts(["a", "b", "c"])), &[("uids", many)]),
        (bind("ada", texts([NOBODY; 3]), texts(["a"])), &[("clients", many)]),
    ] {
        told(membership.bind(request).await, expected);
    }
    told(membership.unbind(UnbindRequest::default()).await, nobody);
    let request = UnbindRequest { clients: texts(["x"]), uids: texts(["12345"]) };
    told(membership.unbind(request).await, &[("clients[0]", UUID), ("uids[0]", LONG)]);

    let groups_of = |groups| JoinRequest { groups, clients: one(), uids: vec![] };
    for (request, expected) in [
        (
            JoinRequest::default(),
            &[("groups", "no group named"), ("clients", "no client named")][..],
        ),
        (groups_of(texts(["a", "", "b"])), &[("groups", "limits.groups_per_client allows 2")]),
        (groups_of(texts(["", "12345"])), &[("groups[0]", "empty name"), ("groups[1]", LONG)]),
    ] {
        told(membership.join(request).await, expected);
    }
    let request = LeaveRequest { groups: texts(["a", "b", "c", "d"]), ..LeaveRequest::default() };
    let expected = [("groups", "api.max_targets allows 3"), ("clients", "no client named")];
    told(membership.leave(request).await, &expected);
    let request = LeaveRequest { groups: texts(["12345"]), clients: one(), uids: vec![] };
    told(membership.leave(request).await, &[("groups[0]", LONG)]);

    let dissolve = |groups| DissolveRequest { groups };
    told(membership.dissolve(dissolve(vec![])).await, &[("groups", "no group named")]);
    told(membership.dissolve(dissolve(texts(["a", ""]))).await, &[("groups[1]", "empty name")]);
    let answer = membership.dissolve(dissolve(texts(["a", "b", "c", "d"]))).await;
    told(answer, &[("groups", "api.max_targets allows 3")]);

    let request = GetAttributesRequest { client: "x".into() };
    told(membership.get_attributes(request).await, &[("client", UUID)]);
    let change = |change| SetAttributesRequest { change, clients: one(), uids: vec![] };
    let removing = |remove| Some(AttributeChange { remove, ..AttributeChange::default() });
    for (request, expected) in [
        (
            SetAttributesRequest::default(),
            &[("change", "missing"), ("clients", "no client named")][..],
        ),
        (change(Some(set([("", "")]))), &[("change.set[\"\"]", "empty name")]),
        (change(Some(set([("12345", "")]))), &[("change.set[\"12345\"]", LONG)]),
        (change(removing(texts(["a", ""]))), &[("change.remove[1]", "empty name")]),
        (change(removing(texts(["a"; 3]))), &[("change.remove", "limits.attributes allows 2")]),
        (
            change(Some(set([("a", "1"), ("b", "2"), ("c", "3")]))),
            &[("change.set", "limits.attributes allows 2")],
        ),
        (
            change(Some(set([("a", "1234"), ("b", "567")]))),
            &[("change.set", "9 bytes, limits.attribute_bytes allows 8")],
        ),
    ] {
        told(membership.set_attributes(request).await, expected);
    }
    assert_eq!(gateway.count_group().await.count + gateway.count_online_uid().await.count, 0);
}

#[tokio::test]
async fn everything_that_is_wrong_with_one_step_is_told_at_once() {
    let gateway = Gateway::with(&SMALL).await;
    let mut ada = gateway.connect().await;
    let request = ApplyRequest {
        client: "x".into(),
        uid_change: Some(UidChange::Bind(String::new())),
        leave: texts(["a", ""]),
        join: texts(["12345"]),
        attributes: Some(AttributeChange { remove: texts([""]), ..set([("", "")]) }),
        expiry: Some(Expiry::ExpiresAt(Timestamp { seconds: i64::MAX, nanos: 0 })),
        messages: vec![
            applied("fine"),
            ApplyMessage { message: Some(Message { kind: 9, data: "x".into() }) },
        ],
    };
    let expected = [
        ("client", UUID),
        ("bind", "empty name"),
        ("leave[1]", "empty name"),
        ("join[0]", LONG),
        ("attributes.remove[0]", "empty name"),
        ("attributes.set[\"\"]", "empty name"),
        ("expires_at", "1 to 9999"),
        ("messages[1].message.kind", "unknown kind"),
    ];
    told(gateway.membership().apply(request).await, &expected);
    let request = ApplyRequest {
        client: ada.id().into(),
        leave: texts(["a"; 4]),
        join: texts(["a"; 3]),
        expiry: Some(Expiry::ExpiresAt(Timestamp { seconds: 0, nanos: -1 })),
        messages: vec![applied("one"), applied("two"), applied("three")],
        ..ApplyRequest::default()
    };
    let expected = [
        ("leave", "api.max_targets allows 3"),
        ("join", "limits.groups_per_client allows 2"),
        ("expires_at", "1 to 9999"),
        ("messages", "api.max_sends allows 2"),
    ];
    told(gateway.membership().apply(request.clone()).await, &expected);
    let request = ApplyRequest {
        client: ada.id().into(),
        messages: vec![ApplyMessage::default()],
        ..ApplyRequest::default()
    };
    told(gateway.membership().apply(request).await, &[("messages[0].message", "missing")]);
    gateway.mark(ada.id()).await;
    assert_eq!(ada.next_text().await, "marker");
}

#[tokio::test]
async fn a_flood_of_faults_is_no_flood_of_words() {
    let gateway = Gateway::start().await;
    let target = Target { clients: vec!["x".repeat(1000); 2000], ..Target::default() };
    let refused = gateway.messages().send(send(target, "hello")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let named = refused.get_details_bad_request().unwrap().field_violations;
    assert!((10..=100).contains(&named.len()), "{}", named.len());
    assert_eq!(named[9].field, "target.clients[9]");
    assert!(refused.message().ends_with(" (and 1999 more errors)"), "{refused}");
    // A caller may ask for a header list no longer than this.
    assert!(refused.details().len() * 4 / 3 + refused.message().len() < 8 * 1024);
    let target = Target { attributes: names(&[&"é".repeat(10_000)]), ..all() };
    let refused = gateway.messages().send(send(target, "hello")).await.unwrap_err();
    assert!(refused.message().len() < 500, "{refused}");
    // The path first, then what is wrong with it, and one is not several.
    for (count, more) in [(1, ""), (2, " (and 1 more error)"), (3, " (and 2 more errors)")] {
        let target = Target { clients: vec!["x".to_owned(); count], ..Target::default() };
        let refused = gateway.messages().send(send(target, "hello")).await.unwrap_err();
        let wrong =
            "target.clients[0]: not a client id: expected a UUID (version 8) of 36 characters";
        assert_eq!(refused.message(), format!("{wrong}{more}"));
    }
}

#[tokio::test]
async fn a_gateway_that_is_busy_says_what_is_used_up_and_does_nothing() {
    let sets = ["limits.inbox=1", "shards=1"];
    let gateway = Gateway::with(&sets).await;
    let _ada = gateway.connect().await;
    let busy = async {
        loop {
            let calls = (0..64).map(|_| {
                let mut messages = gateway.messages();
                tokio::spawn(async move { messages.send(send(all(), "hello")).await })
            });
            for call in calls.collect::<Vec<_>>() {
                if let Err(status) = call.await.unwrap() {
                    return status;
                }
            }
        }
    };
    let refused = crate::client::soon("two calls at the same time", busy).await;
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let violations = refused.get_details_quota_failure().unwrap().violations;
    assert_eq!(violations[0].subject, "limits.inbox");
    assert!(gateway.hub().busy().inbox.get() > 0);
}

#[tokio::test]
async fn a_request_beyond_the_limit_is_refused_by_its_name() {
    let gateway = Gateway::with(&["grpc.max_message=1KiB"]).await;
    let refused = gateway.try_send(send(all(), &"x".repeat(2000))).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("grpc.max_message"), "{refused}");
}
