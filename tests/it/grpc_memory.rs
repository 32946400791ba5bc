//! What callers can make the gateway hold: requests that don't come whole, answers that nobody takes,
//! and the little that is left to peers without a token.

use gateway_websocket::grpc::proto::v1::JoinRequest;
use prost::Message as _;
use tokio::task::JoinSet;
use tonic::Code;

use crate::{
    client::soon,
    gateway::Gateway,
    h2c::{COUNT, EMPTY, HEADERS, Http2, SETTINGS, frame, head, hello},
    raw::Raw,
    scrape::Page,
    site::{Site, until},
    v1::NOBODY,
};

const TOKEN: &str = "the-only-token-0123456789";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const BROADCAST: &str = "/proto.BroadcastMessage/BroadcastMessage";
const LIST_GROUPS: &str = "/gateway.v1.Directory/ListGroups";
const MIB: f64 = (1 << 20) as f64;
/// What a call takes in any case: it is 16 KiB, and a few lines of metadata.
const CALL: f64 = 20.0 * 1024.0;

/// A gateway that asks for a token, and gives callers a long time to show one.
async fn guarded() -> Site {
    let mut site = Site::new();
    let tokens = site.write("tokens", &format!("{TOKEN}\n"));
    site.start(&format!("grpc.token_files = [{tokens}]\nlimits.handshake = \"1m\"")).await;
    site
}

/// The first bytes of a message of so many.
fn declared(len: u32) -> Vec<u8> {
    [&[0], &len.to_be_bytes()[..]].concat()
}

async fn held(gateway: &Gateway, holder: &str) -> f64 {
    Page::of(gateway).await.get(&format!("grpc_memory_bytes{{holder=\"{holder}\"}}"))
}

