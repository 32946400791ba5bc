//! Going out of service takes its time, and the gateway goes on listening to its operators meanwhile.

use gateway_websocket::{
    app::{Gateway, Options, RunError},
    config::{self, Source},
    shard::Clock,
    status::Phase,
};

use crate::{
    client::{Client, soon},
    program::{Program, Said, Stopped},
    raw::{CLOSE, Raw, frame},
    site::until,
};

/// A client that doesn't answer the close frame holds up a drain for half an hour.
const PATIENT: &str =
    "drain.window = \"0s\"\ndrain.timeout = \"30m\"\nlimits.close_wait = \"30m\"\n";

/// A gateway whose `drain` has begun, and the client that it waits for, which has been told.
async fn draining(program: &mut Program) -> (String, Raw) {
    let config = program.config(PATIENT);
    let status = program.serve(&["--config", &config]).await;
    let (mut client, _) = Raw::welcomed(status.listeners.websocket[0]).await;
    program.run(&["drain"]).expect(0, &["draining"]);
    assert_eq!(client.close_code().await, 1001);
    assert_eq!(program.status().phase, Phase::Draining);
    (config, client)
}

/// Runs a command while the test goes on.
fn running(program: &Program, arguments: &[&str]) -> tokio::task::JoinHandle<Said> {
    let mut command = program.command(arguments);
    command.stdin(std::process::Stdio::null());
    tokio::task::spawn_blocking(move || Said::of(command.output().unwrap()))
}

#[tokio::test]
async fn a_stop_during_a_drain_goes_on_with_it_and_everybody_is_answered() {
    let mut program = Program::new();
    let (_, mut client) = draining(&mut program).await;
    let first = running(&program, &["drain", "--wait"]);
    let stops = [running(&program, &["stop"]), running(&program, &["stop"])];
    until("the stop", async || program.status().phase == Phase::Stopping).await;
    let log = || program.log().matches("told over the control socket").count();
    until("all commands", async || log() == 4).await;
    // Nobody is cut off: the client has the time that it had.
    client.send(frame(CLOSE, &1001_u16.to_be_bytes())).await;
    client.ended_well().await;
    for said in stops {
        said.await.unwrap().expect(0, &["closed 1 client\n", "stopped"]);
    }
    first.await.unwrap().expect(0, &["closed 1 client\n"]);
    assert_eq!(program.ended().await, Some(0), "{}", program.log());
}

#[tokio::test]
async fn a_reload_during_a_drain_is_done_and_one_during_a_stop_is_refused() {
    let mut program = Program::new();
    let (config, mut client) = draining(&mut program).await;
    program.config(&format!("{PATIENT}limits.names = 9\n"));
    program.run(&["--config", &config, "reload"]).expect(0, &["limits.names: ", "-> 9 (live)"]);
    program.config(&format!("{PATIENT}limits.names = 8\n"));
    program.run(&["--config", &config, "reload", "--plan"]).expect(0, &["limits.names: 9 -> 8"]);
    program.signal("HUP");
    until("the reload", async || program.status().config.generation == 3).await;
    assert_eq!(program.status().phase, Phase::Draining);

    program.signal("TERM");
    until("the stop", async || program.status().phase == Phase::Stopping).await;
    for reload in [&["reload"][..], &["reload", "--plan"]] {
        program.run(reload).expect(1, &["the gateway is stopping"]);
    }
    program.signal("HUP");
    until("SIGHUP", async || program.log().contains("SIGHUP reloads nothing any more")).await;
    assert_eq!(program.status().config.generation, 3);

    // The second signal ends what the first one left in peace.
    program.signal("TERM");
    assert_eq!(program.ended().await, Some(0), "{}", program.log());
    client.ended().await;
    assert!(program.log().contains("\"closed\":1,\"cut_off\":1"), "{}", program.log());
}

#[tokio::test]
async fn a_drained_gateway_stops_without_the_delay_of_a_second_drain() {
    let mut program = Program::new();
    let config = program.config("drain.delay = \"0s\"\ndrain.window = \"0s\"\n");
    program.serve(&["--config", &config]).await;
    program.run(&["drain", "--wait"]).expect(0, &["closed 0 clients"]);
    program.config("drain.delay = \"1h\"\ndrain.window = \"0s\"\n");
    program.run(&["--config", &config, "reload"]).expect(0, &["drain.delay"]);
    program.run(&["stop"]).expect(0, &["stopped"]);
    assert_eq!(program.ended().await, Some(0), "{}", program.log());
}

