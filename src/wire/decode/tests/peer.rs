//! The codec against another implementation: tungstenite as the client, and as a second opinion.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
};

use proptest::{prelude::*, sample::Index};
use tokio_tungstenite::tungstenite::{
    self, Message, WebSocket,
    protocol::{
        CloseFrame, Role, WebSocketConfig,
        frame::{
            Frame,
            coding::{CloseCode, Data, OpCode},
        },
    },
};

use super::*;

/// What the peer reads from and writes to.
#[derive(Default)]
struct Line {
    incoming: VecDeque<u8>,
    outgoing: Vec<u8>,
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.incoming.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            read => Ok(read),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn peer(role: Role) -> WebSocket<Line> {
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .max_message_size(Some(LIMITS.max_message))
        .max_frame_size(Some(LIMITS.max_message));
    WebSocket::from_raw_socket(Line::default(), role, Some(config))
}

/// Everything that the peer hears of `stream`, and whether it then fails.
fn heard_by(peer: &mut WebSocket<Line>, stream: &[u8]) -> (Vec<Said>, bool) {
    peer.get_mut().incoming.extend(stream);
    let mut said = Vec::new();
    loop {
        said.push(match peer.read() {
            Ok(Message::Text(text)) => Said::Message(Kind::Text, text.as_bytes().to_vec()),
            Ok(Message::Binary(bytes)) => Said::Message(Kind::Binary, bytes.to_vec()),
            Ok(Message::Ping(bytes)) => Said::Ping(bytes.to_vec()),
            Ok(Message::Pong(bytes)) => Said::Pong(bytes.to_vec()),
            Ok(Message::Close(close)) => {
                let close = close.map(|close| (close.code.into(), close.reason.to_string()));
                said.push(Said::Close(close));
                return (said, false);
            }
            Ok(Message::Frame(frame)) => panic!("{frame:?} is never read"),
            Err(tungstenite::Error::Io(fault)) if fault.kind() == io::ErrorKind::WouldBlock => {
                return (said, false);
            }
            Err(_) => return (said, true),
        });
    }
}

/// Anything that may be said, but for a close.
fn any_said() -> impl Strategy<Value = Said> {
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
    prop_oneof![
        "\\PC{0,100}".prop_map(|text| Said::Message(Kind::Text, text.into_bytes())),
        bytes(300).prop_map(|bytes| Said::Message(Kind::Binary, bytes)),
        (65_500usize..65_600).prop_map(|len| Said::Message(Kind::Binary, vec![9; len])),
        bytes(126).prop_map(Said::Ping),
        bytes(126).prop_map(Said::Pong),
    ]
}

/// The same, and where it is cut into fragments if it is a message.
fn any_line() -> impl Strategy<Value = (Said, Vec<Index>)> {
    (any_said(), prop::collection::vec(any::<Index>(), 0..4))
}

fn say(client: &mut WebSocket<Line>, said: &Said, cuts: &[Index]) {
    match said.clone() {
        Said::Message(kind, payload) if !cuts.is_empty() => {
            let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
            ends.push(payload.len());
            ends.sort_unstable();
            let mut start = 0;
            let mut opcode = if kind == Kind::Text { Data::Text } else { Data::Binary };
            for (index, &end) in ends.iter().enumerate() {
                let last = index + 1 == ends.len();
                let piece = payload[start..end].to_vec();
                let frame = Frame::message(piece, OpCode::Data(opcode), last);
                client.write(Message::Frame(frame)).unwrap();
                (start, opcode) = (end, Data::Continue);
            }
        }
        Said::Message(Kind::Text, payload) => {
            client.write(Message::text(String::from_utf8(payload).unwrap())).unwrap();
        }
        Said::Message(Kind::Binary, payload) => client.write(Message::binary(payload)).unwrap(),
        Said::Ping(payload) => client.write(Message::Ping(payload.into())).unwrap(),
        Said::Pong(payload) => client.write(Message::Pong(payload.into())).unwrap(),
        Said::Close(close) => {
            let close = close.map(|(code, reason)| CloseFrame {
                code: CloseCode::from(code),
                reason: reason.into(),
            });
            client.write(Message::Close(close)).unwrap();
        }
        Said::Deflated(..) => panic!("the peer can't deflate"),
    }
    // Written at once, because the peer keeps only one pong for later.
    client.flush().unwrap();
}

proptest! {
    #[test]
    fn a_client_of_theirs_is_understood(
        lines in prop::collection::vec(any_line(), 0..8),
        close in prop::option::of(prop::option::of((3000u16..5000, "\\PC{0,20}"))),
        reads in prop::collection::vec(any::<Index>(), 0..8),
    ) {
        let mut client = peer(Role::Client);
        let mut expected = Vec::new();
        for (said, cuts) in lines {
            say(&mut client, &said, &cuts);
            expected.push(said);
        }
        if let Some(close) = close {
            say(&mut client, &Said::Close(close.clone()), &[]);
            expected.push(Said::Close(close));
        }
        let stream = std::mem::take(&mut client.get_mut().outgoing);
        let ends: Vec<_> = reads.iter().map(|end| end.index(stream.len() + 1)).collect();
        let heard = hear(&mut Decoder::default(), &stream, &LIMITS, &ends);
        prop_assert_eq!(heard, Heard { said: expected, failed: None });
    }

    #[test]
    fn a_client_of_theirs_understands(
        lines in prop::collection::vec(any_said(), 0..8),
        code in 3000u16..5000,
        reason in "\\PC{0,30}",
    ) {
        let mut stream = Vec::new();
        for said in &lines {
            stream.extend(match said {
                Said::Message(kind, payload) => frame::encode(*kind, payload),
                Said::Ping(payload) => frame::encode_with(Opcode::Ping, false, payload),
                Said::Pong(payload) => frame::pong(payload),
                other => panic!("{other:?} is not generated"),
            });
        }
        stream.extend(frame::PING);
        stream.extend(frame::close(code, &reason));
        let mut expected = lines;
        expected.push(Said::Ping(Vec::new()));
        expected.push(Said::Close(Some((code, reason))));
        prop_assert_eq!(heard_by(&mut peer(Role::Client), &stream), (expected, false));
    }

    /// We are never the more lenient; where we are stricter or earlier, what was heard before is
    /// the same.
    #[test]
    fn damage_is_found_by_both(
        lines in prop::collection::vec(any_line(), 1..5),
        damage in prop::collection::vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let mut client = peer(Role::Client);
        for (said, cuts) in &lines {
            say(&mut client, said, cuts);
        }
        let mut stream = std::mem::take(&mut client.get_mut().outgoing);
        for (at, byte) in damage {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        let limits = Limits { max_fragments: u32::MAX, ..LIMITS };
        let ours = hear(&mut Decoder::default(), &stream, &limits, &[]);
        let (theirs, they_fail) = heard_by(&mut peer(Role::Server), &stream);
        if ours.failed.is_some() {
            prop_assert!(theirs.starts_with(&ours.said), "{:?} but they {:?}", ours, theirs);
        } else {
            prop_assert_eq!((ours.said, false), (theirs, they_fail));
        }
    }
}
