//! Clients behind proxies: the PROXY protocol and X-Forwarded-For, from whom they count and from
//! whom they don't.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::{
    client::soon,
    gateway::Gateway,
    program::Program,
    raw::{Raw, TEXT, frame, request},
};

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 8, 1));
/// Not a proxy, by the tests' settings.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 7, 1));
const PROXIES: &str = "websocket.proxies=[\"127.0.8.0/24\"]";
const BOTH: &str = "websocket.proxy_header=proxy";
const XFF: &str = "websocket.proxy_header=x-forwarded-for";

/// A PROXY header of version 2 for a client, with a TLV behind the addresses.
fn header(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().unwrap();
    let mut body = Vec::new();
    let family = match client.ip() {
        IpAddr::V4(four) => {
            body.extend(four.octets());
            body.extend([10, 0, 0, 1]);
            0x11
        }
        IpAddr::V6(six) => {
            body.extend(six.octets());
            body.extend([0; 16]);
            0x21
        }
    };
    body.extend(client.port().to_be_bytes());
    body.extend(80u16.to_be_bytes());
    body.extend([0x04, 0, 3, 1, 2, 3]);
    spelled(0x21, family, &body)
}

/// A PROXY header, byte by byte.
fn spelled(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &len, body].concat()
}

/// What comes back to some bytes, to its end or to the end of the answer's head.
async fn answer(source: IpAddr, address: SocketAddr, bytes: impl AsRef<[u8]>) -> (Raw, String) {
    let mut raw = Raw::open_from(source, address).await;
    let _ = raw.try_send(bytes).await;
    let head = raw.try_response().await.unwrap_or_default();
    (raw, head)
}

/// A client behind the proxy, or none if the connection was closed without a word.
async fn behind(address: SocketAddr, client: &str) -> Option<Raw> {
    let bytes = [header(client), request(&[]).into_bytes()].concat();
    let (mut raw, head) = answer(PROXY, address, bytes).await;
    if head.is_empty() {
        return None;
    }
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(raw.data().await.payload.len(), 36);
    Some(raw)
}

/// The answer to a client for whom the proxy asks with these header lines.
async fn forwarded(source: IpAddr, address: SocketAddr, lines: &[&str]) -> (Raw, String) {
    let lines: Vec<_> = lines.iter().map(|line| format!("X-Forwarded-For: {line}")).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    answer(source, address, request(&lines)).await
}

#[tokio::test]
async fn a_header_before_the_request_is_taken_off_in_any_pieces() {
    let gateway = Gateway::with(&[PROXIES, BOTH, "websocket.messages=echo"]).await;
    let upgrade = request(&[]).into_bytes();
    let all = [header("192.0.2.7:4711"), upgrade, frame(TEXT, b"early")].concat();
    for piece in [1, 15, 16, 17, all.len()] {
        let mut raw = Raw::open_from(PROXY, gateway.websocket()).await;
        for bytes in all.chunks(piece) {
            raw.send(bytes).await;
        }
        let head = raw.response().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert_eq!(raw.data().await.payload.len(), 36);
        assert_eq!(raw.data().await.text(), "early");
    }
}

