//! What one client may send: rates that a reload changes for those who are connected.

use std::net::SocketAddr;

use crate::{
    program::Program,
    raw::{BINARY, Raw, TEXT, frame},
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
    is_echoed(&mut modest, 10_000).await;
    assert_eq!(program.status().closed.get("policy"), Some(&1));
}
