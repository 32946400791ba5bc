//! The header that a proxy sends before everything else to tell for whom it connects: version 2 of
//! `HAProxy`'s PROXY protocol (`proxy-protocol.txt`, §2.2).
//!
//! ```text
//!   12 bytes   1 byte             1 byte              2 bytes   that many bytes
//!   signature  version, command   family, transport   length    addresses, then TLVs
//! ```
//!
//! [`parse`] is a function of the bytes so far and says how many it wants to see, so that a reader
//! never takes any that belong to what follows; [`read`] is that reader. The TLVs are passed over,
//! the checksum among them: the header comes over TCP, whose own covers it, and from a proxy that is
//! trusted. Version 1, which is text without a stated length, is not spoken.

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
    /// The bytes are something else, HTTP or version 1 perhaps.
    #[error("the connection does not begin with the signature of a PROXY header, version 2")]
    Signature,
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

/// Reads the beginning of a connection. What follows a header may be there already or not.
pub fn parse(bytes: &[u8]) -> Result<Progress, Violation> {
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
        for other in ["GET / HTTP/1.1\r\n", "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", "\r\n\r\nGET"] {
            assert_eq!(parse(other.as_bytes()), Err(Violation::Signature), "{other}");
        }
        assert_eq!(parse(b"G"), Err(Violation::Signature));
        assert_eq!(parse(b""), Ok(Progress::More(16)));
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
        fn nothing_panics(bytes: Vec<u8>) {
            let _ = parse(&bytes);
            let _ = parse(&[&SIGNATURE[..], &bytes].concat());
        }
    }
}
