//! What holds for the answer to an upgrade, whatever request a client sends.
//!
//! ```text
//!   input   settings: rules of the configuration, length of the reads │ request, and more …
//! ```
//!
//! The request is answered in one read and in small ones, which must not make a difference. The
//! answer is read as text, apart from any HTTP library, and so is the request: 101 must go to those
//! requests only that RFC 6455 §4.2.1 calls right, and to all of them.

use std::{
    collections::BTreeSet,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use gateway_websocket::{config::Config, ws};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_tungstenite::tungstenite::handshake::derive_accept_key;

use super::settings;

/// What was answered to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// The bytes that were sent.
    pub sent: Vec<u8>,
    /// If the request was accepted, what came behind it and is for the WebSocket.
    pub behind: Option<Vec<u8>>,
}

/// The sub-protocols and origins of a gateway that has such.
const SUBPROTOCOLS: [&str; 2] = ["chat.v2", "chat.v1"];
const ORIGIN: &str = "https://app.example";
/// All headers that an answer may have.
const HEADERS: [&str; 11] = [
    "allow",
    "connection",
    "content-length",
    "content-type",
    "date",
    "retry-after",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "upgrade",
];

/// Checks what `answer` says to the request in `input`: it gets a request, the length of the reads
/// in which the request comes, and the configuration.
pub fn check(input: &[u8], answer: impl Fn(&[u8], usize, &Config) -> Answered) {
    let Some(([way], request)) = settings(input) else { return };
    let config = config(way);
    let whole = answer(request, request.len().max(1), &config);
    let pieces = answer(request, usize::from(way >> 3) + 1, &config);
    if is_whole(request) {
        assert_eq!(undated(&pieces), undated(&whole), "in pieces it is the same");
    }

    if whole.sent.is_empty() {
        assert_eq!(whole.behind, None, "who is accepted is told");
        return;
    }
    let answered = Answer::read(&whole.sent);
    let asked = Head::read(request);
    if answered.status != 101 {
        assert_eq!(whole.behind, None, "who is refused gets no further");
        // Without a body it is hyper's own answer to what is no HTTP for it.
        let right = asked.is_some_and(|asked| asked.is_right(&config));
        assert!(!right || answered.body.is_empty(), "a right request is accepted");
        return;
    }
    let asked = asked.expect("101 goes to whole requests only");
    assert!(asked.is_right(&config), "101 goes to right requests only");
    let behind = whole.behind.expect("who is accepted gets further");
    assert_eq!(behind, asked.behind, "what comes behind the request is left to the WebSocket");
    answered.check_accepted(&asked, &config);
}

/// What the gateway answers.
pub fn rehearse(request: &[u8], piece: usize, config: &Config) -> Answered {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime can be built");
    let _clock = runtime.enter();

    let shared = Arc::new(Mutex::new(Shared::default()));
    let line = Line { request: request.to_vec(), at: 0, piece, shared: Arc::clone(&shared) };
    let mut rehearsal = pin!(ws::rehearse(line, config));
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..PATIENCE {
        if let Poll::Ready(accepted) = rehearsal.as_mut().poll(&mut context) {
            let behind = accepted.map(|(line, read)| {
                [&*read, line.request.get(line.at..).unwrap_or_default()].concat()
            });
            let sent = std::mem::take(&mut lock(&shared).sent);
            return Answered { sent, behind };
        }
        let mut shared = lock(&shared);
        shared.hung_up |= shared.waits;
    }
    panic!("the handshake never ends");
}

/// How often a handshake is looked at before it is taken for stuck; after what the client sends
/// there is nothing that it could wait for.
const PATIENCE: usize = 100_000;

/// A client that sends its request piece by piece, waits for the answer, and hangs up.
struct Line {
    request: Vec<u8>,
    /// How much of the request was read.
    at: usize,
    /// Most bytes that are read at once.
    piece: usize,
    shared: Arc<Mutex<Shared>>,
}

