//! The header that a proxy sends before everything else to tell for whom it connects: `HAProxy`'s
//! PROXY protocol, of either version (`proxy-protocol.txt`, §2.1 and §2.2).
//!
//! ```text
//!   version 1   PROXY TCP4 192.0.2.7 10.0.0.1 4711 80 CR LF      (or TCP6, or UNKNOWN)
//!
//!   version 2   12 bytes   1 byte             1 byte              2 bytes   that many bytes
//!               signature  version, command   family, transport   length    addresses, then TLVs
//! ```
//!
//! [`parse`] is a function of the bytes so far and says how many it wants to see, so that a reader
//! never takes any that belong to what follows; [`read`] is that reader. The TLVs are passed over,
//! the checksum among them: the header comes over TCP, whose own covers it, and from a proxy that is
//! trusted. A line of version 1 doesn't say how long it is, so it is read in a few steps, each as
//! short as what must still come.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// For whom a proxy connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// For itself, to see whether we live (`LOCAL`).
    Proxy,
    /// For this client. An IPv4 address mapped into IPv6 is given as what it is.
    Client(SocketAddr),
    /// For somebody who has no IP address, or for a protocol that has none (`UNSPEC`, `AF_UNIX`).
    Unknown,
}

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The beginning of a header of at least so many bytes, more than there are.
    More(usize),
    /// A header.
    Header {
        /// For whom the proxy connects.
        whom: Whom,
        /// Its length in bytes; what is behind it is the client's.
        len: usize,
    },
}

/// Why the bytes are no header. The connection has to end (§2.2: the receiver must not guess).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The bytes are something else, HTTP perhaps.
    #[error("the connection does not begin with a PROXY header")]
    Signature,
    /// A line of version 1 that is not as §2.1 wants it.
    #[error("the PROXY header of version 1 is malformed")]
    Line,
    /// A line of version 1 that doesn't end.
    #[error("the PROXY header of version 1 has more than {LONGEST_LINE} bytes")]
    LongLine,
    /// The high half of byte 13.
    #[error("the PROXY header is of version {0}, not 2")]
    Version(u8),
    /// The low half of byte 13.
    #[error("the PROXY header has the unknown command {0}")]
    Command(u8),
    /// Byte 14.
    #[error("the PROXY header names the unknown family and transport {0:#04x}")]
    Family(u8),
    /// The length is less than the addresses of the family take.
    #[error("the PROXY header says it has {0} bytes, too few for its addresses")]
    Short(usize),
    /// The header is longer than any sensible one.
    #[error("the PROXY header says it has {0} bytes, more than {MOST}")]
    Long(usize),
}

/// Why no header could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// What came is none.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The connection broke, or ended before the header did.
    #[error("the connection ended before its PROXY header: {0}")]
    Io(#[from] io::Error),
}

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes before the addresses.
const START: usize = 16;
/// Most bytes of a header. The addresses take 216 at most; TLVs about the client's TLS session,
/// with its certificate's names, some hundred more.
pub const MOST: usize = 4096;
/// What a line of version 1 begins with.
const LINE: &[u8] = b"PROXY ";
/// Most bytes of a line of version 1, with its end (§2.1).
const LONGEST_LINE: usize = 107;
/// Bytes of the shortest header there is: `PROXY UNKNOWN`, CR, LF.
const SHORTEST: usize = 15;

/// Reads the beginning of a connection. What follows a header may be there already or not.
pub fn parse(bytes: &[u8]) -> Result<Progress, Violation> {
    match bytes.first() {
        None => Ok(Progress::More(SHORTEST)),
        Some(first) if *first == LINE[0] => parse_line(bytes),
        Some(_) => parse_binary(bytes),
    }
}