#[tokio::test]
async fn a_shard_that_does_not_end_holds_the_process_no_longer_than_a_moment() {
    let mut program = Program::new();
    let config = program.config("drain.window = \"0s\"\ndrain.timeout = \"100ms\"\n");
    let status = program.serve(&["--config", &config, "--set", "shards=2"]).await;
    let _client = Client::connect(status.listeners.websocket[0]).await;
    let stopped = Stopped::named(status.pid, "shard-1");
    program.signal("TERM");
    // It has ended, but for its parent's and the tracer's taking note of it (wait(2)).
    let stat = format!("/proc/{}/stat", status.pid);
    let ended = async || std::fs::read_to_string(&stat).unwrap().contains(") Z ");
    until("the process's end", ended).await;
    drop(stopped);
    assert_eq!(program.ended().await, Some(1), "{}", program.log());
    assert!(program.log().contains("shard-1 did not end"), "{}", program.log());
}

#[tokio::test]
async fn a_stop_within_the_delay_of_a_drain_keeps_the_delay() {
    let mut program = Program::new();
    let config = program.config("drain.delay = \"1h\"\n");
    let status = program.serve(&["--config", &config]).await;
    let address = status.listeners.websocket[0];
    let mut client = Client::connect(address).await;
    program.run(&["drain"]).expect(0, &["draining"]);
    program.signal("TERM");
    until("the stop", async || program.status().phase == Phase::Stopping).await;
    // Balancers may not have seen yet that it is out of service.
    let mut late = Client::connect(address).await;
    for client in [&mut client, &mut late] {
        client.say("ping").await;
        assert_eq!(client.next_text().await, "pong");
    }
    program.signal("INT");
    assert_eq!(program.ended().await, Some(0), "{}", program.log());
    assert!(program.log().contains("\"closed\":2,\"cut_off\":2"), "{}", program.log());
}

#[tokio::test]
async fn a_shard_that_ends_during_a_drain_is_seen() {
    let directory = tempfile::tempdir().unwrap();
    let socket = format!("control.socket={}", directory.path().join("control.sock").display());
    let sets = ["websocket.listen=127.0.0.1:0", "grpc.listen=127.0.0.1:0", "admin.listen=[]"];
    let sets = sets.map(str::to_owned).into_iter().chain([socket, "drain.delay=1h".to_owned()]);
    let source = Source { file: None, sets: sets.collect() };
    let env: [(&str, &str); 0] = [];
    let loaded = config::load_to_run(&source, env).unwrap();
    let (sink, inherited) = (None, Vec::new());
    let options =
        Options { loaded, source, telemetry: None, sink, inherited, clock: Clock::default() };
    let gateway = Gateway::start(options).await.unwrap();
    let (hub, handle) = (gateway.hub().clone(), gateway.handle().clone());
    let running = tokio::spawn(gateway.run(Gateway::signals().unwrap()));
    let asking = handle.clone();
    let drained = tokio::spawn(async move { asking.drain().await });
    until("the drain", async || handle.phase() == Phase::Draining).await;
    hub.stop();
    let ended = soon("the end", running).await.unwrap();
    assert!(matches!(ended, Err(RunError::Shard)), "{ended:?}");
    assert!(drained.await.unwrap().is_err(), "who waits for the drain is told");
}

#[tokio::test]
async fn shards_that_have_ended_are_not_taken_for_stuck_ones() {
    let gateway = crate::gateway::Gateway::with(&["shards=2"]).await;
    let hub = gateway.hub();
    hub.stop();
    // Asked while they end, and when they have ended.
    let mut pulses = vec![hub.pulse(std::time::Duration::from_mins(1)).await];
    while hub.clients().await.is_ok() {}
    pulses.push(hub.pulse(std::time::Duration::from_mins(1)).await);
    for pulse in &pulses {
        assert_eq!(pulse.silent().count(), 0, "{pulses:?}");
    }
    assert!(!pulses[1].is_whole(), "they do not live, either: {pulses:?}");
}
