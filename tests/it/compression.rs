//! Compression on real sockets: switched off and on while clients are connected, asked for by a
//! bomb, and done once for all who get a message.

use gateway_websocket::{
    grpc::proto::{
        BroadcastMessageRequest, broadcast_message_client::BroadcastMessageClient as Broadcast,
    },
    message::Kind,
    wire::{Inflater, compress_once},
};
use tonic::transport::Endpoint;

use crate::{
    client::Client,
    gateway::Gateway,
    program::Program,
    random::Random,
    raw::{BINARY, CLOSE, Frame, Raw, TEXT, frame, request},
};

/// The bit of a frame's first byte that says that the message is compressed.
const RSV1: u8 = 0x40;

/// What a message that is flushed ends with, and what is left out of it (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

const MIB: usize = 1 << 20;

fn deflated(bytes: &[u8]) -> Vec<u8> {
    compress_once(15, 6, bytes).unwrap()
}

/// The content of a text frame, and whether it was compressed.
fn read(frame: &Frame) -> (String, bool) {
    let compressed = frame.first == TEXT | RSV1;
    if !compressed {
        assert_eq!(frame.first, TEXT);
        return (frame.text().to_owned(), false);
    }
    let mut out = Vec::new();
    Inflater::new().inflate(Kind::Text, &frame.payload, MIB, &mut out).unwrap();
    (String::from_utf8(out).unwrap(), true)
}

/// The whole conversation of a client that goes on compressing, with compression switched `on` or
/// off: its echo, and broadcasts that a shard and that a call would compress.
async fn converse(raw: &mut Raw, grpc: &mut Broadcast<tonic::transport::Channel>, on: bool) {
    let said = "hello, hello ".repeat(100);
    raw.send(frame(TEXT | RSV1, &deflated(said.as_bytes()))).await;
    assert_eq!(read(&raw.data().await), (said.clone(), on));
    for times in [10, 100] {
        let message = said.repeat(times);
        grpc.broadcast_message(BroadcastMessageRequest { message: message.clone() }).await.unwrap();
        assert_eq!(read(&raw.data().await), (message, on));
    }
}

#[tokio::test]
async fn switched_off_by_a_reload_it_ends_for_clients_that_are_connected_too() {
    let mut program = Program::new();
    let settings = "websocket.messages = \"echo\"\nwebsocket.welcome = \"none\"\n";
    let config = program.config(settings);
    let status = program.serve(&["--config", &config]).await;
    let address = status.listeners.websocket[0];
    let grpc = format!("http://{}", status.listeners.grpc[0]);
    let mut grpc = Broadcast::new(Endpoint::from_shared(grpc).unwrap().connect().await.unwrap());
    let (mut raw, response) = Raw::compressing(address).await;
    assert!(response.contains("permessage-deflate"), "{response}");
    converse(&mut raw, &mut grpc, true).await;
    for on in [false, true] {
        program.config(&format!("{settings}compression.enabled = {on}\n"));
        let said = program.run(&["--config", &config, "reload"]);
        said.expect(0, &["compression.enabled"]);
        converse(&mut raw, &mut grpc, on).await;
        // Who comes now is told so from the start.
        let (mut late, response) = Raw::compressing(address).await;
        assert_eq!(response.contains("permessage-deflate"), on, "{response}");
        late.send(frame(TEXT, b"and in")).await;
        assert_eq!(read(&late.data().await), ("and in".to_owned(), false));
    }
}

#[tokio::test]
async fn the_offer_of_a_client_that_would_refuse_the_answer_is_declined() {
    let gateway = Gateway::start().await;
    let takeover = "permessage-deflate; client_no_context_takeover";
    for (offer, answer) in [
        // Netty's WebSocketClientCompressionHandler, as it comes.
        ("permessage-deflate;client_max_window_bits,deflate-frame,x-webkit-deflate-frame", None),
        ("permessage-deflate;client_no_context_takeover,deflate-frame", Some(takeover)),
        ("permessage-deflate; client_max_window_bits", Some(takeover)),
        (
            "permessage-deflate; server_no_context_takeover",
            Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
        ),
    ] {
        let mut raw = Raw::open(gateway.websocket()).await;
        raw.send(request(&[&format!("Sec-WebSocket-Extensions: {offer}")])).await;
        let head = raw.response().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let lines = head.split("\r\n").filter_map(|line| line.split_once(": "));
        let mut lines = lines.filter(|(name, _)| name.eq_ignore_ascii_case(EXTENSIONS));
        assert_eq!(lines.next().map(|(_, value)| value), answer, "{offer}");
        assert_eq!(raw.data().await.payload.len(), 36);
    }
}

