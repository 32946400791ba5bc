//! The page of metrics says exactly what was done, and nothing that came over the network.

use std::{
    io::Read as _,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use gateway_websocket::{
    grpc::proto::v1::event::What,
    lifecycle::Reloaded,
    message::Kind,
    sink::{Accept, Ear, EventSink, Wake, Who},
};
use tokio::{io::AsyncReadExt as _, time::sleep};
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};
use tonic::Code;

use crate::{
    client::soon,
    gateway::Gateway,
    raw::{self, CLOSE, Raw, TEXT, frame},
    scrape::{Page, request},
    subscriber::{Subscriber, said},
    v1::{clients, send},
};

/// Asks until the page says it: what a socket does is counted a moment after its peer sees it.
async fn page_that(gateway: &Gateway, what: &str, says: impl Fn(&Page) -> bool) -> Page {
    let mut page = Page::of(gateway).await;
    for _ in 0..2000 {
        if says(&page) {
            return page;
        }
        sleep(Duration::from_millis(5)).await; // a page can only be asked for
        page = Page::of(gateway).await;
    }
    panic!("{what} did not come:\n{}", page.text);
}

#[expect(clippy::float_cmp, reason = "counts are whole numbers")]
#[tokio::test]
async fn the_numbers_are_those_of_what_was_done() {
    let gateway = Gateway::with(&["limits.max_clients=50"]).await;
    let mut clients = gateway.connect_n::<5>().await;
    for client in &clients[..3] {
        gateway.join_group(client.id(), "three").await;
    }
    gateway.client_bind_uid(clients[0].id(), "ada").await;
    for _ in 0..7 {
        assert_eq!(gateway.send_message_to_group("three", "0123456789").await.arrive, 3);
    }
    for client in &mut clients[..3] {
        for _ in 0..7 {
            assert_eq!(client.next_text().await, "0123456789");
        }
    }
    clients[4].say("ping").await;
    assert_eq!(clients[4].next_text().await, "pong");
    // Refused: no upgrade, and a call that has no method.
    raw::ask(gateway.websocket(), "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;

    let page = page_that(&gateway, "the numbers", |page| {
        page.get("messages_sent_total") == 21.0
            && page.get(r#"handshakes_failed_total{cause="refused"}"#) == 1.0
            && page.get(r#"connections{state="handshake"}"#) == 0.0
    })
    .await;
    for (row, expected) in [
        (r#"connections{state="open"}"#, 5.0),
        (r#"connections{state="closing"}"#, 0.0),
        ("clients_limit", 50.0),
        ("clients_opened_total", 5.0),
        ("users", 1.0),
        ("groups", 1.0),
        // Five welcomes, 7 to each of 3, and a pong.
        ("messages_queued_total", 21.0),
        ("messages_received_total", 1.0),
        ("handshakes_total", 6.0),
        (r#"messages_dropped_total{cause="closed"}"#, 0.0),
        (r#"handshakes_failed_total{cause="full"}"#, 0.0),
        (r#"phase{phase="ready"}"#, 1.0),
        (r#"phase{phase="draining"}"#, 0.0),
        ("config_generation", 1.0),
        ("panics_total", 0.0),
        (r#"grpc_calls_total{method="proto.JoinGroup/JoinGroup",code="OK"}"#, 3.0),
        (r#"grpc_calls_total{method="proto.ClientBindUid/ClientBindUid",code="OK"}"#, 1.0),
        (
            r#"grpc_calls_total{method="proto.SendMessageToGroup/SendMessageToGroup",code="OK"}"#,
            7.0,
        ),
        (
            r#"grpc_call_duration_seconds_count{method="proto.SendMessageToGroup/SendMessageToGroup"}"#,
            7.0,
        ),
    ] {
        assert_eq!(page.get(row), expected, "{row}");
    }
    assert!(!page.text.contains("proto.UnGroup/UnGroup"), "nobody has called it");
    assert_eq!(page.sum("shard_clients"), 5.0);
    assert_eq!(page.sum("grpc_calls_total"), 11.0);
    assert_eq!(page.sum("grpc_calls_under_way"), 0.0);
    assert_eq!(page.sum("shard_queue_bytes"), 0.0);
    assert_eq!(page.sum("shard_waiting_calls"), 0.0);
    // A ping of 4 bytes in a masked frame; 21 frames of 12 bytes are the least that went out.
    assert_eq!(page.get("received_bytes_total"), 10.0);
    assert!(page.get("sent_bytes_total") > 21.0 * 12.0);

    let [first, second, ..] = &mut clients;
    gateway.clonse_client(first.id()).await;
    assert_eq!(first.next_close().await.0, 1000);
    let goodbye = CloseFrame { code: 4711.into(), reason: "".into() };
    second.send(Message::Close(Some(goodbye))).await;
    let page =
        page_that(&gateway, "the closes", |page| page.sum("clients_closed_total") == 2.0).await;
    assert_eq!(page.get(r#"clients_closed_total{cause="api",code="1000"}"#), 1.0);
    assert_eq!(page.get(r#"clients_closed_total{cause="peer",code="other"}"#), 1.0);
    assert_eq!(page.get(r#"clients_closed_total{cause="peer",code="1000"}"#), 0.0);
    assert_eq!(page.get(r#"connections{state="open"}"#), 3.0);
    assert_eq!(page.get("users"), 0.0);
}

#[expect(clippy::float_cmp, reason = "counts are whole numbers")]
#[tokio::test]
async fn nothing_that_came_over_the_network_is_on_the_page() {
    const SECRET: &str = "zanzibar";
    let gateway = Gateway::start().await;
    let before = Page::of(&gateway).await;

    let client = gateway.connect().await;
    gateway.client_bind_uid(client.id(), SECRET).await;
    gateway.join_group(client.id(), SECRET).await;
    gateway.send_message_to_group(SECRET, SECRET).await;
    gateway.send_message_to_client(SECRET, SECRET).await;
    raw::ask(gateway.websocket(), &format!("GET /{SECRET} HTTP/1.1\r\nHost: {SECRET}\r\n\r\n"))
        .await;
    raw::ask(gateway.admin(), &format!("{SECRET} /{SECRET} HTTP/1.1\r\nConnection: close\r\n\r\n"))
        .await;
    for path in
        [format!("/{SECRET}"), format!("/proto.{SECRET}/{SECRET}"), "/proto.UnGroup/X".into()]
    {
        let mut calls = tonic::client::Grpc::new(gateway.channel());
        calls.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let answer = calls.unary(tonic::Request::new(()), path.parse().unwrap(), codec).await;
        assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
    }
    let (mut raw, _) = Raw::welcomed(gateway.websocket()).await;
    let reason = [&4711_u16.to_be_bytes()[..], SECRET.as_bytes()].concat();
    raw.send(frame(TEXT, SECRET.as_bytes())).await;
    raw.send(frame(CLOSE, &reason)).await;
    raw.ended().await;

    let after =
        page_that(&gateway, "the close", |page| page.sum("clients_closed_total") == 1.0).await;
    assert_eq!(after.get(r#"grpc_calls_total{method="other",code="UNIMPLEMENTED"}"#), 3.0);
    assert!(!after.text.contains(SECRET), "{}", after.text);
    assert!(!after.text.contains(client.id()));
    // A number that a metric has may hold these digits by chance.
    assert!(!after.label_values().contains("4711"));
    let new: Vec<_> = after.label_values().difference(&before.label_values()).copied().collect();
    let own = |value: &str| {
        let (service, method) = value.split_once('/').unwrap_or(("", ""));
        value.parse::<f64>().is_ok()
            || ["OK", "UNIMPLEMENTED", "other", "+Inf"].contains(&value)
            || service == format!("proto.{method}")
    };
    assert!(
        new.contains(&"UNIMPLEMENTED") && new.contains(&"proto.JoinGroup/JoinGroup"),
        "{new:?}"
    );
    assert!(new.iter().all(|value| own(value)), "words of the gateway's own: {new:?}");
}

#[tokio::test]
async fn a_scraper_gets_the_format_that_it_takes() {
    let gateway = Gateway::start().await;
    let open_metrics = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2";
    let page = Page::read(&request(&gateway, "GET", open_metrics).await);
    for line in [
        "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8",
        "cache-control: no-store",
        "vary: accept, accept-encoding",
    ] {
        assert!(page.head.contains(line), "{}", page.head);
    }
    assert!(page.text.ends_with("# EOF\n"));

    let plain = Page::read(&request(&gateway, "GET", "text/plain, */*").await);
    assert!(plain.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"));
    assert!(!plain.text.contains("# EOF") && !plain.text.contains("# UNIT"));
    assert!(plain.text.contains("# TYPE gateway_websocket_build_info gauge\n"), "{}", plain.text);
    assert_eq!(plain.names(), page.names());

    let head = request(&gateway, "HEAD", open_metrics).await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    let post = request(&gateway, "POST", open_metrics).await;
    assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
}

#[tokio::test]
async fn methods_that_nobody_has_called_have_no_rows() {
    let gateway = Gateway::start().await;
    let idle = Page::of(&gateway).await;
    assert!(!idle.text.contains("method="), "{}", idle.text);
    for family in ["grpc_calls_total", "grpc_calls_under_way", "grpc_call_duration_seconds"] {
        assert!(idle.families.contains_key(&format!("gateway_websocket_{family}")), "{family}");
    }
    assert!(idle.text.len() < 40_000, "{} bytes", idle.text.len());
    gateway.count_online_client().await;
    let called = Page::of(&gateway).await;
    let methods: Vec<_> = called.label_values_of("method").into_iter().collect();
    assert_eq!(methods, ["proto.CountOnlineClient/CountOnlineClient"]);
}

#[tokio::test]
async fn the_page_is_compressed_for_who_takes_gzip() {
    let gateway = Gateway::start().await;
    let ask = async |lines: &str| {
        let mut raw = Raw::open(gateway.admin()).await;
        raw.send(format!("GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n"))
            .await;
        let mut answer = Vec::new();
        soon("the page", raw.stream().read_to_end(&mut answer)).await.unwrap();
        let end = answer.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_ascii_lowercase();
        (head, answer.split_off(end))
    };
    let (head, page) = ask("Accept-Encoding: gzip\r\n").await;
    assert!(head.starts_with("http/1.1 200 ") && head.contains("content-encoding: gzip"), "{head}");
    assert!(head.contains("vary: accept, accept-encoding"), "{head}");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&page[..]).read_to_string(&mut text).unwrap();
    let read = Page::read(&format!("HTTP/1.1 200 OK\r\n\r\n{text}"));
    assert!(read.names().len() > 40, "{text}");
    assert!(page.len() * 4 < text.len(), "{} of {} bytes", page.len(), text.len());
    for lines in ["", "Accept-Encoding: identity\r\n", "Accept-Encoding: gzip;q=0\r\n"] {
        let (head, page) = ask(lines).await;
        assert!(!head.contains("content-encoding"), "{head}");
        assert!(String::from_utf8(page).unwrap().starts_with("# HELP "), "{lines}");
    }
}

/// Holds a shard up in the step of a client that says something, until it is told to go on.
#[derive(Clone, Default)]
struct Stuck(Arc<(Mutex<bool>, Condvar)>);

impl EventSink for Stuck {
    fn ear(&self, _: u16, _: Wake) -> Box<dyn Ear> {
        Box::new(self.clone())
    }
}

impl Ear for Stuck {
    fn message(&mut self, _: Who<'_>, _: Kind, _: &[u8]) -> Accept {
        let (go_on, told) = &*self.0;
        let held = go_on.lock().unwrap();
        drop(told.wait_while(held, |go_on| !*go_on).unwrap());
        Accept::Accepted
    }
}

impl Stuck {
    fn go_on(&self) {
        let (go_on, told) = &*self.0;
        *go_on.lock().unwrap() = true;
        told.notify_all();
    }
}

#[tokio::test]
async fn a_shard_that_is_stuck_is_seen_and_holds_no_scrape_up() {
    let stuck = Stuck::default();
    let gateway =
        Gateway::listening_to(Arc::new(stuck.clone()), &["shards=2", "limits.inbox=4"]).await;
    let hub = gateway.hub();
    let whole = hub.pulse(Duration::from_mins(1)).await;
    assert!(whole.is_whole() && whole.beats.len() == 2, "{whole:?}");

    let mut clients = gateway.connect_n::<2>().await;
    clients[0].say("stop here").await;
    let silent = async {
        loop {
            let silent: Vec<_> = hub.pulse(Duration::from_millis(20)).await.silent().collect();
            if !silent.is_empty() {
                return silent;
            }
        }
    };
    let silent = soon("a silent shard", silent).await;
    assert_eq!(silent.len(), 1, "the other one goes on");
    let shard = silent[0];
    // However often it is asked, its inbox has room for the four calls that it may have.
    for _ in 0..20 {
        assert_eq!(hub.pulse(Duration::from_millis(1)).await.silent().next(), Some(shard));
        drop(tokio::time::timeout(Duration::ZERO, hub.pulse(Duration::from_mins(1))).await);
    }
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let hub = hub.clone();
            tokio::spawn(async move { hub.clients().await })
        })
        .collect();
    let full = page_that(&gateway, "a full inbox", |page| {
        page.get(r#"calls_refused_total{limit="limits.inbox"}"#) > 0.5
            && page.get(&format!(r#"shard_waiting_calls{{shard="{shard}"}}"#)) > 3.5
    })
    .await;
    assert!(full.get(&format!(r#"shard_lag_seconds{{shard="{shard}"}}"#)) >= 0.04);
    assert!(full.get("shard_waiting_calls_limit") < 4.5);
    // A pulse needs no place among them.
    assert_eq!(hub.pulse(Duration::from_millis(1)).await.silent().next(), Some(shard));

    stuck.go_on();
    assert!(hub.pulse(Duration::from_mins(1)).await.is_whole());
    let mut refused = 0;
    for call in waiting {
        refused += u32::from(call.await.unwrap().is_err());
    }
    assert_eq!(refused, 1);
    let after = Page::of(&gateway).await;
    assert!(after.get(&format!(r#"shard_lag_longest_seconds{{shard="{shard}"}}"#)) >= 0.04);
    assert!(after.get("shard_lag_distribution_seconds_count") >= 3.0);
    assert!(after.sum("shard_waiting_calls") < 0.5);
}

#[expect(clippy::float_cmp, reason = "counts are whole numbers")]
#[tokio::test]
async fn reloads_are_counted_by_their_outcome() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.toml");
    let write = |toml: &str| std::fs::write(&file, toml).unwrap();
    write("limits.max_clients = 10\n");
    let gateway = Gateway::from_file(&file).await;
    assert_eq!(Page::of(&gateway).await.get("config_last_reload_timestamp_seconds"), 0.0);

    write("limits.max_clients = 11\n");
    assert!(matches!(gateway.handle().reload().await.unwrap(), Reloaded::Accepted { .. }));
    gateway.handle().reload().await.unwrap();
    write("limits.max_clients = \"many\"\n");
    assert!(matches!(gateway.handle().reload().await.unwrap(), Reloaded::Refused { .. }));

    let page = Page::of(&gateway).await;
    for (row, expected) in [
        (r#"config_reloads_total{outcome="accepted"}"#, 1.0),
        (r#"config_reloads_total{outcome="unchanged"}"#, 1.0),
        (r#"config_reloads_total{outcome="refused"}"#, 1.0),
        ("config_faults", 1.0),
        ("config_generation", 3.0),
        ("clients_limit", 11.0),
    ] {
        assert_eq!(page.get(row), expected, "{row}");
    }
    assert!(page.get("config_last_reload_timestamp_seconds") > 1.7e9);
}

#[expect(clippy::float_cmp, reason = "counts are whole numbers")]
#[tokio::test]
async fn the_bounds_of_events_are_those_of_the_configuration() {
    let gateway = Gateway::with(&["events.buffer_messages=7"]).await;
    let page = Page::of(&gateway).await;
    assert_eq!(page.get(r#"events_held_limit{kind="message"}"#), 7.0);
    assert_eq!(page.get(r#"events_held_limit{kind="change"}"#), 65_536.0);
    assert_eq!(page.get("events_held_limit_bytes"), 67_108_864.0);
}

#[expect(clippy::float_cmp, reason = "counts are whole numbers")]
#[tokio::test]
async fn who_waits_for_room_is_counted_until_it_is_heard_or_gone() {
    let sets = ["events.groups=all", "events.buffer_messages=1", "events.when_full=pause"];
    let gateway = Gateway::with(&sets).await;
    let waiting = async |expected: f64| {
        let what = format!("{expected} clients that wait");
        page_that(&gateway, &what, |page| page.get("waiting_clients") == expected).await
    };
    let [mut first, mut ada, mut bob] = gateway.connect_n().await;
    first.say("fills the buffer").await;
    page_that(&gateway, "the message", |page| {
        page.get(r#"events_held{group="all",kind="message"}"#) == 1.0
    })
    .await;
    assert_eq!(Page::of(&gateway).await.get("waiting_clients"), 0.0);
    let (mut goes, _) = Raw::welcomed(gateway.websocket()).await;
    let (mut breaks, broken) = Raw::welcomed(gateway.websocket()).await;
    ada.say("ada").await;
    waiting(1.0).await;
    bob.say("bob").await;
    waiting(2.0).await;
    goes.send([frame(TEXT, b"said before"), frame(CLOSE, &[])].concat()).await;
    waiting(3.0).await;
    breaks.send(frame(TEXT, b"never heard")).await;
    let page = waiting(4.0).await;
    assert_eq!(page.get(r#"connections{state="open"}"#), 5.0);

    // Closed by a call, and because its connection broke.
    assert!(gateway.clonse_client(bob.id()).await.result);
    waiting(3.0).await;
    breaks.stream().set_zero_linger().unwrap();
    drop(breaks);
    // That is seen when something is written.
    gateway.send(send(clients([&broken]), "for nobody")).await;
    page_that(&gateway, "the end of a broken connection", |page| {
        page.get(r#"clients_closed_total{cause="lost",code="none"}"#) == 1.0
    })
    .await;
    waiting(2.0).await;

    // With room both are heard, and the goodbye of the one as well.
    let mut subscriber = Subscriber::of(&gateway, "all").await;
    let mut heard = Vec::new();
    while heard.len() < 3 {
        let event = subscriber.hear().await;
        if let Some(What::Message(_)) = event.what {
            heard.push(said(&event));
        }
    }
    // Of clients on several shards, in any order.
    heard.sort_unstable();
    assert_eq!(heard, ["ada", "fills the buffer", "said before"]);
    assert_eq!(goes.close_code().await, 1000);
    let page = waiting(0.0).await;
    assert_eq!(page.get(r#"connections{state="open"}"#), 2.0);
}
