//! Whether a request becomes a WebSocket: RFC 6455 §4.2 and the operator's rules.
//!
//! [`answer`] is a pure function of the request and the configuration; it takes no place, writes
//! no counter and reads no clock.

use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    body::Bytes,
    header::{
        ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN,
        RETRY_AFTER, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE, WWW_AUTHENTICATE,
    },
};

use super::{addresses::Over, elements::elements, origin, token};
use crate::{
    config::{Auth, Config},
    metrics::TokenFault,
    wire,
};

/// What the two sides agree on beyond RFC 6455 itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Negotiated {
    /// The sub-protocol to answer, as the configuration writes it.
    pub(super) subprotocol: Option<HeaderValue>,
    /// Permessage-deflate, if the client offers it in a form that can be honoured.
    pub(super) deflate: Option<wire::Agreed>,
}

/// Why a request does not become a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// Not a GET.
    #[error("a WebSocket begins with a GET request")]
    Method,
    /// HTTP/1.0.
    #[error("a WebSocket needs HTTP/1.1")]
    Http,
    /// No Host, or several (RFC 6455 §4.2.1, RFC 9112 §3.2); 1.x refused that too.
    #[error("HTTP/1.1 needs one Host header")]
    Host,
    /// A plain request, of a browser's address bar perhaps.
    #[error("this is a WebSocket endpoint: connect with a WebSocket client (ws:// or wss://)")]
    Plain,
    /// A request with a body, which would be taken for frames.
    #[error("a WebSocket request has no body")]
    Body,
    /// No key, several, or one that is not 16 bytes in base64.
    #[error("Sec-WebSocket-Key must be 16 bytes in base64, given once")]
    Key,
    /// A version other than RFC 6455's.
    #[error("Sec-WebSocket-Version must be 13")]
    Version,
    /// An origin that is not listed.
    #[error("this origin is not allowed to connect")]
    Origin,
    /// A listed proxy that doesn't say for whom it asks.
    #[error(
        "X-Forwarded-For must name the client: this peer is one of websocket.proxies, and \
         websocket.proxy_header is \"x-forwarded-for\""
    )]
    Forwarded,
    /// No token, or one that is not believed.
    #[error("the token was refused: {0}")]
    Token(TokenFault),
    /// As many clients of the uid as there may be.
    #[error("this user has as many clients as auth.max_clients_per_uid allows")]
    Uid,
    /// The client that was to make room could not be told so.
    #[error("the gateway is too busy to make room for this client")]
    Busy,
    /// Too many of the client's address, or too often.
    #[error(transparent)]
    Address(#[from] Over),
    /// The back end has no word on the client.
    #[error("whether this client may connect can't be found out now ({0})")]
    Unknown(&'static str),
    /// As many clients as there may be.
    #[error("the gateway holds as many clients as limits.max_clients allows")]
    Full,
    /// No clients any more, or not yet.
    #[error("the gateway takes no clients now: it is starting or draining")]
    Closed,
}

/// Seconds after which a client that was refused for lack of room may try again.
const RETRY: HeaderValue = HeaderValue::from_static("5");
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const THIRTEEN: HeaderValue = HeaderValue::from_static("13");

/// Decides on a request by its head alone.
pub(super) fn answer<B>(request: &Request<B>, config: &Config) -> Result<Negotiated, Refusal> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(Refusal::Method);
    }
    if !has_token(headers, &UPGRADE, "websocket") || !has_token(headers, &CONNECTION, "upgrade") {
        return Err(Refusal::Plain);
    }
    if request.version() != Version::HTTP_11 {
        return Err(Refusal::Http);
    }
    if only(headers, &HOST).is_none() {
        return Err(Refusal::Host);
    }
    if has_body(request) {
        return Err(Refusal::Body);
    }
    if only(headers, &SEC_WEBSOCKET_VERSION).is_none_or(|version| version != THIRTEEN) {
        return Err(Refusal::Version);
    }
    if !only(headers, &SEC_WEBSOCKET_KEY).is_some_and(|key| is_key(key.as_bytes())) {
        return Err(Refusal::Key);
    }
    let websocket = &config.websocket;
    if !may_come(headers, &websocket.allowed_origins.0) {
        return Err(Refusal::Origin);
    }
    let subprotocol = choose(headers, &websocket.subprotocols.0, &config.auth)
        .or_else(|| token::answer(headers, &config.auth));
    let deflate = config.compression.enabled.then(|| deflate(headers)).flatten();
    Ok(Negotiated { subprotocol, deflate })
}

