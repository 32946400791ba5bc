//! Answers to requests for an upgrade, byte by byte: names spelled as devices compare them, targets
//! that no URI parser takes, and refusals that reach a client which still sends.

use crate::{
    authority::Authority,
    client::soon,
    gateway::Gateway,
    raw::{Raw, TEXT, ask, frame, request},
    tokens::keyed,
    v1_directory::described,
};

/// The lines of a head, sorted but for the status line; the date is cut off.
fn lines(head: &str) -> Vec<&str> {
    let mut lines: Vec<_> = head.trim_end().split("\r\n").collect();
    for line in &mut lines {
        *line = if line.starts_with("Date: ") { "Date" } else { line };
    }
    lines[1..].sort_unstable();
    lines
}

/// Status, then the sorted names of the fields, just as they are spelled.
fn names(answer: &str) -> (&str, Vec<&str>) {
    let (head, _) = answer.split_once("\r\n\r\n").expect("an answer with a head");
    let (status, fields) = head.split_once("\r\n").unwrap();
    let mut names: Vec<_> =
        fields.split("\r\n").map(|field| field.split_once(": ").unwrap().0).collect();
    names.sort_unstable();
    (status.split(' ').nth(1).unwrap(), names)
}

const ACCEPTED: [&str; 5] = [
    "HTTP/1.1 101 Switching Protocols",
    "Connection: Upgrade",
    "Date",
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    "Upgrade: websocket",
];

#[tokio::test]
async fn the_answer_that_accepts_is_spelled_as_rfc_6455_spells_it() {
    let authority = Authority::new();
    let own = authority.sets();
    let mut sets: Vec<_> = own.iter().map(String::as_str).collect();
    sets.push("websocket.subprotocols=[\"chat.v1\"]");
    let gateway = Gateway::with(&sets).await;
    let protocol = "Sec-WebSocket-Protocol: chat.v1";
    let extension = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover";
    for asked in [&[][..], &[protocol], &[extension], &[protocol, extension]] {
        let mut expected = [&ACCEPTED[..], asked].concat();
        expected[1..].sort_unstable();
        let mut raw = Raw::open(gateway.websocket()).await;
        raw.send(request(asked)).await;
        assert_eq!(lines(&raw.response().await), expected);
        assert_eq!(raw.data().await.payload.len(), 36, "the id follows");
        let mut raw = Raw::over(authority.connect(gateway.tls()).await);
        raw.send(request(asked)).await;
        assert_eq!(lines(&raw.response().await), expected, "with TLS");
        assert_eq!(raw.data().await.payload.len(), 36, "the id follows");
    }
}

#[tokio::test]
async fn each_refusal_is_spelled_as_the_rfcs_spell_it() {
    let sets = ["limits.max_clients=1", "websocket.allowed_origins=https://a.example"];
    let gateway = Gateway::with(&sets).await;
    let _only = gateway.connect().await;
    let usual = ["Connection", "Content-Length", "Content-Type", "Date"];
    let with = |more: &[&'static str]| {
        let mut names = [&usual[..], more].concat();
        names.sort_unstable();
        names
    };
    let upgrade = with(&["Sec-WebSocket-Version", "Upgrade"]);
    let cut = |line: &str| request(&[]).replace(&format!("{line}\r\n"), "");
    let bare = vec!["Connection", "Content-Length", "Date"];
    for (asked, status, expected) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "426", upgrade.clone()),
        (request(&[]).replace("Version: 13", "Version: 8"), "426", upgrade),
        (request(&[]).replace("GET", "POST"), "405", with(&["Allow"])),
        (request(&[]).replace("HTTP/1.1", "HTTP/1.0"), "505", with(&[])),
        (cut("Host: gateway.example"), "400", with(&[])),
        (request(&[]).replace("==", ""), "400", with(&[])),
        (request(&["Content-Length: 9"]), "400", with(&[])),
        (request(&["Origin: https://b.example"]), "403", with(&[])),
        (request(&[]), "503", with(&["Retry-After"])),
        (request(&["not a field"]), "400", bare.clone()),
        (request(&["a: b"; 1000]), "431", bare),
    ] {
        let answer = ask(gateway.websocket(), &asked).await;
        assert_eq!(names(&answer), (status, expected), "{asked}");
    }

    let (gateway, _files) = keyed(&[]).await;
    let answer = ask(gateway.websocket(), &request(&[])).await;
    assert_eq!(names(&answer), ("401", with(&["WWW-Authenticate"])));
}

