//! The target of a request, made fit for the HTTP library.
//!
//! Any path and query is accepted, but the library's parser refuses bytes that no URI has, such as
//! `<` or the é of Latin-1, and a query without a path. So they are percent-encoded as they arrive
//! (RFC 3986 §2.1), which is what a careful client does, and the path is put in front.
//!
//! ```text
//!   GET ?<q> HTTP/1.1      ► pass ►      GET /?%3Cq%3E HTTP/1.1
//! ```

/// Reads the request line as it comes. The rest passes unread.
#[derive(Debug, Default)]
pub(super) struct Target(At);

/// Where in a request the next byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Before the method; empty lines may stand there (RFC 9112 §2.2).
    #[default]
    Start,
    Method,
    /// The first byte of the target.
    First,
    Target,
    /// Behind the target.
    Behind,
}

impl Target {
    /// What the bytes that came next have to be for the library; none if they are right as they are.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut changed: Option<Vec<u8>> = None;
        for (at, &byte) in bytes.iter().enumerate() {
            if self.0 == At::Behind {
                if let Some(changed) = &mut changed {
                    changed.extend_from_slice(&bytes[at..]);
                }
                break;
            }
            let place = self.step(byte);
            let lacks_path = place == At::First && matches!(byte, b'?' | b'#');
            let is_odd = matches!(place, At::First | At::Target) && is_odd(byte);
            if changed.is_none() && !lacks_path && !is_odd {
                continue;
            }
            let changed = changed.get_or_insert_with(|| bytes[..at].to_vec());
            if lacks_path {
                changed.push(b'/');
            }
            if is_odd {
                changed.extend([b'%', hex(byte >> 4), hex(byte & 0xf)]);
            } else {
                changed.push(byte);
            }
        }
        changed
    }

    /// Goes past one byte; gives the place where it stood.
    fn step(&mut self, byte: u8) -> At {
        let place = self.0;
        self.0 = match (place, byte) {
            (At::Start, b'\r' | b'\n') => At::Start,
            // Whatever is wrong with the line is for the library to say.
            (At::Start | At::First | At::Target, b' ') | (_, b'\n') => At::Behind,
            (At::Start, _) => At::Method,
            (At::Method, b' ') => At::First,
            (At::First, _) => At::Target,
            (same, _) => same,
        };
        place
    }
}

/// Whether no URI has this byte, though it is no control character and no space.
fn is_odd(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'`') || !byte.is_ascii()
}

fn hex(digit: u8) -> u8 {
    if digit < 10 { b'0' + digit } else { b'A' - 10 + digit }
}

#[cfg(test)]
mod tests {
    use hyper::Uri;
    use proptest::prelude::*;

    use super::*;

    /// What comes out if the bytes come in pieces.
    fn passed(bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut target = Target::default();
        let pieces = bytes.chunks(piece);
        pieces.flat_map(|piece| target.pass(piece).unwrap_or_else(|| piece.to_vec())).collect()
    }

    #[test]
    fn only_the_target_is_changed() {
        for (came, passes) in [
            (
                &b"GET / HTTP/1.1\r\nA: <\xff`\r\n\r\n?"[..],
                &b"GET / HTTP/1.1\r\nA: <\xff`\r\n\r\n?"[..],
            ),
            (b"GET /` HTTP/1.1\r\nA: `\r\n", b"GET /%60 HTTP/1.1\r\nA: `\r\n"),
            (b"GET ?a HTTP/1.1\r\n", b"GET /?a HTTP/1.1\r\n"),
            (b"GET ?\xe9 HTTP/1.1\r\n", b"GET /?%E9 HTTP/1.1\r\n"),
            (b"\r\n\nGET \xff? HTTP/1.1\r\n", b"\r\n\nGET %FF? HTTP/1.1\r\n"),
            (b"GET  `", b"GET  `"),
            (b" `", b" `"),
            (b"GET\r\n\r\n? `", b"GET\r\n\r\n? `"),
            (b"GET /\r\n`", b"GET /\r\n`"),
        ] {
            for piece in 1..=came.len() {
                let passed = passed(came, piece);
                assert_eq!(String::from_utf8_lossy(&passed), String::from_utf8_lossy(passes));
            }
        }
        assert_eq!(Target::default().pass(b"GET /any/path?and=query HTTP/1.1\r\n"), None);
    }

    proptest! {
        #[test]
        fn any_path_and_query_is_a_uri_then(
            path in prop::collection::vec(0x21u8..0xff, 0..60), starts_with_path: bool,
            piece in 1usize..20,
        ) {
            let path = path.into_iter().filter(|byte| *byte != 0x7f);
            let start = if starts_with_path { b'/' } else { b'?' };
            let target: Vec<u8> = [start].into_iter().chain(path).collect();
            let line = [b"GET ", &target[..], b" HTTP/1.1\r\n"].concat();
            let passed = passed(&line, piece);
            let target = &passed[4..passed.len() - b" HTTP/1.1\r\n".len()];
            prop_assert!(Uri::try_from(target).is_ok(), "{}", String::from_utf8_lossy(target));
        }
    }
}
