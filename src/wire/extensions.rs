//! Agreeing on permessage-deflate (RFC 7692 §7.1): the client's offers in, an agreement out.
//!
//! Whatever is offered, neither side keeps a context from one message to the next: the gateway
//! could not deflate a message once for many clients if it did, nor share one inflater between
//! them. That the gateway keeps none needs no word unless the client asked for it (§7.1.1.1); that
//! the client keeps none does, and a client has to go along with it (§7.1.1.2).
//!
//! One doesn't: Netty refuses a `client_no_context_takeover` that it has not offered, and fails to
//! connect. It is known by `deflate-frame`, an old draft that nobody else offers, and gets no
//! extension.
//!
//! ```text
//!   offer 1 ── can't be honoured to the letter ──► skipped
//!   offer 2 ── can ──► Agreed ──► response header; window of what is sent
//!   offer 3    (not needed any more)
//! ```
//!
//! A handshake never fails here. An offer that asks for what can't be done, or says what the RFC
//! doesn't know, is declined; of a header that is not well-formed nothing is believed.

use std::borrow::Cow;

/// The name of the one extension that the gateway knows.
const NAME: &str = "permessage-deflate";
/// The extension by whose offer Netty is known.
const NETTYS: &str = "deflate-frame";
/// Most bytes of header that are looked at, all values together; an honest offer has about 100.
const MOST_BYTES: usize = 4096;

/// What was agreed on with a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// `server_no_context_takeover` was asked for.
    server_no_context_takeover: bool,
    /// `server_max_window_bits`, if the client asked for it: 9 to 15.
    server_max_window_bits: Option<u8>,
}

impl Agreed {
    /// Base-2 logarithm of the window of messages to this client: 9 to 15.
    pub fn window_bits(self) -> u8 {
        self.server_max_window_bits.unwrap_or(15)
    }

    /// The `Sec-WebSocket-Extensions` header of the response.
    ///
    /// `client_max_window_bits` is never part of it: without it the client may use 15 bits
    /// (RFC 7692 §7.1.2.2), and that is what the inflater has.
    pub fn response(self) -> &'static str {
        macro_rules! response {
            ($server:literal) => {
                match self.server_max_window_bits {
                    None => response!($server, ""),
                    Some(9) => response!($server, "; server_max_window_bits=9"),
                    Some(10) => response!($server, "; server_max_window_bits=10"),
                    Some(11) => response!($server, "; server_max_window_bits=11"),
                    Some(12) => response!($server, "; server_max_window_bits=12"),
                    Some(13) => response!($server, "; server_max_window_bits=13"),
                    Some(14) => response!($server, "; server_max_window_bits=14"),
                    Some(_) => response!($server, "; server_max_window_bits=15"),
                }
            };
            ($server:literal, $window:literal) => {
                concat!("permessage-deflate", $server, "; client_no_context_takeover", $window)
            };
        }
        if self.server_no_context_takeover {
            response!("; server_no_context_takeover")
        } else {
            response!("")
        }
    }
}

/// Takes the first offer that can be honoured from the values of the request's
/// `Sec-WebSocket-Extensions` headers, in their order.
///
/// `None` means no extension: nothing fitting was offered, or a header was not well-formed
/// (RFC 6455 §9.1) or absurdly long.
pub fn negotiate<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<Agreed> {
    let mut offers = Offers::default();
    let mut bytes = 0;
    for header in headers {
        bytes += header.len();
        if bytes > MOST_BYTES {
            return None;
        }
        offers.read(header)?;
    }
    let (agreed, offers_client_takeover) = offers.acceptable?;
    (offers_client_takeover || !offers.are_of_netty).then_some(agreed)
}

/// What was offered so far.
#[derive(Default)]
struct Offers {
    /// The first offer that can be honoured, and whether it has `client_no_context_takeover`.
    acceptable: Option<(Agreed, bool)>,
    are_of_netty: bool,
}

impl Offers {
    /// Reads one header; nothing if it is malformed.
    fn read(&mut self, header: &str) -> Option<()> {
        let mut cursor = Cursor { rest: header };
        loop {
            while cursor.eat(',') {}
            if cursor.rest.is_empty() {
                return Some(());
            }
            let name = cursor.token()?;
            self.are_of_netty |= name == NETTYS;
            let mut offer = Offer::new(name);
            while cursor.eat(';') {
                let name = cursor.token()?;
                let value = if cursor.eat('=') { Some(cursor.value()?) } else { None };
                offer.parameter(name, value.as_deref());
            }
            if !cursor.rest.is_empty() && !cursor.rest.starts_with(',') {
                return None;
            }
            self.acceptable = self.acceptable.or(offer.accept());
        }
    }
}

/// The bits of parameters in [`Offer::seen`] that make a difference later.
const SERVER_TAKEOVER: u8 = 1;
const CLIENT_TAKEOVER: u8 = 2;

/// One offer while its parameters are read.
struct Offer {
    acceptable: bool,
    /// The parameters that were there, a bit for each.
    seen: u8,
    server_max_window_bits: Option<u8>,
}

