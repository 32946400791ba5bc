//! The connect hook when the back end hangs, fails, talks nonsense, is not there, or has too much to
//! do: clients are answered in time, and the gateway is never made to ask more than it may.

#![expect(clippy::float_cmp, reason = "counts are whole numbers")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use gateway_websocket::grpc::proto::v1::{AdmitResponse, Allow, Message, admit_response::Verdict};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::{
    backend::{BackEnd, Voice, allow, allow_as, always, refuse, waiting},
    client::{Client, soon},
    gateway::Gateway,
    hook::{knock, turned_away},
    listeners::{address, free_port},
    raw::{Raw, request},
    scrape::Page,
    site::until,
};

/// Enough time that nothing here is decided by it.
const AMPLE: &str = "hook.timeout=1h";
const NO_BREAKER: &str = "hook.breaker_failures=0";
const UNHURRIED: &str = "limits.handshake=1h";

async fn failures(gateway: &Gateway, cause: &str) -> f64 {
    Page::of(gateway).await.get(&format!("hook_failures_total{{cause=\"{cause}\"}}"))
}

/// Nobody comes in, for this cause.
async fn is_closed_for(gateway: &Gateway, cause: &str) {
    let before = failures(gateway, cause).await;
    let (status, body) = turned_away(gateway).await;
    assert_eq!(status, "503 Service Unavailable");
    let expected = format!("whether this client may connect can't be found out now ({cause})\n");
    assert_eq!(body, expected);
    assert_eq!(failures(gateway, cause).await, before + 1.0);
}

#[tokio::test]
async fn a_back_end_that_hangs_costs_the_timeout_and_no_more() {
    let (voice, mut questions) = waiting();
    let back_end = BackEnd::with(voice).await;
    let gateway = Gateway::with(&[&back_end.key(), "hook.timeout=200ms", NO_BREAKER]).await;
    for _ in 0..2 {
        is_closed_for(&gateway, "timeout").await;
        // The back end is told that nobody waits any more.
        questions.next().await.given_up().await;
    }
    let page = Page::of(&gateway).await;
    assert_eq!((page.get("hook_calls_under_way"), page.get("hook_waiting")), (0.0, 0.0));
}

