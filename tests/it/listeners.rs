//! Where the gateway listens can change while it runs, and nobody who is connected notices.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::AsRawFd as _,
    process::Command,
    sync::Mutex,
};

use crate::{
    client::{Client, soon},
    program::{Program, Said},
    raw::{Raw, request},
    site::until,
};

/// An address of this process's own, so that tests beside it take no port away.
pub fn host() -> Ipv4Addr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 77, high, low)
}

/// A port that nobody listens on now, another one each time.
pub fn free_port() -> u16 {
    // The system may give the same port again as soon as nobody has it.
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind((host(), 0)).unwrap().local_addr().unwrap().port();
        if GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

/// A port that is free on all addresses and stays so: below those that the system gives to who asks
/// for any (32768 and up, ip(7)), which the tests beside this one do all the time.
fn port_of_nobody() -> u16 {
    let begin = u16::try_from(std::process::id() % 10_000).unwrap();
    let mut ports = (0..10_000).map(|step| 21_000 + (begin + step) % 10_000);
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok();
    ports.find(free).expect("one of ten thousand ports is free")
}

pub fn address(port: u16) -> SocketAddr {
    SocketAddr::from((host(), port))
}

/// A gateway whose addresses its file says.
async fn serve(program: &mut Program, toml: &str) -> String {
    let config = program.config(&format!("admin.listen = []\nreload.watch = false\n{toml}"));
    let mut command = program.bare_command(&["--config", &config]);
    command.args(["--set", "shards=2"]);
    program.spawn(command).await;
    config
}

/// Rewrites the file and reloads; the command's answer has to hold these words.
fn reload(program: &Program, code: i32, toml: &str, words: &[&str]) {
    program.config(&format!("admin.listen = []\nreload.watch = false\n{toml}"));
    program.bare_run(&["reload"]).expect(code, words);
}

fn listens(port: u16) -> bool {
    std::net::TcpStream::connect(address(port)).is_ok()
}

#[tokio::test]
async fn addresses_come_and_go_with_a_reload_and_clients_stay() {
    let host = host();
    let [old, new, grpc, other_grpc] = [free_port(), free_port(), free_port(), free_port()];
    let mut program = Program::new();
    let toml = |websocket: &str, grpc: u16| {
        format!("websocket.listen = {websocket}\ngrpc.listen = \"{host}:{grpc}\"\n")
    };
    serve(&mut program, &toml(&format!("\"{host}:{old}\""), grpc)).await;
    let mut client = Client::connect(address(old)).await;

    let both = format!("[\"{host}:{old}\", \"{host}:{new}\"]");
    reload(&program, 0, &toml(&both, grpc), &["websocket.listen", "live"]);
    let mut second = Client::connect(address(new)).await;
    let mut third = Client::connect(address(old)).await;

    reload(&program, 0, &toml(&format!("\"{host}:{new}\""), other_grpc), &["grpc.listen"]);
    assert!(!listens(old) && listens(new), "the old address is closed, the new one is not");
    assert!(!listens(grpc) && listens(other_grpc));
    for client in [&mut client, &mut second, &mut third] {
        client.say("ping").await;
        assert_eq!(client.next_text().await, "pong");
    }
    let status = program.status();
    assert_eq!(status.listeners.websocket, [address(new)]);
    assert_eq!(status.listeners.grpc, [address(other_grpc)]);
    assert_eq!(status.config.pending, Vec::<String>::new());
}

#[tokio::test]
async fn who_came_before_an_address_goes_is_let_in_after_it() {
    let host = host();
    let [old, new, grpc] = [free_port(), free_port(), free_port()];
    let mut program = Program::new();
    let toml = |websocket: u16| {
        format!(
            "websocket.listen = \"{host}:{websocket}\"\ngrpc.listen = \"{host}:{grpc}\"\n\
             limits.max_handshakes = 1\n"
        )
    };
    serve(&mut program, &toml(old)).await;
    // The first takes the only place for a moment, the second is accepted and waits, the others do
    // in the backlog.
    let upgrade = request(&[]);
    let mut slow = Raw::open(address(old)).await;
    slow.send(&upgrade[..40]).await;
    let mut others = Vec::new();
    for _ in 0..4 {
        let mut raw = Raw::open(address(old)).await;
        raw.send(&upgrade).await;
        others.push(raw);
    }
    reload(&program, 0, &toml(new), &["websocket.listen"]);
    for raw in &mut others {
        let head = raw.response().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    }
    let closed = async {
        while listens(old) {
            tokio::task::yield_now().await;
        }
    };
    soon("the end of the old address", closed).await;
}

#[tokio::test]
async fn an_address_that_can_not_be_had_refuses_the_whole_reload() {
    let host = host();
    let holder = TcpListener::bind((host, 0)).unwrap();
    let held = holder.local_addr().unwrap();
    let (old, grpc, fresh) = (free_port(), free_port(), free_port());
    let mut program = Program::new();
    let toml = |websocket: &str, names: u16| {
        format!(
            "websocket.listen = {websocket}\ngrpc.listen = \"{host}:{grpc}\"\n\
             limits.names = {names}\n"
        )
    };
    serve(&mut program, &toml(&format!("\"{host}:{old}\""), 10)).await;
    let mut client = Client::connect(address(old)).await;

    let refused = toml(&format!("[\"{host}:{fresh}\", \"{held}\"]"), 20);
    reload(&program, 1, &refused, &[&held.to_string(), "websocket.listen", "in use"]);
    assert!(listens(old), "the old address stays");
    assert!(!listens(fresh), "what was bound for the refused reload is let go");
    client.say("ping").await;
    assert_eq!(client.next_text().await, "pong");
    let status = program.status();
    assert_eq!((status.config.generation, status.config.faults.len()), (1, 1));

    drop(holder);
    let accepted = toml(&format!("[\"{host}:{fresh}\", \"{held}\"]"), 20);
    reload(&program, 0, &accepted, &["limits.names: 10 -> 20"]);
    assert!(!listens(old) && listens(fresh) && listens(held.port()));
}

/// The number of descriptors below which a process has just so many free ones, once it has closed
/// what it was about to close.
pub async fn files_with(free: usize, process: u32) -> usize {
    let used = || -> BTreeSet<usize> {
        let used = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
        used.map(|fd| fd.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
    };
    let (mut last, mut same) = (used(), 0);
    until("a time in which nothing is closed", async || {
        let before = std::mem::replace(&mut last, used());
        same = if before == last { same + 1 } else { 0 };
        same == 10
    })
    .await;
    (0..).filter(|number| !last.contains(number)).nth(free).unwrap()
}

/// As many descriptors as a process may have.
pub fn all_files() -> usize {
    let all = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    usize::try_from(all.unwrap_or(4096)).unwrap()
}

/// Allows a process descriptors up to this number.
pub fn limit_files(process: u32, files: usize) {
    let arguments = ["--pid", &process.to_string(), &format!("--nofile={files}:")];
    assert!(Command::new("prlimit").args(arguments).status().unwrap().success());
}

/// Wherever in a reload the descriptors run out.
#[tokio::test]
async fn a_reload_that_runs_out_of_descriptors_changes_nothing() {
    let host = host();
    let (old, grpc) = (free_port(), free_port());
    let fresh: [u16; 3] = std::array::from_fn(|_| free_port());
    let mut program = Program::new();
    let toml = |ports: &[u16], names: u16| {
        let ports: Vec<_> = ports.iter().map(|port| format!("\"{host}:{port}\"")).collect();
        let log = program.file("other.log");
        let websocket = ports.join(", ");
        format!(
            "websocket.listen = [{websocket}]\ngrpc.listen = \"{host}:{grpc}\"\n\
             limits.names = {names}\nlimits.max_clients = 5\nlog.file = {log:?}\n"
        )
    };
    let (before, after) = (toml(&[old], 10), toml(&fresh, 20));
    serve(&mut program, &before).await;
    let status = program.status();
    let mut client = Client::connect(address(old)).await;
    program.config(&format!("admin.listen = []\nreload.watch = false\n{after}"));
    let all = all_files();
    let mut refused = Vec::new();
    for free in 0.. {
        let control = tokio::net::UnixStream::connect(program.file("control.sock")).await.unwrap();
        let mut control = Raw::over(control);
        control.send("GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        control.response().await;
        limit_files(status.pid, files_with(free, status.pid).await);
        let ask = "POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        control.send(ask).await;
        let answer = control.rest().await;
        limit_files(status.pid, all);
        client.say("ping").await;
        assert_eq!(client.next_text().await, "pong");
        let said = program.status();
        if answer.contains("\"accepted\"") {
            assert_eq!(said.listeners.websocket, fresh.map(address));
            assert!(!listens(old) && fresh.iter().all(|port| listens(*port)));
            break;
        }
        assert!(answer.contains("\"refused\""), "{answer}");
        assert_eq!(said.config.generation, 1, "{answer}");
        assert_eq!(said.listeners, status.listeners, "{answer}");
        assert!(listens(old) && !fresh.iter().any(|port| listens(*port)), "{answer}");
        refused.push(answer);
    }
    let of = |word: &str| refused.iter().filter(|answer| answer.contains(word)).count();
    // Two for each address, a socket and a handle of it; the one of the file is free again by then.
    assert!(of("websocket.listen") >= 3, "{refused:#?}");
    assert!(of("gateway.toml") >= 1 && of("log.file") >= 1, "{refused:#?}");
}

#[tokio::test]
async fn an_address_can_be_widened_to_all_and_narrowed_again() {
    let host = host();
    let (port, grpc) = (port_of_nobody(), free_port());
    let mut program = Program::new();
    let toml = |wide: &str| {
        format!("websocket.listen = \"{wide}:{port}\"\ngrpc.listen = \"{host}:{grpc}\"\n")
    };
    serve(&mut program, &toml(&host.to_string())).await;
    let mut client = Client::connect(address(port)).await;
    let narrow = host.to_string();
    for wide in ["0.0.0.0", &narrow, "0.0.0.0"] {
        reload(&program, 0, &toml(wide), &[wide]);
        let mut another = Client::connect(address(port)).await;
        another.say("ping").await;
        assert_eq!(another.next_text().await, "pong");
        client.say("ping").await;
        assert_eq!(client.next_text().await, "pong");
    }
}

#[tokio::test]
async fn the_wildcard_of_ipv6_takes_ipv4_too_unless_that_is_listed() {
    let (port, grpc) = (port_of_nobody(), free_port());
    let mut program = Program::new();
    let host = host();
    let toml = |listen: &str| {
        format!(
            "websocket.listen = {listen}\ngrpc.listen = \"{host}:{grpc}\"\n\
             log.level = \"debug\"\n"
        )
    };
    let both = format!("\"[::]:{port}\"");
    serve(&mut program, &toml(&both)).await;
    let four = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let six = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
    let mut clients = vec![Client::connect(four).await, Client::connect(six).await];
    // It is the client's own address that is told.
    let source = std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));
    let mut raw = Raw::open_from(source, four).await;
    raw.upgrade().await;
    let own = raw.stream().local_addr().unwrap().to_string();
    let log = program.settled_log();
    let told = |line: &&str| line.contains("client connected") && line.contains(&own);
    assert_eq!(log.lines().filter(told).count(), 1, "{log}");
    assert!(!log.contains("::ffff:"), "{log}");

    // A list that has an address of IPv4 on that port means each as it stands, and so again.
    let apart = format!("[\"[::]:{port}\", \"0.0.0.0:{port}\"]");
    for (listen, listening) in [(&apart, 2), (&both, 1), (&apart, 2)] {
        reload(&program, 0, &toml(listen), &["websocket.listen"]);
        assert_eq!(program.status().listeners.websocket.len(), listening);
        for address in [four, six] {
            let mut another = Client::connect(address).await;
            another.say("ping").await;
            assert_eq!(another.next_text().await, "pong");
        }
    }
    reload(&program, 0, &toml(&format!("\"0.0.0.0:{port}\"")), &["websocket.listen"]);
    assert!(std::net::TcpStream::connect(six).is_err());
    for client in &mut clients {
        client.say("ping").await;
        assert_eq!(client.next_text().await, "pong");
    }
}

#[tokio::test]
async fn a_socket_without_a_name_is_that_of_websocket_clients() {
    let listener = TcpListener::bind((host(), 0)).unwrap();
    let other = TcpListener::bind((host(), 0)).unwrap();
    let mut program = Program::new();
    let grpc = free_port();
    let config = program.config(&format!(
        "reload.watch = false\nadmin.listen = []\ngrpc.listen = \"{}:{grpc}\"\n",
        host()
    ));
    let gateway = program.bare_command(&["--config", &config]);
    // Python, because dash takes one digit of a descriptor only.
    let handing = |sockets: &[&TcpListener], names: Option<&str>| {
        let script = "import fcntl, os, sys\n\
            fds = map(int, sys.argv[1].split(','))\n\
            fds = [fcntl.fcntl(fd, fcntl.F_DUPFD, 50) for fd in fds]\n\
            for at, fd in enumerate(fds): os.dup2(fd, 3 + at)\n\
            os.environ['LISTEN_PID'] = str(os.getpid())\n\
            os.execv(sys.argv[2], sys.argv[2:])";
        let numbers: Vec<_> = sockets.iter().map(|one| one.as_raw_fd().to_string()).collect();
        for socket in sockets {
            rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty()).unwrap();
        }
        let mut command = Command::new("python3");
        command.args(["-c", script, &numbers.join(",")]);
        command.arg(gateway.get_program()).args(gateway.get_args());
        command.env("LISTEN_FDS", sockets.len().to_string());
        if let Some(names) = names {
            command.env("LISTEN_FDNAMES", names);
        }
        command
    };
    let words = ["2 sockets", "FileDescriptorName=", "websocket, tls, grpc or admin"];
    let several = handing(&[&listener, &other], None).output().unwrap();
    Said::of(several).expect(1, &words);
    let half_named = handing(&[&listener, &other], Some("websocket:")).output().unwrap();
    Said::of(half_named).expect(1, &words);

    let status = program.spawn(handing(&[&listener], None)).await;
    assert_eq!(status.listeners.websocket, [listener.local_addr().unwrap()]);
    Client::connect(listener.local_addr().unwrap()).await;
}