#[tokio::test]
async fn a_header_of_version_1_is_taken_off_in_any_pieces() {
    let gateway = Gateway::with(&[PROXIES, BOTH, "websocket.messages=echo"]).await;
    let six = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    for (line, address) in [
        ("TCP4 192.0.2.7 10.0.0.1 4711 80", "192.0.2.7:4711"),
        ("TCP4 255.255.255.255 255.255.255.255 65535 65535", "255.255.255.255:65535"),
        ("TCP6 2001:db8::7 ::1 0 80", "[2001:db8::7]:0"),
        ("TCP6 ::ffff:192.0.2.9 ::ffff:10.0.0.1 1 80", "192.0.2.9:1"),
        (&*format!("TCP6 {six} {six} 65535 65535"), &*format!("[{six}]:65535")),
        // Clients without an address have the proxy's.
        ("UNKNOWN", "127.0.8.1"),
        (&*format!("UNKNOWN {six} {six} 65535 65535"), "127.0.8.1"),
    ] {
        let early = frame(TEXT, b"early");
        let all = [format!("PROXY {line}\r\n{}", request(&[])).into_bytes(), early].concat();
        for piece in [1, 7, all.len()] {
            let mut raw = Raw::open_from(PROXY, gateway.websocket()).await;
            for bytes in all.chunks(piece) {
                raw.send(bytes).await;
            }
            let head = raw.response().await;
            assert!(head.starts_with("HTTP/1.1 101 "), "{line} {head}");
            let id = raw.data().await.text().to_owned();
            assert_eq!(raw.data().await.text(), "early");
            let told = crate::v1_directory::described(&gateway, &id).await.address;
            assert!(told.starts_with(address), "{line} {told}");
        }
    }
    // The limits are those of the client.
    let gateway = Gateway::with(&[PROXIES, BOTH, "limits.address_clients=1"]).await;
    let line = b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n".to_vec();
    let all = [line, request(&[]).into_bytes()].concat();
    let (_first, head) = answer(PROXY, gateway.websocket(), &all).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(behind(gateway.websocket(), "192.0.2.7:9").await.is_none(), "the same address");
    // From others it is no HTTP.
    let (_, head) = answer(STRANGER, gateway.websocket(), &all).await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head:?}");
}

#[tokio::test]
async fn a_proxy_that_is_refused_is_told_of_once_a_minute() {
    let mut program = Program::new();
    let toml = |header| {
        format!("[websocket]\nproxies = [\"127.0.8.0/24\"]\nproxy_header = \"{header}\"\n")
    };
    let config = program.config(&toml("proxy"));
    let address = program.serve(&["--config", &config]).await.listeners.websocket[0];
    let other = IpAddr::V4(Ipv4Addr::new(127, 0, 8, 2));
    for source in [PROXY, PROXY, other, PROXY, other] {
        let (_, head) = answer(source, address, request(&[])).await;
        assert_eq!(head, "");
    }
    let log = program.settled_log();
    let told = |peer: &str| {
        let lines = log.lines().filter(|line| line.contains("websocket.proxy_header"));
        lines.filter(|line| line.contains(&format!("{peer}:"))).count()
    };
    assert_eq!((told("127.0.8.1"), told("127.0.8.2")), (1, 1), "{log}");
    assert_eq!(program.status().refused["proxy"], 5);
    // So is one that doesn't say it in the request.
    program.config(&toml("x-forwarded-for"));
    program.run(&["reload"]).expect(0, &["websocket.proxy_header"]);
    let third = IpAddr::V4(Ipv4Addr::new(127, 0, 8, 3));
    for _ in 0..2 {
        let (_, head) = answer(third, address, request(&[])).await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    }
    let log = program.settled_log();
    let lines = log.lines().filter(|line| line.contains("127.0.8.3:"));
    assert_eq!(lines.filter(|line| line.contains("a proxy is refused")).count(), 1, "{log}");

    program.config(&toml("proxy-v2"));
    program.run(&["check", "--config", &config]).expect(78, &["proxy_header", "\"proxy\""]);
}

#[tokio::test]
async fn a_listed_proxy_has_to_send_the_header() {
    let gateway = Gateway::with(&[PROXIES, BOTH]).await;
    let wrong = [
        request(&[]).into_bytes(),
        b"PROXY TCP4 192.0.2.7 10.0.0.1 4711\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 10.0.0.1 04711 80\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\n".to_vec(),
        b"PROXY TCP6 192.0.2.7 10.0.0.1 4711 80\r\n".to_vec(),
        b"PROXY UDP4 192.0.2.7 10.0.0.1 4711 80\r\n".to_vec(),
        [&b"PROXY UNKNOWN "[..], &[b'x'; 100]].concat(),
        spelled(0x11, 0x11, &[0; 12]),
        spelled(0x2f, 0x11, &[0; 12]),
        spelled(0x21, 0x77, &[0; 12]),
        spelled(0x21, 0x11, &[0; 11]),
        spelled(0x21, 0x11, &[0; 5000]),
    ];
    for (before, bytes) in (0..).zip(&wrong) {
        assert_eq!(gateway.hub().handshakes().proxy.get(), before);
        let (mut raw, head) = answer(PROXY, gateway.websocket(), bytes).await;
        assert_eq!(head, "", "{bytes:?}");
        raw.ended().await;
    }
    assert_eq!(gateway.hub().handshakes().proxy.get(), wrong.len() as u64);
    // Who looks whether somebody listens breaks off without a word; that is no fault of a header.
    drop(Raw::open_from(PROXY, gateway.websocket()).await);
    behind(gateway.websocket(), "192.0.2.7:4711").await.expect("a header lets in");
    assert_eq!(gateway.hub().handshakes().proxy.get(), wrong.len() as u64);
}

