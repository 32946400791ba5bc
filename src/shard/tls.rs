//! TLS between a connection and its socket, driven sans-io.
//!
//! ```text
//!  queue ──► at most a record of plaintext ──► seal ──► send ──► socket
//!                                                └─ what it doesn't take: rest ─┘ (goes first)
//!  socket ──► whole records ──► open ──► plaintext ──► the client is heard
//!                └─ the beginning of one: begun ─┘ (goes first)
//! ```
//!
//! The handshake is over when a client arrives here. Its frames wait in its queue like those of any
//! other client and are sealed only when the socket is believed to take them, a record at a time:
//! so messages can be dropped until then, and no more than one sealed record is ever held back.
//! A record that was begun has to be ended, whatever becomes of the queue.
//!
//! On the way in rustls is given whole records only. What has come of an incomplete one is kept
//! here, where it is counted like an incomplete message (`limits.partial_bytes`), can be given up,
//! and is waited for no longer than for a message (`limits.message_deadline`).
//!
//! The connections know nothing of this, the sockets no more than one bit.

use std::{
    io::{self, BufRead as _, ErrorKind, IoSlice, Read, Write},
    rc::Rc,
};

use rustls::ServerConnection;
use smallvec::SmallVec;

use super::{
    memory::{Budget, Charge},
    slot::Slot,
    socket::Socket,
    write_queue::{Flushed, Frame, State, WriteQueue},
};
use crate::tls::{Established, Records};

/// The TLS state of one client.
pub(super) struct TlsStream {
    tls: ServerConnection,
    /// The sealed record that the socket has taken only a part of. It is on the books of the queue
    /// and of the shard in full until it is gone.
    rest: Option<Rc<Frame>>,
    /// How much of that was taken.
    sent: usize,
    /// What that record carries to its end.
    carried: Carried,
    /// The client said that nothing more comes from it.
    ended: bool,
    /// What comes from the client is no longer opened.
    blind: bool,
    /// Where the client stands between the ends of two records.
    records: Records,
    /// The beginning of a record that is not complete.
    begun: Vec<u8>,
    /// Bytes of it that rustls has got already: the handshake left off in the middle of a record.
    inside: usize,
    /// Bytes of records since the last one that carried something.
    silent: usize,
    /// Memory of all this, on the account of what is incomplete.
    charge: Charge,
}

/// What is complete when a sealed record is on its way as a whole.
#[derive(Clone, Copy, Default)]
struct Carried {
    messages: u64,
    closed: bool,
}

/// Plaintext of one record (RFC 8446 §5.1).
const RECORD: usize = 1 << 14;

/// Frames that one record is made of at most.
const FRAMES: usize = 64;

/// Records that one client may send in one turn before its neighbours have theirs: as much as a
/// plain client's default send buffer takes.
const RECORDS_PER_TURN: usize = 16;

impl TlsStream {
    /// The TLS of a client that has just arrived; what of it is incomplete is charged to `inbound`.
    pub(super) fn new(established: Established, inbound: &Budget) -> Self {
        let Established { connection, records } = established;
        let mut stream = Self {
            tls: connection,
            rest: None,
            sent: 0,
            carried: Carried::default(),
            ended: false,
            blind: false,
            records,
            begun: Vec::new(),
            inside: records.begun(),
            silent: 0,
            charge: inbound.charge(0),
        };
        stream.account();
        stream
    }

    /// Whether the client has said that nothing more comes from it (`close_notify`).
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether TLS itself has something to say: the answer to something that was opened.
    pub(super) fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Messages that were sealed and are not yet on their way.
    pub(super) fn messages(&self) -> u64 {
        self.carried.messages
    }

    /// Whether a record has begun and is not complete.
    pub(super) fn is_mid_record(&self) -> bool {
        self.records.begun() > 0 && !self.blind
    }

    /// Memory of a record that is incomplete.
    pub(super) fn held(&self) -> usize {
        self.charge.bytes()
    }

    /// Brings the memory of an incomplete record up to date on its account.
    fn account(&mut self) {
        self.charge.resize(self.begun.capacity() + self.inside);
    }

    /// Gives up what has come of a record; nothing that comes from the client is opened any more.
    pub(super) fn go_blind(&mut self) {
        self.blind = true;
        self.begun = Vec::new();
        self.inside = 0;
        self.account();
    }

