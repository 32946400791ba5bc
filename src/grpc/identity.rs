//! Who a caller is by its certificate, and whether that is still to be believed.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    pki_types::{CertificateDer, UnixTime},
    server::danger::ClientCertVerifier,
};

use crate::{config::InForce, tls};

/// A certificate that a caller showed, and the name in it.
pub(super) struct Identity {
    pub(super) name: Arc<str>,
    chain: Vec<CertificateDer<'static>>,
    /// What was judged last, and by whom: a signature costs too much to check it with each call.
    /// The lock is held for one judgement.
    judged: Mutex<Option<(Arc<dyn ClientCertVerifier>, bool)>>,
}

impl Identity {
    /// Takes what the peer showed in its handshake; none if it showed nothing.
    pub(super) fn of(connection: &rustls::ServerConnection) -> Option<Self> {
        let chain: Vec<_> =
            connection.peer_certificates()?.iter().map(|it| it.clone().into_owned()).collect();
        let name = tls::name(chain.first()?).into();
        Some(Self { name, chain, judged: Mutex::new(None) })
    }

    /// Whether an authority in `grpc.client_ca`, as it is in `config`, vouches for it.
    pub(super) fn is_trusted(&self, config: &InForce) -> bool {
        let Some(verifier) = config.material.grpc_tls.as_ref().and_then(tls::Server::verifier)
        else {
            return false;
        };
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        match &*judged {
            Some((by, trusted)) if Arc::ptr_eq(by, verifier) => *trusted,
            _ => {
                let trusted = self.verify(&**verifier);
                *judged = Some((Arc::clone(verifier), trusted));
                trusted
            }
        }
    }

    fn verify(&self, verifier: &dyn ClientCertVerifier) -> bool {
        let Some((own, above)) = self.chain.split_first() else {
            return false;
        };
        verifier.verify_client_cert(own, above, UnixTime::now()).is_ok()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.name).finish()
    }
}