impl Offer {
    fn new(extension: &str) -> Self {
        Self { acceptable: extension == NAME, seen: 0, server_max_window_bits: None }
    }

    /// Takes a parameter in; one that is unknown, given twice or of a wrong value spoils the offer.
    fn parameter(&mut self, name: &str, value: Option<&str>) {
        let (bit, sound) = match name {
            "server_no_context_takeover" => (SERVER_TAKEOVER, value.is_none()),
            "client_no_context_takeover" => (CLIENT_TAKEOVER, value.is_none()),
            "server_max_window_bits" => {
                // zlib has no raw window of 8 bits, so that one can't be honoured.
                self.server_max_window_bits = value.and_then(window).filter(|&bits| bits > 8);
                (4, self.server_max_window_bits.is_some())
            }
            "client_max_window_bits" => (8, value.is_none_or(|text| window(text).is_some())),
            _ => (0, false),
        };
        self.acceptable &= sound && self.seen & bit == 0;
        self.seen |= bit;
    }

    /// The offer, if it can be honoured, and whether it has `client_no_context_takeover`.
    fn accept(self) -> Option<(Agreed, bool)> {
        let agreed = Agreed {
            server_no_context_takeover: self.seen & SERVER_TAKEOVER != 0,
            server_max_window_bits: self.server_max_window_bits,
        };
        self.acceptable.then_some((agreed, self.seen & CLIENT_TAKEOVER != 0))
    }
}

/// A window size: a decimal from 8 to 15 without leading zeros (RFC 7692 §7.1.2).
fn window(text: &str) -> Option<u8> {
    if text.starts_with(['0', '+']) {
        return None;
    }
    text.parse().ok().filter(|bits| (8..=15).contains(bits))
}