#[tokio::test]
async fn from_others_the_header_is_no_http() {
    let gateway = Gateway::with(&[PROXIES, BOTH]).await;
    let bytes = [header("192.0.2.7:4711"), request(&[]).into_bytes()].concat();
    let (_, head) = answer(STRANGER, gateway.websocket(), &bytes).await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head:?}");
    let (_, head) = answer(STRANGER, gateway.websocket(), request(&[])).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    // And so it is where there is no proxy at all.
    let gateway = Gateway::start().await;
    let (_, head) = answer(PROXY, gateway.websocket(), &bytes).await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head:?}");
}

#[tokio::test]
async fn limits_are_those_of_the_client_and_not_of_its_proxy() {
    let gateway = Gateway::with(&[PROXIES, BOTH, "limits.address_clients=1"]).await;
    let address = gateway.websocket();
    let _first = behind(address, "192.0.2.7:1").await.expect("the first comes");
    assert!(behind(address, "192.0.2.7:2").await.is_none());
    assert!(behind(address, "[::ffff:192.0.2.7]:3").await.is_none(), "the same address");
    let _second = behind(address, "192.0.2.8:1").await.expect("another address comes");
    let _third = behind(address, "[2001:db8:0:1::1]:1").await.expect("and one of IPv6");
    assert!(behind(address, "[2001:db8:0:1:ffff::2]:1").await.is_none(), "the same /64");
    let _fourth = behind(address, "[2001:db8:0:2::1]:1").await.expect("another /64");
    assert_eq!(gateway.hub().handshakes().address.get(), 3);
}

#[tokio::test]
async fn a_proxy_that_looks_whether_we_live_is_never_refused() {
    let gateway = Gateway::with(&[PROXIES, BOTH, "limits.address_connections=1"]).await;
    for _ in 0..20 {
        let bytes = [spelled(0x20, 0, &[]), request(&[]).into_bytes()].concat();
        let (_, head) = answer(PROXY, gateway.websocket(), bytes).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head:?}");
    }
    // For clients without an address there is one: the proxy's.
    let unknown = || [spelled(0x21, 0, &[]), request(&[]).into_bytes()].concat();
    let mut refused = 0;
    for _ in 0..20 {
        let (_, head) = answer(PROXY, gateway.websocket(), unknown()).await;
        refused += u64::from(head.is_empty());
    }
    assert!(refused > 0);
    assert_eq!(gateway.hub().handshakes().address.get(), refused);
}

#[tokio::test]
async fn a_header_that_never_ends_is_part_of_the_handshake() {
    let sets = [PROXIES, BOTH, "limits.handshake=300ms"];
    let gateway = Gateway::with(&sets).await;
    let mut silent = Raw::open_from(PROXY, gateway.websocket()).await;
    let mut half = Raw::open_from(PROXY, gateway.websocket()).await;
    half.send(&header("192.0.2.7:4711")[..20]).await;
    behind(gateway.websocket(), "192.0.2.8:1").await.expect("it is let in");
    silent.ended().await;
    half.ended().await;
    assert_eq!(gateway.hub().handshakes().timeouts.get(), 2);
}

