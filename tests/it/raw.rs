//! Clients that speak bytes: hand-written requests and frames, for what no well-behaved client sends.

use std::net::{IpAddr, SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::client::soon;

/// First bytes of whole frames (RFC 6455 §5.2).
pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame of a client, masked.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = head(first, payload.len());
    let masked = payload.iter().zip(KEY.iter().cycle());
    bytes.extend(masked.map(|(byte, key)| byte ^ key));
    bytes
}

/// The head of a client's frame that declares a payload of `len` bytes.
pub fn head(first: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![first];
    match len {
        0..126 => bytes.push(0x80 | u8::try_from(len).unwrap()),
        126..=0xffff => {
            bytes.push(0x80 | 0x7e);
            bytes.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 0x7f);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(KEY);
    bytes
}

/// A request for an upgrade, with header lines of the test's own.
pub fn request(lines: &[&str]) -> String {
    let usual = [
        "GET /any/path?and=query HTTP/1.1",
        "Host: gateway.example",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    let mut text = usual.join("\r\n");
    for line in lines {
        text.push_str("\r\n");
        text.push_str(line);
    }
    text + "\r\n\r\n"
}

/// A frame of the gateway.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub first: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The payload as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }
}

/// One connection, read and written as bytes.
pub struct Raw<S = TcpStream> {
    stream: S,
    /// Read and not yet taken.
    buffer: Vec<u8>,
}

impl Raw {
    /// A TCP connection on which nothing was said yet.
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let buffer = Vec::new();
        Self { stream, buffer }
    }

    /// A TCP connection that comes from an address of the test's choice.
    pub async fn open_from(source: IpAddr, address: SocketAddr) -> Self {
        let socket = match source {
            IpAddr::V4(_) => TcpSocket::new_v4(),
            IpAddr::V6(_) => TcpSocket::new_v6(),
        };
        let socket = socket.unwrap();
        socket.bind((source, 0).into()).unwrap();
        let stream = socket.connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let buffer = Vec::new();
        Self { stream, buffer }
    }

    /// A TCP connection that takes as little as the kernel allows while nobody reads.
    pub async fn open_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect(address).await.unwrap();
        let buffer = Vec::new();
        Self { stream, buffer }
    }

    /// An upgraded connection; the welcome is the next frame.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut raw = Self::open(address).await;
        raw.upgrade().await;
        raw
    }

    /// An upgraded connection on which permessage-deflate is agreed if the gateway is for it, and
    /// the gateway's answer.
    pub async fn compressing(address: SocketAddr) -> (Self, String) {
        Self::open(address).await.offer().await
    }

    /// The same, with a socket that takes little while nobody reads.
    pub async fn narrow_compressing(address: SocketAddr) -> (Self, String) {
        Self::open_narrow(address).await.offer().await
    }

    /// A client that was welcomed, with its id.
    pub async fn welcomed(address: SocketAddr) -> (Self, String) {
        Self::open(address).await.enter().await
    }

    /// A client that was welcomed and takes little while it doesn't read, with its id.
    pub async fn narrow(address: SocketAddr) -> (Self, String) {
        Self::open_narrow(address).await.enter().await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    /// Speaks over a stream on which nothing was said yet.
    pub fn over(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Asks for the upgrade and reads the answer.
    pub async fn upgrade(&mut self) {
        self.send(request(&[])).await;
        let head = self.response().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    }

    /// Asks for the upgrade with permessage-deflate; answers the gateway's answer too.
    pub async fn offer(mut self) -> (Self, String) {
        self.send(request(&["Sec-WebSocket-Extensions: permessage-deflate"])).await;
        let head = self.response().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        (self, head)
    }

    /// Asks for the upgrade and reads the client id.
    pub async fn enter(mut self) -> (Self, String) {
        self.upgrade().await;
        let id = self.data().await.text().to_owned();
        assert_eq!(id.len(), 36);
        (self, id)
    }

    /// Writes all the bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sent = self.try_send(bytes).await;
        sent.unwrap();
    }

    /// Writes all the bytes, if the gateway takes them.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        soon("room", self.stream.write_all(bytes.as_ref())).await?;
        soon("room", self.stream.flush()).await
    }

    /// Writes all the bytes, unless nothing was taken for a while; answers nothing then.
    pub async fn send_now(&mut self, bytes: &[u8]) -> Option<std::io::Result<()>> {
        let taken = std::time::Duration::from_millis(500);
        tokio::time::timeout(taken, self.stream.write_all(bytes)).await.ok()
    }

    /// Waits until the gateway has let go of a connection that is not read.
    pub async fn reset(&mut self) {
        let writing = async { while self.stream.write_all(&[0; 64]).await.is_ok() {} };
        soon("the end of the connection", writing).await;
    }

    /// Reads until these bytes have come.
    pub async fn read_past(&mut self, wanted: &[u8]) {
        loop {
            let found = self.buffer.windows(wanted.len()).position(|bytes| bytes == wanted);
            if let Some(start) = found {
                self.buffer.drain(..start + wanted.len());
                return;
            }
            assert!(self.more().await.unwrap(), "the end came before {wanted:?}");
        }
    }

    /// Ends the client's side of the stream.
    pub async fn hang_up(&mut self) -> std::io::Result<()> {
        self.stream.shutdown().await
    }

    /// The socket, of which all that was read was taken.
    pub fn into_stream(self) -> S {
        assert!(self.buffer.is_empty(), "{:?} was read and not taken", self.buffer);
        self.stream
    }

    /// The socket.
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The head of an HTTP response.
    pub async fn response(&mut self) -> String {
        self.try_response().await.expect("a response before the end")
    }

    /// The head of an HTTP response; none if the connection ends, or is reset, before it.
    pub async fn try_response(&mut self) -> Option<String> {
        loop {
            let end = self.buffer.windows(4).position(|end| end == b"\r\n\r\n");
            if let Some(end) = end {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return Some(String::from_utf8(head).unwrap());
            }
            if !self.more().await.is_ok_and(|more| more) {
                return None;
            }
        }
    }

    /// All bytes up to the end of the stream, as text; a reset is an end, too.
    pub async fn rest(&mut self) -> String {
        while self.more().await.is_ok_and(|more| more) {}
        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned()
    }

    /// Waits for the end of the stream, which may be a reset; what comes before doesn't matter.
    pub async fn ended(&mut self) {
        self.rest().await;
    }

    /// Waits for the end of the stream, which must be as the peer wanted it: no reset, and with TLS
    /// a `close_notify`.
    pub async fn ended_well(&mut self) {
        while self.more().await.expect("the stream ends as it should") {}
    }

    /// The next frame, of any kind; none at the end of the stream.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take() {
                return Some(frame);
            }
            if !self.more().await.is_ok_and(|more| more) {
                return None;
            }
        }
    }

    /// The next frame that is no ping and no pong.
    pub async fn data(&mut self) -> Frame {
        loop {
            let frame = self.next().await.expect("a frame before the end");
            if frame.first != PING && frame.first != PONG {
                return frame;
            }
        }
    }

    /// Reads up to the close frame; answers its code.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            let frame = self.data().await;
            if frame.first == CLOSE {
                return u16::from_be_bytes([frame.payload[0], frame.payload[1]]);
            }
        }
    }

    /// Takes a whole frame out of the buffer, if there is one.
    fn take(&mut self) -> Option<Frame> {
        let (&first, &length) = (self.buffer.first()?, self.buffer.get(1)?);
        let (start, len) = match length {
            126 => {
                let length = self.buffer.get(2..4)?.try_into().unwrap();
                (4, usize::from(u16::from_be_bytes(length)))
            }
            127 => {
                let length = self.buffer.get(2..10)?.try_into().unwrap();
                (10, usize::try_from(u64::from_be_bytes(length)).unwrap())
            }
            len => (2, usize::from(len)),
        };
        let payload = self.buffer.get(start..start + len)?.to_vec();
        self.buffer.drain(..start + len);
        Some(Frame { first, payload })
    }

    /// Reads once; false at the end.
    async fn more(&mut self) -> std::io::Result<bool> {
        let read = self.stream.read_buf(&mut self.buffer);
        Ok(soon("more bytes", read).await? > 0)
    }
}

/// Asks `address` for a page and answers everything that comes back.
pub async fn ask(address: SocketAddr, request: &str) -> String {
    let mut raw = Raw::open(address).await;
    raw.send(request).await;
    raw.rest().await
}
