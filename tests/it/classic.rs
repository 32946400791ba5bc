//! The classic API: each of the 21 calls does what 1.x did, seen by real clients.

use std::collections::BTreeSet;

use crate::gateway::Gateway;

/// An id of the right form that no client has.
const NOBODY: &str = "00000000-0000-8000-8000-000000000000";

fn set(names: impl IntoIterator<Item = impl Into<String>>) -> BTreeSet<String> {
    names.into_iter().map(Into::into).collect()
}

#[tokio::test]
async fn a_broadcast_reaches_every_client_and_an_empty_one_nobody() {
    let gateway = Gateway::start().await;
    assert!(gateway.broadcast_message("to nobody yet").await.result);
    let mut clients = gateway.connect_n::<7>().await;
    assert!(!gateway.broadcast_message("").await.result);
    assert!(gateway.broadcast_message("hello, all").await.result);
    for client in &mut clients {
        assert_eq!(client.next_text().await, "hello, all");
    }
}

#[tokio::test]
async fn a_message_reaches_one_client() {
    let gateway = Gateway::start().await;
    let [mut ada, mut bob] = gateway.connect_n().await;
    assert!(gateway.send_message_to_client(ada.id(), "hello, Ada").await.result);
    assert!(gateway.send_message_to_client(bob.id(), "marker").await.result);
    assert_eq!(ada.next_text().await, "hello, Ada");
    assert_eq!(bob.next_text().await, "marker");
}

#[tokio::test]
async fn a_message_to_one_client_is_refused_when_a_field_is_empty_or_nobody_is_there() {
    let gateway = Gateway::start().await;
    let ada = gateway.connect().await;
    for (client, message) in
        [("", "hello"), (ada.id(), ""), ("", ""), (NOBODY, "hello"), ("no id at all", "hello")]
    {
        let answer = gateway.send_message_to_client(client, message).await;
        assert!(!answer.result, "{client:?} {message:?}");
    }
}

#[tokio::test]
async fn a_client_is_closed_on_request() {
    let gateway = Gateway::start().await;
    let [mut ada, mut bob] = gateway.connect_n().await;
    assert!(gateway.send_message_to_client(ada.id(), "last words").await.result);
    assert!(gateway.clonse_client(ada.id()).await.result);
    // What was answered is true at once: nobody has to wait for the close handshake.
    assert!(!gateway.client_is_online(ada.id()).await.isonline);
    assert_eq!(gateway.count_online_client().await.count, 1);
    assert_eq!(ada.next_text().await, "last words", "what was queued goes out first");
    assert_eq!(ada.next_close().await.0, 1000);
    ada.ended().await;
    assert!(gateway.send_message_to_client(bob.id(), "still here").await.result);
    assert_eq!(bob.next_text().await, "still here");
}

#[tokio::test]
async fn closing_nobody_is_no_failure_but_an_empty_id_is() {
    let gateway = Gateway::start().await;
    assert!(gateway.clonse_client(NOBODY).await.result);
    assert!(gateway.clonse_client("no id at all").await.result);
    assert!(!gateway.clonse_client("").await.result);
}

#[tokio::test]
async fn connected_clients_are_listed_counted_and_online() {
    let gateway = Gateway::start().await;
    assert_eq!(gateway.count_online_client().await.count, 0);
    assert!(gateway.get_all_online_client().await.client.is_empty());
    let clients = gateway.connect_n::<5>().await;
    assert_eq!(gateway.count_online_client().await.count, 5);
    let listed = gateway.get_all_online_client().await.client;
    assert_eq!(listed.len(), 5);
    assert_eq!(set(listed), set(clients.iter().map(super::client::Client::id)));
    for client in &clients {
        assert!(gateway.client_is_online(client.id()).await.isonline);
    }
    for nobody in ["", NOBODY, "no id at all"] {
        assert!(!gateway.client_is_online(nobody).await.isonline);
    }
}

#[tokio::test]
async fn a_group_lives_from_its_first_member_to_its_last() {
    let gateway = Gateway::start().await;
    let [ada, bob] = gateway.connect_n().await;
    assert_eq!(gateway.count_group().await.count, 0);
    assert!(gateway.join_group(ada.id(), "lobby").await.result);
    assert!(gateway.join_group(ada.id(), "lobby").await.result, "joining twice is no failure");
    assert!(gateway.join_group(bob.id(), "lobby").await.result);
    assert!(gateway.join_group(bob.id(), "attic").await.result);
    assert_eq!(gateway.count_group().await.count, 2);
    assert_eq!(gateway.count_online_group("lobby").await.count, 2);
    assert_eq!(gateway.count_online_group("cellar").await.count, 0);
    let members = gateway.get_group_online_client("lobby").await.clientid;
    assert_eq!(set(members), set([ada.id(), bob.id()]));
    assert!(gateway.get_group_online_client("cellar").await.clientid.is_empty());

    assert!(gateway.leave_group(ada.id(), "lobby").await.result);
    assert!(gateway.leave_group(ada.id(), "lobby").await.result, "not a member: no failure");
    assert_eq!(gateway.get_group_online_client("lobby").await.clientid, [bob.id()]);
    assert!(gateway.leave_group(bob.id(), "lobby").await.result);
    assert!(!gateway.leave_group(bob.id(), "lobby").await.result, "the group is gone");
    assert_eq!(gateway.count_group().await.count, 1);
}

