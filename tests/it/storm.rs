//! A storm of rewrites of the configuration, a third of them invalid, while clients are served: they
//! notice nothing of it, and the file as it stands at the end wins.
//!
//! `STORM_REWRITES` sets how many; `STORM_SEED` repeats a run.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gateway_websocket::grpc::proto::{
    BroadcastMessageRequest, broadcast_message_client::BroadcastMessageClient as Broadcast,
};
use tokio::task::{JoinHandle, block_in_place};
use tonic::transport::{Channel, Endpoint};

use crate::{
    client::soon,
    program::Program,
    random::{Random, number, seeds},
    raw::{BINARY, Raw, TEXT, request},
};

const CLIENTS: usize = 40;

/// Resident memory that may come on top while the storm lasts: what an allocator keeps to itself.
const FLAT: usize = 16 << 20;

/// What the publisher says at last.
const END: &str = "end";

/// Sends one number after the other to everybody until it is told to stop; answers how many.
fn publish(mut calls: Broadcast<Channel>, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    tokio::spawn(async move {
        let mut sent = 0;
        loop {
            let over = stop.load(Ordering::Relaxed);
            let message = if over { END.to_owned() } else { sent.to_string() };
            let answer = calls.broadcast_message(BroadcastMessageRequest { message }).await;
            assert!(answer.unwrap().into_inner().result, "message {sent}");
            if over {
                return sent;
            }
            sent += 1;
            // As an even stream: what is tested is the storm, not how much there is room for.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
}

/// A client that has to get every number, in order; answers how many came as text and as binary.
fn listen(mut client: Raw) -> JoinHandle<(Raw, [u64; 2])> {
    tokio::spawn(async move {
        let mut kinds = [0, 0];
        loop {
            let frame = client.data().await;
            assert!([TEXT, BINARY].contains(&frame.first), "{frame:?} after {kinds:?}");
            if frame.text() == END {
                return (client, kinds);
            }
            let number: u64 = frame.text().parse().unwrap();
            assert_eq!(number, kinds[0] + kinds[1], "in order and without a gap");
            kinds[usize::from(frame.first == BINARY)] += 1;
        }
    })
}

/// A valid file. By its number it can be told from all others, on a new connection.
fn valid(number: usize, random: &mut Random) -> String {
    let format = random.one_of(["text", "binary"].iter());
    let names = 100 + random.below(100);
    let level = 1 + random.below(9);
    let policy = random.one_of(["disconnect", "drop-newest"].iter());
    format!(
        "websocket.subprotocols = [\"v{number}\"]\nwebsocket.message_format = \"{format}\"\n\
         limits.names = {names}\ncompression.level = {level}\nlimits.slow_client = \"{policy}\"\n\
         {}",
        "# prose\n".repeat(random.below(200))
    )
}

/// A file with a fault; put in force, it would be noticed by everybody.
fn invalid(random: &mut Random) -> Vec<u8> {
    let faults: [&[u8]; 7] = [
        b"",
        b" \n\n",
        b"websocket.message_format = ",
        b"limits.max_clients = 1\nlimits.nmaes = 3\n",
        b"limits.queue_messages = 1\nlimits.slow_client = \"eat\"\n",
        b"limits.max_clients = 1\nwebsocket.heartbeat_timeout = \"1ms\"\nshards = 0\n",
        b"limits.max_clients = 1\n# \xff\xfe\n",
    ];
    random.one_of(faults.iter()).to_vec()
}

/// Puts the text into the file, in one of the ways people and programs have.
fn write(file: &Path, text: &[u8], random: &mut Random) {
    let beside = file.with_extension("tmp");
    match random.below(6) {
        0 => fs::write(file, text).unwrap(),
        1 => {
            fs::write(&beside, text).unwrap();
            fs::rename(&beside, file).unwrap();
        }
        2 => {
            let half = random.below(text.len() + 1);
            let mut file = File::create(file).unwrap();
            for piece in [&text[..half], &text[half..]] {
                file.write_all(piece).unwrap();
                std::thread::sleep(Duration::from_millis(random.next() % 3));
            }
        }
        3 => {
            // A file that wasn't made again yet has nothing to be moved away.
            let _ = fs::rename(file, &beside);
            fs::write(file, text).unwrap();
            let _ = fs::remove_file(&beside);
        }
        4 => {
            let _ = fs::remove_file(file);
            fs::write(file, text).unwrap();
        }
        _ => {
            fs::write(&beside, text).unwrap();
            let _ = fs::remove_file(file);
            fs::hard_link(&beside, file).unwrap();
            fs::remove_file(&beside).unwrap();
        }
    }
}

/// Rewrites the file again and again; answers the number of the last one, which is valid.
fn storm(program: &Program, file: &Path, rewrites: usize, random: &mut Random) -> usize {
    let mut generation = 1;
    for number in 0..rewrites {
        let text = match number % 3 {
            1 => invalid(random),
            _ => valid(number, random).into_bytes(),
        };
        write(file, &text, random);
        // Somebody reloads in between, sometimes, and sometimes it is quiet for long enough.
        if random.once_in(20) {
            let said = program.bare_run(&["reload"]);
            assert_eq!(said.code, i32::from(number % 3 == 1), "{said:?} to {text:?}");
            let now = program.status().config.generation;
            assert!(now >= generation, "{now} after {generation}");
            assert!(said.code == 1 || now > generation, "{now} after {generation}");
            generation = now;
        } else if random.once_in(30) {
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    let last = valid(rewrites, random);
    write(file, last.as_bytes(), random);
    rewrites
}

/// Waits until new connections get the sub-protocol of the file of this number.
async fn wins(address: std::net::SocketAddr, number: usize) {
    let line = format!("Sec-WebSocket-Protocol: v{number}");
    let agreed = async {
        loop {
            let mut raw = Raw::open(address).await;
            raw.send(request(&[&line])).await;
            let response = raw.response().await.to_ascii_lowercase();
            if response.contains(&line.to_ascii_lowercase()) {
                return;
            }
        }
    };
    soon("the last file", agreed).await;
}

fn resident(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    1024 * line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_notice_nothing_of_a_storm_of_rewrites() {
    let rewrites = usize::try_from(number("STORM_REWRITES").unwrap_or(1000)).unwrap();
    let seed = seeds("STORM", 1).next().unwrap();
    println!("STORM_SEED={seed}");
    let mut random = Random::new(seed);
    let mut program = Program::new();
    fs::create_dir(program.file("conf")).unwrap();
    let file: PathBuf = program.file("conf/gateway.toml");
    fs::write(&file, valid(0, &mut random)).unwrap();
    let config = file.display().to_string();
    let command = program.watching_command(&["--config", &config]);
    let status = program.spawn(command).await;
    let address = status.listeners.websocket[0];

    let stop = Arc::new(AtomicBool::new(false));
    let mut listeners = Vec::new();
    for _ in 0..CLIENTS {
        let (client, _) = Raw::welcomed(address).await;
        listeners.push(listen(client));
    }
    let grpc = Endpoint::from_shared(format!("http://{}", status.listeners.grpc[0])).unwrap();
    let calls = Broadcast::new(grpc.connect().await.unwrap());
    let publisher = publish(calls, Arc::clone(&stop));

    // What memory settles at is known once everything has happened a few times.
    let warm = block_in_place(|| storm(&program, &file, rewrites / 5, &mut random));
    wins(address, warm).await;
    let before = resident(status.pid);
    let last = block_in_place(|| storm(&program, &file, rewrites - rewrites / 5, &mut random));
    wins(address, last).await;
    let after = resident(status.pid);

    stop.store(true, Ordering::Relaxed);
    let sent = soon("the publisher's end", publisher).await.unwrap();
    let (mut formats, mut clients) = ([0, 0], Vec::new());
    for listener in listeners {
        let (mut client, kinds) = soon("a client's last number", listener).await.unwrap();
        assert_eq!(kinds[0] + kinds[1], sent);
        formats = kinds;
        client.send(crate::raw::frame(TEXT, b"ping")).await;
        assert_eq!(client.data().await.text(), "pong");
        clients.push(client);
    }
    let now = program.status();
    assert_eq!(now.clients, CLIENTS as u64, "nobody was lost");
    assert_eq!(now.config.faults, Vec::<String>::new());
    println!(
        "{rewrites} rewrites, {} put in force; {sent} messages to each of {CLIENTS} clients, \
         {} as text, {} as binary; {} KiB, then {} KiB",
        now.config.generation,
        formats[0],
        formats[1],
        before / 1024,
        after / 1024
    );
    assert!(now.config.generation > rewrites as u64 / 50, "the storm passed it by");
    assert!(formats.iter().all(|kind| *kind > 0), "both were in force: {formats:?}");
    assert!(program.log().contains("reload refused"), "{}", program.log());
    assert!(after < before + FLAT, "{before} bytes before, {after} after");
}
