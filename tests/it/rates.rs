//! What one client may send: rates that a reload changes for those who are connected.

use std::net::SocketAddr;

use gateway_websocket::close::Cause;

use crate::{
    authority::Authority,
    client::soon,
    gateway::Gateway,
    program::Program,
    raw::{BINARY, PING, Raw, TEXT, frame, request},
};

/// A gateway whose limits its file says.
async fn serve(program: &mut Program, limits: &str) -> SocketAddr {
    let config = program.config(limits);
    let sets = ["--set", "websocket.messages=echo", "--set", "limits.close_wait=1h"];
    program.serve(&[&["--config", &config], &sets[..]].concat()).await.listeners.websocket[0]
}

fn reload(program: &Program, limits: &str) {
    program.config(limits);
    program.run(&["reload"]).expect(0, &["limits.client_"]);
}

/// Sends so many messages at once and reads all of them back.
async fn is_echoed(raw: &mut Raw, messages: usize) {
    raw.send(frame(TEXT, b"again").repeat(messages)).await;
    for _ in 0..messages {
        assert_eq!(raw.data().await.text(), "again");
    }
}

#[tokio::test]
async fn a_changed_rate_of_messages_holds_for_those_who_are_connected() {
    let mut program = Program::new();
    let address = serve(&mut program, "limits.client_messages = 0\n").await;
    let (mut eager, _) = Raw::welcomed(address).await;
    let (mut modest, _) = Raw::welcomed(address).await;
    is_echoed(&mut eager, 100).await;

    reload(&program, "limits.client_messages = 5\n");
    is_echoed(&mut modest, 5).await;
    eager.send(frame(TEXT, b"again").repeat(20)).await;
    assert_eq!(eager.close_code().await, 1008);
    drop(eager);

    reload(&program, "limits.client_messages = 1000\n");
    is_echoed(&mut modest, 500).await;
    reload(&program, "limits.client_messages = 0\n");
    is_echoed(&mut modest, 5000).await;
    assert_eq!(program.status().closed.get("policy"), Some(&1));
}

#[tokio::test]
async fn a_changed_rate_of_bytes_holds_for_those_who_are_connected() {
    let mut program = Program::new();
    let address = serve(&mut program, "limits.client_bytes = 0\n").await;
    let (mut eager, _) = Raw::welcomed(address).await;
    let (mut modest, _) = Raw::welcomed(address).await;
    is_echoed(&mut eager, 1000).await;

    reload(&program, "limits.client_bytes = \"2 KiB\"\n");
    is_echoed(&mut modest, 100).await;
    eager.send(frame(BINARY, &[7; 3000])).await;
    assert_eq!(eager.close_code().await, 1008);
    drop(eager);

    reload(&program, "limits.client_bytes = \"1 MiB\"\n");
    is_echoed(&mut modest, 5_000).await;
    assert_eq!(program.status().closed.get("policy"), Some(&1));
}

#[tokio::test]
async fn pings_of_the_protocol_count_like_messages() {
    let gateway = Gateway::with(&["limits.client_messages=3"]).await;
    let (mut calm, _) = Raw::welcomed(gateway.websocket()).await;
    let (mut eager, _) = Raw::welcomed(gateway.websocket()).await;
    calm.send(frame(PING, b"a").repeat(3)).await;
    for _ in 0..3 {
        assert_eq!(calm.next().await.expect("a pong").payload, b"a");
    }
    eager.send(frame(PING, b"a").repeat(8)).await;
    assert_eq!(eager.close_code().await, 1008);
    assert_eq!(gateway.closed(Cause::Policy), 1);
}

/// Settings under which a client that doesn't read is soon not heard, and what is read of it once
/// is heard in many steps.
const PAUSING: &[&str] = &[
    "websocket.messages=echo",
    "websocket.send_buffer=16KiB",
    "limits.queue_messages=2",
    "limits.client_bytes=256KiB",
    "shards=1",
];

/// Says 50 KiB, reads nothing until the gateway doesn't hear any more of it, and then all echoes.
async fn says_it_once<S>(gateway: &Gateway, mut raw: Raw<S>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let message = [b'x'; 100];
    raw.send(frame(TEXT, &message).repeat(500)).await;
    // A client is not heard while two echoes wait; each of these pauses leaves most of it unheard.
    for _ in 0..500 {
        assert_eq!(raw.data().await.payload, message);
    }
    assert_eq!(gateway.closed(Cause::Policy), 0);
}

#[tokio::test]
async fn what_is_kept_back_until_a_client_reads_is_charged_once() {
    let gateway = Gateway::with(PAUSING).await;
    let (raw, _) = Raw::narrow(gateway.websocket()).await;
    says_it_once(&gateway, raw).await;
    // What came is what was counted, neither more nor less.
    let said = (frame(TEXT, &[b'x'; 100]).len() * 500) as u64;
    assert_eq!(gateway.sum(|stats| stats.bytes_in.get()), said);

    let authority = Authority::new();
    let own = authority.sets();
    let sets: Vec<_> = own.iter().map(String::as_str).chain(PAUSING.iter().copied()).collect();
    let gateway = Gateway::with(&sets).await;
    let raw = Raw::over(authority.connect_narrow(gateway.tls()).await);
    let (raw, _) = raw.enter().await;
    says_it_once(&gateway, raw).await;
}

#[tokio::test]
async fn what_comes_together_with_the_request_is_charged_too() {
    let gateway = Gateway::with(&["limits.client_bytes=1KiB"]).await;
    let mut raw = Raw::open(gateway.websocket()).await;
    raw.send([request(&[]).into_bytes(), frame(BINARY, &[7; 2000])].concat()).await;
    raw.response().await;
    assert_eq!(soon("the close", raw.close_code()).await, 1008);
    assert_eq!(gateway.closed(Cause::Policy), 1);
    assert_eq!(gateway.sum(|stats| stats.messages_in.get()), 0);
}