#[tokio::test]
async fn a_target_that_is_no_uri_is_taken_as_if_it_were_encoded() {
    let gateway = Gateway::start().await;
    for (target, path) in [
        (&b"/`"[..], "/%60"),
        (b"/<a>", "/%3Ca%3E"),
        (b"?q=1", "/"),
        (b"/chat?<q>=\"1\"", "/chat"),
        (b"/caf\xe9", "/caf%E9"),
        (b"/caf\xc3\xa9?\xff", "/caf%C3%A9"),
        (b"/{a}|b^\\~%zz", "/{a}|b^\\~%zz"),
        (b"/a#b", "/a"),
        (b"http://gateway.example/<a>", "/%3Ca%3E"),
        (b"http://gateway.example?q", "/"),
    ] {
        let usual = request(&[]).into_bytes();
        let rest = &usual["GET /any/path?and=query".len()..];
        let asked = [b"GET ", target, rest, &frame(TEXT, b"ping")].concat();
        for piece in [1, asked.len()] {
            let mut raw = Raw::open(gateway.websocket()).await;
            for bytes in asked.chunks(piece) {
                raw.send(bytes).await;
            }
            let head = raw.response().await;
            let target = String::from_utf8_lossy(target);
            assert!(head.starts_with("HTTP/1.1 101 "), "{target} {head}");
            let id = raw.data().await.text().to_owned();
            assert_eq!(raw.data().await.text(), "pong", "what follows is a frame");
            assert_eq!(described(&gateway, &id).await.path, path, "{target}");
        }
    }
    // A space ends a target, and a control character is no part of one.
    for target in ["/a b", "/a\tb", "/a\u{7f}", "/a\u{1}"] {
        let asked = request(&[]).replace("/any/path?and=query", target);
        let answer = ask(gateway.websocket(), &asked).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{target:?} {answer}");
    }
}

/// Waits until no connection is being opened any more.
async fn all_let_go(gateway: &Gateway) {
    let let_go = async {
        while gateway.hub().handshakes().under_way.get() > 0 {
            tokio::task::yield_now().await;
        }
    };
    soon("the end of the handshakes", let_go).await;
}

#[tokio::test]
async fn a_refusal_is_read_by_a_client_that_still_sends() {
    let authority = Authority::new();
    let own = authority.sets();
    let mut sets: Vec<_> = own.iter().map(String::as_str).collect();
    sets.extend(["limits.close_wait=1m", "limits.handshake=1m"]);
    let gateway = Gateway::with(&sets).await;
    let behind = vec![b'x'; 200_000];
    let post = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", behind.len());
    for (head, status) in [
        (post, "405"),
        (request(&[]).replace("==", ""), "400"),
        ("GET /a b HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/1.1\r\nX-Long: ".to_owned(), "431"),
        (request(&[&"a: b\r\n".repeat(999)]), "431"),
    ] {
        let mut raw = Raw::open(gateway.websocket()).await;
        // Whatever comes with the head, more than is read of it, and what comes after it.
        let (first, later) = behind.split_at(50_000);
        raw.send([head.as_bytes(), first].concat()).await;
        for piece in later.chunks(10_000) {
            raw.send(piece).await;
        }
        let answer = raw.response().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head:.80} {answer}");
        raw.ended_well().await;

        let mut raw = Raw::over(authority.connect(gateway.tls()).await);
        raw.send([head.as_bytes(), first].concat()).await;
        for piece in later.chunks(10_000) {
            raw.send(piece).await;
        }
        let answer = raw.response().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head:.80} {answer}");
        raw.ended_well().await;
    }
    all_let_go(&gateway).await;
    assert_eq!(gateway.hub().handshakes().timeouts.get(), 0);
}

#[tokio::test]
async fn a_client_that_was_refused_is_not_waited_for_longer_than_close_wait() {
    let gateway = Gateway::with(&["limits.close_wait=300ms", "limits.handshake=1h"]).await;
    let mut raw = Raw::open(gateway.websocket()).await;
    raw.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n").await;
    assert!(raw.response().await.starts_with("HTTP/1.1 405 "));
    // It neither sends nor closes.
    all_let_go(&gateway).await;
}

#[tokio::test]
async fn a_client_that_has_sent_all_is_let_go_with_its_refusal() {
    let gateway = Gateway::with(&["limits.close_wait=1h", "limits.handshake=1h"]).await;
    let mut raw = Raw::open(gateway.websocket()).await;
    raw.send(request(&[]).replace("==", "")).await;
    assert!(raw.response().await.starts_with("HTTP/1.1 400 "));
    all_let_go(&gateway).await;
    raw.ended_well().await;
}
