//! What is broken, in the eyes of both: the gateway refuses it with the code of RFC 6455, and the
//! other implementation, as a server in its place, refuses it too.

use flate2::{Decompress, FlushDecompress, Status};
use futures_util::SinkExt as _;
use gateway_websocket::{
    close::Cause,
    message::Kind,
    wire::{Decoder, Event, Inflater, Limits, Work, compress_once},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use yawc::{OpCode, Options, Role, WebSocket};

use super::{SETTINGS, Said, seeds};
use crate::{
    client::soon,
    gateway::Gateway,
    random::Random,
    raw::{BINARY, CLOSE, PING, Raw, TEXT, frame},
};

/// Seeds of one run; each is a conversation that is damaged in a few ways.
const SEEDS: u64 = 60;

const RSV1: u8 = 0x40;
const RSV2: u8 = 0x20;
const FIN: u8 = 0x80;

/// What both sides are told was agreed on.
const AGREED: &str = "permessage-deflate; client_no_context_takeover";

/// `limits.max_message` where it matters.
const LIMIT: usize = 10_000;

/// "Hello" in one block, and a second "Hello" that refers to the first (RFC 7692 §7.2.3).
const HELLO: &[u8] = &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
const AGAIN: &[u8] = &[0xf2, 0x00, 0x11, 0x00, 0x00];

/// A client's bytes that must not be accepted.
struct Broken {
    what: &'static str,
    bytes: Vec<u8>,
    /// The code that RFC 6455 §7.4 has for it, and what it is counted for.
    code: u16,
    cause: Cause,
    /// The code that they send, if they send one that says more than "something is wrong".
    theirs: Option<u16>,
}

fn broken() -> Vec<Broken> {
    let text = |payload: &[u8]| frame(TEXT | RSV1, payload);
    let deflated = |payload: &[u8]| compress_once(15, 6, payload).unwrap();
    let bomb = deflated(&vec![0; 1 << 20]);
    let over = deflated(&[0; LIMIT + 1]);
    let (half, rest) = bomb.split_at(bomb.len() / 2);
    let bad =
        |what, bytes| Broken { what, bytes, code: 1007, cause: Cause::Protocol, theirs: None };
    let big =
        |what, bytes| Broken { what, bytes, code: 1009, cause: Cause::TooBig, theirs: Some(1009) };
    let wrong = |what, bytes| Broken {
        what,
        bytes,
        code: 1002,
        cause: Cause::Protocol,
        theirs: Some(1002),
    };
    let no_text = |what, bytes| Broken { cause: Cause::BadText, ..bad(what, bytes) };
    vec![
        bad("a block of a type that there is not", text(&[0xff])),
        bad("a stored block whose length contradicts itself", text(b"\0\x05\0\xfa\xfeHello\0")),
        bad("a distance to before the message", text(AGAIN)),
        bad("a context that was not to be taken over", [text(HELLO), text(AGAIN)].concat()),
        bad("a code that can't be", text(&[0x04, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00])),
        no_text("inflates to no text", text(&deflated(&[b"caf\xe9".as_slice(); 50].concat()))),
        big("inflates to more than allowed", frame(BINARY | RSV1, &bomb)),
        big("inflates to one byte more than allowed", frame(BINARY | RSV1, &over)),
        big(
            "inflates to more than allowed, in fragments",
            [frame((BINARY ^ FIN) | RSV1, half), frame(FIN, rest)].concat(),
        ),
        wrong("another reserved bit", frame(TEXT | RSV1 | RSV2, HELLO)),
        Broken {
            theirs: None,
            ..wrong(
                "a message inside a compressed one",
                [frame((TEXT ^ FIN) | RSV1, b""), text(HELLO)].concat(),
            )
        },
    ]
}

/// Where they are more lenient than RFC 7692 (§6.1, §7.2.2), so that only the gateway is asked.
fn lenient() -> Vec<(&'static str, Vec<u8>, u16)> {
    let marked = [frame((TEXT ^ FIN) | RSV1, b""), frame(FIN | RSV1, HELLO)].concat();
    let cut = frame(TEXT | RSV1, &HELLO[..HELLO.len() - 2]);
    let longer = frame(TEXT | RSV1, &[HELLO, &[0xff]].concat());
    vec![
        ("a ping marked as compressed", frame(PING | RSV1, b""), 1002),
        ("a close marked as compressed", frame(CLOSE | RSV1, b""), 1002),
        ("a continuation marked as compressed", marked, 1002),
        ("a message that was cut off", cut, 1007),
        ("half a block behind the last one", longer, 1007),
    ]
}

fn theirs() -> Options {
    // Their limit is the first size that is refused.
    let options = Options::default().with_balanced_compression().with_utf8();
    options.with_limits(LIMIT + 1, LIMIT + 1)
}

/// A server of theirs, and the client's end of its line.
fn server(options: Options) -> (WebSocket<DuplexStream>, DuplexStream) {
    let (near, far) = duplex(4 << 20);
    let server =
        WebSocket::from_stream_with_extensions(near, Role::Server, Some(AGREED), options).unwrap();
    (server, far)
}

/// What a server of theirs hears, whether it then fails or lacks the rest, and the code that it
/// closes with.
async fn heard_by_them(options: Options, bytes: &[u8]) -> (Vec<Said>, bool, Option<u16>) {
    let (mut server, mut far) = server(options);
    far.write_all(bytes).await.unwrap();
    far.shutdown().await.unwrap();
    let (mut said, mut failed) = (Vec::new(), false);
    // After its fault it is asked once more, for its close frame goes out then.
    for _ in 0..2 {
        loop {
            match soon("their verdict", server.next_frame()).await {
                Ok(frame) => match frame.opcode() {
                    OpCode::Text => said.push(Said(Kind::Text, frame.payload().to_vec())),
                    OpCode::Binary => said.push(Said(Kind::Binary, frame.payload().to_vec())),
                    _ => {}
                },
                Err(yawc::WebSocketError::ConnectionClosed) => break,
                Err(_) => {
                    failed = true;
                    break;
                }
            }
        }
    }
    drop(server);
    let mut answer = Vec::new();
    far.read_to_end(&mut answer).await.unwrap();
    let code = match *answer {
        [CLOSE, _, high, low, ..] => Some(u16::from_be_bytes([high, low])),
        _ => None,
    };
    (said, failed, code)
}

/// What the gateway closes with, as a client of theirs reads it.
async fn code_for(gateway: &Gateway, bytes: &[u8]) -> u16 {
    let (mut raw, response) = Raw::compressing(gateway.websocket()).await;
    assert!(response.contains(AGREED), "{response}");
    raw.send(bytes).await;
    let mut client = WebSocket::from_stream_with_extensions(
        raw.into_stream(),
        Role::Client,
        Some(AGREED),
        Options::default().with_balanced_compression(),
    )
    .unwrap();
    loop {
        let frame = soon("a close frame", client.next_frame()).await.unwrap();
        if frame.opcode() == OpCode::Close {
            return frame.close_code().unwrap().into();
        }
    }
}

#[tokio::test]
async fn what_is_broken_is_refused_by_both_and_with_the_right_code() {
    let limit = format!("limits.max_message={LIMIT}");
    let gateway = Gateway::with(&[SETTINGS[0], "websocket.welcome=none", &limit]).await;
    for case in broken() {
        let before = gateway.closed(case.cause);
        assert_eq!(code_for(&gateway, &case.bytes).await, case.code, "{}", case.what);
        assert_eq!(gateway.closed(case.cause), before + 1, "{}", case.what);
        let (_, failed, code) = heard_by_them(theirs(), &case.bytes).await;
        println!("{}: {} here, {code:?} there, failed: {failed}", case.what, case.code);
        assert!(failed, "{}", case.what);
        assert!(case.theirs.is_none() || code == case.theirs, "{}: {code:?}", case.what);
    }
    for (what, bytes, code) in lenient() {
        assert_eq!(code_for(&gateway, &bytes).await, code, "{what}");
        if !heard_by_them(theirs(), &bytes).await.1 {
            println!("{what}: {code} here, accepted there");
        }
    }
    assert_eq!(gateway.sum(|stats| stats.panics.get()), 0);
}

/// Whether bytes follow on a final block: RFC 7692 §7.2.3.4 allows it, and they drop them.
fn goes_on_after_its_end(payload: &[u8], limit: usize) -> bool {
    let mut zlib = Decompress::new(false);
    let mut out = Vec::with_capacity(limit);
    let status = zlib.decompress_vec(payload, &mut out, FlushDecompress::None);
    matches!(status, Ok(Status::StreamEnd)) && zlib.total_in() < payload.len() as u64
}

/// What our codec hears of a client, and whether it then fails, lacks the rest, or comes to what
/// they don't read.
fn heard_by_us(bytes: &[u8], limit: usize) -> (Vec<Said>, bool) {
    let limits = Limits { max_message: limit, max_fragments: u32::MAX };
    let (mut decoder, mut inflater) = (Decoder::new(true), Inflater::new());
    let (mut said, mut out, mut failed) = (Vec::new(), Vec::new(), false);
    let mut bytes = bytes.to_vec();
    let mut input = bytes.as_mut_slice();
    while !failed {
        match decoder.next(&mut input, &limits, &mut Work::unbounded()) {
            Ok(Some(Event::Message { kind, compressed: false, bytes })) => {
                said.push(Said(kind, bytes.to_vec()));
            }
            Ok(Some(Event::Message { kind, compressed: true, bytes })) => {
                failed = goes_on_after_its_end(&bytes, limit)
                    || inflater.inflate(kind, &bytes, limit, &mut out).is_err();
                if !failed {
                    said.push(Said(kind, out.clone()));
                }
            }
            Ok(Some(Event::Ping(_) | Event::Pong(_) | Event::Close(_))) => {}
            Ok(None) => break,
            Err(_) => failed = true,
        }
    }
    (said, failed || decoder.mid_message())
}

/// What a client of theirs writes.
async fn written(random: &mut Random, said: &[Said]) -> Vec<u8> {
    let (near, mut far) = duplex(4 << 20);
    let mut options = Options::default().with_balanced_compression();
    if random.once_in(2) {
        options = options.with_max_fragment_size(1 + random.below(500));
    }
    let role = Role::Client;
    let mut client =
        WebSocket::from_stream_with_extensions(near, role, Some(AGREED), options).unwrap();
    for message in said {
        client.send(message.frame()).await.unwrap();
    }
    drop(client);
    let mut bytes = Vec::new();
    far.read_to_end(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn what_was_damaged_on_its_way_is_heard_alike_by_both() {
    const LIMIT: usize = 1 << 20;
    let options = Options::default().with_balanced_compression().with_utf8();
    let options = options.with_limits(LIMIT + 1, LIMIT + 1);
    let (mut whole, mut refused) = (0, 0);
    for seed in seeds("DAMAGE", SEEDS) {
        println!("DAMAGE_SEED={seed}");
        let mut random = Random::new(seed);
        let said: Vec<_> = (0..=random.below(5)).map(|_| Said::random(&mut random)).collect();
        let bytes = written(&mut random, &said).await;
        assert_eq!(heard_by_us(&bytes, LIMIT), (said.clone(), false));
        let (theirs, failed, _) = heard_by_them(options.clone(), &bytes).await;
        assert_eq!((theirs, failed), (said, false));
        for _ in 0..6 {
            let mut damaged = bytes.clone();
            for _ in 0..=random.below(2) {
                let place = random.below(damaged.len());
                damaged[place] = u8::try_from(random.below(256)).unwrap();
            }
            let (ours, we_fail) = heard_by_us(&damaged, LIMIT);
            let (theirs, they_fail, _) = heard_by_them(options.clone(), &damaged).await;
            // Either may be the first to refuse; what was heard before is the same.
            let both = ours.len().min(theirs.len());
            assert_eq!(ours[..both], theirs[..both]);
            if we_fail {
                refused += 1;
                continue;
            }
            assert_eq!((ours, false), (theirs, they_fail), "we are the more lenient");
            whole += 1;
        }
    }
    println!("{whole} of the damaged were heard to their end, {refused} were refused");
    assert!(whole > 0 && refused > 0);
}
