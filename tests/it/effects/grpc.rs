//! `[grpc]`: who may call, from where, how much and how often.

use std::time::Duration;

use gateway_websocket::grpc::proto::{
    CountOnlineClientRequest, count_online_client_client::CountOnlineClientClient as Count,
};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

use super::Stage;
use crate::{
    client::soon,
    listeners::{address, free_port, host},
    raw::Raw,
};

/// What every HTTP/2 client says first, with no settings of its own (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const MAX_CONCURRENT_STREAMS: u16 = 3;

fn lazy(address: impl std::fmt::Display) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

/// A call that changes nothing.
async fn call(channel: &Channel, token: Option<&str>) -> Result<i32, Status> {
    let mut request = Request::new(CountOnlineClientRequest {});
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    let answer =
        soon("an answer", Count::new(channel.clone()).count_online_client(request)).await?;
    Ok(answer.into_inner().count)
}

/// An HTTP/2 connection, as bytes.
async fn http2(stage: &Stage) -> Raw {
    let mut raw = Raw::open(stage.gateway.grpc()).await;
    raw.send(PREFACE).await;
    raw
}

/// The next frame of this type; none at the end. Of what comes nothing is answered.
async fn next(raw: &mut Raw, wanted: u8) -> Option<Vec<u8>> {
    use tokio::io::AsyncReadExt as _;
    loop {
        let mut head = [0; 9];
        soon("a frame", raw.stream().read_exact(&mut head)).await.ok()?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(len).unwrap()];
        soon("its payload", raw.stream().read_exact(&mut payload)).await.ok()?;
        if head[3] == wanted {
            return Some(payload);
        }
    }
}

#[tokio::test]
pub(super) async fn grpc_listen() {
    let (old, new) = (address(free_port()), address(free_port()));
    let mut stage = Stage::new(&[("grpc.listen", &format!("\"{old}\""))]).await;
    assert_eq!(call(&lazy(old), None).await.unwrap(), 2);
    stage.change("grpc.listen", &format!("\"{new}\"")).await;
    assert_eq!(call(&lazy(new), None).await.unwrap(), 2);
    assert!(std::net::TcpStream::connect(old).is_err());
}

#[tokio::test]
pub(super) async fn grpc_allow() {
    let mut stage = Stage::new(&[]).await;
    let channel = stage.gateway.channel();
    assert_eq!(call(&channel, None).await.unwrap(), 2);
    // What a connection was opened for ends when its address may not be there any more.
    let mut open = http2(&stage).await;
    next(&mut open, SETTINGS).await.expect("it is served");
    stage.change("grpc.allow", "[\"127.0.0.7\"]").await;
    while next(&mut open, SETTINGS).await.is_some() {}
    call(&channel, None).await.unwrap_err();
    stage.change("grpc.allow", "[\"127.0.0.0/8\"]").await;
    let again = async { while call(&channel, None).await.is_err() {} };
    soon("an answer to somebody listed", again).await;
}

