//! What is due for a client: to be pinged, to be found silent, to be closed, to be cut off.

use std::{num::NonZero, rc::Rc, time::Duration};

use super::{
    connection::{Connection, Stage},
    connections::Connections,
    context::Context,
    effect::{Effect, Effects},
    outbound::{Outbound, drop_expired},
    settings::ShardSettings,
    slot::Slot,
    wheel::{STEP, Tick, Wheel},
    write_queue::Frame,
};
use crate::{
    close::{Cause, code},
    wire,
};

pub(super) struct Timers {
    pub(super) wheel: Wheel,
    ping: Rc<Frame>,
    /// What came due: a list that keeps its memory.
    due: Vec<(Slot, Tick)>,
}

impl Timers {
    pub(super) fn new(context: &Context, outbound: &Outbound) -> Self {
        Self {
            wheel: Wheel::new(context.now),
            ping: Frame::constant(wire::PING.into(), &outbound.memory),
            due: Vec::new(),
        }
    }

    /// Microseconds by which pings and pongs are measured.
    pub(super) fn micros(&self, context: &Context) -> NonZero<u32> {
        self.wheel.micros(context.clock.now())
    }

    /// Puts the client's next look into the wheel.
    pub(super) fn schedule(
        &mut self,
        settings: &ShardSettings,
        slot: Slot,
        connection: &mut Connection,
    ) {
        if let Some(next) = next_look(settings, connection) {
            connection.timer = self.wheel.bring_forward(slot, connection.timer, next);
        }
    }

    /// The times have changed: every client gets a new look.
    pub(super) fn schedule_all(&mut self, settings: &ShardSettings, connections: &mut Connections) {
        for (slot, connection) in connections.iter_mut() {
            self.schedule(settings, slot, connection);
        }
    }

    /// Looks at those whose time has come.
    pub(super) fn advance(
        &mut self,
        context: &Context,
        connections: &mut Connections,
        outbound: &mut Outbound,
        effects: &mut Effects,
    ) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(context.tick, &mut due);
        for (slot, tick) in due.drain(..) {
            if let Some(connection) = connections.get_mut(slot).filter(|it| it.timer == tick) {
                self.look_at(context, slot, connection, outbound, effects);
            }
        }
        self.due = due;
    }

    /// Does what is due for a client, and asks for the next look.
    fn look_at(
        &mut self,
        context: &Context,
        slot: Slot,
        connection: &mut Connection,
        outbound: &mut Outbound,
        effects: &mut Effects,
    ) {
        let (now, settings) = (context.tick, &context.settings);
        if let Stage::Closing(until) = connection.stage {
            if now >= until {
                return effects.push(Effect::CutOff(slot));
            }
        } else if connection.expires.as_ref().is_some_and(|expiry| now >= expiry.due) {
            let reason = "the time until which the client was allowed in is over";
            return effects.close(slot, Cause::Expired, code::EXPIRED, reason);
        } else if connection.can_be_silent()
            && settings.heartbeat.is_some_and(|limit| now - connection.heard >= limit)
        {
            let silence: Duration = STEP * (now - connection.heard);
            let reason = format!("nothing heard for {} s", silence.as_secs());
            return effects.close(slot, Cause::Silent, code::SILENT, reason);
        } else if let (Some(since), Some(limit)) =
            (connection.partial_since, settings.message_deadline)
            && now - since >= limit
        {
            let reason = "message not finished within limits.message_deadline";
            return effects.close(slot, Cause::Policy, code::POLICY, reason);
        } else if settings.ping.is_some_and(|interval| now - connection.pinged >= interval) {
            connection.pinged = now;
            // While one is unanswered, another tells nothing: all pings look the same.
            let micros = self.micros(context);
            connection.asked.get_or_insert(micros);
            connection.out.set_ping(&self.ping);
            drop_expired(context, connection);
            outbound.mark_dirty(slot, connection);
        }
        self.schedule(settings, slot, connection);
    }
}

/// When a client has to be looked at next, if ever.
pub(super) fn next_look(settings: &ShardSettings, connection: &Connection) -> Option<Tick> {
    if let Stage::Closing(until) = connection.stage {
        return Some(until);
    }
    let heartbeat = settings.heartbeat.filter(|_| connection.can_be_silent());
    let silent = heartbeat.map(|limit| connection.heard.saturating_add(limit));
    let ping = settings.ping.map(|interval| connection.pinged.saturating_add(interval));
    let since = connection.partial_since.zip(settings.message_deadline);
    let unfinished = since.map(|(since, limit)| since.saturating_add(limit));
    let expires = connection.expires.as_ref().map(|expiry| expiry.due);
    [silent, ping, unfinished, expires].into_iter().flatten().min()
}
