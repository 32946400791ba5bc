//! Rows of the gateway under attack: what honest peers notice, and what memory strangers take.
//!
//! ```text
//!   strangers ──(127.66.x.y, one thread)──┐
//!                                         ▼
//!   honest peers ──(127.77.0.1)──────► gateway, on both cores
//! ```
//!
//! The figure on the left is the same peer's without the attack. A peer that isn't served within
//! [`PATIENCE`] counts with that time. To compare two builds, run the rows with `--gateway` of each.

mod floods;
mod frames;
mod honest;
mod strangers;

use std::{
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Outcome,
    child::{CLIENTS, SERVER},
    rows::{Pairs, Plan, alone},
    server::{Options, Server},
    table::{Report, Row},
    usage::memory,
};
use honest::Honest;
use strangers::Strangers;

/// A peer that waits longer was not served.
const PATIENCE: Duration = Duration::from_secs(5);
/// Samples of an honest peer in one row.
const SAMPLES: usize = 200;
/// Time for the samples of one row: many that are not served are not waited for.
const SAMPLING: Duration = Duration::from_secs(15);
/// What honest callers bring.
const TOKEN: &str = "honest-0123456789abcdef0123456789abcdef";
/// Time in which memory is looked at, and how often.
const LOOKING: Duration = Duration::from_secs(6);
const LOOK: Duration = Duration::from_millis(100);

impl Plan {
    /// Every attack in turn, each against a gateway of its own.
    pub(crate) fn attack(&self, report: &mut Report) -> Outcome<()> {
        self.silence(report)?;
        self.descriptors(report)?;
        self.handshakes(report)?;
        self.streams(report)?;
        self.log(report)?;
        self.hoarding(report)?;
        honest::hook(&self.gateway, report)
    }

    /// Clients whose few bytes mean much work, beside one that pings and one that connects.
    pub(crate) fn floods(&self, report: &mut Report) -> Outcome<()> {
        let floods = [
            ("300 clients whose messages inflate a thousandfold", 300, floods::bombs()),
            ("20 clients with messages of many final blocks", 20, floods::final_blocks()),
            ("200 clients with messages of one byte", 200, floods::tiny()),
            ("200 clients with empty fragments", 200, floods::fragments()),
            ("200 clients with pings", 200, floods::pings()),
        ];
        for (what, count, flood) in floods {
            let server = self.server(&[], None, false)?;
            let honest = Honest::new(&server)?;
            let pinger = honest.pinger()?;
            let calm = (samples(|| pinger.ping()), samples(|| honest.connect()));
            let strangers = Strangers::flood(server.listeners.websocket[0], count, flood)?;
            let attacked = (samples(|| pinger.ping()), samples(|| honest.connect()));
            drop(strangers);
            report.add(delay(&format!("a ping beside {what}"), calm.0, attacked.0, 50.0));
            report.add(delay(&format!("a connect beside {what}"), calm.1, attacked.1, 500.0));
        }
        Ok(())
    }

    /// Connections that say nothing.
    fn silence(&self, report: &mut Report) -> Outcome<()> {
        let directory = Tokens::new()?;
        let server = self.server(&[&directory.setting()], None, false)?;
        let honest = Honest::new(&server)?;
        let places = [
            (
                "a WebSocket connect beside 1,500 silent connections",
                server.listeners.websocket[0],
                1500,
            ),
            (
                "a gRPC call over a new connection beside 600 silent ones",
                server.listeners.grpc[0],
                600,
            ),
            ("/livez beside 200 silent connections", server.listeners.admin[0], 200),
        ];
        for (at, (what, address, count)) in places.into_iter().enumerate() {
            let peer = || match at {
                0 => honest.connect(),
                1 => honest.call_anew(),
                _ => honest.livez(),
            };
            let calm = samples(peer);
            let strangers = Strangers::silent(address, count)?;
            let attacked = samples(peer);
            drop(strangers);
            report.add(delay(what, calm, attacked, 50.0));
        }
        Ok(())
    }