#[tokio::test]
async fn the_handshakes_deadline_stands_above_all() {
    let (voice, mut questions) = waiting();
    let back_end = BackEnd::with(voice).await;
    let gateway = Gateway::with(&[&back_end.key(), AMPLE, "limits.handshake=300ms"]).await;
    let mut raw = Raw::open(gateway.websocket()).await;
    raw.send(request(&[])).await;
    let asked = questions.next().await;
    raw.ended().await;
    asked.given_up().await;
    let page = Page::of(&gateway).await;
    assert_eq!(page.get(r#"handshakes_failed_total{cause="timeouts"}"#), 1.0);
    assert_eq!(gateway.hub().count_clients(), 0);
}

#[tokio::test]
async fn an_error_is_no_answer() {
    for (code, cause) in [
        (Code::Internal, "error"),
        (Code::Unimplemented, "error"),
        (Code::PermissionDenied, "declined"),
    ] {
        let back_end = BackEnd::with(always(Err(Status::new(code, "out of order")))).await;
        let gateway = Gateway::with(&[&back_end.key()]).await;
        is_closed_for(&gateway, cause).await;
    }
}

const ONE_FAILURE: [&str; 2] = ["hook.breaker_failures=1", "hook.breaker_pause=1h"];

#[tokio::test]
async fn a_status_that_says_that_the_back_end_fails_opens_the_breaker() {
    for code in [
        Code::Unavailable,
        Code::DeadlineExceeded,
        Code::ResourceExhausted,
        Code::Internal,
        Code::Unknown,
        Code::DataLoss,
        Code::Unimplemented,
        Code::Aborted,
        Code::Cancelled,
    ] {
        let back_end = BackEnd::with(always(Err(Status::new(code, "out of order")))).await;
        let gateway = Gateway::with(&[&[back_end.key().as_str()], &ONE_FAILURE[..]].concat()).await;
        is_closed_for(&gateway, "error").await;
        assert_eq!(Page::of(&gateway).await.get("hook_breaker_open"), 1.0, "{code:?}");
        is_closed_for(&gateway, "breaker").await;
    }
}

#[tokio::test]
async fn what_a_client_may_have_brought_about_opens_no_breaker() {
    let declined = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::FailedPrecondition,
        Code::OutOfRange,
        Code::Unauthenticated,
    ];
    let declined = declined.map(|code| (Err(Status::new(code, "not like this")), "declined"));
    let nonsense = (allow_as(&"x".repeat(257)), "nonsense");
    for (said, cause) in declined.into_iter().chain([nonsense]) {
        let back_end = BackEnd::with(always(said.clone())).await;
        let gateway = Gateway::with(&[&[back_end.key().as_str()], &ONE_FAILURE[..]].concat()).await;
        for _ in 0..3 {
            is_closed_for(&gateway, cause).await;
        }
        assert_eq!(Page::of(&gateway).await.get("hook_breaker_open"), 0.0, "{said:?}");
    }
}

#[tokio::test]
async fn a_question_that_is_rejected_ends_a_row_of_failures() {
    let (voice, _) = counting(|before| match before {
        2 | 5 => Err(Status::invalid_argument("not like this")),
        _ => Err(Status::unavailable("out of order")),
    });
    let back_end = BackEnd::with(voice).await;
    let sets = [&back_end.key(), "hook.breaker_failures=3", "hook.breaker_pause=1h"];
    let gateway = Gateway::with(&sets).await;
    for cause in ["error", "error", "declined", "error", "error", "declined"] {
        is_closed_for(&gateway, cause).await;
    }
    assert_eq!(Page::of(&gateway).await.get("hook_breaker_open"), 0.0);
    for cause in ["error", "error", "error", "breaker"] {
        is_closed_for(&gateway, cause).await;
    }
}

#[tokio::test]
async fn nonsense_is_no_answer() {
    let long = "x".repeat(257);
    let says = |answer: Allow| allow(answer);
    let not_text = Message { kind: 1, data: vec![0xff].into() };
    let answers = [
        Ok(AdmitResponse { verdict: None }),
        refuse(101, ""),
        refuse(600, ""),
        refuse(403, &"x".repeat(4097)),
        allow_as(&long),
        says(Allow { subprotocol: "never.offered".into(), ..Allow::default() }),
        says(Allow { groups: (0..129).map(|n| n.to_string()).collect(), ..Allow::default() }),
        says(Allow { groups: vec![String::new()], ..Allow::default() }),
        says(Allow {
            attributes: (0..33).map(|n| (n.to_string(), String::new())).collect(),
            ..Allow::default()
        }),
        says(Allow {
            attributes: [("large".to_owned(), "x".repeat(4096))].into(),
            ..Allow::default()
        }),
        says(Allow { messages: vec![Message::default(); 1001], ..Allow::default() }),
        says(Allow { messages: vec![not_text], ..Allow::default() }),
        // 10 MB.
        says(Allow {
            messages: vec![Message { kind: 2, data: vec![0; 10_000_000].into() }],
            ..Allow::default()
        }),
    ];
    for answer in answers {
        let back_end = BackEnd::with(always(answer)).await;
        let gateway = Gateway::with(&[&back_end.key(), AMPLE, UNHURRIED]).await;
        is_closed_for(&gateway, "nonsense").await;
    }
}

#[tokio::test]
async fn an_answer_without_an_end_is_cut_off_at_its_size() {
    static LARGE: [u8; 16_384] = [0xff; 16_384];
    // In small pieces it is more than a peer of HTTP/2 has to bear.
    for (chunk, cause) in [(LARGE.as_slice(), "nonsense"), (b"endless", "error")] {
        let back_end = BackEnd::raw("application/grpc", chunk, true).await;
        let gateway = Gateway::with(&[&back_end.key(), AMPLE, UNHURRIED]).await;
        is_closed_for(&gateway, cause).await;
    }
}

/// Each byte comes soon after the one before; all of them would take minutes.
#[tokio::test]
async fn an_answer_that_trickles_in_is_waited_for_no_longer_than_any_other() {
    const SLOW: usize = 3;
    let uid = "a".repeat(200);
    let groups = (0..100).map(|number| format!("{uid}{number}")).collect();
    let said = Allow { uid: uid.clone(), groups, ..Allow::default() };
    let said = AdmitResponse { verdict: Some(Verdict::Allow(said)) };
    let pause = Duration::from_millis(10);
    let (back_end, mut given) = BackEnd::trickling(said.clone(), SLOW, pause).await;
    let sets =
        [&back_end.key(), "hook.timeout=400ms", NO_BREAKER, UNHURRIED, "hook.max_concurrent=1"];
    let gateway = Gateway::with(&sets).await;
    for _ in 0..SLOW {
        is_closed_for(&gateway, "timeout").await;
        let taken = given.next().await;
        assert!((2..1000).contains(&taken), "it came byte by byte: {taken}");
        let page = Page::of(&gateway).await;
        assert_eq!((page.get("hook_calls_under_way"), page.get("hook_waiting")), (0.0, 0.0));
    }
    // The only place is free for who is answered well.
    let client = gateway.connect().await;
    assert_eq!(gateway.get_client_by_uid(client.id()).await.uid, uid);
    let page = Page::of(&gateway).await;
    assert_eq!(page.get(r#"hook_verdicts_total{verdict="allowed"}"#), 1.0);
    assert_eq!(page.get(r#"hook_failures_total{cause="timeout"}"#), 3.0);

    // It fails as it is told to.
    let (back_end, mut given) = BackEnd::trickling(said, SLOW, pause).await;
    let sets = [&back_end.key(), "hook.timeout=400ms", NO_BREAKER, UNHURRIED, "hook.fail=open"];
    let gateway = Gateway::with(&sets).await;
    let client = gateway.connect().await;
    assert!((2..1000).contains(&given.next().await));
    let uid = gateway.get_client_by_uid(client.id()).await.uid;
    assert_eq!(uid, "", "nothing of half an answer is believed");
    assert_eq!(failures(&gateway, "timeout").await, 1.0);
}

#[tokio::test]
async fn what_is_no_grpc_is_an_error() {
    for (kind, body, cause) in [
        ("text/html", b"<h1>It works!</h1>".as_slice(), "error"),
        // A message, and no status after it.
        ("application/grpc", b"\0\0\0\0\0", "error"),
        ("application/grpc", b"", "error"),
    ] {
        let back_end = BackEnd::raw(kind, body, false).await;
        let gateway = Gateway::with(&[&back_end.key(), AMPLE, UNHURRIED]).await;
        is_closed_for(&gateway, cause).await;
    }
}

#[tokio::test]
async fn a_server_that_speaks_no_http2_is_as_if_it_were_not_there() {
    // The admin port speaks HTTP/1.1 alone.
    let other = Gateway::start().await;
    let key = format!("hook.address=http://{}", other.admin());
    let gateway = Gateway::with(&[&key, "hook.timeout=300ms"]).await;
    let (status, _) = turned_away(&gateway).await;
    assert_eq!(status, "503 Service Unavailable");
}

#[tokio::test]
async fn where_it_fails_open_who_could_not_be_asked_about_comes_in() {
    for said in [Err(Status::internal("out of order")), Ok(AdmitResponse { verdict: None })] {
        let back_end = BackEnd::with(always(said)).await;
        let gateway = Gateway::with(&[&back_end.key(), "hook.fail=open"]).await;
        gateway.connect().await;
    }
    let nobody = format!("hook.address=http://{}", address(free_port()));
    let gateway = Gateway::with(&[&nobody, "hook.fail=open", "hook.timeout=100ms"]).await;
    gateway.connect().await;
    assert_eq!(failures(&gateway, "unreachable").await, 1.0);
    // A no is a no.
    let back_end = BackEnd::with(always(refuse(403, ""))).await;
    let gateway = Gateway::with(&[&back_end.key(), "hook.fail=open"]).await;
    assert_eq!(turned_away(&gateway).await.0, "403 Forbidden");
}

/// One client more, who comes in some time.
fn comes(clients: &mut JoinSet<Client>, gateway: &Gateway) {
    clients.spawn(Client::connect(gateway.websocket()));
}

#[tokio::test]
async fn no_more_are_asked_about_at_once_than_may_and_no_more_wait() {
    let (voice, mut questions) = waiting();
    let back_end = BackEnd::with(voice).await;
    let sets = [&back_end.key(), AMPLE, UNHURRIED, "hook.max_concurrent=3", "hook.max_waiting=4"];
    let gateway = Gateway::with(&sets).await;
    let mut clients = JoinSet::new();
    let mut asked = Vec::new();
    for _ in 0..3 {
        comes(&mut clients, &gateway);
        asked.push(questions.next().await);
    }
    for _ in 0..4 {
        comes(&mut clients, &gateway);
    }
    until("four who wait", async || Page::of(&gateway).await.get("hook_waiting") == 4.0).await;
    is_closed_for(&gateway, "busy").await;
    assert!(questions.try_next().is_none(), "three are under way");
    assert_eq!(Page::of(&gateway).await.get("hook_calls_under_way"), 3.0);
    for _ in 0..4 {
        asked.remove(0).answer(allow_as("ada"));
        asked.push(questions.next().await);
        assert!(questions.try_next().is_none(), "one for one");
    }
    for asked in asked {
        asked.answer(allow_as("ada"));
    }
    let all = async { while clients.join_next().await.is_some() {} };
    soon("all clients", all).await;
    let page = Page::of(&gateway).await;
    assert_eq!(page.get(r#"hook_verdicts_total{verdict="allowed"}"#), 7.0);
    assert_eq!((page.get("hook_calls_under_way"), page.get("hook_waiting")), (0.0, 0.0));
}

/// A voice that knows how often, and how often at once, it was asked.
fn counting(
    said: impl Fn(u64) -> Result<AdmitResponse, Status> + Send + Sync + 'static,
) -> (Voice, Arc<Count>) {
    let count = Arc::new(Count::default());
    let (counted, said) = (Arc::clone(&count), Arc::new(said));
    let voice: Voice = Arc::new(move |_, _| {
        let (count, said) = (Arc::clone(&counted), Arc::clone(&said));
        Box::pin(async move {
            let before = count.all.fetch_add(1, Ordering::SeqCst);
            let now = count.now.fetch_add(1, Ordering::SeqCst) + 1;
            count.most.fetch_max(now, Ordering::SeqCst);
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            count.now.fetch_sub(1, Ordering::SeqCst);
            said(before)
        })
    });
    (voice, count)
}

#[derive(Default)]
struct Count {
    all: AtomicU64,
    now: AtomicUsize,
    most: AtomicUsize,
}

#[tokio::test]
async fn a_flood_of_clients_is_no_flood_of_calls() {
    let (voice, count) = counting(|_| allow_as("ada"));
    let back_end = BackEnd::with(voice).await;
    let sets = [&back_end.key(), AMPLE, UNHURRIED, "hook.max_concurrent=5"];
    let gateway = Gateway::with(&sets).await;
    let mut clients = JoinSet::new();
    for _ in 0..400 {
        comes(&mut clients, &gateway);
    }
    let mut held = Vec::new();
    while let Some(client) = soon("all clients", clients.join_next()).await {
        held.push(client.unwrap());
    }
    assert_eq!(gateway.hub().count_clients(), 400);
    assert_eq!(count.all.load(Ordering::SeqCst), 400);
    let most = count.most.load(Ordering::SeqCst);
    assert!((2..=5).contains(&most), "{most} at once");
}

#[tokio::test]
async fn after_failures_in_a_row_nobody_is_asked_until_the_pause_is_over() {
    let (voice, count) = counting(|before| match before {
        0 | 1 | 3..=7 => Err(Status::unavailable("out of order")),
        _ => allow_as("ada"),
    });
    let asked = || count.all.load(Ordering::SeqCst);
    let back_end = BackEnd::with(voice).await;
    let sets = [&back_end.key(), "hook.breaker_failures=3", "hook.breaker_pause=300ms"];
    let gateway = Gateway::with(&sets).await;
    for _ in 0..2 {
        is_closed_for(&gateway, "error").await;
    }
    // Not three in a row.
    gateway.connect().await;
    for _ in 0..3 {
        is_closed_for(&gateway, "error").await;
    }
    assert_eq!(Page::of(&gateway).await.get("hook_breaker_open"), 1.0);
    // A storm while it is open asks at most once per pause: 6, 7 and 8 fail, 9 is answered.
    let mut refused = 0;
    let storm = async {
        loop {
            let (mut raw, head) = knock(&gateway, &[]).await;
            if head.starts_with("HTTP/1.1 101 ") {
                break;
            }
            refused += usize::from(raw.rest().await.contains("(breaker)"));
        }
    };
    soon("the end of the storm", storm).await;
    assert_eq!(asked(), 9);
    assert!(refused > 3, "{refused} were refused without a question");
    gateway.connect().await;
    let page = Page::of(&gateway).await;
    assert_eq!(page.get("hook_breaker_open"), 0.0);
    assert_eq!(page.get(r#"hook_failures_total{cause="error"}"#), 7.0);
}

#[tokio::test]
async fn a_back_end_that_comes_late_is_waited_for() {
    let place = address(free_port());
    let key = format!("hook.address=http://{place}");
    let gateway = Gateway::with(&[&key, AMPLE, UNHURRIED]).await;
    let mut clients = JoinSet::new();
    for _ in 0..3 {
        comes(&mut clients, &gateway);
    }
    until("three who wait for it", async || {
        Page::of(&gateway).await.get("hook_calls_under_way") == 3.0
    })
    .await;
    let _back_end = BackEnd::at(place, always(allow_as("ada"))).await;
    for _ in 0..3 {
        soon("a client", clients.join_next()).await.unwrap().unwrap();
    }
    assert_eq!(failures(&gateway, "unreachable").await, 0.0);
}

#[tokio::test]
async fn a_back_end_that_is_started_again_is_found_again() {
    let place = address(free_port());
    let key = format!("hook.address=http://{place}");
    let gateway = Gateway::with(&[&key, AMPLE, UNHURRIED, NO_BREAKER]).await;
    let (voice, mut questions) = waiting();
    let back_end = BackEnd::at(place, voice).await;
    let mut raw = Raw::open(gateway.websocket()).await;
    raw.send(request(&[])).await;
    let asked = questions.next().await;
    back_end.crash().await;
    // Whether it was heard nobody knows, so it is not asked twice.
    assert!(raw.response().await.starts_with("HTTP/1.1 503 "));
    assert!(raw.rest().await.contains("(error)"));
    drop(asked);
    for _ in 0..3 {
        let back_end = BackEnd::at(place, always(allow_as("ada"))).await;
        gateway.connect().await;
        gateway.connect().await;
        back_end.crash().await;
    }
    let mut clients = JoinSet::new();
    comes(&mut clients, &gateway);
    until("one who waits for it", async || {
        Page::of(&gateway).await.get("hook_calls_under_way") == 1.0
    })
    .await;
    let _back_end = BackEnd::at(place, always(allow_as("ada"))).await;
    soon("the client", clients.join_next()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_that_brings_no_answer_is_given_up() {
    // Calls on the first connection hang; there is nobody who would end it.
    let first = Arc::new(AtomicU64::new(0));
    let voice: Voice = {
        let first = Arc::clone(&first);
        Arc::new(move |_, _| {
            let hangs = first.fetch_add(1, Ordering::SeqCst) == 0;
            Box::pin(async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                allow_as("ada")
            })
        })
    };
    let back_end = BackEnd::with(voice).await;
    let gateway = Gateway::with(&[&back_end.key(), "hook.timeout=500ms", NO_BREAKER]).await;
    is_closed_for(&gateway, "timeout").await;
    let before = back_end.connections();
    soon("the next client", gateway.connect()).await;
    assert_eq!(back_end.connections(), before + 1);
    gateway.connect().await;
    assert_eq!(back_end.connections(), before + 1, "one that answers is kept");
}

#[tokio::test]
async fn nobody_is_asked_when_it_is_switched_off() {
    let nobody = format!("\"http://{}\"", address(free_port()));
    let gateway =
        Gateway::with_file(&format!("hook.address = {nobody}\nhook.timeout = \"50ms\"")).await;
    is_closed_for(&gateway, "unreachable").await;
    gateway.reload("").await;
    gateway.connect().await;
}
