//! Acknowledgements: what counts, what is wrong, and what they have done on the way.

use gateway_websocket::grpc::proto::v1::{
    Acknowledgement, ApplyRequest, BindRequest, Failure, JoinRequest, SendRequest,
    apply_request::UidChange,
};
use tonic::{Code, Response, Status};

use crate::{
    gateway::Gateway,
    subscriber::{Subscriber, opened, said},
    v1::{NOBODY, all, applied, clients, failed, fault, faults, groups, send, set, text, texts},
};

/// A change for nobody: that it failed says that all before it, and itself, was acknowledged.
pub fn to_nobody() -> ApplyRequest {
    ApplyRequest { client: NOBODY.to_owned(), ..ApplyRequest::default() }
}

/// How the stream ends, as a call that was refused.
async fn refused(mut subscriber: Subscriber) -> Result<Response<()>, Status> {
    Err(subscriber.end().await)
}

#[tokio::test]
async fn one_of_the_future_or_of_another_epoch_is_wrong_and_both_are_named() {
    let gateway = Gateway::with(&["events.groups=all"]).await;
    let mut ada = gateway.connect().await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let event = subscriber.next().await;
    subscriber.acknowledge(event.cursor + 1).await;
    let (field, why) = fault(refused(subscriber).await);
    assert_eq!(field, "acknowledgement.cursor");
    assert!(why.contains("cursor 3 ") && why.contains("the last is 2"), "{why}");

    let subscriber = Subscriber::of(&gateway, "all").await;
    let (ours, theirs) = (subscriber.epoch(), subscriber.epoch() ^ 1);
    let cursor = event.cursor;
    // What a wrong one wants is not done.
    let sends = vec![send(all(), "never")];
    let acknowledgement = Acknowledgement { epoch: theirs, cursor, sends, applies: Vec::new() };
    subscriber.say(acknowledgement).await;
    let (field, why) = fault(refused(subscriber).await);
    assert_eq!(field, "acknowledgement.epoch");
    assert!(why.contains(&ours.to_string()) && why.contains(&theirs.to_string()), "{why}");
    gateway.mark(ada.id()).await;
    assert_eq!(ada.next_text().await, "marker");

    // It was acknowledged by none of them.
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let again = subscriber.hear().await;
    assert_eq!((again.cursor, again.redelivered), (event.cursor, true));
}

#[tokio::test]
async fn one_that_is_late_or_for_another_stream_changes_nothing() {
    let gateway = Gateway::with(&["events.groups=all"]).await;
    let mut ada = gateway.connect().await;
    ada.say("one").await;
    ada.say("two").await;
    let mut first = Subscriber::of(&gateway, "all").await;
    let events = first.next_n(3).await;
    for at in [1, 0, 1] {
        first.acknowledge(events[at].cursor).await;
    }
    first.acknowledge_with(events[0].cursor, vec![to_nobody()], Vec::new()).await;
    first.done().await;
    drop(first);
    let mut second = Subscriber::of(&gateway, "all").await;
    assert_eq!(said(&second.next().await), "two");
    // This stream was never told of these.
    second.acknowledge_with(events[1].cursor, vec![to_nobody()], Vec::new()).await;
    second.done().await;
    drop(second);
    let event = Subscriber::of(&gateway, "all").await.next().await;
    assert_eq!((said(&event), event.redelivered), ("two".to_owned(), true));
}

#[tokio::test]
async fn one_stream_is_enough_for_question_and_answer() {
    let gateway = Gateway::with(&["events.groups=all"]).await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let [mut ada, mut bob] = gateway.connect_n().await;
    for _ in 0..2 {
        // Who connects is bound, put into a group and welcomed.
        let event = subscriber.next().await;
        opened(&event);
        let uid = if event.client == ada.id() { "ada" } else { "bob" };
        let apply = ApplyRequest {
            client: event.client,
            join: texts(["lobby"]),
            attributes: Some(set([("language", "en")])),
            messages: vec![applied(&format!("welcome, {uid}"))],
            uid_change: Some(UidChange::Bind(uid.to_owned())),
            ..ApplyRequest::default()
        };
        let sends = vec![send(groups(["lobby"]), &format!("{uid} has come"))];
        subscriber.acknowledge_with(event.cursor, vec![apply], sends).await;
    }
    // Each is in the group before what is sent to it.
    for (client, name) in [(&mut ada, "ada"), (&mut bob, "bob")] {
        let mut heard = vec![client.next_text().await, client.next_text().await];
        if heard[0] != format!("welcome, {name}") || heard.len() < 2 {
            heard.push(client.next_text().await);
        }
        assert_eq!(heard[0], format!("welcome, {name}"));
        assert_eq!(heard[1], format!("{name} has come"));
    }
    for number in 0..100 {
        bob.say(&number.to_string()).await;
        let event = subscriber.next().await;
        assert_eq!((event.uid.as_str(), said(&event)), ("bob", number.to_string()));
        let answer = send(clients([&event.client]), &format!("answer {}", said(&event)));
        subscriber.acknowledge_with(event.cursor, Vec::new(), vec![answer]).await;
        let mut answer = bob.next_text().await;
        if answer.ends_with("has come") {
            answer = bob.next_text().await;
        }
        assert_eq!(answer, format!("answer {number}"));
    }
}

