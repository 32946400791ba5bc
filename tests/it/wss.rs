//! Clients over TLS: what they are told, what they say, and what becomes of those that don't read.

mod hostile;
mod pause;
mod records;
mod renewal;
mod slow;

use gateway_websocket::{close::Cause, message::Kind, wire::Inflater};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    authority::{Authority, Secure},
    client::{Client, soon},
    gateway::Gateway,
    random::Random,
    raw::{BINARY, CLOSE, PING, PONG, Raw, TEXT, frame, head},
};

/// A gateway with TLS, its settings changed.
async fn secure(sets: &[&str]) -> (Authority, Gateway) {
    let authority = Authority::new();
    let own = authority.sets();
    let sets: Vec<_> = own.iter().map(String::as_str).chain(sets.iter().copied()).collect();
    let gateway = Gateway::with(&sets).await;
    (authority, gateway)
}

async fn welcomed(authority: &Authority, gateway: &Gateway) -> (Raw<Secure>, String) {
    Raw::over(authority.connect(gateway.tls()).await).enter().await
}

/// Sizes around every border there is: of frame heads, of TLS records and of the read buffer.
const SIZES: [usize; 19] = [
    0, 1, 125, 126, 4095, 4096, 16_369, 16_380, 16_383, 16_384, 16_385, 16_390, 32_768, 65_535,
    65_536, 65_537, 81_920, 262_144, 1_048_576,
];

#[tokio::test]
async fn the_handshake_ends_in_a_welcome_and_alpn_is_answered() {
    let (authority, gateway) = secure(&[]).await;
    let stream = authority.connect(gateway.tls()).await;
    let (_, tls) = stream.get_ref();
    assert_eq!(tls.alpn_protocol(), Some(&b"http/1.1"[..]));
    let mut client = Client::over(stream).await;
    assert_eq!(gateway.get_all_online_client().await.client, [client.id()]);
    client.say("ping").await;
    assert_eq!(client.next_text().await, "pong");

    // Who asks for nothing gets nothing; who asks for something else only is told so.
    let silent = authority.client_with(|client| client.alpn_protocols.clear());
    let stream = tokio::net::TcpStream::connect(gateway.tls()).await.unwrap();
    let stream = crate::authority::shake(stream, silent).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), None);
    Client::over(stream).await;
    let other = authority.client_with(|client| client.alpn_protocols = vec![b"h2".to_vec()]);
    let stream = tokio::net::TcpStream::connect(gateway.tls()).await.unwrap();
    assert!(crate::authority::shake(stream, other).await.is_err());
}

#[tokio::test]
async fn messages_of_all_sizes_go_both_ways_over_either_version() {
    let (authority, gateway) = secure(&["websocket.messages=echo"]).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut client = connect_with_version(&authority, &gateway, version).await;
        for size in SIZES {
            let text = "x".repeat(size);
            client.say(&text).await;
            assert_eq!(client.next_text().await, text);
            let mut random = Random::new(size as u64);
            let bytes: Vec<u8> = (0..size).map(|_| random.next().to_le_bytes()[0]).collect();
            client.send(Message::binary(bytes.clone())).await;
            assert_eq!(client.next_message().await.into_data(), bytes);
            if size > 0 {
                assert!(gateway.send_message_to_client(client.id(), &text).await.result);
                assert_eq!(client.next_text().await, text);
            }
        }
    }
}

async fn connect_with_version(
    authority: &Authority,
    gateway: &Gateway,
    version: &'static rustls::SupportedProtocolVersion,
) -> Client<Secure> {
    use rustls::{ClientConfig, RootCertStore, crypto::ring};
    let mut roots = RootCertStore::empty();
    roots.add(authority.root()).unwrap();
    let provider = std::sync::Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(gateway.tls()).await.unwrap();
    let stream = crate::authority::shake(stream, config.into()).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
    Client::over(stream).await
}

#[tokio::test]
async fn compression_is_agreed_and_used() {
    let (authority, gateway) = secure(&["websocket.messages=echo"]).await;
    let stream = authority.connect(gateway.tls()).await;
    let (mut raw, response) = Raw::over(stream).offer().await;
    assert!(response.contains("permessage-deflate"), "{response}");
    raw.data().await;
    // A shard compresses small ones, the call large ones.
    for size in [1 << 10, 1 << 15, 1 << 20] {
        let said = "hello, hello ".repeat(size / 13);
        if size < 1 << 16 {
            raw.send(frame(TEXT, said.as_bytes())).await;
        } else {
            assert!(gateway.broadcast_message(&said).await.result);
        }
        let echo = raw.data().await;
        assert_eq!(echo.first, TEXT | 0x40);
        let mut heard = Vec::new();
        Inflater::new().inflate(Kind::Text, &echo.payload, 1 << 20, &mut heard).unwrap();
        assert_eq!(heard, said.as_bytes());
    }
}

