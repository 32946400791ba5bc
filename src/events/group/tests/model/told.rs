//! What subscribers of a random walk may be told.

use std::{collections::BTreeSet, sync::Arc};

use super::{Fate, Key, Walk, partition_of};
use crate::{
    events::{Delivered, Delivery, Partitions},
    ids::ClientId,
};

impl Walk {
    /// Judges what a subscriber is told, before what is told it later.
    pub(super) fn told(&mut self, at: usize, delivery: &Delivery, later: &BTreeSet<u64>) {
        let key = self.peers[at].key;
        match &delivery.what {
            Delivered::Event(event) => {
                let partition = partition_of(event.client);
                assert!(self.peers[at].unclear.is_empty(), "something is missing, and no snapshot");
                let unknown = self.peers[at].unknown.contains(&partition);
                assert!(self.cleared.contains(&partition) && !unknown, "who is connected?");
                let pending = self.pending.entry(event.client).or_default();
                let earlier: Vec<u64> = pending.range(..delivery.cursor).copied().collect();
                for cursor in earlier {
                    let record = self.log.get_mut(&cursor).unwrap();
                    match record.fate {
                        Fate::Kept => record.fate = Fate::Passed,
                        fate => assert!(fate == Fate::InFlight(key), "{cursor} is {fate:?}"),
                    }
                    if record.fate == Fate::Passed {
                        pending.remove(&cursor);
                    }
                }
                let record = self.log.get_mut(&delivery.cursor).unwrap();
                assert_eq!(record.fate, Fate::Kept, "{} is told again", delivery.cursor);
                assert!(Arc::ptr_eq(&record.event, event));
                assert_eq!(record.told, delivery.redelivered);
                (record.fate, record.told) = (Fate::InFlight(key), true);
            }
            Delivered::Missed { partitions, first, last, messages, changes } => {
                assert!(self.peers[at].unclear.is_empty(), "what is missing, and no snapshot");
                self.peers[at].unclear = self.numbers(key, partitions);
                assert!(messages + changes > 0 && first <= last);
                assert!(last - first + 1 >= messages + changes);
            }
            Delivered::Snapshot { partitions, clients } => {
                let numbers = self.numbers(key, partitions);
                let missing = std::mem::take(&mut self.peers[at].unclear);
                assert!(missing.is_subset(&numbers), "of others than those that were missing");
                assert!(clients.len() <= 1000 || numbers.len() == 1);
                let named: BTreeSet<ClientId> = clients.iter().copied().collect();
                assert_eq!(named.len(), clients.len(), "somebody is named twice");
                assert_eq!(named, self.connected(&numbers, later));
                self.peers[at].unknown.retain(|number| !numbers.contains(number));
                self.cleared.extend(numbers);
                self.snapshots += 1;
            }
        }
    }

    /// The partitions, all of which can be told to `key`.
    fn numbers(&self, key: Key, partitions: &Partitions) -> BTreeSet<u16> {
        let numbers: BTreeSet<u16> = match partitions {
            Partitions::All => (1..=256).collect(),
            Partitions::These(numbers) => numbers.iter().copied().collect(),
        };
        let partition = |number: &u16| &self.group.partitions[usize::from(*number) - 1];
        assert!(!numbers.is_empty() && numbers.iter().all(|it| partition(it).can_go_to(key)));
        numbers
    }

    /// Who is connected before what waits, or was just taken, of these partitions.
    fn connected(&self, numbers: &BTreeSet<u16>, taken: &BTreeSet<u64>) -> BTreeSet<ClientId> {
        let mut waiting: BTreeSet<u64> = taken.clone();
        for partition in &self.group.partitions {
            waiting.extend(partition.changes().map(|entry| entry.cursor));
        }
        let mut connected = BTreeSet::new();
        for (client, changes) in &self.changes {
            let number = partition_of(*client);
            if !numbers.contains(&number) {
                continue;
            }
            let partition = &self.group.partitions[usize::from(number) - 1];
            let over = changes.iter().rev().find(|(cursor, _)| !waiting.contains(cursor));
            let Some((cursor, is_there)) = over else { continue };
            // Nothing of it is told later that came before.
            let late = partition
                .entries()
                .find(|entry| entry.event.client == *client && entry.cursor < *cursor);
            assert!(late.is_none(), "{late:?} is told after {cursor}");
            if *is_there {
                connected.insert(*client);
            }
        }
        connected
    }
}
