//! Whether anybody with a right has called over a connection.
//!
//! Where tokens are the only guard, everybody may connect, and a peer that answers pings and calls
//! nothing would hold a place under `grpc.max_connections` for ever. So a connection has to carry a
//! call with a valid token within `limits.handshake`, and again within that time when the token is
//! taken away. Health needs no token, and so it earns no place either: a probe that brings none
//! connects anew, as most of them do each time.

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::peer::Peer;
use crate::{
    access::TokenId,
    config::{InForce, Live},
};

/// What is known of who calls over a connection.
#[derive(Debug, Default)]
pub(super) struct Trust(watch::Sender<Known>);

/// The best that was heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Known {
    #[default]
    Nothing,
    /// Calls that need no token.
    Probe,
    /// A call with this token, the last there was.
    Token(TokenId),
}

impl Trust {
    /// A call came with this token, which is valid; none if it needed none.
    pub(super) fn note(&self, token: Option<TokenId>) {
        self.0.send_if_modified(|known| {
            let now = match (token, *known) {
                (Some(id), _) => Known::Token(id),
                (None, Known::Nothing) => Known::Probe,
                (None, known) => known,
            };
            std::mem::replace(known, now) != now
        });
    }

    /// Whether calls came that need no token, and no others.
    pub(super) fn is_probe(&self) -> bool {
        *self.0.borrow() == Known::Probe
    }

    /// Whether the peer has shown that it has a right to be there.
    pub(super) fn is_proven(&self, peer: &Peer, config: &InForce) -> bool {
        suffices(*self.0.borrow(), peer, config)
    }

    /// Waits until nobody with a right has called in time, for the first time by `deadline`.
    pub(super) async fn lacks(&self, peer: &Peer, live: &Live, mut deadline: Instant) {
        let (mut known, mut swaps) = (self.0.subscribe(), live.swaps());
        loop {
            let config = live.snapshot();
            if suffices(*known.borrow_and_update(), peer, &config) {
                drop(config);
                swaps.next().await;
                deadline = Instant::now() + live.snapshot().limits.handshake;
                continue;
            }
            drop(config);
            tokio::select! {
                () = sleep_until(deadline) => return,
                () = swaps.next() => {}
                // The other end is `self`.
                _ = known.changed() => {}
            }
        }
    }
}

/// Whether what is known of the peer lets it stay by the rules of `config`.
fn suffices(known: Known, peer: &Peer, config: &InForce) -> bool {
    let grpc = &config.grpc;
    // With a certificate it has shown who it is; whether that still holds is checked elsewhere.
    let certified = peer.identity.is_some() && !grpc.client_ca.as_os_str().is_empty();
    certified
        || grpc.token_files.0.is_empty()
        || matches!(known, Known::Token(id) if config.material.callers.holds(id))
}
