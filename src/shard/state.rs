//! The state of a shard: the owners of its parts, side by side.
//!
//! Each part is changed by its owner's own methods. Steps that concern several of them (a client
//! comes, changes, is read, goes) are functions over this, in files of their own; what such a step
//! wants to have done to other connections it says by effects.

use std::sync::Arc;

use super::{
    backpressure::Backpressure, connections::Connections, context::Context, effect::Effects,
    events::Events, membership::Membership, outbound::Outbound, receiver::Receiver,
    settings::ShardSettings, timers::Timers,
};
use crate::{config::InForce, directory::Directory, sink::Ear};

pub(super) struct State {
    pub(super) context: Context,
    pub(super) connections: Connections,
    pub(super) membership: Membership,
    pub(super) outbound: Outbound,
    pub(super) receiver: Receiver,
    pub(super) backpressure: Backpressure,
    pub(super) timers: Timers,
    pub(super) events: Events,
}

impl State {
    /// A shard with nobody on it yet.
    pub(super) fn new(context: Context, directory: &Arc<Directory>, ear: Box<dyn Ear>) -> Self {
        let outbound = Outbound::default();
        Self {
            receiver: Receiver::new(&context.stats, &outbound),
            timers: Timers::new(&context, &outbound),
            membership: Membership::new(context.index, Arc::clone(directory)),
            connections: Connections::default(),
            backpressure: Backpressure::default(),
            events: Events::new(ear),
            outbound,
            context,
        }
    }

    /// Begins a turn with the time that it is now, and with the settings that are in force.
    pub(super) fn begin_turn(&mut self, current: &Arc<InForce>) {
        let Self { context, connections, timers, receiver, .. } = self;
        receiver.begin_turn();
        context.now = context.clock.now();
        context.tick = timers.wheel.tick(context.now);
        if !Arc::ptr_eq(current, &context.settings.source) {
            context.settings = ShardSettings::new(current, context.shards);
            timers.schedule_all(&context.settings, connections);
        }
    }

    /// Looks at those whose time has come.
    pub(super) fn look_at_due(&mut self, effects: &mut Effects) {
        let Self { context, connections, outbound, timers, .. } = self;
        timers.advance(context, connections, outbound, effects);
    }

    /// Writes to every socket that has something to be written.
    pub(super) fn flush(&mut self, effects: &mut Effects) {
        let Self { context, connections, outbound, .. } = self;
        outbound.flush_dirty(context, connections, effects);
    }

    /// Whether there is more to do at once, without anything that happens.
    pub(super) fn goes_on(&self) -> bool {
        self.receiver.goes_on()
            || self.backpressure.goes_on()
            || self.events.goes_on()
            || !self.outbound.is_idle()
    }
}
