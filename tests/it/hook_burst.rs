//! The connect hook when more come than can be asked about: that is nobody's failure, it lets nobody
//! in, and it costs those who come many at once more than those who come alone.

#![expect(clippy::float_cmp, reason = "counts are whole numbers")]

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};

use crate::{
    backend::{BackEnd, Voice, allow_as, refuse, waiting},
    client::soon,
    gateway::Gateway,
    raw::{Raw, request},
    scrape::Page,
    site::until,
};

const HONEST: &str = "x-honest";

/// Knows whom to let in, and takes its time to say so.
fn thorough(time: Duration) -> Voice {
    std::sync::Arc::new(move |asked, _| {
        Box::pin(async move {
            // How long it takes is what the test is about.
            tokio::time::sleep(time).await;
            let is_honest = asked.headers.iter().any(|header| header.name == HONEST);
            if is_honest { allow_as("ada") } else { refuse(403, "who are you?") }
        })
    })
}

fn host(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 3, last])
}

/// Comes from an address; answers with the head of what it is told, and the connection.
async fn come(gateway: &Gateway, from: IpAddr, lines: &[&str]) -> (String, Raw) {
    let mut raw = Raw::open_from(from, gateway.websocket()).await;
    raw.send(request(lines)).await;
    let head = raw.response().await;
    (head, raw)
}

/// Many come; how many were let in, refused by the back end, and told to come again.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    inside: usize,
    refused: usize,
    again: usize,
}

impl Told {
    fn count(&mut self, head: &str) {
        match head.get(9..12) {
            Some("101") => self.inside += 1,
            Some("403") => self.refused += 1,
            Some("503") => {
                assert!(head.to_lowercase().contains("\r\nretry-after: "), "{head}");
                self.again += 1;
            }
            _ => panic!("{head}"),
        }
    }
}

/// A burst from one address, and honest clients of one address each beside it.
async fn burst(gateway: &std::sync::Arc<Gateway>, strangers: usize, honest: u8) -> (Told, Told) {
    let mut all = JoinSet::new();
    for _ in 0..strangers {
        let gateway = std::sync::Arc::clone(gateway);
        all.spawn(async move { (false, come(&gateway, host(1), &[]).await) });
    }
    for last in 0..honest {
        let gateway = std::sync::Arc::clone(gateway);
        all.spawn(async move { (true, come(&gateway, host(10 + last), &["x-honest: yes"]).await) });
    }
    let (mut strangers, mut honest, mut kept) = (Told::default(), Told::default(), Vec::new());
    while let Some(one) = soon("all who came", all.join_next()).await {
        let (is_honest, (head, raw)) = one.unwrap();
        if is_honest { &mut honest } else { &mut strangers }.count(&head);
        kept.push(raw);
    }
    (strangers, honest)
}

#[tokio::test]
async fn a_burst_opens_no_breaker_lets_nobody_in_and_keeps_nobody_else_out() {
    for fail in ["hook.fail=open", "hook.fail=closed"] {
        let back_end = BackEnd::with(thorough(Duration::from_millis(50))).await;
        let sets = [
            &back_end.key(),
            fail,
            "hook.max_concurrent=4",
            "hook.timeout=2s",
            "hook.breaker_failures=1",
            "hook.breaker_pause=1h",
            "limits.handshake=1m",
        ];
        let gateway = std::sync::Arc::new(Gateway::with(&sets).await);
        let (strangers, honest) = burst(&gateway, 400, 20).await;
        assert_eq!(strangers.inside, 0, "{strangers:?}");
        assert!(strangers.refused > 0 && strangers.again > 0, "{strangers:?}");
        assert_eq!(honest, Told { inside: 20, ..Told::default() });
        let page = Page::of(&gateway).await;
        assert_eq!(page.get("hook_breaker_open"), 0.0);
        let busy = page.get("hook_failures_total{cause=\"busy\"}");
        assert_eq!(page.sum("hook_failures_total"), busy, "nothing failed but our patience");
    }
}

#[tokio::test]
async fn a_back_end_that_takes_few_calls_at_once_is_not_blamed_for_those_that_wait() {
    let back_end = BackEnd::narrow(1, thorough(Duration::from_millis(100))).await;
    let sets = [
        &back_end.key(),
        "hook.fail=open",
        "hook.timeout=1s",
        "hook.breaker_failures=1",
        "hook.breaker_pause=1h",
        "limits.handshake=1m",
    ];
    let gateway = std::sync::Arc::new(Gateway::with(&sets).await);
    // Before it has said how many it takes, and when that is known.
    for _ in 0..2 {
        let (strangers, _) = burst(&gateway, 60, 0).await;
        assert_eq!(strangers.inside, 0, "{strangers:?}");
        assert!(strangers.refused > 0 && strangers.again > 0, "{strangers:?}");
    }
    let page = Page::of(&gateway).await;
    assert_eq!(page.get("hook_breaker_open"), 0.0);
    let busy = page.get("hook_failures_total{cause=\"busy\"}");
    assert_eq!(page.sum("hook_failures_total"), busy);
}

