//! `gateway.v1.Connections/Close`, and clients whose time is over.

use std::time::Duration;

use gateway_websocket::grpc::proto::v1::{
    CloseRequest, Pending, connections_client::ConnectionsClient,
};
use tonic::Code;

use super::{
    Walk,
    draw::{is_valid, said},
    finish, outcome,
};

/// A close code, and what the client sees.
const CODES: [(u32, u16); 5] = [(0, 1000), (1000, 1000), (1013, 1013), (3000, 3000), (4999, 4999)];

/// Codes that are not to be sent.
const BAD_CODES: [u32; 4] = [999, 1005, 2999, 65_536 + 1000];

impl Walk {
    pub(super) fn close_request(&mut self, number: u64) -> CloseRequest {
        let mut target = self.target();
        if target.all && !self.random.once_in(10) {
            target.all = false;
        }
        let last = self.random.once_in(3);
        CloseRequest {
            target: (!self.random.once_in(40)).then_some(target),
            code: match self.random.below(30) {
                0 => BAD_CODES[self.random.below(BAD_CODES.len())],
                _ => CODES[self.random.below(CODES.len())].0,
            },
            reason: match self.random.below(30) {
                0 => "x".repeat(124),
                1..5 => "x".repeat(123),
                5..10 => String::new(),
                _ => format!("reason {number}"),
            },
            last_message: last.then(|| self.modern_message(number, false)).flatten(),
            pending: match self.random.below(30) {
                0 => 3,
                1..10 => Pending::Drop.into(),
                10..15 => Pending::Flush.into(),
                _ => Pending::Unspecified.into(),
            },
        }
    }

    /// Closes clients, who read what is left or are gone.
    pub(super) async fn close(&mut self, request: CloseRequest, read: bool) {
        let mut connections = ConnectionsClient::new(self.gateway.channel());
        let answer = outcome(connections.close(request.clone()).await);
        let code = CODES.iter().find(|(code, _)| *code == request.code);
        let last = request.last_message.as_ref().map(|message| said(Some(message)));
        let target = request.target.as_ref().filter(|target| is_valid(target));
        let (Some(target), Some((_, code)), false, Ok(pending)) =
            (target, code, last == Some(None), Pending::try_from(request.pending))
        else {
            assert_eq!(answer.map(drop), Err(Code::InvalidArgument));
            return;
        };
        if request.reason.len() > 123 {
            assert_eq!(answer.map(drop), Err(Code::InvalidArgument));
            return;
        }
        let closed = self.world.whom(target);
        assert_eq!(answer.map(|answer| answer.closed), Ok(closed.len().try_into().unwrap()));
        for id in closed {
            assert!(!self.gateway.client_is_online(&id).await.isonline);
            if pending == Pending::Drop {
                self.world.discard(&id);
            }
            let mut unread = self.world.disconnect(&id);
            self.world.tally.api += 1;
            if let Some(last) = last.clone().flatten() {
                unread.push(last);
                *self.world.tally.queued.get_or_insert_default() += 1;
            }
            let client = self.clients.remove(&id).unwrap();
            if read {
                finish(client, unread, (*code, &request.reason)).await;
            }
            self.past.push(id);
        }
    }

    /// The shards' clock goes on.
    pub(super) async fn pass(&mut self, millis: u64) {
        self.clock.advance(Duration::from_millis(millis));
        self.world.now += millis;
        // A shard looks at its clock when a turn begins, and who is due is closed when it ends. The
        // first question may be answered in a turn that began before the clock was moved.
        for _ in 0..3 {
            self.gateway.get_all_online_client().await;
        }
        for id in self.world.who_expired() {
            assert!(!self.gateway.client_is_online(&id).await.isonline, "{id} should be closed");
            let unread = self.world.disconnect(&id);
            self.world.tally.expired += 1;
            let client = self.clients.remove(&id).unwrap();
            let reason = "the time until which the client was allowed in is over";
            finish(client, unread, (3000, reason)).await;
            self.past.push(id);
        }
    }
}
