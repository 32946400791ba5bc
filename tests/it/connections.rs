//! The life of a connection: upgrade, welcome, messages, heartbeat, farewell.

use std::sync::{Arc, Mutex};

use gateway_websocket::{
    close::Cause,
    message::Kind,
    shard::{ConnectionPermit, NewConnection},
    sink::{Accept, Closed, Ear, EventSink, Opened, Wake, Who},
    status::Phase,
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    client::{Client, soon},
    gateway::Gateway,
    raw::{BINARY, CLOSE, PING, PONG, Raw, TEXT, ask, frame, request},
};

#[tokio::test]
async fn the_text_ping_is_answered_and_the_binary_one_is_not() {
    let gateway = Gateway::start().await;
    let mut ada = gateway.connect().await;
    ada.send(Message::binary(b"ping".to_vec())).await;
    gateway.send_message_to_client(ada.id(), "marker").await;
    ada.say("ping").await;
    let mut heard = [ada.next_text().await, ada.next_text().await];
    heard.sort();
    assert_eq!(heard, ["marker", "pong"]);
}

#[tokio::test]
async fn with_the_binary_format_the_id_and_the_pong_are_binary() {
    let sets = ["websocket.message_format=binary", "websocket.messages=echo"];
    let gateway = Gateway::with(&sets).await;
    let mut raw = Raw::connect(gateway.websocket()).await;
    let id = raw.data().await;
    assert_eq!((id.first, id.payload.len()), (BINARY, 36));
    assert!(gateway.client_is_online(id.text()).await.isonline);
    // A text ping is answered in text; what only looks like a ping is a message like any other.
    for (said, first, heard) in [
        (frame(BINARY, b"ping"), BINARY, "pong"),
        (frame(TEXT, b"ping"), TEXT, "pong"),
        (frame(BINARY, b"ping "), BINARY, "ping "),
    ] {
        raw.send(said).await;
        let answer = raw.data().await;
        assert_eq!((answer.first, answer.text()), (first, heard));
    }
}

#[tokio::test]
async fn with_the_text_format_a_binary_ping_is_a_message() {
    let gateway = Gateway::with(&["websocket.messages=echo"]).await;
    let (mut raw, _) = Raw::welcomed(gateway.websocket()).await;
    raw.send(frame(BINARY, b"ping")).await;
    let echo = raw.data().await;
    assert_eq!((echo.first, echo.text()), (BINARY, "ping"));
}

#[tokio::test]
async fn a_silent_client_is_closed_with_3008() {
    let sets = ["websocket.heartbeat_timeout=300ms", "websocket.ping_interval=0s"];
    let gateway = Gateway::with(&sets).await;
    let mut ada = gateway.connect().await;
    assert_eq!(ada.next_close().await.0, 3008);
    assert_eq!(gateway.closed(Cause::Silent), 1);
}

#[tokio::test]
async fn frames_behind_the_request_in_one_write_are_heard() {
    let gateway = Gateway::with(&["websocket.messages=echo"]).await;
    let mut raw = Raw::open(gateway.websocket()).await;
    raw.send([request(&[]).into_bytes(), frame(TEXT, b"early")].concat()).await;
    raw.response().await;
    assert_eq!(raw.data().await.payload.len(), 36);
    assert_eq!(raw.data().await.text(), "early");
}

#[tokio::test]
async fn control_frames_come_between_fragments_and_a_close_is_echoed() {
    let gateway = Gateway::with(&["websocket.messages=echo"]).await;
    let (mut raw, _) = Raw::welcomed(gateway.websocket()).await;
    raw.send([frame(0x01, b"one "), frame(PING, b"p"), frame(0x80, b"two")].concat()).await;
    let mut both = [raw.next().await.unwrap(), raw.next().await.unwrap()];
    both.sort_by_key(|frame| frame.first);
    assert_eq!((both[0].first, both[0].text()), (TEXT, "one two"));
    assert_eq!((both[1].first, both[1].text()), (PONG, "p"));
    raw.send(frame(CLOSE, &4321u16.to_be_bytes())).await;
    assert_eq!(raw.close_code().await, 4321);
    assert_eq!(raw.next().await, None);
}

