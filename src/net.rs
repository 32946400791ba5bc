//! What every surface needs of the network: listeners, an accept loop that nothing ends, and a
//! small HTTP/1.1 server for probes and commands.
//!
//! It knows sockets and HTTP, and nothing of clients, users or groups.
//!
//! ```text
//!  bind ──► listener ──► Acceptor (survives EMFILE) ─┬─► PeerTable ──► ws   handshakes of its own
//!                                                   ├─► PeerTable ──► grpc connections of its own
//!                                                   └─► PeerTable ──► http admin, control
//! ```

pub mod accept;
pub mod address;
pub mod bind;
pub mod entrance;
pub mod gate;
pub mod http;
pub mod peers;
pub mod proxy;
pub mod tapped;
pub mod timely;
pub mod told;
pub mod traffic;

pub use accept::{Acceptor, Listener};
pub use address::Address;
pub use bind::{BindError, ListenAddress, bind, bind_beside};
pub use entrance::Entrance;
pub use gate::{Gate, Place};
pub use peers::{PeerLimits, PeerPermit, PeerTable, Working};
pub use tapped::{Ear, Tapped};
pub use timely::{Patience, Timely};
pub use told::{Told, ToldOfEach};

use tokio::sync::watch;

/// Says when to stop: `true`, or the end of the sender.
pub type Stop = watch::Receiver<bool>;

/// Waits until it is time to stop.
pub async fn stopped(stop: &mut Stop) {
    // An error means that nobody is left who could say it: that too is an end.
    let _ = stop.wait_for(|stop| *stop).await;
}
