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
    Share(Rc<Shares>, usize),
}

/// The answers to several messages of one call, which are given together.
pub(super) struct Shares {
    receipts: RefCell<Vec<Receipt>>,
    reply: Cell<Option<Reply<Vec<Receipt>>>>,
}

impl Answer {
    pub(super) fn give(self, receipt: Receipt) {
        match self {
            // Who asked may be gone; the message goes out all the same.
            Self::Caller(reply) => drop(reply.send(receipt)),
            Self::Share(shares, index) => shares.receipts.borrow_mut()[index] = receipt,
        }
    }
}

impl Shares {
    pub(super) fn new(count: usize, reply: Reply<Vec<Receipt>>) -> Rc<Self> {
        let receipts = RefCell::new(vec![Receipt::default(); count]);
        Rc::new(Self { receipts, reply: Cell::new(Some(reply)) })
    }
}

/// The last answer was given.
impl Drop for Shares {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(self.receipts.take());
        }
    }
}