#[tokio::test]
async fn a_request_that_is_no_upgrade_is_told_so() {
    let gateway = Gateway::start().await;
    let plain = ask(gateway.websocket(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(plain.starts_with("HTTP/1.1 426 "), "{plain}");
    assert!(plain.to_ascii_lowercase().contains("\r\nupgrade: websocket\r\n"), "{plain}");
    let post = ask(gateway.websocket(), &request(&[]).replace("GET", "POST")).await;
    assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
    let version = ask(gateway.websocket(), &request(&[]).replace("13", "12")).await;
    assert!(version.starts_with("HTTP/1.1 426 "), "{version}");
    let key = ask(gateway.websocket(), &request(&[]).replace("==", "")).await;
    assert!(key.starts_with("HTTP/1.1 400 "), "{key}");
}

#[tokio::test]
async fn a_client_that_answers_pings_stays() {
    let sets = ["websocket.heartbeat_timeout=1s", "websocket.ping_interval=100ms"];
    let gateway = Gateway::with(&sets).await;
    let mut ada = gateway.connect().await;
    // tungstenite answers each ping as it is read; fifteen of them are longer than the timeout.
    for _ in 0..15 {
        assert!(matches!(ada.next().await, Some(Ok(Message::Ping(_)))), "nothing but pings comes");
    }
    assert!(gateway.client_is_online(ada.id()).await.isonline);
}

#[tokio::test]
async fn messages_go_out_as_text_or_as_binary() {
    let gateway = Gateway::with(&["websocket.message_format=binary"]).await;
    let mut ada = gateway.connect().await;
    gateway.broadcast_message("bytes").await;
    assert_eq!(ada.next_message().await, Message::binary(b"bytes".to_vec()));
}

#[tokio::test]
async fn without_a_welcome_the_first_message_is_somebodys() {
    let gateway = Gateway::with(&["websocket.welcome=none"]).await;
    let mut ada = Client::connect_silently(gateway.websocket()).await;
    let online = async {
        while gateway.hub().count_clients() == 0 {
            tokio::task::yield_now().await;
        }
    };
    soon("the client", online).await;
    gateway.broadcast_message("first").await;
    assert_eq!(ada.next_text().await, "first");
}

#[tokio::test]
async fn an_echoed_client_that_does_not_read_is_not_read_and_loses_nothing() {
    let sets =
        ["websocket.messages=echo", "limits.queue_bytes=64KiB", "websocket.send_buffer=16KiB"];
    let gateway = Gateway::with(&sets).await;
    let (mut raw, _) = Raw::narrow(gateway.websocket()).await;
    let mut polite = gateway.connect().await;
    let message = |number: u32| frame(TEXT, format!("{number:04096}").as_bytes());
    // Goes on until the gateway stops reading and the kernel's buffers are full.
    let mut sent: u32 = 0;
    let mut rest = Vec::new();
    while rest.is_empty() {
        let bytes = message(sent);
        let mut written = 0;
        while written < bytes.len() {
            match raw.stream().try_write(&bytes[written..]) {
                Ok(count) => written += count,
                // Not taken at once. If the gateway answers another client twice in the meantime
                // and still doesn't take it, it isn't reading.
                Err(_) if gave_way(&mut polite, raw.stream()).await => {}
                Err(_) => {
                    rest = bytes[written..].to_vec();
                    break;
                }
            }
        }
        sent += 1;
    }
    assert!(sent > 16, "the queue alone takes more: {sent}");
    let (mut reading, mut writing) = (0, rest);
    while reading < sent {
        if !writing.is_empty()
            && let Ok(count) = raw.stream().try_write(&writing)
        {
            writing.drain(..count);
        }
        assert_eq!(raw.data().await.text(), format!("{reading:04096}"));
        reading += 1;
    }
    assert_eq!(gateway.closed(Cause::Slow), 0);
}

#[tokio::test]
async fn a_client_that_is_not_read_and_breaks_off_is_let_go_at_once() {
    let sets = [
        "websocket.messages=echo",
        "limits.queue_bytes=64KiB",
        "websocket.send_buffer=16KiB",
        "websocket.heartbeat_timeout=0s",
        "websocket.ping_interval=0s",
    ];
    let gateway = Gateway::with(&sets).await;
    let (mut raw, _) = Raw::narrow(gateway.websocket()).await;
    let mut polite = gateway.connect().await;
    let message = frame(TEXT, &[b'x'; 4096]);
    let mut waiting = message.clone();
    loop {
        match raw.stream().try_write(&waiting) {
            Ok(count) => drop(waiting.drain(..count)),
            Err(_) if gave_way(&mut polite, raw.stream()).await => {}
            Err(_) => break,
        }
        if waiting.is_empty() {
            waiting.clone_from(&message);
        }
    }
    // A reset: nothing but the poll's word tells of it.
    raw.stream().set_zero_linger().unwrap();
    drop(raw);
    let gone = async {
        while gateway.closed(Cause::Lost) == 0 {
            tokio::task::yield_now().await;
        }
    };
    soon("the end of the reset client", gone).await;
    assert!(gateway.client_is_online(polite.id()).await.isonline);
}

/// Whether the socket takes bytes again after another client was answered many times.
async fn gave_way(polite: &mut Client, stream: &tokio::net::TcpStream) -> bool {
    for _ in 0..200 {
        polite.say("ping").await;
        assert_eq!(polite.next_text().await, "pong");
        let writable = stream.ready(tokio::io::Interest::WRITABLE);
        if tokio::time::timeout(std::time::Duration::ZERO, writable).await.is_ok()
            && stream.try_write(&[]).is_ok()
        {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn who_listens_is_told_of_each_client_in_order() {
    let diary = Diary::default();
    let gateway = Gateway::listening_to(Arc::new(diary.clone()), &[]).await;
    let mut ada = gateway.connect().await;
    ada.say("hello").await;
    ada.say("ping").await;
    assert_eq!(ada.next_text().await, "pong");
    gateway.clonse_client(ada.id()).await;
    let expected =
        ["opened", "message Text hello", "closed api"].map(|what| format!("{} {what}", ada.id()));
    assert_eq!(*diary.0.lock().unwrap(), expected);
}

/// Writes down what it is told.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl EventSink for Diary {
    fn ear(&self, _: u16, _: Wake) -> Box<dyn Ear> {
        Box::new(self.clone())
    }
}

impl Diary {
    fn note(&self, Who { client, .. }: Who<'_>, what: &str) {
        self.0.lock().unwrap().push(format!("{client} {what}"));
    }
}

impl Ear for Diary {
    fn opened(&mut self, opened: &Opened<'_>) {
        self.note(opened.who, "opened");
    }

    fn message(&mut self, who: Who<'_>, kind: Kind, bytes: &[u8]) -> Accept {
        self.note(who, &format!("message {kind:?} {}", String::from_utf8_lossy(bytes)));
        Accept::Accepted
    }

    fn closed(&mut self, who: Who<'_>, closed: &Closed) {
        self.note(who, &format!("closed {}", closed.cause.name()));
    }
}

#[tokio::test]
async fn a_drain_delivers_what_is_queued_before_it_says_goodbye() {
    let gateway = Gateway::with(&["drain.window=200ms", "drain.close_code=1012"]).await;
    let mut clients = gateway.connect_n::<5>().await;
    for number in 0..100 {
        gateway.broadcast_message(format!("{number}")).await;
    }
    let handle = gateway.handle().clone();
    let draining = tokio::spawn(async move { handle.drain().await.unwrap() });
    for client in &mut clients {
        for number in 0..100 {
            assert_eq!(client.next_text().await, number.to_string());
        }
        assert_eq!(client.next_close().await.0, 1012);
        client.ended().await;
    }
    let drained = soon("the drain's end", draining).await.unwrap();
    assert_eq!((drained.closed, drained.cut_off), (5, 0));
    assert_eq!(gateway.handle().phase(), Phase::Draining);
}

/// A connection that was upgraded while the drain began; its leftover is what it has said already.
fn newcomer(gateway: &Gateway, seat: ConnectionPermit, leftover: Vec<u8>) -> std::net::TcpStream {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, peer) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let greeting = Vec::new();
    gateway.hub().adopt(NewConnection {
        stream,
        tls: None,
        greeting,
        leftover,
        peer,
        window: None,
        about: None,
        permit: seat,
        change: None,
    });
    client
}

#[tokio::test]
async fn who_comes_during_a_drain_is_heard_to_its_end() {
    let sets = ["limits.close_wait=1h", "websocket.welcome=none", "shards=1"];
    let gateway = Gateway::with(&sets).await;
    let places = [gateway.hub().permit().unwrap(), gateway.hub().permit().unwrap()];
    gateway.handle().drain().await.unwrap();
    let goodbye = frame(CLOSE, &1001u16.to_be_bytes());
    let said = [[frame(TEXT, b"hello"), goodbye].concat(), b"\x81\x02hi".to_vec()];
    for (seat, said) in places.into_iter().zip(said) {
        let client = newcomer(&gateway, seat, said);
        client.set_nonblocking(true).unwrap();
        let mut raw = Raw::over(tokio::net::TcpStream::from_std(client).unwrap());
        assert_eq!(raw.close_code().await, 1001);
        assert_eq!(soon("the end", raw.next()).await, None);
        drop(raw);
        let gone = async {
            while gateway.hub().count_sockets() > 0 {
                tokio::task::yield_now().await;
            }
        };
        soon("the end of the socket", gone).await;
    }
    assert_eq!(gateway.sum(|stats| stats.messages_in.get()), 0, "it is on its way out");
}