fn parse_binary(bytes: &[u8]) -> Result<Progress, Violation> {
    // Who speaks something else is told apart by the first byte that differs, not after sixteen.
    if bytes.iter().zip(SIGNATURE).any(|(byte, expected)| *byte != expected) {
        return Err(Violation::Signature);
    }
    let Some((start, rest)) = bytes.split_first_chunk::<START>() else {
        return Ok(Progress::More(START));
    };
    let [.., command, family, high, low] = *start;
    if command >> 4 != 2 {
        return Err(Violation::Version(command >> 4));
    }
    let is_proxied = match command & 0xf {
        0 => false,
        1 => true,
        other => return Err(Violation::Command(other)),
    };
    // The transport may be a datagram's: there are proxies that take QUIC and speak TCP to us.
    if family >> 4 > 3 || family & 0xf > 2 {
        return Err(Violation::Family(family));
    }
    let stated = usize::from(u16::from_be_bytes([high, low]));
    let len = START + stated;
    if len > MOST {
        return Err(Violation::Long(len));
    }
    let has_addresses = is_proxied && family & 0xf != 0;
    if has_addresses && stated < taken_by(family) {
        return Err(Violation::Short(len));
    }
    let Some(body) = rest.get(..stated) else {
        return Ok(Progress::More(len));
    };
    let whom = match is_proxied {
        false => Whom::Proxy,
        true if has_addresses => source(family, body).map_or(Whom::Unknown, Whom::Client),
        true => Whom::Unknown,
    };
    Ok(Progress::Header { whom, len })
}

/// Takes a header off `stream`, and nothing of what is behind it.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Whom, ReadError> {
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes)? {
            Progress::Header { whom, .. } => return Ok(whom),
            Progress::More(wanted) => {
                let missing = wanted.saturating_sub(bytes.len()) as u64;
                if (&mut *stream).take(missing).read_buf(&mut bytes).await? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
            }
        }
    }
}

fn parse_line(bytes: &[u8]) -> Result<Progress, Violation> {
    if bytes.iter().zip(LINE).any(|(byte, expected)| byte != expected) {
        return Err(Violation::Signature);
    }
    let possible = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = possible.iter().position(|byte| *byte == b'\n') else {
        if possible.len() == LONGEST_LINE {
            return Err(Violation::LongLine);
        }
        return Ok(Progress::More((bytes.len() + least_rest(bytes)).min(LONGEST_LINE)));
    };
    let line = bytes[..end].strip_suffix(b"\r").ok_or(Violation::Line)?;
    let whom = named_by(line).ok_or(Violation::Line)?;
    Ok(Progress::Header { whom, len: end + 1 })
}

/// How many bytes a line has at the least behind those that are there.
fn least_rest(line: &[u8]) -> usize {
    if line.ends_with(b"\r") {
        return 1;
    }
    let shortest = match line.split(|byte| *byte == b' ').nth(1) {
        Some(b"TCP4") => "PROXY TCP4 0.0.0.0 0.0.0.0 0 0",
        Some(b"TCP6") => "PROXY TCP6 :: :: 0 0",
        _ => "PROXY UNKNOWN",
    };
    let words = line.split(|byte| *byte == b' ').count();
    // The last word has begun, and may be whole, unless it is empty.
    let lacking = if line.ends_with(b" ") { words - 1 } else { words };
    let rest: usize = shortest.split(' ').skip(lacking).map(|word| word.len() + 1).sum();
    let spaces = words - lacking;
    rest.saturating_sub(spaces) + 2
}

/// For whom a line of version 1 says that it is, without its end.
fn named_by(line: &[u8]) -> Option<Whom> {
    let rest = line.strip_prefix(LINE)?;
    if rest == b"UNKNOWN" || rest.starts_with(b"UNKNOWN ") {
        // Whatever it says beyond that is to be ignored.
        return Some(Whom::Unknown);
    }
    let words: Vec<&str> = str::from_utf8(rest).ok()?.split(' ').collect();
    let [family, source, target, source_port, target_port] = *words else { return None };
    let source = match family {
        "TCP4" => {
            target.parse::<Ipv4Addr>().ok()?;
            IpAddr::from(source.parse::<Ipv4Addr>().ok()?)
        }
        "TCP6" => {
            target.parse::<Ipv6Addr>().ok()?;
            source.parse::<Ipv6Addr>().ok()?.to_canonical()
        }
        _ => return None,
    };
    port(target_port)?;
    Some(Whom::Client(SocketAddr::new(source, port(source_port)?)))
}

