//! What one address may have: clients at once, and connections per second.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Instant,
};

use crate::{
    client::soon,
    gateway::Gateway,
    program::Program,
    raw::{Raw, TEXT, frame, request},
};

/// Loopback has a whole network of addresses to come from.
fn host(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 9, last).into()
}

/// A client from `source`, or none if the gateway closed the connection without a word.
async fn connect(source: IpAddr, address: SocketAddr) -> Option<Raw> {
    let mut raw = Raw::open_from(source, address).await;
    let _ = raw.try_send(request(&[])).await;
    // A reset or an end is no answer; a client is welcomed.
    let welcome = match raw.try_response().await {
        Some(head) => {
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            raw.data().await
        }
        None => return None,
    };
    assert_eq!(welcome.payload.len(), 36);
    Some(raw)
}

async fn pongs(raw: &mut Raw) {
    raw.send(frame(TEXT, b"ping")).await;
    assert_eq!(raw.data().await.text(), "pong");
}

/// Tries until the address is let in.
async fn connect_in_time(source: IpAddr, address: SocketAddr) -> Raw {
    let trying = async {
        loop {
            if let Some(raw) = connect(source, address).await {
                return raw;
            }
        }
    };
    soon("a place for the address", trying).await
}

#[tokio::test]
async fn an_address_has_only_so_many_clients_and_others_are_not_hindered() {
    let gateway = Gateway::with(&["limits.address_clients=2"]).await;
    let address = gateway.websocket();
    let mut first = connect(host(1), address).await.expect("the first comes");
    let mut second = connect(host(1), address).await.expect("the second comes");
    assert!(connect(host(1), address).await.is_none());
    assert_eq!(gateway.hub().handshakes().address.get(), 1);
    let mut other = connect(host(2), address).await.expect("another address comes");
    for raw in [&mut first, &mut second, &mut other] {
        pongs(raw).await;
    }
    drop(first);
    let mut third = connect_in_time(host(1), address).await;
    pongs(&mut third).await;
    assert!(connect(host(1), address).await.is_none());
}

#[tokio::test]
async fn a_client_counts_until_its_socket_is_gone() {
    let gateway = Gateway::with(&["limits.address_clients=1", "limits.close_wait=1h"]).await;
    let mut raw = Raw::open_from(host(1), gateway.websocket()).await;
    raw.upgrade().await;
    let id = raw.data().await.text().to_owned();
    assert!(gateway.clonse_client(id).await.result);
    assert_eq!(raw.close_code().await, 1000);
    // It is closed and on no list, but still holds a socket.
    assert_eq!(gateway.hub().count_clients(), 0);
    assert!(connect(host(1), gateway.websocket()).await.is_none());
    drop(raw);
    connect_in_time(host(1), gateway.websocket()).await;
}

#[tokio::test]
async fn who_never_asks_counts_too_and_takes_no_place_of_the_handshakes_when_over() {
    let sets = ["limits.address_clients=2", "limits.max_handshakes=3", "limits.address_share=100"];
    let gateway = Gateway::with(&sets).await;
    let address = gateway.websocket();
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(Raw::open_from(host(1), address).await);
    }
    for _ in 0..20 {
        let mut over = Raw::open_from(host(1), address).await;
        over.ended().await;
    }
    connect(host(2), address).await.expect("there is a place left");
    assert_eq!(gateway.hub().handshakes().address.get(), 20);
    drop(silent);
    connect_in_time(host(1), address).await;
}

#[tokio::test]
async fn a_request_that_is_refused_gives_the_place_back() {
    let gateway = Gateway::with(&["limits.address_clients=1"]).await;
    for _ in 0..5 {
        let mut raw = connect_in_time(host(1), gateway.websocket()).await;
        raw.hang_up().await.unwrap();
        raw.ended().await;
        let trying = async {
            loop {
                let mut raw = Raw::open_from(host(1), gateway.websocket()).await;
                let _ = raw.try_send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
                let answer = raw.rest().await;
                if answer.starts_with("HTTP/1.1 426 ") {
                    return;
                }
                assert_eq!(answer, "");
            }
        };
        soon("an answer", trying).await;
    }
}

