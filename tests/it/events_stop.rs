//! How subscriptions end with the gateway, and with the right to subscribe.

use gateway_websocket::grpc::proto::v1::event::What;
use tokio::sync::mpsc;
use tonic::Code;

use crate::{
    client::soon,
    gateway::Gateway,
    site::Site,
    subscriber::{Subscriber, opened, said},
};

#[tokio::test]
async fn who_acknowledges_promptly_is_told_of_every_client_that_a_stop_closes() {
    const CLIENTS: usize = 100;
    let sets = ["events.groups=all", "drain.timeout=20s", "drain.window=0s"];
    let gateway = Gateway::with(&sets).await;
    // Few at a time, so that they come one after the other's acknowledgement.
    let mut subscriber = Subscriber::try_of(gateway.channel(), "all", 4).await.unwrap();
    let (told, mut reading) = mpsc::channel(CLIENTS);
    for _ in 0..CLIENTS {
        let mut client = gateway.connect().await;
        opened(&subscriber.hear().await);
        let told = told.clone();
        tokio::spawn(async move {
            // It answers the close frame.
            let code = client.read_to_close().await;
            client.ended().await;
            let _ = told.send(code).await;
        });
    }
    let handle = gateway.handle().clone();
    let stopping = tokio::spawn(async move { handle.stop().await.unwrap() });
    let mut closed = 0;
    let status = loop {
        match subscriber.try_next().await {
            Ok(event) => {
                let Some(What::Closed(how)) = &event.what else { panic!("{event:?}") };
                assert_eq!((how.cause.as_str(), how.code), ("stop", 1001), "{how:?}");
                closed += 1;
                subscriber.acknowledge(event.cursor).await;
            }
            Err(status) => break status,
        }
    };
    assert_eq!(closed, CLIENTS);
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(soon("the end", stopping).await.unwrap().closed, CLIENTS as u64);
    for _ in 0..CLIENTS {
        assert_eq!(soon("a close", reading.recv()).await, Some(1001));
    }
}

#[tokio::test]
async fn who_does_not_acknowledge_holds_a_stop_no_longer_than_a_drain_may_take() {
    let sets = ["events.groups=all", "drain.timeout=300ms", "drain.window=0s"];
    let gateway = Gateway::with(&sets).await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let client = gateway.connect().await;
    opened(&subscriber.next().await);
    drop(client);
    let drained = soon("the end", gateway.handle().stop()).await.unwrap();
    assert_eq!(drained.cut_off, 0);
    let status = subscriber.end().await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

#[tokio::test]
async fn a_group_without_subscribers_holds_no_stop() {
    let sets = ["events.groups=all", "drain.timeout=1h", "drain.window=0s"];
    let gateway = Gateway::with(&sets).await;
    drop(gateway.connect().await);
    soon("the end", gateway.handle().stop()).await.unwrap();
}

#[tokio::test]
async fn a_drain_that_leaves_the_gateway_alive_leaves_subscriptions_alive() {
    let gateway = Gateway::with(&["events.groups=all", "drain.window=0s"]).await;
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let mut client = gateway.connect().await;
    opened(&subscriber.hear().await);
    let handle = gateway.handle().clone();
    let draining = tokio::spawn(async move { handle.drain().await.unwrap() });
    client.read_to_close().await;
    client.ended().await;
    let event = subscriber.hear().await;
    assert!(matches!(event.what, Some(What::Closed(_))), "{event:?}");
    assert_eq!(soon("the end", draining).await.unwrap().closed, 1);
    let again = Subscriber::of(&gateway, "all").await;
    assert_eq!(again.epoch(), subscriber.epoch());
}

#[tokio::test]
async fn a_subscription_ends_with_its_token_and_what_it_had_goes_to_others() {
    const ONE: &str = "the-first-token-0123456789";
    const TWO: &str = "the-second-token-0123456789";
    let mut site = Site::new();
    let file = site.write("tokens", &format!("{ONE}\n{TWO}\n"));
    site.start(&format!("grpc.token_files = {file}\nevents.groups = [\"all\"]")).await;
    let channel = || site.endpoint().connect_lazy();
    let refused = Subscriber::bearing("the-wrong-token-0123456789", channel(), "all").await;
    assert_eq!(refused.err().unwrap().code(), Code::Unauthenticated);
    let mut one = Subscriber::bearing(ONE, channel(), "all").await.unwrap();
    let mut client = site.gateway().connect().await;
    client.say("hello").await;
    opened(&one.next().await);
    assert_eq!(said(&one.next().await), "hello");
    site.write("tokens", TWO);
    site.reread().await;
    assert_eq!(one.end().await.code(), Code::Unauthenticated);
    let mut two = Subscriber::bearing(TWO, channel(), "all").await.unwrap();
    for _ in 0..2 {
        assert!(two.hear().await.redelivered);
    }
}
