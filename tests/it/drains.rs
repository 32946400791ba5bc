//! The window of a drain is a promise: clients are closed evenly over all of it, whether there are
//! three or thousands, and whoever looks on sees how far it is.

use std::{process::Command, time::Duration};

use gateway_websocket::{
    close::{Cause, Close},
    shard::{Clock, Newcomer},
};

use crate::{
    client::Client,
    gateway::Gateway,
    program::Program,
    site::until,
};

const WINDOW: Duration = Duration::from_secs(12);
/// How many times it is looked within the window.
const LOOKS: u32 = 120;

/// Connections that are upgraded already, and stay open for as long as they are kept.
async fn crowd(gateway: &Gateway, count: u64) -> Vec<std::net::TcpStream> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut peers = Vec::new();
    for number in 0..count {
        peers.push(std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let (stream, peer) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        gateway.hub().adopt(Newcomer {
            stream,
            tls: None,
            greeting: Vec::new(),
            leftover: Vec::new(),
            peer,
            window: None,
            about: None,
            seat: gateway.hub().seat().unwrap(),
            change: None,
        });
        // The next one goes to the shard that has the fewest by then.
        if number < 100 {
            turns(gateway).await;
        }
    }
    turns(gateway).await;
    assert_eq!(gateway.hub().count_clients(), count);
    assert!(gateway.hub().shard_stats().all(|stats| stats.clients.get() > 0), "on both shards");
    peers
}

/// Lets each shard have a whole turn that began after this was called.
async fn turns(gateway: &Gateway) {
    for _ in 0..3 {
        gateway.hub().clients().await.unwrap();
    }
}

/// By how many of the looks each client had been closed, in order.
async fn closes(count: u64) -> Vec<u32> {
    let clock = Clock::paused();
    let sets = ["shards=2", "websocket.ping_interval=0s", "websocket.heartbeat_timeout=0s"];
    let gateway = Gateway::at(clock.clone(), &sets).await;
    let _peers = crowd(&gateway, count).await;
    gateway.hub().drain(&Close::new(Cause::Stop, 1001, "the gateway is stopping"), WINDOW);
    let mut closed = Vec::new();
    for look in 0..=LOOKS {
        turns(&gateway).await;
        closed.resize(usize::try_from(gateway.closed(Cause::Stop)).unwrap(), look);
        clock.advance(WINDOW / LOOKS);
    }
    assert_eq!(closed.len() as u64, count, "all are closed by the end of the window");
    closed
}

#[tokio::test]
async fn three_clients_take_the_whole_window() {
    assert_eq!(closes(3).await, [0, LOOKS / 2, LOOKS]);
}

#[tokio::test]
async fn thousands_of_clients_take_the_whole_window_and_no_longer() {
    let count: u32 = 5000;
    let closed = closes(u64::from(count)).await;
    let (first, median) = (closed[0], closed[closed.len() / 2]);
    assert_eq!((first, closed[closed.len() - 1]), (0, LOOKS));
    assert!(median.abs_diff(LOOKS / 2) <= 1, "{median}");
    for (look, at) in closed.iter().zip(0_u32..) {
        let due = (at * LOOKS).div_ceil(count - 1);
        assert!(look.abs_diff(due) <= 1, "client {at} at {look}, not {due}");
    }
}

#[tokio::test]
async fn a_check_says_whose_patience_a_stop_may_exceed() {
    let program = Program::new();
    let said = program.run(&["check"]);
    assert!(said.code == 0 && !said.err.contains("drain."), "{said:?}");
    for key in ["drain.delay", "drain.window", "drain.timeout"] {
        let said = program.run(&["check", "--set", &format!("{key}=20s")]);
        let words =
            ["valid", "drain.window", "TimeoutStopSec=", "stop_grace_period", "docker stop"];
        said.expect(0, &words);
    }
}

#[tokio::test]
async fn a_stop_that_nobody_gives_the_time_for_says_so() {
    let mut program = Program::new();
    let gateway = program.command(&["--set", "drain.window=2m"]);
    // As in a unit that is not Type=notify.
    let mut command = Command::new("sh");
    command.args(["-c", "SYSTEMD_EXEC_PID=$$ exec \"$0\" \"$@\""]).arg(gateway.get_program());
    command.args(gateway.get_args()).env_remove("NOTIFY_SOCKET");
    let status = program.spawn(command).await;
    let address = status.listeners.websocket[0];
    let _clients = [Client::connect(address).await, Client::connect(address).await];
    program.signal("TERM");
    let said = async || program.log().contains("TimeoutStopSec=");
    until("the warning", said).await;
    let log = program.log();
    let line = log.lines().find(|line| line.contains("TimeoutStopSec=")).unwrap();
    assert!(line.contains("WARN") && line.contains("drain.window"), "{line}");
    program.signal("TERM");
    assert_eq!(program.ended().await, Some(0), "{}", program.log());
}
