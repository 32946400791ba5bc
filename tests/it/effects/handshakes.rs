//! Who is let in, how, and how many: seen on the next connection.

use std::net::{IpAddr, Ipv4Addr};

use super::Stage;
use crate::raw::{Raw, request};

const IN: &str = "HTTP/1.1 101";

/// What a request from this loopback address gets; empty if it is closed without an answer.
async fn from(stage: &Stage, last: u8, lines: &[&str]) -> (Raw, String) {
    let source = IpAddr::from(Ipv4Addr::new(127, 0, 0, last));
    let mut raw = Raw::open_from(source, stage.gateway.websocket()).await;
    let _ = raw.try_send(request(lines)).await;
    let head = raw.try_response().await.unwrap_or_default();
    (raw, head)
}

#[tokio::test]
pub(super) async fn websocket_subprotocols() {
    let mut stage = Stage::new(&[("websocket.subprotocols", "[\"v1\"]")]).await;
    let line = "Sec-WebSocket-Protocol: v2";
    let agrees = |head: &str| head.to_ascii_lowercase().contains("sec-websocket-protocol: v2");
    let (_raw, head) = from(&stage, 1, &[line]).await;
    assert!(head.starts_with(IN) && !agrees(&head), "{head}");
    stage.change("websocket.subprotocols", "[\"v2\"]").await;
    let (_raw, head) = from(&stage, 1, &[line]).await;
    assert!(head.starts_with(IN) && agrees(&head), "{head}");
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn websocket_allowed_origins() {
    let mut stage = Stage::new(&[]).await;
    let page = ["Origin: https://a.example"];
    assert!(stage.answer(&page).await.starts_with(IN));
    stage.change("websocket.allowed_origins", "[\"https://b.example\"]").await;
    assert!(stage.answer(&page).await.contains(" 403 "));
    stage.change("websocket.allowed_origins", "[\"https://*.example\"]").await;
    assert!(stage.answer(&page).await.starts_with(IN));
}

#[tokio::test]
pub(super) async fn websocket_proxies() {
    let settings = [
        ("websocket.proxies", "[\"127.0.0.7\"]"),
        ("websocket.proxy_header", "\"x-forwarded-for\""),
    ];
    let mut stage = Stage::new(&settings).await;
    assert!(from(&stage, 8, &[]).await.1.starts_with(IN));
    assert!(!from(&stage, 7, &[]).await.1.starts_with(IN));
    stage.change("websocket.proxies", "[\"127.0.0.8\"]").await;
    assert!(!from(&stage, 8, &[]).await.1.starts_with(IN), "it has to say for whom");
    assert!(from(&stage, 8, &["X-Forwarded-For: 192.0.2.1"]).await.1.starts_with(IN));
    assert!(from(&stage, 7, &[]).await.1.starts_with(IN));
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn websocket_proxy_header() {
    let settings = [
        ("websocket.proxies", "[\"127.0.0.7\"]"),
        ("websocket.proxy_header", "\"x-forwarded-for\""),
    ];
    let mut stage = Stage::new(&settings).await;
    let line = ["X-Forwarded-For: 192.0.2.1"];
    assert!(from(&stage, 7, &line).await.1.starts_with(IN));
    stage.change("websocket.proxy_header", "\"proxy\"").await;
    assert!(!from(&stage, 7, &line).await.1.starts_with(IN), "it has to come before the request");
    let mut raw =
        Raw::open_from(Ipv4Addr::new(127, 0, 0, 7).into(), stage.gateway.websocket()).await;
    let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\0\x50\0\x50";
    raw.send([header, request(&[]).as_bytes()].concat()).await;
    assert!(raw.response().await.starts_with(IN));
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn limits_head() {
    let mut stage = Stage::new(&[]).await;
    let line = format!("X-Long: {}", "x".repeat(20_000));
    assert!(stage.answer(&[&line]).await.contains(" 431 "));
    stage.change("limits.head", "\"32 KiB\"").await;
    assert!(stage.answer(&[&line]).await.starts_with(IN));
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn limits_headers() {
    let mut stage = Stage::new(&[]).await;
    let lines = ["X: y"; 50];
    assert!(stage.answer(&lines).await.starts_with(IN));
    stage.change("limits.headers", "20").await;
    assert!(stage.answer(&lines).await.contains(" 431 "));
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn limits_handshake() {
    let mut stage = Stage::new(&[("limits.handshake", "\"1h\"")]).await;
    stage.change("limits.handshake", "\"200ms\"").await;
    Raw::open(stage.gateway.websocket()).await.ended().await;
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn limits_max_handshakes() {
    let settings = [("limits.max_handshakes", "1"), ("limits.handshake", "\"1h\"")];
    let mut stage = Stage::new(&settings).await;
    // The only place is taken by somebody who says nothing, and loses it to who comes next.
    let mut silent = Raw::open(stage.gateway.websocket()).await;
    assert!(stage.answer(&[]).await.starts_with(IN));
    silent.ended().await;
    stage.change("limits.max_handshakes", "2").await;
    // Now there is one for each.
    let mut silent = Raw::open(stage.gateway.websocket()).await;
    assert!(from(&stage, 2, &[]).await.1.starts_with(IN));
    silent.send(request(&[])).await;
    assert!(silent.response().await.starts_with(IN));
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn limits_address_share() {
    let settings = [("limits.address_share", "100"), ("limits.max_handshakes", "4")];
    let mut stage = Stage::new(&settings).await;
    let address = stage.gateway.websocket();
    // As long as one address may have all, the oldest goes, wherever it came from.
    let mut other = Raw::open_from(Ipv4Addr::new(127, 0, 9, 9).into(), address).await;
    let crowd = [Raw::open(address).await, Raw::open(address).await, Raw::open(address).await];
    assert!(from(&stage, 2, &[]).await.1.starts_with(IN));
    other.ended().await;
    drop(crowd);
    // With two of four places, it is the oldest of those that have more.
    stage.change("limits.address_share", "50").await;
    let mut other = Raw::open_from(Ipv4Addr::new(127, 0, 9, 9).into(), address).await;
    let mut crowd = [Raw::open(address).await, Raw::open(address).await, Raw::open(address).await];
    assert!(from(&stage, 2, &[]).await.1.starts_with(IN));
    crowd[0].ended().await;
    other.send(request(&[])).await;
    assert!(other.response().await.starts_with(IN));
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn limits_max_clients() {
    let mut stage = Stage::new(&[("limits.max_clients", "2")]).await;
    assert!(stage.answer(&[]).await.contains(" 503 "));
    stage.change("limits.max_clients", "3").await;
    assert!(stage.answer(&[]).await.starts_with(IN));
    stage.change("limits.max_clients", "1").await;
    assert!(stage.answer(&[]).await.contains(" 503 "));
}

#[tokio::test]
pub(super) async fn limits_address_clients() {
    let mut stage = Stage::new(&[("limits.address_clients", "2")]).await;
    assert_eq!(stage.answer(&[]).await, "");
    stage.change("limits.address_clients", "3").await;
    assert!(stage.answer(&[]).await.starts_with(IN));
    stage.change("limits.address_clients", "1").await;
    assert_eq!(stage.answer(&[]).await, "");
}

#[tokio::test]
pub(super) async fn limits_address_connections() {
    let mut stage = Stage::new(&[]).await;
    for _ in 0..50 {
        assert!(stage.answer(&[]).await.starts_with(IN));
    }
    stage.change("limits.address_connections", "1").await;
    let refused = async { while !stage.answer(&[]).await.is_empty() {} };
    crate::client::soon("a refusal", refused).await;
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn limits_addresses() {
    let mut stage = Stage::new(&[("limits.addresses", "1"), ("limits.address_clients", "9")]).await;
    assert_eq!(from(&stage, 2, &[]).await.1, "", "only the bystanders' address is remembered");
    stage.change("limits.addresses", "2").await;
    assert!(from(&stage, 2, &[]).await.1.starts_with(IN));
    stage.everybody_is_served().await;
}
