//! Several messages at once, in order, and patiently: for streams, which wait rather than fail.
//!
//! Each shard gets its share in one command, and answers it with one. Who waits for room holds no
//! place meanwhile, so nobody waits for somebody who waits.

use std::{future::Future, pin::pin};

use tokio::sync::oneshot;

use super::{Hub, HubError};
use crate::{
    message::{Payload, Receipt, Target},
    shard::{Clients, Command, Cost, Full},
};

/// Bytes of lists of clients from which on messages are passed on before more of them are looked up:
/// a user may have very many.
const LISTED_AT_ONCE: usize = 1024 * 1024;

/// What one shard has to send, and which of the messages these are.
struct Share {
    shard: usize,
    indexes: Vec<usize>,
    sends: Vec<(Clients, Payload)>,
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
        let (mut sent, mut rest) = (Vec::new(), sends.into_iter().enumerate());
        while rest.len() > 0 {
            let shares = self.shares(&mut rest).await;
            sent.append(&mut self.submit(shares).await?);
        }
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

    /// Cuts the next messages into the shares of the shards.
    async fn shares(
        &self,
        sends: &mut impl Iterator<Item = (usize, (Target, Payload))>,
    ) -> Vec<Share> {
        let mut shares: Vec<Share> = Vec::new();
        let mut listed = 0;
        while listed < LISTED_AT_ONCE
            && let Some((index, (target, payload))) = sends.next()
        {
            let payload = self.deflated(payload).await;
            for (shard, clients) in self.routes(&target) {
                listed += clients.bytes();
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

    /// Puts each share into its shard's inbox, as soon as there is room in all of them.
    async fn submit(&self, shares: Vec<Share>) -> Result<Vec<Sent>, HubError> {
        loop {
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
            self.room_for(full.shard, Cost::of(&full.sends)).await;
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
    use std::sync::Arc;

    use super::*;
    use crate::{
        config::{Config, Live},
        ids::{ClientId, Name},
        message::Kind,
        shard::Clock,
        sink::NoSink,
    };

    #[tokio::test]
    async fn users_with_many_clients_are_looked_up_a_few_messages_at_a_time() {
        let live = Live::new(Config::default());
        let (hub, threads) = Hub::start(&live, Arc::new(NoSink), Clock::default()).unwrap();
        let crowd = Name::new("crowd", 9).unwrap();
        // The directory knows of them; for the shard they have gone meanwhile.
        for slot in 0..40_000 {
            hub.0.directory.bind(&crowd, ClientId::new(0, slot, 0, 0));
        }
        let message = |text: &str| Payload::from_text(Kind::Text, text.to_owned());
        let sends = || {
            let one = (Target::User(crowd.clone()), message("to all of them"));
            vec![one; 5]
        };
        let mut rest = sends().into_iter().enumerate();
        let shares = hub.shares(&mut rest).await;
        assert_eq!((shares.len(), rest.len()), (1, 3), "1.2 MB of ids were listed");
        assert!(shares.iter().all(|share| share.indexes == [0, 1]));
        let receipts = hub.send_all(sends()).await.unwrap().await.unwrap();
        assert_eq!(receipts, [Receipt::default(); 5]);
        hub.stop();
        threads.join();
    }
}
