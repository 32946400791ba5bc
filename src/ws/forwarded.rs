//! For whom an HTTP proxy asks: the header `X-Forwarded-For`.
//!
//! Each proxy adds, at the right, the address that connected to it. So the right-most address is
//! the word of the proxy that connects to us; each further one is worth as much as the hop that
//! added it. The client is the first, from the right, that is none of the listed proxies: what
//! stands left of it is the client's own invention, for all we know.
//!
//! Empty elements of the list are nobody's (RFC 9110 §5.6.1.2). An element is read as in `Forwarded`
//! (RFC 7239 §6): an address, of IPv6 with or without brackets, with or without a port or a zone, in
//! quotes or not. `unknown`, and a made-up name such as `_gazonk`, name nobody.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use hyper::{HeaderMap, header::HeaderName};

use crate::config::value::Networks;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Proxies that may stand one behind the other.
const MOST_HOPS: usize = 32;

/// The client behind `proxies`; none if the header is missing, or can't be read on the way to it.
/// If all are proxies, one of them is the client: the left-most. The port is 0 where none is told.
pub(super) fn client(headers: &HeaderMap, proxies: &Networks) -> Option<SocketAddr> {
    let lines = headers.get_all(X_FORWARDED_FOR).into_iter().rev();
    let hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    let hops = hops.map(<[u8]>::trim_ascii).filter(|hop| !hop.is_empty());
    let mut furthest = None;
    for (passed, hop) in hops.enumerate() {
        let address = address(hop).filter(|_| passed < MOST_HOPS)?;
        if !proxies.contains(address.ip()) {
            return Some(address);
        }
        furthest = Some(address);
    }
    furthest
}

