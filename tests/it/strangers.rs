//! Peers that connect and prove nothing take no place from those that do.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::net::UnixStream,
};

use gateway_websocket::config;
use tonic::transport::Endpoint;

use crate::{
    client::{Client, soon},
    gateway::Gateway,
    program::Program,
    raw::{Raw, ask, request},
    scrape::Page,
    site::{Caller, Site},
};

const TOKEN: &str = "a-token-of-good-length-0123456789";
const PROBE: &str = "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
/// Silence is never ended by time here: whoever loses a place loses it to somebody.
const FOR_EVER: &str = "limits.handshake=1h";

/// Loopback has many addresses to come from.
fn host(network: u8, last: usize) -> IpAddr {
    let [high, low] = u16::try_from(last).unwrap().to_be_bytes();
    Ipv4Addr::new(127, network, high, low + 1).into()
}

/// Connections that say nothing, each from an address of its own.
async fn silent_from_many(address: SocketAddr, number: usize) -> Vec<Raw> {
    let mut silent = Vec::new();
    for n in 0..number {
        silent.push(Raw::open_from(host(1, n % 200), address).await);
    }
    silent
}

/// Connections that say nothing, all from one address.
async fn silent_from_one(address: SocketAddr, number: usize) -> Vec<Raw> {
    let mut silent = Vec::new();
    for _ in 0..number {
        silent.push(Raw::open_from(host(2, 0), address).await);
    }
    silent
}

/// A client that comes in from an address of its own.
async fn comes_in(address: SocketAddr) -> Raw {
    let mut raw = Raw::open_from(host(3, 0), address).await;
    raw.upgrade().await;
    raw
}

#[tokio::test]
async fn a_client_comes_in_though_silent_ones_from_many_addresses_fill_the_handshakes() {
    let gateway = Gateway::with(&[FOR_EVER, "limits.max_handshakes=8"]).await;
    let address = gateway.websocket();
    let mut silent = silent_from_many(address, 8).await;
    let _client = comes_in(address).await;
    assert_eq!(gateway.hub().handshakes().evicted.get(), 1);
    // The oldest went and nobody else: the others may still say what they came for.
    silent[0].ended().await;
    for raw in &mut silent[1..] {
        raw.upgrade().await;
    }
    assert_eq!(gateway.hub().handshakes().evicted.get(), 1);
}

#[tokio::test]
async fn one_address_holds_its_share_of_the_handshakes_and_loses_its_own_beyond_it() {
    let gateway = Gateway::with(&[FOR_EVER, "limits.max_handshakes=8"]).await;
    let address = gateway.websocket();
    let mut other = Raw::open_from(host(1, 0), address).await;
    // Not more than a quarter of eight stay for long; how soon that is, is the gateway's.
    let mut silent = silent_from_one(address, 40).await;
    let _client = comes_in(address).await;
    other.upgrade().await;
    silent[0].ended().await;
    assert!(gateway.hub().handshakes().evicted.get() >= 32);
}

#[tokio::test]
async fn a_listed_proxy_may_have_all_handshakes() {
    let proxies = ["websocket.proxies=127.2.0.1", "websocket.proxy_header=x-forwarded-for"];
    let sets = [&[FOR_EVER, "limits.max_handshakes=8"], &proxies[..]].concat();
    let gateway = Gateway::with(&sets).await;
    let mut silent = silent_from_one(gateway.websocket(), 8).await;
    // Each of them has a place, and none lost it.
    for raw in silent.iter_mut().rev() {
        raw.send(request(&["X-Forwarded-For: 192.0.2.7"])).await;
        assert!(raw.response().await.starts_with("HTTP/1.1 101 "));
    }
    assert_eq!(gateway.hub().handshakes().evicted.get(), 0);
}