/// A port in decimal, without a sign or zeros in front.
fn port(text: &str) -> Option<u16> {
    let is_plain = text == "0" || text.starts_with(|first| matches!(first, '1'..='9'));
    text.parse().ok().filter(|_| is_plain)
}

/// Bytes of the two addresses and ports of a family; `AF_UNIX` has two paths.
fn taken_by(family: u8) -> usize {
    match family >> 4 {
        1 => 2 * (4 + 2),
        2 => 2 * (16 + 2),
        3 => 2 * 108,
        _ => 0,
    }
}

/// The client's address and port: addresses stand first, each the source's before the target's.
fn source(family: u8, body: &[u8]) -> Option<SocketAddr> {
    let (address, ports) = match family >> 4 {
        1 => {
            let (four, rest) = body.split_first_chunk::<4>()?;
            (IpAddr::from(Ipv4Addr::from(*four)), rest.get(4..)?)
        }
        2 => {
            let (six, rest) = body.split_first_chunk::<16>()?;
            (Ipv6Addr::from(*six).to_canonical(), rest.get(16..)?)
        }
        _ => return None,
    };
    let (port, _) = ports.split_first_chunk::<2>()?;
    Some(SocketAddr::new(address, u16::from_be_bytes(*port)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header with what stands behind its first twelve bytes.
    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &len, body].concat()
    }

    fn v4() -> Vec<u8> {
        vec![192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 0, 80]
    }

    fn client(address: &str) -> Whom {
        Whom::Client(address.parse().unwrap())
    }

    /// For whom a whole header is.
    fn whom(bytes: &[u8]) -> Result<Whom, Violation> {
        match parse(bytes)? {
            Progress::Header { whom, len } => {
                assert_eq!(len, bytes.len());
                Ok(whom)
            }
            Progress::More(wanted) => panic!("{wanted} bytes are asked for"),
        }
    }

    #[test]
    fn each_kind_of_header_is_read() {
        let mut v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7).octets().to_vec();
        v6.extend([0; 16]);
        v6.extend([0xff, 0xff, 0, 80]);
        let mut mapped = Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped().octets().to_vec();
        mapped.extend([0; 20]);
        let tlv = [v4(), vec![0x03, 0, 4, 1, 2, 3, 4]].concat();
        for (command, family, body, expected) in [
            (0x21, 0x11, v4(), Ok(client("192.0.2.7:4660"))),
            (0x21, 0x12, v4(), Ok(client("192.0.2.7:4660"))),
            (0x21, 0x11, tlv, Ok(client("192.0.2.7:4660"))),
            (0x21, 0x21, v6, Ok(client("[2001:db8::7]:65535"))),
            (0x21, 0x21, mapped, Ok(client("192.0.2.7:0"))),
            (0x21, 0x31, vec![b'x'; 216], Ok(Whom::Unknown)),
            (0x21, 0x00, vec![], Ok(Whom::Unknown)),
            (0x21, 0x10, vec![9; 7], Ok(Whom::Unknown)),
            (0x20, 0x00, vec![], Ok(Whom::Proxy)),
            (0x20, 0x11, v4(), Ok(Whom::Proxy)),
            (0x20, 0x11, vec![], Ok(Whom::Proxy)),
            (0x11, 0x11, v4(), Err(Violation::Version(1))),
            (0x22, 0x11, v4(), Err(Violation::Command(2))),
            (0x21, 0x41, v4(), Err(Violation::Family(0x41))),
            (0x21, 0x13, v4(), Err(Violation::Family(0x13))),
            (0x21, 0x11, vec![0; 11], Err(Violation::Short(27))),
            (0x21, 0x21, vec![0; 35], Err(Violation::Short(51))),
            (0x21, 0x31, vec![0; 215], Err(Violation::Short(231))),
            (0x21, 0x11, vec![0; 4080], Ok(client("0.0.0.0:0"))),
            (0x21, 0x11, vec![0; 4081], Err(Violation::Long(4097))),
        ] {
            let bytes = header(command, family, &body);
            assert_eq!(whom(&bytes), expected, "{command:#x} {family:#x} {}", body.len());
        }
    }

    #[test]
    fn what_is_no_header_is_known_by_its_first_byte() {
        for other in ["GET / HTTP/1.1\r\n", "PUT / HTTP/1.1\r\n", "proxy TCP4", "\r\n\r\nGET"] {
            assert_eq!(parse(other.as_bytes()), Err(Violation::Signature), "{other}");
        }
        assert_eq!(parse(b"G"), Err(Violation::Signature));
        assert_eq!(parse(b""), Ok(Progress::More(15)));
        assert_eq!(parse(b"\r"), Ok(Progress::More(16)));
    }

    #[test]
    fn a_line_of_version_1_is_read_strictly() {
        let six = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let longest = format!("UNKNOWN {six} {six} 65535 65535");
        for (rest, expected) in [
            ("TCP4 192.0.2.7 10.0.0.1 4660 80\r\n", Ok(client("192.0.2.7:4660"))),
            ("TCP4 0.0.0.0 0.0.0.0 0 0\r\n", Ok(client("0.0.0.0:0"))),
            ("TCP6 2001:DB8::7 ::1 65535 80\r\n", Ok(client("[2001:db8::7]:65535"))),
            ("TCP6 :: :: 0 0\r\n", Ok(client("[::]:0"))),
            ("TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", Ok(client("192.0.2.7:1"))),
            ("UNKNOWN\r\n", Ok(Whom::Unknown)),
            ("UNKNOWN any\rthing \r\n", Ok(Whom::Unknown)),
            (&*format!("{longest}\r\n"), Ok(Whom::Unknown)),
            (&*format!("{longest} \r\n"), Err(Violation::LongLine)),
            ("\r\n", Err(Violation::Line)),
            ("UNKNOWNS\r\n", Err(Violation::Line)),
            ("TCP4 192.0.2.7 10.0.0.1 4660 80\n", Err(Violation::Line)),
            ("TCP4 192.0.2.7 10.0.0.1 4660 80 \r\n", Err(Violation::Line)),
            ("TCP4 192.0.2.7  10.0.0.1 4660 80\r\n", Err(Violation::Line)),
            ("TCP4 192.0.2.7 10.0.0.1 4660\r\n", Err(Violation::Line)),
            ("TCP4 192.0.2.7 10.0.0.1 4660 80 1\r\n", Err(Violation::Line)),
            ("TCP4 192.0.2.07 10.0.0.1 4660 80\r\n", Err(Violation::Line)),
            ("TCP4 192.0.2.7 10.0.0 4660 80\r\n", Err(Violation::Line)),
            ("TCP4 ::1 10.0.0.1 4660 80\r\n", Err(Violation::Line)),
            ("TCP6 192.0.2.7 10.0.0.1 4660 80\r\n", Err(Violation::Line)),
            ("TCP6 [::1] ::1 4660 80\r\n", Err(Violation::Line)),
            ("TCP4 192.0.2.7 10.0.0.1 04660 80\r\n", Err(Violation::Line)),
            ("TCP4 192.0.2.7 10.0.0.1 65536 80\r\n", Err(Violation::Line)),
            ("TCP4 192.0.2.7 10.0.0.1 +1 80\r\n", Err(Violation::Line)),
            ("TCP4 192.0.2.7 10.0.0.1 1 -80\r\n", Err(Violation::Line)),
            ("tcp4 192.0.2.7 10.0.0.1 1 80\r\n", Err(Violation::Line)),
            ("TCP4\r192.0.2.7 10.0.0.1 1 80\r\n", Err(Violation::Line)),
        ] {
            assert_eq!(whom(format!("PROXY {rest}").as_bytes()), expected, "{rest:?}");
        }
    }

    #[tokio::test]
    async fn a_line_is_read_in_few_steps_and_what_follows_is_left() {
        let line = b"PROXY TCP4 198.51.100.207 10.100.100.1 54711 443\r\n";
        let bytes = [&line[..], b"GET / HTTP/1.1"].concat();
        let (mut seen, mut steps) = (0, 0);
        while let Ok(Progress::More(wanted)) = parse(&bytes[..seen]) {
            (seen, steps) = (wanted, steps + 1);
        }
        assert_eq!(seen, line.len());
        assert!(steps <= 8, "{steps}");
        let mut stream = &bytes[..];
        assert_eq!(read(&mut stream).await.unwrap(), client("198.51.100.207:54711"));
        assert_eq!(stream, b"GET / HTTP/1.1");
    }

    #[tokio::test]
    async fn a_header_is_read_and_what_follows_is_left() {
        let bytes = [header(0x21, 0x11, &v4()), b"GET / HTTP/1.1".to_vec()].concat();
        let mut stream = &bytes[..];
        let whom = read(&mut stream).await.unwrap();
        assert_eq!(whom, Whom::Client("192.0.2.7:4660".parse().unwrap()));
        assert_eq!(stream, b"GET / HTTP/1.1");
    }

    #[tokio::test]
    async fn an_end_before_the_headers_own_is_an_error() {
        let bytes = header(0x21, 0x11, &v4());
        for len in 0..bytes.len() {
            assert!(matches!(read(&mut &bytes[..len]).await, Err(ReadError::Io(_))), "{len}");
        }
        assert!(matches!(read(&mut &b"GET"[..]).await, Err(ReadError::Violation(_))));
    }

    proptest! {
        #[test]
        fn a_verdict_is_the_same_with_more_behind_it_and_is_asked_for_until_then(
            command in 0x1fu8..0x24, family: u8, body in prop::collection::vec(any::<u8>(), 0..300),
            behind: Vec<u8>,
        ) {
            let header = header(command, family, &body);
            let whole = parse(&header);
            prop_assert!(!matches!(whole, Ok(Progress::More(_))));
            prop_assert_eq!(parse(&[&header[..], &behind].concat()), whole);
            for len in 0..header.len() {
                match parse(&header[..len]) {
                    Ok(Progress::More(wanted)) => {
                        prop_assert!(wanted > len && wanted <= header.len());
                    }
                    early => prop_assert_eq!(early, whole),
                }
            }
        }

        #[test]
        fn a_line_has_one_verdict_in_any_pieces(
            line in "PROXY (TCP4|TCP6|UNKNOWN|[A-Z]{0,4})( (1.2.3.4|::|::1|f:){1,2}){0,3}( [0-9]{1,6}){0,3} ?\r?",
            behind: Vec<u8>,
        ) {
            let line = [line.as_bytes(), b"\n"].concat();
            let whole = parse(&line);
            prop_assert!(!matches!(whole, Ok(Progress::More(_))));
            prop_assert_eq!(parse(&[&line[..], &behind].concat()), whole);
            for len in 0..line.len() {
                match parse(&line[..len]) {
                    Ok(Progress::More(wanted)) => {
                        prop_assert!(wanted > len && wanted <= LONGEST_LINE);
                        prop_assert!(whole.is_err() || wanted <= line.len());
                    }
                    early => prop_assert_eq!(early, whole),
                }
            }
        }

        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let _ = parse(&bytes);
            let _ = parse(&[&SIGNATURE[..], &bytes].concat());
            let _ = parse(&[LINE, &bytes].concat());
        }
    }
}
