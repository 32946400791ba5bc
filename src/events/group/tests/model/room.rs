//! Whose messages give way in a random walk.

use std::collections::BTreeMap;

use super::Walk;
use crate::{events::Event, ids::ClientId};

/// The messages of each client that wait: cursor and cost, the oldest first.
type Waiting = BTreeMap<ClientId, Vec<(u64, u64)>>;

impl Walk {
    pub(super) fn waiting(&self) -> Waiting {
        let mut waiting = Waiting::new();
        for partition in &self.group.partitions {
            for entry in partition.messages.iter() {
                let of_client = waiting.entry(entry.event.client).or_default();
                of_client.push((entry.cursor, entry.cost));
            }
        }
        waiting
    }

    /// An event has made others of `waiting` give way, or was given up itself: each that did was the
    /// oldest of a client that had about as much as any.
    pub(super) fn judge_victims(&self, mut waiting: Waiting, event: &Event) {
        let bounds = self.group.bounds();
        let weight = event.weight();
        if weight > bounds.bytes {
            assert_eq!(self.waiting(), waiting, "nobody gives way to what has no room at all");
            return;
        }
        let cost = weight.max(bounds.bytes / bounds.messages) as u64;
        waiting.entry(event.client).or_default().push((self.group.last, cost));
        let after = self.waiting();
        let held = |messages: &Vec<(u64, u64)>| messages.iter().map(|(_, cost)| cost).sum::<u64>();
        let mut victims = 0;
        while waiting != after {
            let most = waiting.values().map(held).max().unwrap();
            let gave_way = waiting.iter_mut().find(|(client, messages)| {
                messages.len() > after.get(*client).map_or(0, Vec::len)
                    && held(messages) * 9 >= most * 8
            });
            let (client, messages) = gave_way.expect("one that held most gives way");
            messages.remove(0);
            victims += 1;
            let client = *client;
            waiting.retain(|_, messages| !messages.is_empty());
            assert!(waiting.contains_key(&client) || !after.contains_key(&client));
        }
        assert!(victims > 0);
    }
}