const EXTENSIONS: &str = "Sec-WebSocket-Extensions";

/// A number of `/proc/PID/status`, in bytes.
fn memory(pid: u32, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    let kilobytes = line.split_whitespace().nth(1).unwrap();
    kilobytes.parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn a_bomb_gets_1009_and_never_takes_twice_the_limit() {
    const LIMIT: usize = 32 * MIB;
    // One GiB of zeros: blocks of 1 MiB, each of them flushed, so that they can be repeated.
    let block = [&*deflated(&vec![0; MIB]), &TAIL].concat();
    let bomb = block.repeat(1024);
    let mut program = Program::new();
    let set = format!("limits.max_message={LIMIT}");
    let status = program.serve(&["--set", &set]).await;
    let address = status.listeners.websocket[0];
    let mut polite = Client::connect(address).await;
    let before = memory(status.pid, "VmRSS:");
    // From here on, the peak is counted anew (proc_pid_clear_refs(5)).
    std::fs::write(format!("/proc/{}/clear_refs", status.pid), "5").unwrap();
    for first in [BINARY, TEXT, BINARY] {
        let (mut raw, _) = Raw::compressing(address).await;
        raw.send(frame(first | RSV1, &bomb)).await;
        assert_eq!(raw.close_code().await, 1009);
        raw.send(frame(CLOSE, &1009u16.to_be_bytes())).await;
        raw.ended().await;
        polite.say("ping").await;
        assert_eq!(polite.next_text().await, "pong");
    }
    let grown = memory(status.pid, "VmHWM:").saturating_sub(before);
    println!("{} KiB more than before at the peak", grown / 1024);
    assert!(grown > LIMIT / 2, "the bombs did go off: {grown}");
    assert!(grown < 2 * LIMIT, "{grown} bytes for a limit of {LIMIT}");
}

/// Were a message compressed for each of its receivers, each would have a frame of its own waiting.
#[tokio::test]
async fn a_message_waits_in_memory_once_for_all_who_get_it_compressed() {
    const CLIENTS: usize = 24;
    const MESSAGES: usize = 20;
    const SIZE: usize = 40_000;
    let sets = ["shards=1", "websocket.send_buffer=4KiB", "websocket.welcome=none"];
    let gateway = Gateway::with(&sets).await;
    let mut stuck = Vec::new();
    for _ in 0..CLIENTS {
        stuck.push(Raw::narrow_compressing(gateway.websocket()).await.0);
    }
    let mut random = Random::new(7);
    let mut sent = Vec::new();
    for _ in 0..MESSAGES {
        // Half a byte of noise per letter: it gets shorter, but not by more than half.
        let letter = |_| char::from(b"0123456789abcdef"[random.below(16)]);
        let message: String = (0..SIZE).map(letter).collect();
        gateway.broadcast_message(&*message).await;
        sent.push(message);
    }
    // The shard has told what waits when it comes to the next call.
    assert_eq!(gateway.count_online_client().await.count, i32::try_from(CLIENTS).unwrap());
    let queued = gateway.sum(|stats| stats.queued_bytes.get());
    println!("{queued} bytes wait");
    let all = (MESSAGES * SIZE) as u64;
    assert!(queued > all / 4, "{queued} bytes wait: the sockets took too much");
    assert!(queued < 2 * all, "{queued} bytes wait");
    for raw in &mut stuck {
        for message in &sent {
            assert_eq!(read(&raw.data().await), (message.clone(), true));
        }
    }
}
