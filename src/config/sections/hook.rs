//! `[hook]`: the back end that says who may connect.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use hyper::{Uri, http::uri::Scheme};
use serde::{Deserialize, Serialize};

use super::super::value::{Size, span};

/// `[hook]`: who is asked whether a client may connect, and what that may cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Where the back end listens, `http://host:port` or `https://host:port`; empty is nobody.
    pub address: String,
    /// PEM file of the authorities whose certificate the back end must have; empty is those that the
    /// machine trusts.
    pub ca: PathBuf,
    /// File of the token that the back end is sent; empty is none.
    pub token_file: PathBuf,
    /// Time for an answer, with all that has to be waited for before.
    #[serde(with = "span")]
    pub timeout: Duration,
    /// Calls under way at once.
    pub max_concurrent: usize,
    /// Clients that wait until a call can be made for them.
    pub max_waiting: usize,
    /// Bytes of one answer.
    pub max_answer: Size,
    /// What becomes of a client that nobody could be asked about.
    pub fail: Fail,
    /// Failures in a row after which no call is made for a while; zero is never.
    pub breaker_failures: u32,
    /// How long that while is.
    #[serde(with = "span")]
    pub breaker_pause: Duration,
}

/// What becomes of a client that nobody could be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fail {
    /// It is refused.
    Closed,
    /// It comes in as its token says.
    Open,
}

/// What an address of a back end says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackEnd {
    /// Whether it is spoken to over TLS.
    pub tls: bool,
    /// Its name or address; one of IPv6 without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Name and port as HTTP writes them.
    pub authority: String,
}

impl Hook {
    /// Whether anybody is asked.
    pub fn is_on(&self) -> bool {
        !self.address.is_empty()
    }

    /// What `hook.address` says; none if it says nothing or nothing that makes sense.
    pub fn back_end(&self) -> Option<BackEnd> {
        let uri: Uri = self.address.parse().ok()?;
        let scheme = uri.scheme()?;
        let tls = *scheme == Scheme::HTTPS;
        if !tls && *scheme != Scheme::HTTP {
            return None;
        }
        let authority = uri.authority()?;
        let plain = uri.path().trim_matches('/').is_empty() && uri.query().is_none();
        // The address as it is written ends up in logs: no password belongs there.
        if !plain || authority.as_str().contains('@') || authority.host().is_empty() {
            return None;
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        // A port that is none is not taken for the usual one.
        let port = match authority.as_str()[authority.host().len()..].strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port > 0)?,
            None if tls => 443,
            None => 80,
        };
        Some(BackEnd { tls, host, port, authority: authority.as_str().to_owned() })
    }
}

impl BackEnd {
    /// Whether what is said to it stays on this machine, as far as its name tells.
    pub fn is_local(&self) -> bool {
        let address: Option<IpAddr> = self.host.parse().ok();
        address.map_or(self.host == "localhost", |address| address.is_loopback())
    }
}

impl Default for Hook {
    fn default() -> Self {
        Self {
            address: String::new(),
            ca: PathBuf::new(),
            token_file: PathBuf::new(),
            timeout: Duration::from_secs(2),
            max_concurrent: 64,
            max_waiting: 1024,
            max_answer: Size::kib(64),
            fail: Fail::Closed,
            breaker_failures: 5,
            breaker_pause: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back_end(address: &str) -> Option<BackEnd> {
        Hook { address: address.to_owned(), ..Hook::default() }.back_end()
    }

    #[test]
    fn an_address_is_a_scheme_a_host_and_a_port() {
        for (address, tls, host, port) in [
            ("http://10.0.0.7:9000", false, "10.0.0.7", 9000),
            ("https://admission.example", true, "admission.example", 443),
            ("http://admission.example/", false, "admission.example", 80),
            ("https://[::1]:9443", true, "::1", 9443),
        ] {
            let found = back_end(address).unwrap_or_else(|| panic!("{address}"));
            assert_eq!((found.tls, found.host.as_str(), found.port), (tls, host, port));
            assert!(address.contains(&found.authority));
        }
        for wrong in [
            "",
            "admission.example:9000",
            "ftp://a",
            "http://",
            "http://a:0",
            "http://a:",
            "http://a:70000",
            "http://a/path",
            "http://a?query",
            "http://user:secret@a",
            "http:// a",
        ] {
            assert_eq!(back_end(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_on_this_machine_is_local() {
        for (address, local) in [
            ("http://localhost", true),
            ("http://127.0.0.1:1", true),
            ("http://[::1]", true),
            ("http://10.0.0.1", false),
            ("http://a.example", false),
        ] {
            assert_eq!(back_end(address).map(|it| it.is_local()), Some(local), "{address}");
        }
    }
}
