//! What stands for one call, from its first frame until the last one of its answer is written.
//!
//! HTTP/2 tells nobody when it has written the head or the trailers of an answer. But it drops them
//! then, or when the peer resets the call, or when the connection ends. So the ticket travels in the
//! value of `grpc-status`, with which each answer ends.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tonic::{
    Status,
    codegen::http::{
        HeaderMap,
        header::{HeaderName, HeaderValue},
    },
};

use super::{
    Shared,
    backlog::Backlog,
    memory::{Charge, Holder},
    peer::Peer,
};

/// What a call takes whatever it is: its task, its places in HTTP/2's tables, small messages both
/// ways. Measured: 6.5 KiB for one whose message doesn't come, and tonic's buffer is 8 KiB.
pub(super) const CALL: usize = 16 << 10;
/// Bytes of a request, and of what is not taken of an answer, that are part of [`CALL`].
pub(super) const SMALL: usize = 8 << 10;
/// What a line of metadata takes beside its name and value.
const LINE: usize = 128;

/// Where an answer says how its call ended.
pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// One call.
pub(super) struct Ticket {
    server: Arc<Shared>,
    peer: Arc<Peer>,
    backlog: Arc<Backlog>,
    /// Calls that its connection had when it began, with it.
    calls: usize,
    /// None until that is known.
    begun: OnceLock<Begun>,
}

/// What is known of a call once its caller is.
struct Begun {
    holder: Holder,
    /// Whether the call changes nothing, so that its answer may be refused.
    reads: bool,
    /// What the call takes in any case.
    _charge: Charge,
}

impl Ticket {
    /// A call begins.
    pub(super) fn new(server: Arc<Shared>, peer: Arc<Peer>, backlog: Arc<Backlog>) -> Arc<Self> {
        let calls = backlog.enter();
        Arc::new(Self { server, peer, backlog, calls, begun: OnceLock::new() })
    }

    /// Calls that its connection had when it began, with it.
    pub(super) fn calls(&self) -> usize {
        self.calls
    }

    /// Holds what the call takes in any case, and `more`.
    pub(super) fn begin(&self, holder: Holder, reads: bool, more: usize) -> Result<(), Status> {
        let charge = self.charge(holder, CALL + more)?;
        let _first = self.begun.set(Begun { holder, reads, _charge: charge });
        Ok(())
    }

    /// Holds bytes of the request.
    pub(super) fn hold(&self, bytes: usize) -> Result<Charge, Status> {
        self.charge(self.holder(), bytes)
    }

    /// Holds bytes of the answer. What was done has to be told, even if there is no room for it: it is
    /// the next call that there is none for.
    pub(super) fn hold_answer(&self, bytes: usize) -> Result<Charge, Status> {
        match self.begun.get() {
            Some(begun) if !begun.reads => {
                Ok(self.server.memory.charge_anyway(begun.holder, bytes))
            }
            _ => self.hold(bytes),
        }
    }

    fn holder(&self) -> Holder {
        self.begun.get().map_or(Holder::Stranger, |begun| begun.holder)
    }

    /// Holds more of what is held already.
    pub(super) fn grow(&self, charge: &mut Charge, bytes: usize) -> Result<(), Status> {
        if charge.grow(bytes, self.limit()) { Ok(()) } else { Err(self.refuse()) }
    }

    fn charge(&self, holder: Holder, bytes: usize) -> Result<Charge, Status> {
        let charge = self.server.memory.charge(holder, bytes, self.limit());
        charge.ok_or_else(|| self.refuse())
    }

    fn limit(&self) -> usize {
        let budget = self.server.live.snapshot().grpc.memory_budget();
        usize::try_from(budget).unwrap_or(usize::MAX)
    }

    fn refuse(&self) -> Status {
        let why = "unfinished requests and unread answers take all that grpc.max_memory allows";
        self.server.refusals.memory.note(self.peer.address, "a gRPC call was refused", why);
        Status::resource_exhausted(why)
    }

    /// Goes with the last frame of the answer.
    pub(super) fn end_with(self: Arc<Self>, headers: &mut HeaderMap) {
        let name = if headers.contains_key(GRPC_STATUS) {
            GRPC_STATUS
        } else if let Some(name) = headers.keys().next() {
            name.clone()
        } else {
            return;
        };
        let Some(value) = headers.get_mut(name) else { return };
        let written = Written { value: value.clone(), _ticket: self };
        if let Ok(mut carrier) = HeaderValue::from_maybe_shared(Bytes::from_owner(written)) {
            // What is sensitive stays in no table that header lines are compressed with.
            carrier.set_sensitive(true);
            *value = carrier;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.backlog.leave();
    }
}

/// The value of a header line, and the call that lasts as long as it.
struct Written {
    value: HeaderValue,
    _ticket: Arc<Ticket>,
}

impl AsRef<[u8]> for Written {
    fn as_ref(&self) -> &[u8] {
        self.value.as_bytes()
    }
}

/// What metadata take.
pub(super) fn metadata(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| LINE + name.as_str().len() + value.len()).sum()
}