    /// Silent connections on every surface of a process that may open few files.
    fn descriptors(&self, report: &mut Report) -> Outcome<()> {
        /// Rounds of everything.
        const ROUNDS: usize = 10;
        let tokens = Tokens::new()?;
        let server = self.server(&[&tokens.setting()], Some(1024), false)?;
        let honest = Honest::new(&server)?;
        let listeners = &server.listeners;
        let _strangers = [
            Strangers::silent(listeners.websocket[0], 1500)?,
            Strangers::silent(listeners.grpc[0], 300)?,
            Strangers::silent(listeners.admin[0], 100)?,
        ];
        let mut failed = 0;
        for _ in 0..ROUNDS {
            let command = |what: &str| command(&self.gateway, &server, what);
            let outcomes = [
                honest.connect() < PATIENCE,
                honest.call_anew() < PATIENCE,
                honest.livez() < PATIENCE,
                command("status"),
                command("reload"),
            ];
            failed += outcomes.iter().filter(|served| !**served).count();
        }
        let what = "of 50 (connect, call, probe, status, reload) not served, ulimit -n 1024, silent connections everywhere";
        report.add(alone(what, "", failed as f64, 0.0, 0.0));
        Ok(())
    }

    /// TLS handshakes under way beside calls.
    fn handshakes(&self, report: &mut Report) -> Outcome<()> {
        for kind in ["ec", "rsa"] {
            let certificate = Certificate::new(kind)?;
            let set = certificate.settings();
            let server = self.server(&set.each_ref().map(String::as_str), None, false)?;
            let honest = Honest::new(&server)?;
            let address = *server.listeners.tls.first().ok_or("no TLS address")?;
            let calm = samples(|| honest.call());
            let strangers = Strangers::hellos(address, 800)?;
            let attacked = samples(|| honest.call());
            drop(strangers);
            let name = if kind == "ec" { "P-256" } else { "RSA-4096" };
            let what = format!("a gRPC call beside 800 TLS handshakes ({name})");
            report.add(delay(&what, calm, attacked, 50.0));
        }
        Ok(())
    }

    /// Streams of messages whose answers nobody reads, on the connection of the call.
    fn streams(&self, report: &mut Report) -> Outcome<()> {
        let server = self.server(&[], None, false)?;
        let beside = |blocked: usize| honest::call_beside(server.listeners.grpc[0], blocked);
        let (calm, attacked) = (beside(0)?, beside(2)?);
        let what = "a call beside two SendStreams of its connection whose answers nobody reads";
        report.add(delay(what, vec![calm], vec![attacked], 50.0));
        Ok(())
    }

    /// A log whose reader stands still.
    fn log(&self, report: &mut Report) -> Outcome<()> {
        let server = self.server(&["log.level=info"], None, true)?;
        let honest = Honest::new(&server)?;
        let calm = samples(|| honest.livez());
        // Each line of the audit has some hundred bytes, and a pipe holds 64 KiB.
        for _ in 0..1000 {
            if honest.audited() >= PATIENCE {
                break;
            }
        }
        let attacked = samples(|| honest.livez());
        report.add(delay("/livez after 1,000 audited calls, log never read", calm, attacked, 50.0));
        Ok(())
    }

    /// Memory that strangers, and callers that take no answers, make the gateway hold.
    fn hoarding(&self, report: &mut Report) -> Outcome<()> {
        type Attack = fn(std::net::SocketAddr) -> Outcome<Strangers>;
        let attacks: [(&str, Attack, usize); 4] = [
            ("128 health requests of 4 MiB that don't end", Strangers::long_health, 0),
            ("health calls without a request, 128 connections", Strangers::empty_health, 0),
            ("calls without a token, answers unread, 250 connections", Strangers::refusals, 0),
            (
                "authorised lists of 10,000 clients, answers unread",
                Strangers::unread_answers,
                10_000,
            ),
        ];
        for (what, attack, clients) in attacks {
            let tokens = Tokens::new()?;
            let server = self.server(&[&tokens.setting()], None, false)?;
            let _crowd = honest::crowd(server.listeners.websocket[0], clients)?;
            let before = memory(server.pid())?;
            let strangers = attack(server.listeners.grpc[0])?;
            let (began, mut most) = (Instant::now(), before);
            while began.elapsed() < LOOKING {
                thread::sleep(LOOK);
                most = most.max(memory(server.pid())?);
            }
            drop(strangers);
            let mib = most.saturating_sub(before) as f64 / f64::from(1 << 20);
            report.add(alone(&format!("memory for {what}"), "MiB", mib, f64::NAN, f64::NAN));
        }
        Ok(())
    }

