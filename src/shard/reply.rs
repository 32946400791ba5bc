//! Whom to answer for a message: its sender, or the sender of several, who is answered once.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use super::inbox::Reply;
use crate::message::Receipt;

/// Whom to answer for one message.
pub(super) enum Answer {
    /// Who sent it.
    Caller(Reply<Receipt>),
    /// Who sent several, of which this is the one at the position.
    Part(Rc<BatchReply>, usize),
}

/// The answers to several messages of one call, which are given together: all or none. If the shard
/// ends before the last of them, who asked learns that none will come.
pub(super) struct BatchReply {
    receipts: RefCell<Vec<Receipt>>,
    /// Answers that have not been given yet.
    missing: Cell<usize>,
    reply: Cell<Option<Reply<Vec<Receipt>>>>,
}

impl Answer {
    pub(super) fn give(self, receipt: Receipt) {
        match self {
            // Who asked may be gone; the message goes out all the same.
            Self::Caller(reply) => drop(reply.send(receipt)),
            Self::Part(shares, index) => shares.take(index, receipt),
        }
    }
}

impl BatchReply {
    pub(super) fn new(count: usize, reply: Reply<Vec<Receipt>>) -> Rc<Self> {
        let receipts = RefCell::new(vec![Receipt::default(); count]);
        let shares = Self { receipts, missing: Cell::new(count), reply: Cell::new(Some(reply)) };
        shares.answer_if_complete();
        Rc::new(shares)
    }

    fn take(&self, index: usize, receipt: Receipt) {
        self.receipts.borrow_mut()[index] = receipt;
        self.missing.set(self.missing.get() - 1);
        self.answer_if_complete();
    }

    fn answer_if_complete(&self) {
        if self.missing.get() == 0
            && let Some(reply) = self.reply.take()
        {
            let _ = reply.send(self.receipts.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn several_are_answered_when_the_last_is_known_and_not_before() {
        let (reply, mut answer) = oneshot::channel();
        let shares = BatchReply::new(2, reply);
        let [first, second] = [0, 1].map(|index| Answer::Part(Rc::clone(&shares), index));
        second.give(Receipt::all_queued(2));
        assert_eq!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        first.give(Receipt::all_queued(1));
        assert_eq!(answer.try_recv(), Ok(vec![Receipt::all_queued(1), Receipt::all_queued(2)]));
        let (reply, mut answer) = oneshot::channel();
        drop(BatchReply::new(0, reply));
        assert_eq!(answer.try_recv(), Ok(Vec::new()));
    }

    #[test]
    fn what_was_never_carried_out_is_not_answered() {
        let (reply, mut answer) = oneshot::channel();
        let shares = BatchReply::new(2, reply);
        Answer::Part(Rc::clone(&shares), 0).give(Receipt::all_queued(1));
        drop(shares);
        assert_eq!(answer.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
