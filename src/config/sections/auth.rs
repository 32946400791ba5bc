//! `[auth]`: who a client is.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    access::Algorithm,
    config::value::{Size, Words, span},
};

/// `[auth]`: who a client is, by the token that it brings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// Algorithms by which a token may be signed; none is no look at tokens.
    pub algorithms: Words,
    /// File of the key: public keys as PEM, or a secret.
    pub key: PathBuf,
    /// File or URL of a JSON Web Key Set.
    pub jwks: String,
    /// PEM file of the authorities that the server of the URL is certified by; empty is those that
    /// this machine trusts.
    pub jwks_ca: PathBuf,
    /// How often the URL is asked.
    #[serde(with = "span")]
    pub jwks_refresh: Duration,
    /// Time from one question to the next, at least.
    #[serde(with = "span")]
    pub jwks_retry: Duration,
    /// Time for an answer.
    #[serde(with = "span")]
    pub jwks_timeout: Duration,
    /// Bytes of an answer.
    pub jwks_max_bytes: Size,
    /// Whether who brings no token is refused.
    pub required: bool,
    /// Who may have issued a token (`iss`); none is anybody who has the key.
    pub issuers: Words,
    /// For whom a token may be (`aud`).
    pub audiences: Words,
    /// How far the clock of who issues tokens may be from ours.
    #[serde(with = "span")]
    pub leeway: Duration,
    /// The claim that is the client's uid; empty is none.
    pub uid_claim: String,
    /// The claim that names the groups that the client joins; empty is none.
    pub groups_claim: String,
    /// The claim that holds the client's attributes; empty is none.
    pub attributes_claim: String,
    /// Where a token may stand; the first of them that has one counts.
    pub sources: Words,
    /// The name of the cookie.
    pub cookie: String,
    /// The name of the query parameter.
    pub query_parameter: String,
    /// Bytes of a token.
    pub max_token: Size,
    /// Clients that may come with the same uid; zero is any number.
    pub max_clients_per_uid: usize,
    /// What happens to one more.
    pub when_uid_is_full: WhenUidIsFull,
}

/// What happens when a client comes with a uid of which there are as many as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenUidIsFull {
    /// It is refused.
    Refuse,
    /// The one that came first is closed with 3001.
    CloseOldest,
}

impl Auth {
    /// The places where a token may stand, as the configuration names them.
    pub const SOURCES: [&'static str; 4] = ["header", "protocol", "cookie", "query"];

    /// Whether tokens are looked at.
    pub fn is_on(&self) -> bool {
        !self.algorithms.0.is_empty()
    }

    /// Whether a token may be signed by this algorithm.
    pub fn allows(&self, algorithm: Algorithm) -> bool {
        self.algorithms.0.iter().any(|name| name == algorithm.name())
    }

    /// Whether a token may stand there.
    pub fn takes_from(&self, source: &str) -> bool {
        self.is_on() && self.sources.0.iter().any(|name| name == source)
    }

    /// The algorithms; names that are none are left out.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        self.algorithms.0.iter().filter_map(|name| Algorithm::of(name)).collect()
    }

    /// The URL of the key set, if it is one.
    pub fn jwks_url(&self) -> Option<&str> {
        Some(self.jwks.as_str()).filter(|jwks| jwks.contains("://"))
    }

    /// The file of the key set, if it is one.
    pub fn jwks_file(&self) -> Option<&Path> {
        let is_file = !self.jwks.is_empty() && self.jwks_url().is_none();
        is_file.then(|| Path::new(&self.jwks))
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            algorithms: Words::default(),
            key: PathBuf::new(),
            jwks: String::new(),
            jwks_ca: PathBuf::new(),
            jwks_refresh: Duration::from_mins(10),
            jwks_retry: Duration::from_secs(10),
            jwks_timeout: Duration::from_secs(5),
            jwks_max_bytes: Size::kib(256),
            required: true,
            issuers: Words::default(),
            audiences: Words::default(),
            leeway: Duration::from_secs(30),
            uid_claim: "sub".to_owned(),
            groups_claim: String::new(),
            attributes_claim: String::new(),
            sources: Words(vec!["header".to_owned(), "protocol".to_owned()]),
            cookie: "access_token".to_owned(),
            query_parameter: "access_token".to_owned(),
            max_token: Size::kib(8),
            max_clients_per_uid: 0,
            when_uid_is_full: WhenUidIsFull::Refuse,
        }
    }
}