#[tokio::test]
async fn joining_and_leaving_need_a_client_and_a_group() {
    let gateway = Gateway::start().await;
    let ada = gateway.connect().await;
    assert!(gateway.join_group(ada.id(), "lobby").await.result);
    for client in ["", NOBODY, "no id at all"] {
        assert!(!gateway.join_group(client, "lobby").await.result, "{client:?}");
        assert!(!gateway.leave_group(client, "lobby").await.result, "{client:?}");
    }
    assert!(!gateway.join_group(ada.id(), "").await.result);
    assert!(!gateway.leave_group(ada.id(), "").await.result);
    assert!(!gateway.leave_group(ada.id(), "cellar").await.result);
}

#[tokio::test]
async fn a_group_message_reaches_members_only() {
    let gateway = Gateway::start().await;
    let [mut ada, mut bob, mut eve] = gateway.connect_n().await;
    gateway.join_group(ada.id(), "lobby").await;
    gateway.join_group(bob.id(), "lobby").await;

    let answer = gateway.send_message_to_group("lobby", "hello").await;
    assert_eq!((answer.result, answer.arrive), (true, 2));
    assert_eq!(ada.next_text().await, "hello");
    assert_eq!(bob.next_text().await, "hello");
    gateway.send_message_to_client(eve.id(), "marker").await; // silence, proved by order
    assert_eq!(eve.next_text().await, "marker");

    // Unlike the other sends, an empty message to a group is a message, as it was in 1.x.
    let answer = gateway.send_message_to_group("lobby", "").await;
    assert_eq!((answer.result, answer.arrive), (true, 2));
    assert_eq!(ada.next_text().await, "");
    for group in ["cellar", ""] {
        let answer = gateway.send_message_to_group(group, "hello").await;
        assert_eq!((answer.result, answer.arrive), (false, 0), "{group:?}");
    }
}

#[tokio::test]
async fn dissolving_a_group_leaves_its_members_connected() {
    let gateway = Gateway::start().await;
    let mut clients = gateway.connect_n::<6>().await;
    for client in &clients {
        gateway.join_group(client.id(), "lobby").await;
    }
    assert!(gateway.un_group("lobby").await.result);
    assert_eq!(gateway.count_group().await.count, 0);
    assert!(!gateway.un_group("lobby").await.result);
    assert!(!gateway.un_group("").await.result);
    assert!(!gateway.send_message_to_group("lobby", "anyone?").await.result);
    gateway.broadcast_message("marker").await;
    for client in &mut clients {
        assert_eq!(client.next_text().await, "marker");
    }
    // The name is free again, and its old members aren't in it.
    assert!(gateway.join_group(clients[0].id(), "lobby").await.result);
    assert_eq!(gateway.count_online_group("lobby").await.count, 1);
}

#[tokio::test]
async fn a_user_has_any_number_of_clients_and_a_client_one_user() {
    let gateway = Gateway::start().await;
    let [phone, laptop, other] = gateway.connect_n().await;
    assert!(gateway.client_bind_uid(phone.id(), "ada").await.result);
    assert!(gateway.client_bind_uid(laptop.id(), "ada").await.result);
    assert!(gateway.client_bind_uid(other.id(), "bob").await.result);
    assert_eq!(gateway.count_online_uid().await.count, 2);
    assert_eq!(set(gateway.get_all_online_uid().await.uid), set(["ada", "bob"]));
    let clients = gateway.get_uid_by_client("ada").await.clientid;
    assert_eq!(set(clients), set([phone.id(), laptop.id()]));
    assert_eq!(gateway.get_client_by_uid(phone.id()).await.uid, "ada");
    assert!(gateway.uid_is_online("ada").await.result);

    // A second uid replaces the first.
    assert!(gateway.client_bind_uid(phone.id(), "eve").await.result);
    assert_eq!(gateway.get_client_by_uid(phone.id()).await.uid, "eve");
    assert_eq!(gateway.get_uid_by_client("ada").await.clientid, [laptop.id()]);

    assert!(gateway.un_bind_uid(laptop.id()).await.result);
    assert!(gateway.un_bind_uid(laptop.id()).await.result, "unbinding twice is no failure");
    assert!(!gateway.uid_is_online("ada").await.result);
    assert_eq!(gateway.get_client_by_uid(laptop.id()).await.uid, "");
    assert_eq!(gateway.count_online_uid().await.count, 2);
    assert!(gateway.get_uid_by_client("ada").await.clientid.is_empty());
}

