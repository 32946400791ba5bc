//! `gateway.v1.Membership.Apply`: everything about one client in one step, or nothing.

use std::time::{Duration, SystemTime};

use gateway_websocket::{
    change::{self, Change},
    close::Cause,
    grpc::proto::v1::{
        ApplyRequest, ApplyResponse, AttributeChange, GetAttributesRequest,
        apply_request::{Expiry, UidChange},
    },
    shard::Clock,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    client::Client,
    gateway::Gateway,
    v1::{NOBODY, applied, queued, set, texts},
};

fn nothing(client: &str) -> ApplyRequest {
    ApplyRequest { client: client.to_owned(), ..ApplyRequest::default() }
}

fn bind(uid: &str) -> UidChange {
    UidChange::Bind(uid.to_owned())
}

impl Gateway {
    async fn apply(&self, request: ApplyRequest) -> Result<ApplyResponse, Status> {
        Ok(self.membership().apply(request).await?.into_inner())
    }

    async fn attributes(&self, client: &str) -> Vec<(String, String)> {
        let request = GetAttributesRequest { client: client.to_owned() };
        let answer = self.membership().get_attributes(request).await.unwrap();
        answer.into_inner().attributes.into_iter().collect()
    }

    /// The uid, and how many are in the groups a, b and c.
    async fn seen(&self, client: &str) -> (String, [i32; 3]) {
        let mut members = [0; 3];
        for (count, group) in members.iter_mut().zip(["a", "b", "c"]) {
            *count = self.count_online_group(group).await.count;
        }
        (self.get_client_by_uid(client).await.uid, members)
    }
}

#[tokio::test]
async fn all_parts_are_done_and_told() {
    let gateway = Gateway::start().await;
    let mut ada = gateway.connect().await;
    gateway.join_group(ada.id(), "a").await;
    let request = ApplyRequest {
        uid_change: Some(bind("ada")),
        leave: texts(["a", "c"]),
        join: texts(["b", "c", "b"]),
        attributes: Some(set([("lang", "de")])),
        expiry: Some(Expiry::NeverExpires(true)),
        messages: vec![applied("one"), applied("two")],
        ..nothing(ada.id())
    };
    let expected =
        ApplyResponse { uid_changed: true, left: 1, joined: 2, delivery: Some(queued(2)) };
    assert_eq!(gateway.apply(request.clone()).await.unwrap(), expected);
    assert_eq!(gateway.seen(ada.id()).await, ("ada".into(), [0, 1, 1]));
    assert_eq!(gateway.attributes(ada.id()).await, [("lang".into(), "de".into())]);
    for text in ["one", "two"] {
        assert_eq!(ada.next_text().await, text);
    }
    // What is so already is no change; what is left first is joined again.
    let again = gateway.apply(request).await.unwrap();
    assert_eq!((again.uid_changed, again.left, again.joined), (false, 1, 1));
    let request = ApplyRequest { uid_change: Some(UidChange::Unbind(true)), ..nothing(ada.id()) };
    assert!(gateway.apply(request.clone()).await.unwrap().uid_changed);
    assert!(!gateway.apply(request).await.unwrap().uid_changed);
    // Saying that nothing is to be done says nothing.
    let request = ApplyRequest {
        uid_change: Some(UidChange::Unbind(false)),
        expiry: Some(Expiry::NeverExpires(false)),
        ..nothing(ada.id())
    };
    let expected = ApplyResponse { delivery: Some(queued(0)), ..ApplyResponse::default() };
    assert_eq!(gateway.apply(request).await.unwrap(), expected);
}

#[tokio::test]
async fn what_is_not_possible_is_not_done_in_part() {
    let sets = ["limits.groups_per_client=2", "limits.attributes=2", "limits.attribute_bytes=20"];
    let gateway = Gateway::with(&sets).await;
    let mut ada = gateway.connect().await;
    let before = ApplyRequest {
        uid_change: Some(bind("ada")),
        join: texts(["a", "b"]),
        attributes: Some(set([("x", "1"), ("y", "2")])),
        ..nothing(ada.id())
    };
    gateway.apply(before).await.unwrap();
    let wish = ApplyRequest {
        uid_change: Some(bind("eve")),
        leave: texts(["a"]),
        expiry: Some(Expiry::ExpiresAt(SystemTime::UNIX_EPOCH.into())),
        messages: vec![applied("never seen")],
        ..nothing(ada.id())
    };
    let too_many_groups = ApplyRequest { join: texts(["c", "d"]), ..wish.clone() };
    let too_many = ApplyRequest { attributes: Some(set([("z", "3")])), ..wish.clone() };
    let long = "0123456789012345678";
    let too_large = ApplyRequest { attributes: Some(set([("x", long)])), ..wish.clone() };
    for (request, key) in [
        (too_many_groups, "limits.groups_per_client"),
        (too_many, "limits.attributes"),
        (too_large, "limits.attribute_bytes"),
    ] {
        let refused = gateway.apply(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains(&format!("{key} allows")), "{refused}");
        let violations = refused.get_details_precondition_failure().unwrap().violations;
        assert_eq!(violations[0].subject, key);
        assert_eq!(gateway.seen(ada.id()).await, ("ada".into(), [1, 1, 0]));
        assert_eq!(gateway.attributes(ada.id()).await.len(), 2);
    }
    let unknown = gateway.apply(ApplyRequest { client: NOBODY.into(), ..wish.clone() }).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
    // With room made in the same step it is possible, and then all of it is done.
    let change = AttributeChange { remove: texts(["x"]), ..set([("z", "3")]) };
    let request = ApplyRequest {
        join: texts(["c"]),
        attributes: Some(change),
        expiry: None,
        messages: vec![applied("seen")],
        ..wish
    };
    gateway.apply(request).await.unwrap();
    assert_eq!(ada.next_text().await, "seen");
    assert_eq!(gateway.seen(ada.id()).await, ("eve".into(), [0, 1, 1]));
}

