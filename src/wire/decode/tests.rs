//! What the decoder makes of a client, and the tools with which its tests play that client.

mod broken;
mod peer;
mod properties;
mod recorded;

use super::*;

/// An [`Event`] that owns what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Message(Kind, Vec<u8>),
    Deflated(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<Event<'_>> for Said {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Message { kind, compressed: false, bytes } => Self::Message(kind, bytes.into()),
            Event::Message { kind, compressed: true, bytes } => Self::Deflated(kind, bytes.into()),
            Event::Ping(bytes) => Self::Ping(bytes.into()),
            Event::Pong(bytes) => Self::Pong(bytes.into()),
            Event::Close(close) => Self::Close(close),
        }
    }
}

const LIMITS: Limits = Limits { max_message: 1 << 20, max_fragments: 64 };
const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const CONTINUE: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A frame as a client sends it; `first` is its first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame::head(Opcode::Text, false, payload.len()).to_vec();
    bytes[0] = first;
    bytes[1] |= 0x80;
    let key = [0x3a, 0xc5, 0x00, 0x9f];
    bytes.extend(key);
    let start = bytes.len();
    bytes.extend_from_slice(payload);
    mask::apply(&mut bytes[start..], key);
    bytes
}

fn text(payload: &str) -> Said {
    Said::Message(Kind::Text, payload.as_bytes().to_vec())
}

/// What came of a stream: the events, and the violation with how many bytes had been fed by then.
#[derive(Debug, PartialEq)]
struct Heard {
    said: Vec<Said>,
    failed: Option<(Violation, usize)>,
}

impl Heard {
    /// The same, but for how the stream was cut.
    fn verdict(&self) -> (&[Said], Option<Violation>) {
        (&self.said, self.failed.map(|(violation, _)| violation))
    }
}

/// Feeds `stream` to `decoder` in reads that end at `ends` and at its end.
fn hear(decoder: &mut Decoder, stream: &[u8], limits: &Limits, ends: &[usize]) -> Heard {
    let mut ends = ends.to_vec();
    ends.push(stream.len());
    ends.sort_unstable();
    let mut said = Vec::new();
    let mut start = 0;
    for end in ends {
        let mut read = stream[start..end].to_vec();
        let mut rest = read.as_mut_slice();
        loop {
            match decoder.next(&mut rest, limits, &mut Work::unbounded()) {
                Ok(Some(event)) => said.push(event.into()),
                Ok(None) => break,
                Err(violation) => return Heard { said, failed: Some((violation, end)) },
            }
        }
        assert!(rest.is_empty());
        start = end;
    }
    Heard { said, failed: None }
}

/// The first event in what was read.
fn next<'a>(decoder: &mut Decoder, read: &'a mut [u8]) -> Option<Event<'a>> {
    decoder.next(&mut { read }, &LIMITS, &mut Work::unbounded()).unwrap()
}

/// What a client says with `frames`, all in one read.
fn said(frames: &[Vec<u8>]) -> Vec<Said> {
    let heard = hear(&mut Decoder::default(), &frames.concat(), &LIMITS, &[]);
    assert_eq!(heard.failed, None);
    heard.said
}

#[test]
fn what_is_put_back_is_heard_again_with_what_follows() {
    for (kind, size) in
        [(Kind::Text, 0), (Kind::Text, 126), (Kind::Binary, 1), (Kind::Binary, 70_000)]
    {
        let payload = vec![b'x'; size];
        let again = frame::as_heard(kind, &payload).into_vec();
        let message = Said::Message(kind, payload);
        // Whether or not compression was agreed to, and twice over.
        for mut decoder in [Decoder::default(), Decoder::new(true)] {
            let stream = [&*again, &frame(FIN | PING, b"hi"), &again].concat();
            let heard = hear(&mut decoder, &stream, &LIMITS, &[]);
            assert_eq!(heard.failed, None);
            assert_eq!(heard.said, [message.clone(), Said::Ping(b"hi".into()), message.clone()]);
        }
    }
}

#[test]
fn an_idle_client_costs_two_words() {
    assert_eq!(size_of::<Decoder>(), 16);
    assert_eq!(Decoder::default().partial_bytes(), 0);
    assert!(!Decoder::default().mid_message());
}

#[test]
fn a_whole_frame_is_lent_from_the_read_buffer() {
    let mut decoder = Decoder::default();
    let mut read = frame(FIN | TEXT, b"hello");
    let (from, to) = (read.as_ptr() as usize, read.as_ptr() as usize + read.len());
    let Some(Event::Message { bytes, .. }) = next(&mut decoder, &mut read) else { panic!("none") };
    assert!((from..to).contains(&(bytes.as_ptr() as usize)));
    assert_eq!(decoder, Decoder::default());
}

#[test]
fn a_payload_that_follows_its_head_is_lent_too() {
    let mut decoder = Decoder::default();
    let mut read = frame(FIN | BINARY, &[7; 1000]);
    let (head, payload) = read.split_at_mut(8);
    assert_eq!(next(&mut decoder, head), None);
    assert!(decoder.mid_message());
    let place = payload.as_ptr();
    let Some(Event::Message { bytes, .. }) = next(&mut decoder, payload) else { panic!("none") };
    assert!(bytes.as_ptr() == place && *bytes == [7; 1000]);
    assert_eq!(decoder, Decoder::default());
}