/// What the two ends of a line know of each other.
#[derive(Default)]
struct Shared {
    /// The answer so far.
    sent: Vec<u8>,
    /// More is wanted than there is.
    waits: bool,
    hung_up: bool,
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Read for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let rest = &self.request[self.at..];
        let read = rest.len().min(self.piece).min(buffer.remaining());
        if read == 0 {
            let mut shared = lock(&self.shared);
            shared.waits = true;
            return if shared.hung_up { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        buffer.put_slice(&rest[..read]);
        self.at += read;
        Poll::Ready(Ok(()))
    }
}

impl Write for Line {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        lock(&self.shared).sent.extend(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Whether a head is at its end. A faulty one that is not is refused at once if it came in one read;
/// otherwise hyper waits for the end.
fn is_whole(request: &[u8]) -> bool {
    let begin = request.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(request.len());
    let request = &request[begin..];
    request.windows(3).any(|end| end == b"\n\r\n") || request.windows(2).any(|end| end == b"\n\n")
}

fn config(way: u8) -> Config {
    let mut config = Config::default();
    config.compression.enabled = way & 1 == 0;
    if way & 2 != 0 {
        config.websocket.subprotocols.0 = SUBPROTOCOLS.map(str::to_owned).to_vec();
    }
    if way & 4 != 0 {
        config.websocket.allowed_origins.0 = vec![ORIGIN.to_owned()];
    }
    config
}

/// The same but for the date, which may change between two answers.
fn undated(answered: &Answered) -> (Vec<&[u8]>, &Option<Vec<u8>>) {
    let lines = answered.sent.split_inclusive(|byte| *byte == b'\n');
    (lines.filter(|line| !line.starts_with(b"Date: ")).collect(), &answered.behind)
}

/// A request or an answer up to its empty line.
struct Head<'a> {
    first: &'a [u8],
    /// Names in lower case, values without white space around.
    fields: Vec<(String, &'a [u8])>,
    behind: &'a [u8],
}

impl<'a> Head<'a> {
    /// Lines may end in a bare line feed, and empty ones may stand in front (RFC 9112 §2.2).
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut line = || {
            let end = rest.iter().position(|byte| *byte == b'\n')?;
            let line = &rest[..end];
            rest = &rest[end + 1..];
            Some(line.strip_suffix(b"\r").unwrap_or(line))
        };
        let mut first = line()?;
        while first.is_empty() {
            first = line()?;
        }
        let mut fields = Vec::new();
        loop {
            let field = line()?;
            if field.is_empty() {
                return Some(Self { first, fields, behind: rest });
            }
            let colon = field.iter().position(|byte| *byte == b':')?;
            let name = String::from_utf8(field[..colon].to_ascii_lowercase()).ok()?;
            fields.push((name, field[colon + 1..].trim_ascii()));
        }
    }

    fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'a [u8]> + 's {
        self.fields.iter().filter(move |(known, _)| known == name).map(|(_, value)| *value)
    }

    fn only(&self, name: &str) -> Option<&'a [u8]> {
        let mut all = self.all(name);
        all.next().filter(|_| all.next().is_none())
    }

    /// The elements of a list, over all its lines.
    fn elements(&self, name: &str) -> Vec<&'a [u8]> {
        self.all(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .collect()
    }

    fn lists(&self, name: &str, wanted: &str) -> bool {
        self.elements(name).iter().any(|one| one.eq_ignore_ascii_case(wanted.as_bytes()))
    }

    /// RFC 6455 §4.2.1 (one Host: RFC 9112 §3.2), the origins of the configuration, and nothing that HTTP could take for a
    /// body.
    fn is_right(&self, config: &Config) -> bool {
        let words: Vec<_> = self.first.split(|byte| *byte == b' ').collect();
        let is_get = words.len() == 3 && words[0] == b"GET" && words[2] == b"HTTP/1.1";
        let origins = &config.websocket.allowed_origins.0;
        let may_come = origins.is_empty()
            || self.all("origin").all(|origin| {
                origins.iter().any(|one| one.as_bytes().eq_ignore_ascii_case(origin))
            });
        is_get
            && self.only("host").is_some()
            && self.lists("upgrade", "websocket")
            && self.lists("connection", "upgrade")
            && self.only("sec-websocket-version") == Some(b"13")
            && self.only("sec-websocket-key").and_then(key_length) == Some(16)
            && self.all("transfer-encoding").next().is_none()
            && self.all("content-length").all(|length| length == b"0")
            && may_come
    }