#[tokio::test]
async fn a_plan_tells_each_change_and_makes_none() {
    let host = host();
    let (old, new, grpc) = (free_port(), free_port(), free_port());
    let mut program = Program::new();
    let config = program.config(&format!(
        "reload.watch = false\nadmin.listen = []\nlimits.inbox = 7\n\
         websocket.listen = \"{host}:{old}\"\ngrpc.listen = \"{host}:{grpc}\"\n"
    ));
    let mut command = program.bare_command(&["--config", &config, "--set", "limits.inbox=9"]);
    command.env("GWS_LIMITS__HEADERS", "50");
    program.spawn(command).await;
    program.config(&format!(
        "reload.watch = false\nadmin.listen = []\nlimits.inbox = 8\nlimits.headers = 60\n\
         shards = 7\nwebsocket.welcome = \"none\"\n\
         websocket.listen = \"{host}:{new}\"\ngrpc.listen = \"{host}:{grpc}\"\n"
    ));
    let plan = program.bare_run(&["reload", "--plan"]);
    let listen = format!("websocket.listen: {host}:{old} -> {host}:{new} (live)");
    plan.expect(
        0,
        &[
            "would change 5 keys",
            &listen,
            "shards: auto -> 7 (needs restart)",
            "websocket.welcome: id -> none (new connections)",
            "limits.inbox: 7 -> 8 (overridden by --set)",
            "limits.headers: not set -> 60 (overridden by GWS_LIMITS__HEADERS)",
        ],
    );
    assert!(listens(old) && !listens(new), "nothing has changed");
    assert_eq!(program.status().config.generation, 1);

    program.bare_run(&["reload"]).expect(0, &["5 keys", &listen]);
    assert!(!listens(old) && listens(new));
    let left = ["would change 1 key", "shards: auto -> 7 (needs restart)"];
    program.bare_run(&["reload", "--plan"]).expect(0, &left);

    program.config("limits.names = 0\nshards = \"many\"\n");
    program.bare_run(&["reload", "--plan"]).expect(1, &["limits.names", "shards"]);
    assert_eq!(program.status().config.faults, Vec::<String>::new());
}

