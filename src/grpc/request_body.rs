//! The body of a request, of which each message is charged by the length that it declares, before
//! any of it is passed on: tonic makes room for all of it then.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Status, body::Body};

use super::{
    memory::Charge,
    ticket::{SMALL, Ticket},
};

/// What one request takes, beyond what each call takes: as much as its largest message so far, as
/// the buffer for them doesn't shrink. It lasts as long as anybody holds it.
pub(super) struct Held {
    ticket: Arc<Ticket>,
    /// None while small messages are all there are. The lock is held for a comparison only.
    charge: Mutex<Option<Charge>>,
}

impl Held {
    /// Nothing yet.
    pub(super) fn new(ticket: Arc<Ticket>) -> Arc<Self> {
        Arc::new(Self { ticket, charge: Mutex::new(None) })
    }

    /// A message takes so many bytes.
    fn take(&self, bytes: usize) -> Result<(), Status> {
        let mut held = self.charge.lock().unwrap_or_else(PoisonError::into_inner);
        let more = bytes.saturating_sub(SMALL + held.as_ref().map_or(0, Charge::bytes));
        match &mut *held {
            _ if more == 0 => {}
            Some(charge) => self.ticket.grow(charge, more)?,
            none => *none = Some(self.ticket.hold(more)?),
        }
        Ok(())
    }
}

/// The body.
pub(super) struct RequestBody {
    body: Body,
    framing: Framing,
    held: Arc<Held>,
}

impl RequestBody {
    /// Messages of more than `limit` bytes are going to be refused.
    pub(super) fn new(body: Body, limit: usize, held: Arc<Held>) -> Self {
        Self { body, framing: Framing::new(limit), held }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(bytes) = frame.data_ref()
        {
            let most = self.framing.read(bytes);
            if let Err(status) = self.held.take(most) {
                // What comes after it is of no use.
                self.body = Body::empty();
                return Poll::Ready(Some(Err(status)));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Reads how long messages are as they pass: a byte that says whether one is compressed, then its
/// length (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
struct Framing {
    limit: usize,
    head: [u8; HEAD],
    /// Bytes of the head that have come.
    begun: usize,
    /// Bytes of the message that are to come.
    left: usize,
}

const HEAD: usize = 5;

impl Framing {
    fn new(limit: usize) -> Self {
        Self { limit, head: [0; HEAD], begun: 0, left: 0 }
    }

    /// The most bytes that a message takes of which these are a part.
    fn read(&mut self, mut bytes: &[u8]) -> usize {
        let mut most = bytes.len();
        while !bytes.is_empty() {
            if self.begun < HEAD {
                self.head[self.begun] = bytes.get_u8();
                self.begun += 1;
                if self.begun < HEAD {
                    continue;
                }
                let [_, length @ ..] = self.head;
                self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                most = most.max(self.message());
            }
            let part = self.left.min(bytes.len());
            bytes.advance(part);
            self.left -= part;
            if self.left == 0 {
                self.begun = 0;
                if self.head[0] == 1 {
                    // How large it becomes is not known before.
                    most = most.max(self.message().saturating_add(self.limit));
                }
            }
        }
        most
    }

    /// What the message takes whose head was read. One that is too large is never held.
    fn message(&self) -> usize {
        let [_, length @ ..] = self.head;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > self.limit { HEAD } else { HEAD + length }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(compressed: bool, len: usize) -> Vec<u8> {
        let length = u32::try_from(len).unwrap().to_be_bytes();
        [&[u8::from(compressed)], &length[..], &vec![7; len]].concat()
    }

    #[test]
    fn a_message_is_known_by_its_head() {
        let mut framing = Framing::new(10_000);
        let bytes = message(false, 9000);
        assert_eq!(framing.read(&bytes[..4]), 4);
        assert_eq!(framing.read(&bytes[4..5]), 9005);
        assert_eq!(framing.read(&bytes[5..]), 9000);
        // Too large: it is refused as soon as it is read.
        assert_eq!(framing.read(&message(false, 10_001)[..5]), 5);
    }

    #[test]
    fn a_compressed_message_may_become_as_large_as_any() {
        let mut framing = Framing::new(10_000);
        let bytes = message(true, 100);
        assert_eq!(framing.read(&bytes[..100]), 105);
        assert_eq!(framing.read(&bytes[100..]), 10_105);
    }

    proptest! {
        #[test]
        fn however_messages_are_cut_the_largest_is_found(
            lens in prop::collection::vec(0usize..300, 1..20),
            cuts in prop::collection::vec(1usize..100, 1..50),
        ) {
            let bytes: Vec<u8> = lens.iter().flat_map(|len| message(false, *len)).collect();
            let largest = lens.iter().map(|len| len + HEAD).max().unwrap();
            let (mut framing, mut most, mut rest) = (Framing::new(1000), 0, &bytes[..]);
            for cut in cuts.iter().cycle() {
                let (part, behind) = rest.split_at((*cut).min(rest.len()));
                most = most.max(framing.read(part));
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(most.max(100), largest.max(100));
            prop_assert_eq!((framing.begun, framing.left), (0, 0));
        }

        #[test]
        fn garbage_never_panics(parts in prop::collection::vec(any::<Vec<u8>>(), 0..20)) {
            let mut framing = Framing::new(1000);
            for part in parts {
                framing.read(&part);
            }
        }
    }
}