    /// Whether an offer of permessage-deflate asks for just this window, or for none, and whether
    /// for `server_no_context_takeover`.
    fn offers(&self, window: Option<&str>, server: bool) -> bool {
        let mut offers = self.elements("sec-websocket-extensions").into_iter().map(|offer| {
            let offer = String::from_utf8_lossy(offer).replace(['"', '\\'], "");
            let words = offer.split(';').map(|word| word.replace([' ', '\t'], ""));
            let words: Vec<_> = words.collect();
            let named = words.first().is_some_and(|name| name == "permessage-deflate");
            let asked = words
                .iter()
                .find_map(|word| word.strip_prefix("server_max_window_bits=").map(str::to_owned));
            (named, asked, words.iter().any(|word| word == "server_no_context_takeover"))
        });
        offers
            .any(|(named, asked, without)| named && asked.as_deref() == window && without == server)
    }
}

/// How many bytes a text in base64 stands for (RFC 4648 §4); bits that pad need not be zero.
fn key_length(text: &[u8]) -> Option<usize> {
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let digits = &text[..text.len() - padding];
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    let right = text.len().is_multiple_of(4) && padding <= 2 && digits.iter().all(known);
    right.then_some(digits.len() * 3 / 4)
}

/// An answer, read strictly.
struct Answer<'a> {
    status: u16,
    head: Head<'a>,
    body: &'a [u8],
}

impl<'a> Answer<'a> {
    /// Nothing that the client sent may have become a line of the answer.
    fn read(sent: &'a [u8]) -> Self {
        let head = Head::read(sent).expect("an answer has a head");
        let body = head.behind;
        let lines = sent[..sent.len() - body.len()].split_inclusive(|byte| *byte == b'\n');
        for line in lines {
            let line = line.strip_suffix(b"\r\n").expect("each line of an answer ends in CR LF");
            assert!(line.iter().all(|byte| (b' '..=b'~').contains(byte)), "a line is plain text");
        }
        let status = head.first.strip_prefix(b"HTTP/1.").expect("an answer is HTTP/1");
        assert_eq!(status[1], b' ', "a status follows on the version");
        let status = std::str::from_utf8(&status[2..5]).ok().and_then(|status| status.parse().ok());
        let mut names = BTreeSet::new();
        for (name, _) in &head.fields {
            assert!(HEADERS.contains(&name.as_str()), "the header {name} is not of the gateway");
            assert!(names.insert(name), "the header {name} stands there once");
        }
        if let Some(length) = head.only("content-length") {
            let sent = body.len().to_string();
            assert!(body.is_empty() || sent.as_bytes() == length, "one answer and its whole body");
        } else {
            assert!(body.is_empty(), "a body has its length");
        }
        Self { status: status.expect("a status is a number"), head, body }
    }

    /// RFC 6455 §4.2.2, point 5, and RFC 7692 §7.1.
    fn check_accepted(&self, asked: &Head<'_>, config: &Config) {
        let text = |name| self.head.only(name).and_then(|value| std::str::from_utf8(value).ok());
        assert!(self.body.is_empty(), "frames follow on 101");
        assert_eq!(text("upgrade"), Some("websocket"));
        // Some clients take no other; hyper adds the word for those that ask for it.
        let asked_to =
            if asked.lists("connection", "close") { "Upgrade, close" } else { "Upgrade" };
        assert_eq!(text("connection"), Some(asked_to));
        let key = asked.only("sec-websocket-key").map(derive_accept_key);
        assert_eq!(text("sec-websocket-accept"), key.as_deref(), "the key is answered");

        let known = &config.websocket.subprotocols.0;
        let offers = asked.elements("sec-websocket-protocol");
        let first =
            offers.into_iter().find(|offer| known.iter().any(|one| one.as_bytes() == *offer));
        let protocol = self.head.only("sec-websocket-protocol");
        assert_eq!(protocol, first, "the first sub-protocol that both know");

        let Some(extension) = text("sec-websocket-extensions") else { return };
        assert!(config.compression.enabled, "compression that is off is not agreed on");
        let mut parameters = extension.split("; ");
        assert_eq!(parameters.next(), Some("permessage-deflate"));
        let mut parameter = parameters.next();
        let server = parameter == Some("server_no_context_takeover");
        if server {
            parameter = parameters.next();
        }
        assert_eq!(parameter, Some("client_no_context_takeover"));
        let window = parameters.next().map(|window| {
            let bits =
                window.strip_prefix("server_max_window_bits=").expect("a window, or nothing");
            let number = bits.parse::<u8>();
            assert!(number.is_ok_and(|bits| (9..=15).contains(&bits)), "a window is 9 to 15 bits");
            bits
        });
        assert_eq!(parameters.next(), None);
        assert!(asked.offers(window, server), "what is agreed on was offered");
    }
}
