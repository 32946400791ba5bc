//! The corpus of the fuzz targets, replayed with their own checks; and the checks, seen to fail.

use std::{fs, path::Path};

use gateway_websocket::{
    config::Config,
    message::Kind,
    net::proxy::{MOST, Progress, Violation as Unheard, Whom, parse},
    wire::{Decoder, Event, Limits, Violation},
};

#[path = "../../fuzz/checks/lib.rs"]
mod checks;
mod tokens;

use checks::{
    codec::{self, Flow, Receiver},
    head::{self, Answered},
    inflate::{self, Deflate, Wire},
    proxy::{self, Verdict},
};

/// The inputs that are kept for a target, by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap();
    let inputs: Vec<_> = files
        .map(|file| {
            let path = file.unwrap().path();
            (path.display().to_string(), fs::read(path).unwrap())
        })
        .collect();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    inputs
}

/// Says which input a check panicked on.
struct On(String);

impl Drop for On {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input is {}", self.0);
        }
    }
}

fn replay(target: &str, check: impl Fn(&[u8])) {
    for (name, input) in corpus(target) {
        let _named = On(name);
        check(&input);
    }
}

#[test]
fn the_corpus_of_the_decoder_holds() {
    replay("codec", |input| codec::check(input, Decoder::new));
}

#[test]
fn the_corpus_of_the_inflater_holds() {
    // One for all, as on a shard.
    let wire = std::cell::RefCell::new(Wire::default());
    replay("inflate", |input| inflate::check(input, &mut *wire.borrow_mut()));
}

#[test]
fn the_corpus_of_the_upgrade_holds() {
    replay("head", |input| head::check(input, head::rehearse));
}

#[test]
fn the_corpus_of_the_proxy_header_holds() {
    replay("proxy", |input| proxy::check(input, parse));
}

/// A decoder with a fault of its own.
#[derive(Clone)]
struct Wrong {
    fault: Fault,
    inner: Decoder,
    fed: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Cuts show: nothing is heard of a message that did not come in one read.
    Forgets,
    /// What was begun is lost on the move.
    MovesEmpty,
    /// More is said to be held than ever arrived.
    Hoards,
    /// Something is held between messages.
    Keeps,
    /// Goes on after a stop.
    RunsOn,
    /// Hands out bytes that were not unmasked.
    Masked,
    /// Doesn't mind a fault.
    Lenient,
    /// Looks at no limit.
    Boundless,
    /// Writes over what it does not take.
    Scribbles,
}

impl Wrong {
    fn new(fault: Fault, deflate: bool) -> Self {
        Self { fault, inner: Decoder::new(deflate), fed: 0 }
    }
}

