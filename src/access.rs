//! Who calls: the tokens that let a caller in, the one that lets us in elsewhere, and the names that
//! the log knows callers by; and the keys by which the tokens of clients are verified.
//!
//! Nothing here decides what a caller may do; who may call may do everything.

mod algorithm;
mod jwk;
mod key;
mod keys;
mod secret;
mod tokens;

use std::{fmt, net::SocketAddr, sync::Arc};

pub use algorithm::Algorithm;
pub use key::KeyProblem;
pub use keys::{KeyError, Keys, Verdict};
pub use secret::Secret;
pub use tokens::{TokenError, TokenId, Tokens};

/// Target of the log lines that say who did what can't be undone; they are at the level `info`.
pub const AUDIT: &str = concat!(env!("CARGO_CRATE_NAME"), "::audit");

/// Who asks for something, as the log names it. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A business system.
    Remote {
        /// Where it calls from.
        address: SocketAddr,
        /// The name of the token that it brought, if it had to bring one.
        token: Option<Arc<str>>,
        /// The name in its certificate, if it had to show one.
        certificate: Option<Arc<str>>,
    },
    /// A process on this machine, over the control socket.
    Local {
        /// Its user.
        uid: u32,
        /// Its number, where the system tells.
        pid: Option<u32>,
    },
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Remote { address, token, certificate } => {
                write!(f, "{address}")?;
                if let Some(token) = token {
                    write!(f, " token {token:?}")?;
                }
                if let Some(certificate) = certificate {
                    // Whoever signs certificates chooses what stands there.
                    write!(f, " certificate {certificate:?}")?;
                }
                Ok(())
            }
            Self::Local { uid, pid: Some(pid) } => write!(f, "uid {uid} pid {pid}"),
            Self::Local { uid, pid: None } => write!(f, "uid {uid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_named_by_all_that_is_known_of_it() {
        let address = "[2001:db8::1]:4711".parse().unwrap();
        let remote = |token: Option<&str>, certificate: Option<&str>| Caller::Remote {
            address,
            token: token.map(Arc::from),
            certificate: certificate.map(Arc::from),
        };
        for (caller, name) in [
            (remote(None, None), "[2001:db8::1]:4711"),
            (remote(Some("billing"), None), "[2001:db8::1]:4711 token \"billing\""),
            (remote(None, Some("a\n\"b\"")), r#"[2001:db8::1]:4711 certificate "a\n\"b\"""#),
            (Caller::Local { uid: 0, pid: Some(17) }, "uid 0 pid 17"),
            (Caller::Local { uid: 7, pid: None }, "uid 7"),
        ] {
            assert_eq!(caller.to_string(), name);
        }
    }
}