#[tokio::test]
async fn many_at_once_are_carried_out_in_their_order() {
    const MANY: usize = 500;
    let gateway = Gateway::with(&["events.groups=all", "limits.inbox=2"]).await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let mut ada = gateway.connect().await;
    for number in 0..MANY {
        ada.say(&number.to_string()).await;
    }
    let mut expected = Vec::new();
    for _ in 0..=MANY {
        let event = subscriber.next().await;
        let number = event.cursor;
        let say = |what: &str| format!("{number} {what}");
        let (mut applies, mut sends) = (Vec::new(), Vec::new());
        // Some with both, some with one, some with none.
        if number % 7 < 2 {
            let messages = vec![applied(&say("change"))];
            applies.push(ApplyRequest { client: event.client, messages, ..to_nobody() });
            expected.push(say("change"));
        }
        for index in 0..number % 4 {
            sends.push(send(all(), &say(&index.to_string())));
            expected.push(say(&index.to_string()));
        }
        subscriber.acknowledge_with(number, applies, sends).await;
    }
    for text in expected {
        assert_eq!(ada.next_text().await, text);
    }
}

#[tokio::test]
async fn what_could_not_be_done_is_told_and_the_rest_is_done() {
    let sets = ["events.groups=all", "limits.groups_per_client=2"];
    let gateway = Gateway::with(&sets).await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let mut ada = gateway.connect().await;
    let event = subscriber.next().await;
    let join = |groups: Vec<String>| ApplyRequest {
        client: ada.id().to_owned(),
        join: groups,
        ..ApplyRequest::default()
    };
    let applies =
        vec![join(texts(["a"])), to_nobody(), join(texts(["b", "c"])), join(texts(["b"]))];
    // Nobody is there to hear the second: that is a number for who asks, and no failure.
    let sends = vec![send(groups(["a"]), "to a"), send(groups(["c"]), "to c")];
    subscriber.acknowledge_with(event.cursor, applies, sends).await;
    let done = subscriber.done().await;
    assert_eq!(done.cursor, event.cursor);
    let told = [("applies[1].client", Code::NotFound), ("applies[2]", Code::FailedPrecondition)];
    assert_eq!(failed(&done.failures), told);
    let Failure { message, .. } = &done.failures[1];
    assert!(message.contains("limits.groups_per_client"), "{message}");
    assert_eq!(ada.next_text().await, "to a");
    // It is acknowledged all the same, and events go on.
    ada.say("next").await;
    assert_eq!(said(&subscriber.hear().await), "next");
}

#[tokio::test]
async fn what_is_wrong_in_itself_ends_the_stream_and_is_told_with_its_path() {
    let sets = ["events.groups=all", "api.max_sends=3", "limits.names=5"];
    let gateway = Gateway::with(&sets).await;
    let mut ada = gateway.connect().await;
    let good = || SendRequest { message: Some(text("good")), ..send(all(), "") };
    let change = |client: &str| ApplyRequest { client: client.to_owned(), ..to_nobody() };
    let join = |name: &str| ApplyRequest { join: texts(["lobby", name]), ..to_nobody() };
    let keyed = SendRequest { idempotency_key: "k".to_owned(), ..good() };
    let nobody = SendRequest { target: None, ..good() };
    for (applies, sends, wrong) in [
        (vec![change("no id")], vec![], vec!["acknowledgement.applies[0].client"]),
        (vec![to_nobody(), join("too-long")], vec![], vec!["acknowledgement.applies[1].join[1]"]),
        (vec![], vec![good(), nobody.clone()], vec!["acknowledgement.sends[1].target"]),
        (vec![], vec![keyed], vec!["acknowledgement.sends[0].idempotency_key"]),
        (vec![to_nobody()], vec![good(), good(), good()], vec!["acknowledgement"]),
        (
            vec![join("too-long")],
            vec![send(clients(["no id"]), "bad"), nobody],
            vec![
                "acknowledgement.applies[0].join[1]",
                "acknowledgement.sends[0].target.clients[0]",
                "acknowledgement.sends[1].target",
            ],
        ),
    ] {
        let mut subscriber = Subscriber::of(&gateway, "all").await;
        let event = subscriber.next().await;
        // What came before it is done, it itself not in part.
        subscriber
            .acknowledge_with(event.cursor - 1, Vec::new(), vec![send(all(), "before")])
            .await;
        subscriber.acknowledge_with(event.cursor, applies, sends).await;
        let told = faults(refused(subscriber).await);
        let paths: Vec<_> = told.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, wrong);
        assert_eq!(ada.next_text().await, "before");
    }
    // None of them was acknowledged.
    opened(&Subscriber::of(&gateway, "all").await.hear().await);
    gateway.mark(ada.id()).await;
    assert_eq!(ada.next_text().await, "marker");
}

#[tokio::test]
async fn events_go_on_while_an_acknowledgement_waits_for_room() {
    let gateway = Gateway::with(&["events.groups=all"]).await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let [mut ada, bob] = gateway.connect_n().await;
    let first = subscriber.next_n(2).await;
    let bind = BindRequest {
        uid: "bob".to_owned(),
        clients: vec![bob.id().to_owned()],
        ..BindRequest::default()
    };
    gateway.membership().bind(bind).await.unwrap();
    let lobby = JoinRequest {
        groups: texts(["lobby"]),
        clients: vec![ada.id().to_owned()],
        ..JoinRequest::default()
    };
    gateway.membership().join(lobby).await.unwrap();
    for event in &first {
        let sends = vec![send(groups(["lobby"]), "one"), send(groups(["lobby"]), "two")];
        subscriber.acknowledge_with(event.cursor, Vec::new(), sends).await;
    }
    ada.say("meanwhile").await;
    assert_eq!(said(&subscriber.hear().await), "meanwhile");
    for text in ["one", "two", "one", "two"] {
        assert_eq!(ada.next_text().await, text);
    }
}
