//! The departure of a client.
//!
//! Leaving has two halves. First the client *retires*: it is taken off every list and count, so
//! that from here on nobody can reach it; this happens before the call that closes it is answered.
//! Then its socket is seen off: what was queued goes out, the close frame follows, the client's
//! answer is awaited for `limits.close_wait`, and the socket is let go.

use std::rc::Rc;

use super::{
    bundle::Bundle,
    deliver::Desk,
    door::Door,
    encode::PLAIN,
    outbound::{Frame, Sort},
    run::Loop,
    session::{Hearing, Stage},
};
use crate::{
    close::{Cause, Close},
    metrics::Drop,
    sink::Who,
    wire,
};

impl Loop {
    /// Begins to close the client, for the cause and with the code given.
    pub(super) fn close(&mut self, slot: u32, close: &Close) {
        let last = close.last.as_ref();
        let mut last = last.map(|last| Bundle::new(std::slice::from_ref(last), &self.clock));
        self.close_after(last.as_mut(), slot, close);
    }

    /// The same, where many may get the same last message.
    pub(super) fn close_after(&mut self, last: Option<&mut Bundle<'_>>, slot: u32, close: &Close) {
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        if !session.is_open() {
            return;
        }
        session.stage = Stage::Closing(self.desk.tick.saturating_add(self.desk.caps.close_wait));
        self.retire(slot, close.cause, Some(close.code));
        if matches!(close.cause, Cause::Budget | Cause::Policy) {
            self.stop_listening(slot);
        }
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        if close.drop_pending || !reads(close.cause) {
            let dropped = session.out.discard(&self.desk.meter);
            self.desk.stats.drop_messages(Drop::Closed, dropped);
        }
        if let Some(last) = last {
            let Desk { caps, press, meter, stats, .. } = &mut self.desk;
            let window = self.doors.get(slot).map_or(PLAIN, Door::window);
            for frame in last.form(window, caps, press, meter).frames() {
                session.out.append(Rc::clone(frame), Sort::Message, meter);
                stats.messages_queued.add(1);
            }
        }
        let frame = Frame::new(wire::close(close.code, &close.reason), &self.desk.meter);
        session.out.append(frame, Sort::Close, &self.desk.meter);
        // Listened to again, if only for the client's own close frame.
        if !session.is_heard() {
            self.desk.set_hearing(session, Hearing::Heard);
            self.read_later(slot);
        }
        if let Some(session) = self.sessions.get_mut(slot as usize) {
            self.desk.mark_dirty(slot, session);
        }
        self.schedule(slot);
    }

    /// What the client still says is thrown away, and with it what it has said half.
    pub(super) fn stop_listening(&mut self, slot: u32) {
        let Some(session) = self.sessions.get_mut(slot as usize) else { return };
        session.flags.deaf = true;
        self.partial -= session.unheard_bytes();
        (session.unread, session.decoder) = (None, wire::Decoder::default());
        if let Some(tunnel) = self.desk.tunnels.get(slot) {
            tunnel.go_blind();
            tunnel.count(&mut self.partial);
        }
        self.desk.stats.partial_bytes.set(self.partial as u64);
    }

    /// The connection broke: there is nobody to say goodbye to.
    pub(super) fn lost(&mut self, slot: u32) {
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        if session.is_open() {
            session.stage = Stage::Closing(self.desk.tick);
            self.retire(slot, Cause::Lost, None);
        }
        self.remove(slot);
    }

    /// Our close frame is on its way. If the client's has arrived, or can't be told from the
    /// rubbish it sent, our part is done.
    pub(super) fn after_close_frame(&mut self, slot: u32) {
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        if session.flags.heard_close {
            // The server is the first to close the TCP connection (RFC 6455 §7.1.1).
            return self.remove(slot);
        }
        if session.flags.deaf {
            // Bytes left unread would turn our farewell into a reset: end our side, read on until
            // the client ends its own or `limits.close_wait` is over.
            if let Some(door) = self.doors.get(slot) {
                if let Some(tunnel) = self.desk.tunnels.get(slot) {
                    tunnel.end(door);
                }
                door.shut_write();
            }
        }
    }

    /// The client did not answer the close frame in time.
    pub(super) fn cut_off(&mut self, slot: u32) {
        if let Some(door) = self.doors.get(slot) {
            door.end_with_reset();
        }
        self.remove(slot);
    }

    /// Lets go of the socket and of everything that waited for it.
    pub(super) fn remove(&mut self, slot: u32) {
        let Some(mut session) = self.sessions.try_remove(slot as usize) else {
            return;
        };
        let door = self.doors.take(slot);
        self.desk.laden.remove(slot as usize);
        self.desk.set_hearing(&mut session, Hearing::Heard);
        let mut dropped = session.out.abandon(&self.desk.meter);
        if let (Some(door), Some(mut tunnel)) = (door, self.desk.tunnels.take(slot)) {
            dropped += tunnel.messages();
            self.partial -= tunnel.counted();
            tunnel.end(&door);
        }
        self.partial -= session.unheard_bytes();
        self.line.forget(slot);
        let stats = &self.desk.stats;
        stats.drop_messages(Drop::Closed, dropped);
        stats.partial_bytes.set(self.partial as u64);
        stats.sockets.sub(1);
        tracing::debug!(client = %session.id, "connection ended");
    }

    /// Takes the client off every list and count; no code is no close frame.
    fn retire(&mut self, slot: u32, cause: Cause, code: Option<u16>) {
        let Some(session) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        self.doors.close(slot);
        let client = session.id;
        let (uid, since) = (session.uid.clone(), session.since);
        self.desk.stats.clients.sub(1);
        let window = self.doors.get(slot).map(Door::window);
        if let Some(gauge) = window.and_then(|window| self.desk.stats.window(window)) {
            gauge.sub(1);
        }
        self.desk.stats.close(cause, code);
        self.bind(slot, None);
        self.leave_all_groups(slot);
        if let Some(session) = self.sessions.get(slot as usize) {
            session.seat.retired();
        }
        tracing::debug!(%client, cause = cause.name(), "client closed");
        self.tell_closed(slot, Who { client, uid: uid.as_ref() }, since, (cause, code));
    }
}

/// Whether a client that is closed for this cause can be expected to read what is queued for it.
fn reads(cause: Cause) -> bool {
    !matches!(cause, Cause::Slow | Cause::Budget | Cause::Silent | Cause::Fault | Cause::Lost)
}
