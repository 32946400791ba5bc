//! Subscribers that say nothing, because they closed their side, or hear nothing, because their
//! window is shut: neither stays for ever, and none goes without a word.

use gateway_websocket::grpc::proto::v1::{
    SendStreamRequest, SubscribeRequest, SubscribeStart, subscribe_request,
};
use prost::Message as _;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::{
    gateway::Gateway,
    h2c::{Http2, framed},
    scrape::Page,
    site::{Site, until},
    subscriber::{Subscriber, opened, said},
};

const SUBSCRIBE: &str = "/gateway.v1.Events/Subscribe";

/// The first request of a subscription, framed.
fn start(group: &str) -> Vec<u8> {
    let start = SubscribeStart { group: group.to_owned(), ..SubscribeStart::default() };
    let step = Some(subscribe_request::Step::Start(start));
    framed(0, &SubscribeRequest { step }.encode_to_vec())
}

async fn subscribers(gateway: &Gateway) -> f64 {
    Page::of(gateway).await.get(r#"events_subscribers{group="all"}"#)
}

#[tokio::test]
async fn who_closed_his_side_hears_what_the_window_holds_and_why_it_ends() {
    let gateway = Gateway::with(&["events.groups=all"]).await;
    let mut watcher = Subscriber::following(gateway.channel(), "all", 4, false).await.unwrap();
    watcher.say_no_more();
    let mut client = gateway.connect().await;
    client.say("one").await;
    client.say("two").await;
    client.say("three").await;
    // The snapshot with which the group begins, and three events.
    watcher.next().await;
    opened(&watcher.next().await);
    assert_eq!(said(&watcher.next().await), "one");
    assert_eq!(said(&watcher.next().await), "two");
    let status = watcher.try_next().await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().starts_with("window of 4 events full"), "{status}");
    let details = status.get_details_error_info().unwrap();
    assert_eq!(details.reason, "REQUEST_STREAM_CLOSED");

    // Nothing was acknowledged, so the next one gets it all.
    let mut next = Subscriber::of(&gateway, "all").await;
    let again = next.next_n(4).await;
    opened(&again[0]);
    assert!(again[0].redelivered && again[2].redelivered && !again[3].redelivered);
    assert_eq!(said(&again[3]), "three");
}

#[tokio::test]
async fn who_closed_his_side_is_told_of_the_deadline_that_he_can_not_keep() {
    let gateway = Gateway::with(&["events.groups=all", "events.ack_timeout=500ms"]).await;
    let mut watcher = Subscriber::following(gateway.channel(), "all", 0, false).await.unwrap();
    watcher.say_no_more();
    let client = gateway.connect().await;
    watcher.next().await;
    assert_eq!(watcher.next().await.client, client.id());
    let status = watcher.try_next().await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains("events.ack_timeout"), "{status}");
}

#[tokio::test]
async fn who_acknowledged_leaves_by_closing_his_side() {
    let gateway = Gateway::with(&["events.groups=all"]).await;
    let mut subscriber = Subscriber::following(gateway.channel(), "all", 0, false).await.unwrap();
    let _client = gateway.connect().await;
    let events = subscriber.next_n(2).await;
    subscriber.acknowledge(events[0].cursor).await;
    subscriber.say_no_more();
    assert_eq!(subscriber.end().await.code(), Code::Ok);
    assert!(Subscriber::of(&gateway, "all").await.hear().await.redelivered);
}

#[tokio::test]
async fn a_subscriber_without_a_right_ends_though_its_window_is_shut() {
    const ONE: &str = "the-first-token-0123456789";
    const TWO: &str = "the-second-token-0123456789";
    let mut site = Site::new();
    let file = site.write("tokens", &format!("{ONE}\n{TWO}\n"));
    // The connection is another token's, too, and stays.
    let rest = "events.groups = [\"all\"]\nlimits.handshake = \"1h\"\nevents.ack_timeout = \"1h\"";
    site.start(&format!("grpc.token_files = {file}\n{rest}")).await;
    let mut caller = Http2::connect_shut(site.gateway().grpc()).await;
    let bearer = format!("Bearer {ONE}");
    let mut call = caller.begin(SUBSCRIBE, &[("authorization", &bearer)]).await;
    call.body.send_data(start("all").into(), false).unwrap();
    let _client = site.gateway().connect().await;
    until("the subscriber", async || subscribers(site.gateway()).await > 0.5).await;

    site.write("tokens", TWO);
    site.reread().await;
    until("its end", async || subscribers(site.gateway()).await < 0.5).await;
    // The connection goes on, and so does the stream until somebody reads why.
    let mut other = caller.begin(crate::h2c::COUNT, &[("authorization", &bearer)]).await;
    other.complete();
    assert_eq!(other.status().await.unwrap().0, Code::Unauthenticated);
}

#[tokio::test]
async fn a_stream_whose_deadline_has_passed_holds_nothing_though_its_window_is_shut() {
    let sets = ["events.groups=all", "api.max_streams=1", "events.ack_timeout=1h"];
    let gateway = Gateway::with(&sets).await;
    let mut caller = Http2::connect_shut(gateway.grpc()).await;
    let mut call = caller.begin(SUBSCRIBE, &[("grpc-timeout", "300m")]).await;
    call.body.send_data(start("all").into(), false).unwrap();
    let _answer = call.headed().await;
    until("the subscriber's end", async || subscribers(&gateway).await < 0.5).await;

    let item = framed(0, &SendStreamRequest { sequence: 1, sends: vec![] }.encode_to_vec());
    let mut call = caller.begin("/gateway.v1.Messages/SendStream", &[("grpc-timeout", "1S")]).await;
    call.body.send_data(item.clone().into(), false).unwrap();
    let _sends = call.headed().await;
    until("its place", async || {
        let mut call = caller.begin("/gateway.v1.Messages/SendStream", &[]).await;
        call.body.send_data(item.clone().into(), true).unwrap();
        let head = call.headed().await;
        !head.headers().contains_key("grpc-status")
    })
    .await;
}