#[tokio::test]
async fn sockets_that_were_handed_over_are_served_and_stay_as_they_are() {
    let host = host();
    let listener = TcpListener::bind((host, 0)).unwrap();
    let handed = listener.local_addr().unwrap();
    let (grpc, elsewhere) = (free_port(), free_port());
    // Who connects before there is a gateway waits for it.
    let early = std::net::TcpStream::connect(handed).unwrap();
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();

    let mut program = Program::new();
    let toml = |port: u16| {
        format!(
            "reload.watch = false\nadmin.listen = []\nwebsocket.listen = \"{host}:{port}\"\n\
             grpc.listen = \"{host}:{grpc}\"\n"
        )
    };
    let config = program.config(&toml(elsewhere));
    let gateway = program.bare_command(&["--config", &config]);
    // Not sh: dash takes descriptors of one digit only.
    let script = format!("export LISTEN_PID=$$; exec \"$@\" 3<&{}", listener.as_raw_fd());
    let mut command = Command::new("bash");
    command.args(["-c", &script, "sh"]).arg(gateway.get_program()).args(gateway.get_args());
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "websocket");
    let status = program.spawn(command).await;
    assert_eq!(status.listeners.websocket, [handed]);
    assert!(!listens(elsewhere), "the setting is out of force");
    early.set_nonblocking(true).unwrap();
    let early = tokio::net::TcpStream::from_std(early).unwrap();
    let mut client = Client::over(early).await;

    let other = free_port();
    program.config(&toml(other));
    program.bare_run(&["reload"]).expect(0, &["websocket.listen", "needs restart"]);
    assert!(!listens(other));
    assert_eq!(program.status().config.pending, ["websocket.listen"]);
    client.say("ping").await;
    assert_eq!(client.next_text().await, "pong");

    // Who connects while it is down waits for the next one.
    program.run(&["stop"]).expect(0, &[]);
    assert_eq!(program.ended().await, Some(0));
    assert!(listens(handed.port()), "no connect is refused");

    // What is handed over has to be known, and allowed.
    let everywhere = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    rustix::io::fcntl_setfd(&everywhere, rustix::io::FdFlags::empty()).unwrap();
    for (socket, name, words) in [
        (&listener, "web", ["web", "FileDescriptorName=", "websocket, tls, grpc or admin"]),
        (&everywhere, "grpc", ["grpc", "grpc.token_files", "grpc.unprotected"]),
        (&listener, "tls", ["tls", "tls.certificate", "tls.key"]),
    ] {
        let script = format!("export LISTEN_PID=$$; exec \"$@\" 3<&{}", socket.as_raw_fd());
        let mut wrong = Command::new("bash");
        wrong.args(["-c", &script, "sh"]).arg(gateway.get_program()).args(gateway.get_args());
        wrong.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name).env("GWS_LOG__FORMAT", "human");
        Said::of(wrong.output().unwrap()).expect(1, &words);
    }
}
