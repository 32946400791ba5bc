//! The gateway and another WebSocket that compresses (yawc): what one says the other hears,
//! whatever the two agreed on, and both call the same things broken.
//!
//! ```text
//!   seed ──► offer, level, fragments ──► yawc ◄── real socket ──► gateway (echo) ◄── gRPC
//!            messages, pings                 └──────── equal? ────────┘
//! ```
//!
//! Each run draws new seeds and prints them. `PEER_SEED=n` repeats one; `PEER_SEEDS` changes how
//! many there are.

mod broken;

use futures_util::SinkExt as _;
use gateway_websocket::message::Kind;
use tokio::net::TcpStream;
use yawc::{CompressionLevel, Frame, OpCode, Options, WebSocket};

use crate::{
    client::soon,
    gateway::Gateway,
    random::{Random, seeds},
};

/// Seeds of one run; each is a connection.
const SEEDS: u64 = 30;

/// Steps of one seed.
const STEPS: usize = 12;

/// Most bytes of a message.
const LARGE: usize = 200_000;

/// Sizes at which a head changes its form (RFC 6455 §5.2), and the smallest.
const EDGES: [usize; 8] = [0, 1, 125, 126, 127, 65_535, 65_536, 65_537];

/// What texts are made of; a text of these never is the `ping` that the gateway answers itself.
const WORDS: [&str; 8] = ["lobby ", "Ada ", "naïve ", "€ ", "𝄞", "\u{0}", "\n", "hello, hello "];

const SETTINGS: [&str; 3] =
    ["websocket.messages=echo", "limits.max_fragments=1_000_000", "limits.queue_bytes=4MiB"];

/// A message as it is said and heard.
#[derive(Clone, PartialEq, Eq)]
struct Said(Kind, Vec<u8>);

impl std::fmt::Debug for Said {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(kind, bytes) = self;
        write!(to, "{kind:?} of {} bytes: {:02x?}…", bytes.len(), &bytes[..bytes.len().min(40)])
    }
}

impl Said {
    fn random(random: &mut Random) -> Self {
        let most = random.one_of([300, 5_000, LARGE].into_iter());
        let edge = random.once_in(4).then(|| random.one_of(EDGES.into_iter()));
        let size = edge.unwrap_or_else(|| random.below(most));
        if random.once_in(2) {
            return Self(Kind::Text, text(random, size).into_bytes());
        }
        let noise = random.once_in(2);
        let byte = |_| u8::try_from(if noise { random.below(256) } else { random.below(3) });
        Self(Kind::Binary, (0..size).map(byte).map(Result::unwrap).collect())
    }

    fn frame(&self) -> Frame {
        let Self(kind, bytes) = self.clone();
        if kind == Kind::Text { Frame::text(bytes) } else { Frame::binary(bytes) }
    }
}

/// A text of exactly `size` bytes.
fn text(random: &mut Random, size: usize) -> String {
    let mut text = String::new();
    loop {
        let word = random.one_of(WORDS.into_iter());
        if text.len() + word.len() > size {
            text.extend(std::iter::repeat_n('.', size - text.len()));
            return text;
        }
        text.push_str(word);
    }
}

/// What a client offers and how it sends; one of three doesn't compress.
fn options(random: &mut Random) -> Options {
    let mut options = Options::default().with_utf8().with_limits(2 * LARGE, 2 * LARGE);
    if random.once_in(2) {
        // No less, for it cuts pings as well.
        options = options.with_max_fragment_size(125 + random.below(5_000));
    }
    if random.once_in(3) {
        return options;
    }
    let level = u32::try_from(1 + random.below(9)).unwrap();
    options = options.with_compression_level(CompressionLevel::new(level));
    let window = |random: &mut Random| 9 + u8::try_from(random.below(7)).unwrap();
    if random.once_in(2) {
        options = options.with_server_max_window_bits(window(random));
    }
    if random.once_in(2) {
        options = options.with_client_max_window_bits(window(random));
    }
    if random.once_in(2) {
        options = options.server_no_context_takeover();
    }
    if random.once_in(2) {
        options = options.client_no_context_takeover();
    }
    options.with_compression_threshold(random.one_of([0, 128, 10_000].into_iter()))
}

/// A client of theirs, connected to the gateway.
struct Peer {
    socket: WebSocket<TcpStream>,
    id: String,
}