/// The first offer of permessage-deflate that can be honoured; what can't be is declined.
fn deflate(headers: &HeaderMap) -> Option<wire::Agreed> {
    let offers = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
    // Nothing beyond ASCII is well-formed here, as little as a lone separator.
    wire::negotiate(offers.map(|offer| offer.to_str().unwrap_or("=")))
}

impl Negotiated {
    /// Writes what was agreed on into the answer.
    pub(super) fn write(self, headers: &mut HeaderMap) {
        if let Some(subprotocol) = self.subprotocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
        }
        if let Some(deflate) = self.deflate {
            let answer = HeaderValue::from_static(deflate.response());
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, answer);
        }
    }
}

impl Refusal {
    /// The status that says so.
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Http => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Plain | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Host | Self::Body | Self::Key | Self::Forwarded => StatusCode::BAD_REQUEST,
            Self::Origin => StatusCode::FORBIDDEN,
            Self::Address(Over::Clients | Over::Rate) | Self::Uid => StatusCode::TOO_MANY_REQUESTS,
            Self::Address(Over::Table)
            | Self::Full
            | Self::Closed
            | Self::Busy
            | Self::Unknown(_)
            | Self::Token(TokenFault::KeysUnavailable) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Token(_) => StatusCode::UNAUTHORIZED,
        }
    }

    /// The whole answer: status, a line of text, and the headers that help the client on.
    pub(super) fn response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(format!("{self}\n").into()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        // Said here and not by switching keep-alive off, which would add it to the 101 too: there
        // are clients that take no `Connection` but `upgrade`.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        match self {
            Self::Method => {
                headers.insert(ALLOW, HeaderValue::from_static("GET"));
            }
            Self::Plain | Self::Version => {
                headers.insert(UPGRADE, WEBSOCKET);
                // RFC 9110 §7.8: who sends Upgrade names it in Connection.
                headers.insert(CONNECTION, HeaderValue::from_static("Upgrade, close"));
                headers.insert(SEC_WEBSOCKET_VERSION, THIRTEEN);
            }
            Self::Address(_)
            | Self::Full
            | Self::Closed
            | Self::Busy
            | Self::Unknown(_)
            | Self::Uid
            | Self::Token(TokenFault::KeysUnavailable) => {
                headers.insert(RETRY_AFTER, RETRY);
            }
            Self::Token(fault) => {
                headers.insert(WWW_AUTHENTICATE, challenge(fault));
            }
            Self::Http | Self::Host | Self::Body | Self::Key | Self::Origin | Self::Forwarded => {}
        }
        response
    }
}

/// What the client should do better (RFC 6750 §3). Who brought no token has made no mistake.
fn challenge(fault: TokenFault) -> HeaderValue {
    let challenge = match fault {
        TokenFault::Missing => "Bearer".to_owned(),
        _ => format!("Bearer error=\"invalid_token\", error_description=\"{fault}\""),
    };
    HeaderValue::try_from(challenge).unwrap_or(HeaderValue::from_static("Bearer"))
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    elements(headers, name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
}

/// The header's value if it stands there once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut lines = headers.get_all(name).into_iter();
    lines.next().filter(|_| lines.next().is_none())
}

/// Whether a body comes behind the head, by what that says.
pub(super) fn has_body<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    headers.contains_key(TRANSFER_ENCODING)
        || headers.get_all(CONTENT_LENGTH).iter().any(|length| length != "0")
}