#[tokio::test]
async fn an_address_may_connect_only_so_often() {
    let gateway = Gateway::with(&["limits.address_connections=1"]).await;
    let address = gateway.websocket();
    let began = Instant::now();
    let mut first = connect(host(1), address).await.expect("the first comes");
    let mut refused = 0;
    for _ in 0..50 {
        refused += u64::from(connect(host(1), address).await.is_none());
    }
    // One at once, and another with each second that passed.
    let let_in = 51 - refused;
    assert!(let_in <= 1 + began.elapsed().as_secs(), "{let_in} in {:?}", began.elapsed());
    assert_eq!(gateway.hub().handshakes().address.get(), refused);
    connect(host(2), address).await.expect("another address comes");
    pongs(&mut first).await;
    connect_in_time(host(1), address).await;
}

#[tokio::test]
async fn an_ipv6_address_is_limited_too() {
    let gateway = Gateway::with(&["websocket.listen=[::1]:0", "limits.address_clients=1"]).await;
    let address = gateway.websocket();
    let source = Ipv6Addr::LOCALHOST.into();
    let first = connect(source, address).await.expect("the first comes");
    assert!(connect(source, address).await.is_none());
    drop(first);
    connect_in_time(source, address).await;
}

#[tokio::test]
async fn more_addresses_than_can_be_watched_are_refused_until_one_is_forgotten() {
    let gateway = Gateway::with(&["limits.address_clients=5", "limits.addresses=2"]).await;
    let address = gateway.websocket();
    let first = connect(host(1), address).await.expect("the first comes");
    let _second = connect(host(2), address).await.expect("the second comes");
    assert!(connect(host(3), address).await.is_none());
    assert_eq!(gateway.hub().handshakes().strangers.get(), 1);
    assert_eq!(gateway.hub().handshakes().address.get(), 0);
    connect(host(2), address).await.expect("who is known may come");
    drop(first);
    connect_in_time(host(3), address).await;
}

#[tokio::test]
async fn changed_limits_hold_for_the_next_connection_and_who_is_connected_stays() {
    let mut program = Program::new();
    let toml = |clients: u32, rate: u32, addresses: u32| {
        format!(
            "[limits]\naddress_clients = {clients}\naddress_connections = {rate}\n\
             addresses = {addresses}\n"
        )
    };
    let reload = |program: &Program, toml: &str| {
        program.config(toml);
        program.run(&["reload"]).expect(0, &["limits.address"]);
    };
    let config = program.config(&toml(2, 0, 9));
    let address = program.serve(&["--config", &config]).await.listeners.websocket[0];
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(connect(host(1), address).await.expect("there is room"));
    }
    assert!(connect(host(1), address).await.is_none());

    reload(&program, &toml(3, 0, 9));
    clients.push(connect(host(1), address).await.expect("a place was added"));
    assert!(connect(host(1), address).await.is_none());
    reload(&program, &toml(1, 0, 9));
    assert!(connect(host(1), address).await.is_none());
    // Only as many addresses as are there already.
    reload(&program, &toml(1, 0, 1));
    assert!(connect(host(2), address).await.is_none());

    reload(&program, &toml(0, 1, 9));
    let mut refused = 0;
    for _ in 0..20 {
        match connect(host(1), address).await {
            Some(client) => clients.push(client),
            None => refused += 1,
        }
    }
    assert!(refused > 0 && clients.len() > 3, "{refused} {}", clients.len());
    reload(&program, &toml(0, 0, 9));
    for _ in 0..20 {
        clients.push(connect(host(1), address).await.expect("there is no limit"));
    }
    for client in &mut clients {
        pongs(client).await;
    }
    let status = program.status();
    assert_eq!(status.clients, clients.len() as u64);
    assert_eq!(status.refused["address"], 3 + refused);
    assert_eq!(status.refused["strangers"], 1);
}
