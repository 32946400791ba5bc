//! What a client's socket keeps for life.
//!
//! The options are set on the listener, and what it accepts inherits them (tcp(7)): a few system
//! calls per listener instead of three per client.

use std::{os::fd::AsFd, time::Duration};

use socket2::SockRef;

use crate::config::Config;

/// How long written data may stay unacknowledged when there is no heartbeat to say.
const DEAF: Duration = Duration::from_mins(3);

/// Bytes that the kernel takes of what the client's window has no room for. Who doesn't read would
/// otherwise bind a whole send buffer, which no budget counts; so the rest waits in the client's
/// queue, where it is counted. What is under way is not bounded by it: long fast paths stay fast.
const UNSENT: u32 = 64 << 10;

/// Sets the options on a listener, or on a connection that was accepted before the listener had
/// them.
pub(super) fn set(socket: &impl AsFd, config: &Config) {
    let websocket = &config.websocket;
    let socket = SockRef::from(socket);
    let deaf = Some(websocket.heartbeat_timeout).filter(|time| !time.is_zero()).unwrap_or(DEAF);
    let mut outcome = socket.set_tcp_nodelay(true).and(socket.set_tcp_notsent_lowat(UNSENT));
    if websocket.send_buffer.0 > 0 {
        outcome = outcome.and(socket.set_send_buffer_size(websocket.send_buffer.bytes()));
    }
    if let Err(error) = outcome.and(socket.set_tcp_user_timeout(Some(deaf))) {
        // Clients are served all the same; only they wait longer, or bind more of the kernel's
        // memory, than they should.
        tracing::warn!(%error, "the options of client sockets could not be set");
    }
}
