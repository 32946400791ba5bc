//! Changing a client, whole or not at all.
//!
//! First everything that can be refused is looked at, then everything is done. On this shard nothing
//! comes in between; the directory, which others read at any time, is changed under its own lock
//! for as long as they could see one half.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{
    run::Loop,
    session::{Deadline, Session},
    wheel::Tick,
};
use crate::{
    attributes::{Attributes, Retouch},
    change::{Change, Changed, Expiry, Refusal, Subject},
    ids::Name,
    message::Receipt,
};

impl Loop {
    /// Changes one client, or says why not. A panic in it closes the client, which is not connected
    /// then, rather than leave it half changed.
    pub(super) fn change_or_close(
        &mut self,
        subject: &Subject,
        change: &Change,
    ) -> Result<Changed, Refusal> {
        let changed = catch_unwind(AssertUnwindSafe(|| self.change(subject, change)));
        changed.unwrap_or_else(|_| {
            self.fault(subject.client.slot());
            Err(Refusal::UnknownClient)
        })
    }

    /// Changes one client, or says why not.
    pub(super) fn change(
        &mut self,
        subject: &Subject,
        change: &Change,
    ) -> Result<Changed, Refusal> {
        let slot = self.find(subject.client).ok_or(Refusal::UnknownClient)?;
        let session = &self.sessions[slot as usize];
        if subject.of.is_some() && subject.of != session.uid {
            return Err(Refusal::UnknownClient);
        }
        self.check_groups(slot, change)?;
        let retouched = change.attributes.as_ref().map(|it| self.retouched(session, it));
        let retouched = retouched.transpose()?;

        let mut changed = self.change_memberships(slot, change);
        let session = &mut self.sessions[slot as usize];
        if let Some(attributes) = retouched {
            changed.attributes = session.attributes.as_deref().unwrap_or(&EMPTY) != &attributes;
            session.attributes = (!attributes.is_empty()).then(|| Box::new(attributes));
        }
        if let Some(expires) = change.expires {
            session.expires = expires.and_then(|Expiry { at, after }| {
                // What lies beyond the reach of the clock, or of the wheel, is never.
                let due = self.wheel.tick_from(self.clock.now().checked_add(after)?);
                (due < Tick::MAX).then(|| Box::new(Deadline { due, at }))
            });
            self.schedule(slot);
        }
        let mut receipt = Receipt::default();
        for each in self.deliver_to(slot, &change.messages) {
            receipt += each;
        }
        changed.receipt = receipt;
        Ok(changed)
    }

    /// The parts that the directory knows of.
    fn change_memberships(&mut self, slot: u32, change: &Change) -> Changed {
        let directory = std::sync::Arc::clone(&self.directory);
        let has_uid = self.sessions[slot as usize].uid.is_some();
        let _one_step = change.has_many_parts(has_uid).then(|| directory.one_step());
        let uid = change.uid.clone().is_some_and(|uid| self.bind(slot, uid));
        let left = change.leave.iter().filter(|name| self.leave_group(slot, name)).count();
        let joined = change.join.iter().filter(|name| self.join(slot, name)).count();
        Changed { uid, left, joined, ..Changed::default() }
    }

    /// Whether the client may be in the groups that it would be in.
    fn check_groups(&self, slot: u32, change: &Change) -> Result<(), Refusal> {
        if change.join.is_empty() {
            return Ok(());
        }
        let mut groups: HashSet<&Name> = self.groups_of(slot).collect();
        for group in &change.leave {
            groups.remove(group);
        }
        let stays = groups.len();
        groups.extend(&change.join);
        let limit = self.desk.caps.groups_per_client;
        // Who is in more groups than are allowed now is not made to leave any.
        if groups.len() > limit && groups.len() > stays {
            return Err(Refusal::TooManyGroups { groups: groups.len(), limit });
        }
        Ok(())
    }

    /// The client's attributes as they would be, if it may have them.
    fn retouched(&self, session: &Session, retouch: &Retouch) -> Result<Attributes, Refusal> {
        let attributes = retouch.of(session.attributes.as_deref());
        let (count, bytes) = (attributes.len(), attributes.bytes());
        let caps = &self.desk.caps;
        if count > caps.attributes {
            return Err(Refusal::TooManyAttributes { count, limit: caps.attributes });
        }
        if bytes > caps.attribute_bytes {
            return Err(Refusal::LargeAttributes { bytes, limit: caps.attribute_bytes });
        }
        Ok(attributes)
    }
}

static EMPTY: Attributes = Attributes::NONE;
