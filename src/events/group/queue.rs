//! The messages of a partition in the order of their cursors, of which any can be taken out.
//!
//! A list in a slab: every step is constant, whoever gives way (see [`accounts`](super::accounts)),
//! and nobody else's message moves.

use super::entry::{Entry, NONE};

/// Messages that wait.
#[derive(Debug)]
pub(super) struct MessageQueue {
    nodes: Vec<Node>,
    free: Vec<u32>,
    first: u32,
    last: u32,
}

/// A message between its neighbours; free ones have no entry.
#[derive(Debug)]
struct Node {
    entry: Option<Entry>,
    before: u32,
    after: u32,
}

/// Queues that have become empty keep room for so many.
const KEPT: usize = 64;

impl Default for MessageQueue {
    fn default() -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), first: NONE, last: NONE }
    }
}

impl MessageQueue {
    /// The oldest.
    pub(super) fn front(&self) -> Option<&Entry> {
        self.nodes.get(self.first as usize)?.entry.as_ref()
    }

    /// Where the oldest is.
    pub(super) fn first(&self) -> u32 {
        self.first
    }

    /// Puts a message at the end. Where it is from now on.
    pub(super) fn push_back(&mut self, entry: Entry) -> u32 {
        let at = self.place(Node { entry: Some(entry), before: self.last, after: NONE });
        match self.nodes.get_mut(self.last as usize) {
            Some(last) => last.after = at,
            None => self.first = at,
        }
        self.last = at;
        at
    }

    /// Puts a message before all others. Where it is from now on.
    pub(super) fn push_front(&mut self, entry: Entry) -> u32 {
        let at = self.place(Node { entry: Some(entry), before: NONE, after: self.first });
        match self.nodes.get_mut(self.first as usize) {
            Some(first) => first.before = at,
            None => self.last = at,
        }
        self.first = at;
        at
    }

    /// Takes a message out.
    pub(super) fn remove(&mut self, at: u32) -> Option<Entry> {
        let node = self.nodes.get_mut(at as usize)?;
        let entry = node.entry.take()?;
        let (before, after) = (node.before, node.after);
        match self.nodes.get_mut(before as usize) {
            Some(before) => before.after = after,
            None => self.first = after,
        }
        match self.nodes.get_mut(after as usize) {
            Some(after) => after.before = before,
            None => self.last = before,
        }
        self.free.push(at);
        if self.first == NONE {
            // What a flood has needed once would be kept for ever, partition by partition.
            (self.nodes, self.free) = (std::mem::take(&mut self.nodes), Vec::new());
            self.nodes.clear();
            self.nodes.shrink_to(KEPT);
        }
        Some(entry)
    }

    /// The message that is there, to be changed.
    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut Entry> {
        self.nodes.get_mut(at as usize)?.entry.as_mut()
    }

    fn place(&mut self, node: Node) -> u32 {
        if let Some(free) = self.free.pop() {
            self.nodes[free as usize] = node;
            return free;
        }
        self.nodes.push(node);
        // The bounds are far below that.
        u32::try_from(self.nodes.len() - 1).unwrap_or(NONE)
    }
}

#[cfg(test)]
impl MessageQueue {
    /// All that wait, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        let mut at = self.first;
        std::iter::from_fn(move || {
            let node = self.nodes.get(at as usize)?;
            at = node.after;
            node.entry.as_ref()
        })
    }
}