#[tokio::test]
async fn a_listed_proxy_has_to_name_the_client_in_the_request() {
    let gateway = Gateway::with(&[PROXIES, XFF]).await;
    for lines in [&[][..], &["unknown"], &["192.0.2.7, nobody"], &[" ,", ""]] {
        let (mut raw, head) = forwarded(PROXY, gateway.websocket(), lines).await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{lines:?} {head}");
        let text = raw.rest().await;
        assert!(text.contains("websocket.proxy_header"), "{text}");
    }
    assert_eq!(gateway.hub().handshakes().proxy.get(), 4);
    for line in [
        "192.0.2.7",
        "192.0.2.7:4711",
        "2001:db8::7",
        "[2001:db8::7]:4711",
        "192.0.2.7,",
        ", 192.0.2.7 , ,",
        "\"[2001:db8::7]:4711\"",
        "fe80::7%eth0",
    ] {
        let (_, head) = forwarded(PROXY, gateway.websocket(), &[line]).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{line} {head}");
    }
    // The header of the other kind is not taken for one.
    let bytes = [header("192.0.2.7:4711"), request(&[]).into_bytes()].concat();
    let (_, head) = answer(PROXY, gateway.websocket(), bytes).await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head:?}");
}

#[tokio::test]
async fn nobody_can_invent_an_address() {
    let gateway = Gateway::with(&[PROXIES, XFF, "limits.address_clients=1"]).await;
    let address = gateway.websocket();
    let (_client, head) = forwarded(PROXY, address, &["192.0.2.7"]).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    // Whatever the client claims stands left of what the proxies saw.
    for lines in [
        &["198.51.100.1, 192.0.2.7"][..],
        &["198.51.100.2", "192.0.2.7:99"],
        &["198.51.100.3, 192.0.2.7, 127.0.8.9"],
    ] {
        let (mut raw, head) = forwarded(PROXY, address, lines).await;
        assert!(head.starts_with("HTTP/1.1 429 "), "{lines:?} {head}");
        assert!(head.to_ascii_lowercase().contains("\r\nretry-after: "), "{head}");
        let text = raw.rest().await;
        assert!(text.contains("limits.address_clients"), "{text}");
    }
    assert_eq!(gateway.hub().handshakes().address.get(), 3);
    // Who is no proxy is who it is, whatever it claims.
    let (_stranger, head) = forwarded(STRANGER, address, &["198.51.100.4"]).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let (_, head) = forwarded(STRANGER, address, &["198.51.100.5"]).await;
    assert_eq!(head, "", "it is over its limit, and closed as it is accepted");
}

#[tokio::test]
async fn the_log_names_the_client_and_a_reload_changes_whom_to_believe() {
    let mut program = Program::new();
    let config = program.config("log.level = \"debug\"\n");
    let address = program.serve(&["--config", &config]).await.listeners.websocket[0];
    let (mut plain, head) = answer(PROXY, address, request(&[])).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(plain.data().await.payload.len(), 36);
    let set = |header| {
        program.config(&format!(
            "log.level = \"debug\"\n[websocket]\nproxies = [\"127.0.8.1\"]\n\
             proxy_header = \"{header}\"\n"
        ));
        program.run(&["reload"]).expect(0, &["websocket.proxy_header"]);
    };

    set("proxy");
    let (_, head) = answer(PROXY, address, request(&[])).await;
    assert_eq!(head, "");
    let mut second = behind(address, "192.0.2.7:4711").await.expect("a header lets in");

    set("x-forwarded-for");
    assert!(behind_is_refused(address).await);
    let (mut third, head) = forwarded(PROXY, address, &["9.9.9.9, 198.51.100.7:4712"]).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(third.data().await.payload.len(), 36);

    for raw in [&mut plain, &mut second, &mut third] {
        raw.send(frame(TEXT, b"ping")).await;
        assert_eq!(raw.data().await.text(), "pong");
    }
    let refused = program.status().refused;
    assert_eq!(refused["proxy"], 1, "{refused:?}");
    let log = program.settled_log();
    for peer in ["192.0.2.7:4711", "198.51.100.7:4712"] {
        assert!(log.lines().any(|line| line.contains("client connected") && line.contains(peer)));
    }
    assert!(!log.contains("9.9.9.9"), "{log}");
}

/// Whether a PROXY header is taken for a broken request.
async fn behind_is_refused(address: SocketAddr) -> bool {
    let bytes = [header("192.0.2.7:4711"), request(&[]).into_bytes()].concat();
    let (_, head) = soon("an answer", answer(PROXY, address, bytes)).await;
    head.starts_with("HTTP/1.1 400 ")
}
