//! An origin (RFC 6454 §4): scheme, host and port, of which the usual one need not be written.

use std::net::Ipv6Addr;

/// An origin. Two that are equal stand for the same pages, however they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: Host,
    /// None where none is written and the scheme has no usual one.
    port: Option<u16>,
}

/// The host of an origin, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Name(String),
    Six(Ipv6Addr),
}

/// The origins that an entry of `websocket.allowed_origins` stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// `null`: pages that have no origin.
    Null,
    /// One.
    One(Origin),
    /// Every host below this one, at any depth, with its scheme and port.
    Below(Origin),
}

impl Origin {
    /// Reads an origin as browsers send it; none if it is none.
    pub fn read(text: &[u8]) -> Option<Self> {
        let text = str::from_utf8(text).ok()?;
        let (scheme, rest) = text.split_once("://")?;
        if !is_scheme(scheme) {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let (host, port) = if let Some(six) = rest.strip_prefix('[') {
            let (six, port) = six.split_once(']')?;
            (Host::Six(six.parse().ok()?), port)
        } else {
            let (name, port) = rest.split_at(rest.find(':').unwrap_or(rest.len()));
            (Host::Name(is_host(name).then(|| name.to_ascii_lowercase())?), port)
        };
        let port = match port.strip_prefix(':') {
            Some(digits) => Some(number(digits)?),
            None if port.is_empty() => usual_port(&scheme),
            None => return None,
        };
        Some(Self { scheme, host, port })
    }

    /// Whether it is of a host below the one of `other`, and else the same.
    fn is_below(&self, other: &Self) -> bool {
        let (Host::Name(name), Host::Name(domain)) = (&self.host, &other.host) else {
            return false;
        };
        let below = name.strip_suffix(domain.as_str()).and_then(|rest| rest.strip_suffix('.'));
        self.scheme == other.scheme
            && self.port == other.port
            && below.is_some_and(|below| below.split('.').all(is_label))
    }
}

impl Pattern {
    /// Reads an entry; none if no page could ever match it.
    pub fn read(entry: &str) -> Option<Self> {
        if entry == "null" {
            return Some(Self::Null);
        }
        match entry.split_once("://*.") {
            None => Origin::read(entry.as_bytes()).map(Self::One),
            Some((scheme, domain)) => {
                let origin = Origin::read(format!("{scheme}://{domain}").as_bytes())?;
                let is_domain =
                    matches!(&origin.host, Host::Name(name) if name.split('.').all(is_label));
                is_domain.then_some(Self::Below(origin))
            }
        }
    }

    /// Whether it stands for the origin that a request names.
    pub fn covers(&self, origin: &[u8]) -> bool {
        match self {
            Self::Null => origin == b"null",
            Self::One(one) => Origin::read(origin).as_ref() == Some(one),
            Self::Below(domain) => Origin::read(origin).is_some_and(|it| it.is_below(domain)),
        }
    }
}

/// RFC 3986 §3.1.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

/// What is no part of the syntax around it. Browsers write names in ASCII.
fn is_host(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_graphic() && !b"/?#@:[]\\,*\"<>^`{|}".contains(&b);
    !text.is_empty() && !text.starts_with('.') && text.bytes().all(allowed)
}

/// The underscore is no part of a host's name by the book, but common.
fn is_label(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    !text.is_empty() && text.bytes().all(allowed)
}

fn number(digits: &str) -> Option<u16> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

fn usual_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_same_origin_is_equal_however_it_is_written() {
        let read = |text: &str| Origin::read(text.as_bytes());
        for (one, other, same) in [
            ("https://a.example", "https://a.example:443", true),
            ("http://a.example:80", "HTTP://A.EXAMPLE", true),
            ("https://a.example:80", "https://a.example", false),
            ("https://[2001:DB8::1]", "https://[2001:db8:0:0::1]:443", true),
            ("https://[::1]", "https://[::2]", false),
            ("app://a", "APP://A", true),
            ("app://a:443", "app://a", false),
        ] {
            assert_eq!(read(one).unwrap() == read(other).unwrap(), same, "{one} {other}");
        }
        for none in [
            "",
            "null",
            "a.example",
            "://a",
            "1a://a",
            "https://",
            "https://:443",
            "https://a:",
            "https://a:+1",
            "https://a:65536",
            "https://a/",
            "https://a?b",
            "https://a#b",
            "https://u@a",
            "https://[::1",
            "https://[::1]443",
            "https://[a]",
            "https://a b",
            "https://\u{e4}.example",
            "https://*.a",
            "https://.a",
        ] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[test]
    fn an_entry_that_can_match_nothing_is_none() {
        for good in ["null", "https://a", "https://*.a:8443", "app://x", "https://[::1]:8443"] {
            assert!(Pattern::read(good).is_some(), "{good}");
        }
        for bad in [
            "*",
            "https://*",
            "https://*.",
            "https://*.*.a",
            "https://*.[::1]",
            "https://a.*.b",
            "*://a",
            "https://a/",
        ] {
            assert_eq!(Pattern::read(bad), None, "{bad}");
        }
    }
}
