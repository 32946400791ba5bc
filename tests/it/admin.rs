//! Probes: is the process alive, and is it in service?

use crate::{gateway::Gateway, raw::ask};

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
        assert!(answer.contains("\r\nallow: get, head\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_websocket_client_on_the_admin_port_becomes_no_client() {
    let gateway = Gateway::start().await;
    let request = crate::raw::request(&["Connection: close"]);
    let answer = ask(gateway.admin(), &request).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert_eq!(gateway.count_online_client().await.count, 0);
}
