//! Several messages at once, in order, and patiently: for streams, which wait rather than fail.
//!
//! Each shard gets its share in one command, and answers it with one. Who waits for room holds no
//! place meanwhile, so nobody waits for somebody who waits.

use std::{future::Future, pin::pin};

use tokio::sync::oneshot;

use super::{Hub, HubError};
use crate::{
    message::{Payload, Receipt, Target},
    shard::{Command, Cost, Full, Recipients},
};

/// What one shard has to send, and which of the messages these are.
struct Share {
    shard: usize,
    indexes: Vec<usize>,
    sends: Vec<(Recipients, Payload)>,
}

/// A share under way: which of the messages it holds, and where the answer will come from.
type Sent = (Vec<usize>, oneshot::Receiver<Vec<Receipt>>);

impl Hub {
    /// Sends messages in order, as soon as there is room for all of them, and answers what becomes
    /// of each. They are on their way when the outer future completes: what is sent after that comes
    /// after them. The inner one completes when every addressed shard has queued them.
    pub async fn send_all(
        &self,
        sends: Vec<(Target, Payload)>,
    ) -> Result<impl Future<Output = Result<Vec<Receipt>, HubError>> + Send + use<>, HubError> {
        let mut receipts = vec![Receipt::default(); sends.len()];
        let mut ready = Vec::with_capacity(sends.len());
        for (target, payload) in sends {
            ready.push((target, self.deflated(payload).await));
        }
        let sent = self.submit(&ready).await?;
        Ok(async move {
            for (indexes, answer) in sent {
                let answer = answer.await.map_err(|_| HubError::Stopped)?;
                for (index, receipt) in indexes.into_iter().zip(answer) {
                    receipts[index] += receipt;
                }
            }
            Ok(receipts)
        })
    }

    /// Cuts messages into the shares of the shards, as their targets are now.
    fn shares(&self, sends: &[(Target, Payload)]) -> Vec<Share> {
        let mut shares: Vec<Share> = Vec::new();
        for (index, (target, payload)) in sends.iter().enumerate() {
            for (shard, clients) in self.routes(target) {
                let known = shares.iter_mut().position(|share| share.shard == shard);
                let at = known.unwrap_or_else(|| {
                    shares.push(Share { shard, indexes: Vec::new(), sends: Vec::new() });
                    shares.len() - 1
                });
                shares[at].indexes.push(index);
                shares[at].sends.push((clients, payload.clone()));
            }
        }
        shares
    }

    /// Puts each shard's share into its inbox, as soon as there is room in all of them.
    async fn submit(&self, sends: &[(Target, Payload)]) -> Result<Vec<Sent>, HubError> {
        loop {
            // Anew each time: while there is no room, a user may come back on another shard.
            let shares = self.shares(sends);
            let bounds = self.bounds();
            let inbox = |share: &Share| &self.0.shards[share.shard].inbox;
            let reserve = |share: &Share| inbox(share).reserve(Cost::of(&share.sends), bounds);
            let mut places = Vec::with_capacity(shares.len());
            let mut full = None;
            for share in &shares {
                match reserve(share) {
                    Ok(place) => places.push(place),
                    Err(Full::Closed) => return Err(HubError::Stopped),
                    Err(_) => {
                        full = Some(share);
                        break;
                    }
                }
            }
            let Some(full) = full else {
                let filled = places.into_iter().zip(shares).map(|(place, share)| {
                    let (reply, answer) = oneshot::channel();
                    place.commit(Command::SendAll(share.sends, reply));
                    (share.indexes, answer)
                });
                return Ok(filled.collect());
            };
            drop(places);
            let (shard, cost) = (full.shard, Cost::of(&full.sends));
            drop(shares);
            self.room_for(shard, cost).await;
        }
    }

    /// Waits until there is room in a shard's inbox, or never will be.
    pub(super) async fn room_for(&self, shard: usize, cost: Cost) {
        let inbox = &self.0.shards[shard].inbox;
        loop {
            let mut room = pin!(inbox.room());
            room.as_mut().enable();
            // What became free before it was listened for is not told again.
            match inbox.reserve(cost, self.bounds()) {
                Ok(_) | Err(Full::Closed) => return,
                Err(Full::Calls | Full::Bytes) => room.await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll};

    use super::*;
    use crate::{
        config::{Config, Live, value::Auto},
        ids::Name,
        message::Kind,
        shard::Clock,
        sink::NoSink,
    };

    /// Whether it completes as things are.
    async fn is_ready<F: Future>(future: &mut Pin<&mut F>) -> bool {
        poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await
    }

    #[tokio::test]
    async fn who_waits_for_room_looks_up_anew_where_a_user_is() {
        let live = Live::new(Config { shards: Auto::Set(2), ..Config::default() });
        let (hub, threads) = Hub::start(&live, Arc::new(NoSink), Clock::default()).unwrap();
        let (users, ada) = (&hub.0.directory.users, Name::new("ada", 9).unwrap());
        let bounds = hub.bounds();
        let all = Cost { calls: bounds.calls, bytes: 0 };
        let fill = |shard: usize| hub.0.shards[shard].inbox.reserve(all, bounds).ok();
        let (first, second) = (fill(0), fill(1));
        assert!(first.is_some() && second.is_some());

        users.set(&ada, 0, 1);
        let message = Payload::from_text(Kind::Text, "hello".to_owned());
        let mut sending = pin!(hub.send_all(vec![(Target::User(ada.clone()), message)]));
        assert!(!is_ready(&mut sending).await, "there is no room where the user is");
        users.set(&ada, 1, 1);
        users.set(&ada, 0, 0);
        drop(first);
        assert!(!is_ready(&mut sending).await, "there is room where the user was");
        drop(second);
        assert!(is_ready(&mut sending).await);
        hub.stop();
        threads.join();
    }
}
