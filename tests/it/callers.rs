//! Who may call: by address, by token; and that a reload takes effect on those who are connected.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use gateway_websocket::lifecycle::Reloaded;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::{
    client::Client,
    program::Program,
    raw::{Raw, ask},
    site::{Caller, Site, until},
};

const OLD: &str = "the-old-token-0123456789";
const NEW: &str = "the-new-token-0123456789";

#[tokio::test]
async fn addresses_that_are_not_listed_are_closed_before_anything_is_read() {
    let site = Site::with("grpc.allow = [\"127.0.0.1\", \"127.0.2.0/24\"]").await;
    assert_eq!(site.caller().call().await.unwrap(), 0);
    site.caller_from(2).is_cut_off().await;
    // Closed without a byte, and without waiting for one.
    let stranger = "127.0.0.3".parse().unwrap();
    let mut raw = Raw::open_from(stranger, site.gateway().grpc()).await;
    assert_eq!(raw.rest().await, "");
    let address = Some("127.0.2.77".parse().unwrap());
    let listed = Caller::at(site.endpoint().local_address(address).connect_lazy());
    assert_eq!(listed.call().await.unwrap(), 0);
}

#[tokio::test]
async fn an_ipv4_address_that_comes_through_an_ipv6_socket_is_itself() {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    socket.set_only_v6(false).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mapped: SocketAddr = "[::ffff:127.0.0.1]:0".parse().unwrap();
    if socket.bind(&mapped.into()).is_err() {
        return; // no IPv6 here
    }
    socket.listen(16).unwrap();
    let listener = TcpListener::from_std(socket.into()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut site = Site::new();
    site.start_at("grpc.allow = [\"127.0.0.1\"]", listener).await;
    let from = |last: u8| {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://127.0.0.1:{port}"));
        let address = std::net::Ipv4Addr::new(127, 0, 0, last);
        Caller::at(endpoint.unwrap().local_address(Some(address.into())).connect_lazy())
    };
    assert_eq!(from(1).call().await.unwrap(), 0);
    from(2).is_cut_off().await;
}

#[tokio::test]
async fn an_address_that_is_taken_off_the_list_loses_what_it_had_opened_and_others_lose_nothing() {
    let site = Site::with("grpc.allow = [\"127.0.0.1\", \"127.0.0.2\"]").await;
    let (stays, goes) = (site.caller(), site.caller_from(2));
    let (mut watch, mut reflection) =
        (goes.watch().await.unwrap(), goes.reflection().await.unwrap());
    let (mut kept_watch, mut kept) =
        (stays.watch().await.unwrap(), stays.reflection().await.unwrap());

    site.reload("grpc.allow = [\"127.0.0.1\"]").await;
    for ended in [watch.next().await.unwrap_err(), reflection.answer().await.unwrap_err()] {
        assert_eq!(ended.code(), Code::Unavailable);
        assert!(ended.message().contains("grpc.allow"), "{ended}");
    }
    goes.is_cut_off().await;

    // And who stays may even be without a list, which is to be listed.
    site.reload("").await;
    kept.question().await.unwrap();
    assert_eq!(goes.call().await.unwrap(), 0);
    site.gateway().handle().drain().await.unwrap();
    assert_eq!(kept_watch.next().await.unwrap(), ServingStatus::NotServing);
}

#[tokio::test]
async fn a_call_needs_a_token_of_one_of_the_files() {
    let mut site = Site::new();
    let first = site.write("first", &format!("# by hand\nbilling {OLD}\n"));
    let second = site.write("second", NEW);
    site.start(&format!("grpc.token_files = [{first}, {second}]")).await;
    let caller = site.caller();
    for token in [OLD, NEW] {
        assert_eq!(caller.bearing(token).call().await.unwrap(), 0);
        assert_eq!(caller.saying(&format!("bearer  {token}")).call().await.unwrap(), 0);
    }
    let wrong = [
        caller.clone(),
        caller.bearing("another-token-0123456789"),
        caller.bearing(&OLD[..OLD.len() - 1]),
        caller.bearing(&format!("{OLD}0")),
        caller.bearing("billing"),
        caller.bearing(""),
        caller.saying(OLD),
        caller.saying(&format!("Basic {OLD}")),
    ];
    let mut said = Vec::new();
    for caller in wrong {
        let refused = caller.call().await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        said.push(refused.message().to_owned());
    }
    said.dedup();
    assert_eq!(said.len(), 1, "nothing tells what was wrong: {said:?}");
    assert!(said[0].contains("authorization: Bearer"), "{said:?}");
}

#[tokio::test]
async fn health_needs_no_token_and_reflection_does() {
    let mut site = Site::new();
    let file = site.write("tokens", OLD);
    site.start(&format!("grpc.token_files = {file}")).await;
    let caller = site.caller();
    assert_eq!(caller.health().await.unwrap(), ServingStatus::Serving);
    caller.watch().await.unwrap();
    // A token that is of no use is no reason to be refused what needs none.
    assert_eq!(caller.bearing("wrong").health().await.unwrap(), ServingStatus::Serving);
    let refused = caller.reflection().await.err().unwrap();
    assert_eq!(refused.code(), Code::Unauthenticated);
    caller.bearing(OLD).reflection().await.unwrap();
}

#[tokio::test]
async fn tokens_are_replaced_with_calls_under_way_and_none_of_them_fails() {
    let mut site = Site::new();
    let file = site.write("tokens", OLD);
    let toml = format!("grpc.token_files = {file}");
    site.start(&toml).await;
    let moved = Arc::new(AtomicBool::new(false));
    let made = Arc::new(AtomicU32::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let calling = {
        let (moved, made, stop) = (Arc::clone(&moved), Arc::clone(&made), Arc::clone(&stop));
        let caller = site.caller();
        let (old, new) = (caller.bearing(OLD), caller.bearing(NEW));
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let now = if moved.load(Ordering::SeqCst) { &new } else { &old };
                now.call().await.unwrap();
                made.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    let more = async || {
        let before = made.load(Ordering::SeqCst);
        until("twenty more calls", async || {
            assert!(!calling.is_finished(), "a call failed");
            made.load(Ordering::SeqCst) >= before + 20
        })
        .await;
    };
    more().await;
    site.write("tokens", &format!("{OLD}\n{NEW}\n"));
    site.reread().await;
    more().await;
    moved.store(true, Ordering::SeqCst);
    more().await;
    site.write("tokens", NEW);
    site.reread().await;
    more().await;
    stop.store(true, Ordering::SeqCst);
    calling.await.unwrap();
    let refused = site.caller().bearing(OLD).call().await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_token_that_is_taken_out_ends_its_streams_and_nobody_elses() {
    let mut site = Site::new();
    let file = site.write("tokens", &format!("{OLD}\n{NEW}\n"));
    let toml = format!("grpc.token_files = {file}");
    site.start(&toml).await;
    // All over one connection, which stays.
    let caller = site.caller();
    let mut goes = caller.bearing(OLD).reflection().await.unwrap();
    let mut stays = caller.bearing(NEW).reflection().await.unwrap();
    let mut watch = caller.bearing(OLD).watch().await.unwrap();

    site.write("tokens", NEW);
    site.reread().await;
    let ended = goes.answer().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unauthenticated);
    stays.question().await.unwrap();
    site.gateway().handle().drain().await.unwrap();
    assert_eq!(watch.next().await.unwrap(), ServingStatus::NotServing, "health needs no token");
}

#[tokio::test]
async fn when_tokens_begin_to_be_asked_for_streams_without_end() {
    let site = Site::with("").await;
    let caller = site.caller();
    let mut stream = caller.reflection().await.unwrap();
    let file = site.write("tokens", OLD);
    site.reload(&format!("grpc.token_files = {file}")).await;
    assert_eq!(stream.answer().await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(caller.call().await.unwrap_err().code(), Code::Unauthenticated);
    let mut stream = caller.bearing(OLD).reflection().await.unwrap();
    // What was opened with a token stays when none is asked for any more.
    site.reload("").await;
    stream.question().await.unwrap();
    assert_eq!(caller.call().await.unwrap(), 0);
}

/// How often gRPC connections were closed for want of a call with a token: in time, or as soon as
/// somebody else needed the place.
async fn closed_without_token(site: &Site) -> u64 {
    let page = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let page = ask(site.gateway().admin(), page).await;
    let count = |cause: &str| -> u64 {
        let name = format!("gateway_websocket_grpc_refused_total{{cause=\"{cause}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
    };
    count("idle") + count("evicted")
}

#[tokio::test]
async fn a_place_is_nobodys_who_makes_no_call_with_a_token() {
    let mut site = Site::new();
    let file = site.write("tokens", &format!("{OLD}\n{NEW}\n"));
    let toml =
        format!("grpc.token_files = {file}\ngrpc.max_connections = 2\nlimits.handshake = \"2s\"\n");
    site.start(&toml).await;
    // One with a token stays for as long as it likes.
    let first = site.caller();
    let mut stream = first.bearing(OLD).reflection().await.unwrap();
    for turn in 0..3_u64 {
        // Each of them takes the other place, answers pings (hyper does), and would keep it.
        let stranger = site.caller();
        match turn {
            0 => assert_eq!(stranger.call().await.unwrap_err().code(), Code::Unauthenticated),
            1 => assert_eq!(stranger.health().await.unwrap(), ServingStatus::Serving),
            _ => drop(stranger.bearing("a-wrong-token-0123456789").watch().await.unwrap()),
        }
        let next = site.caller();
        assert_eq!(next.bearing(NEW).call().await.unwrap(), 0);
        assert_eq!(closed_without_token(&site).await, turn + 1);
    }
    stream.question().await.unwrap();

    // Health that brings a token is as good as a call.
    let watcher = site.caller();
    let mut watch = watcher.bearing(OLD).watch().await.unwrap();
    // And who loses the token loses the place: the other one is waited for by somebody else.
    site.write("tokens", NEW);
    site.reread().await;
    assert_eq!(stream.answer().await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(site.caller().bearing(NEW).call().await.unwrap(), 0);
    until("the end of both", async || closed_without_token(&site).await == 5).await;
    assert!(watch.next().await.is_err());

    // Without tokens nobody has to call.
    site.reload("grpc.max_connections = 2\nlimits.handshake = \"2s\"\n").await;
    let mut quiet = site.caller().watch().await.unwrap();
    let mut silent = Raw::open(site.gateway().grpc()).await;
    silent.ended().await;
    site.gateway().handle().drain().await.unwrap();
    assert_eq!(quiet.next().await.unwrap(), ServingStatus::NotServing);
}

#[tokio::test]
async fn a_file_of_tokens_that_can_not_be_used_changes_nothing() {
    let mut site = Site::new();
    let file = site.write("tokens", OLD);
    site.start(&format!("grpc.token_files = {file}")).await;
    let caller = site.caller();
    for broken in ["", "# all gone\n", "short", &format!("{NEW}\n{NEW}\n")] {
        site.write("tokens", broken);
        let outcome = site.gateway().handle().reload().await.unwrap();
        let Reloaded::Refused { faults } = outcome else { panic!("{outcome:?}") };
        let told = faults.join("\n");
        assert!(told.contains("grpc.token_files") && !told.contains(NEW), "{told}");
        assert_eq!(caller.bearing(OLD).call().await.unwrap(), 0);
        assert_eq!(caller.call().await.unwrap_err().code(), Code::Unauthenticated);
    }
    std::fs::remove_file(site.path("tokens")).unwrap();
    let outcome = site.gateway().handle().reload().await.unwrap();
    assert!(matches!(outcome, Reloaded::Refused { .. }), "{outcome:?}");
    assert_eq!(caller.bearing(OLD).call().await.unwrap(), 0);
}

#[tokio::test]
async fn the_log_names_who_closed_and_dissolved_and_never_a_token() {
    let mut program = Program::new();
    let tokens = program.file("tokens");
    std::fs::write(&tokens, format!("billing {OLD}\n")).unwrap();
    let config = program.config(&format!("grpc.token_files = {:?}\n", tokens.display()));
    let status = program.serve(&["--config", &config]).await;
    let mut client = Client::connect(status.listeners.websocket[0]).await;
    let endpoint = format!("http://{}", status.listeners.grpc[0]);
    let endpoint = tonic::transport::Endpoint::from_shared(endpoint).unwrap();
    let anybody = Caller::at(endpoint.connect_lazy());
    let wrong = "wrong-token-0123456789";
    for _ in 0..3 {
        assert!(anybody.bearing(wrong).close(client.id()).await.is_err());
    }
    let billing = anybody.bearing(OLD);
    assert!(billing.join(client.id(), "lobby").await.unwrap());
    assert!(billing.dissolve("lobby").await.unwrap());
    assert!(billing.close(client.id()).await.unwrap());
    client.next_close().await;

    let log = program.settled_log();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let audit: Vec<_> = lines
        .iter()
        .filter(|line| line["target"] == "gateway_websocket::audit")
        .map(|line| (line["call"].as_str().unwrap(), line["caller"].as_str().unwrap()))
        .collect();
    assert_eq!(
        audit.iter().map(|(call, _)| *call).collect::<Vec<_>>(),
        ["UnGroup", "ClonseClient"]
    );
    for (_, caller) in &audit {
        assert!(caller.starts_with("127.0.0.1:"), "{caller}");
        assert!(caller.ends_with(" token \"billing\""), "{caller}");
    }
    assert!(log.contains(client.id()) && log.contains("lobby"), "{log}");
    let refused = lines.iter().filter(|line| line["why"] == "no valid token").count();
    assert_eq!(refused, 1, "a flood of them is no flood of lines: {log}");
    assert!(!log.contains(OLD) && !log.contains(wrong), "{log}");
    assert!(log.contains("can be read or written by every user"), "{log}");
}

#[tokio::test]
async fn nothing_is_opened_to_other_machines_without_saying_to_whom() {
    let mut program = Program::new();
    let open = ["--set", "grpc.listen=0.0.0.0:0"];
    program.run(&open).expect(78, &["grpc.listen", "grpc.allow", "grpc.unprotected"]);

    let config = program.config("grpc.allow = [\"127.0.0.1\"]\n");
    let arguments = [&open[..], &["--config", &config]].concat();
    let status = program.serve(&arguments).await;
    let port = status.listeners.grpc[0].port();
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://127.0.0.1:{port}"));
    let address = Some("127.0.0.2".parse().unwrap());
    let stranger = Caller::at(endpoint.unwrap().local_address(address).connect_lazy());
    stranger.is_cut_off().await;
    program.config("grpc.allow = []\n");
    program.run(&["reload"]).expect(1, &["grpc.listen", "grpc.allow"]);
    stranger.is_cut_off().await;
    program.config("grpc.allow = [\"127.0.0.0/30\"]\n");
    program.run(&["reload"]).expect(0, &["grpc.allow"]);
    assert_eq!(stranger.call().await.unwrap(), 0);
}
