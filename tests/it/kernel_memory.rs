//! What the kernel holds for clients that don't read: no more than its part, whatever waits.

use std::net::SocketAddr;

use crate::{gateway::Gateway, raw::Raw, slow::message};

/// An address as this table has it.
fn as_listed(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else { panic!("{address} is not in this table") };
    let octets = u32::from_ne_bytes(address.ip().octets());
    format!("{octets:08X}:{:04X}", address.port())
}

/// Bytes that the kernel holds on the socket from `gateway` to `client`, which the client has not
/// acknowledged (proc(5), `tx_queue` of `/proc/net/tcp`).
fn held_for(gateway: SocketAddr, client: SocketAddr) -> usize {
    // A port of the client's may be used for other connections, too, which may be long over.
    let (from, to) = (as_listed(gateway), as_listed(client));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = fields
        .into_iter()
        .find(|fields| fields[1] == from && fields[2] == to)
        .expect("the gateway's socket");
    usize::from_str_radix(line[4].split(':').next().unwrap(), 16).unwrap()
}

/// Fills all that takes messages for a client that reads nothing; answers what the kernel holds.
async fn filled(sets: &[&str]) -> usize {
    let own = ["limits.slow_client=drop-newest", "limits.slow_client_grace=0s", "shards=1"];
    let gateway = Gateway::with(&[&own, sets].concat()).await;
    let (mut stuck, id) = Raw::narrow(gateway.websocket()).await;
    while gateway.send_message_to_client(id.as_str(), message(0)).await.result {}
    held_for(gateway.websocket(), stuck.stream().local_addr().unwrap())
}

#[tokio::test]
async fn a_client_that_does_not_read_binds_little_of_the_kernel() {
    // Beside what it may not send yet there is what a client was sent and had no room for after all.
    const MOST: usize = 2 * (64 << 10);
    for sets in [&[][..], &["websocket.send_buffer=0"]] {
        let held = filled(sets).await;
        assert!((1 << 10..MOST).contains(&held), "{held} bytes with {sets:?}");
    }
}
