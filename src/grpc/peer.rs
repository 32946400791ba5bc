//! Who is at the other end of a connection, and whether it may still be there.
//!
//! What let a connection or a call in is compared with each configuration that comes into force:
//! an address that is no longer allowed, a token that is gone, a certificate of an authority that
//! is trusted no more end what they had opened.

use std::{net::SocketAddr, sync::Arc};

use tonic::Status;

use super::identity::Identity;
use crate::{
    access::{Caller, TokenId},
    config::{InForce, Live, Swaps},
};

/// The other end of a connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// Who it is by its certificate, if it showed one.
    pub(super) identity: Option<Identity>,
}

/// What let a call in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    /// It needs nothing: health.
    Exempt,
    /// No token was asked for.
    Open,
    /// This token.
    Token(TokenId),
}

/// Why a peer or a call may not be there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unwelcome {
    /// `grpc.allow` doesn't list the address.
    #[error("this address is not in grpc.allow")]
    Address,
    /// Nothing says who may call from other machines.
    #[error(
        "only this machine may call, as none of grpc.allow, grpc.token_files, grpc.client_ca and \
         grpc.unprotected is set"
    )]
    Remote,
    /// `grpc.client_ca` doesn't vouch for the peer.
    #[error("a certificate of an authority in grpc.client_ca is needed")]
    Certificate,
    /// The token is in none of `grpc.token_files`, or there is none. It is the same words for all
    /// that can be wrong with it.
    #[error(
        "a valid token is needed: send the metadata \"authorization: Bearer TOKEN\" with one of \
         the tokens in grpc.token_files"
    )]
    Token,
}

impl Unwelcome {
    pub(super) fn status(self) -> Status {
        match self {
            // Another gateway may be more welcoming, and the next reload may be.
            Self::Address | Self::Remote | Self::Certificate => {
                Status::unavailable(self.to_string())
            }
            Self::Token => Status::unauthenticated(self.to_string()),
        }
    }
}

/// Whether somebody may connect from there.
pub(super) fn check_address(address: SocketAddr, config: &InForce) -> Result<(), Unwelcome> {
    let grpc = &config.grpc;
    let address = address.ip().to_canonical();
    if !grpc.allow.is_empty() {
        return if grpc.allow.contains(address) { Ok(()) } else { Err(Unwelcome::Address) };
    }
    let guarded = !grpc.token_files.0.is_empty() || !grpc.client_ca.as_os_str().is_empty();
    if guarded || grpc.unprotected || address.is_loopback() {
        return Ok(());
    }
    // The settings are refused if they open more than this; but a listener that systemd opened is
    // none of theirs, and one that a reload closes may still have somebody waiting.
    Err(Unwelcome::Remote)
}

impl Peer {
    /// Whether the peer may be connected by the rules of `config`.
    pub(super) fn check(&self, config: &InForce) -> Result<(), Unwelcome> {
        check_address(self.address, config)?;
        if !config.grpc.client_ca.as_os_str().is_empty() {
            let identity = self.identity.as_ref().ok_or(Unwelcome::Certificate)?;
            if !identity.is_trusted(config) {
                return Err(Unwelcome::Certificate);
            }
        }
        Ok(())
    }

    /// What lets a call with this token in, and what the log knows the caller by.
    pub(super) fn admit(
        &self,
        exempt: bool,
        token: Option<&[u8]>,
        config: &InForce,
    ) -> Result<(Grant, Caller), Unwelcome> {
        self.check(config)?;
        let (grant, token) = if exempt {
            (Grant::Exempt, None)
        } else if config.grpc.token_files.0.is_empty() {
            (Grant::Open, None)
        } else {
            let found = token.and_then(|token| config.material.callers.find(token));
            let (id, name) = found.ok_or(Unwelcome::Token)?;
            (Grant::Token(id), Some(name))
        };
        let certificate = self.identity.as_ref().map(|identity| Arc::clone(&identity.name));
        Ok((grant, Caller::Remote { address: self.address, token, certificate }))
    }

    /// Waits until the peer, or a call that `grant` let in, is not welcome any more.
    pub(super) async fn unwelcome(&self, grant: Grant, live: &Live, mut swaps: Swaps) -> Unwelcome {
        loop {
            let config = live.snapshot();
            if let Err(why) = self.check(&config).and_then(|()| grant.check(&config)) {
                return why;
            }
            drop(config);
            swaps.next().await;
        }
    }
}

impl Grant {
    /// Whether a call may go on by the rules of `config`.
    fn check(self, config: &InForce) -> Result<(), Unwelcome> {
        let asked = !config.grpc.token_files.0.is_empty();
        match self {
            Self::Open if asked => Err(Unwelcome::Token),
            Self::Token(id) if asked && !config.material.callers.holds(id) => Err(Unwelcome::Token),
            Self::Exempt | Self::Open | Self::Token(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Grpc, value::Networks, value::Words};

    fn from(address: &str, change: impl FnOnce(&mut Grpc)) -> Result<(), Unwelcome> {
        let mut config = Config::default();
        change(&mut config.grpc);
        let address = SocketAddr::new(address.parse().unwrap(), 4711);
        check_address(address, &config.into())
    }

    #[test]
    fn who_is_listed_may_connect_and_nobody_else() {
        let list = |grpc: &mut Grpc| grpc.allow = Networks::of("10.1.0.0/16, 2001:db8::/48");
        for listed in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::7"] {
            assert_eq!(from(listed, list), Ok(()), "{listed}");
        }
        for other in ["10.2.0.1", "::ffff:10.2.0.1", "2001:db8:1::7", "127.0.0.1", "::1"] {
            assert_eq!(from(other, list), Err(Unwelcome::Address), "{other}");
        }
    }

    #[test]
    fn without_any_guard_only_this_machine_may_connect() {
        for near in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(from(near, |_| {}), Ok(()), "{near}");
        }
        for far in ["10.0.0.1", "::ffff:10.0.0.1", "2001:db8::7"] {
            assert_eq!(from(far, |_| {}), Err(Unwelcome::Remote), "{far}");
            assert_eq!(from(far, |grpc| grpc.unprotected = true), Ok(()), "{far}");
            assert_eq!(from(far, |grpc| grpc.token_files = Words(vec!["t".into()])), Ok(()));
            assert_eq!(from(far, |grpc| grpc.client_ca = "/ca".into()), Ok(()), "{far}");
        }
    }
}