#[test]
fn a_control_frame_in_pieces_leaves_nothing_behind() {
    let mut decoder = Decoder::default();
    let ping = frame(FIN | PING, b"still there?");
    for cut in 1..ping.len() {
        let before = hear(&mut decoder, &ping[..cut], &LIMITS, &[]);
        assert_eq!(before, Heard { said: Vec::new(), failed: None });
        assert!(decoder.mid_message() && decoder.partial_bytes() > 0);
        let after = hear(&mut decoder, &ping[cut..], &LIMITS, &[]);
        assert_eq!(after.said, [Said::Ping(b"still there?".to_vec())]);
        assert_eq!(decoder, Decoder::default());
    }
}

#[test]
fn control_frames_pass_between_fragments() {
    let frames = [
        frame(TEXT, b"one "),
        frame(FIN | PING, b"?"),
        frame(CONTINUE, b""),
        frame(FIN | PONG, b"!"),
        frame(FIN | CONTINUE, b"two"),
        frame(FIN | BINARY, b""),
    ];
    let expected = [
        Said::Ping(b"?".to_vec()),
        Said::Pong(b"!".to_vec()),
        text("one two"),
        Said::Message(Kind::Binary, Vec::new()),
    ];
    assert_eq!(said(&frames), expected);
}

#[test]
fn nothing_is_heard_after_a_close() {
    let frames = [
        frame(TEXT, b"never finished"),
        frame(FIN | CLOSE, b"\x03\xe8bye"),
        frame(FIN | TEXT, b"ignored"),
        vec![0xff; 100],
    ];
    assert_eq!(said(&frames), [Said::Close(Some((1000, "bye".to_owned())))]);
    assert_eq!(said(&[frame(FIN | CLOSE, b"")]), [Said::Close(None)]);
}

#[test]
fn nothing_is_heard_after_a_violation() {
    let mut decoder = Decoder::default();
    let stream = [frame(TEXT, b"begun"), frame(FIN | TEXT, b"again")].concat();
    let heard = hear(&mut decoder, &stream, &LIMITS, &[]);
    assert_eq!(heard.verdict(), (&[][..], Some(Violation::InterleavedMessage)));
    assert_eq!((decoder.mid_message(), decoder.partial_bytes()), (false, 0));
    let later = hear(&mut decoder, &frame(FIN | TEXT, b"ignored"), &LIMITS, &[]);
    assert_eq!(later, Heard { said: Vec::new(), failed: None });
}

#[test]
fn who_stops_gets_the_rest_as_it_came() {
    let mut decoder = Decoder::default();
    let first = frame(FIN | TEXT, b"one");
    let second = frame(FIN | TEXT, b"two");
    let mut read = [&*first, &*second].concat();
    assert!(next(&mut decoder, &mut read).is_some());
    assert_eq!(read[first.len()..], second);
    let heard = hear(&mut decoder, &read[first.len()..], &LIMITS, &[]);
    assert_eq!(heard.said, [text("two")]);
}

#[test]
fn deflated_messages_pass_unchecked_where_they_were_agreed() {
    let mut decoder = Decoder::new(true);
    let stream = [
        frame(FIN | RSV1 | TEXT, b"\xff\xfe"),
        frame(RSV1 | TEXT, b"\xff"),
        frame(FIN | PING, b""),
        frame(FIN | CONTINUE, b"\xfe"),
        frame(FIN | TEXT, b"plain"),
    ]
    .concat();
    let deflated = Said::Deflated(Kind::Text, b"\xff\xfe".to_vec());
    let expected = [deflated.clone(), Said::Ping(Vec::new()), deflated, text("plain")];
    let heard = hear(&mut decoder, &stream, &LIMITS, &[]);
    assert_eq!(heard, Heard { said: expected.to_vec(), failed: None });
}

#[test]
fn a_declared_length_reserves_nothing() {
    let mut decoder = Decoder::default();
    let stream = frame(FIN | BINARY, &vec![1; 1 << 20]);
    hear(&mut decoder, &stream[..14], &LIMITS, &[]);
    assert!(decoder.partial_bytes() < 300, "{}", decoder.partial_bytes());
    hear(&mut decoder, &stream[14..1014], &LIMITS, &[]);
    assert!(decoder.partial_bytes() < 2300, "{}", decoder.partial_bytes());
}

#[test]
fn memory_stays_within_the_message_limit_and_goes_with_the_message() {
    let limits = Limits { max_message: 10_000, max_fragments: 64 };
    let mut decoder = Decoder::default();
    let mut most = 0;
    for fragment in 0..10 {
        let first = if fragment == 0 { BINARY } else { CONTINUE };
        let heard = hear(&mut decoder, &frame(first, &[1; 1000]), &limits, &[500]);
        assert_eq!(heard, Heard { said: Vec::new(), failed: None });
        most = most.max(decoder.partial_bytes());
    }
    assert!((10_000..10_300).contains(&most), "{most}");
    let heard = hear(&mut decoder, &frame(FIN | CONTINUE, b""), &limits, &[]);
    assert_eq!(heard.said, [Said::Message(Kind::Binary, vec![1; 10_000])]);
    assert_eq!(decoder, Decoder::default());
}