#[tokio::test]
async fn no_more_get_a_turn_than_the_back_end_takes_at_once() {
    let (voice, mut questions) = waiting();
    let back_end = BackEnd::narrow(2, voice).await;
    let gateway = Gateway::with(&[&back_end.key(), "hook.timeout=1h", "limits.handshake=1h"]).await;
    let mut knocking = Vec::new();
    let mut knock = async || {
        let mut raw = Raw::open(gateway.websocket()).await;
        raw.send(request(&[])).await;
        knocking.push(raw);
    };
    knock().await;
    questions.next().await.answer(allow_as(""));
    for _ in 0..5 {
        knock().await;
    }
    let mut asked = vec![questions.next().await, questions.next().await];
    until("three who wait", async || Page::of(&gateway).await.get("hook_waiting") == 3.0).await;
    assert!(questions.try_next().is_none());
    for _ in 0..3 {
        asked.remove(0).answer(allow_as(""));
        asked.push(questions.next().await);
    }
    for asked in asked {
        asked.answer(allow_as(""));
    }
    for mut raw in knocking {
        let head = raw.response().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    }
}

#[tokio::test]
async fn one_address_can_not_take_all_places_to_wait() {
    let (voice, mut questions) = waiting();
    let back_end = BackEnd::with(voice).await;
    let sets = [
        &back_end.key(),
        "hook.timeout=1h",
        "limits.handshake=1h",
        "hook.max_concurrent=1",
        "hook.max_waiting=3",
    ];
    let gateway = Gateway::with(&sets).await;
    let knock = async |from: IpAddr, waiting: f64| {
        let mut raw = Raw::open_from(from, gateway.websocket()).await;
        raw.send(request(&[])).await;
        until("its place", async || Page::of(&gateway).await.get("hook_waiting") == waiting).await;
        raw
    };
    let _first = knock(host(1), 0.0).await;
    let mut asked = questions.next().await;
    let (_second, _third, mut fourth) =
        (knock(host(1), 1.0).await, knock(host(1), 2.0).await, knock(host(1), 3.0).await);
    let _other = knock(host(2), 3.0).await;
    // The newest of those who are many.
    let head = fourth.response().await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    let mut order = Vec::new();
    for _ in 0..3 {
        asked.answer(allow_as(""));
        asked = questions.next().await;
        let peer: SocketAddr = asked.request.peer_address.parse().unwrap();
        order.push(peer.ip());
    }
    assert_eq!(order, [host(1), host(2), host(1)], "the lines take turns");
}

#[tokio::test]
async fn who_hangs_up_while_it_is_asked_about_is_no_failure() {
    let (voice, mut questions) = waiting();
    let back_end = BackEnd::with(voice).await;
    let sets = [
        &back_end.key(),
        "hook.timeout=1h",
        "limits.handshake=1h",
        "hook.breaker_failures=1",
        "hook.breaker_pause=1h",
    ];
    let gateway = Gateway::with(&sets).await;
    for _ in 0..3 {
        let mut gone = Raw::open(gateway.websocket()).await;
        gone.send(request(&[])).await;
        let asked = questions.next().await;
        drop(gone);
        asked.given_up().await;
    }
    assert_eq!(Page::of(&gateway).await.get("hook_breaker_open"), 0.0);
    let mut next = Raw::open(gateway.websocket()).await;
    next.send(request(&[])).await;
    questions.next().await.answer(allow_as(""));
    assert!(next.response().await.starts_with("HTTP/1.1 101 "));
}

/// A back end that takes so many calls on each connection, and then ends it for this reason.
async fn ending(calls: usize, reason: h2::Reason) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let mut held = Vec::new();
            while held.len() < calls
                && let Some(call) = connection.accept().await
            {
                held.push(call.unwrap());
            }
            connection.abrupt_shutdown(reason);
            // Until all is said.
            while connection.accept().await.is_some() {}
        }
    });
    (address, task)
}

#[tokio::test]
async fn a_connection_that_ends_under_many_calls_is_one_failure_and_none_if_we_did_too_much() {
    for (reason, told, failures) in [
        (h2::Reason::INTERNAL_ERROR, "(error)", "error"),
        (h2::Reason::ENHANCE_YOUR_CALM, "(busy)", "busy"),
    ] {
        let (address, _task) = ending(20, reason).await;
        let key = format!("hook.address=http://{address}");
        // One failure is not enough, and two are.
        let sets = [&key, "hook.breaker_failures=2", "hook.breaker_pause=1h", "hook.timeout=20s"];
        let gateway = Gateway::with(&[&sets[..], &["limits.handshake=1m"]].concat()).await;
        let mut all = Vec::new();
        for _ in 0..20 {
            let mut raw = Raw::open(gateway.websocket()).await;
            raw.send(request(&[])).await;
            all.push(raw);
        }
        for mut raw in all {
            let head = raw.response().await;
            assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
            let text = raw.rest().await;
            assert!(text.contains(told), "{reason:?}: {text}");
        }
        let page = Page::of(&gateway).await;
        assert_eq!(page.get(&format!("hook_failures_total{{cause=\"{failures}\"}}")), 20.0);
        assert_eq!(page.get("hook_breaker_open"), 0.0, "{reason:?}");
    }
}