#[tokio::test]
pub(super) async fn grpc_token_files() {
    let mut stage = Stage::new(&[]).await;
    let channel = stage.gateway.channel();
    let tokens =
        ["first-token-0123456789abcdef0123456789", "other-token-0123456789abcdef0123456789"];
    let mut files = Vec::new();
    for (name, token) in ["first", "other"].iter().zip(tokens) {
        let file = stage.gateway.file(name);
        std::fs::write(&file, format!("{token}\n")).unwrap();
        files.push(format!("[\"{}\"]", file.display()));
    }
    assert_eq!(call(&channel, None).await.unwrap(), 2);
    stage.change("grpc.token_files", &files[0]).await;
    assert_eq!(call(&channel, None).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(call(&channel, Some(tokens[0])).await.unwrap(), 2);
    stage.change("grpc.token_files", &files[1]).await;
    assert_eq!(call(&channel, Some(tokens[0])).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(call(&channel, Some(tokens[1])).await.unwrap(), 2);
}

#[tokio::test]
pub(super) async fn grpc_unprotected() {
    let mut stage = Stage::new(&[]).await;
    let port = free_port();
    let everywhere = format!("\"0.0.0.0:{port}\"");
    stage.change_is_refused("grpc.listen", &everywhere, "grpc.listen").await;
    stage.change("grpc.unprotected", "true").await;
    stage.change("grpc.listen", &everywhere).await;
    assert_eq!(call(&lazy(format!("{}:{port}", host())), None).await.unwrap(), 2);
    stage.change_is_refused("grpc.unprotected", "false", "grpc.listen").await;
}

#[tokio::test]
pub(super) async fn grpc_max_message() {
    let mut stage = Stage::new(&[]).await;
    let (mut raw, id) = stage.raw().await;
    let text = "x".repeat(2000);
    assert!(stage.gateway.send_message_to_client(id.as_str(), text.as_str()).await.result);
    assert_eq!(raw.data().await.payload.len(), 2000);
    stage.change("grpc.max_message", "\"1 KiB\"").await;
    let refused = stage.gateway.try_send_message_to_client(id.as_str(), text.as_str()).await;
    let code = refused.unwrap_err().code();
    assert!([Code::OutOfRange, Code::ResourceExhausted].contains(&code), "{code:?}");
    stage.change("grpc.max_message", "\"4 KiB\"").await;
    assert!(stage.gateway.send_message_to_client(id.as_str(), text.as_str()).await.result);
}

#[tokio::test]
pub(super) async fn grpc_max_memory() {
    let mut stage = Stage::new(&[]).await;
    let text = "x".repeat(2 << 20);
    let nobody = "0";
    stage.gateway.try_send_message_to_client(nobody, text.as_str()).await.unwrap();
    stage.change("grpc.max_memory", "\"1 MiB\"").await;
    let refused = stage.gateway.try_send_message_to_client(nobody, text.as_str()).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("grpc.max_memory"), "{refused}");
    stage.change("grpc.max_memory", "\"8 MiB\"").await;
    stage.gateway.try_send_message_to_client(nobody, text.as_str()).await.unwrap();
}

#[tokio::test]
pub(super) async fn grpc_max_connections() {
    let mut stage = Stage::new(&[("grpc.max_connections", "1")]).await;
    let first = lazy(stage.gateway.grpc());
    assert_eq!(call(&first, None).await.unwrap(), 2);
    // There is no place for a second one until there is.
    let second = lazy(stage.gateway.grpc());
    let waiting = tokio::spawn(async move { call(&second, None).await });
    stage.change("grpc.max_connections", "2").await;
    assert_eq!(soon("a place", waiting).await.unwrap().unwrap(), 2);
    assert_eq!(call(&first, None).await.unwrap(), 2);
}

#[tokio::test]
pub(super) async fn grpc_max_streams() {
    let mut stage = Stage::new(&[]).await;
    stage.change("grpc.max_streams", "7").await;
    let settings = next(&mut http2(&stage).await, SETTINGS).await.unwrap();
    let mut each = settings.chunks_exact(6);
    let streams = each.find(|it| it[..2] == MAX_CONCURRENT_STREAMS.to_be_bytes());
    assert_eq!(streams.expect("the setting is told")[2..], 7u32.to_be_bytes());
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn grpc_keepalive_interval() {
    let settings = [("grpc.keepalive_interval", "\"0s\""), ("grpc.keepalive_timeout", "\"1h\"")];
    let mut stage = Stage::new(&settings).await;
    stage.change("grpc.keepalive_interval", "\"1s\"").await;
    next(&mut http2(&stage).await, PING).await.expect("a ping");
    stage.everybody_is_served().await;
}

#[tokio::test]
pub(super) async fn grpc_keepalive_timeout() {
    let settings = [("grpc.keepalive_interval", "\"1s\""), ("grpc.keepalive_timeout", "\"1h\"")];
    let mut stage = Stage::new(&settings).await;
    stage.change("grpc.keepalive_timeout", "\"1s\"").await;
    let mut raw = http2(&stage).await;
    let end = async { while next(&mut raw, PING).await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(50), end).await.expect("who is silent is let go");
    stage.everybody_is_served().await;
}
