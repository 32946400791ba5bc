//! Which web pages may connect: origins, with wildcards, that a reload may change.

use crate::{
    client::Client,
    gateway::Gateway,
    program::Program,
    raw::{Raw, request},
};

/// The status of the answer to a page of this origin.
async fn status(address: std::net::SocketAddr, origin: &str) -> String {
    let mut raw = Raw::open(address).await;
    raw.send(request(&[&format!("Origin: {origin}")])).await;
    let head = raw.response().await;
    head.split_ascii_whitespace().nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn a_wildcard_lets_pages_of_every_host_below_in_and_nobody_else() {
    let sets =
        ["websocket.allowed_origins=[\"https://*.example.com\", \"http://*.local.example:8080\"]"];
    let gateway = Gateway::with(&sets).await;
    for (origin, expected) in [
        ("https://app.example.com", "101"),
        ("https://a.b.c.example.com", "101"),
        ("HTTPS://App.Example.Com", "101"),
        ("http://a.local.example:8080", "101"),
        ("https://example.com", "403"),
        ("https://notexample.com", "403"),
        ("http://app.example.com", "403"),
        ("https://app.example.com:8443", "403"),
        ("https://app.example.com.evil.example", "403"),
        ("https://evil.example/.example.com", "403"),
        ("https://evil.example:1.example.com", "403"),
        ("https://evil.example@a.example.com", "403"),
        ("http://a.local.example", "403"),
        ("http://a.local.example:80801", "403"),
        ("null", "403"),
    ] {
        assert_eq!(status(gateway.websocket(), origin).await, expected, "{origin}");
    }
}

#[tokio::test]
async fn a_usual_port_need_not_be_written_and_may_be() {
    let sets =
        ["websocket.allowed_origins=[\"https://Example.com:443\", \"http://a.example:80\", \
         \"https://*.b.example:443\", \"https://[2001:db8:0::1]\"]"];
    let gateway = Gateway::with(&sets).await;
    for (origin, expected) in [
        ("https://example.com", "101"),
        ("https://example.com:443", "101"),
        ("http://a.example", "101"),
        ("https://x.b.example", "101"),
        ("https://[2001:db8::1]", "101"),
        ("https://example.com:80", "403"),
        ("http://example.com", "403"),
        ("http://a.example:443", "403"),
        ("https://b.example", "403"),
    ] {
        assert_eq!(status(gateway.websocket(), origin).await, expected, "{origin}");
    }
}

#[tokio::test]
async fn origins_change_with_a_reload_and_who_is_connected_stays() {
    let mut program = Program::new();
    let toml = |origins| format!("websocket.allowed_origins = {origins}\n");
    let config = program.config(&toml("[\"https://*.old.example\"]"));
    let address = program.serve(&["--config", &config]).await.listeners.websocket[0];
    let mut client = Client::connect(address).await;
    assert_eq!(status(address, "https://a.old.example").await, "101");
    assert_eq!(status(address, "https://a.new.example").await, "403");

    program.config(&toml("[\"https://*.new.example\"]"));
    program.run(&["reload"]).expect(0, &["websocket.allowed_origins"]);
    assert_eq!(status(address, "https://a.old.example").await, "403");
    assert_eq!(status(address, "https://a.new.example").await, "101");

    program.config(&toml("[\"https://a.*.example\"]"));
    program.run(&["reload"]).expect(1, &["websocket.allowed_origins", "every host below"]);
    assert_eq!(status(address, "https://a.new.example").await, "101");
    client.say("ping").await;
    assert_eq!(client.next_text().await, "pong");
}
