//! What one shard hears, collected for the length of a turn.
//!
//! A group that begins when clients are connected is told who they are by a *roll call*: the shard
//! names those in some slots at a time. What happens meanwhile in slots that were named concerns the
//! group; what happens in others does not, for these are yet to be named.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    time::SystemTime,
};

use arc_swap::{ArcSwap, Cache};
use bytes::Bytes;

use super::{
    consumer_group::ConsumerGroup,
    event::{Event, Newly, What},
    links::{Leaving, Link, Links},
};
use crate::{
    ids::ClientId,
    message::Kind,
    sink::{Accept, Closed, Ear, Opened, Unanswered, Wake, Who},
};

/// The groups there are.
pub(super) type List = Vec<Arc<ConsumerGroup>>;

/// Events that are collected at most before they are passed on.
const MOST_EVENTS: usize = 256;
/// Bytes that are.
const MOST_BYTES: usize = 64 << 10;

/// Listens to the clients of one shard.
pub(super) struct ShardEar {
    links: Arc<Links>,
    link: Arc<Link>,
    groups: Arc<ArcSwap<List>>,
    cache: Cache<Arc<ArcSwap<List>>, Arc<List>>,
    /// The groups when it last looked: what was collected is for these.
    known: Arc<List>,
    /// Groups that the clients are yet to be named to; one after the other.
    calls: VecDeque<Call>,
    /// Whether the shard was asked for the first of them.
    asked: bool,
    heard: Vec<Arc<Event>>,
    bytes: usize,
}

/// A roll call.
struct Call {
    group: Arc<ConsumerGroup>,
    /// The first slot that it has not come to.
    next: u32,
}

impl ShardEar {
    /// To be called while no group is made.
    pub(super) fn new(links: Arc<Links>, groups: Arc<ArcSwap<List>>, wake: Wake) -> Self {
        let link = links.add(wake);
        let known = groups.load_full();
        let cache = Cache::new(Arc::clone(&groups));
        Self {
            links,
            link,
            groups,
            cache,
            known,
            calls: VecDeque::new(),
            asked: false,
            heard: Vec::new(),
            bytes: 0,
        }
    }

    /// Looks whether there are other groups now. What was heard so far is for the old ones.
    fn look(&mut self) {
        if Arc::ptr_eq(self.cache.load(), &self.known) {
            return;
        }
        self.pass_on();
        let now = Arc::clone(self.cache.load());
        let was = std::mem::replace(&mut self.known, Arc::clone(&now));
        self.asked &= self.calls.front().is_some_and(|call| is_in(&now, &call.group));
        self.calls.retain(|call| is_in(&now, &call.group));
        let new = now.iter().filter(|group| !is_in(&was, group));
        self.calls.extend(new.map(|group| Call { group: Arc::clone(group), next: 0 }));
    }

    fn hear(&mut self, who: Who<'_>, what: What) {
        let (client, uid, at) = (who.client, who.uid.cloned(), SystemTime::now());
        let event = Event { client, uid, at, what };
        self.bytes += event.weight();
        self.heard.push(Arc::new(event));
        if self.heard.len() >= MOST_EVENTS || self.bytes >= MOST_BYTES {
            self.pass_on();
        }
    }

    /// Tells all groups what was heard.
    fn pass_on(&mut self) {
        if self.heard.is_empty() {
            return;
        }
        // Whatever comes of it, nothing is told twice.
        let mut heard = std::mem::take(&mut self.heard);
        self.bytes = 0;
        for group in self.known.iter() {
            let call = self.calls.iter().find(|call| Arc::ptr_eq(&call.group, group));
            group.append(&heard, call.map_or(u32::MAX, |call| call.next));
        }
        heard.clear();
        self.heard = heard;
    }

    /// Whether messages have to wait, and if so, this ear to be woken when they no longer have to.
    fn refuses(&self) -> bool {
        let groups = self.groups.load();
        let pauses = || groups.iter().any(|group| group.pauses());
        if !pauses() {
            return false;
        }
        self.link.refuse();
        // It may have become otherwise before that was seen.
        pauses()
    }
}

fn is_in(groups: &List, group: &Arc<ConsumerGroup>) -> bool {
    groups.iter().any(|other| Arc::ptr_eq(other, group))
}

impl Ear for ShardEar {
    fn listens(&self) -> bool {
        !self.groups.load().is_empty()
    }

    fn opened(&mut self, opened: &Opened<'_>) {
        self.look();
        if self.known.is_empty() {
            return;
        }
        let newly = Newly {
            groups: opened.groups.to_vec(),
            attributes: opened.attributes.cloned().unwrap_or_default(),
            peer: opened.peer,
            about: opened.about.cloned(),
        };
        self.hear(opened.who, What::Opened(Box::new(newly)));
    }

    fn message(&mut self, who: Who<'_>, kind: Kind, bytes: &[u8]) -> Accept {
        self.look();
        if self.known.is_empty() {
            return Accept::Accepted;
        }
        if self.refuses() {
            return Accept::Backpressure;
        }
        self.hear(who, What::Message { kind, bytes: Bytes::copy_from_slice(bytes) });
        Accept::Accepted
    }

    fn closed(&mut self, who: Who<'_>, closed: &Closed) {
        self.look();
        if !self.known.is_empty() {
            self.hear(who, What::Closed(*closed));
        }
    }

    fn has_room(&self) -> bool {
        !self.refuses()
    }

    fn unanswered(&mut self, client: ClientId) -> Option<Unanswered> {
        self.pass_on();
        // First, so that who acknowledges after it was looked for sees it.
        let leaving = Leaving::new(&self.links, &self.link);
        let kept = self.known.iter().filter_map(|group| group.watch(client));
        let kept: Vec<Weak<()>> = kept.collect();
        if kept.is_empty() {
            return None;
        }
        Some(Box::new(move || {
            let _ = &leaving;
            kept.iter().any(|kept| kept.strong_count() > 0)
        }))
    }

    fn roll_call(&mut self) -> Option<u32> {
        self.look();
        let call = self.calls.front()?;
        self.asked = true;
        Some(call.next)
    }

    fn present(&mut self, clients: &[ClientId], next: Option<u32>) {
        // What was heard before concerns the group only as far as it was named then.
        self.pass_on();
        if !std::mem::take(&mut self.asked) {
            return;
        }
        let Some(call) = self.calls.front_mut() else { return };
        call.group.name_clients(clients);
        if let Some(next) = next {
            call.next = next;
            self.asked = true;
            return;
        }
        call.group.named();
        self.calls.pop_front();
        if !self.calls.is_empty() {
            self.link.wake();
        }
    }

    fn end_turn(&mut self) {
        self.look();
        self.pass_on();
    }
}

impl Drop for ShardEar {
    fn drop(&mut self) {
        self.look();
        self.pass_on();
        // Nobody waits for clients that are gone.
        self.calls.drain(..).for_each(|call| call.group.named());
        self.links.remove(&self.link);
    }
}