/// A place in a header. What is asked of it skips white space before and after.
struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    /// Steps over `separator`, if it is next.
    fn eat(&mut self, separator: char) -> bool {
        self.skip_space();
        let Some(rest) = self.rest.strip_prefix(separator) else { return false };
        self.rest = rest;
        self.skip_space();
        true
    }

    fn token(&mut self) -> Option<&'a str> {
        self.skip_space();
        let end = self.rest.find(|c| !is_token(c)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.skip_space();
        (!token.is_empty()).then_some(token)
    }

    /// A token, or a quoted string without its quotes and escapes.
    fn value(&mut self) -> Option<Cow<'a, str>> {
        let Some(inside) = self.rest.strip_prefix('"') else {
            return self.token().map(Cow::Borrowed);
        };
        let mut value = String::new();
        let mut characters = inside.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.rest = &inside[at + 1..];
                    self.skip_space();
                    return Some(Cow::Owned(value));
                }
                '\\' => value.push(characters.next()?.1),
                other => value.push(other),
            }
        }
        None
    }
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: &str = "permessage-deflate; client_no_context_takeover";
    const BOTH: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    /// The window that one header agrees on.
    fn window_of(header: &str) -> Option<u8> {
        negotiate([header]).map(Agreed::window_bits)
    }

    #[test]
    fn an_offer_that_can_be_honoured_is_accepted() {
        for (header, window) in [
            ("permessage-deflate", 15),
            ("permessage-deflate; client_max_window_bits", 15),
            ("permessage-deflate; client_max_window_bits=8", 15),
            ("permessage-deflate; client_max_window_bits=15", 15),
            ("permessage-deflate; client_max_window_bits=\"10\"", 15),
            ("permessage-deflate; server_no_context_takeover", 15),
            ("permessage-deflate; client_no_context_takeover; server_no_context_takeover", 15),
            ("permessage-deflate; server_max_window_bits=9", 9),
            ("permessage-deflate;server_max_window_bits=12;client_max_window_bits", 12),
            ("permessage-deflate; server_max_window_bits=\"10\"", 10),
            ("permessage-deflate; server_max_window_bits=\"1\\1\"", 11),
            (" \tpermessage-deflate ;\tserver_max_window_bits = 13 ", 13),
            (", ,permessage-deflate,", 15),
            ("x-webkit-deflate-frame, permessage-deflate", 15),
            ("foo; bar=\"a,b;\\\"c\"; baz, permessage-deflate", 15),
        ] {
            assert_eq!(window_of(header), Some(window), "{header}");
        }
    }

    #[test]
    fn an_offer_that_cannot_be_honoured_is_declined() {
        for parameters in [
            "server_max_window_bits=8",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "server_max_window_bits=09",
            "server_max_window_bits=+9",
            "server_max_window_bits=265",
            "server_max_window_bits=nine",
            "server_max_window_bits=\"\"",
            "server_max_window_bits=\" 9\"",
            "server_max_window_bits",
            "client_max_window_bits=7",
            "client_max_window_bits=16",
            "client_max_window_bits=08",
            "server_no_context_takeover=1",
            "client_no_context_takeover=true",
            "server_no_context_takeover; server_no_context_takeover",
            "client_no_context_takeover; client_no_context_takeover",
            "server_max_window_bits=9; server_max_window_bits=9",
            "server_max_window_bits=8; server_max_window_bits=9",
            "client_max_window_bits; client_max_window_bits=9",
            "Server_No_Context_Takeover",
            "mystery",
        ] {
            let offer = format!("permessage-deflate; {parameters}");
            assert_eq!(window_of(&offer), None, "{offer}");
            let with_another = format!("{offer}, permessage-deflate; server_max_window_bits=10");
            assert_eq!(window_of(&with_another), Some(10), "{with_another}");
        }
    }

    #[test]
    fn the_first_offer_that_fits_is_taken() {
        for (headers, window) in [
            (&["permessage-deflate; server_max_window_bits=10, permessage-deflate"][..], 10),
            (&["permessage-deflate", "permessage-deflate; server_max_window_bits=10"], 15),
            (&["permessage-deflate; server_max_window_bits=8", "foo", "permessage-deflate"], 15),
            (&["", "permessage-deflate; server_max_window_bits=9"], 9),
        ] {
            let agreed = negotiate(headers.iter().copied());
            assert_eq!(agreed.map(Agreed::window_bits), Some(window), "{headers:?}");
        }
    }

    #[test]
    fn of_a_malformed_header_nothing_is_believed() {
        for header in [
            "permessage-deflate;",
            "permessage-deflate;;client_max_window_bits",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; =9",
            "permessage-deflate client_max_window_bits",
            "permessage-deflate; client_max_window_bits=\"9",
            "permessage-deflate; client_max_window_bits=\"9\\",
            "permessage-deflate; client_max_window_bits=\"9\"9",
            "permessage-deflate, (comment)",
            "permessage-deflate, caf\u{e9}",
            "; permessage-deflate",
            "permessage-deflate\n",
        ] {
            assert_eq!(window_of(header), None, "{header}");
            assert_eq!(negotiate(["permessage-deflate", header]), None, "{header}");
        }
    }

    #[test]
    fn nothing_is_agreed_on_where_nothing_fitting_is_offered() {
        assert_eq!(negotiate([]), None);
        for header in ["", ",,", "foo", "permessage-bzip2; client_max_window_bits=9"] {
            assert_eq!(window_of(header), None, "{header}");
        }
    }

    #[test]
    fn the_response_repeats_what_was_asked_for_and_no_more() {
        assert_eq!(negotiate(["permessage-deflate"]).unwrap().response(), PLAIN);
        assert_eq!(negotiate([PLAIN]).unwrap().response(), PLAIN);
        assert_eq!(negotiate([BOTH]).unwrap().response(), BOTH);
        let server = "permessage-deflate; server_no_context_takeover";
        assert_eq!(negotiate([server]).unwrap().response(), BOTH);
        for bits in 9..=15 {
            let offer = format!("permessage-deflate; server_max_window_bits={bits}");
            let agreed = negotiate([&*offer]).unwrap();
            assert_eq!(agreed.window_bits(), bits);
            assert_eq!(agreed.response(), format!("{PLAIN}; server_max_window_bits={bits}"));
            let offer = format!("{offer}; server_no_context_takeover");
            let agreed = negotiate([&*offer]).unwrap();
            assert_eq!(agreed.response(), format!("{BOTH}; server_max_window_bits={bits}"));
        }
    }

    #[test]
    fn what_netty_would_refuse_is_not_answered() {
        let netty =
            "permessage-deflate;client_max_window_bits,deflate-frame,x-webkit-deflate-frame";
        assert_eq!(window_of(netty), None);
        assert_eq!(negotiate(["permessage-deflate", "deflate-frame"]), None);
        assert_eq!(negotiate(["deflate-frame", "permessage-deflate"]), None);
        // It knows what it offers itself.
        let told = "permessage-deflate;client_no_context_takeover,deflate-frame";
        assert_eq!(negotiate([told]).unwrap().response(), PLAIN);
        // Safari's offer was of this name only.
        assert_eq!(window_of("permessage-deflate, x-webkit-deflate-frame"), Some(15));
    }

    #[test]
    fn an_absurdly_long_header_agrees_on_nothing() {
        let padded = |length: usize| format!("{:length$}", "permessage-deflate");
        assert_eq!(window_of(&padded(MOST_BYTES)), Some(15));
        assert_eq!(window_of(&padded(MOST_BYTES + 1)), None);
        let half = padded(MOST_BYTES / 2 + 1);
        assert_eq!(negotiate([&*half, &*half]), None);
    }

    proptest! {
        /// An answer that the same function would accept as an offer, whatever came in.
        #[test]
        fn no_header_does_harm(
            headers in prop::collection::vec(
                prop_oneof![
                    ".{0,60}",
                    "(permessage-deflate|server_max_window_bits|client_max_window_bits|9|15|[;,=\"\\\\ ]|é){0,12}",
                ],
                0..4,
            )
        ) {
            if let Some(agreed) = negotiate(headers.iter().map(String::as_str)) {
                prop_assert!((9..=15).contains(&agreed.window_bits()));
                prop_assert_eq!(negotiate([agreed.response()]), Some(agreed));
            }
        }
    }
}