    /// Takes what was read from the socket, and appends what the client said to `opened`; true if
    /// a record came to its end. After an error the connection is of no use any more.
    pub(super) fn open(
        &mut self,
        bytes: &[u8],
        opened: &mut Vec<u8>,
    ) -> Result<bool, rustls::Error> {
        if self.blind {
            return Ok(false);
        }
        let outcome = self.open_records(bytes, opened);
        self.account();
        outcome
    }

    fn open_records(
        &mut self,
        mut bytes: &[u8],
        opened: &mut Vec<u8>,
    ) -> Result<bool, rustls::Error> {
        // What has come already, when the client arrived here, is looked at first.
        self.process(opened)?;
        let (mut any, mut much) = (false, false);
        // What follows a close_notify is ignored (RFC 8446 §6.1).
        while !bytes.is_empty() && !self.ended {
            let Some(end) = self.records.next(bytes) else {
                self.begun.extend_from_slice(bytes);
                break;
            };
            let (last, rest) = bytes.split_at(end);
            much |= self.open_record(last, opened)? > SMALL;
            any = true;
            bytes = rest;
        }
        if much {
            // rustls gives back the buffer of large records when it is about to read the next time.
            let _ = self.tls.read_tls(&mut Nothing);
        }
        Ok(any)
    }

    /// Opens the record that ends with `last`; answers its length.
    fn open_record(&mut self, last: &[u8], opened: &mut Vec<u8>) -> Result<usize, rustls::Error> {
        let begun = std::mem::take(&mut self.begun);
        self.inside = 0;
        for mut bytes in [&begun, last] {
            while !bytes.is_empty() {
                // Fails only if what was opened was not taken, which it was.
                let taken = self.tls.read_tls(&mut bytes);
                if !taken.is_ok_and(|taken| taken > 0) {
                    return Err(rustls::Error::General("the record layer is stuck".to_owned()));
                }
            }
        }
        let (before, len) = (opened.len(), begun.len() + last.len());
        self.process(opened)?;
        self.silent = if opened.len() > before { 0 } else { self.silent + len };
        if self.silent > SILENT {
            return Err(rustls::Error::General("much is said that carries nothing".to_owned()));
        }
        Ok(len)
    }

    fn process(&mut self, opened: &mut Vec<u8>) -> Result<(), rustls::Error> {
        self.ended |= self.tls.process_new_packets()?.peer_has_closed();
        self.take_opened(opened);
        Ok(())
    }

    fn take_opened(&mut self, opened: &mut Vec<u8>) {
        let mut reader = self.tls.reader();
        // An error says that nothing is left, or nothing will come any more.
        while let Ok(chunk) = reader.fill_buf()
            && !chunk.is_empty()
        {
            opened.extend_from_slice(chunk);
            let count = chunk.len();
            reader.consume(count);
        }
    }

    /// Writes as much of the queue as the socket takes in this turn. `scratch` is what records are
    /// sealed into; it is left empty.
    pub(super) fn flush(
        &mut self,
        socket: &mut impl Write,
        out: &mut WriteQueue,
        memory: &Budget,
        scratch: &mut Vec<u8>,
    ) -> Flushed {
        let mut flushed = Flushed::default();
        out.promote();
        let state = self.send(socket, out, memory, scratch, &mut flushed);
        flushed.state = state.unwrap_or(State::Broken);
        scratch.clear();
        flushed
    }

    /// The same; `flushed` says what was written before an error, too. A record that was sealed and
    /// is lost by that stays [counted](Self::messages) here.
    fn send(
        &mut self,
        socket: &mut impl Write,
        out: &mut WriteQueue,
        memory: &Budget,
        scratch: &mut Vec<u8>,
        flushed: &mut Flushed,
    ) -> io::Result<State> {
        if !self.send_rest(socket, flushed)? {
            return Ok(State::Blocked);
        }
        out.hold(0);
        for _ in 0..RECORDS_PER_TURN {
            scratch.clear();
            self.seal(out, scratch)?;
            if scratch.is_empty() {
                return Ok(State::Empty);
            }
            let sent = write(socket, scratch)?;
            flushed.bytes += sent as u64;
            if sent < scratch.len() {
                let rest = Frame::new(scratch[sent..].into(), memory);
                out.hold(rest.len());
                self.rest = Some(rest);
                return Ok(State::Blocked);
            }
            self.settle(flushed);
        }
        Ok(State::Unfinished)
    }

