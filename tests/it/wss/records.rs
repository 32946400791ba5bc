//! TLS records that don't end: they are counted and waited for like messages that don't.

use std::io::Write as _;

use gateway_websocket::close::Cause;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{secure, welcomed};
use crate::{
    authority::Secure,
    client::{Client, soon},
    gateway::Gateway,
    raw::{BINARY, Raw, TEXT, frame, request},
};

/// Settings under which nothing but the deadline ends a client, or wakes its shard for it.
const PATIENT: &[&str] = &[
    "limits.close_wait=1h",
    "websocket.ping_interval=0s",
    "websocket.heartbeat_timeout=0s",
    "websocket.messages=echo",
    "shards=1",
];

/// The two halves of a client: its socket, and its TLS, so that a test can cut records.
struct Cutter {
    socket: TcpStream,
    tls: rustls::ClientConnection,
}

impl Cutter {
    fn new(raw: Raw<Secure>) -> Self {
        let (socket, tls) = raw.into_stream().into_inner();
        Self { socket, tls }
    }

    /// Seals bytes into records.
    fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.tls.writer().write_all(bytes).unwrap();
        let mut sealed = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut sealed).unwrap();
        }
        sealed
    }

    async fn send(&mut self, sealed: &[u8]) {
        self.socket.write_all(sealed).await.unwrap();
    }

    /// Reads up to the close frame and to the end; answers the frame's code.
    async fn close_code(&mut self) -> u16 {
        let (mut sealed, mut opened) = (Vec::new(), Vec::new());
        soon("the end", self.socket.read_to_end(&mut sealed)).await.unwrap();
        let mut sealed = &sealed[..];
        while !sealed.is_empty() {
            self.tls.read_tls(&mut sealed).unwrap();
            let state = self.tls.process_new_packets().unwrap();
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            std::io::Read::read_exact(&mut self.tls.reader(), &mut plain).unwrap();
            opened.extend(plain);
        }
        let close = opened.iter().rposition(|&byte| byte == crate::raw::CLOSE).unwrap();
        u16::from_be_bytes([opened[close + 2], opened[close + 3]])
    }
}

fn partial(gateway: &Gateway) -> u64 {
    gateway.sum(|stats| stats.partial_bytes.get())
}

/// Waits until incomplete records and messages take so much memory, or more.
async fn grown_to(gateway: &Gateway, bytes: u64) {
    let grown = async {
        while partial(gateway) < bytes {
            gateway.count_online_client().await;
        }
    };
    soon("the bytes", grown).await;
}

#[tokio::test]
async fn half_a_record_is_counted_and_its_client_closed_in_time() {
    let sets = [PATIENT, &["limits.message_deadline=1s"]].concat();
    let (authority, gateway) = secure(&sets).await;
    let mut polite = Client::over(authority.connect(gateway.tls()).await).await;
    let mut cutter = Cutter::new(welcomed(&authority, &gateway).await.0);
    assert_eq!(partial(&gateway), 0);
    let record = cutter.seal(&frame(BINARY, &[7; 10_000]));
    cutter.send(&record[..8000]).await;
    grown_to(&gateway, 8000).await;
    assert_eq!(cutter.close_code().await, 1008);
    assert_eq!(gateway.closed(Cause::Policy), 1);
    assert_eq!(partial(&gateway), 0, "what it had said half was given up");
    polite.say("still here").await;
    assert_eq!(polite.next_text().await, "still here");
}

#[tokio::test]
async fn a_record_that_trickles_in_is_not_waited_for_any_longer() {
    let sets = [PATIENT, &["limits.message_deadline=1s"]].concat();
    let (authority, gateway) = secure(&sets).await;
    let mut cutter = Cutter::new(welcomed(&authority, &gateway).await.0);
    let record = cutter.seal(&frame(BINARY, &[7; 16_000]));
    let trickling = async {
        for byte in &record {
            if gateway.closed(Cause::Policy) > 0 || cutter.socket.write_all(&[*byte]).await.is_err()
            {
                return;
            }
            // One byte for each call that the shard has answered.
            for _ in 0..10 {
                gateway.count_online_client().await;
            }
        }
        panic!("all of it came in time");
    };
    soon("the close", trickling).await;
    assert_eq!(cutter.close_code().await, 1008);
    assert_eq!(partial(&gateway), 0);
}

