//! What holds for every conversation, however it is fragmented and however the stream is cut.

use proptest::{prelude::*, sample::Index};

use super::*;

/// A message with the places where it is cut into fragments, and a control frame for each cut.
#[derive(Clone, Debug)]
struct Line {
    kind: Kind,
    payload: Vec<u8>,
    cuts: Vec<(Index, Option<Said>)>,
}

fn control() -> impl Strategy<Value = Said> {
    (any::<bool>(), prop::collection::vec(any::<u8>(), 0..=125))
        .prop_map(|(ping, payload)| if ping { Said::Ping(payload) } else { Said::Pong(payload) })
}

fn line() -> impl Strategy<Value = Line> {
    let text = prop_oneof![
        4 => "\\PC{0,40}",
        1 => "[a-zé€𝄞]{100,300}",
    ];
    let bytes = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..200),
        1 => (any::<u8>(), 65_530usize..65_550).prop_map(|(byte, len)| vec![byte; len]),
    ];
    let content = prop_oneof![
        text.prop_map(|text| (Kind::Text, text.into_bytes())),
        bytes.prop_map(|bytes| (Kind::Binary, bytes)),
    ];
    let cuts = prop::collection::vec((any::<Index>(), prop::option::of(control())), 0..5);
    (content, cuts).prop_map(|((kind, payload), cuts)| Line { kind, payload, cuts })
}

/// A conversation: the stream that a client sends, and the events that come of it.
fn conversation(lines: usize) -> impl Strategy<Value = (Vec<u8>, Vec<Said>)> {
    let close = prop::option::of((3000u16..5000, "\\PC{0,20}"));
    (prop::collection::vec(line(), 0..lines), close).prop_map(|(lines, close)| {
        let (mut stream, mut said) = (Vec::new(), Vec::new());
        for line in &lines {
            line.play(&mut stream, &mut said);
        }
        if let Some((code, reason)) = close {
            stream.extend(frame(FIN | CLOSE, &[&code.to_be_bytes(), reason.as_bytes()].concat()));
            said.push(Said::Close(Some((code, reason))));
        }
        (stream, said)
    })
}

impl Line {
    fn play(&self, stream: &mut Vec<u8>, said: &mut Vec<Said>) {
        let mut opcode = if self.kind == Kind::Text { TEXT } else { BINARY };
        let mut start = 0;
        let mut cuts: Vec<_> = self
            .cuts
            .iter()
            .map(|(at, control)| (at.index(self.payload.len() + 1), control))
            .collect();
        cuts.sort_by_key(|(at, _)| *at);
        for (at, control) in cuts {
            stream.extend(frame(opcode, &self.payload[start..at]));
            (start, opcode) = (at, CONTINUE);
            match control {
                Some(Said::Ping(payload)) => stream.extend(frame(FIN | PING, payload)),
                Some(Said::Pong(payload)) => stream.extend(frame(FIN | PONG, payload)),
                _ => continue,
            }
            said.extend(control.clone());
        }
        stream.extend(frame(FIN | opcode, &self.payload[start..]));
        said.push(Said::Message(self.kind, self.payload.clone()));
    }
}

fn places(cuts: &[Index], stream: &[u8]) -> Vec<usize> {
    cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect()
}

fn cuts() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 0..12)
}