    fn server(&self, set: &[&str], files: Option<u64>, unread_log: bool) -> Outcome<Server> {
        start(&self.gateway, set, files, unread_log)
    }
}

/// A gateway on all cores.
fn start(binary: &Path, set: &[&str], files: Option<u64>, unread_log: bool) -> Outcome<Server> {
    let set: Vec<_> = ["shards=1"].iter().chain(set).copied().collect();
    Server::start(binary, &Options { set: &set, cores: &[SERVER, CLIENTS], files, unread_log })
}

/// What an honest peer waits, again and again.
fn samples(peer: impl Fn() -> Duration) -> Vec<Duration> {
    let began = Instant::now();
    let mut samples = Vec::new();
    while samples.len() < SAMPLES && began.elapsed() < SAMPLING {
        samples.push(peer());
    }
    samples
}

/// A row of the slowest hundredth, without and under the attack, in milliseconds.
fn delay(what: &str, calm: Vec<Duration>, attacked: Vec<Duration>, must: f64) -> Row {
    let p99 = |mut samples: Vec<Duration>| {
        samples.sort_unstable();
        let at = (samples.len() * 99).div_ceil(100).saturating_sub(1);
        samples.get(at).map_or(f64::NAN, |delay| delay.as_secs_f64() * 1e3)
    };
    let mut pairs = Pairs::default();
    pairs.add((p99(calm), 0.0), (p99(attacked), 0.0), 1.0);
    pairs.absolute(&format!("p99 of {what}; left: without"), "ms", must, f64::NAN)
}

/// Whether a command of the program gets its answer.
fn command(binary: &Path, server: &Server, what: &str) -> bool {
    let mut command = Command::new("timeout");
    command.arg(PATIENCE.as_secs().to_string()).arg(binary);
    command.arg("--socket").arg(server.socket()).arg(what);
    let output = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    output.is_ok_and(|status| status.success())
}

/// A file with the token of honest callers.
struct Tokens(tempfile::NamedTempFile);

impl Tokens {
    fn new() -> Outcome<Self> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), format!("honest {TOKEN}\n"))?;
        Ok(Self(file))
    }

    fn setting(&self) -> String {
        format!("grpc.token_files=[\"{}\"]", self.0.path().display())
    }
}

/// A certificate for the WebSocket listener, made by openssl, since nothing else here makes keys of
/// RSA.
struct Certificate(tempfile::TempDir);

impl Certificate {
    fn new(kind: &str) -> Outcome<Self> {
        let directory = tempfile::tempdir()?;
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=gateway.example"]);
        match kind {
            "rsa" => command.args(["-newkey", "rsa:4096"]),
            _ => command.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]),
        };
        command.args(["-addext", "subjectAltName=DNS:gateway.example"]);
        command.arg("-keyout").arg(directory.path().join("key.pem"));
        command.arg("-out").arg(directory.path().join("cert.pem"));
        let output = command.output().map_err(|error| format!("openssl is needed: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        Ok(Self(directory))
    }

    fn settings(&self) -> [String; 3] {
        let path = |name| self.0.path().join(name).display().to_string();
        [
            "tls.listen=127.0.0.1:0".to_owned(),
            format!("tls.certificate={}", path("cert.pem")),
            format!("tls.key={}", path("key.pem")),
        ]
    }
}
