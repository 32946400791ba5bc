//! What holds for the reading of a PROXY header, whatever a connection begins with.
//!
//! ```text
//!   input   settings: how the rest is to be taken │ the first bytes of a connection, and more …
//! ```
//!
//! Half of the settings put the signature in front, which a fuzzer finds late, and a quarter the
//! first word of version 1. A second reader, written along §2.1 and §2.2 of `proxy-protocol.txt` and sharing nothing with the first, has to agree.

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
    let start: &[u8] = match (way & 1, way & 4) {
        (0, _) => &SIGNATURE,
        (_, 0) => b"",
        _ => b"PROXY ",
    };
    let bytes = &*[start, rest].concat();
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
    if bytes.is_empty() {
        return Second::Unfinished;
    }
    if bytes[0] == b'P' {
        return second_line(bytes);
    }
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

/// The second reader of version 1: the words of a line, one by one.
fn second_line(bytes: &[u8]) -> Second {
    let word = b"PROXY ";
    let common = bytes.len().min(word.len());
    if bytes[..common] != word[..common] {
        return Second::Wrong;
    }
    let feed = bytes.iter().take(107).position(|byte| *byte == b'\n');
    let Some(feed) = feed else {
        return if bytes.len() < 107 { Second::Unfinished } else { Second::Wrong };
    };
    if bytes[feed - 1] != b'\r' {
        return Second::Wrong;
    }
    let words: Vec<&[u8]> = bytes[..feed - 1].split(|byte| *byte == b' ').collect();
    let whom = match words[1] {
        b"UNKNOWN" => Some(Whom::Unknown),
        b"TCP4" if words.len() == 6 => {
            let (source, target) = (dotted(words[2]), dotted(words[3]));
            source.zip(target).and_then(|(source, _)| at_port(IpAddr::from(source), &words))
        }
        b"TCP6" if words.len() == 6 => {
            let (source, target) = (coloned(words[2]), coloned(words[3]));
            source.zip(target).and_then(|(source, _)| {
                let address = match source {
                    [0, 0, 0, 0, 0, 0xffff, high, low] => {
                        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
                        IpAddr::from([a, b, c, d])
                    }
                    groups => IpAddr::from(groups),
                };
                at_port(address, &words)
            })
        }
        _ => None,
    };
    whom.map_or(Second::Wrong, |whom| Second::Header(whom, feed + 1))
}

fn at_port(address: IpAddr, words: &[&[u8]]) -> Option<Whom> {
    let port = |word| decimal(word, 65_535).and_then(|number| u16::try_from(number).ok());
    port(words[5])?;
    Some(Whom::Client(SocketAddr::new(address, port(words[4])?)))
}

/// A number without zeros in front.
fn decimal(word: &[u8], most: u32) -> Option<u32> {
    if word.is_empty() || word.len() > 5 || word.len() > 1 && word[0] == b'0' {
        return None;
    }
    let mut number = 0;
    for byte in word {
        number = number * 10 + char::from(*byte).to_digit(10)?;
    }
    (number <= most).then_some(number)
}

fn dotted(word: &[u8]) -> Option<[u8; 4]> {
    let parts: Vec<_> = word.split(|byte| *byte == b'.').map(|part| decimal(part, 255)).collect();
    let parts = parts.into_iter().collect::<Option<Vec<_>>>()?;
    let parts: Vec<u8> = parts.into_iter().filter_map(|part| u8::try_from(part).ok()).collect();
    parts.try_into().ok()
}

/// Eight groups, of which some may be left out once, and two be written with dots at the end.
fn coloned(word: &[u8]) -> Option<[u16; 8]> {
    let gap = word.windows(2).position(|two| two == b"::");
    let Some(gap) = gap else { return groups(word)?.try_into().ok() };
    let (before, behind) = (&word[..gap], &word[gap + 2..]);
    // What stands in front of the gap is not its end.
    let mut whole = if before.contains(&b'.') { return None } else { groups(before)? };
    let behind = groups(behind)?;
    let lacking = 8usize.checked_sub(whole.len() + behind.len()).filter(|lacking| *lacking > 0)?;
    whole.extend(std::iter::repeat_n(0, lacking));
    whole.extend(behind);
    whole.try_into().ok()
}

fn groups(word: &[u8]) -> Option<Vec<u16>> {
    let mut groups = Vec::new();
    if word.is_empty() {
        return Some(groups);
    }
    let parts: Vec<&[u8]> = word.split(|byte| *byte == b':').collect();
    for (at, part) in parts.iter().enumerate() {
        if at + 1 == parts.len() && part.contains(&b'.') {
            let [a, b, c, d] = dotted(part)?;
            groups.extend([u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]);
        } else {
            let text = std::str::from_utf8(part).ok()?;
            let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
            groups.push(u16::from_str_radix(text, 16).ok().filter(|_| is_hex && text.len() <= 4)?);
        }
    }
    Some(groups)
}
