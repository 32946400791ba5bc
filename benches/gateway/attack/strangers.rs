//! Strangers: peers that hold what they can without any right to it.

use std::{net::SocketAddr, thread, time::Duration};

use bytes::Bytes;
use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    runtime::Runtime,
    time::sleep,
};

use super::{TOKEN, frames};
use crate::Outcome;

/// A stranger that was turned away comes back after this time.
const REST: Duration = Duration::from_secs(1);
/// Time in which all of them have come.
const GATHERING: Duration = Duration::from_secs(2);
/// Connections from one source address.
const PER_ADDRESS: usize = 2;
/// Messages of requests that don't end are so long, as the head of the message says.
const LONG: usize = 4 << 20;
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const LIST: &str = "/proto.GetAllOnlineClient/GetAllOnlineClient";

/// Runs until it is dropped.
pub(super) struct Strangers(Option<Runtime>);

impl Strangers {
    /// Connections that say nothing; whichever is closed comes back.
    pub(super) fn silent(address: SocketAddr, count: usize) -> Outcome<Self> {
        Self::many(count, move |number| async move {
            loop {
                if let Ok(mut stream) = connect(address, number).await {
                    drain(&mut stream).await;
                }
                sleep(REST).await;
            }
        })
    }

    /// Clients that send a flood over and over, and read what is answered.
    pub(super) fn flood(address: SocketAddr, count: usize, flood: Vec<u8>) -> Outcome<Self> {
        const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
        let flood = Bytes::from(flood);
        Self::many(count, move |number| {
            let flood = flood.clone();
            async move {
                loop {
                    if let Ok(mut stream) = connect(address, number).await
                        && stream.write_all(UPGRADE).await.is_ok()
                        && stream.read(&mut [0; 1024]).await.is_ok()
                    {
                        let (mut from, mut to) = stream.into_split();
                        let say = async { while to.write_all(&flood).await.is_ok() {} };
                        let hear = async {
                            let mut bytes = [0; 4096];
                            while from.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
                        };
                        tokio::join!(say, hear);
                    }
                    sleep(REST).await;
                }
            }
        })
    }

    /// TLS handshakes that are broken off when the server has signed, and begun anew.
    pub(super) fn hellos(address: SocketAddr, count: usize) -> Outcome<Self> {
        let config = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from("gateway.example")?;
        let mut hello = Vec::new();
        ClientConnection::new(config.into(), name)?.write_tls(&mut hello)?;
        let hello = Bytes::from(hello);
        Self::many(count, move |number| {
            let hello = hello.clone();
            async move {
                loop {
                    if let Ok(mut stream) = connect(address, number).await
                        && stream.write_all(&hello).await.is_ok()
                    {
                        // The first byte of the server's flight says that it has signed.
                        let _ = stream.read(&mut [0; 1]).await;
                    }
                    sleep(Duration::from_millis(1)).await;
                }
            }
        })
    }

    /// Health requests of 4 MiB less a byte: 32 on each of four connections.
    pub(super) fn long_health(address: SocketAddr) -> Outcome<Self> {
        Self::many(4, move |number| async move {
            let Ok(stream) = connect(address, number).await else { return };
            let mut builder = h2::client::Builder::new();
            builder.initial_max_send_streams(32);
            let Ok((mut send, connection)) = builder.handshake::<_, Bytes>(stream).await else {
                return;
            };
            tokio::spawn(connection);
            let mut calls = tokio::task::JoinSet::new();
            for _ in 0..32 {
                let Ok(ready) = send.ready().await else { return };
                send = ready;
                let request = hyper::Request::post(format!("http://gateway.example{HEALTH}"))
                    .header("content-type", "application/grpc")
                    .header("te", "trailers")
                    .body(());
                let Ok(request) = request else { return };
                let Ok((answer, body)) = send.send_request(request, false) else { return };
                calls.spawn(async move {
                    let _answer = answer;
                    fill(body).await;
                });
            }
            calls.join_all().await;
        })
    }

    /// Health calls of which only the head comes: 480 on each of 128 connections.
    pub(super) fn empty_health(address: SocketAddr) -> Outcome<Self> {
        let mut bytes = frames::preface(1 << 16);
        for stream in 0..480 {
            frames::call(&mut bytes, 2 * stream + 1, HEALTH, None, false);
        }
        Self::unread(address, 128, bytes)
    }

    /// Calls without a token: 2,000 on each of 250 connections.
    pub(super) fn refusals(address: SocketAddr) -> Outcome<Self> {
        let mut bytes = frames::preface(1 << 16);
        for stream in 0..2000 {
            frames::call(&mut bytes, 2 * stream + 1, LIST, None, true);
        }
        Self::unread(address, 250, bytes)
    }

    /// Calls with a token whose answers may not be sent: 200 on each of eight connections.
    pub(super) fn unread_answers(address: SocketAddr) -> Outcome<Self> {
        let mut bytes = frames::preface(0);
        for stream in 0..200 {
            frames::call(&mut bytes, 2 * stream + 1, LIST, Some(TOKEN), true);
        }
        Self::unread(address, 8, bytes)
    }

    /// Connections that say this and read nothing.
    fn unread(address: SocketAddr, count: usize, bytes: Vec<u8>) -> Outcome<Self> {
        let bytes = Bytes::from(bytes);
        Self::many(count, move |number| {
            let bytes = bytes.clone();
            async move {
                let Ok(mut stream) = connect(address, number).await else { return };
                let _ = stream.write_all(&bytes).await;
                std::future::pending::<()>().await;
            }
        })
    }

    fn many<F>(count: usize, stranger: impl Fn(usize) -> F) -> Outcome<Self>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        for number in 0..count {
            runtime.spawn(stranger(number));
        }
        thread::sleep(GATHERING);
        Ok(Self(Some(runtime)))
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Connects from an address that few others have.
async fn connect(address: SocketAddr, number: usize) -> std::io::Result<TcpStream> {
    let at = u16::try_from(number / PER_ADDRESS).unwrap_or(0).to_be_bytes();
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 66, at[0], at[1] | 1], 0)))?;
    socket.connect(address).await
}

/// Reads until the other end has had enough.
async fn drain(stream: &mut TcpStream) {
    let mut bytes = [0; 256];
    while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
}

/// Sends a message but for its last byte, as fast as it is taken, and waits.
async fn fill(mut body: h2::SendStream<Bytes>) {
    let mut left = LONG - 1;
    let head = [&[0], u32::try_from(LONG).unwrap_or(0).to_be_bytes().as_slice()].concat();
    if body.send_data(head.into(), false).is_err() {
        return;
    }
    while left > 0 {
        body.reserve_capacity(left.min(1 << 16));
        let Some(Ok(room)) = std::future::poll_fn(|context| body.poll_capacity(context)).await
        else {
            return;
        };
        let now = room.min(left);
        if now > 0 && body.send_data(vec![0; now].into(), false).is_err() {
            return;
        }
        left -= now;
    }
    std::future::pending::<()>().await;
}