/// 16 bytes in base64 are 22 characters and two of padding (RFC 6455 §4.1, point 7).
fn is_key(key: &[u8]) -> bool {
    let Some(digits) = key.strip_suffix(b"==") else {
        return false;
    };
    digits.len() == 22
        && digits.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

/// A request without Origin is no browser's, so there is no user whose cookies it could borrow.
fn may_come(headers: &HeaderMap, allowed: &[String]) -> bool {
    allowed.is_empty()
        || headers
            .get_all(ORIGIN)
            .iter()
            .all(|origin| allowed.iter().any(|entry| origin::covers(entry, origin.as_bytes())))
}

/// The first of the client's offers that the gateway knows (RFC 6455 §4.2.2, point 5.4).
fn choose(headers: &HeaderMap, known: &[String], auth: &Auth) -> Option<HeaderValue> {
    if known.is_empty() {
        return None;
    }
    token::subprotocols(headers, auth)
        .find_map(|offer| known.iter().find(|one| one.as_bytes() == offer))
        .and_then(|one| HeaderValue::from_str(one).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Headers in place of the usual ones.
    type Changes<'a> = &'a [(&'a str, &'a str)];

    /// A browser's request, which is accepted, with changes: an empty value takes a header out.
    fn request(changes: Changes) -> Request<()> {
        let mut headers = vec![
            ("host", "gateway.example"),
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("origin", "https://app.example"),
        ];
        headers.retain(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
        headers.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
        let request = Request::builder().uri("/any/path?at=all");
        headers.into_iter().fold(request, |to, (n, v)| to.header(n, v)).body(()).unwrap()
    }

    fn config(origins: &[&str], subprotocols: &[&str]) -> Config {
        let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect();
        let mut config = Config::default();
        config.websocket.allowed_origins.0 = words(origins);
        config.websocket.subprotocols.0 = words(subprotocols);
        config
    }

    #[test]
    fn a_request_is_judged_by_its_head() {
        let long = "dGhlIHNhbXBsZSBub25jZQAA==";
        let cases: &[(Changes, Option<Refusal>)] = &[
            (&[], None),
            (&[("upgrade", "WebSocket")], None),
            (&[("upgrade", "h2c, websocket")], None),
            (&[("connection", "keep-alive , UPGRADE")], None),
            (&[("connection", "keep-alive"), ("connection", "upgrade")], None),
            (&[("content-length", "0")], None),
            (&[("origin", "")], None),
            (&[("host", "")], Some(Refusal::Host)),
            (&[("host", "a.example"), ("host", "b.example")], Some(Refusal::Host)),
            (&[("upgrade", "")], Some(Refusal::Plain)),
            (&[("upgrade", "websockets")], Some(Refusal::Plain)),
            (&[("connection", "")], Some(Refusal::Plain)),
            (&[("connection", "keep-alive")], Some(Refusal::Plain)),
            (&[("content-length", "5")], Some(Refusal::Body)),
            (&[("transfer-encoding", "chunked")], Some(Refusal::Body)),
            (&[("sec-websocket-version", "")], Some(Refusal::Version)),
            (&[("sec-websocket-version", "8")], Some(Refusal::Version)),
            (&[("sec-websocket-version", "13, 8")], Some(Refusal::Version)),
            (&[("sec-websocket-key", "")], Some(Refusal::Key)),
            (&[("sec-websocket-key", "short==")], Some(Refusal::Key)),
            (&[("sec-websocket-key", long)], Some(Refusal::Key)),
            (&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQAA")], Some(Refusal::Key)),
            (&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25j*Q==")], Some(Refusal::Key)),
        ];
        for (changes, refusal) in cases {
            let answer = answer(&request(changes), &Config::default());
            assert_eq!(answer.err(), *refusal, "{changes:?}");
        }
    }

    #[test]
    fn a_key_given_twice_is_no_key() {
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(answer(&request(&[key, key]), &Config::default()), Err(Refusal::Key));
    }

    #[test]
    fn method_and_version_of_http_count() {
        for method in [Method::POST, Method::HEAD, Method::OPTIONS, Method::PUT] {
            let mut request = request(&[]);
            *request.method_mut() = method;
            assert_eq!(answer(&request, &Config::default()), Err(Refusal::Method));
        }
        let mut old = request(&[]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(answer(&old, &Config::default()), Err(Refusal::Http));
    }

    #[test]
    fn an_origin_must_be_listed_if_there_is_a_list() {
        let listed = config(&["https://app.example", "https://b.example:8443"], &[]);
        let cases = [
            ("https://app.example", true),
            ("HTTPS://App.Example", true),
            ("https://b.example:8443", true),
            ("", true), // not a browser
            ("https://b.example", false),
            ("https://app.example.evil", false),
            ("http://app.example", false),
            ("null", false),
        ];
        for (origin, comes) in cases {
            let answer = answer(&request(&[("origin", origin)]), &listed);
            assert_eq!(answer.is_ok(), comes, "{origin}");
        }
        let two = [("origin", "https://app.example"), ("origin", "https://evil.example")];
        assert_eq!(answer(&request(&two), &listed), Err(Refusal::Origin));
    }

    #[test]
    fn the_clients_first_known_offer_is_answered() {
        let name = "sec-websocket-protocol";
        let cases: &[(Changes, Option<&str>)] = &[
            (&[], None),
            (&[(name, "mqtt")], None),
            (&[(name, "chat.v2")], Some("chat.v2")),
            (&[(name, "mqtt, chat.v1,chat.v2")], Some("chat.v1")),
            (&[(name, "mqtt"), (name, "chat.v2")], Some("chat.v2")),
            (&[(name, "Chat.v2")], None),
        ];
        for (changes, chosen) in cases {
            let agreed = answer(&request(changes), &config(&[], &["chat.v2", "chat.v1"])).unwrap();
            let mut headers = HeaderMap::new();
            agreed.write(&mut headers);
            assert_eq!(headers.get(name).map(|one| one.to_str().unwrap()), *chosen, "{changes:?}");
        }
    }

    #[test]
    fn the_first_offer_of_compression_that_fits_is_answered() {
        let name = "sec-websocket-extensions";
        let fits = "permessage-deflate; server_max_window_bits=10";
        let cases: &[(Changes, bool)] = &[
            (&[], false),
            (&[(name, fits)], true),
            (&[(name, "permessage-deflate; server_max_window_bits=8"), (name, fits)], true),
            (&[(name, "permessage-deflate; mystery")], false),
            // Of a header that is not well-formed nothing is believed, whichever line is not.
            (&[(name, fits), (name, "foo; =")], false),
            (&[(name, fits), (name, "foo; bar=\"caf\u{e9}\"")], false),
        ];
        for (changes, agreed) in cases {
            let answered = answer(&request(changes), &Config::default()).unwrap();
            let window = answered.deflate.map(wire::Agreed::window_bits);
            assert_eq!(window, agreed.then_some(10), "{changes:?}");
        }
        let mut off = Config::default();
        off.compression.enabled = false;
        assert_eq!(answer(&request(&[(name, fits)]), &off).unwrap().deflate, None);
    }

    #[test]
    fn a_refusal_helps_the_client_on() {
        let cases = [
            (Refusal::Method, 405, "allow", "GET"),
            (Refusal::Plain, 426, "upgrade", "websocket"),
            (Refusal::Version, 426, "sec-websocket-version", "13"),
            (Refusal::Full, 503, "retry-after", "5"),
            (Refusal::Closed, 503, "retry-after", "5"),
            (Refusal::Address(Over::Clients), 429, "retry-after", "5"),
            (Refusal::Address(Over::Rate), 429, "retry-after", "5"),
            (Refusal::Address(Over::Table), 503, "retry-after", "5"),
            (Refusal::Unknown("timeout"), 503, "retry-after", "5"),
            (Refusal::Uid, 429, "retry-after", "5"),
            (Refusal::Busy, 503, "retry-after", "5"),
            (Refusal::Token(TokenFault::KeysUnavailable), 503, "retry-after", "5"),
            (Refusal::Token(TokenFault::Missing), 401, "www-authenticate", "Bearer"),
            (
                Refusal::Token(TokenFault::Expired),
                401,
                "www-authenticate",
                "Bearer error=\"invalid_token\", error_description=\"expired\"",
            ),
            (Refusal::Forwarded, 400, "content-type", "text/plain; charset=utf-8"),
            (Refusal::Origin, 403, "content-type", "text/plain; charset=utf-8"),
            (Refusal::Key, 400, "content-type", "text/plain; charset=utf-8"),
        ];
        for (refusal, status, header, value) in cases {
            let response = refusal.response();
            assert_eq!(response.status(), status, "{refusal:?}");
            assert_eq!(response.headers()[header], value, "{refusal:?}");
            let ends = response.headers()["connection"].to_str().unwrap();
            assert!(ends.ends_with("close"), "one request per connection: {refusal:?}");
        }
    }
}