async fn is_given_back(gateway: &Gateway) {
    until("all is given back", async || {
        held(gateway, "caller").await + held(gateway, "stranger").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn a_health_check_has_a_kilobyte() {
    let site = guarded().await;
    let mut line = Http2::connect(site.gateway().grpc()).await;
    let mut check = line.begin(CHECK, &[]).await;
    check.body.send_data(declared(1025).into(), false).unwrap();
    let (code, message) = check.status().await.unwrap();
    assert_eq!(code, Code::ResourceExhausted);
    assert!(message.contains("1024 bytes"), "{message}");
    // The name of a service, which takes a byte for the field and two for its length.
    let mut check = line.begin(CHECK, &[]).await;
    let name = [&declared(1023)[..], &[0x0a, 0xfc, 0x07], &[b'x'; 1020]].concat();
    check.body.send_data(name.into(), true).unwrap();
    assert_eq!(check.status().await.unwrap().0, Code::NotFound);
    is_given_back(site.gateway()).await;
}

#[expect(clippy::float_cmp, reason = "counts are whole numbers")]
#[tokio::test]
async fn who_has_shown_no_token_has_few_calls_and_who_has_shown_one_has_more() {
    let site = guarded().await;
    let mut line = Http2::connect(site.gateway().grpc()).await;
    let mut waiting = JoinSet::new();
    let mut bodies = Vec::new();
    for _ in 0..100 {
        // Its message never comes.
        let check = line.begin(CHECK, &[("x", &"y".repeat(4096))]).await;
        let (body, status) = check.split();
        bodies.push(body);
        waiting.spawn(status);
    }
    for _ in 0..84 {
        let ended = soon("a refusal", waiting.join_next()).await.unwrap().unwrap();
        let (code, message) = ended.unwrap();
        assert_eq!(code, Code::ResourceExhausted);
        assert!(message.contains("valid token"), "{message}");
    }
    let strangers = held(site.gateway(), "stranger").await;
    assert!(strangers > 0.0 && strangers <= 16.0 * CALL, "{strangers}");
    assert_eq!(Page::of(site.gateway()).await.get(r#"grpc_refused_total{cause="calls"}"#), 84.0);

    // A call with a token has room, and so has health from then on.
    let token = format!("Bearer {TOKEN}");
    let mut call = line.begin(COUNT, &[("authorization", &token)]).await;
    call.complete();
    assert_eq!(call.status().await.unwrap().0, Code::Ok);
    let mut check = line.begin(CHECK, &[]).await;
    check.complete();
    assert_eq!(check.status().await.unwrap().0, Code::Ok);
    drop((bodies, waiting));
    is_given_back(site.gateway()).await;
}

#[tokio::test]
async fn calls_that_come_all_at_once_are_counted_one_by_one() {
    let site = guarded().await;
    let mut raw = Raw::open(site.gateway().grpc()).await;
    // The later ones name the header lines of the first by their places in its table (RFC 7541 §6.1).
    let mut first = vec![0x83, 0x86];
    let fields = [
        (":path", CHECK),
        (":authority", "test"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    for (name, value) in fields {
        first.push(0x40);
        for text in [name, value] {
            first.push(u8::try_from(text.len()).unwrap());
            first.extend(text.bytes());
        }
    }
    let mut burst = [hello(), frame(HEADERS, 0x4, 1, &first)].concat();
    for call in 1..30 {
        burst.extend(frame(HEADERS, 0x4, 2 * call + 1, &[0x83, 0x86, 0xc1, 0xc0, 0xbf, 0xbe]));
    }
    assert!(burst.len() < 1024, "two looks at the socket");
    raw.send(burst).await;
    until("the others are refused", async || {
        Page::of(site.gateway()).await.get(r#"grpc_refused_total{cause="calls"}"#) > 13.5
    })
    .await;
    let strangers = held(site.gateway(), "stranger").await;
    assert!(strangers > 15.5 * 16.0 * 1024.0 && strangers <= 16.0 * CALL, "{strangers}");
}

#[tokio::test]
async fn a_request_without_a_token_leaves_nothing_of_its_metadata() {
    let site = guarded().await;
    let mut line = Http2::connect(site.gateway().grpc()).await;
    let large = "y".repeat(12 << 10);
    let check = line.begin(CHECK, &[("x", &large)]).await;
    until("it is under way", async || held(site.gateway(), "stranger").await > 0.0).await;
    let strangers = held(site.gateway(), "stranger").await;
    assert!(strangers < CALL, "{strangers}");
    drop(check);
    is_given_back(site.gateway()).await;
}

#[tokio::test]
async fn who_reads_no_refusals_is_not_read_either() {
    let site = guarded().await;
    let mut raw = Raw::open_narrow(site.gateway().grpc()).await;
    // No table to compress header lines with: each refusal is written out.
    let no_table = frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]);
    raw.send([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &no_table].concat()).await;
    let block = head(COUNT);
    let mut most = 0.0f64;
    let mut stopped = false;
    for round in 0..1000u32 {
        let heads = (0..200).map(|call| frame(HEADERS, 0x5, 2 * (200 * round + call) + 1, &block));
        let burst: Vec<u8> = heads.flatten().collect();
        stopped = raw.send_now(&burst).await.is_none();
        most = most.max(held(site.gateway(), "stranger").await);
        if stopped {
            break;
        }
    }
    assert!(stopped, "two hundred thousand calls were read, and none of their answers");
    // Those of one look at the socket may have come on top.
    assert!(most > 0.0 && most <= (32.0 + 42.0) * CALL, "{most}");
    drop(raw);
    is_given_back(site.gateway()).await;
}

#[expect(clippy::float_cmp, reason = "counts are whole numbers")]
#[tokio::test]
async fn requests_that_do_not_come_whole_share_the_memory_of_calls() {
    let gateway = Gateway::with(&["grpc.max_memory=4 MiB"]).await;
    let mut line = Http2::connect(gateway.grpc()).await;
    let mut waiting = JoinSet::new();
    let mut bodies = Vec::new();
    for _ in 0..10 {
        let mut call = line.begin(BROADCAST, &[]).await;
        call.body.send_data(declared(1 << 20).into(), false).unwrap();
        let (body, status) = call.split();
        bodies.push(body);
        waiting.spawn(status);
    }
    for _ in 0..7 {
        let ended = soon("a refusal", waiting.join_next()).await.unwrap().unwrap();
        let (code, message) = ended.unwrap();
        assert_eq!(code, Code::ResourceExhausted);
        assert!(message.contains("grpc.max_memory"), "{message}");
    }
    let callers = held(&gateway, "caller").await;
    assert!(callers > 3.0 * MIB - 3.0 * CALL && callers <= 4.0 * MIB, "{callers}");
    // Small calls have room in what is left.
    line.count().await;
    assert_eq!(Page::of(&gateway).await.get(r#"grpc_refused_total{cause="memory"}"#), 7.0);
    drop((bodies, waiting));
    is_given_back(&gateway).await;
    line.count().await;
}

#[tokio::test]
async fn answers_that_nobody_takes_share_the_memory_of_calls() {
    let gateway = Gateway::with(&["grpc.max_memory=4 MiB", "limits.names=60000"]).await;
    let client = gateway.connect().await;
    for number in 0..20 {
        let group = format!("{number:02}").repeat(25_000);
        assert!(gateway.join_group(client.id(), group).await.result);
    }
    // Of each answer nothing but its head and its end can come.
    let mut settings = h2::client::Builder::new();
    settings.initial_window_size(0);
    let mut line = Http2::with(gateway.grpc(), &settings).await;
    let mut waiting = JoinSet::new();
    let mut bodies = Vec::new();
    for _ in 0..10 {
        let mut call = line.begin(LIST_GROUPS, &[]).await;
        call.body.send_data(EMPTY.into(), true).unwrap();
        let (body, status) = call.split();
        bodies.push(body);
        waiting.spawn(status);
    }
    for _ in 0..6 {
        let ended = soon("a refusal", waiting.join_next()).await.unwrap().unwrap();
        let (code, message) = ended.unwrap();
        assert_eq!(code, Code::ResourceExhausted);
        assert!(message.contains("grpc.max_memory"), "{message}");
    }
    let callers = held(&gateway, "caller").await;
    assert!(callers > 3.0 * MIB && callers <= 4.0 * MIB, "{callers}");
    drop((bodies, waiting, line));
    is_given_back(&gateway).await;
}

#[tokio::test]
async fn what_was_done_is_told_whatever_room_there_is() {
    const CLIENTS: usize = 2000;
    let gateway = Gateway::with(&["grpc.max_memory=1 MiB"]).await;
    let mut line = Http2::connect(gateway.grpc()).await;
    // What is left, 151 KiB, is enough for the call and its request, 85 KiB, and not for its answer.
    let mut unfinished = line.begin(BROADCAST, &[]).await;
    unfinished.body.send_data(declared((1 << 20) - (160 << 10)).into(), false).unwrap();
    until("it is held", async || held(&gateway, "caller").await > 0.8 * MIB).await;
    let request = JoinRequest {
        groups: vec!["lobby".to_owned()],
        clients: vec![NOBODY.to_owned(); CLIENTS],
        ..JoinRequest::default()
    };
    let answer = gateway.membership().join(request).await.unwrap().into_inner();
    assert_eq!(answer.failures.len(), CLIENTS);
    assert!(answer.encoded_len() > 80 << 10, "{}", answer.encoded_len());
}

#[tokio::test]
async fn a_connection_that_ends_gives_back_what_its_calls_held() {
    let gateway = Gateway::with(&[]).await;
    let mut line = Http2::connect(gateway.grpc()).await;
    let mut calls = Vec::new();
    for _ in 0..20 {
        let mut call = line.begin(BROADCAST, &[]).await;
        call.body.send_data(declared(1 << 20).into(), false).unwrap();
        calls.push(call);
    }
    until("they are held", async || held(&gateway, "caller").await > 20.0 * MIB - 20.0 * CALL)
        .await;
    drop((calls, line));
    is_given_back(&gateway).await;
}
