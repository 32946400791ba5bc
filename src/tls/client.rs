//! The other side of TLS: what the gateway trusts when it asks a server for something.

use std::{fmt, path::Path, sync::Arc};

use rustls::{RootCertStore, crypto::ring};

use super::{Error, Problem, Protocol, Role, read_authorities};

/// What a TLS handshake with a server works with. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    config: Arc<rustls::ClientConfig>,
    authorities: Arc<str>,
}

impl Client {
    /// Trusts the authorities in a PEM file, and nobody else.
    pub fn trusting(path: &Path) -> Result<Self, Error> {
        let blame = |problem| Error { role: Role::ServerCa, path: path.to_owned(), problem };
        let (authorities, store) = read_authorities(path).map_err(blame)?;
        Self::with(store, authorities.text()).map_err(blame)
    }

    /// Trusts whom this machine trusts.
    pub fn of_this_machine() -> Result<Self, String> {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        let (_, _) = store.add_parsable_certificates(found.certs);
        if store.is_empty() {
            let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
            return Err(format!(
                "this machine trusts no authorities{why}: install its certificates \
                 (ca-certificates), or name a PEM file"
            ));
        }
        let text = format!("{} authorities of this machine", store.len());
        Self::with(store, text).map_err(|problem| problem.to_string())
    }

    fn with(store: RootCertStore, authorities: String) -> Result<Self, Problem> {
        let provider = Arc::new(ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Problem::Refused(error.to_string()))?;
        let mut config = config.with_root_certificates(store).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), authorities: authorities.into() })
    }

    /// What rustls needs to ask a server.
    pub fn config(&self) -> Arc<rustls::ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Whom it trusts, in a few words.
    pub fn authorities(&self) -> &str {
        &self.authorities
    }

    /// The same, for servers that speak something else than HTTP/1.1.
    #[must_use]
    pub fn speaking(self, protocol: Protocol) -> Self {
        let mut config = rustls::ClientConfig::clone(&self.config);
        config.alpn_protocols = vec![protocol.alpn().to_vec()];
        Self { config: Arc::new(config), ..self }
    }

    /// Whether the other one was read at the same time as this one.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.authorities).finish()
    }
}
