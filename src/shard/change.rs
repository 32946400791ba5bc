//! Changing a client, whole or not at all.
//!
//! First everything that can be refused is looked at, then everything is done. On this shard nothing
//! comes in between; the directory, which others read at any time, is changed under its own lock
//! for as long as they could see one half.

use std::collections::HashSet;

use super::{
    batch::Batch,
    connection::{Connection, Deadline},
    effect::Effects,
    membership::Membership,
    send::queue,
    settings::ShardSettings,
    slot::Slot,
    state::State,
    wheel::Tick,
};
use crate::{
    attributes::{Attributes, Retouch},
    change::{Change, Changed, Expiry, Refusal, Subject},
    ids::Name,
    message::{Payload, Receipt},
};

/// Changes one client, or says why not.
pub(super) fn change(
    state: &mut State,
    subject: &Subject,
    change: &Change,
    effects: &mut Effects,
) -> Result<Changed, Refusal> {
    let State { context, connections, membership, .. } = &*state;
    let slot = connections.find(subject.client).ok_or(Refusal::UnknownClient)?;
    let connection = connections.get(slot).ok_or(Refusal::UnknownClient)?;
    if connection.flags.closing || subject.of.is_some() && subject.of != connection.uid {
        return Err(Refusal::UnknownClient);
    }
    check_groups(&context.settings, membership, connection, change)?;
    let retouched = change.attributes.as_ref();
    let retouched = retouched.map(|it| self::retouched(&context.settings, connection, it));
    let retouched = retouched.transpose()?;

    let mut changed = change_memberships(state, slot, change);
    let State { context, connections, .. } = state;
    let connection = connections.get_mut(slot).ok_or(Refusal::UnknownClient)?;
    if let Some(attributes) = retouched {
        changed.attributes = connection.attributes.as_deref().unwrap_or(&EMPTY) != &attributes;
        connection.attributes = (!attributes.is_empty()).then(|| Box::new(attributes));
    }
    let timers = &mut state.timers;
    if let Some(expires) = change.expires {
        connection.expires = expires.and_then(|Expiry { at, after }| {
            // What lies beyond the reach of the clock, or of the wheel, is never.
            let due = timers.wheel.tick_from(context.clock.now().checked_add(after)?);
            (due < Tick::MAX).then(|| Box::new(Deadline { due, at }))
        });
        timers.schedule(&context.settings, slot, connection);
    }
    changed.receipt = send_to(state, slot, &change.messages, effects);
    Ok(changed)
}

/// Queues messages for one client; they go out at the end of the turn. Answers what became of all.
pub(super) fn send_to(
    state: &mut State,
    slot: Slot,
    messages: &[Payload],
    effects: &mut Effects,
) -> Receipt {
    let mut receipt = Receipt::default();
    if messages.is_empty() {
        return receipt;
    }
    let State { context, connections, outbound, .. } = state;
    let mut batch = Batch::new(messages, &context.clock);
    let slots = (Some(&[slot][..]), false);
    for each in queue(outbound, context, connections, slots, &mut batch, effects) {
        receipt += each;
    }
    receipt
}

/// The parts that the directory knows of.
fn change_memberships(state: &mut State, slot: Slot, change: &Change) -> Changed {
    let State { connections, membership, .. } = state;
    let directory = membership.directory();
    let has_uid = connections.get(slot).is_some_and(|it| it.uid.is_some());
    let _one_step = change.has_many_parts(has_uid).then(|| directory.one_step());
    let uid = change.uid.clone().is_some_and(|uid| membership.bind(connections, slot, uid));
    let left = change.leave.iter().filter(|name| membership.leave(connections, slot, name)).count();
    let joined = change.join.iter().filter(|name| membership.join(connections, slot, name)).count();
    Changed { uid, left, joined, ..Changed::default() }
}

/// Whether the client may be in the groups that it would be in.
fn check_groups(
    settings: &ShardSettings,
    membership: &Membership,
    connection: &Connection,
    change: &Change,
) -> Result<(), Refusal> {
    if change.join.is_empty() {
        return Ok(());
    }
    let mut groups: HashSet<&Name> = membership.groups_of(connection).collect();
    for group in &change.leave {
        groups.remove(group);
    }
    let stays = groups.len();
    groups.extend(&change.join);
    let limit = settings.groups_per_client;
    // Who is in more groups than are allowed now is not made to leave any.
    if groups.len() > limit && groups.len() > stays {
        return Err(Refusal::TooManyGroups { groups: groups.len(), limit });
    }
    Ok(())
}

/// The client's attributes as they would be, if it may have them.
fn retouched(
    settings: &ShardSettings,
    connection: &Connection,
    retouch: &Retouch,
) -> Result<Attributes, Refusal> {
    let attributes = retouch.of(connection.attributes.as_deref());
    let (count, bytes) = (attributes.len(), attributes.bytes());
    if count > settings.attributes {
        return Err(Refusal::TooManyAttributes { count, limit: settings.attributes });
    }
    if bytes > settings.attribute_bytes {
        return Err(Refusal::LargeAttributes { bytes, limit: settings.attribute_bytes });
    }
    Ok(attributes)
}

static EMPTY: Attributes = Attributes::NONE;
