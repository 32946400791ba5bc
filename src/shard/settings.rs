//! The settings that a shard acts by, ready for use: one look at the live configuration per turn.

use std::{sync::Arc, time::Duration};

use super::{
    rate_limit::Rates,
    wheel::{STEP, Tick},
};
use crate::{
    config::{InForce, Messages, SlowClient, Welcome, machine::share},
    message::Kind,
    wire,
};

/// The settings of one turn.
#[derive(Clone)]
pub(super) struct ShardSettings {
    /// Where they come from, to notice a newer one.
    pub(super) source: Arc<InForce>,
    pub(super) wire: wire::Limits,
    pub(super) queue_bytes: usize,
    pub(super) queue_entries: usize,
    pub(super) slow_client: SlowClient,
    /// How long a queue may be over its bounds; zero is not at all.
    pub(super) slow_client_grace: Tick,
    /// Where what clients say goes.
    pub(super) messages: Messages,
    pub(super) welcome: bool,
    /// The kind of frames that the client id and answers to `ping` go out in.
    pub(super) message_format: Kind,
    pub(super) heartbeat: Option<Tick>,
    pub(super) ping: Option<Tick>,
    pub(super) message_deadline: Option<Tick>,
    pub(super) close_wait: Tick,
    /// How long the end of a client waits for answers to what it said.
    pub(super) answer_wait: Option<Tick>,
    pub(super) groups_per_client: usize,
    /// Attributes that a client may have.
    pub(super) attributes: usize,
    pub(super) attribute_bytes: usize,
    /// What one client may send.
    pub(super) rates: Rates,
    /// Whether messages are compressed for clients that agreed to it.
    pub(super) deflate: bool,
    pub(super) deflate_level: u8,
    /// The smallest message that is compressed.
    pub(super) deflate_from: usize,
    /// The largest message that is compressed here; larger ones were before they came.
    pub(super) deflate_to: usize,
    /// This shard's share of `limits.queued_bytes`.
    pub(super) queued_share: usize,
    /// This shard's share of `limits.partial_bytes`.
    pub(super) partial_share: usize,
}

impl ShardSettings {
    pub(super) fn new(source: &Arc<InForce>, shards: usize) -> Self {
        let (websocket, limits) = (&source.websocket, &source.limits);
        let positive = |n: u64| (n > 0).then_some(n);
        Self {
            wire: wire::Limits {
                max_message: limits.max_message.bytes(),
                max_fragments: limits.max_fragments,
            },
            queue_bytes: limits.queue_bytes.bytes(),
            queue_entries: limits.queue_messages,
            slow_client: limits.slow_client,
            slow_client_grace: ticks(limits.slow_client_grace).unwrap_or(0),
            messages: websocket.messages,
            message_format: websocket.message_format,
            welcome: websocket.welcome == Welcome::Id,
            heartbeat: ticks(websocket.heartbeat_timeout),
            ping: ticks(websocket.ping_interval),
            message_deadline: ticks(limits.message_deadline),
            close_wait: ticks(limits.close_wait).unwrap_or(1),
            answer_wait: ticks(source.events.answer_wait),
            groups_per_client: limits.groups_per_client,
            attributes: limits.attributes,
            attribute_bytes: limits.attribute_bytes.bytes(),
            rates: Rates {
                messages: positive(limits.client_messages.into()),
                bytes: positive(limits.client_bytes.0),
            },
            deflate: source.compression.enabled,
            deflate_level: source.compression.level,
            deflate_from: source.compression.min_size.bytes(),
            deflate_to: source.compression.inline_max.bytes(),
            queued_share: share(limits.queued_budget(), shards),
            partial_share: share(limits.partial_budget(), shards),
            source: Arc::clone(source),
        }
    }
}

/// A time span in ticks, rounded up; none if it is zero, which means "off".
fn ticks(span: Duration) -> Option<Tick> {
    let ticks = span.as_millis().div_ceil(STEP.as_millis());
    (ticks > 0).then(|| Tick::try_from(ticks).unwrap_or(Tick::MAX / 2))
}