proptest! {
    #[test]
    fn what_a_client_says_is_heard((stream, said) in conversation(6), cuts in cuts()) {
        let expected = Heard { said, failed: None };
        let bytewise: Vec<_> = (0..stream.len()).collect();
        for ends in [places(&cuts, &stream), bytewise, Vec::new()] {
            let mut decoder = Decoder::default();
            prop_assert_eq!(&hear(&mut decoder, &stream, &LIMITS, &ends), &expected);
            prop_assert_eq!((decoder.mid_message(), decoder.partial_bytes()), (false, 0));
        }
    }

    #[test]
    fn who_stops_at_every_event_hears_the_same((stream, expected) in conversation(6)) {
        let mut decoder = Decoder::default();
        let (mut rest, mut said) = (&*stream, Vec::<Said>::new());
        while !rest.is_empty() {
            let mut read = rest.to_vec();
            let before = said.len();
            let mut left = read.as_mut_slice();
            let event = decoder.next(&mut left, &LIMITS, &mut Work::unbounded()).unwrap();
            said.extend(event.map(Said::from));
            rest = &rest[rest.len() - left.len()..];
            prop_assert_eq!(left, rest, "what is left is as it came");
            prop_assert_eq!(said.len(), before + 1);
        }
        prop_assert_eq!(said, expected);
    }

    #[test]
    fn who_has_little_work_at_a_time_hears_the_same(
        (stream, expected) in conversation(6), units in 1usize..300,
    ) {
        let mut decoder = Decoder::default();
        let (mut bytes, mut said) = (stream.clone(), Vec::<Said>::new());
        let mut left = bytes.as_mut_slice();
        while !left.is_empty() {
            let before = left.len();
            let mut work = Work::new(units);
            while let Some(event) = decoder.next(&mut left, &LIMITS, &mut work).unwrap() {
                said.push(event.into());
            }
            prop_assert!(left.len() < before, "each turn goes on");
        }
        prop_assert_eq!(said, expected);
    }

    #[test]
    fn a_decoder_can_move_at_every_byte((stream, expected) in conversation(3)) {
        prop_assume!(stream.len() < 4000);
        let mut said = Vec::new();
        let mut state = serde_json::to_vec(&Decoder::default()).unwrap();
        for &byte in &stream {
            let mut decoder: Decoder = serde_json::from_slice(&state).unwrap();
            let heard = hear(&mut decoder, &[byte], &LIMITS, &[]);
            prop_assert_eq!(heard.failed, None);
            said.extend(heard.said);
            state = serde_json::to_vec(&decoder).unwrap();
        }
        prop_assert_eq!(&said, &expected);

        for at in 0..=stream.len() {
            let mut first = Decoder::default();
            let mut heard = hear(&mut first, &stream[..at], &LIMITS, &[]);
            let mut second = first.clone();
            drop(first);
            heard.said.extend(hear(&mut second, &stream[at..], &LIMITS, &[]).said);
            prop_assert_eq!(&heard.said, &expected);
        }
    }

    #[test]
    fn memory_follows_what_arrived((stream, _) in conversation(3), cuts in cuts()) {
        let mut decoder = Decoder::default();
        let (mut start, mut open) = (0, 0);
        for end in places(&cuts, &stream).into_iter().chain([stream.len()]) {
            let heard = hear(&mut decoder, &stream[start.min(end)..end], &LIMITS, &[]);
            let arrived = end.saturating_sub(start);
            start += arrived;
            let passing = |said: &Said| matches!(said, Said::Ping(_) | Said::Pong(_));
            open = if heard.said.iter().all(passing) { open + arrived } else { arrived };
            prop_assert!(decoder.partial_bytes() <= 2 * open + 512);
            prop_assert_eq!(decoder.mid_message(), decoder.partial_bytes() > 0);
        }
    }

    #[test]
    fn a_damaged_stream_gets_one_verdict(
        (mut stream, _) in conversation(4),
        damage in prop::collection::vec((any::<Index>(), any::<u8>()), 1..4),
        cuts in cuts(),
        deflate: bool,
    ) {
        for (at, byte) in damage {
            if !stream.is_empty() {
                let at = at.index(stream.len());
                stream[at] = byte;
            }
        }
        one_verdict(&stream, &cuts, deflate)?;
    }

    #[test]
    fn garbage_gets_one_verdict(
        stream in prop::collection::vec(prop_oneof![
            any::<u8>(),
            prop::sample::select(vec![0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8a, 0xfe]),
        ], 0..300),
        cuts in cuts(),
        deflate: bool,
    ) {
        one_verdict(&stream, &cuts, deflate)?;
    }

    #[test]
    fn text_fails_where_hope_ends(
        pieces in prop::collection::vec(prop_oneof![
            6 => any::<char>().prop_map(|c| c.to_string().into_bytes()),
            1 => any::<u8>().prop_map(|byte| vec![byte]),
        ], 0..20),
        cuts in prop::collection::vec(any::<Index>(), 0..4),
        reads in cuts(),
    ) {
        let payload = pieces.concat();
        let line = Line {
            kind: Kind::Text,
            payload: payload.clone(),
            cuts: cuts.into_iter().map(|cut| (cut, None)).collect(),
        };
        let mut stream = Vec::new();
        line.play(&mut stream, &mut Vec::new());

        let bytewise: Vec<_> = (0..stream.len()).collect();
        let heard = hear(&mut Decoder::default(), &stream, &LIMITS, &bytewise);
        let found = heard.failed.map(|(_, at)| at);
        prop_assert_eq!(found, hopeless_at(&payload, &stream));
        one_verdict(&stream, &reads, false)?;
    }
}

/// The length at which `stream`, which carries the text `payload` in short frames, can no longer
/// become a message of UTF-8.
fn hopeless_at(payload: &[u8], stream: &[u8]) -> Option<usize> {
    let hopeless = |end: usize| {
        std::str::from_utf8(&payload[..end]).is_err_and(|fault| fault.error_len().is_some())
    };
    let (mut at, mut seen) = (0, 0);
    while at < stream.len() {
        let len = usize::from(stream[at + 1] & 0x7f);
        assert!(len < 126, "short frames only");
        at += 6;
        if let Some(more) = (1..=len).find(|more| hopeless(seen + more)) {
            return Some(at + more);
        }
        at += len;
        seen += len;
    }
    std::str::from_utf8(payload).is_err().then_some(stream.len())
}

fn one_verdict(stream: &[u8], cuts: &[Index], deflate: bool) -> Result<(), TestCaseError> {
    let limits = Limits { max_message: 70_000, max_fragments: 4 };
    let whole = hear(&mut Decoder::new(deflate), stream, &limits, &[]);
    let bytewise: Vec<_> = (0..stream.len()).collect();
    for ends in [places(cuts, stream), bytewise] {
        let pieces = hear(&mut Decoder::new(deflate), stream, &limits, &ends);
        prop_assert_eq!(pieces.verdict(), whole.verdict());
    }
    Ok(())
}
