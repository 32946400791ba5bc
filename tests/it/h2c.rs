//! gRPC by hand: HTTP/2 streams that are begun and not ended, and frames that no library sends.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::{Reason, client::SendRequest};
use tokio::net::TcpStream;
use tonic::{Code, codegen::http};

use crate::{client::soon, raw::Raw};

/// An ordinary call; its request is empty.
pub const COUNT: &str = "/proto.CountOnlineClient/CountOnlineClient";
/// A call with a stream of answers.
pub const WATCH: &str = "/grpc.health.v1.Health/Watch";
/// A call with a stream of requests and a stream of answers.
pub const SEND_STREAM: &str = "/gateway.v1.Messages/SendStream";
/// A whole message of no bytes, as gRPC frames it.
pub const EMPTY: &[u8] = &[0; 5];

/// Kinds of frames (RFC 9113 §6).
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const CONTINUATION: u8 = 9;

/// A connection whose streams the test ends, or doesn't.
pub struct Http2 {
    send: SendRequest<Bytes>,
    /// Comes true when the connection is gone, with what it was gone for.
    connection: tokio::task::JoinHandle<Result<(), h2::Error>>,
    ping: h2::PingPong,
    authority: SocketAddr,
}

/// A call that was begun.
pub struct Begun {
    response: h2::client::ResponseFuture,
    pub body: h2::SendStream<Bytes>,
}

impl Http2 {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::with(address, &h2::client::Builder::new()).await
    }

    /// A connection on which no byte of an answer's messages can come.
    pub async fn connect_shut(address: SocketAddr) -> Self {
        Self::with(address, h2::client::Builder::new().initial_window_size(0)).await
    }

    /// A connection with settings of the test's own.
    pub async fn with(address: SocketAddr, settings: &h2::client::Builder) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (send, mut connection) = settings.handshake(stream).await.unwrap();
        let ping = connection.ping_pong().unwrap();
        let connection = tokio::spawn(connection);
        Self { send, connection, ping, authority: address }
    }

    /// A whole call, which succeeds.
    pub async fn count(&mut self) {
        let mut call = self.begin(COUNT, &[]).await;
        call.complete();
        assert_eq!(call.status().await.unwrap().0, Code::Ok);
    }

    /// Asserts that there is room for no more calls before this one has ended.
    pub async fn one_waits_for(&mut self, mut under_way: Begun) {
        let mut next = self.begin(COUNT, &[]).await;
        next.complete();
        let waiting = tokio::spawn(next.status());
        // The answer to a ping comes behind all that was there to be answered.
        for _ in 0..10 {
            let pong = self.ping.ping(h2::Ping::opaque());
            soon("a pong", pong).await.unwrap();
        }
        assert!(!waiting.is_finished(), "there was room");
        under_way.complete();
        assert_eq!(under_way.status().await.unwrap().0, Code::Ok);
        assert_eq!(soon("room", waiting).await.unwrap().unwrap().0, Code::Ok);
    }

    /// Begins a call; what is sent of its message is the test's.
    pub async fn begin(&mut self, path: &str, headers: &[(&str, &str)]) -> Begun {
        let headers = [&[("content-type", "application/grpc")], headers].concat();
        self.begin_as("POST", path, &headers).await
    }

    /// The same with no headers but these.
    pub async fn begin_as(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Begun {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.authority))
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut send = soon("room for a stream", self.send.clone().ready()).await.unwrap();
        let (response, body) = send.send_request(request.body(()).unwrap(), false).unwrap();
        Begun { response, body }
    }

    /// Waits for the end of the connection.
    pub async fn ended(self) {
        drop(self.send);
        let _ = soon("the connection's end", self.connection).await.unwrap();
    }
}

impl Begun {
    /// Sends a whole message, which is the last.
    pub fn complete(&mut self) {
        self.body.send_data(Bytes::from_static(EMPTY), true).unwrap();
    }

    /// What is sent of the call, and what is read of it; the call is not reset while the first lasts.
    pub fn split(
        self,
    ) -> (h2::SendStream<Bytes>, impl Future<Output = Result<(Code, String), Reason>> + Send) {
        (self.body, Self::ending(self.response))
    }

    /// The answer's HTTP status; none if the stream was reset.
    pub async fn response(self) -> Option<u16> {
        self.response.await.ok().map(|answer| answer.status().as_u16())
    }

    /// Sends one message, which is the last.
    pub fn send(&mut self, message: &[u8]) {
        self.body.send_data(framed(0, message).into(), true).unwrap();
    }

    /// The head of the answer, its bytes, and what its trailers say.
    pub async fn whole(self) -> (http::response::Parts, Vec<u8>, http::HeaderMap) {
        let (head, mut body) = soon("an answer", self.response).await.unwrap().into_parts();
        let mut bytes = Vec::new();
        while let Some(more) = soon("the answer's end", body.data()).await {
            let more = more.unwrap();
            let _ = body.flow_control().release_capacity(more.len());
            bytes.extend(more);
        }
        let trailers = soon("trailers", body.trailers()).await.unwrap();
        (head, bytes, trailers.unwrap_or_default())
    }

    /// Waits for the head of the answer; what follows stays where it is.
    pub async fn headed(self) -> http::Response<h2::RecvStream> {
        soon("a head", self.response).await.unwrap()
    }

    /// Reads to the end of the answer; answers the status, or why the stream was reset.
    pub async fn status(self) -> Result<(Code, String), Reason> {
        let Self { response, body: _body } = self;
        Self::ending(response).await
    }

    async fn ending(response: h2::client::ResponseFuture) -> Result<(Code, String), Reason> {
        let reset = |error: h2::Error| error.reason().unwrap_or(Reason::NO_ERROR);
        let answer = soon("an answer", response).await.map_err(reset)?;
        if answer.headers().contains_key("grpc-status") {
            return Ok(status(answer.headers()));
        }
        let mut body = answer.into_body();
        while let Some(bytes) = soon("the messages' end", body.data()).await {
            let bytes = bytes.map_err(reset)?;
            let _ = body.flow_control().release_capacity(bytes.len());
        }
        let trailers = soon("trailers", body.trailers()).await.map_err(reset)?;
        Ok(status(&trailers.expect("trailers that say how the call ended")))
    }
}

pub fn status(headers: &http::HeaderMap) -> (Code, String) {
    let status = tonic::Status::from_header_map(headers).unwrap();
    (status.code(), status.message().to_owned())
}

/// A message as gRPC frames it, compressed or not.
pub fn framed(compressed: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[compressed][..], &length, message].concat()
}

/// One frame (RFC 9113 §4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length.to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// What a client says first: the preface and its settings, of which there are none.
pub fn hello() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(SETTINGS, 0, 0, &[])].concat()
}

/// The headers of a call, each written out (RFC 7541 §6.2.2) but for the method.
pub fn head(path: &str) -> Vec<u8> {
    let mut block = vec![0x83]; // :method POST
    for (name, value) in [
        (":scheme", "http"),
        (":path", path),
        (":authority", "test"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.bytes());
        }
    }
    block
}

/// A connection on which frames are written by hand.
pub async fn by_hand(address: SocketAddr) -> Raw {
    let mut raw = Raw::open(address).await;
    raw.send(hello()).await;
    raw
}
