//! `gateway.v1.Membership` for many clients at once: what changes, and what is told item by item.

use gateway_websocket::grpc::proto::v1::{
    AttributeChange, BindRequest, DissolveRequest, GetAttributesRequest, JoinRequest, LeaveRequest,
    SetAttributesRequest, UnbindRequest,
};
use tonic::Code;

use crate::{
    client::Client,
    gateway::Gateway,
    v1::{NOBODY, all, failed, send, set, texts},
};

#[tokio::test]
async fn clients_are_bound_and_unbound_by_id_and_by_user() {
    let gateway = Gateway::start().await;
    let clients = gateway.connect_n::<4>().await;
    let ids = clients.each_ref().map(Client::id);
    let mut membership = gateway.membership();
    let mut bind = async |uid: &str, clients: Vec<String>, uids: Vec<String>| {
        let request = BindRequest { uid: uid.into(), clients, uids };
        membership.bind(request).await.unwrap().into_inner()
    };

    let answer = bind("ada", texts([ids[0], NOBODY, ids[1], ids[0]]), vec![]).await;
    assert_eq!(answer.changed, 2, "who is named twice is changed once");
    assert_eq!(failed(&answer.failures), [("clients[1]", Code::NotFound)]);
    assert!(answer.failures[0].message.contains("not connected"), "{answer:?}");
    let again = bind("ada", texts([ids[0], ids[1]]), vec![]).await;
    assert_eq!((again.changed, again.failures.len()), (0, 0), "nothing was changed");

    // By the user that they have, and by their own ids at the same time.
    let moved = bind("bob", texts([ids[1], ids[2]]), texts(["nobody", "ada", "ada"])).await;
    assert_eq!(moved.changed, 3);
    assert_eq!(failed(&moved.failures), [("uids[0]", Code::NotFound)]);
    assert!(moved.failures[0].message.contains("uid"), "{moved:?}");
    assert!(!gateway.uid_is_online("ada").await.result);
    assert_eq!(gateway.get_uid_by_client("bob").await.clientid.len(), 3);

    let unbind = async |clients: Vec<String>, uids: Vec<String>| {
        let request = UnbindRequest { clients, uids };
        gateway.membership().unbind(request).await.unwrap().into_inner()
    };
    let answer = unbind(texts([ids[2], ids[3]]), vec![]).await;
    assert_eq!((answer.changed, answer.failures.len()), (1, 0), "one had no uid");
    let answer = unbind(texts([NOBODY]), texts(["bob", "ada"])).await;
    assert_eq!(answer.changed, 2);
    let failures = [("clients[0]", Code::NotFound), ("uids[1]", Code::NotFound)];
    assert_eq!(failed(&answer.failures), failures);
    assert_eq!(gateway.count_online_uid().await.count, 0);
}

#[tokio::test]
async fn each_client_joins_all_of_the_groups_or_none() {
    let gateway = Gateway::with(&["limits.groups_per_client=3"]).await;
    let clients = gateway.connect_n::<3>().await;
    let ids = clients.each_ref().map(Client::id);
    gateway.client_bind_uid(ids[0], "ada").await;
    gateway.client_bind_uid(ids[1], "ada").await;
    let join = async |groups: Vec<String>, clients: Vec<String>, uids: Vec<String>| {
        let request = JoinRequest { groups, clients, uids };
        gateway.membership().join(request).await.unwrap().into_inner()
    };
    let answer = join(texts(["a", "b", "a"]), texts([ids[0]]), vec![]).await;
    assert_eq!((answer.joined, answer.failures.len()), (2, 0));

    // The first would be in four groups.
    let answer = join(texts(["b", "c", "d"]), texts([ids[2], ids[0], NOBODY]), vec![]).await;
    assert_eq!(answer.joined, 3);
    let failures = [("clients[1]", Code::FailedPrecondition), ("clients[2]", Code::NotFound)];
    assert_eq!(failed(&answer.failures), failures);
    assert!(answer.failures[0].message.contains("limits.groups_per_client allows 3"), "{answer:?}");
    assert_eq!(gateway.count_online_group("c").await.count, 1);

    // By the user: one of the two is refused, the other is not.
    let answer = join(texts(["c", "d"]), vec![], texts(["ada", "eve", "ada"])).await;
    assert_eq!(answer.joined, 2);
    let refused = ("uids[0]", Code::FailedPrecondition);
    let twice = ("uids[2]", Code::FailedPrecondition);
    assert_eq!(failed(&answer.failures), [refused, ("uids[1]", Code::NotFound), twice]);
    assert!(answer.failures[0].message.contains(ids[0]), "it is told who: {answer:?}");
    for (group, count) in [("a", 1), ("b", 2), ("c", 2), ("d", 2)] {
        assert_eq!(gateway.count_online_group(group).await.count, count, "{group}");
    }

    let request = LeaveRequest {
        groups: texts(["a", "b", "z"]),
        clients: texts([ids[2], NOBODY]),
        uids: texts(["ada", "eve"]),
    };
    let answer = gateway.membership().leave(request).await.unwrap().into_inner();
    assert_eq!(answer.left, 3);
    let failures = [("clients[1]", Code::NotFound), ("uids[1]", Code::NotFound)];
    assert_eq!(failed(&answer.failures), failures);
    assert_eq!(gateway.count_group().await.count, 2);
}