#[tokio::test]
async fn a_caller_with_a_token_is_served_though_silent_ones_fill_the_connections() {
    let mut site = Site::new();
    let file = site.write("tokens", TOKEN);
    let settings = "grpc.max_connections = 8\nlimits.handshake = \"1h\"\n";
    site.start(&format!("grpc.token_files = {file}\n{settings}")).await;
    let first = site.caller().bearing(TOKEN);
    assert_eq!(first.call().await.unwrap(), 0);
    let mut stream = first.reflection().await.unwrap();
    let address = site.gateway().grpc();
    for silent in [silent_from_many(address, 60).await, silent_from_one(address, 60).await] {
        // A new one is served while the last of the silent are still there ...
        assert_eq!(site.caller_from(7).bearing(TOKEN).call().await.unwrap(), 0);
        // ... and one that has called keeps its place.
        stream.question().await.unwrap();
        drop(silent);
    }
    let page = Page::of(site.gateway()).await;
    assert!(page.get("grpc_refused_total{cause=\"evicted\"}") >= 50.0, "{}", page.text);
    assert!((page.get("grpc_refused_total{cause=\"silent\"}") - 0.0).abs() < 0.5);
}

#[tokio::test]
async fn health_without_a_token_is_no_reason_to_keep_a_place() {
    let site = Site::with("grpc.max_connections = 1\nlimits.handshake = \"1h\"\n").await;
    let mut watch = site.caller().watch().await.unwrap();
    assert_eq!(site.caller_from(7).call().await.unwrap(), 0);
    assert!(soon("the end", watch.next()).await.is_err());
}

#[tokio::test]
async fn a_probe_is_answered_though_silent_ones_fill_the_admin_port() {
    let gateway = Gateway::start().await;
    let many = silent_from_many(gateway.admin(), 200).await;
    assert!(ask(gateway.admin(), PROBE).await.starts_with("HTTP/1.1 200 "));
    let one = silent_from_one(gateway.admin(), 200).await;
    assert!(ask(gateway.admin(), PROBE).await.starts_with("HTTP/1.1 200 "));
    let evicted = Page::of(&gateway).await.get("http_evicted_total{surface=\"admin\"}");
    assert!(evicted >= 300.0, "{evicted}");
    drop((many, one));
}

#[tokio::test]
async fn a_process_with_few_descriptors_serves_everybody_who_asks() {
    config::machine::raise_files().unwrap();
    let mut program = Program::new();
    let status = program.serve_with_files(1024).await;
    let (websocket, grpc) = (status.listeners.websocket[0], status.listeners.grpc[0]);
    let admin = status.listeners.admin[0];
    let mut first = Client::connect(websocket).await;
    let mut silent = silent_from_many(websocket, 1500).await;
    silent.extend(silent_from_many(grpc, 300).await);
    silent.extend(silent_from_many(admin, 100).await);
    let control = program.file("control.sock");
    let commands: Vec<UnixStream> =
        (0..60).map(|_| UnixStream::connect(&control).unwrap()).collect();

    let endpoint = Endpoint::from_shared(format!("http://{grpc}")).unwrap();
    let caller = Caller::at(endpoint.connect_lazy());
    assert!(soon("the answer to a call", caller.close(first.id())).await.unwrap());
    assert!(ask(admin, PROBE).await.starts_with("HTTP/1.1 200 "));
    let _late = comes_in(websocket).await;
    program.run(&["status"]).expect(0, &["in service", "evicted"]);
    program.run(&["reload"]).expect(0, &[]);
    assert_eq!(first.read_to_close().await, 1000);
    let log = program.settled_log();
    assert!(!log.contains("can't be accepted"), "{log}");
    assert!(!log.contains("Too many open files"), "{log}");
    drop((silent, commands));
}

#[tokio::test]
async fn too_few_descriptors_for_the_settings_are_said_at_the_start_with_the_number_needed() {
    let mut program = Program::new();
    let status = program.serve_with_files(100).await;
    let address = status.listeners.websocket[0];
    let log = program.settled_log();
    let told: Vec<&str> =
        log.lines().filter(|line| line.contains("the file descriptor limit")).collect();
    assert_eq!(told.len(), 1, "{log}");
    for words in ["(100)", "has room for 1 clients", "raise it to 4096 or more", "ulimit -n"] {
        assert!(told[0].contains(words), "{words}: {}", told[0]);
    }
    let _client = comes_in(address).await;
    let mut second = Raw::open(address).await;
    second.send(request(&[])).await;
    assert!(second.response().await.starts_with("HTTP/1.1 503 "));
}
