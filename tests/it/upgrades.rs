//! Who becomes a client and who doesn't: sub-protocols, origins, versions, and room.

use tokio_tungstenite::tungstenite::{
    self,
    client::IntoClientRequest as _,
    handshake::client::{Request, Response},
    http::{HeaderValue, StatusCode},
};

use crate::{
    client::{Client, soon},
    gateway::Gateway,
    raw::{Raw, ask, request},
};

/// A request with some more headers.
fn asking(gateway: &Gateway, headers: &[(&'static str, &str)]) -> Request {
    let mut request = format!("ws://{}/", gateway.websocket()).into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, HeaderValue::from_str(value).unwrap());
    }
    request
}

async fn accepted(gateway: &Gateway, headers: &[(&'static str, &str)]) -> (Client, Response) {
    Client::connect_with(gateway.websocket(), asking(gateway, headers)).await.unwrap()
}

/// The answer to a request that must not become a client.
async fn refused(
    gateway: &Gateway,
    headers: &[(&'static str, &str)],
) -> tungstenite::http::Response<Option<Vec<u8>>> {
    match Client::connect_with(gateway.websocket(), asking(gateway, headers)).await {
        Err(tungstenite::Error::Http(response)) => *response,
        Err(other) => panic!("an HTTP answer was expected, not {other}"),
        Ok(_) => panic!("{headers:?} became a client"),
    }
}

#[tokio::test]
async fn the_first_offered_protocol_that_is_known_is_answered() {
    let gateway = Gateway::with(&["websocket.subprotocols=[\"chat.v1\", \"chat.v2\"]"]).await;
    for (offer, answer) in
        [("chat.v2, chat.v1", Some("chat.v2")), ("other, chat.v1", Some("chat.v1"))]
    {
        let (_client, response) = accepted(&gateway, &[("sec-websocket-protocol", offer)]).await;
        let chosen = response.headers().get("sec-websocket-protocol");
        assert_eq!(chosen.map(|value| value.to_str().unwrap()), answer, "{offer}");
    }
    // Nothing known: no answer. tungstenite takes that for an error, so the bytes are looked at.
    let mut raw = Raw::open(gateway.websocket()).await;
    raw.send(request(&["Sec-WebSocket-Protocol: other"])).await;
    let response = raw.response().await.to_lowercase();
    assert!(response.starts_with("http/1.1 101 "), "{response}");
    assert!(!response.contains("sec-websocket-protocol"), "{response}");
}

#[tokio::test]
async fn only_listed_origins_come_in_and_who_has_none_is_no_browser() {
    let gateway = Gateway::with(&["websocket.allowed_origins=https://good.example"]).await;
    accepted(&gateway, &[("origin", "https://good.example")]).await;
    accepted(&gateway, &[]).await;
    for origin in
        ["https://evil.example", "http://good.example", "https://good.example.evil", "null"]
    {
        let response = refused(&gateway, &[("origin", origin)]).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{origin}");
    }
    let open = Gateway::start().await;
    accepted(&open, &[("origin", "https://evil.example")]).await;
}

#[tokio::test]
async fn a_version_that_is_not_13_is_told_which_is() {
    let gateway = Gateway::start().await;
    let other = request(&[]).replace("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8");
    let response = ask(gateway.websocket(), &other).await.to_lowercase();
    assert!(response.starts_with("http/1.1 426 "), "{response}");
    assert!(response.contains("sec-websocket-version: 13"), "{response}");
}

#[tokio::test]
async fn a_full_gateway_says_so_and_a_place_that_is_freed_can_be_taken() {
    let gateway = Gateway::with(&["limits.max_clients=2"]).await;
    let [ada, _bob] = gateway.connect_n().await;
    let response = refused(&gateway, &[]).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("retry-after"));
    let body = String::from_utf8(response.into_body().unwrap()).unwrap();
    assert!(body.contains("limits.max_clients"), "{body}");
    assert_eq!(gateway.hub().handshakes().full.get(), 1);

    drop(ada);
    let freed = async {
        while gateway.hub().count_sockets() > 1 {
            tokio::task::yield_now().await;
        }
    };
    soon("a free place", freed).await;
    gateway.connect().await;
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_cut_off() {
    let gateway = Gateway::with(&["limits.handshake=300ms"]).await;
    let mut stuck = Raw::open(gateway.websocket()).await;
    stuck.send("GET / HTTP/1.1\r\nHost: x\r\n").await;
    let polite = gateway.connect().await;
    assert!(gateway.client_is_online(polite.id()).await.isonline);
    stuck.rest().await;
    assert_eq!(gateway.hub().handshakes().timeouts.get(), 1);
}

#[tokio::test]
async fn no_two_clients_have_the_same_id_whatever_the_path() {
    let gateway = Gateway::start().await;
    let clients = gateway.connect_n::<40>().await;
    let ids: std::collections::BTreeSet<_> = clients.iter().map(Client::id).collect();
    assert_eq!(ids.len(), 40);
}