#[tokio::test]
async fn groups_are_dissolved_and_their_members_stay() {
    let gateway = Gateway::start().await;
    let mut clients = gateway.connect_n::<3>().await;
    for client in &clients {
        gateway.join_group(client.id(), "lobby").await;
    }
    gateway.join_group(clients[0].id(), "attic").await;
    gateway.join_group(clients[0].id(), "cellar").await;
    let request = DissolveRequest { groups: texts(["lobby", "nowhere", "attic", "lobby"]) };
    let answer = gateway.membership().dissolve(request).await.unwrap().into_inner();
    assert_eq!((answer.dissolved, answer.left), (2, 4));
    assert_eq!(gateway.count_group().await.count, 1);
    gateway.send(send(all(), "still here")).await;
    for client in &mut clients {
        assert_eq!(client.next_text().await, "still here");
    }
}

#[tokio::test]
async fn many_clients_are_changed_in_several_steps_and_each_is_told_of() {
    let gateway = Gateway::with(&["limits.groups_per_client=4096"]).await;
    let clients = gateway.connect_n::<6>().await;
    // So many parts that each client is a step of its own.
    let groups: Vec<String> = (0..3000).map(|number| number.to_string()).collect();
    let mut named: Vec<String> = clients.iter().map(|client| client.id().to_owned()).collect();
    named.insert(3, NOBODY.to_owned());
    let request = JoinRequest { groups: groups.clone(), clients: named.clone(), uids: vec![] };
    let answer = gateway.membership().join(request).await.unwrap().into_inner();
    assert_eq!(answer.joined, 6 * 3000);
    assert_eq!(failed(&answer.failures), [("clients[3]", Code::NotFound)]);
    let request = LeaveRequest { groups, clients: named, uids: vec![] };
    let answer = gateway.membership().leave(request).await.unwrap().into_inner();
    assert_eq!(answer.left, 6 * 3000);
    assert_eq!(gateway.count_group().await.count, 0);
}

#[tokio::test]
async fn attributes_are_merged_removed_and_replaced() {
    let gateway = Gateway::with(&["limits.attributes=3"]).await;
    let [ada, bob] = gateway.connect_n().await;
    gateway.client_bind_uid(bob.id(), "bob").await;
    let get = async |client: &str| {
        let request = GetAttributesRequest { client: client.to_owned() };
        let attributes =
            gateway.membership().get_attributes(request).await?.into_inner().attributes;
        let pairs = attributes.into_iter().map(|(name, value)| format!("{name}={value}"));
        Ok::<_, tonic::Status>(pairs.collect::<Vec<_>>().join(" "))
    };
    let put = async |change: AttributeChange, clients: Vec<String>, uids: Vec<String>| {
        let request = SetAttributesRequest { change: Some(change), clients, uids };
        gateway.membership().set_attributes(request).await.unwrap().into_inner()
    };
    assert_eq!(get(ada.id()).await.unwrap(), "");
    assert_eq!(get(NOBODY).await.unwrap_err().code(), Code::NotFound);

    let both = texts([ada.id(), NOBODY]);
    let answer = put(set([("a", "1"), ("b", "")]), both, texts(["bob", "eve"])).await;
    assert_eq!(answer.changed, 2);
    let failures = [("clients[1]", Code::NotFound), ("uids[1]", Code::NotFound)];
    assert_eq!(failed(&answer.failures), failures);
    let answer = put(set([("a", "1")]), texts([ada.id()]), vec![]).await;
    assert_eq!(answer.changed, 0, "it was so before");

    let change = AttributeChange { remove: texts(["a", "z"]), ..set([("c", "3"), ("d", "4")]) };
    assert_eq!(put(change, texts([ada.id()]), vec![]).await.changed, 1);
    assert_eq!(get(ada.id()).await.unwrap(), "b= c=3 d=4");
    let answer = put(set([("e", "5")]), texts([ada.id()]), texts(["bob"])).await;
    assert_eq!(answer.changed, 1);
    assert_eq!(failed(&answer.failures), [("clients[0]", Code::FailedPrecondition)]);
    assert!(answer.failures[0].message.contains("limits.attributes allows 3"), "{answer:?}");
    assert_eq!(get(ada.id()).await.unwrap(), "b= c=3 d=4", "nothing of it was done");
    assert_eq!(get(bob.id()).await.unwrap(), "a=1 b= e=5");

    let change = AttributeChange { replace: true, ..set([("f", "6")]) };
    assert_eq!(put(change, texts([ada.id()]), vec![]).await.changed, 1);
    assert_eq!(get(ada.id()).await.unwrap(), "f=6");
    let change = AttributeChange { replace: true, ..AttributeChange::default() };
    assert_eq!(put(change, texts([ada.id()]), vec![]).await.changed, 1);
    assert_eq!(get(ada.id()).await.unwrap(), "");
}
