//! The window of a drain is a promise: clients are closed evenly over all of it, whether there are
//! three or thousands, and whoever looks on sees how far it is.

use std::{
    io::Read as _,
    process::{Command, Stdio},
    time::Duration,
};

use gateway_websocket::{
    close::{Cause, Close},
    shard::{Clock, NewConnection},
};

use crate::{
    client::Client,
    gateway::Gateway,
    program::Program,
    raw::{CLOSE, Raw, frame},
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
        gateway.hub().adopt(NewConnection {
            stream,
            tls: None,
            greeting: Vec::new(),
            leftover: Vec::new(),
            peer,
            window: None,
            about: None,
            permit: gateway.hub().permit().unwrap(),
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
async fn a_drain_is_followed_in_the_status_on_the_terminal_and_in_the_log() {
    let mut program = Program::new();
    let config = program
        .config("drain.window = \"0s\"\ndrain.timeout = \"30m\"\nlimits.close_wait = \"30m\"\n");
    let status = program.serve(&["--config", &config]).await;
    assert_eq!(status.drain, None);
    let (mut client, _) = Raw::welcomed(status.listeners.websocket[0]).await;

    // A terminal for the command, which script(1) makes.
    let stop = program.command(&["stop"]);
    let words = std::iter::once(stop.get_program()).chain(stop.get_args());
    let words: Vec<_> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let mut script = Command::new("script");
    script.args(["-qec", &words.join(" "), "/dev/null"]);
    let script = script.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut script = script.expect("script(1) is a part of every Debian (bsdutils)");
    let mut screen = script.stdout.take().unwrap();
    let shown = tokio::task::spawn_blocking(move || {
        let (mut text, mut buffer) = (String::new(), [0; 4096]);
        while !text.contains("1 of 1 client closed") {
            let count = screen.read(&mut buffer).unwrap();
            assert!(count > 0, "it ended without it: {text:?}");
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        (text, screen)
    });
    let (text, mut screen) = shown.await.unwrap();
    assert!(text.contains("draining: 1 of 1 client closed, at most "), "{text:?}");
    let drain = program.status().drain.expect("a drain is under way");
    assert_eq!((drain.closed, drain.left, drain.connections), (1, 0, 1));
    assert!((1_700..=1_801).contains(&drain.seconds_left), "{drain:?}");
    program.run(&["status"]).expect(0, &["drain ", "1 of 1 client closed, at most "]);
    let logged = async || program.log().contains("\"message\":\"draining\"");
    until("a line about it", logged).await;

    assert_eq!(client.close_code().await, 1001);
    client.send(frame(CLOSE, &1001_u16.to_be_bytes())).await;
    client.ended_well().await;
    assert_eq!(program.ended().await, Some(0), "{}", program.log());
    let mut rest = String::new();
    screen.read_to_string(&mut rest).unwrap();
    assert!(script.wait().unwrap().success());
    // What was there is wiped out before the rest is said.
    let wiped = rest.contains("  \r") && rest.contains("closed 1 client");
    assert!(wiped && rest.contains("stopped"), "{rest:?}");
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
