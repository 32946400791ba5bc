//! What holds for the reading of a PROXY header, whatever a connection begins with.
//!
//! ```text
//!   input   settings: how the rest is to be taken │ the first bytes of a connection, and more …
//! ```
//!
//! Half of the settings put the signature in front, which a fuzzer finds late. A second reader,
//! written along §2.2 of `proxy-protocol.txt` and sharing nothing with the first, has to agree.

use std::net::{IpAddr, SocketAddr};

use gateway_websocket::net::proxy::{MOST, Progress, Violation, Whom};

use super::settings;

/// What the bytes so far are.
pub type Verdict = Result<Progress, Violation>;

const SIGNATURE: [u8; 12] =
    [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a];

/// Checks what `parse` says to the beginning of a connection.
pub fn check(input: &[u8], parse: impl Fn(&[u8]) -> Verdict) {
    let Some(([way], rest)) = settings(input) else { return };
    let with_signature = [&SIGNATURE, rest].concat();
    let bytes = if way & 1 == 0 { &with_signature } else { rest };
    let verdict = parse(bytes);
    check_against(bytes, &verdict);

    // As it is read: never more than was asked for, until there is a verdict.
    let mut seen = 0;
    let stepped = loop {
        match parse(&bytes[..seen]) {
            Ok(Progress::More(wanted)) => {
                assert!(wanted > seen, "more is asked for");
                assert!(wanted <= MOST, "no more is asked for than a header has");
                if seen == bytes.len() {
                    break Ok(Progress::More(wanted));
                }
                // In steps of a few bytes, or all that is asked for.
                let step = if way & 2 == 0 { wanted } else { seen + 1 + usize::from(way >> 4) };
                seen = step.min(wanted).min(bytes.len());
            }
            ended => break ended,
        }
    };
    assert_eq!(stepped, verdict, "in pieces it is the same");
    if let Ok(Progress::Header { len, .. }) = verdict {
        assert_eq!(seen, len, "nothing behind the header is read");
        let alone = parse(&bytes[..len]);
        assert_eq!(alone, verdict, "what is behind the header makes no difference");
    }
}

/// Compares a verdict with that of the second reader.
fn check_against(bytes: &[u8], verdict: &Verdict) {
    match (second(bytes), verdict) {
        (Second::Unfinished, Ok(Progress::More(_))) | (Second::Wrong, Err(_)) => {}
        (Second::Header(whom, len), Ok(Progress::Header { whom: said, len: said_len })) => {
            assert_eq!((*said, *said_len), (whom, len), "a second reader reads the same");
        }
        (second, verdict) => panic!("a second reader says {second:?}, not {verdict:?}"),
    }
}

#[derive(Debug)]
enum Second {
    Unfinished,
    Header(Whom, usize),
    Wrong,
}

/// The second reader: field by field, from the front.
fn second(bytes: &[u8]) -> Second {
    let common = bytes.len().min(SIGNATURE.len());
    if bytes[..common] != SIGNATURE[..common] {
        return Second::Wrong;
    }
    // Nothing of the head is judged before all of it is there.
    let (Some(&version_command), Some(&family), Some(&high), Some(&low)) =
        (bytes.get(12), bytes.get(13), bytes.get(14), bytes.get(15))
    else {
        return Second::Unfinished;
    };
    let length = usize::from(high) * 256 + usize::from(low);
    let is_local = match version_command {
        0x20 => true,
        0x21 => false,
        _ => return Second::Wrong,
    };
    let addresses = match family {
        0x00..=0x02 | 0x10 | 0x20 | 0x30 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Second::Wrong,
    };
    if length > MOST - 16 || !is_local && length < addresses {
        return Second::Wrong;
    }
    if bytes.len() - 16 < length {
        return Second::Unfinished;
    }
    let at = |index: usize| bytes[16 + index];
    let port = |index: usize| u16::from(at(index)) * 256 + u16::from(at(index + 1));
    let whom = match addresses {
        _ if is_local => Whom::Proxy,
        12 => {
            let four = IpAddr::from([at(0), at(1), at(2), at(3)]);
            Whom::Client(SocketAddr::new(four, port(8)))
        }
        36 => {
            let octets: [u8; 16] = std::array::from_fn(at);
            let is_mapped = octets[..10] == [0; 10] && octets[10..12] == [0xff; 2];
            let address = if is_mapped {
                IpAddr::from([at(12), at(13), at(14), at(15)])
            } else {
                IpAddr::from(octets)
            };
            Whom::Client(SocketAddr::new(address, port(32)))
        }
        _ => Whom::Unknown,
    };
    Second::Header(whom, 16 + length)
}
