//! The state of a shard: the owners of its parts, side by side.
//!
//! Each part is changed by its owner's own methods. Steps that concern several of them (a client
//! comes, changes, is read, goes) are functions over this, in files of their own; what such a step
//! wants to have done to other connections it says by effects.

use super::{
    backpressure::Backpressure, connections::Connections, context::Context, events::Events,
    membership::Membership, outbound::Outbound, receive::Receiver, timers::Timers,
};

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
