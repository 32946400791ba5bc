//! A WebSocket client that the project did not write (tungstenite), with words for tests.

use std::{future::Future, net::SocketAddr, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream, client_async, client_async_with_config,
    tungstenite::{
        self, Message,
        handshake::client::{Request, Response},
        protocol::WebSocketConfig,
    },
};

/// Only ends a test that would hang; nothing is proved by it.
const HANG: Duration = Duration::from_mins(1);

/// Waits for something that has to come.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(HANG, future).await;
    outcome.unwrap_or_else(|_| panic!("{what} did not come within {HANG:?}"))
}

pub struct Client<S = TcpStream> {
    id: String,
    socket: WebSocketStream<S>,
}

impl Client {
    /// Connects and reads the client id, which is the first message.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut client = Self::connect_silently(address).await;
        // It comes in a frame of the kind websocket.message_format.
        client.id = client.next_message().await.into_text().unwrap().to_string();
        assert_eq!(client.id.len(), 36, "the first message is the client id: {}", client.id);
        client
    }

    /// Connects to a gateway that sends no welcome.
    pub async fn connect_silently(address: SocketAddr) -> Self {
        let request = format!("ws://{address}/any/path?and=query");
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let config = WebSocketConfig::default().read_buffer_size(4096);
        let upgrade = client_async_with_config(request, stream, Some(config));
        let (socket, _) = soon("the upgrade", upgrade).await.unwrap();
        Self { id: String::new(), socket }
    }

    /// Connects with a request of the test's own; answers the response too.
    pub async fn connect_with(
        address: SocketAddr,
        request: Request,
    ) -> Result<(Self, Response), tungstenite::Error> {
        let stream = TcpStream::connect(address).await?;
        let (socket, response) = soon("the upgrade", client_async(request, stream)).await?;
        Ok((Self { id: String::new(), socket }, response))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Connects over a stream that is there already, and reads the client id.
    pub async fn over(stream: S) -> Self {
        let upgrade = Box::pin(client_async("ws://gateway.example/", stream));
        let (socket, _) = soon("the upgrade", upgrade).await.unwrap();
        let mut client = Self { id: String::new(), socket };
        client.id = client.next_text().await;
        client
    }

    /// The client id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The next message, pings and pongs included; none at the end of the stream.
    pub async fn next(&mut self) -> Option<Result<Message, tungstenite::Error>> {
        soon("a message", self.socket.next()).await
    }

    /// The next data message.
    pub async fn next_message(&mut self) -> Message {
        loop {
            match self.next().await {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(message)) => return message,
                other => panic!("a message was expected, not {other:?}"),
            }
        }
    }

    /// The next data message, which is text.
    pub async fn next_text(&mut self) -> String {
        match self.next_message().await {
            Message::Text(text) => text.to_string(),
            other => panic!("a text was expected, not {other:?}"),
        }
    }

    /// Waits for the close frame; answers its code and reason.
    pub async fn next_close(&mut self) -> (u16, String) {
        match self.next_message().await {
            Message::Close(Some(frame)) => (frame.code.into(), frame.reason.to_string()),
            other => panic!("a close frame was expected, not {other:?}"),
        }
    }

    /// Reads whatever comes until the close frame; answers its code.
    pub async fn read_to_close(&mut self) -> u16 {
        loop {
            if let Message::Close(frame) = self.next_message().await {
                return frame.map_or(1005, |frame| frame.code.into());
            }
        }
    }

    /// Waits for the end of the stream.
    pub async fn ended(&mut self) {
        while let Some(Ok(_)) = self.next().await {}
    }

    /// Says a text.
    pub async fn say(&mut self, text: &str) {
        self.send(Message::text(text)).await;
    }

    /// Sends any message.
    pub async fn send(&mut self, message: Message) {
        soon("room for a message", self.socket.send(message)).await.unwrap();
    }

    /// The raw socket, for clients that misbehave.
    pub fn raw(&mut self) -> &mut S {
        self.socket.get_mut()
    }
}
