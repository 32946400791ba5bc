//! RFC 6455 read once more, by somebody in no hurry: a second opinion on what a client said.
//!
//! This one has the whole stream in its hands, so it is short, and shares nothing with the decoder
//! but the limits and the codes for failing.

use gateway_websocket::{message::Kind, wire::Violation};

use super::codec::{Case, Said};

/// How a stream ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// With its last frame, or with a close.
    Clean,
    /// In the middle of a frame or a message; what there is of it may already be wrong.
    Open,
    /// By a fault that is answered with this close code.
    Failed(u16),
}

/// Why reading stops before the stream is at its end.
enum Stop {
    Closed,
    Cut,
    Failed(u16),
}

const PROTOCOL: Stop = Stop::Failed(1002);
const BAD_DATA: Stop = Stop::Failed(1007);
const POLICY: Stop = Stop::Failed(1008);
const TOO_BIG: Stop = Stop::Failed(1009);

/// Holds what was heard of a stream against the second opinion.
pub(super) fn check(said: &[Said], failed: Option<Violation>, case: &Case<'_>) {
    let mut reader = Reader { case, rest: case.stream, said: Vec::new(), message: None };
    let end = reader.read();
    assert_eq!(said, reader.said, "another reader hears the same");
    let code = failed.map(|violation| violation.close().code);
    match end {
        End::Clean => assert_eq!(code, None, "another reader finds no fault"),
        End::Failed(expected) => assert_eq!(code, Some(expected), "another reader finds a fault"),
        End::Open => {}
    }
}

/// The frame of a server, as a client would send it.
pub(super) fn masked(frame: &[u8], key: [u8; 4]) -> Vec<u8> {
    let head = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let (head, payload) = frame.split_at(head);
    let mut bytes = head.to_vec();
    bytes[1] |= 0x80;
    bytes.extend(key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

struct Message {
    text: bool,
    compressed: bool,
    frames: u32,
    bytes: Vec<u8>,
}

struct Reader<'a> {
    case: &'a Case<'a>,
    rest: &'a [u8],
    said: Vec<Said>,
    /// The message that is under way.
    message: Option<Message>,
}

impl Reader<'_> {
    fn read(&mut self) -> End {
        while !self.rest.is_empty() {
            match self.frame() {
                Ok(()) => {}
                Err(Stop::Closed) => return End::Clean,
                Err(Stop::Cut) => return End::Open,
                Err(Stop::Failed(code)) => return End::Failed(code),
            }
        }
        if self.message.is_some() { End::Open } else { End::Clean }
    }

    fn take(&mut self, count: u64) -> Result<&[u8], Stop> {
        let count = usize::try_from(count).map_err(|_| Stop::Cut)?;
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Stop::Cut)?;
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: u64) -> Result<u64, Stop> {
        Ok(self.take(bytes)?.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn frame(&mut self) -> Result<(), Stop> {
        let first = self.number(1)?;
        let (fin, reserved, opcode) = (first >> 7 == 1, first >> 4 & 7, first & 15);
        let compressed = reserved == 4;
        let begins = opcode == 1 || opcode == 2;
        let right = match opcode {
            0 => self.message.is_some() && reserved == 0,
            1 | 2 => self.message.is_none() && (reserved == 0 || compressed && self.case.deflate),
            8..=10 => fin && reserved == 0,
            _ => false,
        };
        if !right {
            return Err(PROTOCOL);
        }
        let second = self.number(1)?;
        let length = match second & 127 {
            _ if second < 128 || opcode >= 8 && second & 127 > 125 => return Err(PROTOCOL),
            126 => Some(self.number(2)?).filter(|length| *length > 125),
            127 => Some(self.number(8)?).filter(|length| *length >> 16 != 0 && *length >> 63 == 0),
            short => Some(short),
        };
        let Some(length) = length else { return Err(PROTOCOL) };
        let key = self.take(4)?.to_vec();

        if begins {
            let message = Message { text: opcode == 1, compressed, frames: 0, bytes: Vec::new() };
            self.message = Some(message);
        }
        if opcode < 8 {
            self.admit(length)?;
        }
        let payload = self.take(length)?.iter().zip(key.iter().cycle());
        let payload: Vec<_> = payload.map(|(byte, key)| byte ^ key).collect();
        match opcode {
            8 => return self.close(&payload),
            9 => self.said.push(Said::Ping(payload)),
            10 => self.said.push(Said::Pong(payload)),
            _ => return self.data(&payload, fin),
        }
        Ok(())
    }

    /// The limits hold as soon as a head is there.
    fn admit(&mut self, length: u64) -> Result<(), Stop> {
        let limits = &self.case.limits;
        let Some(message) = &mut self.message else { return Err(PROTOCOL) };
        message.frames += 1;
        if message.bytes.len() as u64 + length > limits.max_message as u64 {
            return Err(TOO_BIG);
        }
        // The first frame is free: a message in one frame is always welcome.
        if message.frames > limits.max_fragments.max(1) { Err(POLICY) } else { Ok(()) }
    }

    fn data(&mut self, payload: &[u8], fin: bool) -> Result<(), Stop> {
        let Some(mut message) = self.message.take() else { return Err(PROTOCOL) };
        message.bytes.extend(payload);
        if message.text && !message.compressed {
            match std::str::from_utf8(&message.bytes) {
                Err(fault) if fin || fault.error_len().is_some() => return Err(BAD_DATA),
                _ => {}
            }
        }
        if fin {
            let Message { text, compressed, bytes, .. } = message;
            let kind = if text { Kind::Text } else { Kind::Binary };
            self.said.push(Said::Message { kind, compressed, bytes });
        } else {
            self.message = Some(message);
        }
        Ok(())
    }

    fn close(&mut self, payload: &[u8]) -> Result<(), Stop> {
        let close = match payload {
            [] => None,
            [_] => return Err(PROTOCOL),
            [high, low, reason @ ..] => {
                let code = u16::from(*high) << 8 | u16::from(*low);
                let reserved = [1004, 1005, 1006].contains(&code);
                if !(1000..=1014).contains(&code) && !(3000..5000).contains(&code) || reserved {
                    return Err(PROTOCOL);
                }
                let reason = std::str::from_utf8(reason).map_err(|_| BAD_DATA)?;
                Some((code, reason.to_owned()))
            }
        };
        self.said.push(Said::Close(close));
        Err(Stop::Closed)
    }
}
