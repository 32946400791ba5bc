//! Whether anybody with a right has called over a connection.
//!
//! Where tokens are the only guard, everybody may connect, and a peer that answers pings and calls
//! nothing would hold a place under `grpc.max_connections` for ever. So a connection has to carry a
//! call with a valid token within `limits.handshake`, and again within that time when the token is
//! taken away. Where no token is asked for, any call but health proves that the peer is no stranger,
//! and keeps the place when others need one. Health needs no token, and so it earns no place either: a probe that brings none
//! connects anew, as most of them do each time.

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::peer::{Grant, Peer};
use crate::{
    access::TokenId,
    config::{InForce, Live},
    net::PeerPermit,
};

/// What is known of who calls over a connection.
#[derive(Debug, Default)]
pub(super) struct Trust(watch::Sender<Known>);

/// The best that was heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Known {
    #[default]
    Nothing,
    /// Calls of health, which need nothing.
    Probe,
    /// A call that was accepted because no token was asked for.
    Open,
    /// A call with this token, the last there was.
    Token(TokenId),
}

impl Trust {
    /// A call was let in by this; health may have come with a valid token all the same.
    pub(super) fn note(&self, grant: Grant, token: Option<TokenId>) {
        self.0.send_if_modified(|known| {
            let now = match (grant, token, *known) {
                (Grant::Token(id), ..) | (_, Some(id), _) => Known::Token(id),
                (Grant::Open, ..) => Known::Open,
                (Grant::Exempt, None, Known::Nothing) => Known::Probe,
                (Grant::Exempt, None, known) => known,
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
    /// Meanwhile the permit is told what is proved and what not.
    pub(super) async fn lacks(
        &self,
        (peer, permit): (&Peer, &PeerPermit),
        live: &Live,
        mut deadline: Instant,
    ) {
        let (mut known, mut swaps) = (self.0.subscribe(), live.swaps());
        loop {
            let config = live.snapshot();
            let latest = *known.borrow_and_update();
            if proves(latest, peer, &config) {
                permit.prove();
            } else {
                permit.unprove();
            }
            if suffices(latest, peer, &config) {
                drop(config);
                tokio::select! {
                    () = swaps.next() => {
                        deadline = Instant::now() + live.snapshot().limits.handshake;
                    }
                    _ = known.changed() => {}
                }
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

/// Whether what is known of the peer lets it stay by the rules of `config`, if there is room.
fn suffices(known: Known, peer: &Peer, config: &InForce) -> bool {
    config.grpc.token_files.0.is_empty() || proves(known, peer, config)
}

/// Whether it lets the peer keep its place when there is none for another.
fn proves(known: Known, peer: &Peer, config: &InForce) -> bool {
    let grpc = &config.grpc;
    // With a certificate it has shown who it is; whether that still holds is checked elsewhere.
    let certified = peer.identity.is_some() && !grpc.client_ca.as_os_str().is_empty();
    let open = grpc.token_files.0.is_empty();
    certified
        || match known {
            Known::Nothing | Known::Probe => false,
            Known::Open => open,
            Known::Token(id) => open || config.material.callers.holds(id),
        }
}
