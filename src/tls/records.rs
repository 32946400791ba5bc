//! Where one TLS record ends and the next begins (RFC 8446 §5.1).
//!
//! rustls doesn't say whether it holds the beginning of a record, and how much of it. Who watches
//! the bytes go by knows: each record says its length in its first five bytes, in the clear.

use rustls::ServerConnection;

/// Bytes of a record's head: type, version, length.
const HEAD: usize = 5;

/// The longest payload there is: 2^14 bytes of plaintext, and what sealing may add (RFC 5246
/// §6.2.3; RFC 8446 §5.2 allows less).
const LONGEST: usize = (1 << 14) + 2048;

/// The TLS of a connection whose handshake is done.
#[derive(Debug)]
pub struct Established {
    /// The keys, and what was received and not yet asked for.
    pub connection: ServerConnection,
    /// Where the client stands between the ends of two records.
    pub records: Records,
}

/// One direction of a connection, between the ends of two records.
#[derive(Clone, Copy, Debug, Default)]
pub struct Records {
    head: [u8; HEAD],
    /// Bytes of the record at hand that have gone by, its head included.
    begun: usize,
}

impl Records {
    /// Bytes of a record that has begun and not ended; zero between two.
    pub fn begun(&self) -> usize {
        self.begun
    }

    /// Lets bytes go by up to the end of the record at hand, and answers where that is; all of
    /// them, and nothing, if it does not end there.
    ///
    /// A head with a length that no record may have is let go by alone: whoever opens it refuses
    /// it.
    pub fn next(&mut self, bytes: &[u8]) -> Option<usize> {
        let known = self.begun.min(HEAD);
        let more = (HEAD - known).min(bytes.len());
        self.head[known..known + more].copy_from_slice(&bytes[..more]);
        if known + more < HEAD {
            self.begun += more;
            return None;
        }
        let payload = usize::from(u16::from_be_bytes([self.head[3], self.head[4]]));
        let whole = HEAD + if payload > LONGEST { 0 } else { payload };
        let left = whole.saturating_sub(self.begun);
        if bytes.len() < left {
            self.begun += bytes.len();
            return None;
        }
        self.begun = 0;
        Some(left)
    }

    /// Lets all the bytes go by.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty()
            && let Some(end) = self.next(bytes)
        {
            bytes = &bytes[end..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(payload: usize) -> Vec<u8> {
        let [high, low] = u16::try_from(payload).unwrap().to_be_bytes();
        [&[0x17, 3, 3, high, low][..], &vec![0xff; payload]].concat()
    }

    proptest! {
        #[test]
        fn records_end_where_they_do_however_they_are_cut(
            payloads in prop::collection::vec(0..=LONGEST, 1..6),
            cuts in prop::collection::vec(1usize..9000, 1..20),
        ) {
            let bytes: Vec<u8> = payloads.iter().flat_map(|&payload| record(payload)).collect();
            let mut ends = vec![0];
            for payload in payloads {
                ends.push(ends.last().unwrap() + HEAD + payload);
            }
            let (mut records, mut passing, mut found) = (Records::default(), Records::default(), vec![0]);
            let (mut at, mut cuts) = (0, cuts.into_iter().cycle());
            while at < bytes.len() {
                let piece = cuts.next().unwrap().min(bytes.len() - at);
                let piece = &bytes[at..at + piece];
                let taken = records.next(piece).inspect(|end| found.push(at + end));
                let taken = taken.unwrap_or(piece.len());
                passing.pass(&piece[..taken]);
                at += taken;
                let last = ends.iter().rfind(|&&end| end <= at).unwrap();
                prop_assert_eq!(records.begun(), at - last);
                prop_assert_eq!(passing.begun(), at - last);
            }
            prop_assert_eq!(found, ends);
        }
    }

    #[test]
    fn a_length_that_no_record_has_ends_it_at_its_head() {
        let mut records = Records::default();
        assert_eq!(records.next(b"HTTP/"), Some(HEAD));
        assert_eq!(records.next(&[0x17, 3, 3]), None);
        assert_eq!(records.next(&[0xff, 0xff, 0]), Some(2));
        assert_eq!(records.begun(), 0);
    }
}