#[tokio::test]
async fn fragments_and_frames_that_share_a_record_are_heard() {
    let (authority, gateway) = secure(&["websocket.messages=echo"]).await;
    let (mut raw, _) = welcomed(&authority, &gateway).await;
    let said = [frame(0x01, b"one "), frame(PING, b"?"), frame(0x00, b"two "), frame(0x80, b"end")];
    raw.send(said.concat()).await;
    assert_eq!(raw.next().await.unwrap().first, PONG);
    assert_eq!(raw.data().await.text(), "one two end");
    // A record for each byte.
    for byte in frame(BINARY, b"slow") {
        raw.send([byte]).await;
    }
    assert_eq!(raw.data().await.payload, b"slow");
    let many: Vec<u8> = (0..5000).flat_map(|n: u32| frame(BINARY, &n.to_be_bytes())).collect();
    raw.send(many).await;
    for number in 0..5000u32 {
        assert_eq!(raw.data().await.payload, number.to_be_bytes());
    }
}

#[tokio::test]
async fn what_comes_right_behind_the_request_is_heard() {
    let (authority, gateway) = secure(&["websocket.messages=echo", "websocket.welcome=none"]).await;
    let mut raw = Raw::over(authority.connect(gateway.tls()).await);
    let mut said = crate::raw::request(&[]).into_bytes();
    // More than a record, so that not all of it is opened together with the request.
    let long = vec![7; 40_000];
    said.extend([frame(BINARY, b"first"), frame(BINARY, &long)].concat());
    raw.send(said).await;
    raw.response().await;
    assert_eq!(raw.data().await.payload, b"first");
    assert_eq!(raw.data().await.payload, long);
}

#[tokio::test]
async fn plain_clients_and_those_with_tls_hear_the_same_in_the_same_order() {
    let (authority, gateway) = secure(&["limits.queue_messages=100000"]).await;
    let (rounds, mut random) = (400, Random::new(7));
    let mut readers = Vec::new();
    let said: Vec<String> = (0..rounds)
        .map(|number| {
            let size = [10, 100, 5_000, 20_000][usize::try_from(random.next() % 4).unwrap()];
            format!("{number} {}", "m".repeat(size))
        })
        .collect();
    for _ in 0..10 {
        let secure = Client::over(authority.connect(gateway.tls()).await).await;
        readers.push(tokio::spawn(all_of(secure, said.clone())));
        readers.push(tokio::spawn(all_of(gateway.connect().await, said.clone())));
    }
    let gateway = std::sync::Arc::new(gateway);
    for text in &said {
        assert!(gateway.broadcast_message(text).await.result);
    }
    for reader in readers {
        reader.await.expect("everybody hears all of it in order");
    }
    let sum = |of: fn(&gateway_websocket::metrics::ShardStats) -> u64| gateway.sum(of);
    assert_eq!(sum(|stats| stats.messages_queued.get()), 20 * rounds);
    assert_eq!(sum(|stats| stats.messages_out.get()), 20 * rounds);
    assert_eq!(sum(|stats| stats.queued_bytes.get()), 0);
}

async fn all_of<S>(mut client: Client<S>, said: Vec<String>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    for text in said {
        assert_eq!(client.next_text().await, text);
    }
}

#[tokio::test]
async fn the_closing_handshake_ends_with_a_close_notify() {
    let (authority, gateway) = secure(&[]).await;
    let (mut raw, id) = welcomed(&authority, &gateway).await;
    gateway.clonse_client(id).await;
    assert_eq!(raw.close_code().await, 1000);
    raw.send(frame(CLOSE, &1000u16.to_be_bytes())).await;
    // An end without a close_notify would be an error.
    raw.ended_well().await;

    let (mut raw, _) = welcomed(&authority, &gateway).await;
    raw.send(frame(CLOSE, &1001u16.to_be_bytes())).await;
    assert_eq!(raw.close_code().await, 1001);
    raw.ended_well().await;
    assert_eq!(gateway.closed(Cause::Peer), 1);
}

#[tokio::test]
async fn a_violation_is_answered_by_its_code_and_a_close_notify() {
    let (authority, gateway) = secure(&[]).await;
    let (mut raw, _) = welcomed(&authority, &gateway).await;
    raw.send([frame(0x83, b"reserved"), head(TEXT, 1000)].concat()).await;
    assert_eq!(raw.close_code().await, 1002);
    raw.ended_well().await;
}

#[tokio::test]
async fn a_close_notify_is_a_hang_up_after_all_that_was_said_before() {
    let (authority, gateway) = secure(&["websocket.messages=echo"]).await;
    let (mut raw, _) = welcomed(&authority, &gateway).await;
    let (other, _) = welcomed(&authority, &gateway).await;
    raw.send(frame(TEXT, b"last words")).await;
    raw.stream().get_mut().1.send_close_notify();
    raw.send([]).await;
    let gone = async {
        while gateway.closed(Cause::Lost) == 0 {
            gateway.count_online_client().await;
        }
    };
    soon("the end of the client", gone).await;
    assert_eq!(gateway.sum(|stats| stats.messages_in.get()), 1);
    assert_eq!(gateway.count_online_client().await.count, 1);
    drop(other);
}

#[tokio::test]
async fn keys_are_updated_while_messages_are_on_their_way() {
    let (authority, gateway) = secure(&["websocket.messages=echo"]).await;
    let (mut raw, _) = welcomed(&authority, &gateway).await;
    for number in 0..20u32 {
        raw.stream().get_mut().1.refresh_traffic_keys().unwrap();
        raw.send(frame(BINARY, &number.to_be_bytes())).await;
        assert_eq!(raw.data().await.payload, number.to_be_bytes());
    }
}