impl Receiver for Wrong {
    fn feed(
        &mut self,
        bytes: &mut [u8],
        limits: &Limits,
        on_event: &mut dyn FnMut(Event<'_>) -> Flow,
    ) -> Result<usize, Violation> {
        self.fed += 1;
        let (fault, first) = (self.fault, self.fed == 1);
        let mut limits = *limits;
        if fault == Fault::Boundless {
            limits = Limits { max_message: usize::MAX, max_fragments: u32::MAX };
        }
        let mut stopped = false;
        let taken = codec::feed(&mut self.inner, bytes, &limits, &mut |event| match event {
            Event::Message { .. } if fault == Fault::Forgets && !first => Flow::Continue,
            Event::Message { kind, compressed, bytes } if fault == Fault::Masked => {
                let bytes: Vec<_> = bytes.iter().map(|byte| byte ^ 0xa5).collect();
                on_event(Event::Message { kind, compressed, bytes: bytes.into() })
            }
            event => {
                let flow = on_event(event);
                stopped |= flow == Flow::Stop;
                if fault == Fault::RunsOn { Flow::Continue } else { flow }
            }
        });
        match taken {
            Ok(taken) if fault == Fault::Scribbles && stopped => {
                bytes[taken..].fill(0);
                Ok(taken)
            }
            Err(_) if fault == Fault::Lenient => Ok(bytes.len()),
            taken => taken,
        }
    }

    fn partial_bytes(&self) -> usize {
        match self.fault {
            Fault::Hoards if self.inner.mid_message() => 1 << 20,
            Fault::Keeps => self.inner.partial_bytes() + 1,
            _ => self.inner.partial_bytes(),
        }
    }

    fn mid_message(&self) -> bool {
        self.inner.mid_message()
    }

    fn moved(&self) -> Self {
        let lost = Self::new(self.fault, false);
        if self.fault == Fault::MovesEmpty { lost } else { self.clone() }
    }
}

/// What the corpus says to a wrong implementation, each panic once.
fn complaints(target: &str, check: impl Fn(&[u8]) + std::panic::RefUnwindSafe) -> String {
    let complaint = |(_, input): &(String, Vec<u8>)| {
        let panic = std::panic::catch_unwind(|| check(input)).err()?;
        let text = panic.downcast::<String>().map(|text| *text);
        text.or_else(|panic| panic.downcast::<&str>().map(|text| (*text).to_owned())).ok()
    };
    let found: std::collections::BTreeSet<_> =
        corpus(target).iter().filter_map(complaint).collect();
    found.into_iter().collect::<Vec<_>>().join("\n")
}

#[test]
fn the_corpus_shows_each_fault_of_a_decoder() {
    for (fault, expected) in [
        (Fault::Forgets, "byte by byte it is the same"),
        (Fault::MovesEmpty, "a decoder that is moved goes on the same"),
        (Fault::Hoards, "bytes are held of"),
        (Fault::Keeps, "memory is held in the middle, and only then"),
        (Fault::RunsOn, "after a stop nothing is heard"),
        (Fault::Masked, "text is UTF-8"),
        (Fault::Masked, "another reader hears the same"),
        (Fault::Lenient, "another reader finds a fault"),
        (Fault::Boundless, "no message is over the limit"),
        (Fault::Scribbles, "what is left is as it came"),
    ] {
        let found = complaints("codec", |input| {
            codec::check(input, |deflate| Wrong::new(fault, deflate));
        });
        assert!(found.contains(expected), "{fault:?}: {expected:?} is not in\n{found}");
    }
}

/// An inflater or deflater with a fault of its own.
#[derive(Clone, Copy, Debug)]
enum Bent {
    /// Inflates over the limit.
    Boundless,
    /// Takes anything for text.
    Untidy,
    /// Takes what is cut short for whole.
    Lenient,
    /// Deflates with the largest window always.
    Wide,
    /// Sends the wrong bytes.
    Other,
}

impl Deflate for Bent {
    fn inflate(
        &mut self,
        kind: Kind,
        payload: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Violation> {
        let limit = if matches!(self, Self::Boundless) { 1 << 20 } else { limit };
        let kind = if matches!(self, Self::Untidy) { Kind::Binary } else { kind };
        match Wire::default().inflate(kind, payload, limit, out) {
            Err(Violation::BadDeflate) if matches!(self, Self::Lenient) => Ok(()),
            verdict => verdict,
        }
    }

    fn deflate(&mut self, window_bits: u8, level: u8, payload: &[u8]) -> Option<Vec<u8>> {
        let window_bits = if matches!(self, Self::Wide) { 15 } else { window_bits };
        let mut message = Wire::default().deflate(window_bits, level, payload)?;
        if matches!(self, Self::Other) {
            message.push(0);
        }
        Some(message)
    }
}

#[test]
fn the_corpus_shows_each_fault_of_an_inflater() {
    for (bent, expected) in [
        (Bent::Boundless, "memory grows to the limit"),
        (Bent::Untidy, "text is UTF-8"),
        (Bent::Lenient, "plain zlib says Invalid"),
        (Bent::Lenient, "the RFC reads the same"),
        (Bent::Wide, "one for all is as one each"),
        (Bent::Other, "one for all is as one each"),
    ] {
        let found = complaints("inflate", |input| inflate::check(input, &mut { bent }));
        assert!(found.contains(expected), "{bent:?}: {expected:?} is not in\n{found}");
    }
}

/// An answer of the gateway, made wrong.
type Spoil = fn(&[u8], usize, Answered) -> Answered;

fn replaced(answered: Answered, from: &str, to: &str) -> Answered {
    let sent = String::from_utf8(answered.sent).unwrap().replace(from, to);
    Answered { sent: sent.into(), ..answered }
}

#[test]
fn the_corpus_shows_each_fault_of_an_answer() {
    let faults: [(Spoil, &str); 8] = [
        (
            |_, piece, answered| if piece == 1 { Answered::default() } else { answered },
            "in pieces it is the same",
        ),
        (|_, _, answered| Answered { behind: None, ..answered }, "who is accepted gets further"),
        (
            |_, _, answered| Answered {
                behind: answered.behind.map(|_| b"more".into()),
                ..answered
            },
            "what comes behind the request",
        ),
        (
            |_, _, answered| replaced(answered, "Upgrade: ", "set-cookie: a=b\r\nUpgrade: "),
            "the header set-cookie is not of the gateway",
        ),
        (|_, _, answered| replaced(answered, "Date: ", "Date: a\nb"), "ends in CR LF"),
        (|_, _, answered| replaced(answered, "Accept: ", "Accept: A"), "the key is answered"),
        (|_, _, answered| replaced(answered, "_bits=10", "_bits=8"), "a window is 9 to 15 bits"),
        (
            |_, _, answered| replaced(answered, "_bits=10", "_bits=11"),
            "what is agreed on was offered",
        ),
    ];
    for (spoil, expected) in faults {
        let found = complaints("head", |input| {
            head::check(input, |request, piece, config| {
                spoil(request, piece, head::rehearse(request, piece, config))
            });
        });
        assert!(found.contains(expected), "{expected:?} is not in\n{found}");
    }
}

#[test]
fn the_corpus_shows_who_is_too_kind_and_who_is_too_strict() {
    let accepted = b"\0GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let config = Config::default();
    let yes = head::rehearse(&accepted[1..], 1 << 16, &config);
    let no = head::rehearse(b"GET / HTTP/1.1\r\n\r\n", 1 << 16, &config);
    assert!(yes.sent.starts_with(b"HTTP/1.1 101 ") && no.sent.starts_with(b"HTTP/1.1 426 "));

    let kind = complaints("head", |input| head::check(input, |_, _, _| yes.clone()));
    assert!(kind.contains("101 goes to right requests only"), "{kind}");
    let strict = complaints("head", |input| head::check(input, |_, _, _| no.clone()));
    assert!(strict.contains("a right request is accepted"), "{strict}");
}

/// What is said of the first bytes of a connection, made wrong.
type Misread = fn(&[u8], Verdict) -> Verdict;

#[test]
fn the_corpus_shows_each_fault_of_a_reader_of_proxy_headers() {
    let faults: [(Misread, &str); 9] = [
        (
            |bytes, verdict| match verdict {
                Ok(Progress::More(_)) => Ok(Progress::More(bytes.len())),
                verdict => verdict,
            },
            "more is asked for",
        ),
        (
            |_, verdict| match verdict {
                Ok(Progress::More(_)) => Ok(Progress::More(1 << 20)),
                verdict => verdict,
            },
            "no more is asked for than a header has",
        ),
        // Sees a header only if something is behind it.
        (
            |bytes, verdict| match verdict {
                Ok(Progress::Header { len, .. }) if bytes.len() == len && len < MOST => {
                    Ok(Progress::More(len + 1))
                }
                verdict => verdict,
            },
            "nothing behind the header is read",
        ),
        (
            |bytes, verdict| match verdict {
                Ok(Progress::Header { whom, .. }) => {
                    Ok(Progress::Header { whom, len: bytes.len() })
                }
                verdict => verdict,
            },
            "a second reader reads the same",
        ),
        // Takes the target for the client.
        (
            |_, verdict| match verdict {
                Ok(Progress::Header { whom: Whom::Client(mut client), len }) => {
                    client.set_port(80);
                    Ok(Progress::Header { whom: Whom::Client(client), len })
                }
                verdict => verdict,
            },
            "a second reader reads the same",
        ),
        // Takes a proxy's own connection for somebody's.
        (
            |_, verdict| match verdict {
                Ok(Progress::Header { whom: Whom::Proxy, len }) => {
                    Ok(Progress::Header { whom: Whom::Unknown, len })
                }
                verdict => verdict,
            },
            "a second reader reads the same",
        ),
        // Doesn't mind a fault.
        (
            |bytes, verdict| match verdict {
                Err(_) => Ok(Progress::Header { whom: Whom::Unknown, len: bytes.len() }),
                verdict => verdict,
            },
            "a second reader says Wrong",
        ),
        // Waits for the end of what can be none.
        (
            |bytes, verdict| match verdict {
                Err(Unheard::Signature) => Ok(Progress::More(bytes.len() + 1)),
                verdict => verdict,
            },
            "a second reader says Wrong",
        ),
        // Too strict.
        (|_, verdict| verdict.and(Err(Unheard::Signature)), "a second reader says Header"),
    ];
    for (misread, expected) in faults {
        let found = complaints("proxy", |input| {
            proxy::check(input, |bytes| misread(bytes, parse(bytes)));
        });
        assert!(found.contains(expected), "{expected:?} is not in\n{found}");
    }
}