    /// Sends what is left of a record; false if the socket still doesn't take all of it.
    fn send_rest(&mut self, socket: &mut impl Write, flushed: &mut Flushed) -> io::Result<bool> {
        if let Some(rest) = &self.rest {
            let wanted = &rest.bytes()[self.sent..];
            let sent = write(socket, wanted)?;
            flushed.bytes += sent as u64;
            if sent < wanted.len() {
                self.sent += sent;
                return Ok(false);
            }
            (self.rest, self.sent) = (None, 0);
            self.settle(flushed);
        }
        Ok(true)
    }

    /// A record is on its way as a whole.
    fn settle(&mut self, flushed: &mut Flushed) {
        let Carried { messages, closed } = std::mem::take(&mut self.carried);
        flushed.messages += messages;
        flushed.closed |= closed;
    }

    /// Appends to `sealed` what TLS itself has to say, and a record of what waits in the queue.
    fn seal(&mut self, out: &mut WriteQueue, sealed: &mut Vec<u8>) -> io::Result<()> {
        let taken = {
            let mut slices: SmallVec<[IoSlice<'_>; FRAMES]> = SmallVec::new();
            let mut room = RECORD;
            for bytes in out.waiting().take(FRAMES) {
                let part = &bytes[..bytes.len().min(room)];
                room -= part.len();
                slices.push(IoSlice::new(part));
                if room == 0 {
                    break;
                }
            }
            match slices.as_slice() {
                [] => None,
                slices => Some(self.tls.writer().write_vectored(slices)?),
            }
        };
        if let Some(taken) = taken {
            if taken == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
            let mut advanced = Flushed::default();
            out.advance(taken, &mut advanced);
            self.carried = Carried { messages: advanced.messages, closed: advanced.closed };
        }
        while self.tls.wants_write() {
            self.tls.write_tls(sealed)?;
        }
        Ok(())
    }

    /// Says that nothing more comes from us, or why. Without effect if a record is half written:
    /// it would be taken for a part of that.
    pub(super) fn end(&mut self, mut socket: &Socket) {
        if self.rest.is_some() {
            return;
        }
        self.tls.send_close_notify();
        let mut sealed = Vec::new();
        while self.tls.wants_write() && self.tls.write_tls(&mut sealed).is_ok() {}
        // Who doesn't take it finds the end of the stream all the same.
        let _ = write(&mut socket, &sealed);
    }
}

/// Below this, rustls' buffer for what was read is as small as it gets.
const SMALL: usize = 4096;

/// Bytes of records that may follow each other and carry nothing, as those do that update keys. A
/// client has nothing longer to say to TLS itself once the handshake is over; but rustls would keep
/// 64 KiB of a message that is, for as long as it doesn't end. This much fits into the buffer that
/// it keeps anyway.
const SILENT: usize = SMALL;

/// A source that has nothing now.
struct Nothing;

impl Read for Nothing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}

/// Writes what the socket takes. A short write means a full socket buffer, of which the poll will
/// tell when it has room again.
fn write(socket: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match socket.write(bytes) {
            Ok(0) if !bytes.is_empty() => return Err(ErrorKind::WriteZero.into()),
            Ok(sent) => return Ok(sent),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The TLS streams by slot: nothing at all while there is no client with TLS.
#[derive(Default)]
pub(super) struct TlsStreams {
    streams: Vec<Option<Box<TlsStream>>>,
}

impl TlsStreams {
    /// Puts in the TLS of a new connection.
    pub(super) fn insert(&mut self, slot: Slot, stream: TlsStream) {
        let slot = slot.index();
        if self.streams.len() <= slot {
            self.streams.resize_with(slot + 1, || None);
        }
        self.streams[slot] = Some(Box::new(stream));
    }

    /// Messages of a client that were sealed and are not yet on their way.
    pub(super) fn messages(&self, slot: Slot) -> u64 {
        let stream = self.streams.get(slot.index()).and_then(Option::as_ref);
        stream.map_or(0, |stream| stream.messages())
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut TlsStream> {
        self.streams.get_mut(slot.index())?.as_deref_mut()
    }

    /// Memory of a record of the client that is incomplete.
    pub(super) fn held(&self, slot: Slot) -> usize {
        let stream = self.streams.get(slot.index()).and_then(Option::as_deref);
        stream.map_or(0, TlsStream::held)
    }

    pub(super) fn take(&mut self, slot: Slot) -> Option<Box<TlsStream>> {
        self.streams.get_mut(slot.index())?.take()
    }
}

#[cfg(test)]
pub(super) mod tests;
