//! Probes: is the process alive, and is it in service?

use crate::{
    gateway::Gateway,
    raw::{Raw, ask},
};

async fn page(gateway: &Gateway, method: &str, path: &str) -> String {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n");
    ask(gateway.admin(), &request).await
}

#[tokio::test]
async fn a_gateway_in_service_is_alive_and_ready() {
    let gateway = Gateway::start().await;
    for path in ["/livez", "/readyz"] {
        let answer = page(&gateway, "GET", path).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        assert!(answer.ends_with("\r\n\r\nok\n"), "{path}: {answer}");
        let answer = page(&gateway, "HEAD", path).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_gateway_out_of_service_is_alive_and_not_ready() {
    let gateway = Gateway::start().await;
    gateway.handle().drain().await.unwrap();
    let answer = page(&gateway, "GET", "/livez").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let answer = page(&gateway, "GET", "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\ndraining\n"), "{answer}");
}

#[tokio::test]
async fn another_path_is_not_found_and_names_those_that_are() {
    let gateway = Gateway::start().await;
    for path in ["/live", "/readyz/", "/metrics/nonsense"] {
        let answer = page(&gateway, "GET", path).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
        for known in ["/livez", "/readyz", "/metrics"] {
            assert!(answer.contains(known), "{path}: {answer}");
        }
    }
}

#[tokio::test]
async fn the_first_page_says_what_there_is() {
    let gateway = Gateway::start().await;
    let answer = page(&gateway, "GET", "/").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    for known in ["/livez", "/readyz", "/metrics"] {
        assert!(answer.contains(known), "{answer}");
    }
}

#[tokio::test]
async fn a_probe_only_reads() {
    let gateway = Gateway::start().await;
    for method in ["POST", "PUT", "DELETE"] {
        let answer = page(&gateway, method, "/livez").await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer}");
        let answer = answer.to_ascii_lowercase();
        assert!(answer.contains("\r\nallow: get, head, options\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn haproxys_own_check_by_options_is_answered_like_any_probe() {
    let gateway = Gateway::start().await;
    for path in ["/livez", "/readyz"] {
        let answer = page(&gateway, "OPTIONS", path).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }
    for path in ["/metrics", "/"] {
        let answer = page(&gateway, "OPTIONS", path).await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{path}: {answer}");
    }
    gateway.handle().drain().await.unwrap();
    assert!(page(&gateway, "OPTIONS", "/livez").await.starts_with("HTTP/1.1 200 "));
    assert!(page(&gateway, "OPTIONS", "/readyz").await.starts_with("HTTP/1.1 503 "));
}

/// Each asks for more than the kernel keeps for it.
#[tokio::test]
async fn who_never_reads_an_answer_is_let_go_and_others_are_served() {
    let gateway = Gateway::with(&["limits.handshake=1s"]).await;
    let page = "GET /metrics HTTP/1.1\r\nHost: scraper\r\n\r\n";
    let mut deaf = Vec::new();
    for _ in 0..64 {
        let mut raw = Raw::open_narrow(gateway.admin()).await;
        raw.send(page.repeat(500)).await;
        deaf.push(raw);
    }
    // Every connection that there may be is one of theirs, and each waits to be read.
    let answer = ask(gateway.admin(), PROBE).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    for raw in &mut deaf {
        raw.reset().await;
    }
}

const PROBE: &str = "GET /livez HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_websocket_client_on_the_admin_port_becomes_no_client() {
    let gateway = Gateway::start().await;
    let request = crate::raw::request(&["Connection: close"]);
    let answer = ask(gateway.admin(), &request).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert_eq!(gateway.count_online_client().await.count, 0);
}