/// `192.0.2.7`, `192.0.2.7:4711`, `2001:db8::7`, `[2001:db8::7]`, `[2001:db8::7]:4711`, each of IPv6 also
/// with a zone (`fe80::7%eth0`), and all that in quotes.
fn address(hop: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(hop).ok()?;
    let quoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let text = quoted.unwrap_or(text);
    let (ip, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (six, port) = rest.split_once(']')?;
            (IpAddr::V6(six_of(six)?), port)
        }
        None => match text.rsplit_once(':') {
            // One colon only: a port behind an address of IPv4.
            Some((four, port)) if !four.contains(':') => {
                return Some(SocketAddr::new(IpAddr::V4(four.parse().ok()?), number(port)?));
            }
            Some(_) => (IpAddr::V6(six_of(text)?), ""),
            None => (IpAddr::V4(text.parse().ok()?), ""),
        },
    };
    let port = match port.strip_prefix(':') {
        Some(port) => number(port)?,
        None if port.is_empty() => 0,
        None => return None,
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

/// An IPv6 address. Its zone (RFC 4007 §11) means something to the proxy alone.
fn six_of(text: &str) -> Option<Ipv6Addr> {
    let (address, zone) = text.split_once('%').unwrap_or((text, "-"));
    let is_zone = !zone.is_empty() && zone.bytes().all(|b| b.is_ascii_graphic());
    is_zone.then(|| address.parse().ok()).flatten()
}

fn number(digits: &str) -> Option<u16> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        let lines = lines.iter().map(|line| HeaderValue::from_bytes(line.as_bytes()).unwrap());
        lines.map(|line| (X_FORWARDED_FOR, line)).collect()
    }

    #[test]
    fn the_client_is_the_right_most_that_is_no_proxy() {
        let proxies = Networks::of("10.0.0.0/8, 2001:db8:1::/48");
        for (lines, expected) in [
            (&["192.0.2.7"][..], Some("192.0.2.7:0")),
            (&["192.0.2.7:4711"], Some("192.0.2.7:4711")),
            (&[" 2001:db8::7 "], Some("[2001:db8::7]:0")),
            (&["[2001:db8::7]"], Some("[2001:db8::7]:0")),
            (&["[2001:db8::7]:4711"], Some("[2001:db8::7]:4711")),
            (&["::ffff:192.0.2.7"], Some("192.0.2.7:0")),
            // What a client invents stands left of what the proxy saw.
            (&["127.0.0.1, 192.0.2.7"], Some("192.0.2.7:0")),
            (&["rubbish, 192.0.2.7"], Some("192.0.2.7:0")),
            (&["127.0.0.1", "192.0.2.7"], Some("192.0.2.7:0")),
            (&["192.0.2.7,10.0.0.1"], Some("192.0.2.7:0")),
            (&["192.0.2.7", "10.0.0.1", "2001:db8:1::1, 10.0.0.2:80"], Some("192.0.2.7:0")),
            (&["192.0.2.9, ::ffff:10.0.0.1"], Some("192.0.2.9:0")),
            (&["10.0.0.9, 10.0.0.1"], Some("10.0.0.9:0")),
            (&[], None),
            (&[""], None),
            (&["unknown"], None),
            (&["192.0.2.7,"], Some("192.0.2.7:0")),
            (&[",, 192.0.2.7 ,\t,", " ", ""], Some("192.0.2.7:0")),
            (&["192.0.2.9,,10.0.0.1,"], Some("192.0.2.9:0")),
            (&[",", " , "], None),
            (&["\"192.0.2.7\""], Some("192.0.2.7:0")),
            (&["\"192.0.2.7:4711\""], Some("192.0.2.7:4711")),
            (&["\"[2001:db8::7]:4711\""], Some("[2001:db8::7]:4711")),
            (&["\"2001:db8::7\""], Some("[2001:db8::7]:0")),
            (&["fe80::7%eth0"], Some("[fe80::7]:0")),
            (&["[fe80::7%25eth0]:4711"], Some("[fe80::7]:4711")),
            (&["fe80::7%"], None),
            (&["192.0.2.7%eth0"], None),
            (&["\"192.0.2.7"], None),
            (&["\"\""], None),
            (&["UNKNOWN"], None),
            (&["_gazonk"], None),
            (&["unknown, 192.0.2.7"], Some("192.0.2.7:0")),
            (&["192.0.2.7:+80"], None),
            (&["192.0.2.7:65536"], None),
            (&["[2001:db8::7]4711"], None),
            (&["192.0.2.7, rubbish"], None),
            (&["rubbish, 10.0.0.1"], None),
            (&["192.0.2.7", ""], Some("192.0.2.7:0")),
            (&["192.0.2.7:port"], None),
            (&["192.0.2.007"], None),
            (&["[192.0.2.7]"], None),
            (&["192.0.2.7\u{e4}"], None),
        ] {
            let found = client(&headers(lines), &proxies).map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_chain_of_proxies_has_an_end() {
        let proxies = Networks::of("10.0.0.0/8");
        let chain = |hops| format!("192.0.2.7{}", ",10.0.0.1".repeat(hops));
        assert!(client(&headers(&[&chain(MOST_HOPS - 1)]), &proxies).is_some());
        assert_eq!(client(&headers(&[&chain(MOST_HOPS)]), &proxies), None);
    }

    proptest! {
        #[test]
        fn the_proxys_word_holds_whatever_the_client_says(
            said in prop::collection::vec("[ -~\u{80}-\u{ff}]*", 0..4), truth: SocketAddr,
        ) {
            let proxies = Networks::of("10.0.0.0/8");
            let truth = SocketAddr::new(truth.ip().to_canonical(), truth.port());
            prop_assume!(!proxies.contains(truth.ip()));
            let text = truth.to_string();
            let mut lines: Vec<&str> = said.iter().map(String::as_str).collect();
            lines.push(&text);
            prop_assert_eq!(client(&headers(&lines), &proxies), Some(truth));
            let joined = lines.join(",");
            prop_assert_eq!(client(&headers(&[&joined]), &proxies), Some(truth));
        }
    }
}