fn at(time: SystemTime) -> Expiry {
    Expiry::ExpiresAt(time.into())
}

/// Moves the clock on, and the gateway has seen it.
/// Moves the clock, and has the shards see it.
pub async fn after(gateway: &Gateway, clock: &Clock, time: Duration) {
    clock.advance(time);
    // A call begins a turn of every shard, at the end of which what is due is done.
    for _ in 0..2 {
        gateway.get_all_online_client().await;
    }
}

async fn expired(client: &mut Client) {
    let (code, reason) = client.next_close().await;
    assert_eq!(code, 3000, "{reason}");
}

#[tokio::test]
async fn a_time_that_is_past_closes_once_the_messages_are_out() {
    let gateway = Gateway::start().await;
    let past = SystemTime::now() - Duration::from_secs(1);
    for time in [past, SystemTime::UNIX_EPOCH - Duration::from_hours(10_000)] {
        let mut ada = gateway.connect().await;
        let messages = vec![applied("last words")];
        gateway
            .apply(ApplyRequest { expiry: Some(at(time)), messages, ..nothing(ada.id()) })
            .await
            .unwrap();
        assert_eq!(ada.next_text().await, "last words");
        expired(&mut ada).await;
    }
    assert_eq!(gateway.closed(Cause::Expired), 2);
}

#[tokio::test]
async fn a_client_is_closed_at_its_time_which_can_be_moved() {
    let clock = Clock::paused();
    let sets = ["websocket.ping_interval=0s", "websocket.heartbeat_timeout=0s"];
    let gateway = Gateway::at(clock.clone(), &sets).await;
    let mut clients = gateway.connect_n::<4>().await;
    let hour = Duration::from_hours(1);
    let in_hours = |hours: u32| at(SystemTime::now() + hour * hours);
    for client in &clients {
        let request = ApplyRequest { expiry: Some(in_hours(1)), ..nothing(client.id()) };
        gateway.apply(request).await.unwrap();
    }
    let [stays, later, sooner, never] = clients.each_ref().map(|client| client.id().to_owned());
    for (client, expiry) in [
        // Other changes leave it as it is.
        (&stays, None),
        (&later, Some(in_hours(2))),
        (&sooner, Some(at(SystemTime::now() + hour / 2))),
        (&never, Some(Expiry::NeverExpires(true))),
    ] {
        gateway.apply(ApplyRequest { expiry, ..nothing(client) }).await.unwrap();
    }
    let online = async || gateway.get_all_online_client().await.client.len();
    after(&gateway, &clock, Duration::from_secs(1780)).await;
    assert_eq!(online().await, 4);
    after(&gateway, &clock, Duration::from_secs(20)).await;
    expired(&mut clients[2]).await;
    assert_eq!(online().await, 3);
    after(&gateway, &clock, hour / 2).await;
    expired(&mut clients[0]).await;
    assert_eq!(online().await, 2);
    after(&gateway, &clock, hour).await;
    expired(&mut clients[1]).await;
    after(&gateway, &clock, hour * 1000).await;
    assert_eq!(gateway.get_all_online_client().await.client, [never]);
    assert_eq!(gateway.closed(Cause::Expired), 3);
}

#[tokio::test]
async fn a_time_that_nobody_lives_to_see_is_never() {
    let gateway = Gateway::start().await;
    let client = Client::connect(gateway.websocket()).await;
    let change =
        |after| Change { expires: Some(change::Expiry::after(after)), ..Change::default() };
    let id = client.id().parse().unwrap();
    for (years, is_told) in [(10, true), (20, false), (5_000, false)] {
        let after = Duration::from_hours(24 * 365 * years);
        gateway.hub().change(id, change(after)).await.unwrap();
        let described = gateway.hub().describe(vec![id]).await.unwrap();
        let expires = described[0].as_ref().expect("it is connected").expires;
        assert_eq!(expires.is_some(), is_told, "{years} years");
    }
}