impl Peer {
    async fn connect(gateway: &Gateway, options: Options) -> Self {
        let stream = TcpStream::connect(gateway.websocket()).await.unwrap();
        let url = format!("ws://{}/", gateway.websocket()).parse().unwrap();
        let upgrade = WebSocket::handshake(url, stream, options.with_no_delay());
        let mut peer =
            Self { socket: soon("the upgrade", upgrade).await.unwrap(), id: String::new() };
        let Said(_, id) = peer.hear().await;
        peer.id = String::from_utf8(id).unwrap();
        peer
    }

    async fn send(&mut self, frame: Frame) {
        soon("room for a frame", self.socket.send(frame)).await.unwrap();
    }

    async fn next(&mut self) -> Frame {
        soon("a frame", self.socket.next_frame()).await.unwrap()
    }

    /// The next frame, which is a message.
    async fn hear(&mut self) -> Said {
        let frame = self.next().await;
        let kind = match frame.opcode() {
            OpCode::Text => Kind::Text,
            OpCode::Binary => Kind::Binary,
            other => panic!("a message was expected, not {other:?}"),
        };
        Said(kind, frame.into_payload().to_vec())
    }

    /// Says a few messages and hears them again.
    async fn converse(&mut self, random: &mut Random) {
        let said: Vec<_> = (0..=random.below(3)).map(|_| Said::random(random)).collect();
        for message in &said {
            self.send(message.frame()).await;
        }
        for message in said {
            assert_eq!(self.hear().await, message);
        }
    }

    /// Hears what a call sends.
    async fn listen(&mut self, gateway: &Gateway, random: &mut Random) {
        let size = 1 + random.below(LARGE);
        let text = text(random, size);
        assert!(gateway.send_message_to_client(&*self.id, &*text).await.result);
        assert_eq!(self.hear().await, Said(Kind::Text, text.into_bytes()));
    }

    async fn ping(&mut self, random: &mut Random) {
        let payload = vec![b'?'; random.below(126)];
        self.send(Frame::ping(payload.clone())).await;
        let pong = self.next().await;
        assert_eq!((pong.opcode(), &**pong.payload()), (OpCode::Pong, &*payload));
    }
}

#[tokio::test]
async fn whatever_was_agreed_on_each_side_hears_what_the_other_said() {
    let gateway = Gateway::with(&SETTINGS).await;
    for seed in seeds("PEER", SEEDS) {
        let mut random = Random::new(seed);
        let options = options(&mut random);
        println!("PEER_SEED={seed}: {:?} {:?}", options.compression, options.fragmentation);
        let mut peer = Peer::connect(&gateway, options).await;
        for _ in 0..STEPS {
            match random.below(4) {
                0 => peer.listen(&gateway, &mut random).await,
                1 => peer.ping(&mut random).await,
                _ => peer.converse(&mut random).await,
            }
        }
        peer.send(Frame::close(yawc::close::CloseCode::Normal, "done")).await;
        assert_eq!(peer.next().await.close_code(), Some(yawc::close::CloseCode::Normal));
    }
    assert_eq!(gateway.sum(|stats| stats.panics.get()), 0);
}

/// The test above would hold as well if nobody compressed.
#[tokio::test]
async fn both_sides_do_compress_where_it_was_agreed_and_only_there() {
    let gateway = Gateway::with(&SETTINGS).await;
    let mut random = Random::new(1);
    let said = Said(Kind::Text, text(&mut random, LARGE / 4).into_bytes());
    let plain = Options::default();
    let offers = (9..=15).map(|bits| plain.clone().with_server_max_window_bits(bits));
    for options in offers.chain([plain.clone().with_balanced_compression(), plain.clone()]) {
        let compresses = options.compression.is_some();
        let mut peer = Peer::connect(&gateway, options).await;
        let traffic = || gateway.sum(|stats| stats.bytes_in.get() + stats.bytes_out.get());
        let before = traffic();
        peer.send(said.frame()).await;
        assert_eq!(peer.hear().await, said);
        // Once the pong is there, all before it is counted.
        peer.ping(&mut random).await;
        let passed = traffic() - before;
        assert_eq!(passed < LARGE as u64 / 4, compresses, "{passed} bytes passed");
        assert!(compresses || passed > LARGE as u64 / 2);
    }
}