#[tokio::test]
async fn binding_needs_a_client_and_a_uid() {
    let gateway = Gateway::start().await;
    let ada = gateway.connect().await;
    assert!(!gateway.client_bind_uid(ada.id(), "").await.result);
    for client in ["", NOBODY, "no id at all"] {
        assert!(!gateway.client_bind_uid(client, "ada").await.result, "{client:?}");
        assert!(!gateway.un_bind_uid(client).await.result, "{client:?}");
        assert_eq!(gateway.get_client_by_uid(client).await.uid, "");
    }
    for uid in ["", "nobody"] {
        assert!(!gateway.uid_is_online(uid).await.result);
        assert!(gateway.get_uid_by_client(uid).await.clientid.is_empty());
    }
}

#[tokio::test]
async fn a_message_to_a_user_reaches_all_its_clients() {
    let gateway = Gateway::start().await;
    let [mut phone, mut laptop, mut other] = gateway.connect_n().await;
    gateway.client_bind_uid(phone.id(), "ada").await;
    gateway.client_bind_uid(laptop.id(), "ada").await;
    assert!(gateway.send_message_to_uid("ada", "hello, Ada").await.result);
    assert_eq!(phone.next_text().await, "hello, Ada");
    assert_eq!(laptop.next_text().await, "hello, Ada");
    gateway.send_message_to_client(other.id(), "marker").await;
    assert_eq!(other.next_text().await, "marker");
    for (uid, message) in [("nobody", "hello"), ("", "hello"), ("ada", "")] {
        let answer = gateway.send_message_to_uid(uid, message).await;
        assert!(!answer.result, "{uid:?} {message:?}");
    }
}

#[tokio::test]
async fn a_client_that_goes_takes_its_places_with_it() {
    let gateway = Gateway::start().await;
    let [ada, bob] = gateway.connect_n().await;
    for client in [&ada, &bob] {
        gateway.client_bind_uid(client.id(), "both").await;
        gateway.join_group(client.id(), "lobby").await;
    }
    gateway.join_group(ada.id(), "alone").await;
    gateway.clonse_client(ada.id()).await;
    assert_eq!(gateway.count_online_group("lobby").await.count, 1);
    assert_eq!(gateway.count_group().await.count, 1);
    assert_eq!(gateway.get_uid_by_client("both").await.clientid, [bob.id()]);
    gateway.clonse_client(bob.id()).await;
    assert_eq!(gateway.count_group().await.count, 0);
    assert_eq!(gateway.count_online_uid().await.count, 0);
    assert!(!gateway.uid_is_online("both").await.result);
}

#[tokio::test]
async fn names_have_a_limit() {
    let gateway = Gateway::with(&["limits.names=8", "limits.groups_per_client=2"]).await;
    let ada = gateway.connect().await;
    assert!(gateway.client_bind_uid(ada.id(), "12345678").await.result);
    assert!(!gateway.client_bind_uid(ada.id(), "123456789").await.result);
    assert!(!gateway.join_group(ada.id(), "123456789").await.result);
    assert!(gateway.join_group(ada.id(), "a").await.result);
    assert!(gateway.join_group(ada.id(), "b").await.result);
    assert!(!gateway.join_group(ada.id(), "c").await.result, "limits.groups_per_client");
    assert_eq!(gateway.count_group().await.count, 2);
}

#[tokio::test]
async fn calls_that_follow_each_other_are_seen_in_order_by_every_client() {
    let gateway = Gateway::start().await;
    let mut clients = gateway.connect_n::<6>().await;
    for client in &clients {
        gateway.join_group(client.id(), "all").await;
        gateway.client_bind_uid(client.id(), "all").await;
    }
    for round in 0..50 {
        gateway.broadcast_message(format!("{round} all")).await;
        gateway.send_message_to_group("all", format!("{round} group")).await;
        gateway.send_message_to_uid("all", format!("{round} user")).await;
        for client in &clients {
            gateway.send_message_to_client(client.id(), format!("{round} client")).await;
        }
    }
    for client in &mut clients {
        for round in 0..50 {
            for what in ["all", "group", "user", "client"] {
                assert_eq!(client.next_text().await, format!("{round} {what}"));
            }
        }
    }
}