#[tokio::test]
async fn records_that_are_cut_anywhere_and_end_in_time_disturb_nobody() {
    let sets = [PATIENT, &["limits.message_deadline=1s"]].concat();
    let (authority, gateway) = secure(&sets).await;
    let mut cutter = Cutter::new(welcomed(&authority, &gateway).await.0);
    // Each write ends in the middle of a record, for longer than the deadline of one.
    let since = std::time::Instant::now();
    let mut kept = Vec::new();
    let mut said = 0;
    while since.elapsed() < std::time::Duration::from_secs(2) {
        let record = cutter.seal(&frame(BINARY, &[7; 1000]));
        kept.extend_from_slice(&record[..record.len() / 2]);
        cutter.send(&kept).await;
        kept = record[record.len() / 2..].to_vec();
        said += 1;
        let heard = async {
            while gateway.sum(|stats| stats.messages_in.get()) < said - 1 {
                gateway.count_online_client().await;
            }
        };
        soon("all but the last", heard).await;
        let mut echo = vec![0; 1 << 16];
        let _ = cutter.socket.try_read(&mut echo);
    }
    cutter.send(&kept).await;
    let heard = async {
        while gateway.sum(|stats| stats.messages_in.get()) < said || partial(&gateway) > 0 {
            gateway.count_online_client().await;
        }
    };
    soon("the last", heard).await;
    assert_eq!(gateway.closed(Cause::Policy), 0);
}

#[tokio::test]
async fn half_a_record_behind_the_request_is_counted_too() {
    let sets = [PATIENT, &["limits.message_deadline=1s"]].concat();
    let (authority, gateway) = secure(&sets).await;
    for part in [3, 5, 2000] {
        let stream = authority.connect(gateway.tls()).await;
        let mut cutter = Cutter::new(Raw::over(stream));
        let mut said = cutter.seal(request(&[]).as_bytes());
        let record = cutter.seal(&frame(BINARY, &[7; 10_000]));
        said.extend(&record[..part]);
        let closed = gateway.closed(Cause::Policy);
        cutter.send(&said).await;
        assert_eq!(cutter.close_code().await, 1008);
        assert_eq!(gateway.closed(Cause::Policy), closed + 1);
        assert_eq!(partial(&gateway), 0);

        // And who goes on with it in time is heard.
        let stream = authority.connect(gateway.tls()).await;
        let mut cutter = Cutter::new(Raw::over(stream));
        let mut said = cutter.seal(request(&[]).as_bytes());
        let record = cutter.seal(&frame(BINARY, &[7; 10_000]));
        said.extend(&record[..part]);
        let heard = gateway.sum(|stats| stats.messages_in.get());
        cutter.send(&said).await;
        grown_to(&gateway, part as u64).await;
        cutter.send(&record[part..]).await;
        let all = async {
            while gateway.sum(|stats| stats.messages_in.get()) == heard || partial(&gateway) > 0 {
                gateway.count_online_client().await;
            }
        };
        soon("the message", all).await;
    }
}

#[tokio::test]
async fn many_half_records_cost_their_clients_and_nobody_else() {
    let more = ["limits.partial_bytes=1MiB", "limits.max_message=64KiB", "limits.client_bytes=0"];
    let (authority, gateway) = secure(&[PATIENT, &more].concat()).await;
    let (mut small, _) = welcomed(&authority, &gateway).await;
    let (mut plain, _) = Raw::welcomed(gateway.websocket()).await;
    let hello = frame(TEXT, b"hello");
    plain.send(&hello[..8]).await;
    let (mut crowd, mut most) = (Vec::new(), 0);
    for _ in 0..120 {
        let mut cutter = Cutter::new(welcomed(&authority, &gateway).await.0);
        let record = cutter.seal(&frame(BINARY, &[7; 16_000]));
        cutter.send(&record[..record.len() - 1]).await;
        crowd.push(cutter);
        small.send(frame(TEXT, b"ping")).await;
        assert_eq!(small.data().await.text(), "pong");
        most = most.max(partial(&gateway));
    }
    assert!(most > 900 << 10 && most < 1200 << 10, "{most} bytes were held");
    let closed = gateway.closed(Cause::Budget);
    assert!(closed > 0 && closed < 120, "{closed} were closed");
    let holds = partial(&gateway);
    assert!(holds <= 1 << 20, "{holds} bytes are held by those who are left");
    plain.send(&hello[8..]).await;
    assert_eq!(plain.data().await.text(), "hello", "who holds least is not closed");
    drop(crowd);
    let gone = async {
        while gateway.hub().count_sockets() > 2 || partial(&gateway) > 0 {
            gateway.count_online_client().await;
        }
    };
    soon("the end of the crowd", gone).await;
}
